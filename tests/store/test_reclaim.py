"""Reclaim: survivors are copied, the disk use is bounded through any workload, and nothing is lost on the way."""

from __future__ import annotations

import select
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from model import DIRECTORY, Model, World, check, read_everything, snapshot
from simdisk import SimDisk
from test_faults import new_disk, new_store, spoil

from radiator.message import Delivery, Message
from radiator.store.base import StoreQueue, Unit
from radiator.store.file.engine import FileStore
from radiator.store.file.fsio import RealFsio
from radiator.store.file.ledger import FileQueue, Ledger
from radiator.store.file.reclaim import Reclaim
from radiator.store.file.record import PUT, SETTLED
from radiator.store.file.segment import Segment, address_of
from radiator.store.file.syncer import InlineJobs, InlineSyncer, Jobs, ThreadSyncer

SEGMENT = 65536


class Load:
    """A store under a workload, on a disk that is measured at every operation.

    `peak` is the most that the log had on the disk over twice its live bytes, in segments. `idle` lets the real threads
    of a real disk come to an end.
    """

    def __init__(self, store: FileStore, log_bytes: Callable[[], int], idle: Callable[[], None]) -> None:
        self.store = store
        self.log_bytes = log_bytes
        self.idle = idle
        self.peak = 0.0
        self.now = 0.0
        self.turns = 0
        store.open(0.0, 1)

    @property
    def excess(self) -> float:
        live = sum(segment.live_bytes for segment in self.store._ledger.segments.values())
        return (self.log_bytes() - 2 * live) / SEGMENT

    def measure(self, what: str = "") -> None:
        if hasattr(self.store, "_reclaim"):
            self.peak = max(self.peak, self.excess)

    def turn(self) -> None:
        self.store.flush()
        self.idle()
        self.turns += 1
        if not self.turns % 10:
            self.tick()

    def tick(self) -> None:
        self.now += 0.02
        self.store.tick(self.now)
        self.idle()
        self.measure()

    def rest(self) -> None:
        """Nothing comes any more."""
        for _ in range(200):
            self.tick()

    def put(self, queues: list[StoreQueue], size: int) -> None:
        unit = Unit()
        unit.put(Message(12, True, b"destination:x\n", bytes(size)), queues)
        self.store.append(unit)

    def settle(self, delivery: Delivery) -> None:
        unit = Unit()
        unit.settle(delivery.queue, delivery.id)
        self.store.append(unit)


def simulated(fsync: Any = "always") -> Load:
    disk = new_disk()
    store = FileStore(
        DIRECTORY,
        fsync=fsync,
        interval_ms=50 if fsync == "interval" else 0,
        segment_bytes=SEGMENT,
        buffer_bytes=16384,
        fsio=disk,
        syncer=InlineSyncer(disk),
        jobs=InlineJobs(),
    )

    def log_bytes() -> int:
        names = disk.directories[f"{DIRECTORY}/log"]
        return sum(len(inode.data) for name, inode in names.items() if ".seg" in name)

    def idle() -> None:
        for _ in range(3):
            store.completed()

    load = Load(store, log_bytes, idle)
    disk.before = load.measure
    return load


def real(directory: Path) -> Load:
    class QuickSyncer(ThreadSyncer):
        """Without the sync: what is measured is space."""

        def submit(self, fd: int, buffer: Any, offset: int, sync: bool) -> None:
            super().submit(fd, buffer, offset, False)

    store = FileStore(
        str(directory / "store"),
        segment_bytes=SEGMENT,
        buffer_bytes=16384,
        syncer=QuickSyncer(RealFsio()),
        jobs=Jobs(),
    )

    def log_bytes() -> int:
        return sum(
            path.stat().st_blocks * 512 for path in (directory / "store" / "log").glob("*.seg*") if path.exists()
        )

    def idle() -> None:
        poll = select.poll()
        for fd in store.filenos():
            poll.register(fd, select.POLLIN)
        while any(store._log.works):
            poll.poll(1000)
            store.completed()

    return Load(store, log_bytes, idle)


def lone_synchronous_producer(load: Load, rng: Random, turns: int) -> None:
    """100 bytes a batch of 4096: padding is dead."""
    queue = load.store.declare("/queue/a")
    for _ in range(2 * turns):
        load.put([queue], 100)
        load.turn()


