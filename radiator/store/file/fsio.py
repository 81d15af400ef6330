"""Every file operation of the store, behind one small interface: the real disk here, a simulated one in the tests.

It must never decide anything: no retry, no format, no policy. Errors are OSError, as the kernel gave them; only the
reads that must not block answer None instead, and a symbolic link that leads to nothing is no absence, but ELOOP:
what it stands for may be on a disk that is not mounted. Paths are whole, offsets and lengths are bytes.
Called by: everything in `store.file` that touches a file; nothing in `store.file` touches one in another way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

__all__ = ["Fsio", "RealFsio", "naming"]

_RWF_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)
_FULLFSYNC: int = getattr(fcntl, "F_FULLFSYNC", 0)
_UNSUPPORTED = frozenset((errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS))


class Fsio(Protocol):
    """What the store needs of a file system."""

    def make_directory(self, path: str) -> None:
        """Make a directory and those above it, durable; one that exists is fine."""

    def list_directory(self, path: str) -> list[str]:
        """The names in a directory, sorted. FileNotFoundError where there is none."""

    def sync_directory(self, path: str) -> None:
        """Make every name change in `path` durable."""

    def lock(self, path: str) -> int:
        """A file descriptor that holds the lock file until it is closed. BlockingIOError where another one does."""

    def lock_directory(self, path: str) -> int | None:
        """The same of the directory itself; None where its file system knows no such lock."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        """Open a regular file; `create` makes it or empties it, and opens it for writing. Never waits for a peer.

        FileNotFoundError says that nothing has this name.
        """

    def close(self, fd: int) -> None:
        """Close it."""

    def size(self, fd: int) -> int:
        """Bytes in the file."""

    def read(self, fd: int, offset: int, length: int) -> bytes | memoryview:
        """`length` bytes; fewer only where the file ends."""

    def read_nowait(self, fd: int, offset: int, length: int) -> bytes | memoryview | None:
        """All `length` bytes if that needs no device; None where any is not in memory, or this cannot be told."""

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write some bytes, at least one; how many."""

    def sync_data(self, fd: int) -> None:
        """Make all contents of the file durable (fdatasync)."""

    def sync(self, fd: int) -> None:
        """Make contents and metadata of the file durable (fsync)."""

    def allocate(self, fd: int, length: int) -> None:
        """Reserve the space of `length` bytes from the file's start; it reads as zeros. OSError ENOSPC where full."""

    def free_bytes(self, path: str) -> int:
        """Bytes that are free for us in the file system of `path`."""

    def links(self, fd: int) -> int:
        """How many names the file has."""

    def truncate(self, fd: int, length: int) -> None:
        """Cut the file to `length` bytes."""

    def drop_cache(self, fd: int, offset: int = 0, length: int = 0) -> None:
        """Forget the file's clean pages from `offset` on, so that the next read asks the device; 0: to its end."""

    def rename(self, source: str, target: str) -> None:
        """Give a file another name in the same file system, replacing what had it."""

    def link(self, source: str, target: str) -> None:
        """Give a file one name more, maybe in another directory. FileExistsError where `target` is one already.

        Where `source` is a symbolic link to a file, that file: a link to the link would be no copy of anything.
        """

    def unlink(self, path: str) -> None:
        """Take a name away."""


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Give errors of what is done with an open file the file's name, which the kernel does not know."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise


@contextmanager
def _absence(path: str) -> Iterator[None]:
    """Let FileNotFoundError say that there is no such name, and nothing else."""
    try:
        yield
    except FileNotFoundError:
        if os.path.islink(path) and not os.path.exists(path):
            raise OSError(errno.ELOOP, "this is a symbolic link that leads to nothing", path) from None
        raise


class RealFsio:
    """The operating system's files. Safe to use from several threads."""

    def __init__(self) -> None:
        self._nowait = _RWF_NOWAIT != 0 and hasattr(os, "preadv")

    def make_directory(self, path: str) -> None:
        above: list[str] = []
        place = os.path.realpath(path)
        while not os.path.isdir(place):
            place = os.path.dirname(place)
            above.append(place)
        os.makedirs(path, mode=0o700, exist_ok=True)
        for place in reversed(above):
            self.sync_directory(place)

    def list_directory(self, path: str) -> list[str]:
        with _absence(path):
            return sorted(os.listdir(path))

    def sync_directory(self, path: str) -> None:
        fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, path: str) -> int:
        fd = self._open_file(path, os.O_RDWR, create=True)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd

    def lock_directory(self, path: str) -> int | None:
        fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if isinstance(error, BlockingIOError):
                raise
            return None
        return fd

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        flags = os.O_RDWR if write or create else os.O_RDONLY
        return self._open_file(path, flags | os.O_TRUNC if create else flags, create)

    def _open_file(self, path: str, flags: int, create: bool) -> int:
        flags |= os.O_NONBLOCK  # which only pipes and devices know: those are refused below
        fd = -1
        if create:
            with suppress(FileExistsError):
                fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)  # else a link's target would be made
        if fd < 0:
            fd = self._open(path, flags)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "this is no regular file", path)
        return fd

    def _open(self, path: str, flags: int) -> int:
        with _absence(path):
            return os.open(path, flags)

    def close(self, fd: int) -> None:
        os.close(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def read(self, fd: int, offset: int, length: int) -> bytes | memoryview:
        data = os.pread(fd, length, offset)
        if len(data) == length or not data:
            return data
        pieces = [data]  # one call reads at most 2 GiB, and any read may be cut short
        done = len(data)
        while done < length:
            data = os.pread(fd, length - done, offset + done)
            if not data:
                break
            pieces.append(data)
            done += len(data)
        return b"".join(pieces)

    def read_nowait(self, fd: int, offset: int, length: int) -> bytes | memoryview | None:
        if not self._nowait:
            return None
        buffer = bytearray(length)
        try:
            count = os.preadv(fd, (buffer,), offset, _RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                return None  # the blocking read that follows meets the same error, where it can be judged
            self._nowait = False
            return None
        return memoryview(buffer) if count == length else None

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def sync_data(self, fd: int) -> None:
        if _FULLFSYNC:
            fcntl.fcntl(fd, _FULLFSYNC)  # fsync on macOS leaves the data in the device's cache
        else:
            os.fdatasync(fd)

    def sync(self, fd: int) -> None:
        if _FULLFSYNC:
            fcntl.fcntl(fd, _FULLFSYNC)
        else:
            os.fsync(fd)

    def allocate(self, fd: int, length: int) -> None:
        if sys.platform == "darwin":
            os.ftruncate(fd, length)
        else:
            try:
                os.posix_fallocate(fd, 0, length)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self._fill(fd, length)

    def _fill(self, fd: int, length: int) -> None:
        """Take blocks by writing zeros behind the file's end, where the file system has no other way."""
        zeros = memoryview(bytes(1 << 20))
        size = os.fstat(fd).st_size
        while size < length:
            size += os.pwrite(fd, zeros[: length - size], size)

    def free_bytes(self, path: str) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def links(self, fd: int) -> int:
        return os.fstat(fd).st_nlink

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def drop_cache(self, fd: int, offset: int = 0, length: int = 0) -> None:
        if sys.platform != "darwin":
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        with _absence(source):
            os.link(os.path.realpath(source), target)

    def unlink(self, path: str) -> None:
        os.unlink(path)
