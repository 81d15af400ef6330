"""How many files this process may open: a store has one for each segment, and whoever looks into it needs as many.

It must never lower the limit. Called by: `server.daemon`, which has connections beside the store; the store commands.
"""

from __future__ import annotations

import resource

from radiator.store.file.format import Names
from radiator.store.file.fsio import RealFsio

__all__ = ["RESERVED_DESCRIPTORS", "allow_descriptors", "count_segments"]

RESERVED_DESCRIPTORS = 1024
"""For the segments that a backlog will add (64 GiB of it), refused connections, and everything else that is open."""


def allow_descriptors(needed: int) -> int:
    """Raise the soft limit of open files as far as may be; what it is then.

    Where nothing bounds it, to `needed` and the reserve: no number means endless, and not every system takes that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    able = hard
    if hard == resource.RLIM_INFINITY:
        able = needed + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < able:
        resource.setrlimit(resource.RLIMIT_NOFILE, (able, hard))
    return able


def count_segments(names: Names) -> int:
    """How many files the log has now; one that cannot be listed is for whoever opens the store to judge."""
    try:
        return len(names.segments(RealFsio()))
    except OSError:
        return 0
