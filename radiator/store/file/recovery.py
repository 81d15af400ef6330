"""Reading the log at a start: what is there, what of the end was never synced, and what must be refused.

It must never write: not a byte, not a name (it syncs what it is about to trust). Recovering twice equals recovering
once. Called by: `engine.FileStore.open`.

    T = the newest segment; its opening batch is the state at its birth.
    Older segments: those it lists verify to their stated ends, and are searched for what is still alive.
    D = everything below is known to be synced: the highest of the watermark, the end of T's opening batch, and
        `durable` in any batch header of T, gaps or not. (A header needs not its whole batch to be believed: what it
        says was true when it was made, and it has a checksum of its own.)
    X = the first batch of T that does not verify.
    X >= D: an unsynced tail, whose receipts never left: it stays where it is, the log ends at X.
    X <  D: what was acknowledged is damaged: refused.
    At last every id between a queue's floor and its next id is dead or located, or the start is refused.

After a clean stop nothing of this is read where the saved index (see `cache`) is there and beyond doubt.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from radiator.errors import CorruptRecord, StoreDamaged
from radiator.store.base import Progress, Reason
from radiator.store.file.cache import load_index
from radiator.store.file.format import Names
from radiator.store.file.fsio import Fsio, naming
from radiator.store.file.ledger import Ledger
from radiator.store.file.record import (
    BLOCK,
    HEADER_BYTES,
    OPENING,
    BatchHeader,
    decode_batch_header,
    decode_segment_header,
    scan_batch,
)
from radiator.store.file.segment import OPENING_OFFSET, Segment, address_of, where
from radiator.store.file.watermark import Watermark, read_watermark

__all__ = ["HOLE", "QUEUE_HOLE", "Recovered", "Report", "recover"]

HOLE = 1 << 24
"""Ids that a queue skips after an unclean end: more than a segment can hold, so no id that was lost is used again."""

QUEUE_HOLE = 1 << 16
"""Numbers of queues that are skipped then: one whose definition was lost may have delivered. More than any limit."""

_WINDOW_BYTES = 4 << 20
_ADVICE = "nothing was changed; restore a backup, or keep a copy of the whole directory before anything else is tried"


class Report(Protocol):
    """What an operator should hear of; the engine's `report` callback."""

    def __call__(self, event: str, **fields: Any) -> None:
        """`event` in a few words, and what belongs to it. A warning, where `level` says neither "info" nor "error"."""


class Recovered(NamedTuple):
    """The outcome of a recovery. `tail` is T and ends at X; `clean` says that a clean stop came last.

    `from_index` says that the saved index was used: of the log only `tail` was read.
    """

    ledger: Ledger
    tail: Segment
    clean: bool
    watermark: Watermark | None
    from_index: bool = False


class _Window:
    """A file read forward in large pieces."""

    def __init__(self, fsio: Fsio, fd: int, path: str) -> None:
        self._fsio = fsio
        self._fd = fd
        self._path = path
        self._start = 0
        self._data = memoryview(b"")
        self.size = fsio.size(fd)

    def get(self, offset: int, length: int) -> memoryview:
        """`length` bytes at `offset`; fewer where the file ends."""
        begin = offset - self._start
        if begin < 0 or begin + length > len(self._data):
            with naming(self._path):
                self._data = memoryview(self._fsio.read(self._fd, offset, max(length, _WINDOW_BYTES)))
            self._start = offset
            begin = 0
        return self._data[begin : begin + length]


