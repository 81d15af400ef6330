"""Known mistakes, each switched on alone, and which suite catches it how soon.

    python tests/store/bugs.py            the table

The package has no switch for any of them: each is a patch over it, made and taken back here. A mistake that is not
caught is a fault of the suite.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "golden", HERE.parent.parent):  # what is installed comes first
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

import mutate  # noqa: E402
import simulate  # noqa: E402
from make import load  # noqa: E402
from model import Violation, World  # noqa: E402

from radiator.errors import CorruptRecord  # noqa: E402
from radiator.store.base import Unit  # noqa: E402
from radiator.store.file import (  # noqa: E402
    engine,
    index_pure,
    ledger,
    log,
    reads,
    reclaim,
    recovery,
    segment,
    spares,
    syncer,
)
from radiator.store.file.fsio import Fsio  # noqa: E402
from radiator.store.file.record import SETTLED, STATE, decode_message, scan_batch  # noqa: E402

Patch = pytest.MonkeyPatch
Faults = Mapping[str, Any]


# ------------------------------------------------------------------ syncs


def skip_the_data_sync(patch: Patch) -> Faults:
    """Batches are written, and never synced."""
    return {"skipped": {"sync_data"}}


def skip_the_sync_of_a_birth(patch: Patch) -> Faults:
    """A segment is renamed into the log without ever being synced."""
    return {"skipped": {"sync"}}


def skip_the_directory_sync(patch: Patch) -> Faults:
    """Names change, and no directory is synced."""
    return {"skipped": {"sync_directory"}}


class _Hasty:
    """Files that are synced only after they got their name."""

    def __init__(self, fsio: Any) -> None:
        self._fsio = fsio
        self._late: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fsio, name)

    def sync(self, fd: int) -> None:
        self._late.append(fd)

    def sync_directory(self, path: str) -> None:
        self._fsio.sync_directory(path)
        for fd in self._late:
            self._fsio.sync(fd)
        self._late = []


def rename_before_the_sync(patch: Patch) -> Faults:
    """A segment gets its name before its bytes are on the disk."""
    right = segment.Birth.happen

    def wrong(self: segment.Birth) -> segment.Segment:
        self.fsio = _Hasty(self.fsio)  # type: ignore[assignment]
        return right(self)

    patch.setattr(segment.Birth, "happen", wrong)
    return {}


def do_not_sync_the_segment_that_is_left(patch: Patch) -> Faults:
    """A rotation forgets what the old segment's last batches owe."""
    right = segment.Birth.happen

    def wrong(self: segment.Birth) -> segment.Segment:
        self.sync_predecessor = False
        return right(self)

    patch.setattr(segment.Birth, "happen", wrong)
    return {}


def receipt_before_the_sync(patch: Patch) -> Faults:
    """The batch's number is told when it is handed to the disk."""
    right = log.Log._submit

    def wrong(self: log.Log) -> None:
        store: Any = getattr(self._landed, "__self__", None)
        if not self.filling.empty and hasattr(store.durable, "__self__"):
            store.durable.__self__.told = self.number
        right(self)

    patch.setattr(log.Log, "_submit", wrong)
    patch.setattr(World, "_durable", lambda self, number: None)
    return {}


def retry_a_failed_sync(patch: Patch) -> Faults:
    """The second fsync says that all is well: the pages are clean."""
    right = syncer._work

    def wrong(fsio: Fsio, fd: int, buffer: Any, offset: int, sync: bool) -> tuple[int, int]:
        written, errno = right(fsio, fd, buffer, offset, sync)
        if errno and written == len(buffer):
            return written, right(fsio, fd, b"", 0, sync)[1]
        return written, errno

    patch.setattr(syncer, "_work", wrong)
    return {}


def trust_the_page_cache(patch: Patch) -> Faults:
    """A start after a failed sync believes what the kernel still has in memory."""
    patch.setattr(simulate.SimDisk, "drop_cache", lambda self, fd, *_: None)
    return {}


def say_too_early_that_it_is_synced(patch: Patch) -> Faults:
    """The watermark and the batches' headers tell of what is written, not of what is synced."""
    right = log.Log._submit

    def wrong(self: log.Log) -> None:
        if self._ours:
            self._synced = self.tail.end_address
        right(self)

    patch.setattr(log.Log, "_submit", wrong)
    return {}


# ------------------------------------------------------------------ the log


def append_behind_the_old_tail(patch: Patch) -> Faults:
    """A start writes on where the last life ended."""
    right = engine.FileStore.open

    def wrong(self: engine.FileStore, *arguments: Any) -> None:
        right(self, *arguments)
        self._log._ours = True

    patch.setattr(engine.FileStore, "open", wrong)
    return {}


def write_half_a_unit(patch: Patch) -> Faults:
    """What a transaction puts and what it settles are in two batches."""
    right = engine.FileStore.append

    def wrong(self: engine.FileStore, unit: Unit) -> int:
        if unit.puts and unit.settled:
            first = Unit()
            first.puts, unit.puts = unit.puts, []
            right(self, first)
            self.flush()
        return right(self, unit)

    patch.setattr(engine.FileStore, "append", wrong)
    return {}


