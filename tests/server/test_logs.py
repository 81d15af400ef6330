"""The log: whole lines, nothing forged, nothing that blocks the caller."""

from __future__ import annotations

import json
import os
import re
import select
import threading

import pytest

from radiator.server.logs import Log


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def lines(log, pipe):
    """Everything logged until now."""
    log.close(10)
    return os.read(pipe[0], 1 << 16).decode().splitlines()


def test_text_lines_have_time_level_event_and_fields(pipe):
    log = Log("text", "debug", fd=pipe[1])
    log.debug("connection closed", peer="127.0.0.1:1", reason="closed by the client")
    log.warning("odd", count=3)
    first, second = lines(log, pipe)
    assert re.fullmatch(
        r'[0-9-]{10}T\d\d:\d\d:\d\d\.\d{3}Z debug connection closed peer=127.0.0.1:1 reason="closed by the client"',
        first,
    )
    assert second.endswith("Z warning odd count=3")


def test_json_lines_are_flat_and_keep_numbers(pipe):
    log = Log("json", "debug", fd=pipe[1])
    log.info("something", peer="[::1]:5", count=3, ratio=0.5, flag=True, other=None, level="mine", text='a"b\n')
    (line,) = lines(log, pipe)
    read = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", read.pop("time"))
    assert read == {
        "level": "info",
        "event": "something",
        "peer": "[::1]:5",
        "count": 3,
        "ratio": 0.5,
        "flag": True,
        "other": "None",
        "level_": "mine",
        "text": 'a"b\n',
    }


@pytest.mark.parametrize(("level", "seen"), [("debug", "diwea"), ("info", "iwea"), ("warning", "wea"), ("error", "ea")])
def test_levels(pipe, level, seen):
    log = Log("text", level, fd=pipe[1])
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    log.always("a")
    assert "".join(line[-1] for line in lines(log, pipe)) == seen


@pytest.mark.parametrize(("level", "seen"), [("debug", "iwew"), ("info", "iwew"), ("warning", "wew"), ("error", "e")])
def test_levels_of_what_is_reported(pipe, level, seen):
    log = Log("text", level, fd=pipe[1])
    log.report("i", level="info")
    log.report("w", level="warning")
    log.report("e", level="error")
    log.report("w")
    assert "".join(line[-1] for line in lines(log, pipe)) == seen


@pytest.mark.parametrize("value", ["two\nlines", "\x1b[2J", "a b", 'say "x"', "", "\x85", "\u2028", "\ud800"])
def test_a_value_from_outside_stays_one_word_of_one_line(pipe, value):
    log = Log("text", "info", fd=pipe[1])
    log.info("event", value=value)
    (line,) = lines(log, pipe)
    assert line.isprintable()
    assert json.loads(line.partition("value=")[2]) == value


def test_a_traceback_is_indented_below_its_line(pipe):
    log = Log("text", "info", fd=pipe[1])
    log.error("broken", traceback="one\ntwo\n", error="x")
    assert [line.partition("Z ")[2] or line for line in lines(log, pipe)] == ["error broken error=x", "  one", "  two"]


def test_unknown_formats_and_levels_are_errors():
    with pytest.raises(ValueError, match="log format 'xml'"):
        Log("xml")
    with pytest.raises(ValueError, match="log level 'loud'"):
        Log("text", "loud")


def test_a_stuck_reader_blocks_nobody_and_the_dropped_lines_are_counted(pipe):
    reader, writer = pipe
    log = Log("text", "info", fd=writer, capacity=50)
    big = "x" * 10_000
    for _ in range(1000):  # 10 MB into a pipe of 64 KiB that nobody reads; blocking here would be for ever
        log.info("line", text=big)
    got = bytearray()
    ended = threading.Event()

    def drain():
        while not ended.is_set() or not got.endswith(b"end\n"):
            got.extend(os.read(reader, 1 << 16))

    thread = threading.Thread(target=drain)
    thread.start()
    while log._lines:
        thread.join(0.01)
    ended.set()
    log.info("end")
    log.close(10)
    thread.join(10)
    assert not thread.is_alive()
    text = got.decode().splitlines()
    dropped = sum(int(line.partition("count=")[2]) for line in text if "log lines dropped" in line)
    assert dropped > 0
    assert dropped + sum(" line text=" in line for line in text) == 1000


def test_a_stuck_reader_does_not_hold_up_the_end(pipe):
    log = Log("text", "info", fd=pipe[1])
    for _ in range(100):
        log.info("line", text="x" * 10_000)
    log.close(0.1)
    assert log._thread.is_alive()
    # Returned: the thread still waits for the pipe, as a daemon. Let it end before the pipe goes.
    while log._thread.is_alive():
        if select.select([pipe[0]], [], [], 0.01)[0]:
            os.read(pipe[0], 1 << 20)


def test_a_closed_stderr_is_no_error(pipe):
    closed = os.dup(pipe[1])
    os.close(closed)
    log = Log("text", "info", fd=closed)
    log.info("nobody reads this")
    log.close(10)
    assert not log._thread.is_alive()
