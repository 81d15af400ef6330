"""What a long start tells the operator: a line every second with what is being read and how long it will take.

It must never slow the start, nor say anything about a short one. Called by: the daemon, as the store's `progress`.
"""

from __future__ import annotations

from collections.abc import Callable

from radiator.server.logs import Log

__all__ = ["StartProgress"]

EVERY_SECONDS = 1.0


class StartProgress:
    """Call it with what is being done, the bytes that are done and those there are in all. `clock` gives seconds."""

    def __init__(self, log: Log, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._began: float | None = None
        self._next = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = self._clock()
        if self._began is None:
            self._began = now
            self._next = now + EVERY_SECONDS
        elif now >= self._next:
            self._next = now + EVERY_SECONDS
            left = (now - self._began) * (total - done) / done if done else 0.0
            self._log.info(what, done_mib=done >> 20, total_mib=total >> 20, seconds_left=round(left))
