"""Giving disk space back: dead segments go, and what lives in almost empty ones is copied to the end of the log.

It must never take a segment while a message in it lives, while what killed or replaced the last one is not synced,
while a job reads it, or when it is the newest; never copy a byte whose checksum it did not verify; and never edit
anything in place. Called by: `log` (what is dead goes), `engine` (copies, after a batch completed and as time passes).

    bytes on the disk > 2 x live bytes + 1 1/2 segments (so that 4 is never passed while this works), or a segment in
    which next to nothing lives (its turn would come when a backlog is drained, with that of all the others) ▸ a victim:

    a job reads a piece ▸ what in it lives? ▸ a job verifies that ▸ still alive, still there? append to the open batch
          ▲             (and reads the next)                                                    │ its batch completes
          └──────────── when there is credit ◀────────────────── index says: it lives there now ┘

A copy is an ordinary record with the ids of all references that live, in one piece. An ack is final: a copy of a dead
id is ignored wherever it stands, and of two live copies the higher address wins, so a crash at any point is harmless.
When nothing lives in the victim any more it is a dead segment like any other: it goes after a sync of the log.

Credit is what keeps receipts fast: a copied byte needs a byte that somebody else wrote, or time. Only where the debt is
over half a segment more is copied, and then at most a step for each batch.

A segment that consumers are draining right now is no victim: what is copied from it would die at its new place a moment
later. (Cleaning prefers what is cold: Rosenblum and Ousterhout, The Design and Implementation of a Log-Structured File
System, 1992, section 3.4.) Nor is the last one before the newest, while anything is written: what lives there came just
now, and nobody has had the time to take it. Where the debt is over half a segment even these are taken.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from radiator.errors import CorruptRecord
from radiator.message import Message
from radiator.store.file.copying import ASIDE, NO_LINKS, move_aside
from radiator.store.file.format import Names
from radiator.store.file.fsio import Fsio
from radiator.store.file.ledger import Ledger
from radiator.store.file.quarantine import Quarantine
from radiator.store.file.record import (
    PUT,
    decode_batch,
    decode_message,
    decode_references,
)
from radiator.store.file.recovery import Report
from radiator.store.file.segment import OPENING_OFFSET, Segment, address_of, read_batches
from radiator.store.file.syncer import JobRunner

if TYPE_CHECKING:
    from radiator.store.file.log import Log

__all__ = ["Reclaim", "dead_segments", "remove"]

_SLACK = 3 / 2
"""Copying begins above 2 x live bytes and so many segments, of which the newest is one.

