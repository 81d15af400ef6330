"""`radiator send` and `radiator receive` against a scripted broker: what is on the wire, printed and returned."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_broker import FakeBroker, Peer

from radiator.cli import client as client_module
from radiator.cli import send as send_module
from radiator.cli.commands import run

Broker = Callable[[Callable[[Peer], Any]], FakeBroker]
Stdin = Callable[[bytes], None]
Output = pytest.CaptureFixture[bytes]


QUIET = "2"
"""Seconds for `--timeout` that a scripted broker does not need for a message, however busy the machine is."""


@contextmanager
def nobody() -> Iterator[str]:
    """An address that refuses connections, and that no other process can get."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def confirm_all(peer: Peer) -> Any:
    peer.connected()
    return peer.receipts()


def refuse(peer: Peer) -> None:
    peer.connected()
    peer.read()
    peer.write("ERROR", {"message": "unknown destination /queue/a"}, b"details\n")


def test_send_an_argument(broker: Broker, capsysbinary: Output) -> None:
    fake = broker(confirm_all)
    assert run(["send", "-a", fake.address, "/queue/a", "hällo"]) == 0
    send, goodbye = fake.result()
    assert (send.command, send.body) == ("SEND", "hällo".encode())
    assert send.headers["destination"] == "/queue/a"
    assert send.headers["content-length"] == "6"
    assert goodbye.command == "DISCONNECT"
    assert capsysbinary.readouterr() == (b"", b"")


def test_send_headers_in_order_and_escaped(broker: Broker) -> None:
    fake = broker(confirm_all)
    arguments = ["-H", "type:a:b", "-H", "type:second", "--header", "k\\e:line\nend", "-H", "empty:"]
    assert run(["send", "-a", fake.address, *arguments, "/queue/a", "x"]) == 0
    send = fake.result()[0]
    assert send.headers["type"] == "a:b"
    assert send.block.endswith(b"type:a\\cb\ntype:second\nk\\\\e:line\\nend\nempty:\n")


@pytest.mark.parametrize("data", [b"", b"\0\xff binary\r\n", b"x" * 1_000_000])
def test_send_standard_input(broker: Broker, stdin: Stdin, data: bytes) -> None:
    fake = broker(confirm_all)
    for arguments in (["-"], []):
        stdin(data)
        assert run(["send", "-a", fake.address, "/queue/a", *arguments]) == 0
        assert fake.result()[0].body == data


def test_send_a_file(broker: Broker, tmp_path: Path) -> None:
    fake = broker(confirm_all)
    (tmp_path / "body").write_bytes(b"from\0a file")
    assert run(["send", "-a", fake.address, "/queue/a", "--file", str(tmp_path / "body")]) == 0
    assert fake.result()[0].body == b"from\0a file"


def test_send_lines(broker: Broker, stdin: Stdin) -> None:
    fake = broker(confirm_all)
    stdin(b"one\ntwo\r\n\nlast without end")
    assert run(["send", "-a", fake.address, "--lines", "/queue/a", "-"]) == 0
    frames = fake.result()
    assert [frame.body for frame in frames[:-1]] == [b"one", b"two", b"", b"last without end"]


def test_send_lines_keeps_to_its_window(broker: Broker, stdin: Stdin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_module, "WINDOW", 3)

    def script(peer: Peer) -> int:
        peer.connected()
        for number in range(1, 11):
            receipt = peer.expect("SEND").headers["receipt"]
            assert receipt == str(number)
            if number >= 3:
                peer.write("RECEIPT", {"receipt-id": str(number - 2)})
        for number in (9, 10):
            peer.write("RECEIPT", {"receipt-id": str(number)})
        return len(peer.receipts())

    fake = broker(script)
    stdin(b"line\n" * 10)
    assert run(["send", "-a", fake.address, "--lines", "/queue/a"]) == 0
    assert fake.result() == 1


