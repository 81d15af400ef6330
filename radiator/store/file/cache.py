"""The saved index: what a start after a clean stop reads instead of the whole log.

It is a cache. It must never be believed beyond its checksums and the clean stop that it names, make a start fail, or
hold up a stop. Called by: `engine` (saves it after a clean stop), `recovery` (asks for it), `log` (takes it away),
`agreement` (holds it against the log), `survey` (asks whose it is).

It is good for one moment only: it names the end of the log and the watermark's sequence of the clean stop that it
belongs to. The first write of the next run begins a new segment, which makes another end, so it is out of date from
then on, by rule; that it is then unlinked only gives back its room. The file, little-endian:

    header, 64 bytes
     0  magic      8s   "RADINDX1"
     8  store id   16s
    24  end        u64  the address behind the last batch of the log
    32  sequence   u64  of the watermark of that clean stop
    40  queue      u32  the next queue's number
    44  zeros
    60  crc        u32  CRC-32 of bytes 0 to 60
    sections, one behind the other: kind u32, length u32, crc u32, payload. The crc is that of the payload, begun with
    that of the head's first 8 bytes, begun with the crc of what came before: nothing can be left out or moved.
     1  SEGMENT     number u32, flags u32 (bit 0: damaged), end u64, live u64, live bytes u64; then offset u32 of every
                    record with several live references, then as many u32: how many
     2  QUEUE       number u32, live u32, next u64, floor u64, name in UTF-8
     3  PIECE       of the index of the queue before, as `QueueIndex.dump` writes it
     4  END         nothing; the file ends here
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from struct import Struct
from zlib import crc32

from radiator.errors import CorruptRecord
from radiator.store.file.damage import is_damage
from radiator.store.file.format import Names
from radiator.store.file.fsio import Fsio, naming
from radiator.store.file.ledger import FileQueue, Ledger
from radiator.store.file.segment import Segment, write_whole
from radiator.store.file.watermark import Watermark

__all__ = ["SAVE_SECONDS", "discard_index", "index_owner", "load_index", "read_index", "save_index"]

SAVE_SECONDS = 2.0
"""A stop does not spend more than this on it, whatever the disk does; 10 million messages need 0.5 s here."""

_HEADER_BYTES = 64
_HEADER = Struct("<8s16sQQI16x")
_MAGIC = b"RADINDX1"
_HEAD = Struct("<II")
_SEGMENT_ROW = Struct("<IIQQQ")
_QUEUE_ROW = Struct("<IIQQ")
_U32 = Struct("<I")
_SEGMENT, _QUEUE, _PIECE, _END = 1, 2, 3, 4
_DAMAGED = 1
_SECTION_BYTES = 1 << 28
_MESSAGE_BYTES = 16
_WRITE_BYTES = 4 << 20
_READ_BYTES = 4 << 20

Report = Callable[..., None]


def save_index(
    fsio: Fsio,
    names: Names,
    store_id: bytes,
    ledger: Ledger,
    mark: Watermark,
    clock: Callable[[], float],
    *,
    keep_free: int = 0,
) -> str | None:
    """Write down the ledger of the clean stop `mark`: nothing is at the disk any more. The reason where it was not.

    A disk that is slow, broken or would have less than `keep_free` bytes left costs the cache and nothing else. `clock`
    gives monotonic seconds.
    """
    temporary = f"{names.index}.tmp"
    deadline = clock() + SAVE_SECONDS
    try:
        needed = _MESSAGE_BYTES * sum(queue.index.live for queue in ledger.queues.values())
        if fsio.free_bytes(names.directory) < keep_free + needed:
            return f"it needs {needed} bytes, and {keep_free} are to be left free"
        fd = fsio.open(temporary, create=True)
        try:
            done = _write(fsio, fd, _contents(store_id, ledger, mark), lambda: clock() < deadline)
        finally:
            fsio.close(fd)
        if done:
            fsio.rename(temporary, names.index)
            fsio.sync_directory(names.directory)
            return None
        reason = f"that takes longer than {SAVE_SECONDS:.0f} s"
    except (OSError, ValueError) as error:
        reason = str(error)
    try:
        fsio.unlink(temporary)
    except OSError as error:
        reason = f"{reason}; {error}"
    return reason


def _write(fsio: Fsio, fd: int, pieces: Iterator[bytes], in_time: Callable[[], bool]) -> bool:
    """Bring it to the disk step by step, so that no sync is long; False where the time is over before the end."""
    offset = 0
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        if len(buffer) >= _WRITE_BYTES:
            write_whole(fsio, fd, memoryview(buffer), offset)
            fsio.sync_data(fd)
            offset += len(buffer)
            buffer = bytearray()
            if not in_time():
                return False
    write_whole(fsio, fd, memoryview(buffer), offset)
    fsio.sync(fd)
    return True


def _contents(store_id: bytes, ledger: Ledger, mark: Watermark) -> Iterator[bytes]:
    """The file in pieces. ValueError where the ledger is not what it must be after a clean stop."""
    header = _HEADER.pack(_MAGIC, store_id, mark.address, mark.sequence, ledger.next_queue)
    crc = crc32(header)
    yield header + _U32.pack(crc)
    for kind, payload in _sections(ledger):
        head = _HEAD.pack(kind, len(payload))
        crc = crc32(payload, crc32(head, crc))
        yield head + _U32.pack(crc)
        yield payload


def _sections(ledger: Ledger) -> Iterator[tuple[int, bytes]]:
    if ledger.dropping or ledger.declared:
        raise ValueError("queues are still coming or going")
    for number, segment in sorted(ledger.segments.items()):
        flags = _DAMAGED if segment.damaged else 0
        row = _SEGMENT_ROW.pack(number, flags, segment.end, segment.live, segment.live_bytes)
        kept = [at for at, count in enumerate(segment.sharers) if count]
        offsets = array("I", [segment.shared[at] for at in kept])
        counts = array("I", [segment.sharers[at] for at in kept])
        yield _SEGMENT, row + _little(offsets).tobytes() + _little(counts).tobytes()
    for number, queue in sorted(ledger.queues.items()):
        index = queue.index
        if index.missing(1):
            raise ValueError(f"messages of queue {queue.name} are missing")
        yield _QUEUE, _QUEUE_ROW.pack(number, index.live, index.next, index.floor) + queue.name.encode()
        piece, id = index.dump()
        while piece:
            yield _PIECE, piece
            piece, id = index.dump(id)
    yield _END, b""


def load_index(
    fsio: Fsio, names: Names, store_id: bytes, mark: Watermark, report: Report
) -> tuple[Ledger, list[Segment]] | None:
    """The ledger as saved at the clean stop `mark`, and the segments that it needs, not open yet (their fd is -1).

    None where there is none, where it is of another moment, or where anything at all is doubtful: then the log is read.
    OSError where the system does not let it be read, which says nothing about it.
    """
    try:
        fd = fsio.open(names.index)
    except FileNotFoundError:
        return None
    except OSError as error:
        if not is_damage(error):
            raise
        report("saved index is not readable: the log is read instead", path=names.index, reason=str(error))
        return None
    try:
        with naming(names.index):
            return _load(_parts(_Reading(fsio, fd), store_id, mark))
    except (OSError, ValueError, CorruptRecord) as error:
        if isinstance(error, OSError) and not is_damage(error):
            raise
        report("saved index is damaged: the log is read instead", path=names.index, reason=str(error))
        return None
    finally:
        fsio.close(fd)


def read_index(fsio: Fsio, names: Names, store_id: bytes, mark: Watermark) -> Iterator[int | Segment | FileQueue]:
    """The saved index of the clean stop `mark` part by part: the next queue's number, the segments, the queues.

    Nothing where it is of another stop. What came is to be believed only when all of it has come: OSError, ValueError
    or CorruptRecord say that it is of no use.
    """
    fd = fsio.open(names.index)
    try:
        with naming(names.index):
            yield from _parts(_Reading(fsio, fd), store_id, mark)
    finally:
        fsio.close(fd)


def index_owner(fsio: Fsio, names: Names) -> bytes | None:
    """The id of the store that a saved index is of, whatever stop it is of; None where nothing readable says it.

    OSError where the system does not let it be read, which says nothing about it.
    """
    try:
        fd = fsio.open(names.index)
        try:
            with naming(names.index):
                magic, owner, *_ = _HEADER.unpack(_Reading(fsio, fd).header()[:-4])
        finally:
            fsio.close(fd)
    except CorruptRecord:
        return None
    except OSError as error:
        if not is_damage(error):
            raise
        return None
    return bytes(owner) if magic == _MAGIC else None


class _Reading:
    """The file read forward; every byte is verified before it is given out."""

    def __init__(self, fsio: Fsio, fd: int) -> None:
        self._fsio = fsio
        self._fd = fd
        self._offset = 0
        self._data = memoryview(b"")
        self._crc = 0
        # What was read and not used yet: one section of the sections' stream.
        self._waiting: tuple[int, memoryview] | None = None

    def take(self, length: int) -> memoryview:
        """The next `length` bytes."""
        if length > len(self._data):
            self._data = memoryview(self._fsio.read(self._fd, self._offset, max(length, _READ_BYTES)))
            if length > len(self._data):
                raise CorruptRecord("it is cut short")
        taken, self._data = self._data[:length], self._data[length:]
        self._offset += length
        return taken

    def header(self) -> memoryview:
        header = self.take(_HEADER_BYTES)
        self._crc = crc32(header[:-4])
        if self._crc != _U32.unpack(header[-4:])[0]:
            raise CorruptRecord("the checksum of its header does not fit")
        return header

    def section(self, *kinds: int) -> memoryview | None:
        """The payload of the next section where it is of one of `kinds`; None where it is of another."""
        if self._waiting is None:
            head = self.take(_HEAD.size)
            kind, length = _HEAD.unpack(head)
            (expected,) = _U32.unpack(self.take(_U32.size))
            if length > _SECTION_BYTES:
                raise CorruptRecord(f"a section cannot have {length} bytes")
            crc = crc32(head, self._crc)
            payload = self.take(length)
            self._crc = crc32(payload, crc)
            if self._crc != expected:
                raise CorruptRecord(f"the checksum of the section before byte {self._offset} does not fit")
            self._waiting = (kind, payload)
        kind, payload = self._waiting
        if kind not in kinds:
            return None
        self._waiting = None
        return payload

    def pieces(self) -> Iterator[memoryview]:
        while (piece := self.section(_PIECE)) is not None:
            yield piece

    def check_end(self) -> None:
        if self.section(_END) is None or len(self._data) or len(self._fsio.read(self._fd, self._offset, 1)):
            raise CorruptRecord("it does not end where it should")


def _load(parts: Iterator[int | Segment | FileQueue]) -> tuple[Ledger, list[Segment]] | None:
    ledger: Ledger | None = None
    segments: list[Segment] = []
    for part in parts:
        if ledger is None:
            assert isinstance(part, int)
            ledger = Ledger()
            ledger.next_queue = part
        elif isinstance(part, Segment):
            segments.append(part)
        else:
            assert isinstance(part, FileQueue)
            ledger.queues[part.number] = part
    return None if ledger is None else (ledger, segments)


def _parts(reading: _Reading, store_id: bytes, mark: Watermark) -> Iterator[int | Segment | FileQueue]:
    magic, owner, end, sequence, next_queue = _HEADER.unpack(reading.header()[:-4])
    if magic != _MAGIC or owner != store_id:
        raise CorruptRecord("it is not the saved index of this store")
    if (end, sequence) != (mark.address, mark.sequence):
        return  # of an earlier stop
    yield next_queue
    messages = 0
    while (payload := reading.section(_SEGMENT)) is not None:
        segment = _segment(payload)
        messages -= segment.live
        yield segment
    while (payload := reading.section(_QUEUE)) is not None:
        if len(payload) < _QUEUE_ROW.size:
            raise CorruptRecord("a queue is cut short")
        number, live, next, floor = _QUEUE_ROW.unpack_from(payload)
        queue = FileQueue(str(payload[_QUEUE_ROW.size :], "utf-8"), number, floor, next)
        queue.index.load(reading.pieces())
        if queue.index.live != live:
            raise CorruptRecord(f"queue {queue.name} has {queue.index.live} messages, not {live}")
        messages += live
        yield queue
    reading.check_end()
    if messages:
        raise CorruptRecord("its queues have another number of messages than its segments")


def _segment(payload: memoryview) -> Segment:
    shared = len(payload) - _SEGMENT_ROW.size
    if shared < 0 or shared % 8:
        raise CorruptRecord("a segment is cut short")
    number, flags, end, live, live_bytes = _SEGMENT_ROW.unpack_from(payload)
    segment = Segment(number, -1, end)
    segment.live = live
    segment.live_bytes = live_bytes
    segment.damaged = bool(flags & _DAMAGED)
    middle = _SEGMENT_ROW.size + shared // 2
    segment.shared.frombytes(payload[_SEGMENT_ROW.size : middle])
    segment.sharers.frombytes(payload[middle:])
    _little(segment.shared)
    _little(segment.sharers)
    return segment


def _little(numbers: array[int]) -> array[int]:
    """From this machine's order of bytes to the file's, or back; in place."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def discard_index(fsio: Fsio, names: Names) -> None:
    """Give back its room, if it is there and if that can be: it is of the past, and nothing depends on its going."""
    with suppress(OSError):
        fsio.unlink(names.index)
