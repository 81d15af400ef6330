"""A queue as the broker sees it: who consumes it, in which order, and handing its ready messages out.

    ring (a heap by stamp): the connections that may have room, least recently delivered first
      │ a delivery stamps the connection anew: it stands behind all others
      │ one found without room leaves the ring and remembers in `Client.missed` that it was passed over
      └ when it has room again, it comes back with its old stamp (a ring moves only on delivery)

So a consumer without room costs nothing per message, however many of them there are. It must never deliver outside of
`Broker.dispatch`, and never keep a message of its own beyond it.
Called by: `broker.broker` (dispatch), `broker.client` (SEND, SUBSCRIBE, settlements), the store (`on_ready`).
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING

from radiator.broker.graveyard import Doomed, bury
from radiator.broker.transaction import Parts
from radiator.errors import Refused

if TYPE_CHECKING:
    from radiator.broker.broker import Broker
    from radiator.broker.client import Client
    from radiator.broker.subscription import QueueSubscription
    from radiator.message import Delivery, Message
    from radiator.store.base import Store, StoreQueue

__all__ = ["CLAIM_BYTES", "OUTPUT_MARK", "Queue", "Seat"]

OUTPUT_MARK = 256 << 10
"""Bytes of unsent output from which on a connection gets no more of any queue's messages."""

CLAIM_BYTES = 1 << 20
"""Bytes of bodies that one claim may bring into memory; a larger message comes alone."""

CLAIM_COUNT = 1024
AUTO_CLAIM = 256


class Seat:
    """One connection's place in the ring of one queue, whatever the number of its subscriptions there.

    `stamp` grows with each delivery; `listed` says that the ring has an entry for it, whose stamp may be an older one;
    `auto` that one of its subscriptions needs no place in the window.
    """

    __slots__ = ("auto", "client", "listed", "queue", "stamp", "subscriptions")

    def __init__(self, client: Client, queue: Queue, stamp: int) -> None:
        self.client = client
        self.queue = queue
        self.stamp = stamp
        self.listed = False
        self.auto = False
        self.subscriptions: list[QueueSubscription] = []


