"""The log: one line per event on stderr, written by a thread of its own.

It must never block the loop: a line that finds the queue full is dropped and counted, and the count is a line of its
own as soon as there is room again. Nor may one event become two lines that look like events: values from outside are
quoted. Called by: every module of `server`; layers below it report through callbacks that the daemon gives them.

    text   2026-01-31T12:00:00.000Z info connection closed peer=127.0.0.1:4711 reason="closed by the client"
    json   {"time": "2026-01-31T12:00:00.000Z", "level": "info", "event": "connection closed", "peer": …}
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

__all__ = ["FORMATS", "LEVELS", "Log"]

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

CAPACITY = 10_000
"""Lines that may wait for a slow reader of stderr: some 2 MB."""

FLUSH_SECONDS = 1.0
"""How long the end of the process waits for a reader of stderr that takes nothing."""

_Line = tuple[float, str, str, dict[str, Any]]


class Log:
    """Lines of `level` and above go to the descriptor `fd` in `format`. ValueError for a level or format not known."""

    __slots__ = (
        "_closing",
        "_debug",
        "_dropped",
        "_encode",
        "_fd",
        "_floor",
        "_lines",
        "_thread",
        "_wake",
        "capacity",
    )

    def __init__(self, format: str = "text", level: str = "info", *, fd: int = 2, capacity: int = CAPACITY) -> None:
        if format not in FORMATS:
            raise ValueError(f"log format {format!r}: it must be one of {', '.join(FORMATS)}")
        if level not in LEVELS:
            raise ValueError(f"log level {level!r}: it must be one of {', '.join(LEVELS)}")
        self.capacity = capacity
        self._fd = fd
        self._floor = LEVELS.index(level)
        self._encode = _as_json if format == "json" else _as_text
        self._lines: deque[_Line] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def debug(self, event: str, **fields: Any) -> None:
        """What a developer wants: every connection that comes and goes."""
        if self._floor == 0:
            self._put("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """What an operator reads afterwards."""
        if self._floor <= 1:
            self._put("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """What an operator should look at; the daemon goes on as it should."""
        if self._floor <= 2:
            self._put("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """What does not work."""
        self._put("error", event, fields)

    def report(self, event: str, *, level: str = "warning", **fields: Any) -> None:
        """What the store reports: a warning where it says no other level."""
        if self._floor <= LEVELS.index(level):
            self._put(level, event, fields)

    def always(self, event: str, **fields: Any) -> None:
        """An info line that no level hides: the addresses that scripts wait for."""
        self._put("info", event, fields)

    def close(self, timeout: float = FLUSH_SECONDS) -> None:
        """Write what waits, for at most `timeout` seconds; lines after this are lost."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout)

    def _put(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if len(self._lines) >= self.capacity:
            self._dropped += 1
            return
        self._lines.append((time.time(), level, event, fields))
        self._wake.set()

    def _run(self) -> None:
        told = 0
        while True:
            self._wake.wait()
            closing = self._closing  # read before the queue: what was put before close() is written
            self._wake.clear()
            while self._lines:
                # At most 100 lines leave the queue at a time: the rest keeps counting against its capacity.
                taken = [self._lines.popleft() for _ in range(min(len(self._lines), 100))]
                dropped = self._dropped  # counted by the callers alone, so that no count is lost between threads
                if dropped != told:
                    taken.append((time.time(), "warning", "log lines dropped", {"count": dropped - told}))
                    told = dropped
                self._write("".join([self._encode(*line) for line in taken]).encode("utf-8", "backslashreplace"))
            if closing:
                return

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except OSError:
                return  # nobody reads stderr any more, and there is no other place to say so


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _as_json(seconds: float, level: str, event: str, fields: dict[str, Any]) -> str:
    line: dict[str, Any] = {"time": _stamp(seconds), "level": level, "event": event}
    for key, value in fields.items():
        # Flat, and the three names above are ours.
        line[key if key not in line else f"{key}_"] = value if isinstance(value, int | float | bool) else str(value)
    return json.dumps(line, ensure_ascii=False) + "\n"


def _as_text(seconds: float, level: str, event: str, fields: dict[str, Any]) -> str:
    words = [_stamp(seconds), level, event]
    tail = ""
    for key, value in fields.items():
        if key == "traceback":
            tail = "".join(f"  {line}\n" for line in str(value).splitlines())
            continue
        text = str(value)
        # A quoted value holds no line end, so nobody can forge a line.
        words.append(
            f"{key}={text}" if text.isprintable() and not set(text) & {" ", '"'} and text else f"{key}={_quoted(text)}"
        )
    return " ".join(words) + "\n" + tail


def _quoted(text: str) -> str:
    """`text` as one word: a quoted value holds no line end, so that nobody can forge a line."""
    if text and text.isprintable() and not {" ", '"'} & set(text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())
