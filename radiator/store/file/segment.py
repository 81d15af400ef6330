"""One segment of the log: the file, how far it is written, what in it is still needed; and its birth.

It must never write into a segment that is not the newest, nor let a segment be seen before it is whole.
Called by: `engine` (births, in a job), `ledger` (what lives in it), `recovery` (opens what is there), `reclaim`.

    birth: sync the predecessor's tail ▸ header + opening batch into a temporary file ▸ allocate ▸ sync ▸ rename ▸
           sync the directory ▸ watermark (synced) ▸ cut the predecessor to its end
    life:  newest: batches are appended ▸ older: read only ▸ nothing live in it and its killers synced: unlinked
"""

from __future__ import annotations

from radiator.store.file.format import Names
from radiator.store.file.fsio import Fsio
from radiator.store.file.record import BLOCK, encode_segment_header
from radiator.store.file.watermark import Watermark, write_watermark

__all__ = ["OPENING_OFFSET", "Birth", "Segment", "address_of", "where"]

OPENING_OFFSET = BLOCK
"""Where the opening batch stands: behind the header block."""


def address_of(segment: int, offset: int) -> int:
    """The place in the log: 64 bits."""
    return segment << 32 | offset


def where(address: int) -> str:
    """An address for people."""
    return f"segment {address >> 32} offset {address & 0xFFFFFFFF}"


class Segment:
    """One segment that is there.

    `end` is the offset behind its last batch; `live` the references to messages in it that are neither dead nor moved,
    `live_bytes` the bytes of their records (a record counts once for each reference). `readers` counts the jobs that
    read it now. One with `damaged` set is kept for the operator.
    """

    __slots__ = ("damaged", "end", "fd", "live", "live_bytes", "number", "readers")

    def __init__(self, number: int, fd: int, end: int) -> None:
        self.number = number
        self.fd = fd
        self.end = end
        self.live = 0
        self.live_bytes = 0
        self.readers = 0
        self.damaged = False

    @property
    def end_address(self) -> int:
        """The address behind its last batch."""
        return self.number << 32 | self.end


class Birth:
    """Everything that the birth of a segment needs, so that it can happen away from the loop.

    `opening` is the finished opening batch for the address behind the header; `predecessor` is None for the first
    segment of a store, `sync_predecessor` says that its tail is not known to be synced, `cut_predecessor` that nothing
    stands behind its end.
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
        "sequence",
        "store_id",
        "sync_predecessor",
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

    def happen(self) -> Segment:
        """Bring the segment into the world, whole and durable. OSError as the kernel gave it: final."""
        fsio, names = self.fsio, self.names
        predecessor = self.predecessor
        if predecessor is not None and self.sync_predecessor:
            fsio.sync_data(predecessor.fd)  # in every policy: an unsynced tail lies only in the newest segment
        path = names.segment(self.number)
        temporary = f"{path}.tmp"
        fd = fsio.open(temporary, create=True)
        try:
            end = OPENING_OFFSET + len(self.opening)
            fsio.allocate(fd, max(self.capacity, end))  # a full disk is met here, before anything depends on it
            header = encode_segment_header(self.store_id, self.number, self.created_ms, self.capacity)
            write_whole(fsio, fd, header, 0)
            write_whole(fsio, fd, self.opening, OPENING_OFFSET)
            fsio.sync(fd)
            fsio.rename(temporary, path)
            fsio.sync_directory(names.log)
            mark = Watermark(self.sequence, address_of(self.number, end), clean=False)
            write_watermark(fsio, names.watermark, self.store_id, mark, sync=True)
            if predecessor is not None and self.cut_predecessor:
                fsio.truncate(predecessor.fd, predecessor.end)  # gives back what was allocated and not used
        except BaseException:
            fsio.close(fd)
            raise
        return Segment(self.number, fd, end)


def write_whole(fsio: Fsio, fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data`, however little the kernel takes at a time."""
    done = 0
    view = memoryview(data)
    while done < len(view):
        done += fsio.write(fd, view[done:], offset + done)
