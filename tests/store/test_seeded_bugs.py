"""Known mistakes, each switched on alone: the crash suite must catch every one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import test_crash
import test_faults
from model import Violation, World

from radiator.errors import CorruptRecord, StoreDamaged
from radiator.store.base import Unit
from radiator.store.file import engine, ledger, log, recovery, segment, syncer
from radiator.store.file.fsio import Fsio
from radiator.store.file.record import SETTLED, STATE, decode_batch

Patch = pytest.MonkeyPatch


def skip_the_data_sync(patch: Patch) -> dict[str, Any]:
    return {"skipped": {"sync_data"}}


def skip_the_sync_of_a_birth(patch: Patch) -> dict[str, Any]:
    return {"skipped": {"sync"}}


def skip_the_directory_sync(patch: Patch) -> dict[str, Any]:
    return {"skipped": {"sync_directory"}}


def append_behind_the_old_tail(patch: Patch) -> dict[str, Any]:
    right = engine.FileStore.open

    def wrong(self: engine.FileStore, *arguments: Any) -> None:
        right(self, *arguments)
        self._log._ours = True

    patch.setattr(engine.FileStore, "open", wrong)
    return {}


def receipt_before_the_sync(patch: Patch) -> dict[str, Any]:
    right = log.Log._submit

    def wrong(self: log.Log) -> None:
        store: Any = getattr(self._landed, "__self__", None)
        if not self.filling.empty and hasattr(store.durable, "__self__"):
            store.durable.__self__.told = self.number
        right(self)

    patch.setattr(log.Log, "_submit", wrong)
    patch.setattr(World, "_durable", lambda self, number: None)
    return {}


def do_not_sync_the_segment_that_is_left(patch: Patch) -> dict[str, Any]:
    right = segment.Birth.happen

    def wrong(self: segment.Birth) -> segment.Segment:
        self.sync_predecessor = False
        return right(self)

    patch.setattr(segment.Birth, "happen", wrong)
    return {}


def unlink_before_the_sync(patch: Patch) -> dict[str, Any]:
    right = log.Log._upkeep

    def wrong(self: log.Log) -> None:
        synced, self._synced = self._synced, self.tail.end_address
        right(self)
        self._synced = synced

    patch.setattr(log.Log, "_upkeep", wrong)
    return {}


def unlink_what_still_lives(patch: Patch) -> dict[str, Any]:
    def wrong(book: ledger.Ledger, tail: segment.Segment) -> list[segment.Segment]:
        return [s for s in book.segments.values() if s is not tail and s.live < 3]

    patch.setattr(log, "dead_segments", wrong)
    return {}


def ignore_the_checksum_of_a_tail(patch: Patch) -> dict[str, Any]:
    patch.setattr(
        recovery, "decode_batch", lambda data, address, id, payloads, damaged: decode_batch(data, address, id, False)
    )
    return {}


def take_no_evidence_of_syncs(patch: Patch) -> dict[str, Any]:
    patch.setattr(recovery, "_durable", lambda reader, opening_end: opening_end)
    patch.setattr(recovery, "read_watermark", lambda *arguments: None)
    return {}


def replay_acks_off_by_one(patch: Patch) -> dict[str, Any]:
    def wrong(*arguments: Any) -> list[Any]:
        return [
            (kind, *rest[:-1], rest[-1] + 1) if kind == SETTLED else (kind, *rest)
            for kind, *rest in decode_batch(*arguments)
        ]

    patch.setattr(recovery, "decode_batch", wrong)
    return {}


def let_the_opening_batch_run_ahead(patch: Patch) -> dict[str, Any]:
    right = ledger.Ledger.state_into

    def wrong(self: ledger.Ledger, writer: Any) -> None:
        for queue in self.queues.values():
            queue.index.skip(queue.next_id)
        right(self, writer)

    patch.setattr(ledger.Ledger, "state_into", wrong)
    return {}


def revive_dead_ids(patch: Patch) -> dict[str, Any]:
    right = ledger.Ledger._apply_other

    def wrong(self: ledger.Ledger, kind: int, event: tuple[Any, ...]) -> None:
        right(self, kind, (*event[:-1], []) if kind == STATE else event)

    patch.setattr(ledger.Ledger, "_apply_other", wrong)
    return {}


def write_half_a_unit(patch: Patch) -> dict[str, Any]:
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


def use_ids_again(patch: Patch) -> dict[str, Any]:
    patch.setattr(recovery, "HOLE", 0)
    return {}


def retry_a_failed_sync(patch: Patch) -> dict[str, Any]:
    right = syncer._work

    def wrong(fsio: Fsio, fd: int, buffer: Any, offset: int, sync: bool) -> tuple[int, int]:
        written, errno = right(fsio, fd, buffer, offset, sync)
        return right(fsio, fd, b"", 0, sync)[1] or (written, 0) if errno else (written, errno)  # type: ignore[return-value]

    patch.setattr(syncer, "_work", wrong)
    return {}


def crash_suite(faults: dict[str, Any]) -> None:
    """The histories of test_crash, until one of them shows it."""
    for seed in range(12):
        for fsync in ("always", "never", "interval"):
            world = test_crash.history(seed, fsync, 80, **faults)
            test_crash.crash_everywhere(world, seed, stride=3)


def directed(test: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    return lambda faults: test()


@pytest.mark.parametrize(
    ("bug", "suite"),
    [
        (skip_the_data_sync, crash_suite),
        (skip_the_sync_of_a_birth, crash_suite),
        (skip_the_directory_sync, crash_suite),
        (append_behind_the_old_tail, crash_suite),
        (receipt_before_the_sync, crash_suite),
        (do_not_sync_the_segment_that_is_left, crash_suite),
        (unlink_before_the_sync, crash_suite),
        (unlink_what_still_lives, crash_suite),
        (ignore_the_checksum_of_a_tail, crash_suite),
        (replay_acks_off_by_one, crash_suite),
        (let_the_opening_batch_run_ahead, crash_suite),
        (revive_dead_ids, crash_suite),
        (write_half_a_unit, crash_suite),
        (take_no_evidence_of_syncs, directed(test_faults.test_damage_below_the_synced_end_is_refused)),
        (use_ids_again, directed(test_faults.test_an_id_is_never_used_again)),
        (retry_a_failed_sync, directed(lambda: test_faults.test_a_failed_sync_is_final(True))),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_suite_catches(
    bug: Callable[[Patch], dict[str, Any]], suite: Callable[[dict[str, Any]], None], monkeypatch: Patch
) -> None:
    faults = bug(monkeypatch)
    with pytest.raises((Violation, StoreDamaged, CorruptRecord, AssertionError, pytest.fail.Exception, KeyError)):
        suite(faults)
