"""The sync workers on real files: whole writes, real errors, one request at a time, and never the GIL."""

from __future__ import annotations

import errno
import os
import re
import resource
import select
import signal
import sys
import threading

import pytest

from radiator.store.file.fsio import RealFsio
from radiator.store.file.syncer import ThreadSyncer

native = pytest.importorskip("radiator._speedups.syncer", reason="the compiled sync worker is not built")


@pytest.fixture(params=["native", "thread"])
def syncer(request):
    worker = native.NativeSyncer() if request.param == "native" else ThreadSyncer(RealFsio())
    yield worker
    worker.close()


@pytest.fixture
def file(tmp_path):
    with open(tmp_path / "log", "w+b", buffering=0) as opened:
        yield opened


def result(worker):
    """The answer, once the descriptor says that there is one."""
    readable, _, _ = select.select([worker.fileno()], [], [], 10)
    assert readable, "no answer within 10 s"
    return worker.result()


def test_writes_everything_where_asked_and_syncs(syncer, file):
    syncer.submit(file.fileno(), b"x" * 5000, 4096, True)
    assert syncer.busy
    assert result(syncer) == (5000, 0)
    assert not syncer.busy
    assert os.pread(file.fileno(), 10000, 0) == bytes(4096) + b"x" * 5000


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_takes_any_buffer(syncer, file, kind):
    syncer.submit(file.fileno(), kind(b"abc"), 0, False)
    assert result(syncer) == (3, 0)


def test_an_empty_buffer_only_syncs(syncer, file):
    syncer.submit(file.fileno(), b"", 0, True)
    assert result(syncer) == (0, 0)


def test_one_answer_for_one_request(syncer, file):
    assert syncer.result() is None
    for number in range(100):
        syncer.submit(file.fileno(), b"%03d" % number, 3 * number, number % 10 == 0)
        assert result(syncer) == (3, 0)
        assert syncer.result() is None
        assert not select.select([syncer.fileno()], [], [], 0)[0]
    assert os.pread(file.fileno(), 1000, 0) == b"".join(b"%03d" % number for number in range(100))


def test_large_offsets(syncer, file):
    syncer.submit(file.fileno(), b"far", 1 << 33, False)
    assert result(syncer) == (3, 0)
    assert os.pread(file.fileno(), 3, 1 << 33) == b"far"


def test_a_bad_descriptor_is_an_errno(syncer):
    syncer.submit(-1, b"x", 0, True)
    assert result(syncer) == (0, errno.EBADF)


def test_a_failed_sync_is_an_errno_after_the_whole_write(syncer):
    # A pipe cannot be synced (fdatasync(2), EINVAL); an empty request gets as far as that.
    reader, writer = os.pipe()
    try:
        syncer.submit(writer, b"", 0, True)
        assert result(syncer) == (0, errno.EINVAL)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_an_errno(syncer):
    with open("/dev/full", "wb", buffering=0) as full:
        syncer.submit(full.fileno(), b"x", 0, True)
        assert result(syncer) == (0, errno.ENOSPC)


def test_a_partial_write_is_continued_and_then_told(syncer, file):
    # The limit on file sizes cuts the first write short (setrlimit(2)); the next one fails with EFBIG.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        syncer.submit(file.fileno(), bytes(100_000), (1 << 20) - 60_000, True)
        assert result(syncer) == (60_000, errno.EFBIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_the_buffer_is_pinned_until_the_answer(file):
    worker = native.NativeSyncer()
    buffer = bytearray(b"x" * 100)
    worker.submit(file.fileno(), buffer, 0, True)
    with pytest.raises(BufferError):
        buffer.append(1)
    assert result(worker) == (100, 0)
    buffer.append(1)
    worker.close()


def test_one_request_at_a_time(file):
    worker = native.NativeSyncer()
    worker.submit(file.fileno(), b"x", 0, True)
    with pytest.raises(RuntimeError, match="busy"):
        worker.submit(file.fileno(), b"y", 0, True)
    assert result(worker) == (1, 0)
    worker.close()
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit(file.fileno(), b"x", 0, True)


def test_close_waits_for_what_runs_and_gives_the_buffer_free(syncer, file):
    buffer = bytearray(b"z" * (8 << 20))
    syncer.submit(file.fileno(), buffer, 0, True)
    syncer.close()
    assert os.fstat(file.fileno()).st_size == 8 << 20
    buffer.append(1)
    syncer.close()


def test_close_after_an_answer_that_nobody_took_does_not_write_again(file):
    worker = native.NativeSyncer()
    worker.submit(file.fileno(), b"once", 0, False)
    assert select.select([worker.fileno()], [], [], 10)[0]
    os.ftruncate(file.fileno(), 0)
    worker.close()
    assert os.fstat(file.fileno()).st_size == 0


def test_no_descriptor_and_no_thread_is_left():
    def held():
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = held()
    for _ in range(20):
        native.NativeSyncer().close()
    assert held() == before


def test_never_takes_the_gil_while_it_works(file):
    worker = native.NativeSyncer()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody is asked to give the GIL back
    try:
        worker.submit(file.fileno(), b"written", 0, True)
        # Backtracks for a third of a second without giving the GIL back, and neither does `result`.
        re.match(r"(a+)+$", "a" * 22 + "b")
        answer = worker.result()
    finally:
        sys.setswitchinterval(before)
    assert answer == (7, 0)
    worker.close()
