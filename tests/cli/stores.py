"""Stores on the real disk for the tests of `radiator store …`: how to make, look at and harm one, and run the command.

A store here has segments of 32 KiB and keeps every message where it was put.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import radiator
from radiator.message import Message
from radiator.store.base import Unit
from radiator.store.file.engine import FileStore
from radiator.store.file.fsio import RealFsio
from radiator.store.file.syncer import InlineJobs, InlineSyncer

__all__ = ["ARRIVAL_MS", "command", "contents", "lines", "log_files", "make", "put", "turn", "with_index"]

ARRIVAL_MS = 1_700_000_000_123


def make(directory: Path, **options: Any) -> FileStore:
    """An open store in `directory`."""
    fsio = RealFsio()
    store = FileStore(
        str(directory), segment_bytes=32768, fsio=fsio, syncer=InlineSyncer(fsio), jobs=InlineJobs(), **options
    )
    store.open(0.0, 1)
    store._reclaim.stop()  # every message stays in its segment
    return store


def put(
    store: FileStore, queue: str, *bodies: bytes, block: bytes = b"destination:/queue/a\n", version: int = 12
) -> None:
    """Messages in one batch, which is durable afterwards."""
    unit = Unit()
    for body in bodies:
        unit.put(Message(version, b"\\" not in block, block, body, arrival_ms=ARRIVAL_MS), [store.declare(queue)])
    store.append(unit)
    turn(store)


def turn(store: FileStore) -> None:
    store.flush()
    for _ in range(4):
        store.completed()


def with_index(data: Path) -> Path:
    """The store once more, stopped with a saved index; the file."""
    store = make(data, index_from=0)
    put(store, "/queue/b", b"last")
    store.close()
    return data / "index"


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def log_files(directory: Path) -> list[Path]:
    return sorted((directory / "log").glob("*.seg"))


def command(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[Any]:
    """`radiator store` in a process of its own, with text for streams where `options` say nothing else."""
    return subprocess.Popen(
        [sys.executable, "-c", "from radiator.cli import main; main()", "store", *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(radiator.__file__).parents[1]), **(env or {})},
        **{
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            **options,
        },
    )


def lines(text: str | bytes) -> list[dict[str, Any]]:
    """The objects of JSON lines, which end with LF and nothing else."""
    data = text.encode() if isinstance(text, str) else text
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.split(b"\n")[:-1]]
