"""The bytes of one connection that wait for the socket, and what is settled when the kernel has taken them.

It must never touch a socket or interpret a frame: whole frames come in, counts of taken bytes come in, joined bytes go
out. Called by: `stomp.session`, which is one (no second object per connection, no second hop per message), and through
it the server, which sends `data_to_send` and says `sent`.

    append ─▶ chunks ──join──▶ head ──socket.send──▶ the kernel
                               └ position: what of it is taken

A large body is a chunk of its own: the same object in the outputs of all who get that message, and never copied where
it is larger than what is joined.

A delivery of an `ack:auto` subscription is remembered with the place in the stream where its frame ends; once the
kernel took the byte before that place the delivery is settled, and one whose frame never left goes back unharmed.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from radiator.message import Delivery

__all__ = ["OUTPUT_MARK", "SEND_BYTES", "Output"]

OUTPUT_MARK: Final = 256 << 10
"""Unsent bytes from which a client is given no more messages of queues and read no more (flow control)."""

SEND_BYTES: Final = 256 << 10
"""Bytes joined for one send, at most: more than a socket buffer takes at once is copied in vain."""


class Output:
    """What is appended leaves in order; nothing is ever taken back."""

    __slots__ = ("_autos", "_chunks", "_head", "_position", "_taken", "output_bytes")

    def __init__(self) -> None:
        self.output_bytes = 0
        self._chunks: deque[bytes] = deque()
        self._head = b""
        self._position = 0
        self._taken = 0
        self._autos: deque[tuple[int, Delivery]] = deque()

    def data_to_send(self) -> bytes | memoryview:
        """The next bytes for the socket; the same again until `sent` says how many were taken.

        Up to 256 KiB are joined; a chunk that is larger is given as it is.
        """
        head = self._head
        if head:
            return memoryview(head)[self._position :] if self._position else head
        chunks = self._chunks
        if len(chunks) == 1:
            head = chunks.popleft()
        elif self.output_bytes <= SEND_BYTES:
            head = b"".join(chunks)
            chunks.clear()
        else:
            some = [chunks.popleft()]
            size = len(some[0])
            while chunks and size + len(chunks[0]) <= SEND_BYTES:
                some.append(chunks.popleft())
                size += len(some[-1])
            head = b"".join(some) if len(some) > 1 else some[0]
        self._head = head
        return head

    def _took(self, count: int) -> list[Delivery]:
        """Forget `count` bytes of what `data_to_send` gave; the ack:auto deliveries that are thereby on their way."""
        self.output_bytes -= count
        self._taken = taken = self._taken + count
        self._position += count
        if self._position >= len(self._head):
            self._head = b""
            self._position = 0
        autos = self._autos
        gone = []
        while autos and autos[0][0] <= taken:
            gone.append(autos.popleft()[1])
        return gone

    def _drop(self) -> list[Delivery]:
        """Forget everything; the ack:auto deliveries whose frames did not leave whole, in order."""
        unsent = [delivery for _, delivery in self._autos]
        self._autos.clear()
        self._chunks.clear()
        self._head = b""
        self._position = 0
        self.output_bytes = 0
        return unsent