class _Reader:
    """One segment being read, batch by batch."""

    def __init__(self, fsio: Fsio, names: Names, store_id: bytes, number: int, *, newest: bool = False) -> None:
        self.path = names.segment(number)
        self.number = number
        self._store_id = store_id
        self._fsio = fsio
        self.fd = fsio.open(self.path, write=newest)
        self.window = _Window(fsio, self.fd, self.path)

    def check_header(self) -> None:
        """Refuse a segment of another store, another number, or without a whole header."""
        try:
            header = decode_segment_header(self.window.get(0, BLOCK))
        except CorruptRecord as error:
            raise self.damaged(0, f"{error}") from error
        if header.store_id != self._store_id:
            raise self.damaged(0, "it belongs to another store")
        if header.number != self.number:
            raise self.damaged(0, f"its header says it is segment {header.number}")

    def header(self, offset: int) -> BatchHeader:
        """The header of the batch at `offset`. CorruptRecord where there is none."""
        address = address_of(self.number, offset)
        return decode_batch_header(self.window.get(offset, HEADER_BYTES), address, self._store_id)

    def batch(
        self, offset: int, payloads: bool, damaged: list[tuple[Any, ...]] | None = None
    ) -> tuple[int, list[tuple[Any, ...]]]:
        """The offset behind the batch at `offset`, and its events. CorruptRecord where it does not verify."""
        length = self.header(offset).length
        if offset + length > self.window.size:
            raise CorruptRecord(f"{where(address_of(self.number, offset))}: the batch is longer than the file")
        data = self.window.get(offset, length)
        return offset + length, scan_batch(data, address_of(self.number, offset), self._store_id, payloads, damaged)

    def opening(self) -> tuple[int, list[tuple[Any, ...]]]:
        """The same for the opening batch: a segment without it was never born, so it is refused."""
        try:
            end, events = self.batch(OPENING_OFFSET, payloads=True)
            if not self.header(OPENING_OFFSET).flags & OPENING:
                raise CorruptRecord(f"{where(address_of(self.number, OPENING_OFFSET))}: this is no opening batch")
        except CorruptRecord as error:
            raise self.damaged(OPENING_OFFSET, f"{error}") from error
        return end, events

    def damaged(self, offset: int, what: str) -> StoreDamaged:
        """The refusal that names this file and place."""
        return StoreDamaged(f"{self.path} is damaged at offset {offset}: {what}; {_ADVICE}")


def recover(
    fsio: Fsio, names: Names, store_id: bytes, numbers: list[int], report: Report, progress: Progress
) -> Recovered:
    """Read the log whose segments are `numbers`, ascending.

    StoreDamaged where the rules above refuse: the text says segment, offset, what and what to do. OSError as the kernel
    gave it. The segments of the returned ledger are open; after a refusal none is.
    """
    ledger = Ledger()
    opened: list[int] = []
    try:
        return _recover(fsio, names, store_id, numbers, report, progress, ledger, opened)
    except BaseException:
        for fd in opened:
            fsio.close(fd)
        raise


def _recover(
    fsio: Fsio,
    names: Names,
    store_id: bytes,
    numbers: list[int],
    report: Report,
    progress: Progress,
    ledger: Ledger,
    opened: list[int],
) -> Recovered:
    mark = read_watermark(fsio, names.watermark, store_id)
    newest = numbers[-1] if numbers else 0
    if not numbers:
        raise StoreDamaged(f"{names.log} holds no segment, and every store has one; {_ADVICE}")
    if mark is not None and mark.address >> 32 > newest:
        raise StoreDamaged(
            f"{names.segment(mark.address >> 32)} is missing: the watermark says that it was written and synced up to "
            f"offset {mark.address & 0xFFFFFFFF}; {_ADVICE}"
        )
    stopped = mark if mark is not None and mark.clean and mark.address >> 32 == newest else None
    reader = _Reader(fsio, names, store_id, newest, newest=True)
    opened.append(reader.fd)
    if stopped is None:
        # The page cache may vouch for what the disk does not have: first make it so, then read what the disk says.
        fsio.sync(reader.fd)
        fsio.sync_directory(names.log)
        fsio.drop_cache(reader.fd)
    reader.check_header()
    if stopped is not None and reader.window.size == stopped.address & 0xFFFFFFFF:
        saved = _saved(fsio, names, store_id, numbers, report, stopped, reader, opened)
        if saved is not None:
            return Recovered(saved, saved.segments[newest], True, stopped, from_index=True)
    opening_end, events = reader.opening()
    tail = ledger.segments[newest] = Segment(newest, reader.fd, opening_end)
    ledger.apply(events, tail)
    _read_older(fsio, names, store_id, numbers[:-1], report, progress, ledger, opened)
    durable = _durable(reader, opening_end)
    if mark is not None and mark.address >> 32 == newest:
        durable = max(durable, mark.address & 0xFFFFFFFF)
    _replay(reader, tail, ledger, durable, report)
    total = reader.window.size + sum(ledger.stated.values())
    progress(f"read {len(ledger.segments)} segments", total, total)
    _check_missing(names, ledger)
    clean = stopped is not None and stopped.address == tail.end_address
    if not clean:
        ledger.next_queue += QUEUE_HOLE
    for queue in ledger.queues.values():
        if not clean:
            queue.index.skip(queue.index.next + HOLE)
        queue.next_id = queue.index.next
        queue.index.recount(queue.counts.items())
        queue.counts = {}
    ledger.gained.clear()
    return Recovered(ledger, tail, clean, mark)


