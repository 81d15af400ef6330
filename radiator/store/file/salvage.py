"""One segment file read with patience: batches that verify, and what is left of one that does not.

It must never write, and never take a record whose checksums do not fit. Bodies may hold anything, also copies of a log:
so records are never searched for, only followed from the start of their batch; batches are recognised by the address
and the store that they name. Called by: `survey`, `replay`, `snapshot`; `scrub` reads around bad blocks as this does.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, NamedTuple
from zlib import crc32

from radiator.errors import CorruptRecord
from radiator.store.file.damage import DAMAGE_ERRORS
from radiator.store.file.fsio import Fsio, naming
from radiator.store.file.record import BLOCK, HEADER_BYTES, MAX_PAYLOAD, decode_batch, decode_batch_header
from radiator.store.file.segment import address_of, where

__all__ = ["Batch", "SegmentFile", "read_around"]

Event = tuple[Any, ...]

_WINDOW_BYTES = 1 << 20
_HEAD = Struct("<IBBHIIII")
_BATCH = Struct("<QQIIII16sII")


def read_around(fsio: Fsio, fd: int, offset: int, length: int, failed: Callable[[OSError], None]) -> memoryview:
    """`length` bytes block by block, zeros for those that cannot be read: `failed` hears of each, and may raise."""
    pieces: list[bytes | memoryview] = []
    for start in range(offset, offset + length, BLOCK):
        wanted = min(BLOCK, offset + length - start)
        try:
            pieces.append(fsio.read(fd, start, wanted))
        except OSError as error:
            failed(error)
            pieces.append(bytes(wanted))
    return memoryview(b"".join(pieces))


class Batch(NamedTuple):
    """What a batch says, and the PUT events whose payload is damaged (they are among `events` too).

    `whole` is false for the remains of one that does not verify; `length` then reaches to where the next may begin.
    """

    offset: int
    length: int
    flags: int
    events: list[Event]
    damaged: list[Event]
    whole: bool = True


class SegmentFile:
    """An open segment. What the disk does not give back is a CorruptRecord, as what does not verify is.

    OSError where the system could not read, which says nothing about the bytes.
    """

    __slots__ = ("_data", "_fsio", "_start", "fd", "number", "path", "size", "store_id")

    def __init__(self, fsio: Fsio, path: str, number: int, store_id: bytes = bytes(16)) -> None:
        self.path = path
        self.number = number
        self.store_id = store_id
        self._fsio = fsio
        self._start = 0
        self._data = memoryview(b"")
        self.fd = fsio.open(path)
        try:
            with naming(path):
                self.size = fsio.size(self.fd)
        except BaseException:
            fsio.close(self.fd)
            raise

    def close(self) -> None:
        """Give the file back."""
        self._data = memoryview(b"")
        self._fsio.close(self.fd)

    def forget(self) -> None:
        """Read again what was read: a daemon may have written since."""
        self._start = 0
        self._data = memoryview(b"")
        self.size = self._fsio.size(self.fd)

    def get(self, offset: int, length: int, ahead: int = _WINDOW_BYTES) -> memoryview:
        """`length` bytes at `offset`; fewer where the file ends. So many bytes `ahead` are read with them."""
        begin = offset - self._start
        if begin < 0 or begin + length > len(self._data):
            try:
                self._data = memoryview(self._fsio.read(self.fd, offset, max(length, ahead)))
            except OSError:
                self._data = self._read(offset, length)
            self._start = offset
            begin = 0
        return self._data[begin : begin + length]

    def _read(self, offset: int, length: int) -> memoryview:
        try:
            with naming(self.path):
                return memoryview(self._fsio.read(self.fd, offset, length))
        except OSError as error:
            self._data = memoryview(b"")
            self._check_damage(error)
            what = error.strerror or str(error)
            raise CorruptRecord(f"{where(address_of(self.number, offset))}: reading failed: {what}") from error

    def _check_damage(self, error: OSError) -> None:
        """Raise it again where it says nothing about the bytes."""
        if error.errno not in DAMAGE_ERRORS:
            with naming(self.path):
                raise error

    def get_anyhow(self, offset: int, length: int) -> memoryview:
        """The same, with zeros for what the disk does not give back."""
        try:
            return self.get(offset, length)
        except CorruptRecord:
            return read_around(self._fsio, self.fd, offset, min(length, self.size - offset), self._check_damage)

    def batch(self, offset: int, *, payloads: bool) -> Batch:
        """The batch at `offset`. CorruptRecord where it does not verify; damaged payloads of messages are listed."""
        address = address_of(self.number, offset)
        header = decode_batch_header(self.get(offset, HEADER_BYTES), address, self.store_id)
        if offset + header.length > self.size:
            raise CorruptRecord(f"{where(address)}: the batch is longer than the file")
        damaged: list[Event] = []
        events = decode_batch(self.get(offset, header.length), address, self.store_id, payloads, damaged)
        return Batch(offset, header.length, header.flags, events, damaged)

    def durable(self) -> int:
        """The highest offset of this segment that any batch header in it says was synced; 0 for none."""
        durable = 0
        base = address_of(self.number, 0)
        for offset in range(BLOCK, self.size - HEADER_BYTES + 1, BLOCK):
            try:
                data = self.get(offset, HEADER_BYTES)
                if bytes(data[:4]) != b"RdB1":
                    continue  # most of them: quicker than the exception
                header = decode_batch_header(data, base | offset, self.store_id)
            except CorruptRecord:
                continue
            if header.durable >> 32 == self.number:
                durable = max(durable, header.durable - base)
        return durable

    def salvage(self, offset: int, limit: int) -> Batch:
        """What is left of the batch at `offset`, which does not verify, and where the next may begin (`limit` at most).

        Records are followed from the start. One with a damaged head can be stepped over only where all that follow
        verify and fill exactly what the batch header says: else its lengths are not to be believed.
        """
        address = address_of(self.number, offset)
        length, body, records = 0, 0, 0
        try:
            header = decode_batch_header(self.get_anyhow(offset, HEADER_BYTES), address, self.store_id)
        except CorruptRecord:
            behind = self._next_batch(offset + BLOCK, limit)
        else:
            behind = min(offset + header.length, limit)
            body, records = header.body, header.records
        length = behind - offset
        data = self.get_anyhow(offset, length)
        events: list[Event] = []
        damaged: list[Event] = []
        kept = (0, 0)
        position = HEADER_BYTES
        seen = bad = 0
        while len(data) - position >= 24 and (not records or seen < records):
            crc, _, _, _, head_length, payload_length, _, _ = _HEAD.unpack_from(data, position)
            payload = position + head_length
            end = payload + ((payload_length + 7) & ~7)
            if head_length < 24 or head_length & 7 or payload_length > MAX_PAYLOAD or end > len(data):
                break
            if crc32(data[position + 4 : payload]) == crc:
                self._record(data[position:end], head_length, address + position, events, damaged)
            elif not records:
                break
            else:
                bad += 1
                if bad == 1:
                    kept = (len(events), len(damaged))
            position = end
            seen += 1
        if bad and (seen != records or position != HEADER_BYTES + body):
            del events[kept[0] :], damaged[kept[1] :]
        return Batch(offset, length, 0, events, damaged, whole=False)

    def _next_batch(self, offset: int, limit: int) -> int:
        """Where the next whole batch begins; `limit` for none."""
        while offset < limit:
            try:
                if bytes(self.get(offset, 4)) == b"RdB1":
                    self.batch(offset, payloads=False)
                    return offset
            except CorruptRecord:
                pass
            offset += BLOCK
        return limit

    def _record(
        self, record: memoryview, head_length: int, place: int, events: list[Event], damaged: list[Event]
    ) -> None:
        """The events of one record whose head verifies: read as the only one of a batch made for it."""
        length = (HEADER_BYTES + len(record) + BLOCK - 1) // BLOCK * BLOCK
        address = place - HEADER_BYTES
        head = crc32(record[:head_length])
        rest = _BATCH.pack(address, 0, length, 1, head, 0, self.store_id, len(record), 0)
        batch = b"RdB1" + crc32(rest).to_bytes(4, "little") + rest + bytes(record)
        bad: list[Event] = []
        try:
            events += decode_batch(batch.ljust(length, b"\0"), address, self.store_id, True, bad)
        except CorruptRecord:
            return
        damaged += bad