def test_send_says_what_the_broker_says(broker: Broker, capsysbinary: Output) -> None:
    fake = broker(refuse)
    assert run(["send", "-a", fake.address, "/queue/a", "x"]) == 69
    assert capsysbinary.readouterr().err == b"radiator: unknown destination /queue/a\ndetails\n"


def test_send_without_a_receipt_fails(broker: Broker, capsysbinary: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RECEIPT_SECONDS", 0.05)

    def script(peer: Peer) -> None:
        peer.connected()
        peer.expect("SEND")
        assert peer.read() is None

    assert run(["send", "-a", broker(script).address, "/queue/a", "x"]) == 69
    assert b"outcome unknown" in capsysbinary.readouterr().err


def test_send_to_a_broker_that_hangs_up(broker: Broker, capsysbinary: Output) -> None:
    fake = broker(lambda peer: peer.connected())
    assert run(["send", "-a", fake.address, "/queue/a", "x"]) == 69
    error = capsysbinary.readouterr().err
    assert b"closed the connection" in error or b"lost" in error


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"CONNECTED\nversion:1.0\n\n\0", b"RECEIPT\nreceipt-id:1\n\n\0"]
)
def test_what_is_no_stomp_broker(broker: Broker, capsysbinary: Output, answer: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.expect("CONNECT")
        peer.write_raw(answer)

    assert run(["send", "-a", broker(script).address, "/queue/a", "x"]) == 69
    assert b"does not speak STOMP" in capsysbinary.readouterr().err


@pytest.mark.parametrize("command", [["send", "/queue/a", "x"], ["receive", "/queue/a"]])
def test_no_broker(command: list[str], capsysbinary: Output) -> None:
    with nobody() as address:
        assert run([command[0], "-a", address, "--wait", "0", *command[1:]]) == 69
    assert capsysbinary.readouterr().err == f"radiator: no broker at {address}: Connection refused\n".encode()


@pytest.mark.parametrize("command", [["send", "/queue/a", "x"], ["receive", "-n", "1", "/queue/a"]])
def test_a_broker_that_starts_is_waited_for(
    broker: Broker, capsysbinary: Output, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    fake = broker(confirm_all if command[0] == "send" else QueueScript([b"one"]))
    real = socket.create_connection
    refusals = [ConnectionRefusedError(111, "Connection refused")] * 2

    def create_connection(*args: Any) -> socket.socket:
        if refusals:
            raise refusals.pop()
        return real(*args)

    monkeypatch.setattr(socket, "create_connection", create_connection)
    assert run([command[0], "-a", fake.address, *command[1:]]) == 0
    assert fake.result()
    assert capsysbinary.readouterr().err == b""


def test_a_broker_that_does_not_start_is_waited_for_as_long_as_told(capsysbinary: Output) -> None:
    with nobody() as address:
        started = time.monotonic()
        assert run(["send", "-a", address, "--wait", "0.2", "/queue/a", "x"]) == 69
        assert 0.2 <= time.monotonic() - started < 3.0  # what is waited where nothing is said
    assert b"Connection refused" in capsysbinary.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["send"], "Missing argument 'DEST'"),
        (["send", "/queue/a", "x", "y"], "unexpected extra argument"),
        (["send", "", "x"], "is no destination"),
        (["send", "/queue/a\n", "x"], "is no destination"),
        (["send", "/queue/a", "x", "--file", "f"], "give BODY or --file, not both"),
        (["send", "/queue/a", "x", "--lines"], "--lines reads a file or standard input"),
        (["send", "/queue/a", "x", "-H", "nocolon"], "'nocolon' is not KEY:VALUE"),
        (["send", "/queue/a", "x", "-H", ":v"], "is not KEY:VALUE"),
        (["send", "/queue/a", "x", "-H", "receipt:1"], "is set by the command itself"),
        (["send", "/queue/a", "x", "-H", "k:\udcff"], "is not UTF-8"),
        (["send", "-a", "127.0.0.1:0", "/queue/a", "x"], "port 0 is for listening"),
        (["send", "-a", "127.0.0.1", "/queue/a", "x"], "is not HOST:PORT"),
        (["receive"], "Missing argument 'DEST'"),
        (["receive", "-n", "0", "/queue/a"], "'-n'"),
        (["receive", "-n", "x", "/queue/a"], "'-n'"),
        (["receive", "--timeout", "0", "/queue/a"], "'--timeout'"),
        (["receive", "--timeout", "soon", "/queue/a"], "'--timeout'"),
        (["receive", "--wait", "-1", "/queue/a"], "'--wait'"),
        (["send", "--wait", "long", "/queue/a", "x"], "'--wait'"),
    ],
)
def test_usage_errors_end_with_64(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 64
    assert text in capsys.readouterr().err


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["send", "/queue/a", "--file", "/nowhere/body"]) == 74
    assert capsys.readouterr().err == "radiator: /nowhere/body: No such file or directory\n"


