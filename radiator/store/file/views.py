"""What a survey finds: the store as its log says it, and whatever an operator should know of it.

It must never judge: it only holds, and gives the bytes of what it holds. Called by: `survey` and `replay`, which fill
it; `inspect` and `repair`, which read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from radiator.store.file.format import Format, Names
from radiator.store.file.fsio import Fsio
from radiator.store.file.index import QueueIndex
from radiator.store.file.salvage import SegmentFile
from radiator.store.file.watermark import Watermark

__all__ = ["NEEDED", "PLACES", "Finding", "QueueView", "Range", "SegmentView", "Survey", "joined", "no_progress"]

Range = tuple[int, int]

NEEDED = frozenset(("lock", "quarantine", "spare", "kept"))
"""The kinds of the findings about what a start needs beside the log: it is refused, though no message is touched."""

PLACES = NEEDED | {"place"}
"""And of those about what a broker writes sooner or later: all that count as damage and touch no message."""

_MANY = 1 << 16
_MESSAGE_WINDOW = 1 << 16
"""Neighbours are likely to be wanted next, but a queue may also be all over the log."""


class Finding(NamedTuple):
    """Something an operator should know. `damage` is false where nothing was lost that had been promised.

    `kind` is a word for programs. `ids` are ranges, both ends included, of the queue.
    """

    kind: str
    damage: bool
    path: str
    what: str
    segment: int | None = None
    offset: int | None = None
    queue: str | None = None
    number: int | None = None
    ids: tuple[Range, ...] = ()


class QueueView:
    """One queue as the log says it; `name_lost` where its definition was not readable."""

    __slots__ = ("aside", "counts", "index", "name", "name_lost", "number")

    def __init__(self, number: int, name: str, floor: int = 1, next: int = 1) -> None:
        self.number = number
        self.name = name
        self.index = QueueIndex(floor, next)
        self.counts: dict[int, int] = {}
        self.aside: list[Range] = []
        self.name_lost = False

    def places(self) -> Iterator[tuple[int, int, int]]:
        """(id, address, length) of every message, by id."""
        first = 0
        while found := self.index.addresses(first, _MANY):
            yield from found
            first = found[-1][0] + 1


class SegmentView:
    """One segment that is there. `role` is "older", "replayed", "newest" or "unlisted" (no part of the log).

    `end` is the offset behind its last batch that counts; `broken` says that it holds damage below that. `live` counts
    references, `live_bytes` the bytes of their records, each once.
    """

    __slots__ = ("broken", "capacity", "created_ms", "durable", "end", "file", "live", "live_bytes", "number", "role")

    def __init__(self, number: int, file: SegmentFile) -> None:
        self.number = number
        self.file = file
        self.role = "unlisted"
        self.end = file.size
        self.durable = 0
        self.broken = False
        self.capacity = 0
        self.created_ms = 0
        self.live = 0
        self.live_bytes = 0


class Survey:
    """What a store says. Its segments stay open, so that what was found can be read, until `close`."""

    def __init__(self, fsio: Fsio, names: Names) -> None:
        self.fsio = fsio
        self.names = names
        self.format: Format | None = None
        self.store_id = b""
        self.identified = True  # else the id is only the one that most segments have
        self.watermark: Watermark | None = None
        self.base: int | None = None
        self.next_queue = 1
        self.queues: dict[int, QueueView] = {}
        self.segments: dict[int, SegmentView] = {}
        self.stated: dict[int, int] = {}
        self.findings: list[Finding] = []
        self.missing: list[tuple[QueueView, list[Range]]] = []
        self.damaged: list[tuple[QueueView, int, int]] = []  # messages that cannot be read: queue, id, address
        self.odd: list[str] = []  # paths of what has the name of a file of the store, and is no file or not its own
        self.unopened: list[int] = []  # numbers of segments among these that cannot be opened
        self.strangers: list[int] = []  # numbers in the names of others that are no segments of this log
        self.uncertain = False  # acknowledgements may be among what cannot be read
        self.unknown: list[tuple[QueueView, int]] = []  # what was sent to the queue from this id on cannot be told
        self.dropped: set[int] = set()
        self.shared: set[int] = set()  # addresses of records with more than one reference
        self.batches = 0

    @property
    def newest(self) -> int:
        """The number of the newest segment that is there; 0 for none."""
        return max(self.segments, default=0)

    @property
    def messages(self) -> int:
        """How many references are alive."""
        return sum(queue.index.live for queue in self.queues.values())

    def close(self) -> None:
        """Give the files back."""
        for segment in self.segments.values():
            segment.file.close()

    def find(
        self, kind: str, path: str, what: str, *, damage: bool = True, segment: int | None = None, **fields: Any
    ) -> None:
        """Note something."""
        self.findings.append(Finding(kind, damage, path, what, segment, **fields))

    def message(self, address: int, length: int) -> memoryview:
        """The record at `address`. CorruptRecord where it cannot be read."""
        return self.segments[address >> 32].file.get(address & 0xFFFFFFFF, length, _MESSAGE_WINDOW)


def no_progress(what: str, done: int, total: int) -> None:
    """For those who do not watch."""


def joined(ids: Iterator[int] | list[int]) -> list[Range]:
    """Ascending ids as ranges."""
    ranges: list[Range] = []
    for id in ids:
        if ranges and ranges[-1][1] == id - 1:
            ranges[-1] = (ranges[-1][0], id)
        else:
            ranges.append((id, id))
    return ranges
