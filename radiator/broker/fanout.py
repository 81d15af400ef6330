"""A fanout: one SEND becomes one message in each of its queues, in all of them or in none.

It must never hold anything itself, and never be consumed from. The body is stored once per engine: the queues on disk
get it in one unit, those in memory once that unit is durable.
Called by: `broker.client` (SEND).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from radiator.broker.transaction import Parts

if TYPE_CHECKING:
    from radiator.broker.broker import Broker
    from radiator.broker.queue import Queue
    from radiator.message import Message

__all__ = ["Fanout"]


class Fanout:
    """One fanout over `queues`, none of them twice."""

    __slots__ = ("broker", "durable", "memory", "name", "queues")

    def __init__(self, broker: Broker, name: str, queues: tuple[Queue, ...]) -> None:
        self.broker = broker
        self.name = name
        self.queues = queues
        self.durable = tuple(queue.handle for queue in queues if queue.persistent)
        self.memory = tuple(queue.handle for queue in queues if not queue.persistent)

    def put(self, message: Message) -> int:
        """Put `message` into every queue; the number at which it is durable.

        Refused, StoreBusy, TurnSpent: nothing happened.
        """
        parts = Parts()
        self.stage(message, parts)
        return self.broker.commit(parts)

    def stage(self, message: Message, parts: Parts) -> None:
        """Let `message` be put with the rest of a unit."""
        parts.copies += len(self.queues)
        if self.durable:
            parts.put(message, self.durable, True)
        if self.memory:
            parts.put(message, self.memory, False)