class QueueScript:
    """A queue with `bodies`: keeps to the window asked for (or to a lower one), and records acks."""

    def __init__(self, bodies: list[bytes], cap: int = 1000) -> None:
        self.bodies = bodies
        self.cap = cap

    def __call__(self, peer: Peer) -> dict[str, Any]:
        peer.connected()
        window, delivered = 0, 0
        held: list[str] = []
        acked: list[str] = []
        while True:
            while window and len(held) < window and delivered < len(self.bodies):
                delivered += 1
                held.append(str(delivered))
                peer.message(delivered, self.bodies[delivered - 1])
            frame = peer.read()
            if frame is None or frame.command == "DISCONNECT":
                if frame is not None:
                    peer.write("RECEIPT", {"receipt-id": frame.headers["receipt"]})
                return {"acked": acked, "delivered": delivered, "held": held}
            if frame.command == "SUBSCRIBE":
                assert frame.headers["ack"] == "client-individual"
                window = min(self.cap, int(frame.headers["prefetch-count"]))
            elif frame.command == "ACK":
                held.remove(frame.headers["id"])
                acked.append(frame.headers["id"])
            elif frame.command == "UNSUBSCRIBE":
                window = 0


@pytest.mark.parametrize("count", [1, 5, 19, 20, 21, 60])
@pytest.mark.parametrize("cap", [1, 2, 1000])
def test_receive_takes_what_it_prints_and_no_more(broker: Broker, capsysbinary: Output, count: int, cap: int) -> None:
    bodies = [b"body %d" % number for number in range(100)]
    fake = broker(QueueScript(bodies, cap))
    assert run(["receive", "-a", fake.address, "-n", str(count), "/queue/a"]) == 0
    result = fake.result()
    assert capsysbinary.readouterr().out == b"".join(body + b"\n" for body in bodies[:count])
    assert result["acked"] == [str(number) for number in range(1, count + 1)]
    # A real broker reads the last ACK and UNSUBSCRIBE in one turn; the script may put one message in between.
    assert result["delivered"] <= count + 1


def test_receive_stops_when_nothing_comes(broker: Broker, capsysbinary: Output) -> None:
    fake = broker(QueueScript([b"one", b"two"]))
    assert run(["receive", "-a", fake.address, "--timeout", QUIET, "/queue/a"]) == 0
    assert capsysbinary.readouterr().out == b"one\ntwo\n"
    assert fake.result() == {"acked": ["1", "2"], "delivered": 2, "held": []}


def test_receive_fewer_than_wanted(broker: Broker, capsysbinary: Output) -> None:
    fake = broker(QueueScript([b"one", b"two"]))
    assert run(["receive", "-a", fake.address, "-n", "3", "--timeout", QUIET, "/queue/a"]) == 0
    assert capsysbinary.readouterr().out == b"one\ntwo\n"
    assert fake.result()["acked"] == ["1", "2"]


def test_receive_json(broker: Broker, capsysbinary: Output) -> None:
    fake = broker(QueueScript(["grüße\n".encode(), b"\xff\0"]))
    assert run(["receive", "-a", fake.address, "-n", "2", "--json", "/queue/a"]) == 0
    first, second = (json.loads(line) for line in capsysbinary.readouterr().out.splitlines())
    assert first["body"] == "grüße\n"
    assert first["headers"]["message-id"] == "1-1"
    assert second["body_base64"] == "/wA="


