"""Fixtures of the command line's tests."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_broker import FakeBroker, Peer, serving


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