def _saved(
    fsio: Fsio,
    names: Names,
    store_id: bytes,
    numbers: list[int],
    report: Report,
    stopped: Watermark,
    tail: _Reader,
    opened: list[int],
) -> Ledger | None:
    """The state as the clean stop saved it, if that can be trusted and every segment in it is there; else None.

    The newest segment is verified to its end. Of the older ones only the headers are; deliveries verify the messages,
    and `scrub` reads all that was not read here. Damage in them refuses no start before the next one that reads them.
    """
    try:
        found = load_index(fsio, names, store_id, stopped, report)
    except OSError as error:
        report("saved index is not readable: the log is read instead", path=names.index, reason=str(error))
        return None
    if found is None:
        return None
    ledger, segments = found
    listed = {segment.number for segment in segments}
    if tail.number not in listed or not listed.issubset(numbers):
        return None  # the log itself says whether what is missing is needed
    offset = OPENING_OFFSET
    try:
        while offset < tail.window.size:
            offset, _ = tail.batch(offset, payloads=True)
    except CorruptRecord:
        return None  # the reader of the log knows what to do with it
    for segment in segments:
        reader = tail
        if segment.number != tail.number:
            reader = _Reader(fsio, names, store_id, segment.number)
            opened.append(reader.fd)
            reader.check_header()
        if reader.window.size < segment.end:
            for fd in opened[1:]:
                fsio.close(fd)
            del opened[1:]
            return None
        segment.fd = reader.fd
        ledger.segments[segment.number] = segment
        if not segment.live:
            ledger.emptied.add(segment)
    for number in numbers:
        if number not in listed:
            _leave_alone(names, number, report)
    for queue in ledger.queues.values():
        queue.next_id = queue.index.next
    return ledger


def _leave_alone(names: Names, number: int, report: Report) -> None:
    report("segment is not part of the log and was left alone", segment=number, path=names.segment(number))


def _read_older(
    fsio: Fsio,
    names: Names,
    store_id: bytes,
    numbers: list[int],
    report: Report,
    progress: Progress,
    ledger: Ledger,
    opened: list[int],
) -> None:
    """Open the older segments that the newest lists, and locate what lives in them.

    One that is listed and not there may have been unlinked since: the search for missing ids tells. One that is there
    and not listed was unlinked before, which then did not reach the disk: nothing in it is alive, it is left alone.
    """
    newest = max(ledger.segments)
    total = sum(ledger.stated.values()) + ledger.segments[newest].end
    done = 0
    for number in reversed(numbers):  # so the copy that counts is met before those it replaced
        end = ledger.stated.get(number)
        if end is None:
            _leave_alone(names, number, report)
            continue
        progress(f"reading segment {len(ledger.segments)} of {len(ledger.stated) + 1}", done, total)
        reader = _Reader(fsio, names, store_id, number)
        opened.append(reader.fd)
        segment = ledger.segments[number] = Segment(number, reader.fd, end)
        reader.check_header()
        offset = OPENING_OFFSET
        while offset < end:
            try:
                behind, events = reader.batch(offset, payloads=False)
                if behind > end:
                    raise CorruptRecord(f"the batch ends behind the segment's end at offset {end}")
            except CorruptRecord as error:
                raise reader.damaged(offset, f"{error} (the segment was synced up to offset {end})") from error
            ledger.locate(events, segment)
            offset = behind
        if not segment.live:
            ledger.emptied.add(segment)
        done += end


