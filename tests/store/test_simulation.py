"""A short round of the simulator; `python tests/store/simulate.py` goes on for as long as it is told to."""

from __future__ import annotations

import sys
import time

import pytest
import simulate
from bugs import skip_the_data_sync
from history import POLICIES, history
from model import DIRECTORY

from radiator.errors import StoreDamaged


@pytest.mark.parametrize(("seed", "policy"), list(enumerate(POLICIES)))
def test_a_crash_at_every_operation_leaves_a_prefix(seed: int, policy: str) -> None:
    start = time.process_time()
    cases = sum(1 for _ in simulate.run(seed, policy, every=24))
    assert cases > 200
    # At least 1,000 histories a minute on one core; usually it is forty times that.
    assert cases / (time.process_time() - start) * 60 > 1000


@pytest.mark.parametrize("case", simulate.regressions(), ids=str)
def test_what_failed_once_does_not_fail_again(case: simulate.Case) -> None:
    simulate.replay(case)


def test_histories_do_what_they_should() -> None:
    """Without this a history in which nothing happens would survive everything."""
    lives = [history(seed) for seed in range(30)]
    newest = [max(int(path[-12:-4]) for path in life.disk.contents() if path.endswith(".seg")) for life in lives]
    left = [sum(path.endswith(".seg") for path in life.disk.contents()) for life in lives]
    assert max(newest) >= 7
    assert any(count < number // 2 for count, number in zip(left, newest, strict=True)), "nothing was unlinked"
    assert {life.fsync for life in lives} == set(POLICIES)
    assert {life.late for life in lives} == {False, True}
    assert sum(life.failures for life in lives) >= 5
    assert sum(life.refused for life in lives) >= 5, "no disk was full"
    assert any(life.copied for life in lives), "nothing was copied"
    assert sum(life.lined_up for life in lives) >= 5, "every batch went to the disk at once"
    assert sum(len(life.snapshots) for life in lives) >= 5
    moments = [moment for life in lives for moment in life.moments[::10]]
    saved = sum(f"{DIRECTORY}/index" in moment.disk.contents() for moment in moments)
    assert saved >= 5, "no stop saved its index"
    kinds = {moment.what for life in lives for moment in life.moments}
    assert kinds >= {
        "create",
        "allocate",
        "write",
        "truncate",
        "rename",
        "unlink",
        "sync",
        "sync_data",
        "sync_directory",
    }


@pytest.mark.parametrize("seed", range(20, 26))
def test_the_same_number_makes_the_same_history(seed: int) -> None:
    one, two = history(seed), history(seed)
    assert one.disk.contents() == two.disk.contents()
    assert [moment[1:] for moment in one.moments] == [moment[1:] for moment in two.moments]


@pytest.mark.parametrize("text", ["3", "3:14", "3:14:15", "3:14!"])
def test_a_case_is_one_word(text: str) -> None:
    case = simulate.Case.parse(text, "never")
    assert str(case) == text
    assert case.command == f"python tests/store/simulate.py --policy never --replay {text}"


def test_a_failure_names_the_command_that_shows_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = simulate.history
    faults = skip_the_data_sync(monkeypatch)
    monkeypatch.setattr(simulate, "history", lambda seed, policy, steps=60: right(seed, policy, steps, **faults))
    monkeypatch.setattr(sys, "argv", ["simulate.py", "--points", "5000", "--seed", "3"])
    assert simulate.main() == 1
    words = capsys.readouterr().out.split()
    at = words.index("--replay")
    assert words[at - 2 : at] == ["python", "tests/store/simulate.py"]
    monkeypatch.setattr(sys, "argv", ["simulate.py", *words[at:]])
    with pytest.raises((simulate.Violation, StoreDamaged)):
        simulate.main()


def test_the_command_counts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["simulate.py", "--points", "50"])
    assert simulate.main() == 0
    assert "50 histories of 1 runs: " in capsys.readouterr().out
