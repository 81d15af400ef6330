"""What the free space of the disk was, is known later than other things: such an answer must not confuse the spares."""

from __future__ import annotations

from collections import deque

from radiator.store.file.format import Names
from radiator.store.file.fsio import RealFsio
from radiator.store.file.spares import SPARES, Spares


class LateJobs:
    """Helpers whose results come when a test wants them."""

    def __init__(self):
        self.waiting = deque()

    def run(self, function, done, *, urgent=False):
        self.waiting.append((function, done))

    def answer(self):
        function, done = self.waiting.popleft()
        done(function(), None)


def test_an_answer_that_comes_while_the_last_spare_is_made_asks_for_no_other(tmp_path):
    fsio, jobs, names = RealFsio(), LateJobs(), Names(str(tmp_path))
    fsio.make_directory(names.log)
    spares = Spares(fsio, jobs, names, segment_bytes=1 << 16, stop_free=0, report=lambda event, **fields: None)
    spares.look()
    for _ in range(SPARES):
        assert spares.wanted
        number = spares.next()
        made = spares.make(number)
        spares.ask()
        jobs.answer()  # before the loop learns what became of `make`
        spares.made(number, made)
        assert not spares.wanted
        jobs.answer()
    assert not spares.short
    assert not spares.wanted
