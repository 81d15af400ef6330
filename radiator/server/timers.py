"""Deadlines of everything that ticks, on one timer of the loop.

Time is cut into slots of 50 ms: a deadline is met at the end of its slot, so up to 50 ms late and never early. Moving
an item costs two operations on dicts and leaves nothing behind, which is what a heap of deadlines cannot offer to ten
thousand connections that each change theirs with every byte. It must never call an item that asked for nothing.
Called by: `connection` (`at`) and `turn` (`soon`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["SLOT_SECONDS", "Timed", "Timers"]

SLOT_SECONDS = 0.05
_PER_SECOND = round(1 / SLOT_SECONDS)


class Timed(Protocol):
    """What can be put on the timers. `slot` belongs to the timers; it starts as 0."""

    slot: int

    def tick(self, now: float) -> float | None:
        """Do what is due at `now` (monotonic seconds) and say when to call next, None for never. It must not raise."""


class Timers:
    """`loop` is gevent's, `clock` gives monotonic seconds."""

    __slots__ = ("_armed", "_clock", "_loop", "_order", "_slots", "_timer")

    def __init__(self, loop: Any, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._clock = clock
        self._slots: dict[int, dict[Timed, None]] = {}
        self._order: list[int] = []
        self._timer: Any = None
        self._armed = 0

    def at(self, item: Timed, deadline: float | None) -> None:
        """Let `item` tick at `deadline` and not before; None takes it off."""
        slot = 0 if deadline is None else int(max(deadline, 0.0) * _PER_SECOND) + 1
        if slot != item.slot:
            self._move(item, slot)

    def soon(self, item: Timed, now: float) -> None:
        """Let `item` tick within a slot from `now`, or when it would have, whatever is earlier."""
        slot = int(now * _PER_SECOND) + 2
        if not 0 < item.slot <= slot:
            self._move(item, slot)

    def remove(self, item: Timed) -> None:
        """Take `item` off; harmless where it is not on."""
        if item.slot:
            self._move(item, 0)

    def close(self) -> None:
        """Stop for good."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _move(self, item: Timed, slot: int) -> None:
        if item.slot:
            self._slots[item.slot].pop(item, None)
        item.slot = slot
        if slot:
            members = self._slots.get(slot)
            if members is None:
                self._slots[slot] = {item: None}
                heapq.heappush(self._order, slot)
                if not self._armed or slot < self._armed:
                    self._arm(slot)
            else:
                members[item] = None

    def _arm(self, slot: int) -> None:
        self.close()
        self._armed = slot
        self._timer = self._loop.timer(max(0.0, slot / _PER_SECOND - self._clock()))
        self._timer.start(self._due, update=True)

    def _due(self) -> None:
        now = self._clock()
        current = int(now * _PER_SECOND)
        while self._order and self._order[0] <= current:
            items = list(self._slots.pop(heapq.heappop(self._order)))
            for item in items:
                item.slot = 0
            for item in items:
                deadline = item.tick(now)
                # One that is overdue at once waits for the next slot: the sockets come first.
                self.at(item, None if deadline is None else max(deadline, now))
        self._armed = 0
        if self._order:
            self._arm(self._order[0])
        else:
            self.close()
