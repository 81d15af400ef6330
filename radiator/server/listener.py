"""A listening socket: takes connections in, a bounded number per turn, and never more than the limits allow.

It must never block, and never spin where the process has no descriptors left: it pauses instead. Called by: the daemon
(`bind`, `listen`, `close`), the loop.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from radiator.config.schema import Address
from radiator.errors import RadiatorError
from radiator.server.connection import Connection, Talk
from radiator.stomp.frame import encode_frame

if TYPE_CHECKING:
    from radiator.server.turn import Turn

__all__ = ["AddressUnavailable", "Listener"]

BACKLOG = 1024
ACCEPTS_PER_TURN = 64
REFUSALS = 64
"""Connections over the limit that are told so at a time; more than these are closed without a word."""

PAUSE_SECONDS = 0.5
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class AddressUnavailable(RadiatorError):
    """An address that cannot be listened on: in use, not of this machine, not permitted."""

    exit_code = 69


class Listener:
    """One listen address. `session_for` makes the session of a new connection, `limit` is limits.connections, or less.

    The limit is one for all listeners of a turn.

    Raises AddressUnavailable.
    """

    __slots__ = ("_limit", "_pause", "_session_for", "_sock", "_turn", "_watcher", "address")

    def __init__(self, turn: Turn, address: Address, limit: int, session_for: Callable[[Connection], Talk]) -> None:
        self._turn = turn
        self._limit = limit
        self._session_for = session_for
        self._watcher: Any = None
        self._pause: Any = None
        self._sock = _bind(address)
        host, port = self._sock.getsockname()[:2]
        self.address = Address(host, port)

    def listen(self) -> None:
        """Begin to accept. Raises AddressUnavailable."""
        try:
            self._sock.listen(BACKLOG)
        except OSError as error:
            self._sock.close()
            raise _unavailable(self.address, error) from error
        self._watcher = self._turn.loop.io(self._sock.fileno(), 1)
        self._watcher.start(self._acceptable)

    def close(self) -> None:
        """Accept no more; closing twice is harmless."""
        for watcher in (self._watcher, self._pause):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._watcher = self._pause = None
        self._sock.close()

    def _acceptable(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._back_off(error)
                    return
                continue  # that client is gone already (accept(2): network errors of the new socket come here)
            self._accepted(sock, peer)

    def _accepted(self, sock: socket.socket, peer: Any) -> None:
        turn = self._turn
        name = str(Address(peer[0], peer[1]))
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # gone already
            sock.close()
            return
        if len(turn.connections) - len(turn.refused) >= self._limit:
            turn.log.warning("connection refused", peer=name, reason=f"there are {self._limit} connections, the limit")
            if len(turn.refused) >= REFUSALS:
                sock.close()
                return
            connection = Connection(turn, sock, name)
            turn.refused.add(connection)
            connection.start(_Refusal(f"too many connections: the limit is {self._limit}"))
            connection.wake(None)
            return
        turn.log.debug("connection accepted", peer=name)
        connection = Connection(turn, sock, name)
        connection.start(self._session_for(connection))

    def _back_off(self, error: OSError) -> None:
        """No descriptor for another connection: look again later, when some have closed."""
        self._turn.log.error("cannot accept connections for the moment", reason=error.strerror, retry_s=PAUSE_SECONDS)
        self._watcher.stop()
        self._pause = self._turn.loop.timer(PAUSE_SECONDS)
        self._pause.start(self._again)

    def _again(self) -> None:
        self._pause.close()
        self._pause = None
        self._watcher.start(self._acceptable)


class _Refusal:
    """The session of a connection over the limit: one ERROR, and the end."""

    __slots__ = ("_data", "blocked", "closing", "deadline", "hasty", "output_bytes", "postponed", "wants_read")

    def __init__(self, text: str) -> None:
        self._data = encode_frame("ERROR", [("message", text)], b"", 0)
        self.output_bytes = len(self._data)
        self.blocked = self.postponed = False
        self.closing = self.hasty = True
        self.wants_read = True
        self.deadline = inf

    def data_to_send(self) -> bytes:
        return self._data

    def sent(self, count: int, now: float) -> None:
        self._data = self._data[count:]
        self.output_bytes = len(self._data)

    def receive_data(self, data: bytes | memoryview, now: float) -> None:
        """Discarded by the connection."""

    def resume(self, now: float) -> None:
        """Never blocked."""

    def drain(self, now: float) -> None:
        """Nothing is owed."""

    def tick(self, now: float) -> float | None:
        return None

    def connection_lost(self) -> None:
        """Nothing is held."""


def _bind(address: Address) -> socket.socket:
    """A bound, non-blocking socket that does not listen yet."""
    sock: socket.socket | None = None
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # [::] and 0.0.0.0 are two addresses: whoever wants both lists both.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
    except (OSError, UnicodeError) as error:
        if sock is not None:
            sock.close()
        raise _unavailable(address, error) from error
    return sock


def _unavailable(address: Address, error: Exception) -> AddressUnavailable:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return AddressUnavailable(
            f"cannot listen on {address}: the address is in use; stop what listens there or choose another one"
        )
    reason = error.strerror if isinstance(error, OSError) else error
    return AddressUnavailable(f"cannot listen on {address}: {reason}")
