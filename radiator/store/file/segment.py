"""One segment of the log: the file, how far it is written, what in it is still needed; and its birth.

It must never write into a segment that is not the newest, nor let a segment be seen before it is whole.
Called by: `engine` (births, in a job), `ledger` (what lives in it), `recovery` (opens what is there), `reclaim` and
`scrub` (read on in it).

    birth: sync the predecessor's tail ▸ header + opening batch into a temporary file ▸ allocate ▸ sync ▸ rename ▸
           sync the directory ▸ watermark (synced) ▸ cut the predecessor to its end
           (where the disk is full: the same with a spare, which has its blocks; see `spares`)
    life:  newest: batches are appended ▸ older: read only ▸ nothing live in it and its killers synced: unlinked
"""

from __future__ import annotations

import errno
from array import array
from bisect import bisect_left
from collections.abc import Callable

from radiator.errors import CorruptRecord
from radiator.store.file.format import Names
from radiator.store.file.fsio import Fsio
from radiator.store.file.record import BLOCK, HEADER_BYTES, decode_batch_header, encode_segment_header
from radiator.store.file.watermark import Watermark, write_watermark

__all__ = [
    "FULL_ERRORS",
    "OPENING_OFFSET",
    "OVERHANG",
    "SEGMENT_BYTES",
    "Birth",
    "Segment",
    "address_of",
    "read_batches",
    "where",
]

FULL_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT))
"""What says that a file could not have its blocks."""

OPENING_OFFSET = BLOCK
"""Where the opening batch stands: behind the header block."""


SEGMENT_BYTES = 64 << 20
"""What a segment takes, where nobody says otherwise."""

OVERHANG = 32
"""This part of a segment's size is reserved behind it: it closes at the first batch that ends past its size."""


def address_of(segment: int, offset: int) -> int:
    """The place in the log: 64 bits."""
    return segment << 32 | offset


def where(address: int) -> str:
    """An address for people."""
    return f"segment {address >> 32} offset {address & 0xFFFFFFFF}"


class Segment:
    """One segment that is there.

    `end` is the offset behind its last batch, `allocated` the bytes that its file takes on the disk; `live` the
    references to messages in it that are neither dead nor moved, `live_bytes` the bytes of their records, each record
    once. `readers` counts the jobs that read it now. One with `damaged` set is kept for the operator.

    `shared` are the addresses' offsets of the records with several live references, ascending, and `sharers` how many
    each has: 8 bytes for two messages or more.
    """

    __slots__ = (
        "allocated",
        "damaged",
        "end",
        "fd",
        "live",
        "live_bytes",
        "number",
        "readers",
        "shared",
        "sharers",
    )

    def __init__(self, number: int, fd: int, end: int) -> None:
        self.number = number
        self.fd = fd
        self.end = end
        self.allocated = end
        self.live = 0
        self.live_bytes = 0
        self.readers = 0
        self.damaged = False
        self.shared = array("I")
        self.sharers = array("I")

    def share(self, address: int) -> None:
        """The record at `address`, which is the last one that was counted, has one live reference more."""
        offset = address & 0xFFFFFFFF
        if self.shared and self.shared[-1] == offset:
            self.sharers[-1] += 1
        else:
            self.shared.append(offset)
            self.sharers.append(2)

    def unshare(self, address: int) -> bool:
        """The record at `address` has one live reference less: True where that was its last one."""
        offset = address & 0xFFFFFFFF
        at = bisect_left(self.shared, offset)
        if at == len(self.shared) or self.shared[at] != offset:
            return True
        self.sharers[at] -= 1
        return not self.sharers[at]

    @property
    def end_address(self) -> int:
        """The address behind its last batch."""
        return self.number << 32 | self.end


