"""Verifying, while the broker serves, what a start from the saved index did not read: every older segment, once.

It must never hold up the loop or a receipt, read a segment that may be going, change a byte, or call damaged what the
system only could not read just now. Called by: `engine` (`tick`, and `stop`, which may come at any moment).

    tick ▸ (a job) whole batches, 512 KiB at most: headers, heads, payloads ▸ what was found ▸ tick … ▸ next segment

    a payload, of a message that lives at this very place ▸ set aside, as a delivery or a copy does it
    anything else (a header, a head, a settlement, the end) ▸ told once, noted, and the segment is kept for the
        operator; what is behind it is not read. The index is whole: its messages are delivered, each one verified

The newest segment was read by the start, and what comes later is written by this run. A segment in which nothing lives
goes by itself, so it is not read: that is also why one that is just being removed is never begun with.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any, NamedTuple

from radiator.errors import CorruptRecord
from radiator.store.file.damage import DAMAGE_ERRORS
from radiator.store.file.format import Names
from radiator.store.file.fsio import Fsio
from radiator.store.file.quarantine import Quarantine
from radiator.store.file.record import scan_batch
from radiator.store.file.recovery import Recovered, Report
from radiator.store.file.salvage import read_around
from radiator.store.file.segment import OPENING_OFFSET, Segment, address_of, read_batches
from radiator.store.file.syncer import JobRunner

__all__ = ["Scrub"]

_PIECE_BYTES = 512 << 10
"""What one job reads and decodes, unless a batch is longer. Decoding keeps the loop from running for 0.1 to 0.3 ms, for
1.2 ms where every message stands in two queues. A longer batch takes what it took the loop when it was written, and its
checksums at 4 GB/s."""
_BYTES_PER_SECOND = 16 << 20
"""Little enough for any disk that serves clients."""
_RETRY_SECONDS = 1.0

_ADVICE = (
    "its messages are delivered, but a start that has to read the log will refuse: stop the broker, copy the data "
    "directory, then see what `radiator store repair` would do"
)


class _Piece(NamedTuple):
    """What a job found up to the offset `end`: events of messages with a damaged payload, and where it is broken."""

    end: int
    damaged: list[tuple[Any, ...]]
    why: str
    broken: tuple[int, str] | None


class Scrub:
    """One look at the older segments of `recovered`, if the saved index was used; else there is nothing to do."""

    __slots__ = (
        "_began",
        "_bytes",
        "_damaged",
        "_due",
        "_failing",
        "_fsio",
        "_jobs",
        "_ledger",
        "_left",
        "_names",
        "_offset",
        "_quarantine",
        "_report",
        "_segments",
        "_store_id",
        "_working",
        "stopped",
    )

    def __init__(
        self,
        recovered: Recovered,
        quarantine: Quarantine,
        *,
        fsio: Fsio,
        jobs: JobRunner,
        names: Names,
        store_id: bytes,
        report: Report,
    ) -> None:
        self.stopped = False
        self._ledger = recovered.ledger
        self._quarantine = quarantine
        self._fsio = fsio
        self._jobs = jobs
        self._names = names
        self._store_id = store_id
        self._report = report
        unread: list[Segment] = []
        if recovered.from_index:
            unread = [segment for segment in recovered.ledger.segments.values() if segment is not recovered.tail]
        self._left = deque(sorted(unread, key=lambda segment: segment.number))
        self._offset = OPENING_OFFSET
        self._working = False
        self._failing = 0  # the errno that was reported, until a read succeeds
        self._began: float | None = None
        self._due = 0.0
        self._segments = self._bytes = self._damaged = 0

    def tick(self, now: float) -> float | None:
        """Begin the next piece, if one is due. When to come again; None when all was read, or after `stop`."""
        if self.stopped or (self._began is None and not self._left):
            return None
        if self._began is None:
            self._began = self._due = now
        if not self._working and now >= self._due:
            segment = self._next()
            if segment is None:
                self._finish(now - self._began)
                return None
            self._due = now
            self._read(segment)
        return max(self._due, now + _PIECE_BYTES / _BYTES_PER_SECOND)

    def stop(self) -> None:
        """Nothing is begun any more, and what runs is for nothing."""
        self.stopped = True

    def _next(self) -> Segment | None:
        """The segment to read on in; None for the end. Nothing lives in one that is gone or going."""
        left = self._left
        while left and not left[0].live:
            self._leave()
        return left[0] if left else None

    def _leave(self) -> None:
        del self._left[0]
        self._offset = OPENING_OFFSET

    def _finish(self, seconds: float) -> None:
        self.stopped = True
        if self._segments:
            self._report(
                "the log was verified",
                level="info",
                segments=self._segments,
                bytes=self._bytes,
                seconds=round(seconds, 1),
                damaged=self._damaged,
            )

    def _read(self, segment: Segment) -> None:
        """Let a job read and verify the next piece of `segment`, whose file stays meanwhile."""
        offset = self._offset
        self._working = True
        segment.readers += 1

        def done(piece: _Piece | None, error: BaseException | None) -> None:
            self._working = False
            segment.readers -= 1
            if error is not None and not isinstance(error, OSError):
                raise error
            if self.stopped:
                return
            if error is not None:
                self._postpone(segment, error)
            elif piece is not None:
                self._failing = 0
                self._take(segment, piece)

        self._jobs.run(lambda: self._verify(segment, offset), done)

    def _verify(self, segment: Segment, offset: int) -> _Piece:
        """In a job: whole batches from `offset` on. OSError where the system could not read just now."""
        fsio, fd = self._fsio, segment.fd
        start = address_of(segment.number, offset)
        failures: list[str] = []
        fetched = 0

        def failed(error: OSError) -> None:
            if self.stopped or error.errno not in DAMAGE_ERRORS:
                raise error  # a stop does not wait until a dying disk has refused block after block
            failures[:] = [f"reading failed: {error.strerror or error}"]

        def read(at: int, length: int) -> bytes | memoryview:
            nonlocal fetched
            data = fsio.read_nowait(fd, at, length)
            if data is None:
                fetched = at + length - offset
                try:
                    data = fsio.read(fd, at, length)
                except OSError as error:
                    failed(error)
                    data = read_around(fsio, fd, at, length, failed)
            return data

        damaged: list[tuple[Any, ...]] = []
        broken: tuple[int, str] | None = None
        end = offset
        try:
            data, batches = read_batches(read, start, segment.end, _PIECE_BYTES, self._store_id)
            for at, length in batches:
                scan_batch(data[at : at + length], start + at, self._store_id, True, damaged)
                end += length
        except CorruptRecord as error:
            broken = (end, "; ".join((str(error), *failures)))
        finally:
            if fetched:
                fsio.drop_cache(fd, offset, fetched)  # nobody had needed it in memory, and others need the room
        why = failures[0] if failures else "the checksum of the payload does not fit"
        return _Piece(end, damaged, why, broken)

    def _take(self, segment: Segment, piece: _Piece) -> None:
        """What a job found: only what is still needed is damage."""
        read = piece.end - self._offset
        self._bytes += read
        self._due += read / _BYTES_PER_SECOND
        self._offset = piece.end
        for _, number, id, address, *_ in piece.damaged:
            queue = self._ledger.queues.get(number)
            place = None if queue is None or queue.dropped else queue.index.get(id)
            if queue is not None and place is not None and place[1] == address:
                self._damaged += 1
                self._quarantine.aside(queue, id, address, piece.why)
        if piece.broken is not None and segment.live:
            offset, why = piece.broken
            self._damaged += 1
            self._quarantine.keep(segment.number, offset, why)
            self._report(
                "segment is damaged",
                level="error",
                path=self._names.segment(segment.number),
                offset=offset,
                reason=why,
                advice=_ADVICE,
            )
        if piece.broken is not None or self._offset >= segment.end:
            self._segments += 1
            self._leave()

    def _postpone(self, segment: Segment, error: OSError) -> None:
        """The system could not read just now: that says nothing about the segment."""
        self._due += _RETRY_SECONDS
        if error.errno != self._failing:
            self._failing = error.errno or 0
            reason = os.strerror(self._failing) if self._failing else str(error)
            self._report(
                "segment could not be verified and is tried again",
                path=self._names.segment(segment.number),
                reason=reason,
            )