It needs room itself, and the bound is 4; and so a single forgotten message does not pin a segment.
"""
_PIECE_BYTES = 1 << 20
"""What one job reads, unless a batch is longer."""
_STEP_BYTES = 256 << 10
"""What is verified by one job and appended in one turn, unless a single message is larger."""
_UNLANDED_BYTES = 1 << 20
"""How much may be on its way before the next piece is looked at."""
_CREDIT_BYTES = 2 << 20
"""How much credit is kept at most: two batches of a busy store."""
_BYTES_PER_SECOND = 16 << 20
"""Credit that comes with time: what an idle store copies, and little enough for any disk that serves clients."""
_NEXT_TO_NOTHING = 1 / 16
"""Where less than this part of a segment lives, copying is so cheap that it needs no debt."""
_DRAINED = 1 / 16
"""A segment that lost so much of what now lives in it since the last look is being drained."""
_STEP_SECONDS = 0.02
_LOOK_SECONDS = 0.1


def dead_segments(ledger: Ledger, tail: Segment) -> list[Segment]:
    """The segments without a live message that nothing else holds."""
    emptied = ledger.emptied
    if not emptied:
        return []
    return sorted(
        (s for s in emptied if s is not tail and not s.live and not s.readers),
        key=lambda segment: segment.number,
    )


def remove(fsio: Fsio, names: Names, segments: Sequence[Segment]) -> None:
    """Take them out of the log for good, damaged ones into quarantine/, or aside where that is another file system.

    The log must be synced: what killed or replaced their messages may not be lost any more.
    """
    damaged = [segment for segment in segments if segment.damaged]
    for segment in damaged:
        source = names.segment(segment.number)
        target = os.path.join(names.quarantine, os.path.basename(source))
        try:
            fsio.link(source, target)
        except FileExistsError:
            pass  # a crash came between the two names
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            move_aside(fsio, source, target, source + ASIDE)
    if damaged:
        fsio.sync_directory(names.quarantine)
    for segment in segments:
        with contextlib.suppress(FileNotFoundError):  # renamed just now, or somebody was faster
            fsio.unlink(names.segment(segment.number))
    fsio.sync_directory(names.log)


class _Piece(NamedTuple):
    """Batches of the victim: their bytes from `start` on, the offset behind them, and (queue, id, address, length)."""

    data: memoryview
    start: int
    end: int
    places: list[tuple[int, int, int, int]]


class _Survivor(NamedTuple):
    """A record that seemed to live: `message` is None where it is damaged, and `why` says how."""

    address: int
    length: int
    message: Message | None
    references: list[tuple[int, int]]
    why: str


class Reclaim:
    """The copying of one store's survivors: one victim at a time, one job at a time.

    `committed(number)` is called as batches complete, `pump` whenever there may be something to do, `tick` now and
    then. A copy joins the open batch while that has room.
    """

    __slots__ = (
        "_credit",
        "_fsio",
        "_given_up",
        "_jobs",
        "_landed",
        "_ledger",
        "_lived",
        "_living",
        "_log",
        "_look_at",
        "_looked",
        "_names",
        "_offset",
        "_pending",
        "_piece",
        "_piece_bytes",
        "_quarantine",
        "_report",
        "_seen",
        "_segment_bytes",
        "_step_bytes",
        "_store_id",
        "_survivors",
        "_ticked",
        "_unlanded",
        "_until",
        "_urgent",
        "_waits",
        "_working",
        "_written",
        "copied_bytes",
        "stopped",
        "victim",
    )

    def __init__(
        self,
        log: Log,
        ledger: Ledger,
        quarantine: Quarantine,
        *,
        fsio: Fsio,
        jobs: JobRunner,
        names: Names,
        store_id: bytes,
        segment_bytes: int,
        report: Report,
    ) -> None:
        self.victim: Segment | None = None
        self.copied_bytes = 0
        self.stopped = False
        self._log = log
        self._ledger = ledger
        self._quarantine = quarantine
        self._fsio = fsio
        self._jobs = jobs
        self._names = names
        self._store_id = store_id
        self._segment_bytes = segment_bytes
        self._piece_bytes = min(_PIECE_BYTES, segment_bytes // 4)
        self._step_bytes = min(_STEP_BYTES, segment_bytes // 16)
        self._report = report
        self._working = False
        # The next offset to read; what was read; what of it seemed to live, last first; what of that is verified.
        self._offset = 0
        self._piece: _Piece | None = None
        self._living: list[tuple[int, int]] = []
        self._survivors: list[_Survivor] = []
        # References and bytes of the copies in batches up to `_until`, while that has not landed.
        self._pending = self._unlanded = 0
        self._until = self._landed = 0
        self._credit = 0
        self._urgent = False
        self._seen = 0
        self._looked = self._written = -1
        self._look_at = 0.0
        # What lived in each segment at the last look, in bytes; a victim waits until it is seen not to be drained.
        self._lived: dict[int, int] = {}
        self._waits = False
        self._ticked: float | None = None
        # Segments that could not be emptied: they are left alone until the next start.
        self._given_up: set[int] = set()

    # ------------------------------------------------------------------ when

    def debt(self) -> int:
        """By how many bytes the disk holds more than it should. Dead segments are on their way, damaged ones stay."""
        disk = live = 0
        tail = self._log.tail
        for segment in self._ledger.segments.values():
            if segment is tail or (segment.live and not segment.damaged):
                disk += max(segment.allocated, segment.end)
                live += segment.live_bytes
        return disk - 2 * live - int(_SLACK * self._log.capacity)

    def committed(self, number: int) -> None:
        """The batch `number` is in the index."""
        self._landed = number
        if number >= self._until:
            self._pending = self._unlanded = 0

    def tick(self, now: float) -> float | None:
        """Time gives credit. When to come again; None for after the next write."""
        if self.stopped:
            return None
        if self._ticked is not None:
            self._credit = min(_CREDIT_BYTES, self._credit + int((now - self._ticked) * _BYTES_PER_SECOND))
        self._ticked = now
        if self.victim is None and (self._waits or self._log.written != self._looked) and now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            written = self._log.written
            self._look(idle=written == self._written)
            self._written = written
        self.pump()
        if self.victim is not None:
            return now + _STEP_SECONDS
        # The time of a store without a victim is no credit: the next client must not meet a burst.
        self._ticked = None
        return self._look_at if self._waits or self._log.written != self._looked else None

    def stop(self) -> None:
        """Nothing is begun any more, and what runs is for nothing."""
        self.stopped = True
        self._drop()

    def pump(self) -> None:
        """Take the next step, if there is one that may be taken now."""
        log = self._log
        written = log.written
        self._credit = min(_CREDIT_BYTES, self._credit + written - self._seen)
        self._seen = written
        if self.stopped or log.failed is not None:
            return
        if written - self._looked >= self._segment_bytes // 16:
            self._look()
        while not self._working:
            victim = self.victim
            if victim is None:
                return
            if self._ledger.segments.get(victim.number) is not victim or victim.live <= self._pending:
                if self._landed < self._until:
                    return  # nothing else will live in it once these have landed
                self._drop()
                self._look()
                continue
            if self._unlanded >= min(_UNLANDED_BYTES, self._segment_bytes // 2):
                return
            if self._credit <= 0 and not (self._urgent and self._landed >= self._until):
                return
            if not log.may_copy(victim):
                self._drop()
                return
            if self._survivors:
                size = sum(survivor.length for survivor in self._survivors)
                if not log.takes_copies(size):
                    return
                self._append()
            elif self._living or self._offset < victim.end:
                self._advance(victim)
            elif self._landed < self._until:
                return
            else:
                self._give_up(victim)

    # ------------------------------------------------------------------ the victim

    def _look(self, idle: bool = False) -> None:
        """See how much too much there is; where there is no victim, take the segment whose going gives back most.

        `idle` says that nothing was written for some time.
        """
        self._looked = self._log.written
        debt = self.debt()
        capacity = self._log.capacity
        self._urgent = debt > capacity // 2
        # Every new segment begins with an opening batch: what is copied takes that much more room.
        room = capacity - self._log.overhead
        lived = self._lived
        self._lived = {number: segment.live_bytes for number, segment in self._ledger.segments.items()}
        self._waits = False
        if room <= 0 or self.victim is not None:
            return
        best_gain = 0
        for number, segment in sorted(self._ledger.segments.items()):
            if segment is self._log.tail or not segment.live or segment.damaged or number in self._given_up:
                continue
            size = max(segment.allocated, segment.end)
            live = segment.live_bytes
            gain = size - live * capacity // room
            # Less than a quarter is not worth the copying, which would go round and round.
            if gain <= best_gain or gain < size // 4 or (debt <= 0 and live > size * _NEXT_TO_NOTHING):
                continue
            if not self._log.may_copy(segment):
                continue
            drained = lived.get(number, 2 * live) - live > live * _DRAINED
            young = number == self._log.tail.number - 1 and not idle
            if not self._urgent and (drained or young):
                self._waits = True
                continue
            self.victim = segment
            best_gain = gain
        self._offset = OPENING_OFFSET

    def _drop(self) -> None:
        """This victim is done with."""
        self.victim = None
        self._piece = None
        self._living = []
        self._survivors = []

    def _give_up(self, victim: Segment) -> None:
        """It was read to its end, or cannot be read, and something lives in it still."""
        self._given_up.add(victim.number)
        self._drop()
        self._look()

    # ------------------------------------------------------------------ the steps

    def _run(self, victim: Segment, function: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Run one job; the victim's file stays open meanwhile."""
        self._working = True
        victim.readers += 1

        def finished(result: Any, error: BaseException | None) -> None:
            self._working = False
            victim.readers -= 1
            if error is not None and not isinstance(error, (OSError, CorruptRecord)):
                raise error
            if self.victim is victim:
                if error is None:
                    done(result)
                else:
                    self._report(
                        "segment cannot be read and is not reclaimed; stop, then run the store's check",
                        path=self._names.segment(victim.number),
                        reason=str(error),
                    )
                    self._give_up(victim)
            self.pump()

        self._jobs.run(function, finished)

    def _advance(self, victim: Segment) -> None:
        """Let a job verify as many of the living as one turn may copy, and read on where those were the last."""
        piece, chosen = self._piece, self._choose()
        offset = victim.end if self._living else self._offset

        def work() -> tuple[list[_Survivor], _Piece | None]:
            survivors = [] if piece is None else _decode(piece, chosen)
            return survivors, self._read_piece(victim, offset) if offset < victim.end else None

        def done(result: tuple[list[_Survivor], _Piece | None]) -> None:
            self._survivors, read = result
            if read is not None:
                self._sift(read)

        self._run(victim, work, done)

    def _choose(self) -> list[tuple[int, int]]:
        """The next of the living, up to the size of a step."""
        chosen: list[tuple[int, int]] = []
        size = 0
        while self._living and (not chosen or size + self._living[-1][1] <= self._step_bytes):
            chosen.append(self._living.pop())
            size += chosen[-1][1]
        return chosen

    def _read_piece(self, victim: Segment, offset: int) -> _Piece:
        """In a job: as many whole batches as fit a piece, one at least. OSError, CorruptRecord."""
        fsio, store_id = self._fsio, self._store_id
        start = address_of(victim.number, offset)
        data, batches = read_batches(
            lambda at, length: fsio.read(victim.fd, at, length), start, victim.end, self._piece_bytes, store_id
        )
        places: list[tuple[int, int, int, int]] = []
        end = offset
        for at, length in batches:
            events = decode_batch(data[at:], start + at, store_id, False)
            places.extend(event[1:5] for event in events if event[0] == PUT)
            end += length
        return _Piece(data, start, end, places)

    def _sift(self, piece: _Piece) -> None:
        """Find out what of a piece lives, each record once."""
        self._offset = piece.end
        queues = self._ledger.queues
        living: dict[int, int] = {}
        for number, id, address, length in piece.places:
            queue = queues.get(number)
            if queue is not None and address not in living:
                place = queue.index.get(id)
                if place is not None and place[1] == address:
                    living[address] = length
        self._living = list(reversed(living.items()))
        self._piece = piece if living else None

    def _append(self) -> None:
        """Let what still lives at its place join the open batch; the index follows when that has completed."""
        survivors, self._survivors = self._survivors, []
        queues = self._ledger.queues
        filling = self._log.filling
        copied = 0
        for address, length, message, references, why in survivors:
            alive: list[tuple[int, int]] = []
            deliveries = 0
            for number, id in references:
                queue = queues.get(number)
                place = None if queue is None or queue.dropped else queue.index.get(id)
                if queue is None or place is None or place[1] != address:
                    continue
                if message is None:
                    self._quarantine.aside(queue, id, address, why)
                    continue
                # A record has one count for all: the lowest, since a count may be low after a start, and never high.
                deliveries = min(deliveries, place[3]) if alive else place[3]
                alive.append((number, id))
            if message is not None and alive:
                message.deliveries = deliveries
                filling.put(message, alive)
                self._pending += len(alive)
                copied += length
        if copied:
            self._until = self._log.number
            self._unlanded += copied
            self.copied_bytes += copied
            # Twice: once it is written it comes back as if somebody else had written it.
            self._credit -= 2 * copied


def _decode(piece: _Piece, records: Sequence[tuple[int, int]]) -> list[_Survivor]:
    """In a job: verify these records of a piece."""
    survivors = []
    for address, length in records:
        at = address - piece.start
        references = decode_references(piece.data, at)
        try:
            survivors.append(_Survivor(address, length, decode_message(piece.data, at)[0], references, ""))
        except CorruptRecord as error:
            survivors.append(_Survivor(address, length, None, references, str(error)))
    return survivors
