"""The values that travel through the layers: a message on its way in, a delivery on its way out.

They hold bytes in wire form and numbers; they never interpret a header, and never import anything of radiator.
Called by: the session (makes messages), the broker and the stores (pass them on), the record kernel (writes them).
"""

from __future__ import annotations

from typing import Any

__all__ = ["Delivery", "Message"]


class Message:
    """One message: its header block in wire form and its body.

    `version` is the STOMP version of the sender's connection as 10, 11 or 12; `plain` says that the block reads the
    same in every version (no backslash, no carriage return, no colon in a value). `block` is the client's header lines,
    each ended by LF, in their order, without those that the broker sets itself; it contains the `destination` line.
    Times are milliseconds since the epoch by the wall clock; 0 stands for "none".
    """

    __slots__ = (
        "arrival_ms",
        "block",
        "body",
        "deliveries",
        "expires_ms",
        "not_before_ms",
        "plain",
        "priority",
        "version",
    )

    def __init__(
        self,
        version: int,
        plain: bool,
        block: bytes,
        body: bytes,
        arrival_ms: int = 0,
        expires_ms: int = 0,
        not_before_ms: int = 0,
        priority: int = 4,
        deliveries: int = 0,
    ) -> None:
        self.version = version
        self.plain = plain
        self.block = block
        self.body = body
        self.arrival_ms = arrival_ms
        self.expires_ms = expires_ms
        self.not_before_ms = not_before_ms
        self.priority = priority
        self.deliveries = deliveries


class Delivery:
    """One message of one queue in the hands of one consumer: claimed from a store, settled or released later.

    `queue` is the store's queue, `id` the message's number in it, `deliveries` how often it was delivered before. The
    store sets these and `message`; whoever has encoded the message sets `message` to None, so that no body outlives
    its way to the socket. `subscription` and `ack` belong to the broker and the session.
    """

    __slots__ = ("ack", "deliveries", "id", "message", "queue", "subscription")

    def __init__(self, queue: Any, id: int, deliveries: int, message: Message | None) -> None:
        self.queue = queue
        self.id = id
        self.deliveries = deliveries
        self.message = message
        self.subscription: Any = None
        self.ack = 0
