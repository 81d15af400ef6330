"""One connection's conversation in STOMP: bytes and broker events in, bytes out.

It must never touch a socket, a file, a clock, a log or another greenlet: time comes in as `now` (monotonic seconds),
and all that a call leaves behind is output, the `deadline` and a few flags.
Called by: the server's connection (`receive_data`, `data_to_send`, `sent`, `tick`, `resume`, `drain`,
`connection_lost`), the broker (the `Peer` methods: `deliver`, `publish`, `release_receipts`, `fail`) and
`stomp.handlers` (`connected`, `receipt`, `refuse`, `end`).

                 CONNECT, STOMP               DISCONNECT, `drain`
    ──▶ NEW ─────────────────▶ CONNECTED ───────────────────────▶ ENDING ─────────────────────▶ CLOSING
         │                         │                               ▲  owed receipts left, then
         │                         └── ProtocolError, Refused ─────┤  the ERROR (at most 1 s)
         └── the same, or quietly where no STOMP was spoken ───────┘

NEW and CONNECTED differ by the table of handlers alone. In ENDING no input is parsed; in CLOSING nothing more is
appended: the server sends what is left for as long as the client takes some of it, shuts its side, and is gone within
two seconds; behind an ERROR all of that has two seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, Final

from radiator.errors import ProtocolError, Refused, StoreBusy, TurnSpent
from radiator.stomp.frame import Frame, Parser, encode_frame, encode_message, encode_receipt, translate_block, unescape
from radiator.stomp.handlers import HANDLERS, VERSION_TEXTS, Handler
from radiator.stomp.output import OUTPUT_MARK, Output

if TYPE_CHECKING:
    from radiator.broker.broker import Broker
    from radiator.broker.subscription import Subscription
    from radiator.config.schema import Limits
    from radiator.message import Delivery, Message

__all__ = ["ERROR_WAIT_SECONDS", "FRAME_STEP_BYTES", "HEART_BEAT_GRACE_SECONDS", "Session"]

HEART_BEAT_GRACE_SECONDS: Final = 1.0
"""Added to twice the agreed interval before silence counts as death (the contract: 2x grace at least)."""

ERROR_WAIT_SECONDS: Final = 1.0
"""How long an ERROR waits for the receipts that were owed before it."""

FRAME_STEP_BYTES: Final = 4096
"""A frame that grew by so much is slow, not stuck: the clock of `limits.frame_timeout` starts again."""

TOPIC_QUEUE: Final = 0
"""The queue number in the message-id of a topic's message: no queue has it, so nothing can be ACKed by it."""

SHARED_BYTES: Final = 8 << 10
"""From so many bytes of header block and body on a message is not copied for each of its receivers."""

NEVER_SENT: Final = 1 << 62
"""The place in the output of a frame that was not encoded at all."""


