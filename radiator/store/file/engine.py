"""The file engine: every persistent queue of one data directory, behind the store interface.

It must never block the loop, acknowledge before the policy's promise holds, or let a batch change the index before it
completed. Called by: the broker and the server, through `store.base.Store`; tools that inspect a store.

    open     lock ▸ FORMAT (made where the directory is empty) ▸ recovery ▸ log
    units    append writes them into the log's open batch; the log brings it to the disk and to the ledger (`_landed`)
    claim    index ▸ reads, which verify ▸ deliveries
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from radiator.errors import Refused, StoreBusy, StoreFailed
from radiator.message import Delivery, Message
from radiator.store.base import Progress, Reason, Store, StoreQueue, Unit
from radiator.store.file.cache import save_index
from radiator.store.file.format import (
    DirectoryLock,
    Format,
    Names,
    check_directory,
    check_finished,
    encode_format,
    forget_marker,
    read_format,
    replace_file,
)
from radiator.store.file.fsio import Fsio, RealFsio
from radiator.store.file.ledger import FileQueue, Ledger
from radiator.store.file.log import Log, Policy
from radiator.store.file.quarantine import Quarantine
from radiator.store.file.reads import Reads
from radiator.store.file.reclaim import Reclaim
from radiator.store.file.record import BLOCK, HEADER_BYTES, MAX_PAYLOAD, RANGE_BYTES, SETTLED_HEAD_BYTES, BatchWriter
from radiator.store.file.recovery import Report, recover
from radiator.store.file.scrub import Scrub
from radiator.store.file.segment import OPENING_OFFSET, SEGMENT_BYTES, Birth, address_of
from radiator.store.file.spares import SPARES, Puts, Spares
from radiator.store.file.stall import StallWatch
from radiator.store.file.syncer import JobRunner, Jobs, SyncWorker, ThreadSyncer
from radiator.store.file.watermark import Watermark

__all__ = ["BUFFER_BYTES", "FileStore"]

BUFFER_BYTES = 2 << 20
INDEX_FROM = 128 << 20
"""A log up to this size is read in a fraction of a second, and reading finds damage: no index is saved for it."""
_LAST_QUEUE = (1 << 32) - (1 << 26)
"""Queue numbers have 32 bits; behind this one there is room for the holes of a thousand unclean starts."""

_DEFINITIONS = 1 << 13
"""Queues after whose definition a batch is synced in every policy: a lost tail must define fewer than `QUEUE_HOLE`."""

_HEAD_BYTES = 80
"""What a message's record has beside its payload and references, with padding, at most."""

_TAKEN, _HELD = Puts.TAKEN, Puts.HELD
"""Each put asks for them, and in Python 3.11 a member of an Enum takes 0.1 us to find."""

_SWEEP_SECONDS = 0.002
_LARGEST_SEGMENT = 1 << 30  # offsets have 32 bits, and a batch may begin just before this


