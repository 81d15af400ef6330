"""One accepted socket and its session: bytes in, bytes out, and the end of both.

    open ──session.closing, output sent──▶ shut (write side closed, input discarded) ──EOF or LINGER──▶ closed
      └── EOF with nothing owed, error, stall ────────────────────────────────────────────────────────▶ closed

After `session.closing` the output may take as long as it moves, but LINGER at most where `session.hasty` says so.

It must never block, never read twice in a turn, and never let an error of one session reach another connection: that
is logged and ends this one. There is no greenlet and, while idle, no buffer. Called by: the loop (`_readable`,
`_writable`), `turn` (`flush`, `resume`), `timers` (`tick`), the session (`wake`), the daemon (`drain`, `close`).
"""

from __future__ import annotations

import socket
import traceback
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from radiator.errors import StoreFailed

if TYPE_CHECKING:
    from radiator.server.turn import Turn

__all__ = ["LINGER_SECONDS", "Connection", "Talk"]

LINGER_SECONDS = 1.8
"""From the ERROR, or from the end of our side, to the close, at most; the contract says two seconds."""

_READ, _WRITE = 1, 2


class Talk(Protocol):
    """What a connection asks of its session, whatever protocol that speaks."""

    blocked: bool
    closing: bool
    deadline: float
    hasty: bool
    output_bytes: int
    postponed: bool

    @property
    def wants_read(self) -> bool:
        """May the socket be read?"""

    def receive_data(self, data: bytes | memoryview, now: float) -> None:
        """Act on what was read."""

    def resume(self, now: float) -> None:
        """The store has room again, or where `postponed` the next turn has come."""

    def data_to_send(self) -> bytes | memoryview:
        """The next bytes for the socket."""

    def sent(self, count: int, now: float) -> None:
        """The kernel took so many of them."""

    def tick(self, now: float) -> float | None:
        """Do what is due; when to call next."""

    def drain(self, now: float) -> None:
        """Act on what was received, where `blocked` after `resume`; give out what is owed, then want to close."""

    def connection_lost(self) -> None:
        """The connection is gone."""


