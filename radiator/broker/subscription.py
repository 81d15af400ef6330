"""What one connection asked for with a SUBSCRIBE: of a queue, with a window, or of a topic, without one.

These are plain values that the client, the queue and the topic share; nothing here decides anything.
Called by: `broker.client` (makes and ends them), `broker.queue` and `broker.topic` (deliver to them), the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from radiator.broker.client import Client
    from radiator.broker.queue import Queue, Seat
    from radiator.broker.topic import Topic
    from radiator.message import Delivery

__all__ = ["QueueSubscription", "Subscription", "TopicSubscription"]


class Subscription:
    """One SUBSCRIBE that is in force.

    `id` is its header `id` unescaped (None in STOMP 1.0 without one), `wire_id` the same as raw bytes for the MESSAGE
    frames. `ack` is auto, client or client-individual; `prefetch` its window in messages.
    """

    __slots__ = ("ack", "client", "destination", "id", "prefetch", "wire_id")

    def __init__(
        self, client: Client, id: str | None, wire_id: bytes | None, destination: str, ack: str, prefetch: int
    ) -> None:
        self.client = client
        self.id = id
        self.wire_id = wire_id
        self.destination = destination
        self.ack = ack
        self.prefetch = prefetch


class QueueSubscription(Subscription):
    """A subscription of a queue.

    `count` is how many messages it holds in its window (none where `auto`: those wait for the socket alone). `order`
    has what it holds by ack number, in order of delivery, where an ACK is cumulative (`ack:client`), else None.
    """

    __slots__ = ("auto", "count", "order", "queue", "seat")

    def __init__(
        self,
        client: Client,
        id: str | None,
        wire_id: bytes | None,
        destination: str,
        ack: str,
        prefetch: int,
        queue: Queue,
        seat: Seat,
    ) -> None:
        super().__init__(client, id, wire_id, destination, ack, prefetch)
        self.queue = queue
        self.seat = seat
        self.auto = ack == "auto"
        self.count = 0
        self.order: dict[int, Delivery] | None = {} if ack == "client" else None


class TopicSubscription(Subscription):
    """A subscription of a topic: no window, nothing held."""

    __slots__ = ("topic",)

    def __init__(
        self,
        client: Client,
        id: str | None,
        wire_id: bytes | None,
        destination: str,
        ack: str,
        prefetch: int,
        topic: Topic,
    ) -> None:
        super().__init__(client, id, wire_id, destination, ack, prefetch)
        self.topic = topic
