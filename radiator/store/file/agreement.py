"""The saved index held against the log: would a start that uses it find what a start that reads the log finds?

It must never write, judge an index that no start would use, nor blame one for a log that is damaged itself. One queue
of the index is in memory at a time, beside the survey. Called by: `inspect.check`.
"""

from __future__ import annotations

from collections.abc import Iterator

from radiator.errors import CorruptRecord
from radiator.store.file.cache import read_index
from radiator.store.file.damage import is_damage
from radiator.store.file.ledger import FileQueue
from radiator.store.file.segment import Segment, address_of
from radiator.store.file.views import PLACES, QueueView, Survey

__all__ = ["hold_index"]

_MANY = 1 << 16
_TOLD = 5


def hold_index(found: Survey) -> None:
    """Note what there is to say about the index of the store `found`; nothing where it has none."""
    fsio, names, mark = found.fsio, found.names, found.watermark
    try:
        if "index" not in fsio.list_directory(names.directory) or names.index in found.odd:
            return
    except FileNotFoundError:
        return
    newest = found.segments.get(found.newest)
    why = ""
    differences: list[str] = []
    if mark is None or not mark.clean or newest is None or mark.address != address_of(newest.number, newest.file.size):
        why = "no clean stop came last"
    elif newest.broken or newest.end != newest.file.size:
        why = "the newest segment is damaged"
    else:
        try:
            comparing = _Comparing(found)
            for part in read_index(fsio, names, found.store_id, mark):
                comparing.take(part)
            why, differences = comparing.outcome()
        except FileNotFoundError:
            return  # a daemon took it away with its first write
        except OSError as error:
            if not is_damage(error):
                raise
            why = str(error)
        except (ValueError, CorruptRecord) as error:
            why = str(error)
    if why:
        found.find("index", names.index, f"the saved index is ignored by a start: {why}", damage=False)
    elif any(finding.damage and finding.kind not in PLACES for finding in found.findings):
        what = "the saved index is used by a start; it was not held against the log, which is damaged"
        found.find("index", names.index, what, damage=False)
    elif differences:
        more = f"; and {len(differences) - _TOLD} more" if len(differences) > _TOLD else ""
        listed = "; ".join(differences[:_TOLD])
        what = f"the saved index differs from the log: {listed}{more}; remove it before the next start"
        found.find("index", names.index, what)
    else:
        what = "the saved index says what the log says, and is used by a start"
        found.find("index", names.index, what, damage=False)


class _Comparing:
    """Takes the parts of the index as they come."""

    def __init__(self, found: Survey) -> None:
        self._found = found
        self._differences: list[str] = []
        self._of_segments: list[str] = []  # most of them follow from those of the queues
        self._queues: set[int] = set()
        self._segments: set[int] = set()
        self._begun = False

    def take(self, part: int | Segment | FileQueue) -> None:
        """Hold one part against the log."""
        if isinstance(part, Segment):
            self._segment(part)
        elif isinstance(part, FileQueue):
            self._queue(part)
        else:
            self._begun = True
            logged = self._found.next_queue
            if part != logged:
                self._differences.append(f"the next queue's number is {part}, not {logged}")

    def outcome(self) -> tuple[str, list[str]]:
        """When all has come: why a start ignores it ("" where it does not), and the differences."""
        found = self._found
        if not self._begun:
            return "it is of another stop", []
        if found.newest not in self._segments or not self._segments.issubset(found.segments):
            return "a segment that it names is not there, or a newer one is", []
        for number in sorted(found.queues.keys() - self._queues):
            self._differences.append(f"it lacks queue {found.queues[number].name}")
        for number, segment in found.segments.items():
            if segment.live and number not in self._segments:
                self._of_segments.append(f"it lacks segment {number}")
        return "", self._differences + self._of_segments

    def _segment(self, saved: Segment) -> None:
        self._segments.add(saved.number)
        logged = self._found.segments.get(saved.number)
        if logged is None:
            return
        if logged.role == "unlisted":
            self._of_segments.append(f"segment {saved.number} is no part of the log")
        ours, theirs = ((s.end, s.live, s.live_bytes) for s in (saved, logged))
        if ours != theirs and logged.role != "unlisted":
            self._of_segments.append(f"end, messages and bytes of segment {saved.number} are {ours}, not {theirs}")

    def _queue(self, saved: FileQueue) -> None:
        self._queues.add(saved.number)
        logged = self._found.queues.get(saved.number)
        what = self._difference(saved, logged) if logged is not None else "it is not in the log"
        if what:
            self._differences.append(f"queue {saved.name}: {what}")

    def _difference(self, saved: FileQueue, logged: QueueView) -> str:
        """The first thing in which a queue is not as the log says; "" for none."""
        if saved.name != logged.name:
            return f"its name is {logged.name}"
        index, log = saved.index, logged.index
        ours, theirs = ((i.next, i.floor, i.live) for i in (index, log))
        if ours != theirs:
            return f"next id, floor and messages are {ours}, not {theirs}"
        if index.packed_dead_ranges() != log.packed_dead_ranges():
            return "other ids are acknowledged"
        for ours_now, theirs_now in zip(_places(saved), _places(logged), strict=False):
            if ours_now != theirs_now:
                id = next(mine[0] for mine, other in zip(ours_now, theirs_now, strict=True) if mine != other)
                return f"message {saved.number}-{id} stands in another place"
        # The log tells of deliveries only in opening batches and copies: it may be behind, and is never ahead.
        counts = dict(index.counts())
        for id, deliveries in log.counts():
            if counts.get(id, 0) < deliveries:
                return f"message {saved.number}-{id} was delivered {deliveries} times before"
        return ""


def _places(queue: FileQueue | QueueView) -> Iterator[list[tuple[int, int, int]]]:
    """(id, address, length) of every message, by id, a part at a time."""
    first = 0
    while found := queue.index.addresses(first, _MANY):
        yield found
        first = found[-1][0] + 1
