"""Several operations as one: the parts of a unit for each engine, and the transaction that a client fills.

A unit never changes anything before all of it has been checked; whoever has `Parts` gives them to `Broker.commit`.
Called by: `broker.client` (BEGIN to COMMIT), `broker.fanout` and `broker.graveyard` (units over both engines).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from radiator.store.base import Reason, StoreQueue, Unit

if TYPE_CHECKING:
    from radiator.broker.broker import Target
    from radiator.broker.queue import Queue
    from radiator.broker.topic import Topic
    from radiator.message import Delivery, Message

__all__ = ["OPERATION_BYTES", "Parts", "Transaction"]

OPERATION_BYTES = 128
"""What each buffered operation counts against `limits.transaction` beside its header block and body."""


class Parts:
    """A unit split by engine: what goes to the file store, what to the memory store, what is published.

    `copies` counts the messages that fanouts made of those sent to them.
    """

    __slots__ = ("copies", "durable", "memory", "publications")

    def __init__(self) -> None:
        self.copies = 0
        self.durable: Unit | None = None
        self.memory: Unit | None = None
        self.publications: list[tuple[Topic, Message]] = []

    def put(self, message: Message, handles: Sequence[StoreQueue], persistent: bool) -> None:
        """Add one message to store queues of one engine."""
        self._unit(persistent).puts.append((message, handles))

    def settle(self, queue: Queue, id: int, reason: Reason) -> None:
        """Remove an in-flight message."""
        self._unit(queue.persistent).settled.append((queue.handle, id, reason))

    def _unit(self, persistent: bool) -> Unit:
        if persistent:
            if self.durable is None:
                self.durable = Unit()
            return self.durable
        if self.memory is None:
            self.memory = Unit()
        return self.memory


class Transaction:
    """What a client did between BEGIN and COMMIT, in order, without any effect so far but freed places.

    `acked` left the client's held messages when their ACK was read; `nacked` are still held, with `requeue`, until
    COMMIT. `buffered` is what all this counts against `limits.transaction`, in bytes.
    """

    __slots__ = ("acked", "buffered", "nacked", "sends")

    def __init__(self) -> None:
        self.sends: list[tuple[Target, Message]] = []
        self.acked: list[Delivery] = []
        self.nacked: list[tuple[Delivery, bool]] = []
        self.buffered = 0

    def parts(self) -> Parts:
        """Everything that COMMIT appends in one piece."""
        parts = Parts()
        for target, message in self.sends:
            target.stage(message, parts)
        for delivery in sorted(self.acked, key=lambda acked: acked.queue.number):  # the fewest records
            parts.settle(delivery.subscription.queue, delivery.id, Reason.ACKED)
        return parts
