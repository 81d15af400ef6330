"""A small blocking STOMP 1.2 client for people at a terminal: one connection, one thing at a time.

It must never be used inside the daemon (it blocks), and never says that a message is safe before its receipt came.
What goes wrong is a `ClientError` with a text for the operator. Called by: the commands send and receive.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from radiator.config.schema import Address
from radiator.errors import ProtocolError, RadiatorError
from radiator.stomp.frame import Frame, Parser, encode_frame
from radiator.stomp.grammar import SERVER_COMMANDS

__all__ = ["Client", "ClientError", "ErrorFrame"]

VERSION = 12
CONNECT_SECONDS = 10.0
"""How long the broker may take to accept the connection and to answer CONNECT."""

RECEIPT_SECONDS = 60.0
"""How long the broker may stay silent while a receipt is owed: longer than any healthy disk takes."""

RETRY_SECONDS = 0.05
"""Between two attempts to reach a broker that does not listen yet."""

RECEIVE_BYTES = 1 << 16
CHUNK_BYTES = 1 << 18
"""A large frame is handed to the kernel in pieces of this size, so that progress can be shown between them."""


class ClientError(RadiatorError):
    """No broker, a lost connection, or an ERROR frame; the text is for the operator."""

    exit_code = 69


class ErrorFrame(ClientError):
    """The broker sent an ERROR; the text is what it says."""


class Client:
    """One connection to a broker at `address`.

    A refused connection is tried again for `wait` seconds: a broker that was started a moment ago does not listen yet.
    Raises ClientError where none answers.
    """

    def __init__(self, address: Address, wait: float = 0.0) -> None:
        self.address = address
        # The largest frame that radiator's own format can hold, and headers that only a broken peer would exceed.
        self._parser = Parser(max_frame=1 << 30, max_headers=1 << 16, max_header_line=1 << 20, commands=SERVER_COMMANDS)
        self._socket = _reach(address, time.monotonic() + wait)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connect()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def _connect(self) -> None:
        self.write(encode_frame("CONNECT", [("accept-version", "1.2"), ("host", self.address.host)], b"", 0))
        frame = self.read(CONNECT_SECONDS)
        if frame is None:
            raise ClientError(f"{self.address} does not answer CONNECT within {CONNECT_SECONDS:.0f} s")
        if frame.command != "CONNECTED" or frame.headers.get("version") != "1.2":
            raise ClientError(f"{self.address} does not speak STOMP 1.2")
        self._parser.version = VERSION

    def encode(self, command: str, headers: Iterable[tuple[str, str]], body: bytes = b"") -> bytes:
        """A frame's bytes, to be given to `write` (several at a time where many leave together)."""
        return encode_frame(command, headers, body, VERSION)

    def write(self, data: bytes, progress: Callable[[int], None] | None = None) -> None:
        """Send `data`; `progress` is told, from time to time, how many of its bytes the kernel took in all."""
        view = memoryview(data)
        self._socket.settimeout(RECEIPT_SECONDS)
        for start in range(0, len(view), CHUNK_BYTES):
            chunk = view[start : start + CHUNK_BYTES]
            try:
                self._socket.sendall(chunk)
            except OSError as error:
                self._find_error()
                raise ClientError(f"connection to {self.address} lost: {error.strerror or error}") from error
            if progress is not None:
                progress(start + len(chunk))

    def _find_error(self) -> None:
        """A write failed: the broker may have said why before it closed; then that ERROR is raised."""
        try:
            while self.read(1.0) is not None:
                pass
        except ErrorFrame:
            raise
        except ClientError:
            return

    def buffered(self) -> Frame | None:
        """The next frame, where it was received already."""
        try:
            frame = self._parser.next_frame()
        except ProtocolError as error:
            raise ClientError(f"{self.address} does not speak STOMP: {error}") from error
        if frame is not None and frame.command == "ERROR":
            raise ErrorFrame(_error_text(frame))
        return frame

    def read(self, seconds: float | None) -> Frame | None:
        """The next frame, waiting up to `seconds` for it (None: as long as it takes); None where the time is over."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while (frame := self.buffered()) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except TimeoutError:
                return None
            except OSError as error:
                raise ClientError(f"connection to {self.address} lost: {error.strerror or error}") from error
            if not data:
                raise ClientError(f"{self.address} closed the connection")
            self._parser.receive_data(data)
        return frame

    def receipt(self) -> str:
        """The id of the next receipt; other frames are ignored. ClientError where the broker stays silent."""
        while True:
            frame = self.read(RECEIPT_SECONDS)
            if frame is None:
                raise ClientError(f"no receipt from {self.address} within {RECEIPT_SECONDS:.0f} s: outcome unknown")
            if frame.command == "RECEIPT":
                return frame.headers.get("receipt-id", "")

    def disconnect(self, before: bytes = b"") -> None:
        """Say goodbye and wait until the broker has everything, with the bytes `before` right ahead of it."""
        self.write(before + self.encode("DISCONNECT", [("receipt", "goodbye")]))
        while self.receipt() != "goodbye":
            pass


def _reach(address: Address, deadline: float) -> socket.socket:
    """A connection to whatever listens at `address` by `deadline`, monotonic."""
    while True:
        try:
            return socket.create_connection((address.host, address.port), CONNECT_SECONDS)
        except ConnectionRefusedError as error:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ClientError(f"no broker at {address}: {error.strerror or error}") from error
            time.sleep(min(RETRY_SECONDS, left))
        except OSError as error:
            raise ClientError(f"no broker at {address}: {error.strerror or error}") from error


def _error_text(frame: Frame) -> str:
    """What an ERROR frame says, on one line as far as its header goes, the body behind it."""
    text = frame.headers.get("message", "the broker sent an ERROR")
    body = frame.body.decode("utf-8", "replace").strip()
    return f"{text}\n{body}" if body and body != text else text
