"""A disk that forgets: the store's file operations with a volatile and a durable image of everything.

What a program wrote is in the volatile image; a sync copies it to the durable one. `power_cut` makes the disk that a
machine finds after a power cut: every 512-byte sector, size and directory change that was not synced survives or not,
each by its own throw of the dice. `survive` makes the one that a process finds after `kill -9`: all of it.

A power cut of another kind than the dice's (nothing survives, all names and no content, …) is had by its chances.

`before` is called before every operation that changes or syncs something; it may raise PowerCut, or take a `copy`.
Faults are switched on by attributes. It must never lose what was synced, unless a fault says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from random import Random

SECTOR = 512


class PowerCut(BaseException):
    """The machine is off: no `except Exception` may survive it."""


class Inode:
    """One file: what programs see, what the platters have, and which sectors and whether the size differ.

    `lost` are sectors that are clean and not on the platters: the device lied, or a sync failed. Programs see them as
    long as they are in memory.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = bytearray()
        self.dirty: set[int] = set()
        self.lost: set[int] = set()

    def copy(self) -> Inode:
        twin = Inode()
        twin.data = bytearray(self.data)
        twin.durable = bytearray(self.durable)
        twin.dirty = set(self.dirty)
        twin.lost = set(self.lost)
        return twin

    def touch(self, start: int, end: int) -> None:
        sectors = range(start // SECTOR, (end + SECTOR - 1) // SECTOR)
        self.dirty.update(sectors)
        self.lost.difference_update(sectors)

    def settle(self) -> None:
        """All is on the platters."""
        size = len(self.data)
        del self.durable[size:]
        self.durable.extend(bytes(size - len(self.durable)))
        for sector in self.dirty - self.lost:
            at = slice(sector * SECTOR, (sector + 1) * SECTOR)
            self.durable[at] = self.data[at]
        self.dirty.clear()

    def forget(self) -> None:
        """Memory is given back: what is clean is read from the platters again."""
        for sector in self.lost - self.dirty:
            at = slice(sector * SECTOR, min((sector + 1) * SECTOR, len(self.data)))
            self.data[at] = self.durable[at].ljust(len(self.data[at]), b"\0")
        self.lost &= self.dirty

    def after_power_cut(self, rng: Random, chance: float = 0.5) -> Inode:
        size = len(self.data) if rng.random() < chance else len(self.durable)
        found = bytearray(size)
        kept = min(size, len(self.durable))
        found[:kept] = self.durable[:kept]
        for sector in sorted(self.dirty - self.lost):
            at = slice(sector * SECTOR, min((sector + 1) * SECTOR, size))
            new = self.data[at]
            if new and at.start < size and rng.random() < chance:
                found[at.start : at.start + len(new)] = new
        twin = Inode()
        twin.data, twin.durable = found, bytearray(found)
        return twin


class SimDisk:
    """`Fsio` in memory. Paths are absolute; directories that are made are durable at once."""

    def __init__(self) -> None:
        self.directories: dict[str, dict[str, Inode]] = {"/": {}}
        self.durable: dict[str, dict[str, Inode]] = {"/": {}}
        # Name changes that no directory sync covers: (directory, new name, inode or None for an unlink, old name)
        self.pending: list[tuple[str, str, Inode | None, str]] = []
        self.files: dict[int, Inode] = {}
        self.next_fd = 100
        self.operations = 0
        self.off = False
        self.before: Callable[[str], None] = lambda what: None
        # Faults
        self.cold: Callable[[], bool] = lambda: False
        self.short_writes: Random | None = None
        self.fail_sync_at: int | None = None
        self.drop_on_failed_sync = False
        self.fail_write_at: int | None = None
        self.full = False
        self.capacity: int | None = None  # bytes of all files together; None: endless
        self.bad_reads: set[tuple[str, int]] = set()
        self.skipped: set[str] = set()
        self.syncs = 0
        self.writes = 0

    # ------------------------------------------------------------------ the power and the images

    def _operation(self, what: str) -> bool:
        """Count one; False where a seeded fault swallows it."""
        if self.off:
            raise PowerCut
        self.operations += 1
        self.before(what)
        return what not in self.skipped

    def _twin(self, inode_of: Callable[[Inode], Inode]) -> SimDisk:
        disk = SimDisk()
        disk.capacity = self.capacity
        twins: dict[int, Inode] = {}

        def twin(inode: Inode) -> Inode:
            if id(inode) not in twins:
                twins[id(inode)] = inode_of(inode)
            return twins[id(inode)]

        disk.directories = {p: {n: twin(i) for n, i in names.items()} for p, names in self.directories.items()}
        disk.durable = {p: {n: twin(i) for n, i in names.items()} for p, names in self.durable.items()}
        disk.pending = [(p, n, None if i is None else twin(i), old) for p, n, i, old in self.pending]
        return disk

    def copy(self) -> SimDisk:
        """This moment, for later; open files are not in it."""
        return self._twin(Inode.copy)

    survive = copy

    def power_cut(self, rng: Random, content: float = 0.5, names_kept: float = 0.5) -> SimDisk:
        """What is there when the power comes back; with what chance an unsynced piece of each kind survives."""
        names = {path: dict(inodes) for path, inodes in self.durable.items()}
        for path, name, inode, old in self.pending:
            if rng.random() < names_kept:
                _change(names[path], name, inode, old)
        held = SimDisk()
        held.capacity = self.capacity
        held.directories = held.durable = names
        found = held._twin(lambda inode: inode.after_power_cut(rng, content))
        found.durable = {path: dict(inodes) for path, inodes in found.directories.items()}
        return found

    def contents(self) -> dict[str, bytes]:
        """Every file by its path."""
        return {
            os.path.join(path, name): bytes(inode.data)
            for path, inodes in self.directories.items()
            for name, inode in inodes.items()
        }

    def inode(self, path: str) -> Inode:
        """The file of that name; FileNotFoundError where there is none."""
        directory, name = os.path.split(path)
        try:
            return self.directories[directory][name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None

    def place(self, path: str, data: bytes) -> None:
        """Put a durable file there."""
        inode = Inode()
        inode.data[:] = inode.durable[:] = data
        directory, name = os.path.split(path)
        self.directories[directory][name] = self.durable[directory][name] = inode

    # ------------------------------------------------------------------ what devices do

    def damage(self, rng: Random, earlier: SimDisk) -> str:
        """Spoil one place, as bad devices do; what was done. `earlier` is this disk before some writes."""
        paths = sorted(path for path, data in self.contents().items() if data)
        path = rng.choice(paths)
        inode = self.inode(path)
        sectors = (len(inode.data) + SECTOR - 1) // SECTOR
        first = rng.randrange(sectors) * SECTOR
        last = min(first + rng.choice((1, 1, 8)) * SECTOR, len(inode.data))
        what = rng.choice(("flip", "zero", "lost write", "misdirected write", "cut", "other file"))
        if what == "flip":
            inode.data[rng.randrange(len(inode.data))] ^= 1 << rng.randrange(8)
        elif what == "zero":
            inode.data[first:last] = bytes(last - first)
        elif what == "lost write":
            old = earlier.contents().get(path, b"")[first:last]
            inode.data[first:last] = old.ljust(last - first, b"\0")
        elif what == "misdirected write":
            source = self.inode(rng.choice(paths)).data
            at = rng.randrange((len(source) + SECTOR - 1) // SECTOR) * SECTOR
            piece = source[at : at + last - first]
            inode.data[first : first + len(piece)] = piece
        elif what == "cut":
            del inode.data[rng.randrange(len(inode.data)) :]
        else:
            inode.data[:] = self.inode(rng.choice(paths)).data
        inode.durable[:] = inode.data
        inode.dirty.clear()
        return f"{what} in {os.path.basename(path)} at {first}"

    # ------------------------------------------------------------------ directories

    def make_directory(self, path: str) -> None:
        if path not in self.directories:
            self._operation("make_directory")
            self.make_parents(path)

    def make_parents(self, path: str) -> None:
        while path not in self.directories:
            self.directories[path] = {}
            self.durable[path] = {}
            path = os.path.dirname(path)

    def list_directory(self, path: str) -> list[str]:
        if path not in self.directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        inner = {os.path.basename(p) for p in self.directories if p != "/" and os.path.dirname(p) == path}
        return sorted(inner | set(self.directories[path]))

    def sync_directory(self, path: str) -> None:
        if self._operation("sync_directory"):
            self.pending = [change for change in self.pending if change[0] != path]
            self.durable[path] = dict(self.directories[path])

    def rename(self, source: str, target: str) -> None:
        if self._operation("rename"):
            path, name = os.path.split(target)
            if path == os.path.dirname(source):
                self._name(path, name, self.inode(source), os.path.basename(source))
            else:
                self._name(path, name, self.inode(source), "")
                self._name(*os.path.split(source), None, "")

    def link(self, source: str, target: str) -> None:
        path, name = os.path.split(target)
        if name in self.directories[path]:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        if self._operation("link"):
            self._name(path, name, self.inode(source), "")

    def unlink(self, path: str) -> None:
        if self._operation("unlink"):
            self.inode(path)
            self._name(*os.path.split(path), None, "")

    def _name(self, path: str, name: str, inode: Inode | None, old: str) -> None:
        _change(self.directories[path], name, inode, old)
        self.pending.append((path, name, inode, old))

    # ------------------------------------------------------------------ files

    def lock(self, path: str) -> int:
        return self.open(path, write=True) if path in self.contents() else self.open(path, create=True)

    def lock_directory(self, path: str) -> int | None:
        return None

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        if self.off:
            raise PowerCut
        directory, name = os.path.split(path)
        if create and name not in self.directories[directory]:
            self._operation("create")
            self._name(directory, name, Inode(), "")
        inode = self.inode(path)
        if create and inode.data:
            self._operation("empty")
            inode.data.clear()
            inode.dirty.clear()
        self.next_fd += 1
        self.files[self.next_fd] = inode
        return self.next_fd

    def close(self, fd: int) -> None:
        del self.files[fd]

    def size(self, fd: int) -> int:
        return len(self.files[fd].data)

    def read(self, fd: int, offset: int, length: int) -> bytes:
        if self.off:
            raise PowerCut
        inode = self.files[fd]
        for path, bad in self.bad_reads:
            if offset <= bad < offset + length and self.inode(path) is inode:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return bytes(inode.data[offset : offset + length])

    def read_nowait(self, fd: int, offset: int, length: int) -> bytes | None:
        if self.cold():
            return None
        try:
            data = self.read(fd, offset, length)
        except OSError:
            return None
        return data if len(data) == length else None

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        if not self._operation("write"):
            return len(data)
        self.writes += 1
        if self.writes == self.fail_write_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        length = len(data)
        if self.short_writes is not None and length > 1:
            length = self.short_writes.randint(1, length)
        inode = self.files[fd]
        self._grow(inode, offset + length)
        if len(inode.data) < offset:
            inode.touch(len(inode.data), offset)
            inode.data.extend(bytes(offset - len(inode.data)))
        inode.data[offset : offset + length] = bytes(data[:length])
        inode.touch(offset, offset + length)
        return length

    def sync_data(self, fd: int) -> None:
        self._sync(fd, "sync_data")

    def sync(self, fd: int) -> None:
        self._sync(fd, "sync")

    def _sync(self, fd: int, what: str) -> None:
        if not self._operation(what):
            return
        self.syncs += 1
        inode = self.files[fd]
        if self.syncs == self.fail_sync_at:
            # The kernel's way: the pages are clean now, and have the new contents or the old ones.
            inode.lost |= inode.dirty
            inode.dirty.clear()
            if self.drop_on_failed_sync:
                inode.forget()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        inode.settle()

    def allocate(self, fd: int, length: int) -> None:
        self._operation("allocate")
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        inode = self.files[fd]
        self._grow(inode, length)
        if len(inode.data) < length:
            inode.touch(len(inode.data), length)
            inode.data.extend(bytes(length - len(inode.data)))

    def free_bytes(self, path: str) -> int:
        if self.full:
            return 0
        return 1 << 50 if self.capacity is None else max(0, self.capacity - self.used())

    def used(self) -> int:
        """Bytes of all files that have a name or are open."""
        inodes = {id(inode): inode for names in self.directories.values() for inode in names.values()}
        inodes.update((id(inode), inode) for inode in self.files.values())
        return sum(len(inode.data) for inode in inodes.values())

    def links(self, fd: int) -> int:
        inode = self.files[fd]
        return sum(other is inode for names in self.directories.values() for other in names.values())

    def _grow(self, inode: Inode, length: int) -> None:
        """The file is to be `length` bytes long: is there room?"""
        more = length - len(inode.data)
        if more > 0 and self.capacity is not None and more > self.capacity - self.used():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def truncate(self, fd: int, length: int) -> None:
        self._operation("truncate")
        inode = self.files[fd]
        del inode.data[length:]
        inode.dirty = {sector for sector in inode.dirty if sector * SECTOR < length}

    def drop_cache(self, fd: int, offset: int = 0, length: int = 0) -> None:
        self.files[fd].forget()  # the system may forget more than it is asked to


def _change(names: dict[str, Inode], name: str, inode: Inode | None, old: str) -> None:
    """One change of names: an unlink, a creation or a rename."""
    if inode is None:
        names.pop(name, None)
    else:
        names[name] = inode
        if old:
            names.pop(old, None)
