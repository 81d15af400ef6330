"""What the broker asks of a connection's protocol session, whatever the protocol is.

Called by: `broker.client` and `broker.topic`; implemented by `stomp.session.Session` (and, later, by its siblings).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from radiator.broker.client import Subscription
    from radiator.message import Delivery, Message

__all__ = ["Peer"]


class Peer(Protocol):
    """The session of one connection, seen from the broker. No method may raise, block or call back into the broker."""

    output_bytes: int
    """Bytes that wait for the socket, over all frames appended and not yet taken by the kernel."""

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        """Append a queue's message to the output. The session sets `delivery.message` to None afterwards."""

    def publish(self, subscription: Subscription, message: Message, number: int, blocks: dict[int, bytes]) -> None:
        """Append a topic's message to the output; `number` is the topic's count, for the message-id.

        `blocks` is shared by all subscribers of this one message: its header block by the version it was translated to,
        so that the first of a version does it for all of them.
        """

    def release_receipts(self, committed: int) -> None:
        """The file store's batch `committed` is durable under its policy: receipts up to it may leave, in order."""

    def fail(self, text: str) -> None:
        """End this connection with an ERROR whose `message` is `text` (a slow topic subscriber, a dropped queue)."""