def one_forgotten_message(load: Load, rng: Random, turns: int) -> None:
    load.put([load.store.declare("/queue/forgotten")], 100)
    queue = load.store.declare("/queue/a")
    for _ in range(turns):
        for _ in range(8):
            load.put([queue], 300)
        load.turn()
        for delivery in load.store.claim(queue, 8, 1 << 20):
            load.settle(delivery)


def many_forgotten_messages(load: Load, rng: Random, turns: int) -> None:
    queue = load.store.declare("/queue/a")
    for _ in range(turns):
        for _ in range(8):
            load.put([queue], 300)
        load.turn()
        for delivery in load.store.claim(queue, 8, 1 << 20):
            if rng.random() < 0.98:
                load.settle(delivery)


def random_acks(load: Load, rng: Random, turns: int) -> None:
    queue = load.store.declare("/queue/a")
    for number in range(2 * turns):
        load.put([queue], rng.randint(10, 500))
        if number % 5 == 0:
            load.turn()
    load.turn()
    held = load.store.claim(queue, 1 << 20, 1 << 30)
    rng.shuffle(held)
    for number, delivery in enumerate(held[30:]):
        load.settle(delivery)
        if number % 3 == 0:
            load.turn()


def fanout(load: Load, rng: Random, turns: int) -> None:
    queues = [load.store.declare(f"/queue/{number}") for number in range(5)]
    for _ in range(turns):
        load.put(queues, 300)
        load.turn()
        for queue in queues:
            for delivery in load.store.claim(queue, 5, 1 << 20):
                if queue is not queues[0] or rng.random() < 0.8:
                    load.settle(delivery)


def drain(load: Load, rng: Random, turns: int) -> None:
    queue = load.store.declare("/queue/a")
    for number in range(4 * turns):
        load.put([queue], 300)
        if number % 10 == 0:
            load.turn()
    load.turn()
    while load.store.queues() and queue.ready:
        for delivery in load.store.claim(queue, 10, 1 << 20):
            load.settle(delivery)
        load.turn()


WORKLOADS = [lone_synchronous_producer, one_forgotten_message, many_forgotten_messages, random_acks, fanout, drain]


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.__name__)
def test_the_disk_use_is_bounded_through_any_workload(workload: Any, fsync: str) -> None:
    load = simulated(fsync)
    workload(load, Random(1), 400)
    assert load.peak <= 4
    load.rest()
    assert load.excess <= 2.2
    written = load.store._log.written
    load.rest()
    assert load.store._log.written == written, "a store that is left alone goes on copying"


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.__name__)
def test_the_disk_use_is_bounded_on_a_real_disk(workload: Any, tmp_path: Path) -> None:
    load = real(tmp_path)
    try:
        workload(load, Random(2), 60)
        load.rest()
        assert load.excess <= 4
    finally:
        load.store.close()


