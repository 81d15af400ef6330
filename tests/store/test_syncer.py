"""The sync workers and the job runners: whole writes, errors as numbers, results through a descriptor."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from radiator.store.file.fsio import RealFsio
from radiator.store.file.syncer import InlineJobs, InlineSyncer, Jobs, Signal, ThreadSyncer


class Slow(RealFsio):
    """Takes three bytes at a time, and can be held."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.synced = 0
        self.error = 0

    def write(self, fd: int, data: Any, offset: int) -> int:
        self.gate.wait(10)
        return super().write(fd, data[:3], offset)

    def sync_data(self, fd: int) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self.synced += 1


@pytest.fixture
def fsio() -> Slow:
    return Slow()


@pytest.fixture(params=[InlineSyncer, ThreadSyncer])
def syncer(request: pytest.FixtureRequest, fsio: Slow) -> Iterator[Any]:
    made = request.param(fsio)
    yield made
    fsio.gate.set()
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def readable(source: Any, seconds: float = 10.0) -> bool:
    return source.fileno() < 0 or bool(select.select([source.fileno()], [], [], seconds)[0])


def result(syncer: Any) -> tuple[int, int]:
    assert readable(syncer)
    found = syncer.result()
    assert found is not None
    return found  # type: ignore[no-any-return]


def test_the_whole_buffer_is_written_and_then_synced(syncer: Any, fsio: Slow, file: int) -> None:
    syncer.submit(file, memoryview(b"0123456789"), 5, True)
    assert syncer.busy
    assert result(syncer) == (10, 0)
    assert not syncer.busy
    assert os.pread(file, 100, 0) == bytes(5) + b"0123456789"
    assert fsio.synced == 1
    assert syncer.result() is None
    syncer.submit(file, b"x", 0, False)
    assert result(syncer) == (1, 0)
    assert fsio.synced == 1
    syncer.submit(file, b"", 0, True)
    assert result(syncer) == (0, 0)
    assert fsio.synced == 2


def test_errors_come_as_numbers(syncer: Any, fsio: Slow, file: int) -> None:
    fsio.error = errno.EIO
    syncer.submit(file, b"1234", 0, True)
    assert result(syncer) == (4, errno.EIO)
    syncer.submit(-1, b"1234", 0, False)
    assert result(syncer) == (0, errno.EBADF)


def test_the_thread_works_while_the_caller_goes_on(fsio: Slow, file: int) -> None:
    syncer = ThreadSyncer(fsio)
    fsio.gate.clear()
    syncer.submit(file, b"1234", 0, True)
    assert syncer.result() is None
    assert not readable(syncer, 0)
    fsio.gate.set()
    assert result(syncer) == (4, 0)
    assert not readable(syncer, 0)
    syncer.submit(file, b"5678", 4, True)
    syncer.close()
    assert os.pread(file, 100, 0) == b"12345678"


@pytest.mark.parametrize("runner", [InlineJobs, Jobs])
def test_jobs_call_back_from_collect(runner: Any) -> None:
    jobs = runner()
    outcome: list[Any] = []

    def fail() -> None:
        raise OSError(errno.ENOSPC, "full")

    jobs.run(lambda: 42, lambda *values: outcome.append((values, threading.current_thread())))
    jobs.run(fail, lambda *values: outcome.append((values, threading.current_thread())))
    while len(outcome) < 2:
        assert readable(jobs)
        jobs.collect()
    found = sorted((str(value), getattr(error, "errno", None)) for (value, error), _ in outcome)
    assert found == [("42", None), ("None", errno.ENOSPC)]
    assert {thread for _, thread in outcome} == {threading.current_thread()}
    jobs.close()


def test_two_jobs_run_beside_each_other() -> None:
    jobs = Jobs()
    meeting = threading.Barrier(2, timeout=60)
    done: list[Any] = []
    for _ in range(2):
        jobs.run(meeting.wait, lambda value, error: done.append(error))
    while len(done) < 2:
        assert readable(jobs)
        jobs.collect()
    assert done == [None, None]
    jobs.close()


def test_a_signal_is_readable_from_set_to_clear() -> None:
    signal = Signal()
    assert not readable(signal, 0)
    for _ in range(3):
        signal.set()
    assert readable(signal, 0)
    signal.clear()
    signal.clear()
    assert not readable(signal, 0)
    signal.close()