def let_the_opening_batch_run_ahead(patch: Patch) -> Faults:
    """It states ids that are given, and not in the log yet."""
    right = ledger.Ledger.state_into

    def wrong(self: ledger.Ledger, writer: Any) -> None:
        for queue in self.queues.values():
            queue.index.skip(queue.next_id)
        right(self, writer)

    patch.setattr(ledger.Ledger, "state_into", wrong)
    return {}


def forget_a_queue_in_the_opening_batch(patch: Patch) -> Faults:
    """A queue in which nothing waits is not restated."""
    right = ledger.Ledger.state_into

    def wrong(self: ledger.Ledger, writer: Any) -> None:
        queues = self.queues
        self.queues = {number: queue for number, queue in queues.items() if queue.index.ready or queue.index.in_flight}
        right(self, writer)
        self.queues = queues

    patch.setattr(ledger.Ledger, "state_into", wrong)
    return {}


# ------------------------------------------------------------------ reclaim


def unlink_before_the_sync(patch: Patch) -> Faults:
    """A dead segment goes while what killed its last message is not on the disk."""
    right = log.Log._upkeep

    def wrong(self: log.Log) -> None:
        synced, self._synced = self._synced, self.tail.end_address
        right(self)
        self._synced = synced

    patch.setattr(log.Log, "_upkeep", wrong)
    return {}


def unlink_what_still_lives(patch: Patch) -> Faults:
    """A segment goes that has a message or two."""

    def wrong(book: ledger.Ledger, tail: segment.Segment) -> list[segment.Segment]:
        return [s for s in book.segments.values() if s is not tail and s.live < 3]

    patch.setattr(log, "dead_segments", wrong)
    return {}


def unlink_before_the_copy_is_synced(patch: Patch) -> Faults:
    """A segment goes as soon as its survivors have joined the open batch."""
    running: list[reclaim.Reclaim] = []
    first, right = reclaim.Reclaim.__init__, log.dead_segments

    def begin(self: reclaim.Reclaim, *arguments: Any, **options: Any) -> None:
        first(self, *arguments, **options)
        running[:] = [self]

    def wrong(book: ledger.Ledger, tail: segment.Segment) -> list[segment.Segment]:
        victim = running[0].victim if running else None
        gone = [victim] if victim is not None and victim.live <= running[0]._pending and not victim.readers else []
        return [*right(book, tail), *gone]

    patch.setattr(reclaim.Reclaim, "__init__", begin)
    patch.setattr(log, "dead_segments", wrong)
    return {}


def revive_dead_ids_from_their_copies(patch: Patch) -> Faults:
    """A copy of a message that was acknowledged meanwhile counts."""

    class Reviving(index_pure.QueueIndex):
        __slots__ = ()

        def put(self, id: int, address: int, length: int, deliveries: int = 0) -> tuple[bool, int]:
            chunk = self._chunks.get(id >> 12)
            slot = -1 if chunk is None else id - chunk.start
            if chunk is not None and 0 <= slot < len(chunk.states) and chunk.states[slot] == 3 and id >= self.floor:
                chunk.states[slot] = 0
            return super().put(id, address, length, deliveries)

    patch.setattr(ledger, "QueueIndex", Reviving)
    return {}


def have_no_spares(patch: Patch) -> Faults:
    """On a full disk there is no room for an ACK."""
    patch.setattr(spares.Spares, "path", lambda self: None)
    return {}


def forget_the_acks_of_reclaimed_segments(patch: Patch) -> Faults:
    """The opening batch does not say which ids are dead."""
    right = ledger.Ledger._apply_other

    def wrong(self: ledger.Ledger, kind: int, event: tuple[Any, ...]) -> None:
        right(self, kind, (*event[:-1], []) if kind == STATE else event)

    patch.setattr(ledger.Ledger, "_apply_other", wrong)
    return {}


# ------------------------------------------------------------------ recovery


def ignore_the_checksum_of_a_tail(patch: Patch) -> Faults:
    """The payloads of the last batches are believed."""
    patch.setattr(recovery, "scan_batch", lambda data, address, id, payloads, *_: scan_batch(data, address, id, False))
    return {}


def take_no_evidence_of_syncs(patch: Patch) -> Faults:
    """Whatever does not verify is called an unsynced tail."""
    patch.setattr(recovery, "_durable", lambda reader, opening_end: opening_end)
    patch.setattr(recovery, "read_watermark", lambda *arguments: None)
    return {}


def look_for_nothing_that_is_missing(patch: Patch) -> Faults:
    """A start does not ask whether every id is dead or located."""
    patch.setattr(recovery, "_check_missing", lambda *arguments: None)
    return {}


def replay_acks_off_by_one(patch: Patch) -> Faults:
    """The end of a range is taken for one behind it."""

    def wrong(*arguments: Any) -> list[Any]:
        return [
            (kind, *rest[:-1], rest[-1] + 1) if kind == SETTLED else (kind, *rest)
            for kind, *rest in scan_batch(*arguments)
        ]

    patch.setattr(recovery, "scan_batch", wrong)
    return {}