def test_without_copies_the_bound_would_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above sees what it should."""
    monkeypatch.setattr("radiator.store.file.reclaim.Reclaim.pump", lambda self: None)
    load = simulated()
    many_forgotten_messages(load, Random(1), 400)
    assert load.peak > 8


def test_copies_take_a_bounded_share() -> None:
    """Credit: at most a byte for each that somebody else wrote, beside what time gives."""
    load = simulated()
    lone_synchronous_producer(load, Random(1), 400)
    reclaim, written = load.store._reclaim, load.store._log.written
    assert 0 < reclaim.copied_bytes < written / 2


def test_what_is_being_drained_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def copied() -> int:
        load = simulated()
        queue = load.store.declare("/queue/a")
        log = load.store._log
        last = log.tail.number + 4
        while log.tail.number < last:
            for _ in range(10):
                load.put([queue], 250)
            load.turn()
        while queue.ready:
            for delivery in load.store.claim(queue, 30, 1 << 20):
                load.settle(delivery)
            load.turn()
        return load.store._reclaim.copied_bytes

    assert copied() == 0
    monkeypatch.setattr("radiator.store.file.reclaim._DRAINED", 1e9)
    assert copied() > 0


def test_what_came_just_now_is_not_copied_while_more_comes() -> None:
    """A queue that is filled and drained by turns leaves some in the last segment but one, each time."""
    load = simulated()
    queue = load.store.declare("/queue/a")
    log, reclaim = load.store._log, load.store._reclaim
    for _ in range(12):
        first = log.tail.number
        while log.tail.number == first or log.tail.end < log.capacity // 2:
            for _ in range(10):
                load.put([queue], 250)
            load.turn()
            load.tick()
        while queue.ready:
            for delivery in load.store.claim(queue, 30, 1 << 20):
                load.settle(delivery)
            load.turn()
    assert log.tail.number > 12
    assert not reclaim.copied_bytes


def test_what_is_drained_no_more_is_copied_while_nothing_is_written() -> None:
    load = simulated()
    queue = load.store.declare("/queue/a")
    log, reclaim = load.store._log, load.store._reclaim
    last = log.tail.number + 3
    while log.tail.number < last:
        for _ in range(10):
            load.put([queue], 250)
        load.turn()
    load.tick()
    for number, delivery in enumerate(load.store.claim(queue, 10_000, 1 << 30)):
        if number % 10 > 3:
            load.settle(delivery)
    load.turn()
    assert 0 < reclaim.debt() < SEGMENT // 2
    assert not reclaim.copied_bytes, "who knows whether the rest goes as well"
    load.rest()
    assert reclaim.copied_bytes
    assert reclaim.debt() <= 0


# ------------------------------------------------------------------ what a copy is


def garbage(store: FileStore, segments: int) -> None:
    """Let `segments` segments of another queue come and go."""
    queue = store.declare("/queue/garbage")
    first = store._log.tail.number
    now = 0.0
    while store._log.tail.number < first + segments:
        unit = Unit()
        for _ in range(4):
            unit.put(Message(12, True, b"", bytes(2000)), [queue])
        store.append(unit)
        step(store)
        unit = Unit()
        for delivery in store.claim(queue, 4, 1 << 20):
            unit.settle(queue, delivery.id)
        store.append(unit)
        now += 0.02
        store.tick(now)


def step(store: FileStore) -> None:
    store.flush()
    for _ in range(3):
        store.completed()


def settle(store: FileStore, delivery: Delivery) -> None:
    unit = Unit()
    unit.settle(delivery.queue, delivery.id)
    store.append(unit)


def place(queue: Any, id: int) -> tuple[int, int, int, int]:
    found: tuple[int, int, int, int] = queue.index.get(id)
    return found


def kept(store: FileStore, names: list[str], count: int = 3) -> list[Any]:
    """`count` fanned out messages, in the first segment of this run."""
    queues = [store.declare(name) for name in names]
    unit = Unit()
    for number in range(count):
        message = Message(11, False, b"destination:x\nn:%d\n" % number, b"body %d" % number * 50, 1, 2, 3, 7)
        unit.put(message, queues)
    store.append(unit)
    step(store)
    return queues


def test_a_copied_message_is_the_same_in_its_old_place() -> None:
    disk = new_disk()
    store = new_store(disk)
    (queue,) = kept(store, ["/queue/a"])
    first = store._log.tail.number
    (one,) = store.claim(queue, 1, 1 << 20)
    store.release(queue, [one.id], delivered=True)
    (held,) = store.claim(queue, 1, 1 << 20)
    store.release(queue, [held.id], delivered=False)
    (held,) = store.claim(queue, 1, 1 << 20)
    before = [place(queue, id) for id in (1, 2, 3)]
    garbage(store, 6)
    after = [place(queue, id) for id in (1, 2, 3)]
    assert all(new[1] >> 32 > old[1] >> 32 for old, new in zip(before, after, strict=True))
    assert [(state, length, count) for state, _, length, count in before] == [
        (state, length, count) for state, _, length, count in after
    ], "what is in flight stays so, and counts are kept"
    assert f"{DIRECTORY}/log/{first:08d}.seg" not in disk.contents()
    settle(store, held)
    step(store)
    for found in (store, new_store(disk.survive())):
        (queue,) = (queue for queue in found.queues() if queue.name == "/queue/a")
        messages = [(d.id, d.message) for d in found.claim(queue, 9, 1 << 20)]
        assert [id for id, _ in messages] == [2, 3]
        for id, message in messages:
            assert message is not None
            assert message.block == b"destination:x\nn:%d\n" % (id - 1)
            assert message.body == b"body %d" % (id - 1) * 50
            fields = (message.version, message.plain, message.arrival_ms, message.expires_ms, message.not_before_ms)
            assert (*fields, message.priority) == (11, False, 1, 2, 3, 7)


def test_delivery_counts_survive_the_copy_and_a_start() -> None:
    disk = new_disk()
    store = new_store(disk)
    a, _ = kept(store, ["/queue/a", "/queue/b"], 1)
    for _ in range(3):
        (delivery,) = store.claim(a, 1, 1 << 20)
        store.release(a, [delivery.id], delivered=True)
    garbage(store, 6)
    assert place(a, 1)[3] == 3
    found = new_store(disk.survive())
    counts = [found.claim(found.declare(name), 1, 1 << 20)[0].deliveries for name in ("/queue/a", "/queue/b")]
    assert counts in ([3, 0], [0, 0]), "a count may be low after a crash, and never that of another queue"


def test_references_that_live_stay_in_one_record() -> None:
    disk = new_disk()
    store = new_store(disk)
    queues = kept(store, ["/queue/a", "/queue/b", "/queue/c"], 2)
    for delivery in store.claim(queues[1], 9, 1 << 20):
        settle(store, delivery)
    step(store)
    (live,) = (s.live_bytes for s in store._ledger.segments.values() if s.live)
    assert live == sum(place(queues[0], id)[2] for id in (1, 2)), "a record counts once"
    garbage(store, 6)
    assert place(queues[0], 1)[1] == place(queues[2], 1)[1]
    assert queues[1].index.live == 0
    for _ in range(3):
        step(store)
    found = new_store(disk.survive())
    assert snapshot(found)["live"] == snapshot(store)["live"]
    bodies = read_everything(found)
    assert bodies["/queue/a"] == bodies["/queue/c"] != {}
    assert bodies["/queue/b"] == {}


def test_a_record_counts_until_its_last_reference_goes() -> None:
    segment = Segment(1, 0, 0)
    for address in (address_of(1, 8192), address_of(1, 9000)):
        segment.share(address)
    segment.share(address_of(1, 9000))
    assert segment.unshare(address_of(1, 8500)), "one that has a single reference"
    assert [segment.unshare(address_of(1, 9000)) for _ in range(3)] == [False, False, True]
    assert [segment.unshare(address_of(1, 8192)) for _ in range(2)] == [False, True]


class Halted(InlineJobs):
    """Jobs that wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.held = False
        self.waiting: list[tuple[Any, Any]] = []

    def run(self, function: Any, done: Any, *, urgent: bool = False) -> None:
        if self.held:
            self.waiting.append((function, done))
        else:
            super().run(function, done)

    def go(self) -> None:
        waiting, self.waiting = self.waiting, []
        for function, done in waiting:
            super().run(function, done)


