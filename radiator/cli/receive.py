"""The command `radiator receive`: print messages of a destination, each acknowledged after it was printed.

It must never acknowledge a message whose output is not flushed, nor take more messages from a queue than it prints.
Called by: `cli.commands`.
"""

from __future__ import annotations

import base64
import json
import sys
from collections import deque
from typing import BinaryIO

import click

from radiator.cli.client import Client
from radiator.cli.terminal import DESTINATION, broker_option, wait_option
from radiator.config.schema import Address
from radiator.stomp.frame import Frame

__all__ = ["receive"]

WINDOW = 20
"""Un-ACKed messages asked for at a time: enough to hide the way to the broker, few enough to go back quickly."""

SUBSCRIPTION = "0"


@click.command()
@broker_option
@wait_option
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="N", help="Stop after N messages.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True, max=1e6),
    metavar="S",
    help="Stop when no message came for S seconds. Without it, wait for ever.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON with the headers and the body of each.")
@click.argument("destination", metavar="DEST", type=DESTINATION)
def receive(
    address: Address, wait: float, count: int | None, timeout: float | None, as_json: bool, destination: str
) -> int:
    """Print the messages of DEST, a body per line.

    A message of a queue is acknowledged when it was printed; one that could not be printed goes back to its place.
    Ctrl-C stops. The exit code is 0 however many messages came.
    """
    with Client(address, wait) as client:
        _Receiver(client, sys.stdout.buffer, count, as_json, destination).run(timeout)
    return 0


class _Receiver:
    """One subscription.

    Each acknowledgement frees a place that the broker fills at once. With a count, those that would bring more than is
    wanted are held back, and leave together with UNSUBSCRIBE at the end. Where that leaves the broker without a place
    before the count is reached (few messages, or a lower window than asked for), the window is narrowed to one first.
    """

    def __init__(self, client: Client, output: BinaryIO, count: int | None, as_json: bool, destination: str) -> None:
        self._client = client
        self._output = output
        self._count = count
        self._as_json = as_json
        self._window = WINDOW if count is None else min(WINDOW, count)
        self._printed = 0
        self._acked = 0
        self._owed: deque[str] = deque()
        self._destination = destination

    def run(self, timeout: float | None) -> None:
        """Subscribe and print until the count, the time-out or an interrupt, then acknowledge what was printed."""
        self._client.write(self._subscribe())
        try:
            self._print(timeout)
        except KeyboardInterrupt:
            self._goodbye()
            raise
        self._goodbye()

    def _subscribe(self) -> bytes:
        """SUBSCRIBE with the present window; once more with the same id, it changes the window."""
        headers = [
            ("id", SUBSCRIPTION),
            ("destination", self._destination),
            ("ack", "client-individual"),
            ("prefetch-count", str(self._window)),
        ]
        return self._client.encode("SUBSCRIBE", headers)

    def _print(self, timeout: float | None) -> None:
        while self._count is None or self._printed < self._count:
            frame = self._client.buffered()
            if frame is None:
                # Everything at hand is printed: flush once, then acknowledge, then wait.
                self._output.flush()
                self._acknowledge()
                frame = self._client.read(timeout)
                if frame is None:
                    return
            if frame.command == "MESSAGE":
                self._output.write(self._line(frame))
                self._printed += 1
                if "ack" in frame.headers:
                    self._owed.append(frame.headers["ack"])
        self._output.flush()

    def _acknowledge(self) -> None:
        """Acknowledge what was flushed; the broker may then have delivered `_acked` + `_window` messages at most."""
        if not self._owed:
            return
        narrower = b""
        if self._count is not None and self._acked + len(self._owed) + self._window > self._count:
            self._window = 1
            narrower = self._subscribe()
        self._client.write(narrower + self._acks(len(self._owed)))

    def _acks(self, number: int) -> bytes:
        self._acked += number
        client = self._client
        return b"".join(client.encode("ACK", [("id", self._owed.popleft())]) for _ in range(number))

    def _goodbye(self) -> None:
        """Acknowledge the rest and leave; the receipt says that the broker has the acknowledgements."""
        self._output.flush()
        acks = self._acks(len(self._owed))
        self._client.disconnect(acks + self._client.encode("UNSUBSCRIBE", [("id", SUBSCRIPTION)]))

    def _line(self, frame: Frame) -> bytes:
        if not self._as_json:
            return frame.body + b"\n"
        message: dict[str, object] = {"headers": dict(frame.headers)}
        try:
            message["body"] = frame.body.decode()
        except UnicodeDecodeError:
            message["body_base64"] = base64.b64encode(frame.body).decode()
        return json.dumps(message, ensure_ascii=False).encode() + b"\n"