def _durable(reader: _Reader, opening_end: int) -> int:
    """The highest offset of this segment that it says itself was synced."""
    durable = offset = opening_end
    size = reader.window.size
    base = address_of(reader.number, 0)
    begins = bytes(reader.window.get(OPENING_OFFSET, 4))
    while offset + HEADER_BYTES <= size:
        if reader.window.get(offset, 4) != begins:  # most blocks are no header, and an error takes its time
            offset += BLOCK
            continue
        try:
            header = reader.header(offset)
        except CorruptRecord:
            offset += BLOCK
            continue
        if header.durable >> 32 == reader.number:
            durable = max(durable, header.durable - base)
        # A batch may be a hole, or the remains of one that a later write did not cover: look behind its header only.
        offset += BLOCK
    return durable


def _replay(reader: _Reader, tail: Segment, ledger: Ledger, durable: int, report: Report) -> None:
    """Apply the batches of the newest segment up to the first that does not verify; judge that one."""
    offset = tail.end
    reason = "the file ends there"
    while offset < reader.window.size:
        damaged: list[tuple[Any, ...]] = []
        try:
            behind, events = reader.batch(offset, payloads=True, damaged=damaged)
            if damaged and behind > durable:
                raise CorruptRecord(f"{where(damaged[0][3])}: the checksum of the payload does not fit")
        except CorruptRecord as error:
            reason = str(error)
            break
        spoilt = set(damaged)
        for event in damaged:
            queue = ledger.queues.get(event[1])
            if queue is not None and queue.index.get(event[2]) is not None:
                spoilt.discard(event)  # a damaged copy whose source is still there: that one counts
                events.remove(event)
        ledger.apply(events, tail)
        for event in sorted(spoilt):
            _, number, id, address, length, *_ = event
            queue = ledger.queues.get(number)
            if queue is not None and queue.index.get(id) is not None:
                report(
                    "message is damaged and was set aside",
                    queue=queue.name,
                    id=id,
                    place=where(address),
                    bytes=length,
                    path=reader.path,
                    reason=Reason.DAMAGED.name.lower(),
                )
                ledger.kill(queue, id, id)
                ledger.spoilt.append((queue, id, address))
                tail.damaged = True
        offset = tail.end = behind
    if offset < durable:
        raise reader.damaged(
            offset, f"{reason}, but everything up to offset {durable} was synced and may have been acknowledged"
        )


def _check_missing(names: Names, ledger: Ledger) -> None:
    """Refuse where a message that must be there was not found: a segment or a part of one is gone."""
    for queue in ledger.queues.values():
        missing = queue.index.missing(8)
        if missing:
            absent = [number for number in sorted(ledger.stated) if number not in ledger.segments]
            files = ", ".join(names.segment(number) for number in absent[:8]) or "no listed segment is missing"
            raise StoreDamaged(
                f"{names.directory}: queue {queue.name} (number {queue.number}) lacks messages that were never "
                f"acknowledged: ids {', '.join(map(str, missing))}{' …' if len(missing) == 8 else ''}; segments that "
                f"the log lists and that are not there: {files}; {_ADVICE}"
            )
