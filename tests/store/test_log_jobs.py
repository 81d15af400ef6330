"""What happens beside the batches: births, timed syncs and removals, in nobody's way that they must not be in."""

from __future__ import annotations

import threading
from typing import Any

from simdisk import SimDisk
from test_faults import new_disk

from radiator.message import Message
from radiator.store.base import Unit
from radiator.store.file.engine import FileStore
from radiator.store.file.stall import STALL_SECONDS
from radiator.store.file.syncer import InlineJobs, InlineSyncer, Jobs

DIRECTORY = "/data/store"


class Held(InlineJobs):
    """Urgent jobs wait until they are let go; `hold` says which."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = False
        self.waiting: list[tuple[Any, Any]] = []

    def run(self, function: Any, done: Any, *, urgent: bool = False) -> None:
        if self.hold and urgent:
            self.waiting.append((function, done))
        else:
            super().run(function, done)

    def go(self) -> None:
        self.hold = False
        waiting, self.waiting = self.waiting, []
        for function, done in waiting:
            super().run(function, done)


def opened(disk: SimDisk, jobs: Held, fsync: Any = "always", **settings: Any) -> FileStore:
    interval_ms = 100 if fsync == "interval" else 0
    store = FileStore(
        DIRECTORY, fsync=fsync, interval_ms=interval_ms, fsio=disk, syncer=InlineSyncer(disk), jobs=jobs, **settings
    )
    store.open(0.0, 1)
    return store


def put(store: FileStore, queue: Any, body: bytes = b"x") -> int:
    unit = Unit()
    unit.put(Message(12, True, b"", body), (queue,))
    return store.append(unit)


def step(store: FileStore) -> None:
    store.flush()
    store.completed()


def test_nothing_is_written_behind_the_end_that_a_birth_states() -> None:
    jobs = Held()
    store = opened(new_disk(), jobs, segment_bytes=65536)
    queue, doomed = store.declare("/queue/a"), store.declare("/queue/doomed")
    for _ in range(400):
        put(store, queue)
        step(store)
    step(store)
    held = store.claim(queue, 400, 1 << 20)
    assert len(held) == 400
    log = store._log
    while log.tail.end < log.capacity - 8192:
        put(store, queue)
        step(store)
    # Three hundred settlements look large until they are joined to one range; then the batch would fit after all.
    unit = Unit()
    for delivery in held[:300]:
        unit.settle(queue, delivery.id)
    jobs.hold = True
    store.append(unit)
    number = put(store, queue, b"precious")
    step(store)
    assert jobs.waiting, "no birth was asked for"
    end = log.tail.end
    store.drop(doomed)
    for _ in range(3):
        step(store)
    assert (log.tail.end, store.committed < number) == (end, True)
    jobs.go()
    for _ in range(3):
        step(store)
    assert store.committed >= number
    assert log.tail.number > 2


def test_a_sync_that_is_late_for_its_interval_holds_up_what_comes_after() -> None:
    jobs = Held()
    store = opened(new_disk(), jobs, "interval")
    queue = store.declare("/queue/a")
    put(store, queue)
    step(store)
    step(store)
    jobs.hold = True
    store.tick(0.1)
    during = put(store, queue)
    step(store)
    assert store.committed >= during, "a sync that runs is in nobody's way"
    store.tick(0.2)
    after = put(store, queue)
    step(store)
    assert store.committed < after, "the sync is overdue"
    jobs.go()
    step(store)
    step(store)
    assert store.committed >= after


def test_a_dead_segment_goes_though_the_log_grows() -> None:
    disk = new_disk()
    jobs = Held()
    store = opened(disk, jobs, "never", segment_bytes=65536)
    store._reclaim.stopped = True
    queue = store.declare("/queue/a")
    for _ in range(40):
        put(store, queue, b"x" * 4096)
        step(store)
    first = min(number for number, segment in store._ledger.segments.items() if segment.live)
    unit = Unit()
    for delivery in store.claim(queue, 30, 1 << 20):
        unit.settle(queue, delivery.id)
    store.append(unit)
    jobs.hold = True
    step(store)
    step(store)
    # The sync that the dead wait for has begun; batches go on landing behind what it covers.
    for _ in range(3):
        put(store, queue)
        step(store)
    jobs.go()
    put(store, queue)
    step(store)
    step(store)
    assert first not in store._ledger.segments


def test_a_timed_sync_that_hangs_is_reported_though_batches_land() -> None:
    events: list[str] = []
    jobs = Held()
    store = opened(new_disk(), jobs, "interval", report=lambda event, **fields: events.append(event))
    queue = store.declare("/queue/a")
    put(store, queue)
    step(store)
    step(store)
    jobs.hold = True
    for tenth in range(1, int(STALL_SECONDS * 10) + 20):
        put(store, queue)
        store.tick(tenth / 10)
        step(store)
    assert "the disk does not answer; nothing is acknowledged meanwhile" in events


def test_urgent_jobs_do_not_wait_for_the_others() -> None:
    jobs = Jobs()
    gate, done = threading.Event(), threading.Event()
    try:
        for _ in range(50):
            jobs.run(gate.wait, lambda value, error: None)
        jobs.run(done.set, lambda value, error: None, urgent=True)
        assert done.wait(10)
    finally:
        gate.set()
        jobs.close()
