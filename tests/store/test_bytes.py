"""A short round of the byte-level suite; `python tests/store/mutate.py` is the whole of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import mutate
import pytest
from make import load
from model import Violation, disk_with, judge
from reader import read_store

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*/*.tar.gz"))
STRIDES = {"truncations": 307, "flips": 997, "sectors": 7, "blocks": 3, "whole_files": 1}


@pytest.fixture(params=GOLDEN, ids=lambda path: f"{path.parent.name}-{path.name.partition('.')[0]}")
def files(request: pytest.FixtureRequest) -> mutate.Files:
    return load(request.param)


def test_there_are_golden_stores() -> None:
    assert len(GOLDEN) >= 2


@pytest.mark.parametrize("kind", mutate.KINDS, ids=lambda kind: kind.__name__)
def test_spoilt_bytes_are_found_or_harmless(files: mutate.Files, kind: object) -> None:
    outcomes = mutate.mutate(files, kind, STRIDES[kind.__name__])  # type: ignore[arg-type, attr-defined]
    assert outcomes["refused"]
    # Refusing always is no answer: where a file is only longer, or free space is spoilt, the store must start.
    assert outcomes["same"] or kind is mutate.blocks


def test_every_outcome_comes_about() -> None:
    files = load(next(path for path in GOLDEN if "crashed" in path.name))
    older, newest = "log/00000003.seg", "log/00000004.seg"
    data = files[newest]
    end = read_store(files).end & 0xFFFFFFFF

    def flipped(offset: int, path: str = newest) -> mutate.Files:
        changed = bytearray(files[path])
        changed[offset] ^= 1
        return {**files, path: bytes(changed)}

    allowed = mutate.tail_states(files)
    assert len(allowed) == 2
    outcomes = Counter(
        {
            "free space": mutate.hold("", flipped(end + 9), allowed),
            "the last batch": mutate.hold("", flipped(end - 4096 + 70), allowed),
            "the last batch is cut": mutate.hold("", {**files, newest: data[: end - 1]}, allowed),
            "a synced batch": mutate.hold("", flipped(2 * 4096 + 70), allowed),
            "a payload": mutate.hold("", flipped(files[older].index(b"body 14 "), older), allowed),
            "the watermark": mutate.hold("", {**files, "watermark": b""}, allowed),
        }
    )
    assert outcomes == {
        "free space": "same",
        "the last batch": "tail cut",
        "the last batch is cut": "tail cut",
        "a synced batch": "refused",
        "a payload": "set aside",
        "the watermark": "same",
    }


def test_a_message_that_nobody_sent_is_noticed() -> None:
    """The suite itself: it must tell a store of other messages from this one."""
    crashed, stopped = (load(path) for path in GOLDEN)
    assert not judge(disk_with(crashed)).refused
    with pytest.raises(Violation, match="missing, or were never sent"):
        mutate.hold("another store", stopped, mutate.tail_states(crashed))
