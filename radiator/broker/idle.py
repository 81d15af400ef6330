"""The queues that clients made and that may go, when another one needs a place under `limits.queues`.

    made, or its last subscription ended ─▶ listed, behind all others
    a place is needed: from the front    ─┬▶ consumed or with messages: forgotten, until its last subscription ends
                                          ├▶ something of it is under way: to the end
                                          └▶ idle: it goes

A message leaves a queue only through a subscription, so a queue that is forgotten comes back when it may be idle again,
and each look is paid for by one listing: neither many queues nor none to take make a new name dear. It must never give
out a queue that anything may still come to, or come back to. Called by: `broker.broker`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from radiator.broker.queue import Queue

__all__ = ["Idle"]

MOST_UNSETTLED: Final = 64
"""Queues that are put back to the end in one search. They stay where they are few, and a search must end."""


class Idle:
    """The list, of those that may be idle; the longest unused first."""

    __slots__ = ("_listed",)

    def __init__(self) -> None:
        self._listed: OrderedDict[Queue, None] = OrderedDict()

    def note(self, queue: Queue) -> None:
        """`queue`, which a client made, has no subscription now, or none yet."""
        self._listed[queue] = None
        self._listed.move_to_end(queue)

    def take(self) -> Queue | None:
        """A queue that may go, which is not listed any more; None where there is none."""
        listed = self._listed
        unsettled = 0
        while unsettled < min(len(listed), MOST_UNSETTLED):
            queue, _ = listed.popitem(last=False)
            if queue.seats or queue.handle.ready:
                continue
            if queue.is_idle:
                return queue
            listed[queue] = None
            unsettled += 1
        return None