@pytest.mark.parametrize("when", ["while it is read", "while it is verified", "with the copy", "after the copy"])
def test_an_ack_is_final_whenever_it_comes(when: str) -> None:
    disk = new_disk()
    jobs = Halted()
    store = FileStore(DIRECTORY, segment_bytes=SEGMENT, fsio=disk, syncer=InlineSyncer(disk), jobs=jobs)
    store.open(0.0, 1)
    (queue,) = kept(store, ["/queue/a"])
    held = store.claim(queue, 1, 1 << 20)[0]
    victim = store._ledger.segments[place(queue, 1)[1] >> 32]
    reclaim = store._reclaim
    reclaim.stopped = True
    garbage(store, 1)
    reclaim.stopped = False
    reclaim.victim, reclaim._offset, reclaim._credit = victim, 4096, 1 << 20
    jobs.held = True
    reclaim.pump()
    assert len(jobs.waiting) == 1
    if when == "while it is read":
        settle(store, held)
        step(store)
    jobs.go()
    store.completed()
    if when == "while it is verified":
        settle(store, held)
        step(store)
    if when == "with the copy":
        settle(store, held)
    jobs.held = False
    jobs.go()
    step(store)
    if when == "after the copy":
        assert place(queue, 1)[1] >> 32 > victim.number
        settle(store, held)
    step(store)
    assert place(queue, 1) is None
    assert reclaim.copied_bytes == sum(place(queue, id)[2] for id in (2, 3)) + (
        0 if when.startswith("while") else place(queue, 2)[2]
    )
    step(store)
    assert victim.number not in store._ledger.segments
    for found in (disk.survive(), disk.power_cut(Random(1))):
        assert list(read_everything(new_store(found))["/queue/a"]) == [2, 3]


