"""The broker: every destination by name, every client, and handing ready messages out at the end of a turn.

    Client.send ─▶ Queue/Fanout/Topic ─▶ commit ─▶ store.append        (during a turn: memory only)
    begin_turn: what the turn before left unpublished
    dispatch:  dirty queues ─claim─▶ rings ─▶ Client.hold ─▶ Peer.deliver      (at its end)
    durable(n): what waited for the disk in other engines, then the receipts

It must never touch bytes of a protocol, a file, a clock or a greenlet, and never promise a receipt before `committed`
reached its number. Called by: the server (builds it, `begin_turn`, `dispatch`), the session (through its `Client`), the
file store (`durable`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

from radiator.broker.catalogue import Catalogue, shown
from radiator.broker.client import Client
from radiator.broker.fanout import Fanout
from radiator.broker.graveyard import Ticket
from radiator.broker.idle import Idle
from radiator.broker.peer import Peer
from radiator.broker.queue import Queue
from radiator.broker.topic import Topic
from radiator.broker.transaction import Parts
from radiator.config.schema import Config, Destination
from radiator.errors import ConfigError, Refused, StoreBusy, TurnSpent
from radiator.message import Message
from radiator.store.base import Store, StoreQueue, Unit
from radiator.store.memory import Bounds, MemoryStore

__all__ = ["TURN_COPIES", "Broker", "Report", "Target"]

TURN_COPIES: Final = 50_000
"""Copies made for the subscribers of topics and the queues of fanouts after which the next SEND to one waits for the
next turn. All sockets wait for them, tens of milliseconds; were it much less, most of the time would go into sends of
few bytes to each of a crowd."""

TOTALS = ("ready", "in_flight", "put", "delivered", "acked", "returned", "dead_lettered", "dropped")

Report = Callable[..., None]
"""Told the name of an event and its fields: `report("queue_unconfigured", queue="/queue/a", ready=3)`."""


class Target(Protocol):
    """Anything that a SEND can go to."""

    name: str

    def put(self, message: Message) -> int:
        """Take `message` now; the number at which it is durable."""

    def stage(self, message: Message, parts: Parts) -> None:
        """Take `message` with the rest of a unit."""


class Later(NamedTuple):
    """A unit in memory, or one message for a topic: it waits until `number` is durable, and for its turn."""

    number: int
    part: Unit | tuple[Topic, Message]


class Broker:
    """Routing over an opened file store (None: no persistent queues) and a memory store.

    `wake` is called when `dispatch` has work, `wall_ms` gives milliseconds since the epoch, `escape(value, version)`
    writes a header value in wire form, `report` takes what an operator should know. ConfigError where the stored queues
    and the configuration do not go together.
    """

    def __init__(
        self,
        config: Config,
        file_store: Store | None,
        memory_store: MemoryStore,
        *,
        wall_ms: Callable[[], int],
        escape: Callable[[str, int], bytes],
        report: Report,
    ) -> None:
        self.config = config
        self.file_store = file_store
        self.memory_store = memory_store
        self.wall_ms = wall_ms
        self.escape = escape
        self.report = report
        self.wake: Callable[[], None] = _nobody
        self.committed = 0 if file_store is None else file_store.committed
        self.catalogue = Catalogue(config)
        self.targets: dict[str, Target] = {}
        self.queues: dict[StoreQueue, Queue] = {}
        self.clients: set[Client] = set()
        self.filled: list[Queue] = []
        self.waiters: deque[tuple[int, Client]] = deque()
        self.deferred_topics: dict[str, int] = {}
        self.copies = 0
        self.idle = Idle()
        self._dirty: deque[Queue] = deque()
        self._later: deque[Later] = deque()
        self._stuck: list[Queue] = []
        self._to_close: list[Client] = []
        self._publications = 0
        self._past = dict.fromkeys(TOTALS, 0)
        self._adopt()
        for settings in self.catalogue.exact.values():
            if settings.type == "queue" and settings.name not in self.targets:
                self._make_queue(settings)
        for settings in self.catalogue.exact.values():
            if settings.type != "queue":
                self._make(settings)
        if len(self.queues) > config.limits.queues:
            raise ConfigError(f"limits.queues is {config.limits.queues}, but there are {len(self.queues)} queues")
        if file_store is not None:
            file_store.durable = self.durable
            file_store.resumed = self.resumed

    def client(self, peer: Peer) -> Client:
        """The broker's side of a new connection whose session is `peer`."""
        client = Client(self, peer)
        self.clients.add(client)
        return client

    # -- destinations

    def create(self, name: str) -> Target:
        """Make the destination `name` (of a topic, just one to publish into).

        Refused where that is not allowed. StoreBusy: nothing happened.
        """
        settings = self.catalogue.settings(name)
        if settings.type == "topic":
            return Topic(self, name, drop_slow=settings.slow == "drop", kept=False)
        if len(self.queues) >= self.config.limits.queues:
            self._make_room()
        target = self._make(settings)
        if isinstance(target, Queue):
            self.idle.note(target)
        return target

    def consumable(self, name: str) -> Queue | Topic:
        """The queue or topic that a SUBSCRIBE names, made where that is allowed. Refused where not, or for a fanout."""
        target = self.targets.get(name)
        if target is None:
            target = self.create(name)
            self.targets[name] = target
        if isinstance(target, (Queue, Topic)):
            return target
        raise Refused(f"{shown(name)} is a fanout: subscribe to one of its queues")

    def forsake(self, target: Topic | Queue) -> None:
        """A subscriber has left a topic, or the last one a queue.

        A topic that is not configured goes with its last; such a queue may go when another one needs its place.
        """
        if isinstance(target, Queue):
            if target.name not in self.catalogue.exact and not target.refusal:
                self.idle.note(target)
        elif not target.kept and not target.subscriptions:
            self.targets.pop(target.name, None)

    def dead_letters_of(self, queue: Queue) -> Queue | None:
        """Where the dead letters of `queue` go; None: nowhere."""
        found = None if queue.dead_letter is None else self.targets.get(queue.dead_letter)
        return found if isinstance(found, Queue) else None

    def next_publication(self) -> int:
        """The number of the next message published to any topic."""
        self._publications += 1
        return self._publications

    def _make_room(self) -> None:
        """Drop a queue that a client made and nobody needs. Refused where there is none. StoreBusy: try it again."""
        if self.file_store is not None and not self.file_store.has_room():
            raise StoreBusy  # whoever makes and drops queues without end must wait for the disk like everybody
        queue = self.idle.take()
        if queue is None:
            raise Refused(f"too many queues: limits.queues is {self.config.limits.queues}")
        for figure, value in _figures(queue).items():
            self._past[figure] += value
        del self.targets[queue.name]
        del self.queues[queue.handle]
        queue.store.drop(queue.handle)

    def _make(self, settings: Destination) -> Target:
        """Make a destination as `settings` say; the queues of a fanout are there already."""
        if settings.type == "queue":
            return self._make_queue(settings)
        target: Target
        if settings.type == "topic":
            target = Topic(self, settings.name, drop_slow=settings.slow == "drop", kept=True)
        else:
            queues = tuple(found for name in settings.queues if isinstance(found := self.targets[name], Queue))
            target = Fanout(self, settings.name, queues)
        self.targets[settings.name] = target
        return target

    def _make_queue(self, settings: Destination, handle: StoreQueue | None = None, refusal: str = "") -> Queue:
        """The queue that `settings` describe, declared in its store, or around a stored `handle`."""
        store: Store = self.memory_store
        if settings.persistent:
            if self.file_store is None:
                raise Refused(f"{shown(settings.name)} is persistent, and there is no store on disk")
            store = self.file_store
        elif handle is None:
            memory = self.memory_store.declare(settings.name)
            memory.bounds = Bounds(
                settings.max_messages or Bounds().max_messages,
                settings.max_bytes or Bounds().max_bytes,
                settings.overflow == "drop-oldest",
            )
            handle = memory
        queue = Queue(
            self,
            settings.name,
            store,
            handle if handle is not None else store.declare(settings.name),
            persistent=settings.persistent,
            max_deliveries=settings.max_deliveries,
            dead_letter=settings.dead_letter,
            refusal=refusal,
        )
        self.targets[settings.name] = queue
        self.queues[queue.handle] = queue
        return queue

    def _adopt(self) -> None:
        """Take over the stored queues; ConfigError where one with messages is configured as something else."""
        if self.file_store is None:
            return
        for handle in list(self.file_store.queues()):
            name = handle.name
            stored = handle.ready + handle.in_flight
            settings = self.catalogue.find(name)
            if settings is None and not stored:
                # Nobody may send to it any more, and there is nothing left to consume.
                self.report("queue_dropped", queue=name)
                self.file_store.drop(handle)
            elif settings is None:
                self.report("queue_unconfigured", queue=name, messages=stored)
                refusal = f"{shown(name)} is not configured any more: it can be consumed, not sent to"
                self._make_queue(Destination(name, "queue", persistent=True), handle, refusal)
            elif settings.type == "queue" and settings.persistent:
                queue = self._make_queue(settings, handle)
                if name not in self.catalogue.exact:
                    self.idle.note(queue)
            elif stored:
                wanted = "a memory queue" if settings.type == "queue" else f"a {settings.type}"
                raise ConfigError(
                    f"{name} is configured as {wanted}, but {stored} messages of it are on disk: "
                    f"configure it as a persistent queue, consume them, and change it then"
                )
            else:
                self.report("queue_dropped", queue=name)
                self.file_store.drop(handle)

    # -- units

    def commit(self, parts: Parts) -> int:
        """Do all of `parts`, or nothing; the number at which what is on disk is durable.

        The part in memory is checked and its room reserved first; it is applied when that number is durable, where it
        cannot fail, and never before what was deferred earlier. What a turn may not publish any more follows in the
        next. Refused, StoreBusy, TurnSpent: nothing happened.
        """
        if parts.copies or parts.publications:
            self.check_turn()
        durable = parts.durable
        memory = parts.memory
        if durable is not None:
            assert self.file_store is not None
            if durable.puts and not self.file_store.has_room():
                raise StoreBusy
            self.file_store.check(durable)
        if memory is not None:
            self.memory_store.check(memory)
        self.copies += parts.copies
        number = 0
        if durable is not None and self.file_store is not None:
            number = self.file_store.append(durable)
            self._count(durable)
        if memory is None and not parts.publications:
            return number
        if memory is not None:
            self._count(memory)
        if number > self.committed or self._is_behind(parts):
            self._defer(number, memory, parts.publications)
            return number
        if memory is not None:
            self.memory_store.append(memory)
        for place, (topic, message) in enumerate(parts.publications):
            if self.turn_is_spent:
                self._defer(0, None, islice(parts.publications, place, None))
                self.wake()
                break
            self._publish(topic, message)
        return number

    def _count(self, unit: Unit) -> None:
        for _, handles in unit.puts:
            for handle in handles:
                self.queues[handle].put_count += 1

    def _is_behind(self, parts: Parts) -> bool:
        """Would any of this overtake what its destination is still waiting for?"""
        if not self._later:
            return False
        if any(topic.name in self.deferred_topics for topic, _ in parts.publications):
            return True
        return parts.memory is not None and any(
            handle.reserved_messages  # type: ignore[attr-defined]
            for _, handles in parts.memory.puts
            for handle in handles
        )

    def _defer(self, number: int, memory: Unit | None, publications: Iterable[tuple[Topic, Message]]) -> None:
        # What has no number of its own (0) follows what it must not overtake: they are applied in this order.
        if memory is not None:
            self.memory_store.reserve(memory)
            self._later.append(Later(number, memory))
        for publication in publications:
            name = publication[0].name
            self.deferred_topics[name] = self.deferred_topics.get(name, 0) + 1
            self._later.append(Later(number, publication))

    def durable(self, number: int) -> None:
        """The file store's batches up to `number` have reached what the fsync policy promises."""
        self.committed = number
        if self._later:
            self._catch_up()
        waiters = self.waiters
        while waiters and waiters[0][0] <= number:
            # Also where the client is closed: a session that ends still gives out the receipts it owes.
            waiters.popleft()[1].peer.release_receipts(number)
        if self._stuck:
            self.resumed()

    def resumed(self) -> None:
        """What the file store refused may be tried again: dead letters, also those of memory queues."""
        stuck, self._stuck = self._stuck, []
        for queue in stuck:
            queue.stuck = False
            queue.mark()

    def _catch_up(self) -> None:
        """Apply what is not waiting for the disk any more, as far as this turn may; the next goes on."""
        later = self._later
        while later and later[0].number <= self.committed:
            if self.turn_is_spent:
                self.wake()
                return
            part = later.popleft().part
            if isinstance(part, Unit):
                self.memory_store.apply(part)
                continue
            topic, message = part
            left = self.deferred_topics[topic.name] - 1
            if left:
                self.deferred_topics[topic.name] = left
            else:
                del self.deferred_topics[topic.name]
            self._publish(topic, message)

    def _publish(self, topic: Topic, message: Message) -> None:
        """Publish what was sent to `topic` earlier, to those who listen now.

        A topic that is not configured comes and goes with its subscribers, so it may be another object by now.
        """
        current = self.targets.get(topic.name)
        (current if isinstance(current, Topic) else topic).publish(message)

    def reached(self, mark: tuple[int, Ticket | None]) -> bool:
        """May a receipt with this mark (of `Client.receipt_mark`) leave?"""
        number, ticket = mark
        if number > self.committed:
            return False
        return ticket is None or (ticket.number is not None and ticket.number <= self.committed)

    # -- turns

    @property
    def turn_is_spent(self) -> bool:
        """Have as many copies been made in this turn as one may?"""
        return self.copies >= TURN_COPIES

    def check_turn(self) -> None:
        """Whoever is about to make copies asks first. TurnSpent where the next turn must do that."""
        if self.copies >= TURN_COPIES:
            raise TurnSpent

    def begin_turn(self) -> None:
        """As many copies may be made again; those that are left from the turn before come first."""
        self.copies = 0
        if self._later:
            self._catch_up()

    def mark(self, queue: Queue) -> None:
        """`queue` has become dirty."""
        self._dirty.append(queue)
        if len(self._dirty) == 1:
            self.wake()

    def retry(self, queue: Queue) -> None:
        """`queue` could not bury its dead letters: let it try again after the next completion, and not before.

        Each try reads a body, and a store keeps but one of a queue that was not in memory: read at every turn, it would
        push out the one that was read for a consumer, whose arrival makes the next turn.
        """
        queue.stuck = True
        self._stuck.append(queue)

    def close_later(self, client: Client) -> None:
        """`client` has failed: let the next dispatch close it, when nobody walks the lists it stands in."""
        self._to_close.append(client)
        self.wake()

    def dispatch(self) -> None:
        """Hand out ready messages: afterwards none stands beside a consumer with room for it, unless it is on its way
        from the disk."""
        while self._to_close:
            self._to_close.pop().close()
        dirty = self._dirty
        while dirty:
            queue = dirty.popleft()
            queue.dirty = False
            queue.hand_out()
        filled = self.filled
        if filled:
            for queue in filled:
                if queue.local:
                    ids = [delivery.id for delivery in queue.local]
                    queue.local.clear()
                    queue.waiting = True
                    queue.store.release(queue.handle, ids, False)
            filled.clear()

    # -- figures

    def stats(self) -> dict[str, Any]:
        """Figures for whoever asks: of every queue and topic, and totals. Not for hot paths."""
        queues = {
            queue.name: {
                "consumers": sum(len(seat.subscriptions) for seat in queue.seats.values()),
                **_figures(queue),
            }
            for queue in self.queues.values()
        }
        topics = {
            target.name: {
                "subscribers": len(target.subscriptions),
                "published": target.published,
                "dropped": target.dropped,
            }
            for target in self.targets.values()
            if isinstance(target, Topic)
        }
        return {
            "clients": len(self.clients),
            "queues": queues,
            "topics": topics,
            "published": self._publications,
            "totals": {
                figure: before + sum(queue[figure] for queue in queues.values())
                for figure, before in self._past.items()
            },
        }


def _figures(queue: Queue) -> dict[str, int]:
    """What counts in the totals, also once `queue` is gone."""
    handle = queue.handle
    values = (
        handle.ready,
        handle.in_flight,
        queue.put_count,
        queue.delivered,
        queue.acked,
        queue.returned,
        queue.dead_lettered,
        queue.dropped + getattr(handle, "dropped", 0),
    )
    return dict(zip(TOTALS, values, strict=True))


def _nobody() -> None:
    """The server that has not been told of yet."""
