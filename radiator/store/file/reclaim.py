"""Which segments may go, and their going.

It must never take a segment while a message in it lives, while what killed the last one is not synced, while a job
reads it, or when it is the newest. Nothing is edited in place. Called by: `engine`, after a batch completed.

Copying the survivors of an almost empty segment into the newest one belongs here as well: after that copy is synced
the source is a dead segment like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

from radiator.store.file.format import Names
from radiator.store.file.fsio import Fsio
from radiator.store.file.ledger import Ledger
from radiator.store.file.segment import Segment

__all__ = ["dead_segments", "unlink"]


def dead_segments(ledger: Ledger, tail: Segment) -> list[Segment]:
    """The segments without a live message that nothing else holds. Damaged ones stay for the operator."""
    emptied = ledger.emptied
    if not emptied:
        return []
    return sorted(
        (s for s in emptied if s is not tail and not s.live and not s.readers and not s.damaged),
        key=lambda segment: segment.number,
    )


def unlink(fsio: Fsio, names: Names, segments: Sequence[Segment]) -> None:
    """Take them away for good. The log must be synced: what killed their messages may not be lost any more."""
    for segment in segments:
        fsio.unlink(names.segment(segment.number))
    fsio.sync_directory(names.log)