class Birth:
    """Everything that the birth of a segment needs, so that it can happen away from the loop.

    `opening` is the finished opening batch for the address behind the header; `predecessor` is None for the first
    segment of a store, `sync_predecessor` says that its tail is not known to be synced, `cut_predecessor` that nothing
    stands behind its end. `room` is what is waiting to be written behind the opening batch, in bytes; `spare` the path
    of the spare that is taken where a fresh file finds no room, and `took_spare` says that it was.
    """

    __slots__ = (
        "capacity",
        "created_ms",
        "cut_predecessor",
        "fsio",
        "names",
        "number",
        "opening",
        "predecessor",
        "room",
        "sequence",
        "spare",
        "store_id",
        "sync_predecessor",
        "took_spare",
    )

    def __init__(
        self,
        fsio: Fsio,
        names: Names,
        store_id: bytes,
        number: int,
        opening: bytes | memoryview,
        *,
        capacity: int,
        created_ms: int,
        sequence: int,
        predecessor: Segment | None = None,
        sync_predecessor: bool = False,
        cut_predecessor: bool = False,
        room: int = 0,
        spare: str | None = None,
    ) -> None:
        self.fsio = fsio
        self.names = names
        self.store_id = store_id
        self.number = number
        self.opening = opening
        self.capacity = capacity
        self.created_ms = created_ms
        self.sequence = sequence
        self.predecessor = predecessor
        self.sync_predecessor = sync_predecessor
        self.cut_predecessor = cut_predecessor
        self.room = room
        self.spare = spare
        self.took_spare = False

    def happen(self) -> Segment:
        """Bring the segment into the world, whole and durable. OSError as the kernel gave it: final."""
        fsio, names = self.fsio, self.names
        predecessor = self.predecessor
        if predecessor is not None and self.sync_predecessor:
            fsio.sync_data(predecessor.fd)  # in every policy: an unsynced tail lies only in the newest segment
        path = names.segment(self.number)
        end = OPENING_OFFSET + len(self.opening)
        fd, source = self._blocks(f"{path}.tmp", max(self.capacity + self.capacity // OVERHANG, end + self.room))
        try:
            header = encode_segment_header(self.store_id, self.number, self.created_ms, self.capacity)
            write_whole(fsio, fd, header, 0)
            if self.took_spare:
                fsio.sync_data(fd)  # from here on it is no spare any more: its first block says so
            write_whole(fsio, fd, self.opening, OPENING_OFFSET)
            fsio.sync(fd)
            fsio.rename(source, path)
            fsio.sync_directory(names.log)
            mark = Watermark(self.sequence, address_of(self.number, end), clean=False)
            write_watermark(fsio, names.watermark, self.store_id, mark, sync=True)
            if predecessor is not None and self.cut_predecessor:
                fsio.truncate(predecessor.fd, predecessor.end)  # gives back what was allocated and not used
            segment = Segment(self.number, fd, end)
            segment.allocated = fsio.size(fd)
        except BaseException:
            fsio.close(fd)
            raise
        return segment

    def _blocks(self, temporary: str, length: int) -> tuple[int, str]:
        """An open file of zeros that has its blocks, and its name: a fresh one, or the spare where the disk is full.

        A full disk is met here, before anything depends on it.
        """
        fsio = self.fsio
        fd = -1
        try:
            fd = fsio.open(temporary, create=True)  # may lack an inode: a spare has one, and only changes its name
            fsio.allocate(fd, length)
        except BaseException as error:
            if fd >= 0:
                fsio.close(fd)
            if not isinstance(error, OSError) or error.errno not in FULL_ERRORS:
                raise
            if fd >= 0:
                fsio.unlink(temporary)  # it may have got a part
            if self.spare is None:
                raise
        else:
            return fd, temporary
        fd = fsio.open(self.spare, write=True)
        self.took_spare = True
        needed = OPENING_OFFSET + len(self.opening)
        try:
            if fsio.size(fd) < needed:
                fsio.allocate(fd, needed)
        except OSError as error:
            size = fsio.size(fd)
            fsio.close(fd)
            raise OSError(
                error.errno, f"the disk is full, and what a segment begins with ({needed} bytes) is more than {size}"
            ) from error
        return fd, self.spare


def write_whole(fsio: Fsio, fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data`, however little the kernel takes at a time."""
    done = 0
    view = memoryview(data)
    while done < len(view):
        done += fsio.write(fd, view[done:], offset + done)


def read_batches(
    read: Callable[[int, int], bytes | memoryview], start: int, end: int, limit: int, store_id: bytes
) -> tuple[memoryview, list[tuple[int, int]]]:
    """As many whole batches as fit `limit` bytes, one at least, from the address `start` in a segment that has `end`.

    Their bytes, by `read(offset, length)`, and of each where it begins in these and its length. Only the headers are
    looked at. CorruptRecord where no batch begins at `start`; what comes behind is met by whoever reads on.
    """
    offset = start & 0xFFFFFFFF
    data = memoryview(read(offset, min(limit, end - offset)))
    length = decode_batch_header(data[:HEADER_BYTES], start, store_id).length
    if length > len(data):
        data = memoryview(read(offset, min(length, end - offset)))
    batches: list[tuple[int, int]] = []
    at = 0
    while not at or at + length <= len(data):
        batches.append((at, length))
        at += length
        try:
            length = decode_batch_header(data[at : at + HEADER_BYTES], start + at, store_id).length
        except CorruptRecord:
            break
    return data, batches
