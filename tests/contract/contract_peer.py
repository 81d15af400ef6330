"""A client that speaks for the contract tests: short words for what they do again and again, and the raw header lines.

It must never know the inside of the broker. That nothing comes is shown by round trips, not by waiting: what an earlier
turn of the daemon handed to a connection stands before the second receipt that is asked for afterwards.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon import Client, Daemon

__all__ = ["Peer", "house_of"]

NUMBERS = itertools.count()


class Peer(Client):
    """`lines` are the header lines of the frame that was taken last, as they were on the wire."""

    def __init__(self, address: tuple[str, int], **how: object) -> None:
        self.lines: list[str] = []
        self._early: deque[tuple[list[str], tuple[str, dict[str, str], bytes]]] = deque()
        super().__init__(address, **how)  # type: ignore[arg-type]  # the keywords of Client

    def frame(self) -> tuple[str, dict[str, str], bytes]:
        if self._early:
            self.lines, frame = self._early.popleft()
            return frame
        while b"\n\n" not in self._input.lstrip(b"\n"):
            self._more()
        self.lines = self._input.lstrip(b"\n").partition(b"\n\n")[0].decode().split("\n")[1:]
        return super().frame()

    def ask(self, command: str, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """Send a frame with a receipt, and wait for it; messages that come before are kept for `message`."""
        number = str(next(NUMBERS))
        self.send(command, {**(headers or {}), "receipt": number}, body)
        early = []
        while (frame := self.frame())[0] == "MESSAGE":
            early.append((self.lines, frame))
        assert frame == ("RECEIPT", {"receipt-id": number}, b"")
        self._early.extend(early)

    def put(self, destination: str, *bodies: str, **headers: str) -> None:
        """Messages, each with its receipt."""
        for body in bodies:
            self.ask("SEND", {"destination": destination, **dashed(headers)}, body.encode())

    def subscribe(self, destination: str, id: str = "0", ack: str = "client-individual", **headers: str) -> None:
        """SUBSCRIBE, and the receipt; `prefetch_count` is the header prefetch-count."""
        self.ask("SUBSCRIBE", {"destination": destination, "id": id, "ack": ack, **dashed(headers)})

    def message(self, body: str | None = None) -> dict[str, str]:
        """The headers of the MESSAGE that comes next, which must have that body; `body` is its body."""
        command, headers, got = self.frame()
        assert command == "MESSAGE", (command, headers, got)
        if body is not None:
            assert got.decode() == body
        return {**headers, "body": got.decode()}

    def bodies(self, count: int) -> list[str]:
        """The bodies of the next `count` messages."""
        return [self.message()["body"] for _ in range(count)]

    def ack(self, message: dict[str, str], **headers: str) -> None:
        self.send("ACK", {"id": message["ack"], **headers})

    def nack(self, message: dict[str, str], **headers: str) -> None:
        self.send("NACK", {"id": message["ack"], **headers})

    def nothing(self) -> None:
        """No frame stands before the answers to two questions."""
        for _ in range(2):
            self.ask("SEND", {"destination": "/topic/nobody"})
        assert not self._early

    def error(self, text: str = "") -> dict[str, str]:
        """The headers of the ERROR that comes next, whose `message` contains `text`; then the end of the stream."""
        command, headers, body = self.frame()
        assert command == "ERROR", (command, headers, body)
        assert text in headers["message"], headers
        assert self.eof().strip(b"\n") == b""
        return headers

    def refused(self, command: str, headers: dict[str, str] | None = None, body: bytes = b"", text: str = "") -> None:
        """That frame, with a receipt, is answered by an ERROR that echoes it, and by the end."""
        number = str(next(NUMBERS))
        self.send(command, {**(headers or {}), "receipt": number}, body)
        assert self.error(text)["receipt-id"] == number


class House(Daemon):
    """A daemon whose clients are peers."""

    def connect(self, **how: object) -> Peer:
        client = Peer(self.address, **how)  # type: ignore[arg-type]  # the keywords of Client
        self._clients.append(client)
        return client


@contextmanager
def house_of(directory: Path, config: str = "create: true\n", **how: object) -> Iterator[House]:
    """A daemon for a whole module; it must have met no error of its own, and ends cleanly."""
    with House(directory, config, **how) as house:  # type: ignore[arg-type]  # the keywords of Daemon
        yield house
        for client in house._clients:
            client.close()
        assert house.terminate() == 0, "\n".join(house.log[-20:])
        assert not [line for line in house.log if "internal error" in line], "\n".join(house.log)


def dashed(headers: dict[str, str]) -> dict[str, str]:
    """Keywords as header names."""
    return {key.replace("_", "-"): value for key, value in headers.items()}
