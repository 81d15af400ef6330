"""Room for when there is none: small segments held ready with their blocks, and the judgement whether the disk is full.

It must never let a file of unknown content become a segment, nor take a put while the settlements of what is stored
already might find no room. Called by: `engine` (open, check, tick), `log` (births, upkeep).

    spare-1 … spare-3 in log/: files of zeros with real blocks; recovery does not look at them

    ready ──a birth finds the disk full──▶ a segment ──nothing in it lives──▶ renamed back, zeroed ──▶ ready
      ▲                                                │ (while the disk is full; else it is unlinked)
      └── made afresh, once there is room for one ◀────┘
          (or larger: on a full disk one of half the size is better than none)

A spare is ready when its first block is zeros. That block is the first to be written by a birth and the last to be
zeroed again, each with a sync of its own between it and the rest: so its zeros speak for the whole file.

What becomes of puts follows from it, and has three phases (`Puts`):

    HELD      from the start on, until all spares are ready and whole ▸ TAKEN, or the disk is full ▸ REFUSED
    TAKEN     until the disk is full ▸ REFUSED
    REFUSED   until the disk has room again ▸ TAKEN

The disk is full from the moment when less than `stop_free` bytes are free, a birth had to take a spare, or one could
not be made whole, until all are ready and whole and a segment's size more than `stop_free` is free. Meanwhile puts are
refused and nothing else is: settlements always have room. A segment that holds nothing but settlements is dead when the
next one is born, so its blocks go round between two; the third is for the puts that were taken before anybody knew.

What is free is not what a file can have: there are quotas, and file systems without an inode left. So a start that
misses a spare holds puts back before it is made. The birth that took it may have met the disk full, and were a put
taken in each of three such starts, the ACKs would have no spare.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from radiator.errors import Refused
from radiator.store.file.format import Names
from radiator.store.file.fsio import Fsio
from radiator.store.file.record import BLOCK
from radiator.store.file.recovery import Report
from radiator.store.file.segment import FULL_ERRORS, OVERHANG, Segment, write_whole
from radiator.store.file.syncer import InlineJobs, JobRunner

__all__ = ["CHECK_SECONDS", "SPARES", "Puts", "Spares", "make_spares"]

SPARES = 3
"""One that is written, one for the segment after it (only then are the first one's blocks free again), and one that
may be pinned by messages that were accepted when the disk was met full."""

_PART = 4
_LEAST_BYTES = 8 * BLOCK
"""A spare has this part of a segment's size, and at least these bytes."""

CHECK_SECONDS = 1.0
"""How often the file system is asked what is free."""

_ZEROS = bytes(256 * BLOCK)


class Puts(Enum):
    """What becomes of puts. Settlements go on in each phase."""

    TAKEN = "taken"
    """The disk has room."""

    HELD = "held"
    """This start misses a spare, or has a small one, and nobody knows yet whether it can be made.

    They wait for that moment, and are taken or refused. A store that runs never comes back to this: what it lacks then,
    it lacks because the disk is full, or because segments begin with more than before.
    """

    REFUSED = "refused"
    """The disk is full: an operator or a consumer must make room."""


class Spares:
    """The spare segments of one store.

    `segment_bytes` is what a segment takes, `stop_free` the limit in free bytes. `puts` is what becomes of puts now;
    `report` is called once when the disk is full, and once when it is no more. `resumed` is called when puts are taken
    from now on, or one has room that was too large in `check`. Of all methods only `make` and `recycle` touch the disk
    after `look`: they are for jobs.
    """

    __slots__ = (
        "_ask_at",
        "_asking",
        "_begins",
        "_denied",
        "_free",
        "_fsio",
        "_jobs",
        "_names",
        "_ready",
        "_remains",
        "_report",
        "_segment_bytes",
        "_size",
        "_stop_free",
        "_too_large",
        "least",
        "puts",
        "resumed",
        "wanted",
    )

    def __init__(
        self, fsio: Fsio, jobs: JobRunner, names: Names, *, segment_bytes: int, stop_free: int, report: Report
    ) -> None:
        self.puts = Puts.HELD
        """Changed by `_judge` alone."""
        self.wanted = False
        """A spare is missing or small, and `make` may succeed."""
        self.resumed: Callable[[], None] = _nobody
        self._fsio = fsio
        self._jobs = jobs
        self._names = names
        self._segment_bytes = segment_bytes
        self._size = max(segment_bytes // _PART, _LEAST_BYTES)
        self.least = self._size // 2  # one that cannot have more is still of use
        self._stop_free = stop_free
        self._report = report
        self._free = 0
        self._too_large = 0  # the least that was refused in one piece since puts were last taken up again, in bytes
        self._begins = 0  # what the newest segment began with
        self._ready: dict[int, int] = {}  # their bytes
        self._remains: set[int] = set()  # files that are there and not ready
        self._ask_at = float("-inf")
        self._asking = False
        self._denied = False  # the last one could not be made, whatever is said to be free

    # ------------------------------------------------------------------ what is there

    def look(self) -> None:
        """See what spares there are and judge. Reads only. OSError as the kernel gave it."""
        for number in range(1, SPARES + 1):
            try:
                fd = self._fsio.open(self._names.spare(number))
            except FileNotFoundError:
                continue
            try:
                size = self._fsio.size(fd)
                ready = size >= self.least and not any(self._fsio.read(fd, 0, BLOCK))
            finally:
                self._fsio.close(fd)
            if ready:
                self._ready[number] = size
            else:
                self._remains.add(number)
        free = self._fsio.free_bytes(self._names.directory)
        self._found(free)
        # The first write needs a new segment: where that would take a spare, no put may be the one that does.
        if free < self._segment_bytes + self._segment_bytes // OVERHANG:
            self._judge(True)

    @property
    def short(self) -> bool:
        """A spare is missing, or has less than its size."""
        return bool(self._lacks())

    @property
    def size(self) -> int:
        """Bytes of a spare, where the disk has room for all of it."""
        return self._size

    def require(self, length: int) -> None:
        """A segment began with `length` bytes: half of a spare must have room for them, and a block, from now on."""
        self._begins = length
        self._size = max(self._size, 2 * (length + BLOCK))

    def path(self) -> str | None:
        """The spare that a birth may take, the largest; None where there is none."""
        return self._names.spare(self._largest()) if self._ready else None

    @property
    def one_to_lose(self) -> bool:
        """Is there one more than a full disk's settlements need?

        Only then may messages that live on be written where they pin the newest segment, whose blocks may be a spare's.
        Where all goes wrong from then on, the next start needs a spare for its first ACK, and that segment is dead, and
        a spare again, only behind the one after it.
        """
        return len(self._ready) > 1

    def holds(self, length: int) -> bool:
        """Is there a spare of so many bytes?"""
        return any(size >= length for size in self._ready.values())

    def taken(self) -> None:
        """A birth found the disk full and took the spare of `path`."""
        del self._ready[self._largest()]
        self._judge(True)
        self.ask()

    def _largest(self) -> int:
        return max(self._ready, key=lambda number: (self._ready[number], number))

    def _lacks(self) -> dict[int, int]:
        """The spares that are not ready in full, and how many bytes each lacks."""
        lacks = {number: self._size - self._ready.get(number, 0) for number in range(1, SPARES + 1)}
        return {number: lack for number, lack in lacks.items() if lack > 0}

    # ------------------------------------------------------------------ is the disk full?

    def refusal(self, size: int = 0) -> Refused:
        """Why a put is refused, or one of `size` bytes in one piece."""
        if self.puts is Puts.HELD and not size:
            return Refused(
                "the store has just been started, and its spare segments are not ready yet, without which a full disk "
                "would have no room for ACKs: persistent messages are taken when they are made"
            )
        large = f" for {size} bytes in one piece" if size else ""
        denied = f", but a file of {self._size} could not be made (a quota, or no inode left?)" if self._denied else ""
        return Refused(
            f"the disk is full{large}: {self._free} bytes are free{denied}, disk.stop_free is {self._stop_free} and a "
            f"segment takes {self._segment_bytes}; persistent messages are taken again when there is room"
        )

    def check(self, size: int, batch: int) -> None:
        """Refused where a put of `size` bytes in one piece may find neither a fresh segment nor a spare to take it.

        `batch` are the bytes of its batch, with what stands there already.
        """
        if not self._takes(size, batch):
            self._too_large = min(size, self._too_large or size)
            raise self.refusal(size)

    def _takes(self, size: int, batch: int) -> bool:
        return batch <= self._holds() or self._free >= size + self._segment_bytes

    def _holds(self) -> int:
        """How large a batch any spare takes behind what a segment begins with: that is about half of it at most."""
        smallest = min(self._ready.values(), default=self.least)
        return smallest - max(smallest // 2, self._begins + BLOCK)

    def tick(self, now: float) -> float:
        """Ask what is free where that is due at `now`; when to come again."""
        if now >= self._ask_at:
            self._ask_at = now + CHECK_SECONDS
            self.ask()
        return self._ask_at

    def ask(self) -> None:
        """Find out what is free, in a job."""
        if not self._asking:
            self._asking = True
            self._jobs.run(lambda: self._fsio.free_bytes(self._names.directory), self._answered)

    def _answered(self, free: int | None, error: BaseException | None) -> None:
        self._asking = False
        if isinstance(error, OSError):
            return  # nothing new is known; where the disk is broken, the log will meet it
        if error is not None:
            raise error
        assert free is not None
        self._found(free)

    def _found(self, free: int) -> None:
        self._free = free
        lacks = self._lacks().values()
        self.wanted = bool(self._remains) or any(lack <= free for lack in lacks)
        if self.puts is Puts.REFUSED:
            self._judge(bool(lacks) or free < self._stop_free + self._segment_bytes)
        else:
            self._judge(free < self._stop_free or free < sum(lacks))
        if self._too_large and self.puts is Puts.TAKEN and self._takes(self._too_large, self._too_large):
            self._resume()

    def _judge(self, full: bool) -> None:
        """The disk is full, or has room: here, and nowhere else, the phase follows, and is told where it is another."""
        before = self.puts
        if full:
            self.puts = Puts.REFUSED
        elif before is not Puts.HELD or not self.short:
            self.puts = Puts.TAKEN
        if self.puts is before:
            return
        state = {"free": self._free, "stop_free": self._stop_free, "segment": self._segment_bytes}
        if self.puts is Puts.REFUSED:
            self._report("the disk is full: persistent messages are refused until there is room", **state)
            return
        if before is Puts.REFUSED:
            self._report("the disk has room again: persistent messages are taken", **state)
        self._resume()

    def _resume(self) -> None:
        """What was refused may be tried again; what is still too large is refused again, and then known again."""
        self._too_large = 0
        self.resumed()

    # ------------------------------------------------------------------ making them

    def next(self) -> int:
        """The spare to `make` or to make larger now: first one whose blocks are there, then one that has room."""
        self.wanted = False
        lacks = self._lacks()
        return min(lacks, key=lambda n: (n not in self._remains, lacks[n] > self._free, n in self._ready, n))

    def make(self, number: int) -> int:
        """Make a spare ready, in a job, durable when this returns: its bytes, fewer or none because the disk is full.

        Any other OSError as the kernel gave it.
        """
        fsio, path = self._fsio, self._names.spare(number)
        try:
            fd = fsio.open(path, write=True)
        except FileNotFoundError:
            try:
                fd = fsio.open(path, create=True)
            except OSError as error:
                if error.errno not in FULL_ERRORS:
                    raise
                return 0  # no inode is left, or no block for the name
        try:
            size = fsio.size(fd)
            if any(fsio.read(fd, 0, BLOCK)):
                _wipe(fsio, fd, size)
            if size < self._size:
                fsio.allocate(fd, self._size)
            fsio.sync(fd)
            size = fsio.size(fd)
        except OSError as error:
            if error.errno not in FULL_ERRORS:
                raise
            size = fsio.size(fd)
            if size >= self.least:
                fsio.sync(fd)
            else:
                size = 0
                fsio.unlink(path)  # what it holds is of no use here, but may be elsewhere
        finally:
            fsio.close(fd)
        fsio.sync_directory(self._names.log)
        return size

    def made(self, number: int, size: int) -> None:
        """What became of `make`."""
        self._remains.discard(number)
        self._denied = size < self._size <= self._free
        if size:
            self._ready[number] = size
        # An answer that came meanwhile did not know of this one; the next one does.
        self.wanted = bool(self._remains)
        if size >= self._size:
            self.ask()
        else:
            self._judge(True)  # whatever the file system says is free: the next tick asks, or this would spin

    # ------------------------------------------------------------------ the blocks of dead segments

    def places(self) -> list[int]:
        """The spares that dead segments should become: none while unlinking them does."""
        if self.puts is not Puts.REFUSED:
            return []
        return [n for n in range(1, SPARES + 1) if n not in self._ready and n not in self._remains]

    def recycle(self, dead: Iterable[Segment], places: Iterable[int]) -> tuple[list[Segment], list[int]]:
        """Let dead segments become spares that are not ready yet, in a job: those that are left, and the places filled.

        For the log this is unlinking them, under the same conditions. The caller syncs the directory before anything
        is written to them. Nobody else may have a name for one: a snapshot's link would see its contents vanish.
        """
        fsio, names = self._fsio, self._names
        left: list[Segment] = []
        filled: list[int] = []
        free = list(places)
        for segment in dead:
            if not free or fsio.size(segment.fd) < self.least:
                left.append(segment)
                continue
            path = names.spare(free[0])
            fsio.rename(names.segment(segment.number), path)
            if fsio.links(segment.fd) == 1:  # asked now: by this name nobody makes a link any more
                filled.append(free.pop(0))
            else:
                fsio.unlink(path)
        return left, filled

    def recycled(self, places: Iterable[int]) -> None:
        """What became of `recycle`, durable."""
        self._remains.update(places)
        self.wanted = self.wanted or bool(self._remains)


def make_spares(fsio: Fsio, names: Names, segment_bytes: int) -> None:
    """The spares of a store that no daemon has yet. OSError where there is no room for all of them."""
    spares = Spares(fsio, InlineJobs(), names, segment_bytes=segment_bytes, stop_free=0, report=_silent)
    for number in range(1, SPARES + 1):
        if spares.make(number) < spares.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), names.spare(number))


def _wipe(fsio: Fsio, fd: int, size: int) -> None:
    """Zero a file; its first block comes last, when all the others are zeros on the disk."""
    if size > BLOCK:
        for offset in range(BLOCK, size, len(_ZEROS)):
            write_whole(fsio, fd, memoryview(_ZEROS)[: size - offset], offset)
        fsio.sync_data(fd)
    if size:
        write_whole(fsio, fd, memoryview(_ZEROS)[: min(size, BLOCK)], 0)


def _nobody() -> None:
    """Nobody waits for room."""


def _silent(event: str, **fields: Any) -> None:
    """Nobody is told."""
