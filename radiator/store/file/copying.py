"""Whole files from one directory to another: by a link where the file system can, else byte by byte; or moved aside.

It must never change what it copies. Called by: `repair`, `snapshot`, `reclaim`; `quarantine` knows from
here what says that there are no links.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from radiator.store.file.fsio import Fsio, naming
from radiator.store.file.segment import write_whole

__all__ = ["ASIDE", "NO_LINKS", "copy_file", "copy_open", "link_or_copy", "move_aside"]

NO_LINKS = frozenset((errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS))
"""What says that a file cannot have this name too, while it may still be copied or renamed."""

ASIDE = ".aside"
"""The end of the name, maybe with a number, of what was moved aside and could not leave its directory."""

_PIECE_BYTES = 1 << 20


def link_or_copy(fsio: Fsio, source: str, target: str, progress: Callable[[int], None] | None = None) -> bool:
    """Give the file the name `target` too, True; or make a synced copy of it there, False. The name is not synced."""
    try:
        fsio.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        copy_file(fsio, source, target, progress=progress)
        return False
    return True


def copy_file(
    fsio: Fsio, source: str, target: str, length: int | None = None, progress: Callable[[int], None] | None = None
) -> int:
    """Copy the first `length` bytes (None: all), synced; how many. `progress` gets the size of each piece."""
    reading = fsio.open(source)
    try:
        with naming(source):
            return copy_open(fsio, reading, target, fsio.size(reading) if length is None else length, progress)
    finally:
        fsio.close(reading)


def copy_open(fsio: Fsio, reading: int, target: str, length: int, progress: Callable[[int], None] | None = None) -> int:
    """The same for a file that is open already."""
    done = 0
    writing = fsio.open(target, create=True)
    try:
        while done < length:
            data = fsio.read(reading, done, min(_PIECE_BYTES, length - done))
            if not data:
                break
            with naming(target):
                write_whole(fsio, writing, data, done)
            done += len(data)
            if progress is not None:
                progress(len(data))
        with naming(target):
            fsio.sync(writing)
    finally:
        fsio.close(writing)
    return done


def move_aside(fsio: Fsio, source: str, target: str, beside: str) -> None:
    """Rename `source` to `target`; to `beside`, in its own directory, where `target` is in another file system.

    What must be moved may be no file, or unreadable: a copy of it need not be possible. The names are not synced.
    """
    try:
        fsio.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        fsio.rename(source, beside)
