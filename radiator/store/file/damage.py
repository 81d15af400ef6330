"""What an OSError says about what is stored: that it is damaged, or nothing at all.

It must never take the state of the system for that of the disk: who has no permission, no descriptor or no memory for a
file knows nothing of its content. Called by: `reads` and `scrub`, which try again later what says nothing; `salvage`,
`survey`, `replay`, `inspect`, `cache` and `agreement`, which end with it.
"""

from __future__ import annotations

import errno

__all__ = ["DAMAGE_ERRORS", "is_damage"]

DAMAGE_ERRORS = frozenset(
    getattr(errno, name)
    for name in ("EIO", "EBADMSG", "EUCLEAN", "EILSEQ", "ENODATA", "EREMOTEIO", "EFTYPE")
    if hasattr(errno, name)
)
"""What says that the bytes cannot be had from this disk: file systems and block devices, where a checksum or a medium
fails. Whatever else a read ends with says nothing about them."""

_NO_FILE_ERRORS = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO))
"""What says, when a name is opened, that no regular file is behind it; EINVAL is what `Fsio.open` itself gives then."""


def is_damage(error: OSError) -> bool:
    """Does it say that a file, by its name, is missing, no file, or unreadable on this disk?"""
    return error.errno in DAMAGE_ERRORS or error.errno in _NO_FILE_ERRORS
