"""A topic: every subscriber connected now gets the message; nothing is kept, nothing is acknowledged.

It must never wait for a subscriber: one whose output would pass `limits.output` is disconnected, or misses the message
where the topic says `slow: drop`. One message always fits an empty output.
Called by: `broker.client` (SEND, SUBSCRIBE), `broker.broker` (what a transaction publishes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from radiator.broker.transaction import Parts

if TYPE_CHECKING:
    from radiator.broker.broker import Broker
    from radiator.broker.subscription import TopicSubscription
    from radiator.message import Message

__all__ = ["ENVELOPE_BYTES", "Topic"]

ENVELOPE_BYTES: Final = 128
"""What a session puts around a message's block and body at most, the subscription's id aside: in STOMP up to 119."""


class Topic:
    """One topic. `kept` topics are configured; others live as long as somebody subscribes to them."""

    __slots__ = ("broker", "drop_slow", "dropped", "kept", "name", "published", "subscriptions")

    def __init__(self, broker: Broker, name: str, *, drop_slow: bool, kept: bool) -> None:
        self.broker = broker
        self.name = name
        self.drop_slow = drop_slow
        self.kept = kept
        self.subscriptions: list[TopicSubscription] = []
        self.published = 0
        self.dropped = 0

    def put(self, message: Message) -> int:
        """Publish `message`; 0, for there is nothing to wait for. TurnSpent: nothing happened."""
        broker = self.broker
        if self.subscriptions:
            broker.check_turn()
        if self.name in broker.deferred_topics:
            # What its sender sent before is still waiting, for the disk or for the next turn: never overtake it.
            parts = Parts()
            self.stage(message, parts)
            return broker.commit(parts)
        self.publish(message)
        return 0

    def stage(self, message: Message, parts: Parts) -> None:
        """Let `message` be published with the rest of a unit."""
        parts.publications.append((self, message))

    def publish(self, message: Message) -> None:
        """Append `message` to the output of every subscriber, now."""
        self.published += 1
        broker = self.broker
        broker.copies += len(self.subscriptions)
        number = broker.next_publication()
        block_bytes = len(message.block)
        if not message.plain:
            block_bytes *= 2  # for a subscriber of another version each of its bytes may have to be escaped
        size = ENVELOPE_BYTES + block_bytes + len(message.body)
        limit = broker.config.limits.output
        blocks: dict[int, bytes] = {}
        for subscription in self.subscriptions:
            client = subscription.client
            if client.failed:
                continue
            waiting = client.peer.output_bytes
            if waiting and waiting + size + len(subscription.wire_id or b"") > limit:
                if self.drop_slow:
                    self.dropped += 1
                else:
                    client.fail(f"too slow: {waiting} bytes wait for you, limits.output is {limit}")
            else:
                client.peer.publish(subscription, message, number, blocks)