def use_ids_again(patch: Patch) -> Faults:
    """A start after a crash goes on with the next id that it finds."""
    patch.setattr(recovery, "HOLE", 0)
    return {}


def use_queue_numbers_again(patch: Patch) -> Faults:
    """A queue whose definition was lost gives its number, and the ids of what it delivered, to the next one."""
    patch.setattr(recovery, "QUEUE_HOLE", 0)
    return {}


def deliver_without_looking(patch: Patch) -> Faults:
    """The checksum of a payload is not compared on delivery."""

    def wrong(data: Any, offset: int = 0) -> Any:
        try:
            return decode_message(data, offset)
        except CorruptRecord:
            pass
        from zlib import crc32

        copy = bytearray(data)
        head, length = (int.from_bytes(copy[offset + at : offset + at + 4], "little") for at in (8, 12))
        payload = offset + head
        copy[offset + 16 : offset + 20] = crc32(copy[payload : payload + length]).to_bytes(4, "little")
        copy[offset : offset + 4] = crc32(copy[offset + 4 : payload]).to_bytes(4, "little")
        return decode_message(copy, offset)

    patch.setattr(reads, "decode_message", wrong)
    return {}


# ------------------------------------------------------------------ the table


class Caught(NamedTuple):
    """After how many cases of the suite, and what it said."""

    cases: int
    error: str


def by_simulation(faults: Faults, first: int = 0, limit: int = 20_000) -> Caught | None:
    """Histories from the first on, until one shows it."""
    cases = 0
    for seed in range(first, first + 200):
        try:
            for _ in simulate.run(seed, faults=faults):
                cases += 1
                if cases > limit:
                    return None
        except simulate.Failed as failure:
            return Caught(cases + 1, f"{failure.case}: {str(failure).splitlines()[0]}")
    return None


def by_regressions(faults: Faults) -> Caught | None:
    """The cases that failed once."""
    assert not faults
    for number, case in enumerate(simulate.regressions(), 1):
        try:
            simulate.replay(case)
        except Violation as error:
            return Caught(number, f"{case}: {error}")
    return None


def by_bytes(faults: Faults) -> Caught | None:
    """The golden stores with spoilt bytes."""
    assert not faults
    cases = 0
    for path in sorted((HERE.parent / "golden").glob("*/*.tar.gz")):
        files = load(path)
        for kind in (mutate.whole_files, mutate.sectors, mutate.flips):
            try:
                cases += mutate.mutate(files, kind, 1009 if kind is mutate.flips else 3).total()
            except Violation as error:
                return Caught(cases + 1, str(error))
    return None


def simulation_from(first: int) -> Suite:
    """The same from a run on that has what this one needs, a failing sync or a full disk: to be short."""

    def by_simulation_from(faults: Faults) -> Caught | None:
        return by_simulation(faults, first)

    return by_simulation_from


Suite = Callable[[Faults], Caught | None]
BUGS: dict[Callable[[Patch], Faults], Suite] = {
    skip_the_data_sync: by_simulation,
    skip_the_sync_of_a_birth: by_simulation,
    skip_the_directory_sync: by_simulation,
    rename_before_the_sync: by_simulation,
    do_not_sync_the_segment_that_is_left: simulation_from(6),
    receipt_before_the_sync: by_simulation,
    retry_a_failed_sync: simulation_from(4),
    trust_the_page_cache: simulation_from(4),
    say_too_early_that_it_is_synced: by_simulation,
    append_behind_the_old_tail: by_simulation,
    write_half_a_unit: simulation_from(5),
    let_the_opening_batch_run_ahead: by_simulation,
    forget_a_queue_in_the_opening_batch: by_simulation,
    unlink_before_the_sync: simulation_from(5),
    unlink_what_still_lives: by_simulation,
    unlink_before_the_copy_is_synced: by_simulation,
    revive_dead_ids_from_their_copies: simulation_from(6),
    have_no_spares: simulation_from(9),
    forget_the_acks_of_reclaimed_segments: by_simulation,
    ignore_the_checksum_of_a_tail: by_simulation,
    take_no_evidence_of_syncs: by_bytes,
    look_for_nothing_that_is_missing: by_bytes,
    replay_acks_off_by_one: by_simulation,
    use_ids_again: by_simulation,
    use_queue_numbers_again: by_regressions,
    deliver_without_looking: by_bytes,
}


def hunt(bug: Callable[[Patch], Faults], patch: Patch) -> Caught | None:
    """Switch one mistake on and let its suite look for it."""
    return BUGS[bug](bug(patch))


def main() -> int:
    missed = 0
    for bug in BUGS:
        with pytest.MonkeyPatch.context() as patch:
            caught = hunt(bug, patch)
        suite = BUGS[bug].__name__.removeprefix("by_").removesuffix("_from")
        if caught is None:
            missed += 1
            sys.stdout.write(f"{bug.__name__:<40} {suite:<10} NOT CAUGHT\n")
        else:
            sys.stdout.write(f"{bug.__name__:<40} {suite:<10} {caught.cases:>6}  {caught.error[:110]}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{len(BUGS) - missed} of {len(BUGS)} caught\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