def test_the_source_stays_until_the_copies_are_synced() -> None:
    disk = new_disk()
    store = new_store(disk, "never")
    kept(store, ["/queue/a"])
    first = store._log.tail.number
    seen: list[tuple[int, int]] = []

    right = disk.unlink

    def unlink(path: str) -> None:
        if path.endswith(f"{first:08}.seg"):
            seen.append((store._log._synced, store._log._dead_at[first]))
        right(path)

    def before(what: str) -> None:
        if what == "unlink":
            for cut in (disk.power_cut(Random(1)), disk.power_cut(Random(2))):
                assert list(read_everything(new_store(cut, "never"))["/queue/a"]) == [1, 2, 3]

    disk.before = before
    disk.unlink = unlink  # type: ignore[method-assign]
    garbage(store, 8)
    assert first not in store._ledger.segments
    assert seen
    assert all(synced >= dead_at for synced, dead_at in seen), "what killed the last of it was not synced"


def test_a_segment_that_cannot_be_read_is_left_alone() -> None:
    disk = new_disk()
    events: list[str] = []
    store = new_store(disk, report=lambda event, **fields: events.append(event))
    (queue,) = kept(store, ["/queue/a"])
    address = place(queue, 1)[1]
    path = f"{DIRECTORY}/log/{address >> 32:08d}.seg"
    spoil(disk, path, (address & 0xFFFFFFFF) + 30)  # in a head
    garbage(store, 8)
    assert path in disk.contents()
    assert len([event for event in events if "cannot be read" in event]) == 1


def test_a_message_that_moved_meanwhile_is_not_copied() -> None:
    disk = new_disk()
    jobs = Halted()
    store = FileStore(DIRECTORY, segment_bytes=SEGMENT, fsio=disk, syncer=InlineSyncer(disk), jobs=jobs)
    store.open(0.0, 1)
    (queue,) = kept(store, ["/queue/a"])
    address = place(queue, 2)[1]
    reclaim = store._reclaim
    reclaim.stopped = True
    garbage(store, 1)
    reclaim.stopped = False
    reclaim.victim, reclaim._offset, reclaim._credit = store._ledger.segments[address >> 32], 4096, 1 << 20
    reclaim.pump()
    jobs.held = True
    store.completed()
    assert jobs.waiting, "they are being verified"
    assert queue.index.move(2, address, address + 8)
    jobs.held = False
    jobs.go()
    jobs.collect()
    assert reclaim.copied_bytes == sum(place(queue, id)[2] for id in (1, 3))


def test_a_count_that_no_opening_batch_has_is_in_the_copy() -> None:
    disk = new_disk()
    store = new_store(disk)
    (queue,) = kept(store, ["/queue/a"], 1)
    first = store._log.tail.number
    store._reclaim.stopped = True
    garbage(store, 2)
    store._reclaim.stopped = False
    for _ in range(3):
        store.claim(queue, 1, 1 << 20)
        store.release(queue, [1], delivered=True)
    newest = store._log.tail.number
    now = 0.0
    while first in store._ledger.segments:
        now += 0.3
        store.tick(now)
        step(store)
    assert store._log.tail.number == newest
    found = new_store(disk.survive())
    assert found.claim(found.declare("/queue/a"), 1, 1 << 20)[0].deliveries == 3


def test_a_copy_with_fewer_references_is_shorter_and_counted_so() -> None:
    book = Ledger()
    old, new = book.segments[1], book.segments[2] = Segment(1, 0, 0), Segment(2, 0, 0)
    for number in (1, 2, 3):
        book.queues[number] = FileQueue(f"/queue/{number}", number)
    source, other = address_of(1, 8192), address_of(1, 8592)
    book.apply([(PUT, number, 1, source, 400, 0, 0, 0) for number in (1, 2, 3)], old)
    book.apply([(PUT, 1, 2, other, 100, 0, 0, 0)], old)
    assert (old.live, old.live_bytes) == (4, 500)
    book.apply([(SETTLED, 2, 0, 1, 1)], new)
    assert (old.live, old.live_bytes) == (3, 500)
    copy = address_of(2, 8192)
    book.apply([(PUT, number, 1, copy, 392, 0, 0, 0) for number in (1, 3)], new)
    assert (old.live, old.live_bytes) == (1, 100)
    assert (new.live, new.live_bytes) == (2, 392)
    book.apply([(PUT, number, 1, source, 400, 0, 0, 0) for number in (1, 2, 3)], old)
    assert (old.live, old.live_bytes) == (1, 100), "what lost stays lost"


