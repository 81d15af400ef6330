"""Known mistakes, each switched on alone: the suites must catch every one of them. `bugs` has the table."""

from __future__ import annotations

import bugs
import pytest


def test_there_are_enough() -> None:
    assert len(bugs.BUGS) >= 14


@pytest.mark.parametrize("bug", bugs.BUGS, ids=lambda bug: bug.__name__)
def test_the_suite_catches(bug: object, monkeypatch: pytest.MonkeyPatch) -> None:
    caught = bugs.hunt(bug, monkeypatch)  # type: ignore[arg-type]
    assert caught is not None, f"{bug.__doc__} Nobody noticed."  # type: ignore[attr-defined]
