"""The threads behind the store: the sync worker, which writes and syncs one batch at a time, and the helpers (jobs).

They must never touch the index, a queue or the loop: they get file descriptors and bytes, and leave a result that the
loop fetches when their file descriptor turns readable. Each has an inline variant that works inside the call, so that
the simulated disk decides every step. The compiled sync worker (`_speedups.syncer`) has the same methods.
Called by: `engine` (submit, result, run, collect), the server (fileno, and it chooses the variant).

    loop                       sync worker
    submit(fd, buffer, …) ───▶ whole write, then fdatasync if asked
    result() ◀── fd readable ─ (written, errno)
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol

from radiator.store.file.fsio import Fsio

__all__ = ["InlineJobs", "InlineSyncer", "JobRunner", "Jobs", "Signal", "SyncWorker", "ThreadSyncer"]

Buffer = bytes | bytearray | memoryview
Done = Callable[[Any, BaseException | None], None]


class SyncWorker(Protocol):
    """Writes and syncs for the log, one submission at a time."""

    busy: bool
    """A submission was made and its result not yet fetched."""

    def fileno(self) -> int:
        """Readable while a result waits; -1 for a worker that is done when `submit` returns."""

    def submit(self, fd: int, buffer: Buffer, offset: int, sync: bool) -> None:
        """Write the whole of `buffer` at `offset` of `fd`, then sync its data if `sync`. An empty one only syncs."""

    def result(self) -> tuple[int, int] | None:
        """(bytes written, errno or 0) of the submission, once; None while it works. Never blocks."""

    def close(self) -> None:
        """Wait for what runs, then end."""


class JobRunner(Protocol):
    """Runs functions away from the loop."""

    def fileno(self) -> int:
        """Readable while a callback waits to be made; -1 where all is done inside `run`."""

    def run(self, function: Callable[[], Any], done: Done, *, urgent: bool = False) -> None:
        """Call `function()` elsewhere, then `done(result, error)` from `collect`."""

    def collect(self) -> None:
        """Make the callbacks of finished jobs, in the caller's thread. Never blocks."""

    def close(self) -> None:
        """Wait for the jobs that run; forget those that wait and all callbacks."""