def test_long_opening_batches_do_not_make_it_go_round_and_round() -> None:
    """What every segment begins with is no garbage that copying could get rid of."""
    load = simulated()
    for number in range(400):
        load.store.declare(f"/queue/{number}" + 100 * "x")
    queue = load.store.declare("/queue/a")
    for _ in range(300):
        for _ in range(4):
            load.put([queue], 900)
        load.turn()
    load.rest()
    live = sum(segment.live_bytes for segment in load.store._ledger.segments.values())
    written = load.store._log.written
    load.rest()
    assert load.store._log.written == written
    assert load.store._reclaim.copied_bytes <= 2 * live


# ------------------------------------------------------------------ crashes


class Hoarder(World):
    """A world whose consumers forget some messages for good while much traffic goes by."""

    def random_step(self) -> None:
        rng = self.rng
        if rng.random() < 0.1:
            super().random_step()
            return
        queues = [self.declare(f"/queue/{number}") for number in (1, 2, 3)]
        busy = queues[0]
        self.unit([rng.sample(queues, rng.randint(1, 3)) if rng.random() < 0.2 else [busy] for _ in range(5)], [], 900)
        self.turn()
        done = [delivery for delivery in self.store.claim(busy, 8, 1 << 20) if rng.random() < 0.9]
        self.unit([], done)
        self.turn()
        if rng.random() < 0.4:
            self.tick()


def hoarder(seed: int, fsync: str, steps: int) -> Hoarder:
    disk = SimDisk()
    disk.make_parents("/data")
    world = Hoarder(disk, Random(seed), Model({}), fsync=fsync)
    for _ in range(steps):
        world.random_step()
    world.turn()
    return world


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
@pytest.mark.parametrize("seed", range(2))
def test_a_crash_at_every_operation_of_reclaim_loses_nothing(
    seed: int, fsync: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[int] = []
    right = Reclaim._append

    def counted(self: Reclaim) -> None:
        before = self.copied_bytes
        right(self)
        copies.append(self.copied_bytes - before)

    monkeypatch.setattr(Reclaim, "_append", counted)
    world = hoarder(seed, fsync, 50)
    assert sum(copies) > 20000
    rng = Random(seed)
    for number, moment in enumerate(world.moments[:: 3 if fsync == "always" else 7]):
        for found, least in (
            (moment.disk.power_cut(rng), moment.after_power_cut),
            (moment.disk.survive(), moment.after_kill),
        ):
            check(found, world.model, least, moment.most, seed + number, fsync)


def test_accounts_after_copies_equal_a_rescan() -> None:
    for seed in range(4):
        world = hoarder(10 + seed, "always", 60)
        log = world.store._log
        while any(log.works) or log.waiting:
            world.turn()  # a copy may still be on its way
        again = check(
            world.disk.survive(), world.model, world.model.committed(world.told), len(world.model.states), seed
        )
        assert snapshot(again.store) == snapshot(world.store)


# ------------------------------------------------------------------ large queues


def test_a_large_queue_is_dropped_in_pieces() -> None:
    disk = new_disk()
    store = new_store(disk, segment_bytes=1 << 23)
    queue = store.declare("/queue/a")
    unit = Unit()
    for _ in range(60000):
        unit.put(Message(12, True, b"", b""), [queue])
    store.append(unit)
    step(store)
    segment = store._log.tail
    assert segment.live == 60000
    store.drop(queue)
    store.flush()
    store._log.completed()
    live = segment.live
    assert 0 < live < 60000
    assert list(store.queues()) == []
    store.completed()
    assert 0 < segment.live < live
    deadline = store.tick(1.0)
    assert deadline is not None
    assert deadline < 1.01, "the rest waits for nothing else"
    store.tick(deadline)
    store.tick(deadline + 0.01)
    assert (segment.live, segment.live_bytes) == (0, 0)
    assert not store._ledger.dropping
