"""What the log says: the queues with their indexes, the segments, and what lives where.

`apply` is the one function through which a batch changes the index: when it completed, and when it is read again at a
start. It must never run ahead of the log, and never touch a file. Called by: `engine` (a batch completed), `recovery`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from radiator.store.base import Reason, StoreQueue
from radiator.store.file.index import QueueIndex
from radiator.store.file.record import (
    COUNTS,
    DEFINE,
    DROP,
    NEXT_QUEUE,
    PLACES,
    PUT,
    SEGMENT,
    SETTLED,
    STATE,
    BatchWriter,
)
from radiator.store.file.segment import Segment

__all__ = ["FileQueue", "Ledger"]

_DAMAGED = int(Reason.DAMAGED)

_SWEEP = 1 << 14
"""Messages of a dropped queue that are let go in one piece: that takes a few milliseconds."""


class FileQueue(StoreQueue):
    """One persistent queue.

    `index` is as the log says; `next_id` is ahead of it by the puts that are on their way. `warm` is what a cold read
    brought: (address, bytes); `reading` is set while one runs; `dropped` once `drop` was called.
    """

    __slots__ = ("counts", "dropped", "index", "next_id", "reading", "warm")

    def __init__(self, name: str, number: int, floor: int = 1, next: int = 1) -> None:
        self.name = name
        self.number = number
        self.on_ready = _nobody
        self.index = QueueIndex(floor, next)
        self.next_id = next
        self.counts: dict[int, int] = {}
        self.warm: tuple[int, bytes | bytearray | memoryview] | None = None
        self.reading = False
        self.dropped = False

    @property
    def ready(self) -> int:
        return self.index.ready

    @property
    def in_flight(self) -> int:
        return self.index.in_flight

    @property
    def pending(self) -> int:
        return self.next_id - self.index.next


class Ledger:
    """The state at the end of the log.

    `declared` holds queues that were asked for and whose definition is not in the log yet. `gained` collects the
    queues that got messages, or lost one as damaged, until somebody tells them. `emptied` collects segments without a
    live message, `dropping` the dropped queues that `sweep` has not let go of yet, `spoilt` the messages (queue, id,
    address) that a recovery found damaged. `recounted`: messages went back since the log last said how often they were
    delivered.
    """

    __slots__ = (
        "declared",
        "dropping",
        "emptied",
        "gained",
        "next_queue",
        "queues",
        "recounted",
        "segments",
        "spoilt",
        "stated",
    )

    def __init__(self) -> None:
        self.next_queue = 1
        self.queues: dict[int, FileQueue] = {}
        self.segments: dict[int, Segment] = {}
        self.declared: dict[int, FileQueue] = {}
        self.gained: dict[FileQueue, None] = {}
        self.emptied: set[Segment] = set()
        self.recounted = False
        self.dropping: deque[FileQueue] = deque()
        self.spoilt: list[tuple[FileQueue, int, int]] = []
        self.stated: dict[int, int] = {}

    def apply(self, events: Iterable[tuple[Any, ...]], segment: Segment) -> None:
        """Let one batch of `segment` take effect. Hot: this runs once for every message and every settlement."""
        queues = self.queues
        queue: FileQueue | None = None
        queue_number = -1
        put: Any = None
        live = live_bytes = counted = next = old_length = 0
        for event in events:
            kind = event[0]
            if kind == PLACES:
                # Nearly every message comes this way, many at once; their records have one reference each.
                queue_number = -1
                owner = queues.get(event[1])
                if owner is not None:
                    self.gained[owner] = None
                    count, size, replaced = owner.index.put_places(event[2])
                    live += count
                    live_bytes += size
                    if replaced:
                        segment.live += live
                        segment.live_bytes += live_bytes
                        live = live_bytes = 0
                        self._lose(replaced)
            elif kind == PUT:
                _, number, id, address, length, deliveries, _, _ = event
                if number != queue_number:
                    queue_number = number
                    queue = queues.get(number)
                    if queue is not None:
                        put = queue.index.put
                        next = queue.index.next
                        self.gained[queue] = None
                if queue is None:
                    continue  # dropped by an earlier batch
                if id >= next:
                    next = id + 1
                else:
                    # A copy: the record that it replaces may be longer, and what was counted before still counts.
                    deliveries = max(deliveries, queue.counts.get(id, 0))
                    place = queue.index.get(id)
                    old_length = 0 if place is None else place[2]
                accepted, old = put(id, address, length, deliveries)
                if accepted:
                    live += 1
                    if address == counted:
                        segment.share(address)
                    else:
                        counted = address
                        live_bytes += length
                    if old:
                        self._lose(((old, old_length),))
            elif kind == SETTLED:
                queue_number = -1
                owner = queues.get(event[1])
                if owner is not None:
                    if live:
                        segment.live += live
                        segment.live_bytes += live_bytes
                        live = live_bytes = 0
                    if event[2] == _DAMAGED:
                        self.gained[owner] = None  # a claim that met nothing else took the queue for empty
                    self._lose(owner.index.kill(event[3], event[4]))
            else:
                queue_number = -1
                self._apply_other(kind, event)
        segment.live += live
        segment.live_bytes += live_bytes
        if not segment.live:
            self.emptied.add(segment)

    def _apply_other(self, kind: int, event: tuple[Any, ...]) -> None:
        """Everything that is not a message's coming or going."""
        if kind == DEFINE:
            _, number, name = event
            declared = self.declared.pop(number) if number in self.declared else None
            self.queues[number] = FileQueue(name, number) if declared is None else declared
            self.next_queue = max(self.next_queue, number + 1)
        elif kind == DROP:
            queue = self.queues.pop(event[1], None)
            if queue is not None:
                queue.dropped = True
                self.dropping.append(queue)
                self.sweep()
        elif kind == NEXT_QUEUE:
            self.next_queue = event[1]
        elif kind == STATE:
            _, number, name, next, floor, dead = event
            queue = self.queues[number] = FileQueue(name, number, floor, next)
            for first, last in dead:
                queue.index.kill(first, last)
        elif kind == COUNTS:
            self.queues[event[1]].counts = dict(event[2])
        elif kind == SEGMENT:
            self.stated[event[1]] = event[2]

    def locate(self, events: Iterable[tuple[Any, ...]], segment: Segment) -> None:
        """Find the messages of an older segment that the opening batch of the newest says are not dead.

        Everything else that the older segment says is part of that opening batch already. Segments come from the newest
        to the oldest, so the copy that counts is found first.
        """
        counted = 0
        for event in events:
            if event[0] == PLACES:
                queue = self.queues.get(event[1])
                if queue is not None:
                    count, size, replaced = queue.index.put_places(event[2], False)
                    segment.live += count
                    segment.live_bytes += size
                    self._lose(replaced)
            elif event[0] == PUT:
                _, number, id, address, length, deliveries, _, _ = event
                queue = self.queues.get(number)
                if queue is None or id >= queue.index.next:
                    continue
                accepted, old = queue.index.put(id, address, length, queue.counts.get(id, deliveries))
                if accepted:
                    segment.live += 1
                    if address == counted:
                        segment.share(address)
                    else:
                        counted = address
                        segment.live_bytes += length
                    if old:
                        self._lose(((old, length),))

    def kill(self, queue: FileQueue, first: int, last: int) -> None:
        """Ids that are dead without a record yet; the next opening batch says so."""
        self._lose(queue.index.kill(first, last))

    def sweep(self) -> bool:
        """Let go of some messages of dropped queues; True while there are more. What they pin waits that long."""
        dropping = self.dropping
        left = _SWEEP
        while dropping and left > 0:
            index = dropping[0].index
            few = index.ready + index.in_flight <= left
            lost = index.kill(index.floor, index.next if few else index.floor + left)
            self._lose(lost)
            left -= len(lost) + 1
            if few:
                dropping.popleft()
        return bool(dropping)

    def _lose(self, places: Iterable[tuple[int, int]]) -> None:
        """The messages at these places are needed no more."""
        segments = self.segments
        for address, length in places:
            segment = segments[address >> 32]
            segment.live -= 1
            if not segment.shared or segment.unshare(address):
                segment.live_bytes -= length
            if not segment.live:
                self.emptied.add(segment)

    def state_into(self, writer: BatchWriter) -> None:
        """Write all of this as an opening batch."""
        writer.next_queue(self.next_queue)
        for number, queue in sorted(self.queues.items()):
            index = queue.index
            writer.state(number, queue.name, index.next, index.floor, index.packed_dead_ranges())
            counts = index.counts()
            if counts:
                writer.counts(number, counts)
        for number, segment in sorted(self.segments.items()):
            writer.segment(number, segment.end)


def _nobody() -> None:
    """The listener of a queue that nobody consumes."""