def test_receive_from_a_topic_acknowledges_nothing(broker: Broker, capsysbinary: Output) -> None:
    def script(peer: Peer) -> Any:
        peer.connected()
        peer.expect("SUBSCRIBE")
        for body in (b"a", b"b"):
            peer.write("MESSAGE", {"subscription": "0", "message-id": "1", "destination": "/topic/t"}, body)
        return [frame.command for frame in peer.receipts()]

    fake = broker(script)
    assert run(["receive", "-a", fake.address, "-n", "2", "/topic/t"]) == 0
    assert fake.result() == ["UNSUBSCRIBE", "DISCONNECT"]
    assert capsysbinary.readouterr().out == b"a\nb\n"


def test_receive_says_what_the_broker_says(broker: Broker, capsysbinary: Output) -> None:
    assert run(["receive", "-a", broker(refuse).address, "/queue/a"]) == 69
    assert b"radiator: unknown destination /queue/a" in capsysbinary.readouterr().err


def test_nothing_is_acknowledged_before_it_is_flushed(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Standard output is a file; the script looks into it when the ACK arrives."""
    path = tmp_path / "out"

    def script(peer: Peer) -> bytes:
        peer.connected()
        peer.expect("SUBSCRIBE")
        peer.message(1, b"first")
        peer.expect("ACK")
        seen = path.read_bytes()
        peer.receipts()
        return seen

    fake = broker(script)
    with path.open("w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert run(["receive", "-a", fake.address, "--timeout", QUIET, "/queue/a"]) == 0
    assert fake.result() == b"first\n"


def test_an_interrupt_acknowledges_what_was_printed(
    broker: Broker, capsysbinary: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = broker(QueueScript([b"one"]))
    real = client_module.Client.read

    def read(self: Any, seconds: float | None) -> Any:
        if seconds is None and len(printed) == 1:
            raise KeyboardInterrupt
        frame = real(self, seconds)
        if frame is not None and frame.command == "MESSAGE":
            printed.append(frame)
        return frame

    printed: list[Any] = []
    monkeypatch.setattr(client_module.Client, "read", read)
    assert run(["receive", "-a", fake.address, "/queue/a"]) == 130
    assert fake.result() == {"acked": ["1"], "delivered": 1, "held": []}
    assert capsysbinary.readouterr().out.startswith(b"one\n")


def test_a_reader_that_has_gone_gets_nothing_acknowledged(broker: Broker) -> None:
    def script(peer: Peer) -> Any:
        peer.connected()
        peer.expect("SUBSCRIBE")
        peer.message(1, b"x" * 100_000)
        return [frame.command for frame in iter(peer.read, None)]

    fake = broker(script)
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "radiator", "receive", "-a", fake.address, "-n", "3", "/queue/a"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (74, b"")
    assert fake.result() == []


@pytest.mark.parametrize(
    ("arguments", "shown"), [(["/queue/a", "-"], b"sending"), (["--lines", "/queue/a"], b"messages confirmed")]
)
def test_a_terminal_sees_the_progress_and_a_pipe_does_not(broker: Broker, arguments: list[str], shown: bytes) -> None:
    fake = broker(confirm_all)
    command = [sys.executable, "-m", "radiator", "send", "-a", fake.address, *arguments]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    ours, theirs = pty.openpty()
    data = b"line\n" * 1000
    done = subprocess.run(command, input=data, stderr=theirs, env=environment, timeout=60, check=False)
    os.close(theirs)
    seen = os.read(ours, 1 << 16)
    os.close(ours)
    assert done.returncode == 0
    assert shown in seen
    piped = subprocess.run(command, input=data, stderr=subprocess.PIPE, env=environment, timeout=60, check=False)
    assert (piped.returncode, piped.stderr) == (0, b"")
