"""A disk that does not answer: said once when a write, a sync or a birth lasts too long, and once when it has ended.

It must never end anything: a disk that hangs may come back, and an error is for the log to judge.
Called by: `engine.FileStore.tick`.
"""

from __future__ import annotations

from radiator.store.file.recovery import Report

__all__ = ["STALL_SECONDS", "StallWatch"]

STALL_SECONDS = 30.0
"""Work on the disk that takes longer is reported."""


class StallWatch:
    """Sees the same piece of work again and again, and counts the seconds."""

    __slots__ = ("_report", "_since", "_told", "_work")

    def __init__(self, report: Report) -> None:
        self._report = report
        self._work: object = None
        self._since = 0.0
        self._told = False

    def look(self, work: object, path: str, now: float) -> float | None:
        """`work` is what the disk has in hand at `now`, None for nothing; when to look again."""
        if work is not self._work:
            if self._told:
                self._report("the disk answers again", path=path, seconds=round(now - self._since, 1))
            self._work = work
            self._since = now
            self._told = False
        if work is None or self._told:
            return None
        if now - self._since < STALL_SECONDS:
            return self._since + STALL_SECONDS
        self._told = True
        self._report("the disk does not answer; nothing is acknowledged meanwhile", path=path, seconds=STALL_SECONDS)
        return None
