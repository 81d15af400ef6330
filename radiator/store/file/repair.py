"""Making a broken store one that starts: the operator's explicit word, after everything that is lost has been named.

It must never edit in place, lose the only copy of a readable message, or remove an original: segments with damage get a
name in quarantine/ before the log does without them. Called by: the command `store repair`.

    lock ▸ survey, deep ▸ what is lost and what will be done (and no more than that without the operator's yes)
    ▸ originals linked into quarantine/, synced
    ▸ a new segment under a temporary name: an opening batch that states what is alive and where, then the messages that
      were readable in broken segments ▸ synced ▸ renamed ▸ directory synced: from here on the store is whole
    ▸ what is no file or of another store moved to quarantine/ ▸ watermark ▸ FORMAT ▸ the names of broken segments taken
      out of log/ ▸ a recovery that only reads must accept it

A crash before the rename leaves the store as it was, one after it a repaired one. What must be copied may be more than
a segment can take: then this happens several times, and each time leaves fewer broken segments.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from radiator.errors import CorruptRecord, StoreDamaged, StoreFailed
from radiator.store.base import Progress
from radiator.store.file.copying import ASIDE, link_or_copy, move_aside
from radiator.store.file.format import DirectoryLock, Format, Names, check_finished, encode_format, replace_file
from radiator.store.file.fsio import Fsio, naming
from radiator.store.file.inspect import would_start
from radiator.store.file.record import BatchWriter, decode_message, decode_references, encode_segment_header
from radiator.store.file.recovery import HOLE, QUEUE_HOLE
from radiator.store.file.segment import OPENING_OFFSET, address_of, write_whole
from radiator.store.file.survey import look, misplaced, require_store
from radiator.store.file.views import PLACES, Finding, QueueView, Survey, joined, no_progress
from radiator.store.file.watermark import Watermark, write_watermark

__all__ = ["Gone", "Plan", "Repaired", "Unknown", "repair"]

_BATCH_BYTES = 1 << 20
_COPY_BYTES = 3 << 30
"""What one new segment takes of copies: an offset has 32 bits."""


class Gone(NamedTuple):
    """Messages that were never acknowledged and cannot be had any more; both ids are included."""

    queue: str
    number: int
    first: int
    last: int
    why: str


class Unknown(NamedTuple):
    """A queue whose last messages may be gone without anything that names them: those with the id `first` or higher."""

    queue: str
    number: int
    first: int


class Plan(NamedTuple):
    """What a repair finds and will do. `copies` messages are read out of the broken segments.

    `redelivered` says that acknowledgements may be among what is lost: messages may be delivered again. `unknown` are
    the queues that may have got messages after those that are still known.
    """

    damage: list[Finding]
    gone: list[Gone]
    broken: list[int]
    copies: int
    redelivered: bool
    unknown: list[Unknown]
    steps: list[str]


class Repaired(NamedTuple):
    """The plan, and whether it was carried out; `segments` are the numbers of the new segments.

    There is none where nothing was to be done but to move away what stood in a place of a file.
    """

    plan: Plan
    done: bool
    segments: list[int]


def repair(
    fsio: Fsio,
    names: Names,
    agree: Callable[[Plan], bool],
    *,
    wall_ms: int,
    copy_bytes: int = _COPY_BYTES,
    progress: Progress = no_progress,
) -> Repaired:
    """Find what is broken, and mend it where `agree` says yes to the plan.

    StoreLocked where a daemon holds the store, StoreDamaged where nothing can be made of it or it was never whole,
    StoreFailed where there is none; OSError as the kernel gave it.
    """
    require_store(fsio, names)  # else not even a lock is made
    check_finished(fsio, names)
    for _, path, what in misplaced(fsio, names):
        raise StoreDamaged(f"{path}: {what}")
    try:
        lock = DirectoryLock(fsio, names)
    except StoreFailed as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EROFS:
            raise
        return _plan_only(fsio, names, agree, wall_ms, progress, error)
    try:
        return _repair(fsio, names, agree, wall_ms, copy_bytes, progress)
    finally:
        lock.release()


def _plan_only(
    fsio: Fsio, names: Names, agree: Callable[[Plan], bool], wall_ms: int, progress: Progress, error: StoreFailed
) -> Repaired:
    """Say what would be done on a file system that is read-only, where nobody can hold it. `error` after a yes."""

    def ask(plan: Plan) -> bool:
        if agree(plan):
            raise error
        return False

    return _repair(fsio, names, ask, wall_ms, _COPY_BYTES, progress)


def _repair(
    fsio: Fsio, names: Names, agree: Callable[[Plan], bool], wall_ms: int, copy_bytes: int, progress: Progress
) -> Repaired:
    first: Plan | None = None
    made: list[int] = []
    rounds = 0
    while True:
        found = look(fsio, names, deep=True, aside=False, progress=progress)
        try:
            plan = _plan(found)
            if plan.damage:
                _check_possible(found)
            if first is None:
                first = plan
                if not plan.damage:
                    refusal = would_start(fsio, names, found.store_id, progress)
                    if refusal is not None:
                        raise StoreDamaged(f"there is nothing that a repair could do: {refusal}")
                if not plan.damage or not agree(plan):
                    return Repaired(plan, False, made)
            elif not plan.damage:
                break
            elif not set(made[-1:]).isdisjoint(plan.broken) or rounds > len(first.broken) + 1:
                finding = plan.damage[0]
                raise StoreDamaged(f"{finding.path}: {finding.what}: still so after it was mended; mend the disk first")
            rounds += 1
            if _only_places(plan.damage):
                _move_odd(fsio, names, found.odd)
            else:
                made.append(_Repair(found, plan, wall_ms, copy_bytes, progress).run())
        finally:
            found.close()
    refusal = would_start(fsio, names, found.store_id, progress)
    if refusal is not None:
        raise StoreDamaged(f"the repair was not enough: {refusal}")
    return Repaired(first, True, made)


# ---------------------------------------------------------------------- the plan


def _plan(found: Survey) -> Plan:
    """What is to be done about the findings."""
    names = found.names
    damage = [finding for finding in found.findings if finding.damage]
    gone: list[Gone] = []
    for queue, ranges in found.missing:
        gone += [Gone(queue.name, queue.number, first, last, "in no segment") for first, last in ranges]
    lost: dict[int, tuple[QueueView, list[int]]] = {}
    for queue, id, _ in found.damaged:
        lost.setdefault(queue.number, (queue, []))[1].append(id)
    for queue, ids in lost.values():
        gone += [Gone(queue.name, queue.number, first, last, "damaged") for first, last in joined(sorted(set(ids)))]
    gone.sort(key=lambda entry: (entry.number, entry.first))
    broken = [number for number, segment in sorted(found.segments.items()) if segment.broken]
    copies = sum(found.segments[number].live for number in broken) - len(found.damaged)
    kinds = {finding.kind for finding in damage}
    steps = []
    if broken:
        files = ", ".join(os.path.basename(found.segments[number].file.path) for number in broken)
        steps.append(f"copy {max(copies, 0)} messages out of {files}, and move these to {names.quarantine}")
    if damage and not _only_places(damage):
        steps.append("write a new segment that says what is left")
    steps += [f"move {path}, which cannot be used, to {names.quarantine}" for path in found.odd]
    if "format" in kinds:
        steps.append(f"write {names.format} anew")
    unknown = [Unknown(queue.name, queue.number, first) for queue, first in found.unknown]
    return Plan(damage, gone, broken, max(copies, 0), found.uncertain, unknown, steps)


def _only_places(damage: list[Finding]) -> bool:
    """Then the log is whole, and no segment is written: a full disk must not keep a store from its spares."""
    return {finding.kind for finding in damage} <= PLACES


def _check_possible(found: Survey) -> None:
    """StoreDamaged where no state can be told."""
    names = found.names
    for finding in found.findings:
        if finding.kind == "log" and not found.segments:
            raise StoreDamaged(f"{finding.path}: {finding.what}: put it back, or restore a backup")
    # In the only segment there is stands all that happened to what stands in it: no opening batch need say it.
    if found.base is None and (len(found.segments) != 1 or not found.queues):
        raise StoreDamaged(
            f"{names.log} has no segment whose opening batch is readable: what was acknowledged cannot be told from "
            "what was not; `radiator store dump` shows what is readable; restore a backup"
        )
    if found.format is None:
        for finding in found.findings:
            if finding.kind == "format" and "says format version" in finding.what:
                raise StoreDamaged(finding.what)
        if not found.identified:
            raise StoreDamaged(
                f"{names.format}: what is left of FORMAT, watermark and index does not say that the segments in "
                f"{names.log} are of this store: mount the log that is, or restore FORMAT from a backup or a snapshot "
                "of this store; `radiator store dump` shows what is readable"
            )


# ---------------------------------------------------------------------- the deed


class _Repair:
    """One new segment, and everything around it."""

    def __init__(self, found: Survey, plan: Plan, wall_ms: int, copy_bytes: int, progress: Progress) -> None:
        self.found = found
        self.fsio = found.fsio
        self.names = found.names
        self.wall_ms = wall_ms
        self.progress = progress
        self.in_the_way = [finding.path for finding in plan.damage if finding.kind == "place"]
        self.evacuated = self._budget(plan.broken, copy_bytes)
        self.copied: dict[int, set[int]] = {}  # by queue: ids whose copies stand in the new segment

    def _budget(self, broken: list[int], copy_bytes: int) -> list[int]:
        """As many broken segments as one new segment can take the messages of; one at least."""
        chosen: list[int] = []
        left = copy_bytes
        for number in broken:
            left -= self.found.segments[number].live_bytes
            if chosen and left < 0:
                break
            chosen.append(number)
        return chosen

    def run(self) -> int:
        """Do it; the number of the new segment."""
        found, fsio, names = self.found, self.fsio, self.names
        _check_possible(found)
        # First what stands in the place of a file that is to be written; what may hold something when all is whole.
        _move_odd(fsio, names, self.in_the_way)
        found.odd = [path for path in found.odd if path not in self.in_the_way]
        fsio.make_directory(names.quarantine)
        fsio.make_directory(names.log)
        originals = [found.segments[number].file.path for number in self.evacuated]
        if found.format is None and "FORMAT" in fsio.list_directory(names.directory) and names.format not in found.odd:
            originals.append(names.format)
        kept: list[str] = []
        try:
            for path in originals:
                kept.append(_free_name(fsio, path, names.quarantine))
                link_or_copy(fsio, path, kept[-1])
            fsio.sync_directory(names.quarantine)
            number = self._number()
            end = self._write(number)
        except BaseException:
            _discard(fsio, kept)  # the originals are in their places, and the disk may be full
            raise
        _move_odd(fsio, names, found.odd)
        mark = found.watermark
        sequence = mark.sequence + 1 if mark is not None else 1
        write_watermark(
            fsio, names.watermark, found.store_id, Watermark(sequence, address_of(number, end), clean=False), sync=True
        )
        if found.format is None:
            replace_file(fsio, names.format, encode_format(Format(found.store_id)))
        for path in originals:
            if path != names.format:
                fsio.unlink(path)
        fsio.sync_directory(names.log)
        return number

    def _number(self) -> int:
        """A number that no segment ever had, as far as anything that is left can tell."""
        found = self.found
        used = [*self.names.segments(self.fsio), *found.segments, *found.stated, 0]
        if found.watermark is not None:
            used.append(found.watermark.address >> 32)
        for name in (*self.fsio.list_directory(self.names.quarantine), *self.fsio.list_directory(self.names.log)):
            digits = name.partition(".")[0]
            if digits.isdecimal() and len(digits) <= 10 and int(digits) < 1 << 32:
                used.append(int(digits))
        number = max(used) + 1
        if number >= 1 << 32:
            path = self.names.segment(number - 1)
            raise StoreDamaged(f"{path} has the last number that there is: move it away if it is not of this store")
        return number

    def _write(self, number: int) -> int:
        """Write the new segment, whole and durable; the offset behind its last batch."""
        fsio, names, store_id = self.fsio, self.names, self.found.store_id
        path = names.segment(number)
        temporary = f"{path}.tmp"
        fd = fsio.open(temporary, create=True)
        try:
            with naming(temporary):
                write_whole(fsio, fd, encode_segment_header(store_id, number, self.wall_ms, 0), 0)
                writer = BatchWriter(store_id)
                self._opening(writer)
                start = address_of(number, OPENING_OFFSET)
                # Nobody sees this file before all of it is synced: so each batch may say that all before it is.
                data = writer.finish(start, start, opening=True)
                write_whole(fsio, fd, data, OPENING_OFFSET)
                end = self._copy(fd, number, OPENING_OFFSET + len(data))
                fsio.sync(fd)
        except BaseException:
            _discard(fsio, [temporary])
            raise
        finally:
            fsio.close(fd)
        fsio.rename(temporary, path)
        fsio.sync_directory(names.log)
        return end

    def _opening(self, writer: BatchWriter) -> None:
        """The state of the store as it can be had: what is gone is dead, no id is used again."""
        found = self.found
        absent = [number for number in found.stated if number not in found.segments]
        lost = len(absent)
        if found.watermark is not None:
            lost += max(0, (found.watermark.address >> 32) - found.newest)
        writer.next_queue(found.next_queue + QUEUE_HOLE * (lost + 1))
        for queue, id, address in found.damaged:
            if address >> 32 in self.evacuated:
                queue.index.kill(id, id)
        for number, queue in sorted(found.queues.items()):
            index = queue.index
            # Whatever was lost may have held ids that nothing tells of now.
            index.skip(index.next + HOLE * 2 * (lost + 1))
            writer.state(number, queue.name, index.next, index.floor, index.dead_ranges())
            counts = index.counts()
            if counts:
                writer.counts(number, counts)
        for number, segment in sorted(found.segments.items()):
            if segment.role != "unlisted" and number not in self.evacuated:
                writer.segment(number, segment.end)

    def _copy(self, fd: int, number: int, end: int) -> int:
        """Append the messages of the broken segments as batches; the offset behind the last."""
        found, evacuated = self.found, set(self.evacuated)
        places: dict[int, int] = {}
        for queue in found.queues.values():
            places.update((address, length) for _, address, length in queue.places() if address >> 32 in evacuated)
        writer = BatchWriter(found.store_id)
        for done, address in enumerate(sorted(places)):
            try:
                record = found.message(address, places[address])
                message, _ = decode_message(record)
            except CorruptRecord as error:
                what = "it was readable a moment ago; mend the disk, then repair again"
                raise StoreDamaged(f"{found.names.segment(address >> 32)}: {error}: {what}") from error
            refs = []
            for owner, id in decode_references(record):
                view = found.queues.get(owner)
                place = view.index.get(id) if view is not None else None
                if place is not None and place[1] == address:
                    refs.append((owner, id))
                    message.deliveries = max(message.deliveries, place[3])
            writer.put(message, refs)
            if writer.size >= _BATCH_BYTES:
                end = self._batch(fd, number, end, writer)
                self.progress("copying messages", done, len(places))
        if not writer.empty:
            end = self._batch(fd, number, end, writer)
        self.progress("copying messages", len(places), len(places))
        return end

    def _batch(self, fd: int, number: int, end: int, writer: BatchWriter) -> int:
        start = address_of(number, end)
        data = writer.finish(start, start)
        write_whole(self.fsio, fd, data, end)
        end += len(data)
        data.release()
        writer.clear()
        return end


def _move_odd(fsio: Fsio, names: Names, paths: list[str]) -> None:
    """Move to quarantine/ what cannot be used, or aside where that is another file system."""
    if not paths:
        return
    fsio.make_directory(names.quarantine)
    for path in paths:
        beside = _free_name(fsio, path + ASIDE, os.path.dirname(path))
        move_aside(fsio, path, _free_name(fsio, path, names.quarantine), beside)
    fsio.sync_directory(names.quarantine)
    for folder in sorted({os.path.dirname(path) for path in paths} | {names.directory}):
        fsio.sync_directory(folder)


def _discard(fsio: Fsio, paths: list[str]) -> None:
    """Take back names that were given, as far as they are there and that can be done."""
    for path in paths:
        with suppress(OSError):
            fsio.unlink(path)


def _free_name(fsio: Fsio, path: str, folder: str) -> str:
    """A path in `folder` for what is at `path`, with its own name or one like it."""
    name = os.path.basename(path)
    taken = set(fsio.list_directory(folder))
    count = 0
    new = name
    while new in taken:
        count += 1
        new = f"{name}.{count}"
    return os.path.join(folder, new)