class Signal:
    """A file descriptor that is readable after `set` until `clear`: an eventfd, or a pipe where there is none."""

    __slots__ = ("_read", "_write")

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """The descriptor to watch for reading."""
        return self._read

    def set(self) -> None:
        """Make it readable; may be called from any thread."""
        with contextlib.suppress(BlockingIOError):  # full: it is readable already
            os.write(self._write, b"\1\0\0\0\0\0\0\0")

    def clear(self) -> None:
        """Make it unreadable."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._read, 4096)) == 4096:
                pass

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._read)
        if self._write != self._read:
            os.close(self._write)


def _work(fsio: Fsio, fd: int, buffer: Buffer, offset: int, sync: bool) -> tuple[int, int]:
    """Write all of `buffer`, then sync: (written, errno). The one piece of work that a sync worker does."""
    written = 0
    try:
        length = len(buffer)
        while written < length:
            piece = buffer if written == 0 else memoryview(buffer)[written:]
            written += fsio.write(fd, piece, offset + written)
        if sync:
            fsio.sync_data(fd)
    except OSError as error:
        return written, error.errno or 5  # EIO where the error has no number
    return written, 0


class InlineSyncer:
    """Works inside `submit`; for the simulated disk and for tools that have no loop."""

    def __init__(self, fsio: Fsio) -> None:
        self.busy = False
        self._fsio = fsio
        self._result: tuple[int, int] | None = None

    def fileno(self) -> int:
        return -1

    def submit(self, fd: int, buffer: Buffer, offset: int, sync: bool) -> None:
        assert not self.busy, "one submission at a time"
        self.busy = True
        self._result = _work(self._fsio, fd, buffer, offset, sync)

    def result(self) -> tuple[int, int] | None:
        result, self._result = self._result, None
        if result is not None:
            self.busy = False
        return result

    def close(self) -> None:
        self.busy = False


class ThreadSyncer:
    """One Python thread for the life of the store."""

    def __init__(self, fsio: Fsio) -> None:
        self.busy = False
        self._fsio = fsio
        self._signal = Signal()
        self._work: SimpleQueue[tuple[int, Buffer, int, bool] | None] = SimpleQueue()
        self._results: deque[tuple[int, int]] = deque()
        self._thread = threading.Thread(target=self._run, name="radiator-sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            result = _work(self._fsio, *work)
            del work  # the buffer must be free before the loop learns of it
            self._results.append(result)
            self._signal.set()

    def fileno(self) -> int:
        return self._signal.fileno()

    def submit(self, fd: int, buffer: Buffer, offset: int, sync: bool) -> None:
        assert not self.busy, "one submission at a time"
        self.busy = True
        self._work.put((fd, buffer, offset, sync))

    def result(self) -> tuple[int, int] | None:
        self._signal.clear()  # before looking: a result that comes now sets it again
        if not self._results:
            return None
        self.busy = False
        return self._results.popleft()

    def close(self) -> None:
        if self._thread.is_alive():
            self._work.put(None)
            self._thread.join()
            self._signal.close()
            self.busy = False


class InlineJobs:
    """Works inside `run`; the callbacks still wait for `collect`, as they do with threads."""

    def __init__(self) -> None:
        self._finished: deque[tuple[Done, Any, BaseException | None]] = deque()

    def fileno(self) -> int:
        return -1

    def run(self, function: Callable[[], Any], done: Done, *, urgent: bool = False) -> None:
        try:
            outcome = (done, function(), None)
        except Exception as error:  # noqa: BLE001 (the caller of `run` judges it, in `done`)
            self._finished.append((done, None, error))
        else:
            self._finished.append(outcome)

    def collect(self) -> None:
        while self._finished:
            done, result, error = self._finished.popleft()
            done(result, error)

    def close(self) -> None:
        self._finished.clear()


class Jobs:
    """A few threads: `urgent` ones for births, unlinks and timed syncs, the others for cold reads.

    Receipts may wait for the urgent ones, and a thousand cold queues ask for a thousand reads at once: the two must
    never stand in one line. Two of each, for a sync and a change of names may run together.
    """

    def __init__(self, threads: int = 2, urgent_threads: int = 2) -> None:
        self._signal = Signal()
        self._work: SimpleQueue[tuple[Callable[[], Any], Done] | None] = SimpleQueue()
        self._urgent: SimpleQueue[tuple[Callable[[], Any], Done] | None] = SimpleQueue()
        self._finished: deque[tuple[Done, Any, BaseException | None]] = deque()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._run, args=(work,), name=f"radiator-{name}-{number}", daemon=True)
            for work, name, count in ((self._work, "read", threads), (self._urgent, "job", urgent_threads))
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, work: SimpleQueue[tuple[Callable[[], Any], Done] | None]) -> None:
        while (job := work.get()) is not None:
            function, done = job
            if self._closing:
                continue
            try:
                result, error = function(), None
            except Exception as raised:  # noqa: BLE001 (the caller of `run` judges it, in `done`)
                result, error = None, raised
            self._finished.append((done, result, error))
            self._signal.set()

    def fileno(self) -> int:
        return self._signal.fileno()

    def run(self, function: Callable[[], Any], done: Done, *, urgent: bool = False) -> None:
        (self._urgent if urgent else self._work).put((function, done))

    def collect(self) -> None:
        self._signal.clear()  # before looking: a job that ends now sets it again
        while self._finished:
            done, result, error = self._finished.popleft()
            done(result, error)

    def close(self) -> None:
        if self._threads:
            self._closing = True
            for _ in self._threads:
                self._work.put(None)
                self._urgent.put(None)
            for thread in self._threads:
                thread.join()
            self._threads = []
            self._finished.clear()
            self._signal.close()
