"""The data directory: its names, its FORMAT file, its creation and its lock.

It must never touch what is in a segment, and never make a store out of a directory that holds anything else.
Called by: `engine.FileStore.open` and whoever inspects a store.

    lock                    flock for the daemon's life, empty
    FORMAT                  text, written last at creation: a directory without it is no store
    watermark               two slots, see `watermark`
    index                   after a clean stop, see `cache`; may be taken away at any time
    log/00000001.seg …      segments, see `segment`; a .tmp is a birth that did not happen
    log/spare-1 … spare-3   room for a full disk, see `spares`; not part of the log
    quarantine/             segments with damage that are no longer needed; elsewhere such a name ends in .aside

FORMAT is ASCII, one `name value` a line; the last line is the CRC-32 of all before it, as 8 hexadecimal digits:

    radiator-store 1                      the version of the format
    id 0123456789abcdef0123456789abcdef   the store's own id, in every batch header
    compatible 0                          feature bits: unknown ones may be ignored
    read-only 0                           with unknown ones the store may be read, not written
    incompatible 0                        with unknown ones the store must be left alone
    crc32 89abcdef
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple
from zlib import crc32

from radiator.errors import StoreDamaged, StoreFailed, StoreLocked
from radiator.store.file.fsio import Fsio, naming

__all__ = [
    "MARKER",
    "UNFINISHED",
    "VERSION",
    "DirectoryLock",
    "Format",
    "Names",
    "check_directory",
    "check_finished",
    "encode_format",
    "forget_marker",
    "read_format",
    "replace_file",
]

MARKER = "incomplete.tmp"
"""Stands in a directory that a snapshot or a restore is filling: before FORMAT is there too, that is no store."""

UNFINISHED = (
    f"a restore or a snapshot into it has not come to its end ({MARKER} is there, and FORMAT is not): run it again, "
    "which makes anew what it had begun"
)

VERSION = 1
_SEGMENT_NAME = re.compile(r"([0-9]{8}|[1-9][0-9]{8,9})\.seg")
_FORMAT = re.compile(
    rb"radiator-store ([0-9]{1,9})\nid ([0-9a-f]{32})\ncompatible ([0-9]{1,20})\nread-only ([0-9]{1,20})\n"
    rb"incompatible ([0-9]{1,20})\ncrc32 ([0-9a-f]{8})\n"
)
_BEFORE_FORMAT = frozenset(("lock", "log", "quarantine", "watermark", "watermark.tmp", "FORMAT.tmp"))


class Names:
    """The paths of one data directory."""

    __slots__ = ("directory", "format", "index", "lock", "log", "quarantine", "watermark")

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.lock = os.path.join(directory, "lock")
        self.format = os.path.join(directory, "FORMAT")
        self.watermark = os.path.join(directory, "watermark")
        self.index = os.path.join(directory, "index")
        self.log = os.path.join(directory, "log")
        self.quarantine = os.path.join(directory, "quarantine")

    def segment(self, number: int) -> str:
        """Where segment `number` is."""
        return os.path.join(self.log, f"{number:08d}.seg")

    def spare(self, number: int) -> str:
        """Where spare `number` is."""
        return os.path.join(self.log, f"spare-{number}")

    def segments(self, fsio: Fsio) -> list[int]:
        """The numbers of the segments that are there, ascending; one that is spelt in another way is none."""
        found = (_SEGMENT_NAME.fullmatch(name) for name in fsio.list_directory(self.log))
        return sorted(int(match[1]) for match in found if match is not None and int(match[1]) < 1 << 32)


class Format(NamedTuple):
    """What FORMAT says."""

    store_id: bytes
    version: int = VERSION
    compatible: int = 0
    read_only: int = 0
    incompatible: int = 0


def encode_format(form: Format) -> bytes:
    """The bytes of FORMAT."""
    text = (
        f"radiator-store {form.version}\nid {form.store_id.hex()}\ncompatible {form.compatible}\n"
        f"read-only {form.read_only}\nincompatible {form.incompatible}\n"
    ).encode()
    return text + b"crc32 %08x\n" % crc32(text)


def _decode_format(data: bytes, path: str) -> Format:
    match = _FORMAT.fullmatch(data)
    if match is None or int(match[6], 16) != crc32(data[: match.start(6) - len(b"crc32 ")]):
        raise StoreDamaged(
            f"{path} is damaged: this may be a store, but which one and of what version cannot be told; "
            "restore FORMAT from a backup of this data directory, nothing was changed"
        )
    form = Format(bytes.fromhex(match[2].decode()), *(int(match[group]) for group in (1, 3, 4, 5)))
    if form.version != VERSION or form.incompatible or form.read_only:
        raise StoreDamaged(
            f"{path} says format version {form.version}, features {form.read_only}/{form.incompatible}: this radiator "
            f"writes version {VERSION} without features; use the newer radiator that wrote the store"
        )
    return form


def read_format(fsio: Fsio, names: Names) -> Format | None:
    """What FORMAT says; None where there is no such file. StoreDamaged where it is not readable as one."""
    try:
        fd = fsio.open(names.format)
    except FileNotFoundError:
        return None
    try:
        with naming(names.format):
            return _decode_format(bytes(fsio.read(fd, 0, 4096)), names.format)
    finally:
        fsio.close(fd)


def check_directory(fsio: Fsio, names: Names) -> bool:
    """True where there is a FORMAT, False where a store may be created: nothing there, or a creation cut short.

    StoreDamaged for anything else. A creation cut short is told by what it holds: FORMAT comes last, and until then
    there are at most the birth of segment 1, which never holds a message, and spares.
    """
    try:
        entries: Sequence[str] = fsio.list_directory(names.directory)
    except FileNotFoundError:
        return False
    if "FORMAT" in entries:
        return True
    if MARKER in entries:
        raise StoreDamaged(f"{names.directory}: {UNFINISHED}")
    strange = [name for name in entries if name not in _BEFORE_FORMAT]
    for inner, allowed in ((names.log, r"00000001\.seg(\.tmp)?|spare-[0-9]"), (names.quarantine, "")):
        if not strange and os.path.basename(inner) in entries:
            found = fsio.list_directory(inner)
            strange = [os.path.join(inner, name) for name in found if not re.fullmatch(allowed, name)]
    if strange:
        raise StoreDamaged(
            f"{names.directory} has no FORMAT file but is not empty ({strange[0]!r} is there): no store is made in it; "
            "choose an empty directory, or restore FORMAT from a backup if this was a store"
        )
    return False


def check_finished(fsio: Fsio, names: Names) -> None:
    """StoreDamaged where a restore or a snapshot has not come to its end: a part of a store must not pass for one."""
    entries = fsio.list_directory(names.directory)
    if MARKER in entries and "FORMAT" not in entries:
        raise StoreDamaged(f"{names.directory}: {UNFINISHED}")


def forget_marker(fsio: Fsio, names: Names) -> None:
    """Take away the marker of a restore that was cut short behind its last step, FORMAT.

    Else a store that loses FORMAT one day would pass for a restore to run again, which begins with an empty log.
    """
    if MARKER in fsio.list_directory(names.directory):
        with suppress(IsADirectoryError):  # somebody else's, who called it so
            fsio.unlink(os.path.join(names.directory, MARKER))
        fsio.sync_directory(names.directory)


class DirectoryLock:
    """The data directory is held until `release`: its lock file, and the directory itself.

    Whoever takes the lock file away, for one that was left behind, does not set the directory free: two brokers on one
    log would write over each other's messages. StoreLocked where another process holds one of them.
    """

    __slots__ = ("_fds", "_fsio")

    def __init__(self, fsio: Fsio, names: Names) -> None:
        self._fsio = fsio
        self._fds: list[int] = []
        try:
            self._fds.append(fsio.lock(names.lock))
            directory = fsio.lock_directory(names.directory)
            if directory is not None:
                self._fds.append(directory)
        except OSError as error:
            self.release()
            if isinstance(error, BlockingIOError):
                raise StoreLocked(
                    f"{names.directory} is in use by another radiator; stop that one or choose another data directory"
                ) from None
            raise StoreFailed(f"{names.lock}: {error.strerror}: the data directory cannot be locked") from error

    def release(self) -> None:
        """Let others have it."""
        while self._fds:
            self._fsio.close(self._fds.pop())


def replace_file(fsio: Fsio, path: str, data: bytes) -> None:
    """Write a small file under a temporary name, sync, rename, sync the directory: whole or as before."""
    temporary = f"{path}.tmp"
    fd = fsio.open(temporary, create=True)
    try:
        with naming(temporary):
            done = 0
            while done < len(data):
                done += fsio.write(fd, data[done:], done)
            fsio.sync(fd)
    finally:
        fsio.close(fd)
    fsio.rename(temporary, path)
    fsio.sync_directory(os.path.dirname(path))
