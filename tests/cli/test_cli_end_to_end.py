"""The commands against the real broker: counts are exact, and what was not printed was not touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemon import PATIENCE, Daemon

from radiator.cli.commands import run

Output = pytest.CaptureFixture[bytes]
Stdin = Callable[[bytes], None]


@pytest.fixture(params=["max_prefetch: 1000", "max_prefetch: 1"])
def address(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a real broker listens, with a wide and with a narrow window."""
    with Daemon(tmp_path, f"create: true\n{request.param}\n") as daemon:
        yield f"{daemon.address[0]}:{daemon.address[1]}"


def test_receive_touches_only_what_it_prints(address: str, stdin: Stdin, capsysbinary: Output) -> None:
    lines = [b"line %d" % number for number in range(60)]
    stdin(b"\n".join(lines))
    assert run(["send", "-a", address, "--lines", "/queue/a"]) == 0
    printed: list[bytes] = []
    for count in (1, 7, 30, 20):
        assert run(["receive", "-a", address, "-n", str(count), "/queue/a"]) == 0
        printed += capsysbinary.readouterr().out.splitlines()
    assert printed == lines[:58]
    assert run(["receive", "-a", address, "-n", "2", "--json", "/queue/a"]) == 0
    left = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert [message["body"] for message in left] == ["line 58", "line 59"]
    assert all("redelivered" not in message["headers"] for message in left)
    assert run(["receive", "-a", address, "--timeout", "0.05", "/queue/a"]) == 0
    assert capsysbinary.readouterr() == (b"", b"")


def test_waiting_for_more_than_there_is(address: str, capsysbinary: Output) -> None:
    """The last ones come while the command waits: the narrowed window lets them through."""
    assert run(["send", "-a", address, "/queue/a", "first"]) == 0
    command = [sys.executable, "-m", "radiator", "receive", "-a", address, "-n", "3", "/queue/a"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "COLUMNS": "80"}) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == b"first\n"
        for body in ("second", "third", "fourth"):
            assert run(["send", "-a", address, "/queue/a", body]) == 0
        assert waiting.stdout.read() == b"second\nthird\n"
        assert waiting.wait(PATIENCE) == 0
    assert run(["receive", "-a", address, "-n", "1", "--json", "/queue/a"]) == 0
    message = json.loads(capsysbinary.readouterr().out)
    assert message["body"] == "fourth"
    assert "redelivered" not in message["headers"]


def test_a_message_of_a_megabyte_and_headers_with_everything(address: str, stdin: Stdin, capsysbinary: Output) -> None:
    body = bytes(range(256)) * 4096
    stdin(body)
    assert run(["send", "-a", address, "-H", "odd:a:b\\n\nc", "/queue/a", "-"]) == 0
    assert run(["receive", "-a", address, "-n", "1", "/queue/a"]) == 0
    assert capsysbinary.readouterr().out == body + b"\n"
    assert run(["send", "-a", address, "-H", "odd:a:b\\n\nc", "/queue/a", "x"]) == 0
    assert run(["receive", "-a", address, "-n", "1", "--json", "/queue/a"]) == 0
    assert json.loads(capsysbinary.readouterr().out)["headers"]["odd"] == "a:b\\n\nc"


def test_what_the_broker_refuses_ends_with_69(address: str, capsysbinary: Output) -> None:
    assert run(["send", "-a", address, "/fanout/nothing", "x"]) == 69
    assert run(["receive", "-a", address, "/fanout/nothing"]) == 69
    assert run(["send", "-a", address, "/queue/a", "x" * (5 << 20)]) == 69
    assert b"limits.frame" in capsysbinary.readouterr().err
