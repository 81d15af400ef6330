"""The watermark: a small file that says up to which address the log is known to be synced.

It must never say more than was synced; it may say less, be torn, or be missing. Two slots are written in turn, so a
torn write leaves the one before. Called by: `engine` (write, in a job), `recovery` and `survey` (read).

    slot, 512 bytes, little-endian; slot number = sequence % 2
     0  magic     8s   "RADMARK1"
     8  store id  16s
    24  sequence  u64  grows by one with each write
    32  address   u64  everything below is synced
    40  flags     u32  bit 0: clean stop, the log ends at the address
    44  zeros
   508  crc       u32  CRC-32 of bytes 0 to 508
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple
from zlib import crc32

from radiator.store.file.fsio import Fsio, naming

__all__ = [
    "SLOT_BYTES",
    "Watermark",
    "decode_slot",
    "encode_slot",
    "newest_slot",
    "read_slots",
    "read_watermark",
    "slots_owner",
    "write_watermark",
]

SLOT_BYTES = 512
_SLOT = Struct("<8s16sQQI")
_MAGIC = b"RADMARK1"
_CLEAN = 1


class Watermark(NamedTuple):
    """One slot's contents."""

    sequence: int
    address: int
    clean: bool


def encode_slot(store_id: bytes, mark: Watermark) -> bytes:
    """The 512 bytes of a slot."""
    head = _SLOT.pack(_MAGIC, store_id, mark.sequence, mark.address, _CLEAN if mark.clean else 0)
    data = head.ljust(SLOT_BYTES - 4, b"\0")
    return data + crc32(data).to_bytes(4, "little")


def decode_slot(store_id: bytes, data: bytes) -> Watermark | None:
    """What a slot says; None where it is torn, empty or of another store."""
    if len(data) != SLOT_BYTES or int.from_bytes(data[-4:], "little") != crc32(data[:-4]):
        return None
    magic, owner, sequence, address, flags = _SLOT.unpack_from(data)
    if magic != _MAGIC or owner != store_id:
        return None
    return Watermark(sequence, address, bool(flags & _CLEAN))


def read_slots(fsio: Fsio, path: str) -> bytes:
    """Both slots as they stand; nothing where there is no file."""
    try:
        fd = fsio.open(path)
    except FileNotFoundError:
        return b""
    try:
        with naming(path):
            return bytes(fsio.read(fd, 0, 2 * SLOT_BYTES))
    finally:
        fsio.close(fd)


def slots_owner(data: bytes) -> bytes | None:
    """The id of the store that all slots which verify are of; None where there is none, or each is of another."""
    owners = set()
    for slot in (data[:SLOT_BYTES], data[SLOT_BYTES:]):
        owner = slot[len(_MAGIC) : len(_MAGIC) + 16]
        if decode_slot(owner, slot) is not None:
            owners.add(owner)
    return owners.pop() if len(owners) == 1 else None


def newest_slot(store_id: bytes, data: bytes) -> Watermark | None:
    """The newest slot that verifies; None where there is none."""
    slots = [decode_slot(store_id, data[start : start + SLOT_BYTES]) for start in (0, SLOT_BYTES)]
    return max((slot for slot in slots if slot is not None), default=None)


def read_watermark(fsio: Fsio, path: str, store_id: bytes) -> Watermark | None:
    """The newest slot that verifies; None where there is none."""
    return newest_slot(store_id, read_slots(fsio, path))


def write_watermark(fsio: Fsio, path: str, store_id: bytes, mark: Watermark, *, sync: bool) -> None:
    """Overwrite the older slot; with `sync` it is durable on return (the file's name too, once it had to be made)."""
    made = False
    try:
        fd = fsio.open(path, write=True)
    except FileNotFoundError:
        fd = fsio.open(path, create=True)
        made = True
    try:
        data = encode_slot(store_id, mark)
        done = 0
        with naming(path):
            while done < SLOT_BYTES:
                done += fsio.write(fd, data[done:], mark.sequence % 2 * SLOT_BYTES + done)
            if sync:
                fsio.sync(fd)
    finally:
        fsio.close(fd)
    if made and sync:
        fsio.sync_directory(path.rpartition("/")[0])
