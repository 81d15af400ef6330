"""Fixtures of the command line's tests."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_broker import FakeBroker, Peer, serving
from stores import make, put


@pytest.fixture
def broker() -> Iterator[Callable[[Callable[[Peer], Any]], FakeBroker]]:
    """Make a fake broker from a script for one connection."""
    yield from serving([])


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Let standard input hold these bytes."""

    def fill(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return fill


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A store of several segments with 30 messages in /queue/a."""
    directory = tmp_path / "data"
    store = make(directory)
    for number in range(30):
        put(store, "/queue/a", b"%d" % number + b"x" * 5000)
    store.close()
    return directory
