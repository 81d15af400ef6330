"""The shared log while it is written: the open batch, the one at the disk, the newest segment, what is synced.

It must never have two batches at the disk, say that something is synced before it is, or go on after a failed write or
sync. Called by: `engine.FileStore`, which owns one from the start to the stop. It is longer than others because
batches, births and removals wait for each other: what may run beside what stands in one place.

    open batch ─▶ closed ones ─flush─▶ sync worker: write (+ fdatasync) ─completed─▶ ledger.apply ─▶ landed(number)
        ▲               ▲                                  │
        │               └── those as large as one can be   └── its address was given when it left the line
        └── fills while the disk works

    newest segment full, or none of this run yet: the batch waits while the next segment is born (a job); nothing is at
    the disk then, so the opening batch states exactly the end of the log.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NoReturn

from radiator.errors import StoreFailed
from radiator.store.file.cache import discard_index
from radiator.store.file.format import Names
from radiator.store.file.fsio import Fsio
from radiator.store.file.ledger import Ledger
from radiator.store.file.quarantine import Quarantine
from radiator.store.file.reclaim import dead_segments, remove
from radiator.store.file.record import BLOCK, BatchWriter, scan_batch
from radiator.store.file.recovery import Recovered
from radiator.store.file.segment import FULL_ERRORS, OPENING_OFFSET, Birth, Segment, address_of
from radiator.store.file.spares import Puts, Spares
from radiator.store.file.syncer import JobRunner, SyncWorker
from radiator.store.file.watermark import Watermark, write_watermark

__all__ = ["Log", "Policy"]

Policy = Literal["always", "interval", "never"]

_QUIET_SECONDS = 0.05
"""The watermark follows the last sync after this time without another."""

_KEPT_WRITERS = 2
"""Buffers that are kept for the next batches: one fills while another is at the disk."""

_BURIED_AT_ONCE = 8
"""Dead segments that one job removes: a batch that waits for a birth waits for this job first."""


class _Flight:
    """The batch that the sync worker has in hand; `sync` says that it syncs it too."""

    __slots__ = ("data", "number", "sync", "writer")

    def __init__(self, writer: BatchWriter, data: memoryview, number: int, sync: bool) -> None:
        self.writer = writer
        self.data = data
        self.number = number
        self.sync = sync


class Log:
    """`landed(number)` is called when the batch `number` is where the policy wants it and the ledger has it.

    `filling` is the open batch and `number` its number: whoever appends writes into it, after `close_batch` where it
    has `batch_bytes` already; `closed` are those in line before it. `failed` is the error after which nothing more is
    done. `wall_ms` becomes the creation time of segments. `written` counts the bytes of batches that landed.
    """

    __slots__ = (
        "_batch_bytes",
        "_birth",
        "_capacity",
        "_dead_at",
        "_first",
        "_flight",
        "_free",
        "_fsio",
        "_job",
        "_jobs",
        "_landed",
        "_ledger",
        "_mark_at",
        "_mark_next",
        "_marked",
        "_names",
        "_ours",
        "_overdue",
        "_policy",
        "_quarantine",
        "_segment_bytes",
        "_sequence",
        "_spares",
        "_store_id",
        "_sync_job",
        "_sync_number",
        "_sync_wanted",
        "_synced",
        "_syncer",
        "_wall_ms",
        "closed",
        "failed",
        "filling",
        "number",
        "tail",
        "written",
    )

    def __init__(
        self,
        recovered: Recovered,
        landed: Callable[[int], None],
        *,
        names: Names,
        quarantine: Quarantine,
        store_id: bytes,
        fsio: Fsio,
        syncer: SyncWorker,
        jobs: JobRunner,
        policy: Policy,
        segment_bytes: int,
        batch_bytes: int,
        spares: Spares,
        wall_ms: int,
    ) -> None:
        self._batch_bytes = batch_bytes
        self.failed: StoreFailed | None = None
        self.filling = BatchWriter(store_id)
        self.number = 1
        self.tail: Segment = recovered.tail
        self.written = 0
        self._names = names
        self._quarantine = quarantine
        self._store_id = store_id
        self._fsio = fsio
        self._syncer = syncer
        self._jobs = jobs
        self._policy = policy
        self._segment_bytes = segment_bytes
        self._spares = spares
        self._wall_ms = wall_ms
        self._landed = landed
        self._ledger: Ledger = recovered.ledger
        self.closed: deque[BatchWriter] = deque()
        self._flight: _Flight | None = None
        self._free: list[BatchWriter] = []
        # This run has a segment of its own: a start always opens a new one with its first write.
        self._ours = False
        self._first = 0  # where its first batch goes
        self._capacity = segment_bytes  # where it closes
        # Two kinds of jobs: one at a time changes names, one at a time syncs; a birth excludes them all.
        self._job: object = None
        self._birth = False
        self._sync_job: object = None
        self._sync_wanted = False
        self._sync_number = 0  # batches up to this one are synced in every policy
        self._overdue = False
        self._dead_at: dict[int, int] = {}
        # A clean stop synced everything, and after an unclean one the recovery did.
        self._synced = self._marked = self._mark_next = self.tail.end_address
        self._mark_at = 0.0
        self._sequence = recovered.watermark.sequence if recovered.watermark is not None else 0

    @property
    def capacity(self) -> int:
        """How large the newest segment becomes, in bytes: more than asked for where an opening batch is long."""
        return self._capacity

    @property
    def overhead(self) -> int:
        """What a segment holds before its first batch of messages, in bytes."""
        return self._first

    @property
    def works(self) -> tuple[object, object, object]:
        """What the disk has in hand: a batch, a job, a timed sync; another object for another piece, None for none."""
        return self._flight, self._job, self._sync_job

    @property
    def synced(self) -> bool:
        """Everything written is known to be synced, and nothing is at the disk."""
        return self._flight is None and self._synced == self.tail.end_address

    @property
    def waiting(self) -> bool:
        """Something was appended that is not at the disk."""
        return bool(self.closed) or not self.filling.empty

    # ------------------------------------------------------------------ batches

    def close_batch(self) -> BatchWriter:
        """The open batch is as large as one should be, and goes in line; the next one.

        Settlements are never held up, however slow the disk is. Were they all in one batch, no spare could hold it.
        """
        self.closed.append(self.filling)
        self.filling = self._free.pop() if self._free else BatchWriter(self._store_id)
        self.number += 1
        return self.filling

    def sync_batch(self) -> None:
        """The open batch goes in line as it is, and is synced with all before it, whatever the policy."""
        self._sync_number = self.number
        self.close_batch()

    def flush(self) -> None:
        """Hand the next batch to the sync worker if that is idle. StoreFailed after a failure."""
        self.check_alive()
        if self._sync_wanted:
            self._sync_written()
        if self._flight is None:
            self._submit()
        if self._quarantine.wanted:
            self._upkeep()

    def sync_soon(self) -> None:
        """Sync what is written, now or after the sync that runs; not in "always", where every batch is synced.

        A sync that still runs when the next is due holds up the batches after it: else the disk that is too slow for
        its interval would put ever more receipts at stake.
        """
        self._overdue = self._sync_job is not None
        self._sync_wanted = True
        self.flush()

    def _sync_written(self) -> None:
        """Sync what has landed, in a job: receipts that only wait for a write must not wait for this as well.

        A batch may be written meanwhile: it is not known to be synced by this. The segment stays the newest, for a
        birth is a job too.
        """
        tail = self.tail
        if self._sync_job is not None or self._birth:
            return
        self._sync_wanted = False
        end = tail.end_address
        if self._synced >= end:
            return
        what = f"{self._names.segment(tail.number)}: syncing up to offset {tail.end} failed"
        self._sync_job = what

        def finished(_: Any, error: BaseException | None) -> None:
            self._sync_job = None
            self._overdue = False
            self._judge(error, what)
            self._synced = max(self._synced, end)

        self._jobs.run(lambda: self._fsio.sync_data(tail.fd), finished, urgent=True)

    def _submit(self) -> None:
        """The sync worker is idle: give it the next batch, or see to it that this can be done."""
        self.check_alive()
        writer = self._next
        tail = self.tail
        if writer.empty or self._birth or self._overdue:
            return
        if not self._fits(writer):
            if self._ours and tail.end == self._first:
                self._enlarge()
                return
            if self._spares.path() is None:
                # The disk may be full, known or not, and the blocks of a dead segment all that the next one can have.
                self._upkeep()
                if self._dead_at:
                    self._sync_wanted = True
                    self._sync_written()
            if self._job is None and self._sync_job is None:
                self._begin_birth()
            return
        # Fixed here, after the last completion: below `_synced` everything is on the disk, whatever becomes of this.
        if not self.closed:
            self.close_batch()
        self.closed.popleft()
        data = writer.finish(tail.end_address, self._synced)
        number = self.number - 1 - len(self.closed)
        sync = self._policy == "always" or number <= self._sync_number
        self._flight = _Flight(writer, data, number, sync)
        self._syncer.submit(tail.fd, data, tail.end, sync)

    @property
    def _next(self) -> BatchWriter:
        """The batch that goes to the disk next."""
        return self.closed[0] if self.closed else self.filling

    def _fits(self, writer: BatchWriter) -> bool:
        """May this be the next batch of the newest segment? Its blocks are reserved: no write may meet ENOSPC."""
        tail = self.tail
        return self._ours and tail.end < self._capacity and tail.end + writer.size + BLOCK <= tail.allocated

    def may_copy(self, victim: Segment) -> bool:
        """May what lives in `victim` be written again, so that the segment can go?

        On a full disk only where that fits behind what is written, and gives a spare back: the victim has no other
        name, and is large enough. Blocks that are only free another program may take, and the copies pin a spare: also
        those of a copying that never comes to its end, since the broker is stopped or killed.
        """
        if self._spares.puts is not Puts.REFUSED:
            return True
        if not self._spares.one_to_lose or self._fsio.size(victim.fd) < self._spares.least:
            return False
        room = self.tail.allocated - self.tail.end - 4 * BLOCK if self._ours else 0
        return victim.live_bytes + victim.live_bytes // 8 <= room and self._fsio.links(victim.fd) == 1

    def takes_copies(self, size: int) -> bool:
        """May copies of `size` bytes join the open batch now?

        Not while that is not the next one, or waits for a birth: the next segment has room for the batch as it was; nor
        where it would be larger than a batch should be. On a full disk only where the newest segment has room for them
        and for the settlements that come with them, since a spare may be too small, and may be pinned. A start that
        misses a spare may be on such a disk: it waits, as puts do.
        """
        filling = self.filling
        if self._birth or self.closed or (not filling.empty and filling.size + size > self._batch_bytes):
            return False
        if self._spares.puts is not Puts.REFUSED:
            return self._spares.puts is Puts.TAKEN
        flight = 0 if self._flight is None else len(self._flight.data)
        room = self.tail.allocated - self.tail.end - flight - filling.size
        return self._ours and self._spares.one_to_lose and size + self._spares.size // 4 <= room

    def completed(self) -> None:
        """Take what the sync worker and the jobs have done, and keep the sync worker at work."""
        self.check_alive()
        if self._flight is not None:
            result = self._syncer.result()
            if result is not None:
                self._take(self._flight, *result)
        self._jobs.collect()
        self.flush()
        self._upkeep()

    def _take(self, flight: _Flight, written: int, errno: int) -> None:
        """A batch is where the policy wants it: now, and only now, it takes effect."""
        tail = self.tail
        length = len(flight.data)
        if errno or written != length:
            what = os.strerror(errno) if errno else f"only {written} of {length} bytes were written"
            doing = "writing and syncing" if flight.sync else "writing"
            self.fail(f"{self._names.segment(tail.number)}: {doing} at offset {tail.end} failed: {what}")
        start = tail.end_address
        tail.end += length
        self.written += length
        if flight.sync:
            self._synced = tail.end_address
        self._flight = None
        writer = flight.writer
        if self._fits(self._next):
            self._submit()  # the disk goes on while the loop applies this one
        self._ledger.apply(scan_batch(flight.data, start, self._store_id, False), tail)
        flight.data.release()
        if len(self._free) < _KEPT_WRITERS:
            writer.clear()
            self._free.append(writer)
        self._upkeep()
        self._landed(flight.number)

    # ------------------------------------------------------------------ segments

    def _begin_birth(self) -> None:
        """Let the next segment be born in a job; nothing is at the disk, so the ledger is the end of the log."""
        tail = self.tail
        number = tail.number + 1
        writer = BatchWriter(self._store_id)
        self._ledger.state_into(writer)
        self._ledger.recounted = False
        start = address_of(number, OPENING_OFFSET)
        opening = writer.finish(start, start, opening=True)
        # What a segment begins with is at most half of it, or a long list of queues would be all that is written.
        capacity = max(self._segment_bytes, 2 * (OPENING_OFFSET + len(opening)))
        self._sequence += 1
        birth = Birth(
            self._fsio,
            self._names,
            self._store_id,
            number,
            opening,
            capacity=capacity,
            created_ms=self._wall_ms,
            sequence=self._sequence,
            predecessor=tail,
            sync_predecessor=self._synced < tail.end_address,
            # What stands behind the end of an inherited tail is evidence.
            cut_predecessor=self._ours and self._spares.puts is not Puts.REFUSED,
            room=self._next.size + BLOCK,
            spare=self._spares.path(),
        )

        def born(segment: Segment) -> None:
            if birth.cut_predecessor:
                tail.allocated = tail.end
            if birth.took_spare:
                self._spares.taken()
            else:
                self._spares.ask()
            self._spares.require(OPENING_OFFSET + len(opening))
            self._capacity = capacity
            self._born(segment)

        self._birth = True
        happen = self._quarantine.first(birth.happen)

        def job() -> Segment:
            if not self._ours:
                discard_index(self._fsio, self._names)  # of the stop before this start; a full disk needs its room
            return happen()

        self._run(job, born, f"{self._names.segment(number)} cannot be made")

    def _born(self, segment: Segment) -> None:
        self.tail = self._ledger.segments[segment.number] = segment
        self._birth = False
        self._ours = True
        self._first = segment.end
        self._synced = self._marked = segment.end_address
        self._sync_wanted = False
        if self._flight is None:
            self._submit()
        self._upkeep()

    def _enlarge(self) -> None:
        """The newest segment is empty, and the next batch outgrew it while it was born: reserve what is missing."""
        if self._job is not None:
            return
        tail, fsio = self.tail, self._fsio
        needed = self._next.size + BLOCK

        def enlarge() -> int:
            try:
                fsio.allocate(tail.fd, tail.end + 2 * needed)  # more may be put in meanwhile, and for ever
            except OSError as error:
                if error.errno not in FULL_ERRORS:
                    raise
                fsio.allocate(tail.fd, tail.end + needed)
            fsio.sync(tail.fd)
            return fsio.size(tail.fd)

        def enlarged(size: int) -> None:
            tail.allocated = size
            self._birth = False
            if self._flight is None:
                self._submit()

        self._birth = True
        self._run(enlarge, enlarged, f"{self._names.segment(tail.number)} cannot be made larger")

    def _upkeep(self) -> None:
        """Note what is damaged; remove what is dead, once all that killed it is synced; then see to the spares."""
        if self.failed is not None:
            return
        quarantine = self._quarantine
        if quarantine.wanted and self._job is None:
            self._run(quarantine.job(), quarantine.written, f"{self._names.quarantine} cannot be written")
        if self._ledger.emptied:
            self._bury_dead()
        if self._spares.wanted and self._job is None:
            number = self._spares.next()
            self._run(
                lambda: self._spares.make(number),
                lambda size: self._spares.made(number, size),
                f"{self._names.spare(number)} cannot be made",
            )

    def _bury_dead(self) -> None:
        # A start writes nothing, but where the disk is full its first write needs the blocks of what is dead.
        if self._job is not None or not (self._ours or self._spares.puts is Puts.REFUSED):
            return
        dead = [segment for segment in dead_segments(self._ledger, self.tail) if self._quarantine.noted(segment.number)]
        if not dead:
            return
        # All that killed it has landed by now; what lands later can kill it no more.
        for segment in dead:
            self._dead_at.setdefault(segment.number, self.tail.end_address)
        dead = [segment for segment in dead if self._dead_at[segment.number] <= self._synced][:_BURIED_AT_ONCE]
        if not dead:
            # "always" and an interval come to it by themselves.
            if self._policy == "never" and self._sync_job is None:
                self._sync_wanted = True
            return

        places = self._spares.places()

        def bury() -> list[int]:
            rest, filled = self._spares.recycle([segment for segment in dead if not segment.damaged], places)
            remove(self._fsio, self._names, rest + [segment for segment in dead if segment.damaged])
            return filled

        def gone(filled: list[int]) -> None:
            self._spares.recycled(filled)
            for segment in dead:
                del self._ledger.segments[segment.number]
                del self._dead_at[segment.number]
                self._ledger.emptied.discard(segment)
                self._fsio.close(segment.fd)

        what = f"{self._names.segment(dead[0].number)} cannot be removed"
        self._run(bury, gone, what)

    def _run(self, function: Callable[[], Any], done: Callable[[Any], None], what: str) -> None:
        """Run the one job at a time that changes names in the data directory, or the watermark."""
        self._job = function

        def finished(result: Any, error: BaseException | None) -> None:
            self._job = None
            self._judge(error, what)
            done(result)

        self._jobs.run(function, finished, urgent=True)

    def _judge(self, error: BaseException | None, what: str) -> None:
        """An error of the disk in a job is final; any other is a bug, and nobody's to catch."""
        if error is not None:
            if not isinstance(error, OSError):
                raise error
            self.fail(f"{what}: {error.strerror or error}")

    # ------------------------------------------------------------------ the watermark and the end

    def mark(self, now: float) -> float | None:
        """Let the watermark follow the last sync once it is quiet; when to come again, None for nothing to do."""
        if self._synced == self._marked:
            return None if self._flight is None else now + _QUIET_SECONDS
        if self._mark_next != self._synced:
            self._mark_next = self._synced
            self._mark_at = now + _QUIET_SECONDS
        if now < self._mark_at:
            return self._mark_at
        if self._job is None and self._flight is None:
            self._sequence += 1
            mark = Watermark(self._sequence, self._synced, clean=False)

            def write() -> None:
                try:
                    write_watermark(self._fsio, self._names.watermark, self._store_id, mark, sync=False)
                except OSError as error:
                    # A lower bound may stay lower; only a file system that copies on write has no room for it.
                    if error.errno not in FULL_ERRORS:
                        raise

            def marked(_: None) -> None:
                self._marked = max(self._marked, mark.address)

            self._run(write, marked, f"{self._names.watermark} cannot be written")
        return now + _QUIET_SECONDS

    def stop(self) -> Watermark | None:
        """Wait until everything appended is on the disk, sync it whatever the policy, and say where the log ends.

        How often messages were delivered is only said by an opening batch; where that is news the log gets a last
        segment, unless it may find no room. Returns what was said; None where nothing was written, so that the
        directory is as it was found.
        """
        self.flush()
        self._wait()
        if (
            self._ledger.recounted
            and self._spares.puts is not Puts.REFUSED
            and self._spares.holds(self._opening_bytes())
        ):
            self._begin_birth()
            self._wait()
        if not self._ours:
            return None
        fsio, tail = self._fsio, self.tail
        try:
            if self._spares.puts is not Puts.REFUSED:
                fsio.truncate(tail.fd, tail.end)
            fsio.sync(tail.fd)
            mark = Watermark(self._sequence + 1, tail.end_address, clean=True)
            write_watermark(fsio, self._names.watermark, self._store_id, mark, sync=True)
        except OSError as error:
            self.fail(f"{self._names.segment(tail.number)}: the last sync failed: {error.strerror or error}")
        return mark

    def _opening_bytes(self) -> int:
        """How long a segment is that is born now, with two blocks to spare, in bytes."""
        writer = BatchWriter(self._store_id)
        self._ledger.state_into(writer)
        return OPENING_OFFSET + writer.size + 2 * BLOCK

    def _wait(self) -> None:
        """Until nothing is at the disk, and nothing on its way there."""
        poll = select.poll()
        descriptors = [fd for fd in (self._syncer.fileno(), self._jobs.fileno()) if fd >= 0]
        for fd in descriptors:
            poll.register(fd, select.POLLIN)
        while any(work is not None for work in self.works) or self.waiting:
            self.completed()
            if descriptors and any(work is not None for work in self.works):
                poll.poll(1000)

    def check_alive(self) -> None:
        """StoreFailed after a failure, the same one for ever."""
        if self.failed is not None:
            raise self.failed

    def fail(self, what: str) -> NoReturn:
        """Final: the kernel has dropped the pages, so a retry would lie. Counts as a power cut."""
        self.failed = StoreFailed(f"{what}; nothing more is acknowledged; mend the disk, then start again")
        raise self.failed