class Queue:
    """One queue: its settings, its side in a store, its consumers.

    `refusal` is why nobody may send to it (empty: everybody may). `waiting` says that the store may have ready messages
    that found no consumer; `dirty` that the queue stands in the broker's list of those to hand out; `stuck` that its
    dead letters were refused, and stay in flight until the broker lets them be tried again. `promised` counts the SENDs
    to it in open transactions.
    """

    __slots__ = (
        "acked",
        "broker",
        "dead_letter",
        "dead_lettered",
        "delivered",
        "dirty",
        "doomed",
        "dropped",
        "handle",
        "handles",
        "local",
        "max_deliveries",
        "name",
        "persistent",
        "promised",
        "put_count",
        "refusal",
        "returned",
        "ring",
        "seats",
        "stale",
        "stamp",
        "store",
        "stuck",
        "waiting",
    )

    def __init__(
        self,
        broker: Broker,
        name: str,
        store: Store,
        handle: StoreQueue,
        *,
        persistent: bool,
        max_deliveries: int | None = None,
        dead_letter: str | None = None,
        refusal: str = "",
    ) -> None:
        self.broker = broker
        self.name = name
        self.store = store
        self.handle = handle
        self.handles = (handle,)
        self.persistent = persistent
        self.max_deliveries = max_deliveries
        self.dead_letter = dead_letter
        self.refusal = refusal
        self.ring: list[tuple[int, Seat]] = []
        self.seats: dict[Client, Seat] = {}
        self.local: deque[Delivery] = deque()
        self.doomed: deque[Doomed] = deque()
        self.waiting = True
        self.dirty = False
        self.stuck = False
        self.stamp = 0
        self.stale = 0
        self.promised = 0
        self.put_count = self.delivered = self.acked = self.returned = self.dead_lettered = self.dropped = 0
        handle.on_ready = self.on_ready

    # -- in

    def put(self, message: Message) -> int:
        """Put `message`; the number at which it is durable, 0 in memory. Refused, StoreBusy: nothing happened."""
        if self.refusal:
            raise Refused(self.refusal)
        if not self.persistent and self.handle.reserved_messages:  # type: ignore[attr-defined]
            # What its sender sent before is still waiting for the disk: never overtake it.
            parts = Parts()
            self.stage(message, parts)
            return self.broker.commit(parts)
        number = self.store.put(self.handle, message)
        self.put_count += 1
        return number

    def stage(self, message: Message, parts: Parts) -> None:
        """Let `message` be put with the rest of a unit. Refused where nobody may send here."""
        if self.refusal:
            raise Refused(self.refusal)
        parts.put(message, self.handles, self.persistent)

    def on_ready(self) -> None:
        """The store has messages that it did not have."""
        self.waiting = True
        if not self.dirty and (self.ring or self.doomed):
            self.mark()

    @property
    def is_idle(self) -> bool:
        """Does nobody consume it, is nothing in it, and nothing on its way to it or out of it?"""
        handle = self.handle
        waiting = handle.ready or handle.in_flight or handle.pending or self.promised or self.doomed
        return not (waiting or self.seats)

    def mark(self) -> None:
        """Let the next dispatch hand out what there is."""
        if not self.dirty:
            self.dirty = True
            self.broker.mark(self)

    # -- consumers

    def sit(self, client: Client) -> Seat:
        """The seat of `client`, at the ring's end where it is a new one."""
        seat = self.seats.get(client)
        if seat is None:
            self.stamp += 1
            seat = self.seats[client] = Seat(client, self, self.stamp)
        self.enlist(seat)
        return seat

    def enlist(self, seat: Seat) -> None:
        """Bring a seat (back) into the ring, at its own place."""
        if not seat.listed:
            seat.listed = True
            heappush(self.ring, (seat.stamp, seat))
        if self.waiting and not self.dirty:
            self.mark()

    def leave(self, seat: Seat) -> None:
        """`seat` has lost its last subscription."""
        del self.seats[seat.client]
        if seat.listed:
            # Its entry stays in the ring until it is met; many of them are cleared in one go.
            self.stale += 1
            if self.stale > 16 and self.stale * 2 > len(self.ring):
                self.ring = [entry for entry in self.ring if entry[1].subscriptions]
                heapify(self.ring)
                self.stale = 0
        if not self.seats:
            self.broker.forsake(self)

    def to_end(self, seat: Seat) -> None:
        """Let `seat` stand behind all others: it gave messages back."""
        self.stamp += 1
        seat.stamp = self.stamp

    # -- out

    def hand_out(self) -> None:
        """Give ready messages to consumers until there is none of one or of the other. Only `Broker.dispatch` calls it.

        Hot: one pass of the loop is one delivery, which may be another queue's, where the connection's ring says so.
        """
        if self.doomed and not self.stuck:
            bury(self)
        ring = self.ring
        local = self.local
        while ring:
            stamp, seat = ring[0]
            if stamp != seat.stamp:
                heapreplace(ring, (seat.stamp, seat))
                continue
            client = seat.client
            subscription = None
            # Whoever has no room is passed over before anything is claimed, for a claim may be a read from the disk.
            if client.peer.output_bytes < OUTPUT_MARK and (seat.auto or len(client.held) < client.window):
                if not local and not self.claim():
                    return
                subscription = client.choose(seat)
            if subscription is None:
                heappop(ring)
                seat.listed = False
                if seat.subscriptions:
                    client.missed.append(seat)
                else:
                    self.stale -= 1
                continue
            queue = subscription.queue
            delivery = queue.local.popleft()
            queue.delivered += 1
            queue.stamp = stamp = queue.stamp + 1
            subscription.seat.stamp = stamp
            client.hold(subscription, delivery)
            if queue is self:
                if len(client.held) >= client.window and not subscription.auto and len(seat.subscriptions) == 1:
                    # Its window is full: out of the ring now, not when the next message meets it there.
                    heappop(ring)
                    seat.listed = False
                    client.missed.append(seat)
                else:
                    heapreplace(ring, (stamp, seat))

    def claim(self) -> bool:
        """Fill `local` from the store, with about what the consumers have room for; False where nothing came."""
        while True:
            ready = self.handle.ready
            if not ready:
                self.waiting = False
                return False
            if len(self.doomed) >= CLAIM_COUNT:
                return False  # until they are buried, which marks this queue
            count, size = self._room(ready) if ready > 1 else (1, CLAIM_BYTES)
            found = self.store.claim(self.handle, count, size)
            if not found:
                # A message that is not in memory: on_ready follows.
                self.waiting = False
                return False
            self.broker.filled.append(self)
            most = self.max_deliveries
            if most is None:
                self.local.extend(found)
                return True
            for delivery in found:
                if delivery.deliveries >= most:
                    self.doom(Doomed(delivery.id, delivery.deliveries, "max-deliveries"))
                else:
                    self.local.append(delivery)
            if self.local:
                return True

    def _room(self, ready: int) -> tuple[int, int]:
        """How many messages to claim at once, and how many bytes: a guess, what is too much goes back."""
        ready = min(ready, CLAIM_COUNT)
        count = size = 0
        for _, seat in self.ring:
            client = seat.client
            free = OUTPUT_MARK - client.peer.output_bytes
            if free > 0:
                size += free
                window = client.window - len(client.held)
                for subscription in seat.subscriptions:
                    if subscription.auto:
                        count += AUTO_CLAIM
                    elif window > 0:
                        count += max(0, min(window, subscription.prefetch - subscription.count))
                if count >= ready:
                    break
        return max(1, min(count, ready)), min(max(size, 1), CLAIM_BYTES)

    def doom(self, doomed: Doomed) -> None:
        """Let the next dispatch bury an in-flight message as a dead letter."""
        self.doomed.append(doomed)
        self.mark()

    def give_back(self, ids: list[int], delivered: bool) -> None:
        """Put in-flight messages back at their old places; `delivered` raises their counts."""
        self.returned += len(ids)
        self.store.release(self.handle, ids, delivered)
