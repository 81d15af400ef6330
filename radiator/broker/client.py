"""One connection as the broker sees it: its subscriptions, its window, what it holds, its transactions.

    delivered ─▶ held ──ACK──▶ settled in a unit            (its place in the window is free at once)
                  │ └─ACK in a transaction─▶ acked ──COMMIT─▶ settled   ABORT ─▶ held again
                  ├──NACK──▶ back at its old place, or a dead letter    (in a transaction: at COMMIT)
                  └──UNSUBSCRIBE, connection lost──▶ like a NACK

It must never know a frame or a socket; a method that raises has changed nothing. It is longer than others because
window, held messages and transactions change together, and a call more per message would be the price of a split.
Called by: the session (every public method), `broker.queue` (`choose`, `hold`), `broker.topic` (`fail`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from radiator.broker.graveyard import Doomed, Ticket, drop
from radiator.broker.queue import Queue, Seat
from radiator.broker.subscription import QueueSubscription, Subscription, TopicSubscription
from radiator.broker.topic import Topic
from radiator.broker.transaction import OPERATION_BYTES, Transaction
from radiator.errors import Refused
from radiator.store.base import Reason, Unit

if TYPE_CHECKING:
    from radiator.broker.broker import Broker
    from radiator.broker.peer import Peer
    from radiator.message import Delivery, Message

__all__ = ["Client", "QueueSubscription", "Subscription", "TopicSubscription"]

ACK_MODES = ("auto", "client", "client-individual")

Key = str | tuple[str | None]
"""A subscription's id, or (its destination,) where STOMP 1.0 gave it none."""


