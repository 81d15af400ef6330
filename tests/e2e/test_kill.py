"""kill -9 under load, with the clients' own books as the oracle. The long run is `kill_loop.py`."""

from __future__ import annotations

import pytest
from kill_loop import Loop

from radiator._speedups import COMPILED


@pytest.mark.parametrize("fsync", ["always", "50ms", "never"])
@pytest.mark.parametrize("kill_after", [1, 400])
def test_killed_once(tmp_path, kill_after, fsync):
    loop = Loop(tmp_path, fsync)
    loop.cycle(kill_after, acked=kill_after // 10)
    assert loop.check() > 0


@pytest.mark.parametrize("twin", ["require", "off"])
def test_ten_thousand_receipts_and_a_kill_in_the_middle(tmp_path, twin):
    if twin == "require" and not COMPILED:
        pytest.skip("the compiled twin is not built")
    loop = Loop(tmp_path, env={"RADIATOR_SPEEDUPS": twin})
    loop.cycle(5000, acked=100)
    loop.cycle(5000, acked=100)
    assert loop.receipts >= 10_000
    assert loop.check() >= 5000


EARLY_RECEIPTS = """
import time
from radiator.broker.broker import Broker
from radiator.store.file import syncer
Broker.reached = lambda self, mark: True
work = syncer._work
def slow(*arguments):
    time.sleep(0.1)
    return work(*arguments)
syncer._work = slow
"""

FORGOTTEN_ACKS = """
from radiator.store.file.record_pure import BatchWriter
BatchWriter.settle = lambda self, queue, id, reason: None
"""


@pytest.mark.parametrize(
    ("prelude", "complaint"),
    [(EARLY_RECEIPTS, "receipted up to"), (FORGOTTEN_ACKS, "receipted ACK|still there")],
    ids=["early receipts", "forgotten acks"],
)
def test_the_books_catch_a_broker_that_lies(tmp_path, prelude, complaint):
    loop = Loop(tmp_path, env={"RADIATOR_SPEEDUPS": "off"})
    loop.cycle(200, acked=20, prelude=prelude)
    with pytest.raises(AssertionError, match=complaint):
        loop.check()


def test_killed_many_times_on_the_same_store(tmp_path):
    loop = Loop(tmp_path)
    for kill_after in (30, 1, 200):
        loop.cycle(kill_after, acked=kill_after // 10)
    loop.check()
    loop.cycle(100)
    loop.check()
