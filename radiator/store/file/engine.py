"""The file engine: every persistent queue of one data directory, behind the store interface.

It must never block the loop, acknowledge before the policy's promise holds, or let a batch change the index before it
completed. Called by: the broker and the server, through `store.base.Store`; tools that inspect a store.

    open     lock ▸ FORMAT (made where the directory is empty) ▸ recovery ▸ log
    units    append writes them into the log's open batch; the log brings it to the disk and to the ledger (`_landed`)
    claim    index ▸ reads, which verify ▸ deliveries
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from radiator.errors import Refused, StoreFailed
from radiator.message import Delivery, Message
from radiator.store.base import Progress, Reason, Store, StoreQueue, Unit
from radiator.store.file.format import (
    Format,
    Names,
    check_directory,
    encode_format,
    lock_directory,
    read_format,
    replace_file,
)
from radiator.store.file.fsio import Fsio, RealFsio
from radiator.store.file.ledger import FileQueue, Ledger
from radiator.store.file.log import Log, Policy
from radiator.store.file.reads import Reads
from radiator.store.file.record import MAX_PAYLOAD, BatchWriter
from radiator.store.file.recovery import Report, recover
from radiator.store.file.segment import OPENING_OFFSET, Birth, address_of, where
from radiator.store.file.syncer import JobRunner, Jobs, SyncWorker, ThreadSyncer

__all__ = ["BUFFER_BYTES", "SEGMENT_BYTES", "FileStore"]

SEGMENT_BYTES = 64 << 20
BUFFER_BYTES = 2 << 20
_LARGEST_SEGMENT = 1 << 30  # offsets have 32 bits, and a batch may begin just before this


class FileStore(Store):
    """All persistent queues of one data directory.

    `fsync` is "always", "interval" (every `interval_ms`) or "never". A segment closes at the first batch that ends past
    `segment_bytes`; `has_room` turns false when the open batch has `buffer_bytes`. The store closes `syncer` and `jobs`
    when it is closed. `report(event, **fields)` tells an operator. `entropy(n)` gives the id of a new store.
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
        report: Report | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if fsync not in ("always", "interval", "never") or (fsync == "interval") != (interval_ms > 0):
            raise ValueError(f"fsync {fsync!r} with an interval of {interval_ms} ms: only 'interval' has one, over 0")
        if not 0 < segment_bytes <= _LARGEST_SEGMENT or buffer_bytes <= 0:
            raise ValueError(f"segment_bytes is {segment_bytes}: it must be positive and at most {_LARGEST_SEGMENT}")
        self.durable: Callable[[int], None] = _nobody
        self.committed = 0
        self._names = Names(directory)
        self._policy: Policy = fsync
        self._interval = interval_ms / 1000
        self._segment_bytes = segment_bytes
        self._buffer_bytes = buffer_bytes
        self._fsio: Fsio = RealFsio() if fsio is None else fsio
        self._syncer: SyncWorker = ThreadSyncer(self._fsio) if syncer is None else syncer
        self._jobs: JobRunner = Jobs() if jobs is None else jobs
        self._report: Report = _ignore if report is None else report
        self._entropy = entropy
        self._lock_fd = -1
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
            self._lock_fd = lock_directory(fsio, names)
            form = read_format(fsio, names)
            if form is None:
                form = self._create(wall_ms)
            recovered = recover(fsio, names, form.store_id, names.segments(fsio), self._report, progress)
        except OSError as error:
            self._close_lock()
            raise StoreFailed(
                f"{error.filename or names.directory}: {error.strerror or error}: the store cannot be opened"
            ) from error
        except BaseException:
            self._close_lock()
            raise
        self._ledger: Ledger = recovered.ledger
        self._clean = recovered.clean
        # Numbers of queues are given ahead of the log; the ledger's own count follows.
        self._next_queue = self._ledger.next_queue
        self._by_name = {queue.name: queue for queue in self._ledger.queues.values()}
        self._reads = Reads(fsio, self._jobs, self._ledger, self._set_aside)
        self._log = Log(
            recovered,
            self._landed,
            names=names,
            store_id=form.store_id,
            fsio=fsio,
            syncer=self._syncer,
            jobs=self._jobs,
            policy=self._policy,
            segment_bytes=self._segment_bytes,
            wall_ms=wall_ms,
        )
        self._opened = True

    def _create(self, wall_ms: int) -> Format:
        """Make a store: segment 1 with an empty opening batch, then FORMAT as the last. Nobody reads what came before.

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
            queue = FileQueue(name, self._next_queue)
            self._log.filling.define(queue.number, name)
            self._next_queue += 1
            self._by_name[name] = self._ledger.declared[queue.number] = queue
        return queue

    def drop(self, queue: StoreQueue) -> int:
        assert isinstance(queue, FileQueue)
        self._log.check_alive()
        if not queue.dropped:
            self._log.filling.drop(queue.number)
            queue.dropped = True
            queue.warm = None
            del self._by_name[queue.name]
        return self._log.number

    # ------------------------------------------------------------------ units

    def has_room(self) -> bool:
        log = self._log
        return log.filling.size < self._buffer_bytes and log.failed is None

    def check(self, unit: Unit) -> None:
        size = 0
        for message, _ in unit.puts:
            size += len(message.block) + len(message.body)
        if size > MAX_PAYLOAD:
            raise Refused(f"{size} bytes in one piece are over the store's limit of {MAX_PAYLOAD}")

    def append(self, unit: Unit) -> int:
        log = self._log
        if log.failed is not None:
            raise log.failed
        writer = log.filling
        puts = unit.puts
        if puts:
            message = puts[0][0]
            if len(puts) > 1 or len(message.body) + len(message.block) > MAX_PAYLOAD:
                self.check(unit)  # not called for the common case: this is hot
            for message, queues in puts:
                if len(queues) == 1:
                    queue: Any = queues[0]
                    writer.put(message, ((queue.number, queue.next_id),))
                    queue.next_id += 1
                else:
                    files: list[Any] = list(queues)
                    writer.put(message, [(queue.number, queue.next_id) for queue in files])
                    for queue in files:
                        queue.next_id += 1
        for settled, id, reason in unit.settled:
            writer.settle(settled.number, id, reason)
        return log.number

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
        queue.on_ready()

    def _set_aside(self, queue: FileQueue, id: int, address: int, why: str) -> None:
        """A claimed message is damaged: it is never delivered, and its segment stays for the operator."""
        number = address >> 32
        self._ledger.segments[number].damaged = True
        self._report(
            "message is damaged and was set aside",
            queue=queue.name,
            id=id,
            place=where(address),
            path=self._names.segment(number),
            reason=why,
        )
        self._log.filling.settle(queue.number, id, Reason.DAMAGED)

    # ------------------------------------------------------------------ commit

    def flush(self) -> None:
        self._log.flush()

    def completed(self) -> None:
        self._log.completed()

    def _landed(self, number: int) -> None:
        """The log has the batch `number` where the policy wants it: in "always", after its sync."""
        self.committed = number
        ledger = self._ledger
        gained, ledger.gained = ledger.gained, {}
        for queue in gained:
            queue.on_ready()
        # The guarantee: nobody is told of `number` in another place than this.
        self.durable(number)

    def tick(self, now: float) -> float | None:
        log = self._log
        log.check_alive()
        if self._interval and now >= self._next_sync:
            self._next_sync = now + self._interval
            if not log.synced:
                log.sync_soon()
        mark = log.mark(now)
        if not self._interval:
            return mark
        return self._next_sync if mark is None else min(mark, self._next_sync)

    def filenos(self) -> list[int]:
        """The descriptors whose readability calls for `completed`."""
        return [fd for fd in (self._syncer.fileno(), self._jobs.fileno()) if fd >= 0]

    def close(self) -> None:
        try:
            if self._opened and self._log.failed is None:
                self._log.stop()
        finally:
            self._syncer.close()
            self._jobs.close()
            if self._opened:
                self._opened = False
                for segment in self._ledger.segments.values():
                    self._fsio.close(segment.fd)
            self._close_lock()

    def _close_lock(self) -> None:
        if self._lock_fd >= 0:
            self._fsio.close(self._lock_fd)
            self._lock_fd = -1


def _nobody(number: int) -> None:
    """The listener of a store that nobody waits for."""


def _ignore(event: str, **fields: Any) -> None:
    """The operator of a store that nobody operates."""
