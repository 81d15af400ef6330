"""Dead letters: a message that was given up moves to its queue's `dead_letter`, in one unit with leaving the old one.

    NACK requeue:false ─┐
    too many deliveries ┴▶ Queue.doomed ──dispatch: body read──▶ put + settle in one unit ──▶ Ticket.number

Its body may be on the disk alone, so it is read at the end of a turn, not while frames are parsed; until then it stays
in flight, and a `Ticket` keeps the receipts of who gave it up. It must never settle before the copy is in the same
unit, or durable in the other engine. Called by: `broker.queue` (`bury`), `broker.client` (makes doomed and tickets).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from radiator.broker.transaction import Parts
from radiator.errors import CorruptRecord, Refused, StoreBusy
from radiator.message import Message
from radiator.store.base import Reason

if TYPE_CHECKING:
    from radiator.broker.broker import Broker
    from radiator.broker.client import Client
    from radiator.broker.queue import Queue

__all__ = ["Doomed", "Ticket", "bury", "dead_letter", "drop"]


class Ticket:
    """A dead letter that `client` caused and whose number is not known yet (`number` is None).

    Numbers are given in the order of a client's tickets and never fall, so the last ticket speaks for all before it.
    """

    __slots__ = ("client", "number", "result")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.result: int | None = None
        self.number: int | None = None

    def resolve(self, number: int) -> None:
        """The dead letter was appended with `number`."""
        self.result = number
        self.client.punch()


class Doomed:
    """An in-flight message on its way to the dead letters.

    `deliveries` counts all of them, the last one too; `reason` is nacked or max-deliveries.
    """

    __slots__ = ("deliveries", "id", "reason", "ticket")

    def __init__(self, id: int, deliveries: int, reason: str, ticket: Ticket | None = None) -> None:
        self.id = id
        self.deliveries = deliveries
        self.reason = reason
        self.ticket = ticket


def bury(queue: Queue) -> None:
    """Move the doomed messages of `queue` to where they belong, as far as their bodies are in memory."""
    broker = queue.broker
    while queue.doomed:
        doomed = queue.doomed[0]
        parts = Parts()
        target = broker.dead_letters_of(queue)
        if target is None:
            number = drop(queue, doomed.id, doomed.reason)
        else:
            try:
                message = queue.store.read(queue.handle, doomed.id)
            except CorruptRecord:
                # The store has said so and removes it: there is nothing left to bury.
                _done(queue, 0)
                continue
            if message is None:
                return  # on_ready marks this queue when it has been read
            target.stage(dead_letter(broker, queue, doomed, message), parts)
            parts.settle(queue, doomed.id, Reason.DEAD_LETTERED)
            try:
                number = broker.commit(parts)
                queue.dead_lettered += 1
            except StoreBusy:
                broker.retry(queue)
                return
            except Refused as refused:
                if target.persistent:
                    # A full disk: it stays in flight, which is never wrong, until there is room again.
                    broker.retry(queue)
                    return
                number = drop(queue, doomed.id, f"{doomed.reason}; {refused}")
        _done(queue, number)


def _done(queue: Queue, number: int) -> None:
    """The first of the doomed is where it belongs, durable at `number`."""
    ticket = queue.doomed.popleft().ticket
    if ticket is not None:
        ticket.resolve(number)


def drop(queue: Queue, id: int, reason: str) -> int:
    """Remove an in-flight message for good, counted and reported; the number at which that is durable."""
    parts = Parts()
    parts.settle(queue, id, Reason.DEAD_LETTERED)
    queue.dropped += 1
    queue.broker.report("message_dropped", queue=queue.name, id=id, reason=reason)
    return queue.broker.commit(parts)


def dead_letter(broker: Broker, queue: Queue, doomed: Doomed, message: Message) -> Message:
    """`message` as it arrives in the dead letters: the same, with the broker's own lines in front of its block."""
    lines = (b"dead-letter-queue:%b\ndead-letter-reason:%b\ndead-letter-time:%d\ndead-letter-count:%d\n") % (
        broker.escape(queue.name, message.version),
        doomed.reason.encode(),
        broker.wall_ms(),
        doomed.deliveries,
    )
    return Message(
        message.version,
        message.plain and not any(character in queue.name for character in "\\\r\n:"),
        lines + message.block,
        message.body,
        message.arrival_ms,
        message.expires_ms,
        message.not_before_ms,
        message.priority,
    )