class Client:
    """One connection. Not thread-safe, like all of the broker.

    `last_unit` is the number of the last unit it appended to the file store, 0 before the first. `held` is what it
    holds by ack number, in order of delivery; `window` the largest prefetch of its live queue subscriptions. Those are
    in the order of their SUBSCRIBEs; `cursor` stands behind the one delivered to last. `missed` are the seats that a
    ring passed over for want of room.
    """

    __slots__ = (
        "ack",
        "broker",
        "by_message",
        "closed",
        "cursor",
        "failed",
        "held",
        "last_unit",
        "missed",
        "peer",
        "promised",
        "punched",
        "queue_subscriptions",
        "subscriptions",
        "tickets",
        "transactions",
        "window",
    )

    def __init__(self, broker: Broker, peer: Peer) -> None:
        self.broker = broker
        self.peer = peer
        self.last_unit = 0
        self.ack = 0
        self.held: dict[int, Delivery] = {}
        self.by_message: dict[tuple[int, int], Delivery] | None = None
        self.window = 0
        self.cursor = 0
        self.queue_subscriptions: list[QueueSubscription] = []
        self.subscriptions: dict[Key, Subscription] = {}
        self.missed: list[Seat] = []
        self.promised: set[int] | None = None
        self.transactions: dict[str, Transaction] | None = None
        self.tickets: deque[Ticket] | None = None
        self.punched = 0
        self.failed = False
        self.closed = False

    @property
    def holds(self) -> int:
        """How many messages it holds un-ACKed."""
        return len(self.held)

    # -- sending

    def send(self, destination: str, message: Message, transaction: str | None = None) -> None:
        """SEND: put or publish `message`, or keep it for the COMMIT of `transaction`.

        Refused: no such destination, a limit. StoreBusy, TurnSpent: not at the moment, try the same call again.
        """
        broker = self.broker
        target = broker.targets.get(destination) or broker.create(destination)
        if transaction is None:
            number = target.put(message)
            if number > self.last_unit:
                self.note(number)
            return
        opened = self._transaction(transaction)
        queue = target if isinstance(target, Queue) else None
        if queue is not None and queue.refusal:
            raise Refused(queue.refusal)
        self._buffer(opened, len(message.block) + len(message.body) + OPERATION_BYTES)
        if queue is not None:
            queue.promised += 1
        opened.sends.append((target, message))

    def note(self, number: int) -> None:
        """This connection's receipts wait for `number` from now on."""
        if number > self.last_unit:
            self.last_unit = number
            self.broker.waiters.append((number, self))

    def receipt_mark(self) -> tuple[int, Ticket | None]:
        """What a receipt that is due now must wait for, to be given to `Broker.reached`."""
        return self.last_unit, self.tickets[-1] if self.tickets else None

    def punch(self) -> None:
        """Number the tickets that are resolved, in their order; receipts may leave."""
        tickets = self.tickets
        while tickets and tickets[0].result is not None:
            ticket = tickets.popleft()
            self.punched = ticket.number = max(ticket.result or 0, self.punched)
            self.note(ticket.number)
        if self.punched <= self.broker.committed:
            self.peer.release_receipts(self.broker.committed)

    # -- subscriptions

    def subscribe(
        self, id: str | None, destination: str, ack: str, prefetch: int | None = None, wire_id: bytes | None = None
    ) -> None:
        """SUBSCRIBE, or a new window for the subscription of that id (without one: of that destination).

        `prefetch` is in messages, 1 where None, capped at `max_prefetch`. Refused: no such destination, a fanout, a
        limit, an id in use for something else, an unknown `ack`. StoreBusy: try the same call again.
        """
        if ack not in ACK_MODES:
            raise Refused(f"ack must be auto, client or client-individual, not {ack!a}")
        if prefetch is not None and prefetch < 1:
            raise Refused(f"the prefetch must be at least 1, not {prefetch}")
        window = min(prefetch or 1, self.broker.config.max_prefetch)
        key: Key = (destination,) if id is None else id
        known = self.subscriptions.get(key)
        if known is not None:
            if known.destination != destination or known.ack != ack:
                raise Refused(f"subscription {id or destination!a} is in use for another destination or ack")
            known.prefetch = window
            self._measure()
            return
        limit = self.broker.config.limits.subscriptions
        if len(self.subscriptions) >= limit:
            raise Refused(f"too many subscriptions: limits.subscriptions is {limit}")
        target = self.broker.consumable(destination)
        if isinstance(target, Topic):
            listener = TopicSubscription(self, id, wire_id, destination, ack, window, target)
            target.subscriptions.append(listener)
            self.subscriptions[key] = listener
            return
        seat = target.sit(self)
        subscription = QueueSubscription(self, id, wire_id, destination, ack, window, target, seat)
        seat.subscriptions.append(subscription)
        seat.auto = seat.auto or subscription.auto
        self.queue_subscriptions.append(subscription)
        self.subscriptions[key] = subscription
        self._measure()

    def unsubscribe(self, id: str | None, destination: str | None = None) -> None:
        """UNSUBSCRIBE by id, or (STOMP 1.0) by destination: what it held goes back. Refused where there is none."""
        key: Key = (destination,) if id is None else id
        if key not in self.subscriptions:
            found = [k for k, s in self.subscriptions.items() if id is None and s.destination == destination]
            if len(found) != 1:
                raise Refused(f"there is no subscription {id or destination or ''!a}")
            key = found[0]
        subscription = self.subscriptions.pop(key)
        self._end(subscription)
        self._give_back([held for held in self.held.values() if held.subscription is subscription])
        self._measure()

    def _end(self, subscription: Subscription) -> None:
        """Take `subscription` out of all rings."""
        if isinstance(subscription, TopicSubscription):
            topic = subscription.topic
            topic.subscriptions.remove(subscription)
            self.broker.forsake(topic)
        elif isinstance(subscription, QueueSubscription):
            seat = subscription.seat
            seat.subscriptions.remove(subscription)
            seat.auto = any(left.auto for left in seat.subscriptions)
            if not seat.subscriptions:
                seat.queue.leave(seat)
                if seat in self.missed:
                    self.missed.remove(seat)
            place = self.queue_subscriptions.index(subscription)
            del self.queue_subscriptions[place]
            if place < self.cursor:
                self.cursor -= 1

    def _measure(self) -> None:
        """The window is the largest prefetch of the live queue subscriptions; there may be room now."""
        self.window = max((s.prefetch for s in self.queue_subscriptions if not s.auto), default=0)
        if self.missed:
            self.regain()

    # -- flow control

    def choose(self, seat: Seat) -> QueueSubscription | None:
        """The subscription that takes the next message, now that the queue of `seat` chose this connection.

        It is the next in this connection's own ring that has room and a message, so it may be one of another queue.
        None where this connection has no room for the queue of `seat`; that its output is under the mark has been seen
        to. Hot.
        """
        if not seat.subscriptions:
            return None
        ring = self.queue_subscriptions
        free = len(self.held) < self.window
        if len(ring) == 1:
            only = ring[0]
            if free or only.auto:
                self.cursor = 1
                return only
            return None
        for mine in seat.subscriptions:
            if mine.auto or (free and mine.count < mine.prefetch):
                break
        else:
            return None
        queue = seat.queue
        size = len(ring)
        place = self.cursor
        for _ in range(size):
            if place >= size:
                place = 0
            next_one = ring[place]
            place += 1
            if next_one.auto or (free and next_one.count < next_one.prefetch):
                other = next_one.queue
                if other is queue or other.local or (other.dirty and other.claim()):
                    self.cursor = place
                    return next_one
        return None  # only where what the chosen queue had was buried meanwhile

    def hold(self, subscription: QueueSubscription, delivery: Delivery) -> None:
        """`delivery` was claimed for `subscription`: give it to the peer. Hot."""
        self.ack = ack = self.ack + 1
        delivery.ack = ack
        delivery.subscription = subscription
        if not subscription.auto:
            self.held[ack] = delivery
            subscription.count += 1
            if subscription.order is not None:
                subscription.order[ack] = delivery
            if self.by_message is not None:
                self.by_message[delivery.queue.number, delivery.id] = delivery
        self.peer.deliver(subscription, delivery)

    def next_ack(self) -> int:
        """An ack number for a message that is never held: a topic's."""
        self.ack += 1
        return self.ack

    def regain(self) -> None:
        """There may be room again: back into the rings that passed this connection over."""
        missed = self.missed
        self.missed = []
        for seat in missed:
            seat.queue.enlist(seat)

    def output_drained(self) -> None:
        """The unsent output fell under the mark: messages may be delivered again."""
        if self.missed:
            self.regain()

    # -- settling

    def find_ack(self, ack: int) -> Delivery | None:
        """The held message of that ack number (STOMP 1.2); None where it is not held any more."""
        if self.promised and ack in self.promised:
            return None
        return self.held.get(ack)

    def find_message(self, queue: int, id: int, subscription_id: str | None = None) -> Delivery | None:
        """The held message of that message-id (STOMP 1.0 and 1.1), of that subscription where one is named."""
        by_message = self.by_message
        if by_message is None:
            by_message = self.by_message = {(held.queue.number, held.id): held for held in self.held.values()}
        found = by_message.get((queue, id))
        if found is None or (self.promised and found.ack in self.promised):
            return None
        if subscription_id is not None and found.subscription.id != subscription_id:
            return None
        return found

    def settle(
        self, delivery: Delivery, *, positive: bool, requeue: bool = True, transaction: str | None = None
    ) -> None:
        """ACK (`positive`) or NACK `delivery`, which `find_ack` or `find_message` found; cumulative in `ack:client`.

        Its place in the window is free at once, in a transaction too; a NACK in a transaction acts at COMMIT.
        Refused: no such transaction, its limit. Hot without a transaction.
        """
        subscription: QueueSubscription = delivery.subscription
        if positive and transaction is None:
            queue = subscription.queue
            if subscription.order is None:
                if self.held.pop(delivery.ack, None) is None:
                    return
                subscription.count -= 1
                if self.by_message is not None:
                    del self.by_message[delivery.queue.number, delivery.id]
                queue.acked += 1
                number = queue.store.settle(delivery.queue, delivery.id)
            else:
                unit = Unit()
                for each in self._named(delivery):
                    self._let_go(each)
                    unit.settled.append((each.queue, each.id, Reason.ACKED))
                    queue.acked += 1
                number = queue.store.append(unit)
            if number > self.last_unit:
                self.note(number)
            if self.missed:
                self.regain()
            return
        opened = None if transaction is None else self._transaction(transaction)
        named = self._named(delivery)
        if opened is None:
            self._reject([(each, requeue) for each in named])
            return
        self._buffer(opened, OPERATION_BYTES * len(named))
        if positive:
            for each in named:
                self._let_go(each)
            opened.acked.extend(named)
            if self.missed:
                self.regain()
        else:
            if self.promised is None:
                self.promised = set()
            self.promised.update(each.ack for each in named)
            opened.nacked.extend((each, requeue) for each in named)

    def taken(self, deliveries: Iterable[Delivery]) -> None:
        """The kernel took the bytes of these `ack:auto` deliveries: they are settled."""
        units: dict[Queue, Unit] = {}
        for delivery in deliveries:
            queue = delivery.subscription.queue
            unit = units.get(queue)
            if unit is None:
                unit = units[queue] = Unit()
            unit.settled.append((delivery.queue, delivery.id, Reason.ACKED))
            queue.acked += 1
        # No receipt waits for these: nobody promised their consumer anything.
        for queue, unit in units.items():
            queue.store.append(unit)

    def untaken(self, deliveries: Iterable[Delivery]) -> None:
        """These `ack:auto` deliveries never reached the socket: back to their places, as if never delivered."""
        for queue, group in _by_queue(deliveries).items():
            queue.give_back([delivery.id for delivery in group], False)

    def _named(self, delivery: Delivery) -> list[Delivery]:
        """What an ACK or NACK of `delivery` settles: it alone, or with all delivered before it on its subscription."""
        order = delivery.subscription.order
        if order is None:
            return [delivery]
        promised = self.promised or ()
        named = []
        for ack, each in order.items():
            if ack > delivery.ack:
                break
            if ack not in promised:
                named.append(each)
        return named

    def _let_go(self, delivery: Delivery) -> None:
        """`delivery` is held no more: its place is free."""
        subscription = delivery.subscription
        del self.held[delivery.ack]
        subscription.count -= 1
        if subscription.order is not None:
            del subscription.order[delivery.ack]
        if self.by_message is not None:
            del self.by_message[delivery.queue.number, delivery.id]
        if self.promised:
            self.promised.discard(delivery.ack)

    def _reject(self, rejected: list[tuple[Delivery, bool]]) -> None:
        """NACK: back to their places, or to the dead letters; this consumer stands behind all others now."""
        back = []
        for delivery, requeue in rejected:
            subscription = delivery.subscription
            if subscription.seat.subscriptions:
                subscription.queue.to_end(subscription.seat)
            if requeue:
                back.append(delivery)
                continue
            self._let_go(delivery)
            self._bury(delivery, "nacked", Ticket(self))
        self._give_back(back)
        if self.missed:
            self.regain()

    def _give_back(self, deliveries: list[Delivery]) -> None:
        """Back to their old places with their delivery counts raised; what was delivered too often is buried."""
        for delivery in deliveries:
            self._let_go(delivery)
        for queue, group in _by_queue(deliveries).items():
            most = queue.max_deliveries
            ids = []
            for delivery in group:
                if most is not None and delivery.deliveries + 1 >= most:
                    self._bury(delivery, "max-deliveries", Ticket(self))
                else:
                    ids.append(delivery.id)
            if ids:
                queue.give_back(ids, True)

    def _bury(self, delivery: Delivery, reason: str, ticket: Ticket) -> None:
        """`delivery` becomes a dead letter at the end of the turn, or is dropped now where its queue has none."""
        queue = delivery.subscription.queue
        if queue.dead_letter is None:
            self.note(drop(queue, delivery.id, reason))
            return
        if self.tickets is None:
            self.tickets = deque()
        self.tickets.append(ticket)
        queue.doom(Doomed(delivery.id, delivery.deliveries + 1, reason, ticket))

    # -- transactions

    def begin(self, name: str) -> None:
        """BEGIN. Refused: the name is in use, `limits.transactions`."""
        if self.transactions is None:
            self.transactions = {}
        if name in self.transactions:
            raise Refused(f"transaction {name!a} has begun already")
        limit = self.broker.config.limits.transactions
        if len(self.transactions) >= limit:
            raise Refused(f"too many transactions: limits.transactions is {limit}")
        self.transactions[name] = Transaction()

    def commit(self, name: str) -> None:
        """COMMIT: SENDs and ACKs in one piece, then the NACKs, each on its own; receipts wait for all of it.

        Refused: no such transaction, a full queue. StoreBusy, TurnSpent: try it again. Either way nothing happened.
        """
        opened = self._transaction(name)
        self.note(self.broker.commit(opened.parts()))
        self._forget(name)
        for delivery in opened.acked:
            delivery.subscription.queue.acked += 1
        # A subscription that ended meanwhile has given its messages back already.
        self._reject([(delivery, requeue) for delivery, requeue in opened.nacked if delivery.ack in self.held])

    def abort(self, name: str) -> None:
        """ABORT: nothing was sent, and what was ACKed is held again. Refused: no such transaction."""
        opened = self._transaction(name)
        self._forget(name)
        if self.promised:
            self.promised.difference_update(delivery.ack for delivery, _ in opened.nacked)
        orphans = []
        cumulative = set()
        for delivery in opened.acked:
            subscription = delivery.subscription
            self.held[delivery.ack] = delivery
            subscription.count += 1
            if subscription.order is not None:
                subscription.order[delivery.ack] = delivery
                cumulative.add(subscription)
            if self.by_message is not None:
                self.by_message[delivery.queue.number, delivery.id] = delivery
            if subscription not in subscription.seat.subscriptions:
                orphans.append(delivery)
        for subscription in cumulative:
            # Cumulative ACKs go by the order of delivery.
            subscription.order = dict(sorted(subscription.order.items()))
        self._give_back(orphans)

    def _transaction(self, name: str) -> Transaction:
        found = self.transactions.get(name) if self.transactions else None
        if found is None:
            raise Refused(f"transaction {name!a} has not begun")
        return found

    def _buffer(self, transaction: Transaction, size: int) -> None:
        """Count `size` bytes more. Refused where `transaction` would hold too many."""
        limit = self.broker.config.limits.transaction
        if transaction.buffered + size > limit:
            raise Refused(f"the transaction is too large: limits.transaction is {limit} bytes")
        transaction.buffered += size

    def _forget(self, name: str) -> None:
        """The transaction has ended."""
        assert self.transactions is not None
        for target, _ in self.transactions.pop(name).sends:
            if isinstance(target, Queue):
                target.promised -= 1

    # -- the end

    def fail(self, text: str) -> None:
        """End this connection with an ERROR; the broker closes its side with the next dispatch."""
        if not self.failed:
            self.failed = True
            self.peer.fail(text)
            self.broker.close_later(self)

    def close(self) -> None:
        """The connection is gone: transactions are aborted, subscriptions end, everything held goes back."""
        if self.closed:
            return
        self.closed = True
        subscriptions = list(self.subscriptions.values())
        self.subscriptions.clear()
        for subscription in subscriptions:
            self._end(subscription)
        for name in list(self.transactions or ()):
            self.abort(name)
        self._give_back(list(self.held.values()))
        self.missed.clear()
        self.broker.clients.discard(self)


def _by_queue(deliveries: Iterable[Delivery]) -> dict[Queue, list[Delivery]]:
    groups: dict[Queue, list[Delivery]] = {}
    for delivery in deliveries:
        groups.setdefault(delivery.subscription.queue, []).append(delivery)
    return groups