class Connection:
    """`sock` is connected and non-blocking; it belongs to this object from now on. `session` is set by `start`."""

    __slots__ = (
        "_blocked",
        "_dirty",
        "_due",
        "_ended",
        "_gone_at",
        "_reader",
        "_reading",
        "_session",
        "_shut",
        "_sock",
        "_turn",
        "_writer",
        "closed",
        "peer",
        "slot",
    )

    def __init__(self, turn: Turn, sock: socket.socket, peer: str) -> None:
        self.peer = peer
        self.closed = False
        self.slot = 0
        self._turn = turn
        self._sock = sock
        self._session: Talk
        self._reader: Any = turn.loop.io(sock.fileno(), _READ)
        self._writer: Any = None
        self._reading = False
        self._dirty = False
        self._blocked = False
        self._shut = False
        self._ended = False
        self._gone_at = 0.0
        self._due = inf  # when the timers will call us

    def start(self, session: Talk) -> None:
        """Begin to read for `session`."""
        self._session = session
        self._turn.connections[self] = None
        self._schedule(self._turn.clock())
        self._read(True)

    def wake(self, session: object) -> None:
        """The session has output, wants to end or to be called earlier: see to it at the end of this turn."""
        if not self._dirty:
            self._dirty = True
            turn = self._turn
            turn.dirty.append(self)
            if not turn.armed:
                turn.arm()

    def flush(self) -> None:
        """One non-blocking send; the write watcher calls for the next one where the kernel did not take all."""
        self._dirty = False
        if self.closed or self._shut:
            return
        session = self._session
        if session.deadline < self._due:
            self._schedule(session.deadline)
        try:
            if session.output_bytes:
                data = session.data_to_send()
                try:
                    count = self._sock.send(data)
                except (BlockingIOError, InterruptedError):
                    count = 0
                session.sent(count, self._turn.clock())
                if session.output_bytes:
                    self._await_writable()
                    if session.hasty:
                        self._leave()
                    elif session.closing:
                        self._read(True)  # what is owed may take its time, as long as it moves
                    return
            if self._writer is not None:
                self._writer.stop()
                self._writer.close()
                self._writer = None
            if session.closing:
                self._shut_down()
            elif session.wants_read is not self._reading:
                self._read(session.wants_read)
        except OSError as error:
            self._lose(error.strerror or str(error))
        except Exception as error:  # noqa: BLE001 (logged with its traceback)
            self._crash(error)

    def resume(self) -> None:
        """The session parses what it held back."""
        self._blocked = False
        if self.closed:
            return
        try:
            self._session.resume(self._turn.clock())
            self._after_input()
        except Exception as error:  # noqa: BLE001 (logged with its traceback)
            self._crash(error)

    def drain(self) -> None:
        """Read no more, act on what was read, give out what is owed, then end."""
        if self.closed or self._gone_at:
            return
        self._read(False)
        try:
            self._session.drain(self._turn.clock())
            self.wake(None)
        except Exception as error:  # noqa: BLE001 (logged with its traceback)
            self._crash(error)

    def tick(self, now: float) -> float | None:
        """Meet the session's deadlines and our own; when to call next."""
        if self.closed:
            return None
        self._due = inf
        gone_at = self._gone_at
        if gone_at and now >= gone_at:
            self._lose("the client did not close")
            return None
        if self._shut:
            self._due = gone_at
            return gone_at
        try:
            deadline = self._session.tick(now)
        except Exception as error:  # noqa: BLE001 (logged with its traceback)
            self._crash(error)
            return None
        if self.closed:
            return None
        if gone_at and (deadline is None or gone_at < deadline):
            deadline = gone_at
        if deadline is not None:
            self._due = deadline
        return deadline

    def close(self) -> None:
        """End now, whatever is unsent. What the client held goes back to its queues."""
        if self.closed:
            return
        self.closed = True
        turn = self._turn
        turn.timers.remove(self)
        turn.connections.pop(self, None)
        turn.refused.discard(self)
        for watcher in (self._reader, self._writer):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._reader = self._writer = None
        self._sock.close()
        try:
            self._session.connection_lost()
        except Exception as error:  # noqa: BLE001 (logged with its traceback)
            self._report(error)
        turn.arm()
        turn.gone()

    def _readable(self) -> None:
        turn = self._turn
        try:
            count = self._sock.recv_into(turn.buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        if not count:
            self._end_of_input()
            return
        session = self._session
        if self._gone_at or session.closing:
            return  # discarded, so that what we said last is not lost in a reset
        try:
            session.receive_data(turn.view[:count], turn.clock())
        except Exception as error:  # noqa: BLE001 (logged with its traceback)
            self._crash(error)
            return
        self._after_input()

    def _writable(self) -> None:
        self.wake(None)

    def _after_input(self) -> None:
        session = self._session
        if session.blocked and not self._blocked:
            self._blocked = True
            self._turn.wait(self, session.postponed)
        if session.wants_read is not self._reading:
            self._read(session.wants_read)
        if not self._turn.armed:
            self._turn.arm()

    def _end_of_input(self) -> None:
        """The client sends no more. One that has only shut its write side still gets the receipts it is owed."""
        self._ended = True
        self._read(False)  # the end stays readable for ever
        if self._shut:
            self._lose("closed")
            return
        self.drain()

    def _read(self, on: bool) -> None:
        """Watch for input, or do not."""
        if self._ended:
            on = False
        if on is not self._reading and self._reader is not None:
            self._reading = on
            if on:
                self._reader.start(self._readable)
            else:
                self._reader.stop()

    def _await_writable(self) -> None:
        if self._writer is None:
            self._writer = self._turn.loop.io(self._sock.fileno(), _WRITE)
            self._writer.start(self._writable)

    def _leave(self) -> None:
        """The end cannot wait any more: from now on input is discarded, and the clock runs."""
        if not self._gone_at:
            self._gone_at = self._turn.clock() + LINGER_SECONDS
            self._schedule(self._gone_at)
            self._read(True)

    def _schedule(self, deadline: float) -> None:
        self._due = deadline
        self._turn.timers.at(self, deadline)

    def _shut_down(self) -> None:
        self._leave()
        self._shut = True
        if self._ended:
            self._lose("closed")
            return
        self._sock.shutdown(socket.SHUT_WR)

    def _lose(self, reason: str) -> None:
        if not self.closed:
            self._turn.log.debug("connection closed", peer=self.peer, reason=reason)
            self.close()

    def _crash(self, error: Exception) -> None:
        """An error nobody expected: the disk's end everything, a bug ends the connection that met it."""
        if isinstance(error, StoreFailed):
            self._turn.fail(error)
            return
        self._report(error)
        self.close()

    def _report(self, error: Exception) -> None:
        self._turn.log.error(
            "internal error, connection dropped",
            peer=self.peer,
            error=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error)),
        )