class Session(Output):
    """The state of one connection, from its first byte to its last.

    `wake(session)` is called whenever there is something for the server to do: output where there was none, an earlier
    `deadline`, `closing`. It may be called from within any method, so it must only take note.

    Read by the server:
    `deadline`: when `tick` wants to be called next (infinity: never); may move earlier with any call.
    `blocked`: the store has no room; frames wait unparsed until `resume`, and no clock runs against the client.
    `postponed`: the same where `blocked`, but what is spent is this turn, and the next one resumes.
    `ending`: the client's last frame was read or refused; what comes in is discarded.
    `closing`: send what is left, shut the write side, discard input.
    `hasty`: what is left does not get more than a moment, after an ERROR or where the client takes no byte.
    """

    __slots__ = (
        "_beat_due",
        "_beat_seconds",
        "_draining",
        "_error",
        "_error_due",
        "_half_bytes",
        "_half_since",
        "_handlers",
        "_heard",
        "_limits",
        "_moved",
        "_now",
        "_owed",
        "_owed_bytes",
        "_parser",
        "_silence_seconds",
        "_since",
        "_spoke",
        "_wake",
        "blocked",
        "broker",
        "client",
        "closing",
        "deadline",
        "ending",
        "hasty",
        "postponed",
        "server",
        "session_id",
        "stale_acks",
        "version",
    )

    def __init__(
        self,
        broker: Broker,
        limits: Limits,
        *,
        session_id: str,
        server: str,
        wake: Callable[[Session], None],
    ) -> None:
        super().__init__()
        self.broker = broker
        self.session_id = session_id
        self.server = server
        self.version = 0  # 10, 11 or 12 once it is negotiated
        self.blocked = False
        self.postponed = False
        self.ending = False
        self.closing = False
        self.hasty = False
        self.deadline = 0.0
        self.stale_acks = 0
        self._limits = limits
        self._wake = wake
        self._handlers: Mapping[str, Handler] = HANDLERS[0]
        self._draining = False
        self._parser = Parser(max_frame=limits.frame, max_headers=limits.headers, max_header_line=limits.header_line)
        self._owed: deque[tuple[Any, bytes]] = deque()
        self._owed_bytes = 0
        self._error: bytes | None = None
        self._error_due: float | None = None
        self._now = 0.0
        self._since: float | None = None
        self._spoke: bool | None = None  # does the very first byte look like a command? None: there is none yet
        self._heard = 0.0
        self._half_since: float | None = None
        self._half_bytes = 0
        self._moved: float | None = None
        self._beat_seconds = 0.0
        self._beat_due = inf
        self._silence_seconds = 0.0
        self.client = broker.client(self)

    # The server's side: input

    @property
    def wants_read(self) -> bool:
        """May more be read? Not while what was read waits, nor while the client leaves its own answers unread.

        True again once the last frame was read: what comes then is discarded, and a socket closed over unread bytes
        would take back the ERROR that the client has not read yet.
        """
        return self.ending or not (self.blocked or self.output_bytes + self._owed_bytes > OUTPUT_MARK)

    def receive_data(self, data: bytes | memoryview, now: float) -> None:
        """Parse what was read, to its end, and act on every frame."""
        self._heard = now
        if self.ending:
            return
        if self._spoke is None:
            start = bytes(data).lstrip(b"\r\n")[:1]
            if start:
                self._spoke = start.isalpha()
        self._parser.receive_data(data)
        if not self.blocked:
            self._parse(now)

    def resume(self, now: float) -> None:
        """The store has room again, or a new turn has begun: go on with the frames, start the client's clocks anew."""
        if self.blocked:
            self.blocked = False
            self._heard = now
            self._parse(now)
            if self._draining:
                self.drain(now)

    def drain(self, now: float) -> None:
        """The broker stops, or the client sends no more: give out the receipts owed, then close.

        What was read is acted upon first: where `blocked`, all this waits for `resume`.
        """
        self._now = now
        self._draining = self.blocked
        if not self.blocked and not self.ending:
            self.end()

    def connection_lost(self) -> None:
        """The connection is gone: all that this client held goes back."""
        self.ending = self.closing = True
        self.blocked = False
        self.deadline = inf
        self._error = None
        self._forget_owed()
        self._parser.clear()
        unsent = self._drop()
        if unsent:
            self.client.untaken(unsent)
        self.client.close()

    # The server's side: output and time

    def sent(self, count: int, now: float) -> None:
        """The kernel took `count` bytes of what `data_to_send` gave (0: none for now)."""
        before = self.output_bytes
        taken = self._took(count)
        left = self.output_bytes
        if not left:
            self._moved = None
        elif count or self._moved is None:
            self._moved = now
            self._sooner(now + self._limits.stall_timeout)
        if taken:
            self.client.taken(taken)
        if before >= OUTPUT_MARK > left:
            self.client.output_drained()

    def tick(self, now: float) -> float | None:
        """Do what is due: heart-beats out and in, the timeouts of the limits, an ERROR that waited enough.

        Returns `deadline` as it is then, None for never.
        """
        self._now = now
        if self._since is None:
            self._since = now
        self.deadline = inf
        self._tick_output(now)
        if self.ending:
            self._tick_error(now)
        elif not self.version:
            if self._due(self._since + self._limits.connect_timeout):
                self.refuse("no CONNECT frame arrived in time (limits.connect_timeout)")
        else:
            self._tick_input(now)
        return None if self.deadline == inf else self.deadline

    def _due(self, when: float) -> bool:
        """Has `when` come? Otherwise the next tick is not after it."""
        if self._now >= when:
            return True
        if when < self.deadline:
            self.deadline = when
        return False

    def _tick_output(self, now: float) -> None:
        """Give up a client that takes no byte; send a heart-beat twice per interval, traffic or not."""
        if self.output_bytes and not self.hasty:
            if self._moved is None:
                self._moved = now
            if self._due(self._moved + self._limits.stall_timeout):
                self.hasty = True
                self._forget_owed()  # no ERROR either: nothing reaches this client any more
                self.end()
                return
        if self.closing:
            return
        if self._beat_seconds and self._due(self._beat_due):
            self._beat_due = now + self._beat_seconds
            self._due(self._beat_due)
            if not self.output_bytes:  # bytes that wait already are as good a sign of life
                self.append(b"\n")

    def _tick_error(self, now: float) -> None:
        """Send an ERROR that has waited its second, instead of receipts that the store does not release."""
        if self._error is None:
            return
        if self._error_due is None:
            self._error_due = now + ERROR_WAIT_SECONDS
        if self._due(self._error_due):
            self._forget_owed()
            self._finish()

    def _tick_input(self, now: float) -> None:
        """Refuse a client that fell silent, and one that leaves a frame half sent."""
        if not self.wants_read:
            # What the client has sent may lie unread in its socket, by our choice.
            self._heard = now
            if self._half_since is not None:
                self._half_since = now
        if self._silence_seconds and self._due(self._heard + self._silence_seconds):
            self.refuse(f"no heart-beat within {self._silence_seconds:g} s")
        elif self._half_since is not None and self._due(self._half_since + self._limits.frame_timeout):
            self.refuse("a frame stayed unfinished for too long (limits.frame_timeout)")

    # The broker's side

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        """Append a queue's message to the output."""
        message = delivery.message
        delivery.message = None
        auto = subscription.ack == "auto"
        if self.ending or message is None:
            if auto:
                self._autos.append((NEVER_SENT, delivery))
            return
        version = self.version
        block = message.block
        if message.version != version and not message.plain:
            block = translate_block(block, message.version, version)
        body = message.body
        shared = len(block) + len(body) >= SHARED_BYTES
        data = encode_message(
            subscription.wire_id,
            delivery.queue.number,
            delivery.id,
            delivery.ack if version == 12 else 0,
            delivery.deliveries,
            b"" if shared else block,
            b"" if shared else body,
        )
        before = self.output_bytes
        if shared:
            self._append_around(data, block, body)
        else:
            self._chunks.append(data)
            self.output_bytes = before + len(data)
        if auto:
            self._autos.append((self._taken + self.output_bytes, delivery))
        if not before:
            self._wake(self)

    def publish(self, subscription: Subscription, message: Message, number: int, blocks: dict[int, bytes]) -> None:
        """Append a topic's message to the output. Nobody waits for its ACK, yet 1.2 wants a number for one."""
        if self.ending:
            return
        version = self.version
        block = message.block
        if message.version != version and not message.plain:
            known = blocks.get(version)
            if known is None:
                known = blocks[version] = translate_block(block, message.version, version)
            block = known
        ack = self.client.next_ack() if version == 12 else 0
        body = message.body
        if len(block) + len(body) < SHARED_BYTES:
            self.append(encode_message(subscription.wire_id, TOPIC_QUEUE, number, ack, 0, block, body))
            return
        before = self.output_bytes
        self._append_around(
            encode_message(subscription.wire_id, TOPIC_QUEUE, number, ack, 0, b"", b""),
            block,
            body,
        )
        if not before:
            self._wake(self)

    def _append_around(self, frame: bytes, block: bytes, body: bytes) -> None:
        """Append the empty MESSAGE `frame` with `block` and `body` in it: as the objects they are, not as copies."""
        # Only we wrote that line, for there is no block yet, and no subscription's id has a line end in it.
        head = frame[:-2].replace(b"\ncontent-length:0\n", b"\ncontent-length:%d\n" % len(body), 1)
        self._chunks += (head, block, b"\n", body, b"\0")
        self.output_bytes += len(head) + len(block) + len(body) + 2

    def release_receipts(self, committed: int) -> None:
        """Let the receipts leave whose promise holds now, in order.

        A receipt says that all its connection sent before it is committed under the fsync policy. It is
        appended here or in `receipt`, both times behind `broker.reached`, and nowhere else.
        """
        owed = self._owed
        if not owed:
            return
        reached = self.broker.reached
        previous: Any = None
        ready = []
        while owed:
            mark = owed[0][0]
            if mark != previous and not reached(mark):
                break
            previous = mark
            ready.append(owed.popleft()[1])
        if not ready:
            return
        data = b"".join(ready)
        self._owed_bytes -= len(data)
        self.append(data)
        if self.ending and not owed:
            self._finish()

    def fail(self, text: str) -> None:
        """End the conversation with an ERROR that says `text`; the broker closes its client by itself."""
        if not self.ending:
            self._error = self._encode_error(text)
            self._stop()

    # The handlers' side

    def connected(self, version: int, out_ms: int, in_ms: int) -> None:
        """Speak `version` from the next frame on, with heart-beats at these intervals (0: none)."""
        self.version = self._parser.version = version
        self._handlers = HANDLERS[version]
        if out_ms:
            self._beat_seconds = out_ms / 2000
            self._beat_due = self._now + self._beat_seconds
            self._sooner(self._beat_due)
        if in_ms:
            self._silence_seconds = in_ms / 500 + HEART_BEAT_GRACE_SECONDS
            self._sooner(self._now + self._silence_seconds)

    def receipt(self, receipt: bytes) -> None:
        """Answer a frame whose `receipt` header is `receipt`, now or once all that came before it is committed.

        Not where the frame itself was this client's end (`fail`): nothing follows an ERROR.
        """
        if self.ending:
            return
        mark = self.client.receipt_mark()
        data = encode_receipt(receipt)
        if not self._owed and self.broker.reached(mark):
            self.append(data)
        else:
            self._owed.append((mark, data))
            self._owed_bytes += len(data)

    def append(self, data: bytes) -> None:
        """Append whole frames, or a heart-beat, to the output."""
        before = self.output_bytes
        self._chunks.append(data)
        self.output_bytes = before + len(data)
        if not before:
            self._wake(self)

    def refuse(self, text: str, frame: Frame | None = None, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """End with one ERROR that says `text`, behind the receipts owed; a second reason adds nothing.

        `frame` is the one that is refused: the ERROR names its command and echoes its receipt, as it echoes that of a
        frame which the parser did not take.
        """
        if not self.ending:
            self._error = self._encode_error(text, frame, headers)
            self.end()

    def end(self) -> None:
        """Take no more input, hold no more messages; close behind the receipts owed and the ERROR, if there is one."""
        self._stop()
        self.client.close()

    # Inside

    def _parse(self, now: float) -> None:
        """Hand every whole frame of the input to its handler."""
        self._now = now
        parser = self._parser
        handlers = self._handlers
        frame: Frame | None = None
        count = 0
        try:
            while True:
                frame = None
                frame = parser.next_frame()
                if frame is None:
                    break
                count += 1
                handler = handlers.get(frame.command)
                if handler is None:
                    raise ProtocolError(self._out_of_turn(frame.command))
                handler(self, frame)
                if self.ending:
                    return
                handlers = self._handlers
        except (StoreBusy, TurnSpent) as reason:
            # Raised before anything was changed: the same frame will be handled again, whole.
            parser.unread()
            self.blocked = True
            self.postponed = isinstance(reason, TurnSpent)
            self._half_since = None
            return
        except (ProtocolError, Refused) as error:
            if self.version or self._spoke:
                self.refuse(str(error), frame)
            else:
                self.end()  # no STOMP was spoken here: say nothing
            return
        if not parser.mid_frame:
            self._half_since = None
            return
        held = parser.buffered
        if count or self._half_since is None or held - self._half_bytes >= FRAME_STEP_BYTES:
            self._half_since = now
            self._half_bytes = held
            if self.version:
                self._sooner(now + self._limits.frame_timeout)

    def _out_of_turn(self, command: str) -> str:
        """Why there is no handler for `command` now."""
        if not self.version:
            return f"{command} before CONNECT"
        if command in HANDLERS[0]:
            return f"{command} on a connection that is connected"
        return f"{command} is not a command of STOMP {VERSION_TEXTS[self.version]}"

    def _sooner(self, when: float) -> None:
        """The next tick has to come by `when`."""
        if when < self.deadline:
            self.deadline = when
            self._wake(self)

    def _forget_owed(self) -> None:
        """No receipt leaves any more."""
        self._owed.clear()
        self._owed_bytes = 0

    def _encode_error(self, text: str, frame: Frame | None = None, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
        """The ERROR frame that says `text` of `frame`."""
        lines = [("message", text), *headers]
        details = f"{text}\n"
        receipt = self._parser.failed_receipt
        if frame is not None:
            details = f"{frame.command}: {details}"
            receipt = None if frame.command in HANDLERS[0] else frame.receipt
        if receipt is not None:
            lines.append(("receipt-id", unescape(receipt, self.version)))
        body = details.encode()
        lines += [("content-type", "text/plain"), ("content-length", str(len(body)))]
        return encode_frame("ERROR", lines, body, self.version)

    def _stop(self) -> None:
        """The conversation is over, but for what is owed."""
        self.ending = True
        self.blocked = False
        self._half_since = None
        self._parser.clear()
        if not self._owed:
            self._finish()
        elif self._error is not None:
            self._sooner(0.0)  # the second starts with the next tick: `fail` does not know the time

    def _finish(self) -> None:
        """Nothing is owed any more: the ERROR, if it is one, then the server's turn."""
        error, self._error = self._error, None
        if error is not None:
            self.hasty = True
            self.append(error)
        self.closing = True
        self._wake(self)
