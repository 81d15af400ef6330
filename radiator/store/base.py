"""The store interface: what the broker may ask of an engine, and the unit that is all or nothing.

Nothing here knows of files, sockets or STOMP; an engine on a replicated database must fit behind it. An engine never
blocks in `append`, `claim`, `release` or `flush`, and never touches a file or a clock between a receive and `flush`.
Called by: the broker (everything), the server (`open`, `flush`, `completed`, `tick`, `close`).

A message's life in a queue:

    append(unit with put)   flush       completed()          claim            append(unit with settle)   completed()
    ───────────────────▶ batch ───▶ write + sync ───▶ READY ───────▶ IN FLIGHT ──────────────▶ still in flight ───▶ gone
                                                        ▲               │
                                                        └── release ────┘ (old place, deliveries + 1 if asked)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum

from radiator.errors import StoreBusy
from radiator.message import Delivery, Message

__all__ = ["Progress", "Reason", "Store", "StoreQueue", "Unit"]

Progress = Callable[[str, int, int], None]
"""Called during long work with what is being done, how much is done and how much there is in all."""


class Reason(IntEnum):
    """Why a message left its queue; written to the log with the acknowledgement."""

    ACKED = 0
    EXPIRED = 1
    DEAD_LETTERED = 2
    PURGED = 3
    DAMAGED = 4


class StoreQueue:
    """An engine's side of one queue; engines subclass it. The broker reads it and sets `on_ready`, nothing else.

    `number` is unique in the store and never reused. `on_ready` is called without arguments, in the loop, whenever
    messages became claimable that were not (a batch completed, a release, a cold read arrived).
    """

    __slots__ = ("name", "number", "on_ready")

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.on_ready: Callable[[], None] = _nobody

    @property
    def ready(self) -> int:
        """Messages that a claim could take now, or after a cold read."""
        raise NotImplementedError  # radiator: every engine's queue says it

    @property
    def in_flight(self) -> int:
        """Messages claimed and neither gone nor released."""
        raise NotImplementedError  # radiator: every engine's queue says it

    @property
    def pending(self) -> int:
        """Messages that were put and are neither ready nor in flight yet."""
        raise NotImplementedError  # radiator: every engine's queue says it


def _nobody() -> None:
    """The listener of a queue that nobody consumes."""


class Unit:
    """Puts and settlements over any queues of ONE engine that become durable together or not at all."""

    __slots__ = ("puts", "settled")

    def __init__(self) -> None:
        self.puts: list[tuple[Message, Sequence[StoreQueue]]] = []
        self.settled: list[tuple[StoreQueue, int, Reason]] = []

    def put(self, message: Message, queues: Sequence[StoreQueue]) -> None:
        """Add one message to each of `queues` (no queue twice); its body is stored once."""
        self.puts.append((message, queues))

    def settle(self, queue: StoreQueue, id: int, reason: Reason = Reason.ACKED) -> None:
        """Remove the in-flight message `id` of `queue`."""
        self.settled.append((queue, id, reason))


class Store(ABC):
    """One engine.

    Numbers: `append` returns the number of the batch that the unit joined. When that batch has reached what the fsync
    policy promises, its messages become claimable, then `durable(number)` is called; `committed` is the highest number
    so far. Numbers only grow, and are called in order. A memory engine returns 0: already there.
    """

    durable: Callable[[int], None]
    committed: int
    resumed: Callable[[], None]
    """Called where what was Refused for want of room may be tried again."""

    @abstractmethod
    def open(self, now: float, wall_ms: int, progress: Progress) -> None:
        """Recover whatever is stored. StoreLocked, StoreDamaged or StoreFailed where that cannot be."""

    @abstractmethod
    def queues(self) -> Iterable[StoreQueue]:
        """Every queue of the store, in order of their numbers."""

    @abstractmethod
    def declare(self, name: str) -> StoreQueue:
        """The queue of that name, made (in the open batch) where there is none. Settings are the broker's business."""

    @abstractmethod
    def drop(self, queue: StoreQueue) -> int:
        """Forget `queue` and all its messages; the number like `append`."""

    @abstractmethod
    def has_room(self) -> bool:
        """False while the commit buffers are full: producers wait. Settlements are always taken."""

    @abstractmethod
    def check(self, unit: Unit) -> None:
        """Refused (with the limit named) where `unit` could not be appended now; reserves nothing, changes nothing."""

    @abstractmethod
    def append(self, unit: Unit) -> int:
        """Let `unit` join the open batch, whole; the number that `durable` will reach. Refused as `check` does."""

    def put(self, queue: StoreQueue, message: Message) -> int:
        """What `append` does with a unit that puts `message` into `queue` and nothing else. StoreBusy without room."""
        if not self.has_room():
            raise StoreBusy
        unit = Unit()
        unit.put(message, (queue,))
        return self.append(unit)

    def settle(self, queue: StoreQueue, id: int) -> int:
        """What `append` does with a unit that acknowledges the message `id` of `queue` and nothing else."""
        unit = Unit()
        unit.settle(queue, id)
        return self.append(unit)

    @abstractmethod
    def claim(self, queue: StoreQueue, count: int, max_bytes: int) -> list[Delivery]:
        """Take up to `count` ready messages in order (released ones stand at their old places), with their messages.

        Stops early once `max_bytes` of bodies are taken (one message always fits) and at a message that is not in
        memory; then `queue.on_ready` is called when it is.
        """

    @abstractmethod
    def read(self, queue: StoreQueue, id: int) -> Message | None:
        """The in-flight message `id` once more (for a dead letter); None while it is not in memory: on_ready follows.

        CorruptRecord where it is damaged or gone: it leaves the queue by itself, there is nothing to settle.
        """

    @abstractmethod
    def release(self, queue: StoreQueue, ids: Sequence[int], delivered: bool) -> None:
        """Put in-flight messages back at their old places; `delivered` raises their delivery count. Calls on_ready."""

    @abstractmethod
    def flush(self) -> None:
        """End of a turn: hand the open batch to the disk if that is idle."""

    @abstractmethod
    def completed(self) -> None:
        """Collect finished work of the sync worker and other helpers. StoreFailed where the disk failed: final."""

    @abstractmethod
    def tick(self, now: float) -> float | None:
        """Do what is due at `now` (monotonic seconds); when to call next, None for never."""

    @abstractmethod
    def close(self) -> None:
        """Bring everything appended to the disk, wait for it, release the directory."""