class FileStore(Store):
    """All persistent queues of one data directory.

    `fsync` is "always", "interval" (every `interval_ms`) or "never". A segment closes at the first batch that ends past
    `segment_bytes`, a batch at the first unit that ends past `buffer_bytes` or a quarter of a spare. The store closes
    `syncer` and `jobs` when it is closed. With less than `stop_free` bytes free in the file system, puts are refused.
    `report(event, **fields)` tells an operator; see `Report`. `entropy(n)` gives the id of a new store. A stop saves
    the index where the log has more than `index_from` bytes; `clock` bounds the time that this takes.
    """

    def __init__(
        self,
        directory: str,
        *,
        fsync: Policy = "always",
        interval_ms: int = 0,
        segment_bytes: int = SEGMENT_BYTES,
        buffer_bytes: int = BUFFER_BYTES,
        fsio: Fsio | None = None,
        syncer: SyncWorker | None = None,
        jobs: JobRunner | None = None,
        stop_free: int = 0,
        report: Report | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
        index_from: int = INDEX_FROM,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if fsync not in ("always", "interval", "never") or (fsync == "interval") != (interval_ms > 0):
            raise ValueError(f"fsync {fsync!r} with an interval of {interval_ms} ms: only 'interval' has one, over 0")
        if not 0 < segment_bytes <= _LARGEST_SEGMENT or buffer_bytes <= 0:
            raise ValueError(f"segment_bytes is {segment_bytes}: it must be positive and at most {_LARGEST_SEGMENT}")
        self.durable: Callable[[int], None] = _nobody
        self.resumed: Callable[[], None] = _idle
        self.committed = 0
        self._names = Names(directory)
        self._policy: Policy = fsync
        self._interval = interval_ms / 1000
        self._segment_bytes = segment_bytes
        self._fsio: Fsio = RealFsio() if fsio is None else fsio
        self._syncer: SyncWorker = ThreadSyncer(self._fsio) if syncer is None else syncer
        self._jobs: JobRunner = Jobs() if jobs is None else jobs
        self._report: Report = _ignore if report is None else report
        self._entropy = entropy
        self._clock = clock
        self._index_from = index_from
        self._stop_free = stop_free
        self._spares = Spares(
            self._fsio, self._jobs, self._names, segment_bytes=segment_bytes, stop_free=stop_free, report=self._report
        )
        self._spares.resumed = self._has_space
        # A batch must find its blocks in a spare, which may have half of its size only, behind an opening batch.
        self._batch_bytes = max(BLOCK, min(buffer_bytes, self._spares.size // 4))
        self._lock: DirectoryLock | None = None
        self._opened = False
        self._by_name: dict[str, FileQueue] = {}
        self._next_sync = 0.0

    # ------------------------------------------------------------------ opening

    def open(self, now: float, wall_ms: int, progress: Progress = lambda what, done, total: None) -> None:
        names, fsio = self._names, self._fsio
        self._next_sync = now + self._interval
        try:
            exists = check_directory(fsio, names)
            if not exists:
                fsio.make_directory(names.directory)
            self._lock = DirectoryLock(fsio, names)
            form = read_format(fsio, names)
            if form is None:
                check_finished(fsio, names)  # a restore may have begun here since the first look
                form = self._create(wall_ms)
            forget_marker(fsio, names)
            self._spares.look()
            recovered = recover(fsio, names, form.store_id, names.segments(fsio), self._report, progress)
            quarantine = Quarantine(fsio, names, recovered.ledger, self._report, self._damaged)
            quarantine.load()
            for segment in recovered.ledger.segments.values():
                segment.allocated = fsio.size(segment.fd)
        except OSError as error:
            self._close_lock()
            raise StoreFailed(
                f"{error.filename or names.directory}: {error.strerror or error}: the store cannot be opened"
            ) from error
        except BaseException:
            self._close_lock()
            raise
        self._store_id = form.store_id
        self._ledger: Ledger = recovered.ledger
        self._clean = recovered.clean
        # Numbers of queues are given ahead of the log; the ledger's own count follows.
        self._next_queue = self._ledger.next_queue
        self._by_name = {queue.name: queue for queue in self._ledger.queues.values()}
        self._quarantine = quarantine
        self._reads = Reads(fsio, self._jobs, self._ledger, self._set_aside, self._report)
        self._log = Log(
            recovered,
            self._landed,
            names=names,
            quarantine=quarantine,
            store_id=form.store_id,
            fsio=fsio,
            syncer=self._syncer,
            jobs=self._jobs,
            policy=self._policy,
            segment_bytes=self._segment_bytes,
            batch_bytes=self._batch_bytes,
            spares=self._spares,
            wall_ms=wall_ms,
        )
        self._reclaim = Reclaim(
            self._log,
            self._ledger,
            quarantine,
            fsio=fsio,
            jobs=self._jobs,
            names=names,
            store_id=form.store_id,
            segment_bytes=self._segment_bytes,
            report=self._report,
        )
        self._scrub = Scrub(
            recovered,
            quarantine,
            fsio=fsio,
            jobs=self._jobs,
            names=names,
            store_id=form.store_id,
            report=self._report,
        )
        self._stalls = tuple(StallWatch(self._report) for _ in self._log.works)
        self._opened = True

    def _create(self, wall_ms: int) -> Format:
        """Make a store: segment 1 with an empty opening batch, the spares, FORMAT as the last. Nobody reads it before.

        So a store always has a segment, and a log without one is damaged, never new.
        """
        names, fsio = self._names, self._fsio
        form = Format(self._entropy(16))
        fsio.make_directory(names.log)
        fsio.make_directory(names.quarantine)
        replace_file(fsio, names.watermark, b"")
        writer = BatchWriter(form.store_id)
        writer.next_queue(1)
        start = address_of(1, OPENING_OFFSET)
        birth = Birth(
            fsio,
            names,
            form.store_id,
            1,
            writer.finish(start, start, opening=True),
            capacity=0,
            created_ms=wall_ms,
            sequence=1,
        )
        fsio.close(birth.happen().fd)
        for number in range(1, SPARES + 1):
            self._spares.make(number)
        replace_file(fsio, names.format, encode_format(form))
        fsio.sync_directory(os.path.dirname(os.path.abspath(names.directory)))
        return form

    # ------------------------------------------------------------------ queues

    def queues(self) -> Iterable[StoreQueue]:
        return sorted(self._by_name.values(), key=lambda queue: queue.number)

    def declare(self, name: str) -> StoreQueue:
        queue = self._by_name.get(name)
        if queue is None:
            self._log.check_alive()
            if self._next_queue > _LAST_QUEUE:
                raise Refused("the store has given out all its queue numbers: move what it holds to a new one")
            queue = FileQueue(name, self._next_queue)
            self._batch().define(queue.number, name)
            self._next_queue += 1
            if not queue.number % _DEFINITIONS:
                self._log.sync_batch()
            self._by_name[name] = self._ledger.declared[queue.number] = queue
        return queue

    def drop(self, queue: StoreQueue) -> int:
        assert isinstance(queue, FileQueue)
        self._log.check_alive()
        if not queue.dropped:
            self._batch().drop(queue.number)
            queue.dropped = True
            queue.warm = None
            del self._by_name[queue.name]
        return self._log.number

    # ------------------------------------------------------------------ units

    def has_room(self) -> bool:
        log = self._log
        if self._spares.puts is _HELD:
            return False  # a moment later they are made, or puts are refused
        return log.filling.size < self._batch_bytes and not log.closed and log.failed is None

    def check(self, unit: Unit) -> None:
        if self._spares.puts is not _TAKEN and unit.puts:
            raise self._spares.refusal()
        size, heads = 0, RANGE_BYTES * len(unit.settled)
        subject = None
        for queue, _, reason in unit.settled:  # as `BatchWriter.size` counts them
            if (queue, reason) != subject:
                subject = queue, reason
                heads += SETTLED_HEAD_BYTES
        for message, queues in unit.puts:
            size += len(message.block) + len(message.body)
            heads += _HEAD_BYTES + 12 * len(queues)
        if size > MAX_PAYLOAD:
            raise Refused(f"{size} bytes in one piece are over the store's limit of {MAX_PAYLOAD}")
        size += heads
        standing = self._log.filling.size
        if standing + size > self._batch_bytes:
            self._spares.check(size, size + (standing if standing < self._batch_bytes else HEADER_BYTES))

    def append(self, unit: Unit) -> int:
        log = self._log
        if log.failed is not None:
            raise log.failed
        if unit.puts:
            self.check(unit)
        writer = self._batch()
        for message, queues in unit.puts:
            files: list[Any] = list(queues)
            writer.put(message, [(queue.number, queue.next_id) for queue in files])
            for queue in files:
                queue.next_id += 1
        for settled, id, reason in unit.settled:
            writer.settle(settled.number, id, reason)
        return log.number

    def put(self, queue: StoreQueue, message: Message) -> int:
        assert isinstance(queue, FileQueue)
        log = self._log
        writer = log.filling
        if log.closed or writer.size >= self._batch_bytes or log.failed is not None:
            raise log.failed or StoreBusy
        if self._spares.puts is not _TAKEN or len(message.body) + len(message.block) > self._batch_bytes:
            if self._spares.puts is _HELD:
                raise StoreBusy
            unit = Unit()
            unit.put(message, (queue,))
            self.check(unit)
        writer.put(message, ((queue.number, queue.next_id),))
        queue.next_id += 1
        return log.number

    def settle(self, queue: StoreQueue, id: int) -> int:
        log = self._log
        if log.failed is not None:
            raise log.failed
        writer = log.filling
        if writer.size >= self._batch_bytes:
            writer = log.close_batch()
        writer.settle(queue.number, id, Reason.ACKED)
        return log.number

    def _batch(self) -> BatchWriter:
        """The batch that what comes now joins: the open one, or the next where that is large enough.

        `settle` is hot and has it written out.
        """
        log = self._log
        return log.filling if log.filling.size < self._batch_bytes else log.close_batch()

    # ------------------------------------------------------------------ delivery

    def claim(self, queue: StoreQueue, count: int, max_bytes: int) -> list[Delivery]:
        assert isinstance(queue, FileQueue)
        return self._reads.claim(queue, count, max_bytes)

    def read(self, queue: StoreQueue, id: int) -> Message | None:
        assert isinstance(queue, FileQueue)
        return self._reads.read(queue, id)

    def release(self, queue: StoreQueue, ids: Sequence[int], delivered: bool) -> None:
        assert isinstance(queue, FileQueue)
        queue.index.release(ids, delivered)
        if delivered:
            self._ledger.recounted = True
        queue.on_ready()

    def _set_aside(self, queue: FileQueue, id: int, address: int, why: str) -> None:
        """A claimed message is damaged: it is never delivered, and its segment stays for the operator."""
        self._quarantine.aside(queue, id, address, why)

    def _damaged(self, queue: FileQueue, id: int) -> None:
        """What is damaged is noted for good, so it can be dead."""
        self._batch().settle(queue.number, id, Reason.DAMAGED)

    # ------------------------------------------------------------------ commit

    def flush(self) -> None:
        self._log.flush()

    def completed(self) -> None:
        self._log.completed()
        self._reclaim.pump()
        if self._ledger.dropping:
            self._ledger.sweep()

    def _landed(self, number: int) -> None:
        """The log has the batch `number` where the policy wants it: in "always", after its sync."""
        self.committed = number
        self._reclaim.committed(number)
        ledger = self._ledger
        gained, ledger.gained = ledger.gained, {}
        for queue in gained:
            queue.on_ready()
        # The guarantee: nobody is told of `number` in another place than this.
        self.durable(number)

    def _has_space(self) -> None:
        """The disk has room again: dead letters that were refused are tried again by whoever hears this."""
        if self._opened:
            self.resumed()

    def tick(self, now: float) -> float | None:
        log = self._log
        log.check_alive()
        if self._interval and now >= self._next_sync:
            self._next_sync = now + self._interval
            if not log.synced:
                log.sync_soon()
        self._quarantine.retry()
        self._reads.retry()
        due = [
            self._spares.tick(now),
            log.mark(now),
            self._reclaim.tick(now),
            self._scrub.tick(now),
            *(stall.look(work, self._names.log, now) for stall, work in zip(self._stalls, log.works, strict=True)),
            now + _SWEEP_SECONDS if self._ledger.dropping and self._ledger.sweep() else None,
            self._next_sync if self._interval else None,
        ]
        return min(when for when in due if when is not None)

    def filenos(self) -> list[int]:
        """The descriptors whose readability calls for `completed`."""
        return [fd for fd in (self._syncer.fileno(), self._jobs.fileno()) if fd >= 0]

    def close(self) -> None:
        try:
            if self._opened:
                self._scrub.stop()
            if self._opened and self._log.failed is None:
                self._reclaim.stop()
                mark = self._log.stop()
                if mark is not None:
                    self._save_index(mark)
        finally:
            self._syncer.close()
            self._jobs.close()
            if self._opened:
                self._opened = False
                for segment in self._ledger.segments.values():
                    self._fsio.close(segment.fd)
            self._close_lock()

    def _save_index(self, mark: Watermark) -> None:
        """The stop is done, and says so on the disk; what follows only makes the next start short."""
        ledger, names, fsio = self._ledger, self._names, self._fsio
        if (
            self._spares.puts is Puts.REFUSED
            or sum(segment.end for segment in ledger.segments.values()) <= self._index_from
        ):
            return
        reason = save_index(fsio, names, self._store_id, ledger, mark, self._clock, keep_free=self._stop_free)
        if reason is not None:
            self._report("index was not saved: the next start reads the whole log", path=names.index, reason=reason)

    def _close_lock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _nobody(number: int) -> None:
    """The listener of a store that nobody waits for."""


def _idle() -> None:
    """Nobody waits for room."""


def _ignore(event: str, **fields: Any) -> None:
    """The operator of a store that nobody operates."""
