"""A broker for the tests of the command line: a thread that answers one connection after another by a script."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from daemon import PATIENCE

from radiator.stomp.frame_pure import Frame, Parser, encode_frame


class Peer:
    """One connection, from the broker's side."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._parser = Parser(max_frame=1 << 30, max_headers=1000, max_header_line=1 << 16)
        self.seen: list[Frame] = []

    def read(self) -> Frame | None:
        """The next frame of the client; None at the end."""
        while (frame := self._parser.next_frame()) is None:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._parser.receive_data(data)
        self.seen.append(frame)
        if frame.command == "CONNECT":
            self._parser.version = 12
        return frame

    def expect(self, command: str) -> Frame:
        """The next frame, which must be a `command`."""
        frame = self.read()
        assert frame is not None
        assert frame.command == command
        return frame

    def write(self, command: str, headers: dict[str, str], body: bytes = b"") -> None:
        self._socket.sendall(encode_frame(command, headers.items(), body, 12))

    def write_raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def connected(self) -> None:
        self.expect("CONNECT")
        self._socket.sendall(b"CONNECTED\nversion:1.2\n\n\0")

    def message(self, number: int, body: bytes, **headers: str) -> None:
        """A MESSAGE whose ack is `number`."""
        ours = {"subscription": "0", "message-id": f"1-{number}", "ack": str(number), "destination": "/queue/a"}
        self.write("MESSAGE", {**ours, "content-length": str(len(body)), **headers}, body)

    def receipts(self) -> list[Frame]:
        """Give every frame its receipt until DISCONNECT; the frames."""
        found = []
        while (frame := self.read()) is not None:
            found.append(frame)
            if "receipt" in frame.headers:
                self.write("RECEIPT", {"receipt-id": frame.headers["receipt"]})
            if frame.command == "DISCONNECT":
                break
        return found


class FakeBroker:
    """Listens on a free port; `script` runs with each connection in turn."""

    def __init__(self, script: Callable[[Peer], Any]) -> None:
        self._failures: list[BaseException] = []
        self._results: queue.Queue[Any] = queue.Queue()
        self._script = script
        self._closed = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    self._results.put(self._script(Peer(connection)))
        except BaseException as error:  # noqa: BLE001 - raised again in the test
            if self._closed:
                return  # the test is over, and accept says so
            self._failures.append(error)
            self._results.put(error)

    def result(self) -> Any:
        """What the script of the next connection returned, once it has."""
        found = self._results.get(timeout=PATIENCE)
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        self._closed = True
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if self._failures:
            raise self._failures[0]


def serving(brokers: list[FakeBroker]) -> Iterator[Callable[[Callable[[Peer], Any]], FakeBroker]]:
    """What the fixture `broker` gives: makes fake brokers, and ends them all."""

    def make(script: Callable[[Peer], Any]) -> FakeBroker:
        brokers.append(FakeBroker(script))
        return brokers[-1]

    yield make
    for each in brokers:
        each.close()
