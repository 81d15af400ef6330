"""A long start says how far it is, and can be stopped at any moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from radiator.server.progress import StartProgress

READING = """
import signal
import sys
import radiator.store.file.engine as engine
from radiator.cli import main

def recover(*arguments):
    print("reading", flush=True)
    signal.pause()

engine.recover = recover
sys.argv = ["radiator", "--listen", "127.0.0.1:0", "--data-dir", sys.argv[1]]
main()
"""


class Lines:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))


def test_a_line_a_second_with_the_time_that_is_left() -> None:
    now = 100.0
    log = Lines()
    progress = StartProgress(log, lambda: now)  # type: ignore[arg-type]
    gib = 1 << 30
    for done in range(5):
        progress(f"reading segment {done + 1} of 5", done * gib, 5 * gib)
        now += 0.75
    assert log.lines == [
        ("reading segment 3 of 5", {"done_mib": 2048, "total_mib": 5120, "seconds_left": 2}),
        ("reading segment 5 of 5", {"done_mib": 4096, "total_mib": 5120, "seconds_left": 1}),
    ]


def test_a_short_start_says_nothing() -> None:
    log = Lines()
    progress = StartProgress(log, lambda: 5.0)  # type: ignore[arg-type]
    progress("reading segment 1 of 2", 0, 100)
    progress("read 2 segments", 100, 100)
    assert log.lines == []


def test_nothing_done_yet_is_no_error() -> None:
    times = iter((0.0, 2.0))
    log = Lines()
    progress = StartProgress(log, lambda: next(times))  # type: ignore[arg-type]
    progress("reading segment 1 of 2", 0, 100)
    progress("reading segment 1 of 2", 0, 100)
    assert log.lines[0][1]["seconds_left"] == 0


def test_a_signal_ends_a_start_at_once(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(
            [sys.executable, "-c", READING, str(tmp_path / "store")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"reading\n"
            process.send_signal(number)
            code = process.wait(60)
            errors = process.communicate()[1]
        assert code == 128 + number, errors
        assert b"Traceback" not in errors
