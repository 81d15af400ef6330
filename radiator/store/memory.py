"""The memory engine: queues whose messages live in RAM and are gone when the process ends.

    put ─▶ fresh ──claim──▶ in flight ──settle──▶ gone
                    ▲            │
           returned └──release───┘     (returned ids are claimed before fresh ones: they are the lower ones)

It must never write anything, and never hold more than the bounds of a queue say: a put that does not fit is refused, or
pushes out the oldest message that nobody holds. Everything happens at once, so every number it gives is 0. A unit that
spans this engine and another is first checked and reserved here, and applied when the other engine has committed.
Called by: the broker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from radiator.errors import Refused
from radiator.message import Delivery, Message
from radiator.store.base import Progress, Store, StoreQueue, Unit

__all__ = ["FIRST_NUMBER", "Bounds", "MemoryQueue", "MemoryStore"]

FIRST_NUMBER = 1 << 32
"""Numbers of memory queues start here: those of a file store have 32 bits, and a message-id must name one queue."""


class Bounds(NamedTuple):
    """What a memory queue may hold: messages, bytes of header blocks and bodies, and what happens beyond."""

    max_messages: int = 100_000
    max_bytes: int = 64 << 20
    drop_oldest: bool = False


class MemoryQueue(StoreQueue):
    """One queue in memory. The broker sets `bounds`; `dropped` counts what `drop_oldest` pushed out."""

    __slots__ = (
        "bounds",
        "bytes",
        "counts",
        "dropped",
        "fresh",
        "messages",
        "next_id",
        "ready_bytes",
        "reserved_bytes",
        "reserved_messages",
        "returned",
    )

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name, number)
        self.bounds = Bounds()
        self.messages: dict[int, Message] = {}
        self.fresh: deque[int] = deque()
        self.returned: list[int] = []
        self.counts: dict[int, int] = {}
        self.next_id = 1
        self.bytes = 0
        self.ready_bytes = 0
        self.reserved_messages = 0
        self.reserved_bytes = 0
        self.dropped = 0

    @property
    def ready(self) -> int:
        """Messages that a claim could take now."""
        return len(self.fresh) + len(self.returned)

    @property
    def in_flight(self) -> int:
        """Messages claimed and neither gone nor released."""
        return len(self.messages) - len(self.fresh) - len(self.returned)

    @property
    def pending(self) -> int:
        """Messages whose room is reserved, until the other part of their unit is durable."""
        return self.reserved_messages

    def add(self, message: Message, size: int) -> None:
        """Store `message`, of `size` bytes, behind all others; the room for it has been checked."""
        id = self.next_id
        self.next_id = id + 1
        self.messages[id] = message
        self.bytes += size
        self.ready_bytes += size
        self.fresh.append(id)
        if message.deliveries:
            self.counts[id] = message.deliveries

    def remove(self, id: int) -> None:
        """Forget the in-flight message `id`."""
        message = self.messages.pop(id)
        self.bytes -= len(message.block) + len(message.body)
        if self.counts:
            self.counts.pop(id, None)

    def take(self) -> tuple[int, Message]:
        """Take the oldest ready message, which is in flight then; there must be one."""
        id = heappop(self.returned) if self.returned else self.fresh.popleft()
        message = self.messages[id]
        self.ready_bytes -= len(message.block) + len(message.body)
        return id, message

    def give_back(self, id: int) -> None:
        """The in-flight message `id` is ready again, at its old place."""
        message = self.messages[id]
        self.ready_bytes += len(message.block) + len(message.body)
        heappush(self.returned, id)

    def excess(self, messages: int, size: int) -> tuple[int, int]:
        """How many messages and bytes are over the bounds with `messages` more of `size` bytes in all."""
        return (
            len(self.messages) + self.reserved_messages + messages - self.bounds.max_messages,
            self.bytes + self.reserved_bytes + size - self.bounds.max_bytes,
        )

    def check(self, messages: int, size: int) -> None:
        """Refused where `messages` of `size` bytes in all do not fit, even after dropping what may be dropped."""
        over, over_bytes = self.excess(messages, size)
        if over <= 0 and over_bytes <= 0:
            return
        if self.bounds.drop_oldest and messages <= self.bounds.max_messages and size <= self.bounds.max_bytes:
            if over <= self.ready and over_bytes <= self.ready_bytes:
                return
            raise Refused(f"{self.name} is full: what it holds is being consumed, nothing can be dropped")
        if over > 0:
            raise Refused(f"{self.name} is full: max_messages is {self.bounds.max_messages}")
        raise Refused(f"{self.name} is full: max_bytes is {self.bounds.max_bytes}")

    def make_room(self, messages: int, size: int) -> None:
        """Drop the oldest ready messages until `messages` of `size` bytes fit; `check` said that they will."""
        over, over_bytes = self.excess(messages, size)
        while over > 0 or over_bytes > 0:
            before = self.bytes
            self.remove(self.take()[0])
            self.dropped += 1
            over -= 1
            over_bytes -= before - self.bytes


class MemoryStore(Store):
    """All memory queues of a broker. `reserve` and `apply` are for units whose other part goes to another engine."""

    def __init__(self) -> None:
        self.durable: Callable[[int], None] = _nobody
        self.resumed: Callable[[], None] = lambda: None
        self.committed = 0
        self._queues: dict[str, MemoryQueue] = {}
        self._next_number = FIRST_NUMBER

    def open(self, now: float, wall_ms: int, progress: Progress) -> None:
        """Nothing is stored, nothing to recover."""

    def queues(self) -> Iterable[MemoryQueue]:
        """Every queue of the store, in order of their numbers."""
        return list(self._queues.values())

    def declare(self, name: str) -> MemoryQueue:
        """The queue of that name, made where there is none."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = MemoryQueue(name, self._next_number)
            self._next_number += 1
        return queue

    def drop(self, queue: StoreQueue) -> int:
        """Forget `queue` and all its messages."""
        del self._queues[queue.name]
        return 0

    def has_room(self) -> bool:
        """Always: the bounds of a queue refuse, they do not make wait."""
        return True

    def check(self, unit: Unit) -> None:
        """Refused (with the limit named) where a queue has no room for all that `unit` puts there."""
        for queue, (messages, size) in _demand(unit).items():
            queue.check(messages, size)

    def append(self, unit: Unit) -> int:
        """Do all of `unit` now, or refuse it and do nothing; always 0."""
        puts = unit.puts
        # Hot: one put into one queue is nearly every unit with a put.
        if len(puts) == 1 and len(puts[0][1]) == 1:
            message, queues = puts[0]
            queue: MemoryQueue = queues[0]  # type: ignore[assignment]
            size = len(message.block) + len(message.body)
            bounds = queue.bounds
            if (
                len(queue.messages) + queue.reserved_messages >= bounds.max_messages
                or queue.bytes + queue.reserved_bytes + size > bounds.max_bytes
            ):
                queue.check(1, size)
                queue.make_room(1, size)
            queue.add(message, size)
            if unit.settled:
                self._settle(unit)
            queue.on_ready()
            return 0
        if puts:
            demand = _demand(unit)
            for queue, (messages, size) in demand.items():
                queue.check(messages, size)
            for queue, (messages, size) in demand.items():
                queue.make_room(messages, size)
            self._put(unit)
        self._settle(unit)
        return 0

    def reserve(self, unit: Unit) -> None:
        """Keep room for the puts of `unit`, which `check` has passed, until `apply`; drops the oldest where allowed."""
        for queue, (messages, size) in _demand(unit).items():
            queue.make_room(messages, size)
            queue.reserved_messages += messages
            queue.reserved_bytes += size

    def apply(self, unit: Unit) -> None:
        """Do all of `unit`, which was reserved: it cannot fail."""
        for queue, (messages, size) in _demand(unit).items():
            queue.reserved_messages -= messages
            queue.reserved_bytes -= size
        self._put(unit)
        self._settle(unit)

    def claim(self, queue: StoreQueue, count: int, max_bytes: int) -> list[Delivery]:
        """Take up to `count` ready messages in order, stopping early once `max_bytes` of bodies are taken."""
        assert isinstance(queue, MemoryQueue)
        found: list[Delivery] = []
        counts = queue.counts
        while len(found) < count and max_bytes > 0 and (queue.returned or queue.fresh):
            id, message = queue.take()
            found.append(Delivery(queue, id, counts.get(id, 0) if counts else 0, message))
            max_bytes -= len(message.body)
        return found

    def read(self, queue: StoreQueue, id: int) -> Message | None:
        """The in-flight message `id` once more."""
        assert isinstance(queue, MemoryQueue)
        return queue.messages[id]

    def release(self, queue: StoreQueue, ids: Sequence[int], delivered: bool) -> None:
        """Put in-flight messages back at their old places; `delivered` raises their delivery count."""
        assert isinstance(queue, MemoryQueue)
        counts = queue.counts
        for id in ids:
            queue.give_back(id)
            if delivered:
                counts[id] = counts.get(id, 0) + 1
        if ids:
            queue.on_ready()

    def flush(self) -> None:
        """Nothing waits here."""

    def completed(self) -> None:
        """Nothing works in the background."""

    def tick(self, now: float) -> float | None:
        """Nothing is ever due."""
        return None

    def close(self) -> None:
        """Forget everything."""
        self._queues.clear()

    def _put(self, unit: Unit) -> None:
        touched: dict[MemoryQueue, None] = {}
        for message, queues in unit.puts:
            size = len(message.block) + len(message.body)
            for queue in queues:
                assert isinstance(queue, MemoryQueue)
                queue.add(message, size)
                touched[queue] = None
        for queue in touched:
            queue.on_ready()

    def _settle(self, unit: Unit) -> None:
        for queue, id, _ in unit.settled:
            queue.remove(id)  # type: ignore[attr-defined]


def _demand(unit: Unit) -> dict[MemoryQueue, tuple[int, int]]:
    """How many messages, and how many bytes of them, `unit` puts into each queue."""
    demand: dict[MemoryQueue, tuple[int, int]] = {}
    for message, queues in unit.puts:
        size = len(message.block) + len(message.body)
        for queue in queues:
            assert isinstance(queue, MemoryQueue)
            messages, before = demand.get(queue, (0, 0))
            demand[queue] = (messages + 1, before + size)
    return demand


def _nobody(number: int) -> None:
    """The listener of a store whose numbers are all there already."""
