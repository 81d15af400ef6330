"""Directed cases on the simulated disk: damage, failing writes and syncs, full disks, the tail rule's worked cases."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from model import DIRECTORY, Model, World, read_everything
from simdisk import SimDisk

from radiator.errors import StoreDamaged, StoreError, StoreFailed
from radiator.message import Message
from radiator.store.base import StoreQueue, Unit
from radiator.store.file.engine import FileStore
from radiator.store.file.syncer import InlineJobs, InlineSyncer

BLOCK = 4096


def new_disk() -> SimDisk:
    disk = SimDisk()
    disk.make_parents("/data")
    return disk


def new_store(disk: SimDisk, fsync: Any = "always", **options: Any) -> FileStore:
    options.setdefault("segment_bytes", 65536)
    store = FileStore(
        DIRECTORY, fsync=fsync, fsio=disk, syncer=InlineSyncer(disk), jobs=InlineJobs(), entropy=bytes, **options
    )
    store.open(0.0, 1)
    return store


def turn(store: FileStore) -> None:
    store.flush()
    for _ in range(3):
        store.completed()


def put(store: FileStore, queue: StoreQueue, body: bytes) -> int:
    unit = Unit()
    unit.put(Message(12, True, b"destination:x\n", body), [queue])
    number = store.append(unit)
    turn(store)
    return number


def bodies(disk: SimDisk) -> list[bytes]:
    """What a start finds in /queue/a."""
    return list(read_everything(new_store(disk.survive())).get("/queue/a", {}).values())


def three_batches(fsync: Any = "always", watermark: bool = False) -> tuple[SimDisk, str, list[int]]:
    """A store of one queue with B1, B2 and B3 in segment 2; the offsets where they begin."""
    disk = new_disk()
    store = new_store(disk, fsync)
    queue = store.declare("/queue/a")
    starts = []
    put(store, queue, b"B0")
    for body in (b"B1", b"B2", b"B3"):
        starts.append(store._log.tail.end)
        put(store, queue, body * 700)
    if watermark:
        store.tick(1.0)
        store.tick(2.0)
        store.completed()
    return disk, f"{DIRECTORY}/log/00000002.seg", starts


def spoil(disk: SimDisk, path: str, offset: int) -> None:
    """Turn one bit, on the platters too."""
    for image in (disk.inode(path).data, disk.inode(path).durable):
        if offset < len(image):
            image[offset] ^= 0x10


def zero(disk: SimDisk, path: str, start: int, end: int) -> None:
    data = disk.inode(path).data
    data[start:end] = bytes(len(data[start:end]))


# ------------------------------------------------------------------ the tail rule (notes: worked cases)


def test_valid_batches_then_zeros_lose_nothing() -> None:
    disk, _, _ = three_batches(watermark=True)
    assert [body[:2] for body in bodies(disk)] == [b"B0", b"B1", b"B2", b"B3"]


def test_a_torn_last_batch_is_dropped() -> None:
    disk, path, starts = three_batches()
    zero(disk, path, starts[2] + 512, starts[2] + BLOCK)
    assert [body[:2] for body in bodies(disk)] == [b"B0", b"B1", b"B2"]


def test_a_bad_batch_above_what_was_synced_is_dropped_with_all_behind_it() -> None:
    """Under "never" nothing says that B2 was synced, though B3 is whole."""
    disk, path, starts = three_batches("never")
    zero(disk, path, starts[1], starts[1] + 512)
    assert [body[:2] for body in bodies(disk)] == [b"B0", b"B1"]


def test_damage_below_the_synced_end_is_refused() -> None:
    """B3 says that B2 was synced."""
    disk, path, starts = three_batches()
    spoil(disk, path, starts[1] + 70)
    before = disk.contents()
    with pytest.raises(StoreDamaged, match=f"00000002.seg is damaged at offset {starts[1]}.*nothing was changed"):
        new_store(disk)
    assert disk.contents() == before


def test_the_watermark_speaks_for_the_last_batch() -> None:
    disk, path, starts = three_batches(watermark=True)
    spoil(disk, path, starts[2] + 70)
    with pytest.raises(StoreDamaged, match=f"offset {starts[2]}"):
        new_store(disk)


def test_a_torn_watermark_is_no_error() -> None:
    disk, _, _ = three_batches(watermark=True)
    zero(disk, f"{DIRECTORY}/watermark", 0, 1024)
    assert len(bodies(disk)) == 4


def test_a_cut_file_is_refused_below_the_synced_end_and_accepted_above() -> None:
    disk, path, starts = three_batches()
    del disk.inode(path).data[starts[2] + 100 :]
    assert len(bodies(disk)) == 3
    del disk.inode(path).data[starts[1] + 100 :]
    disk.inode(f"{DIRECTORY}/watermark").data.clear()
    assert len(bodies(disk)) == 2  # nothing is left that says more was there
    disk, path, starts = three_batches(watermark=True)
    del disk.inode(path).data[starts[2] + 100 :]
    with pytest.raises(StoreDamaged, match="longer than the file"):
        new_store(disk)


def test_damage_in_an_older_segment_is_refused() -> None:
    disk, path, starts = three_batches()
    store = new_store(disk)
    put(store, store.declare("/queue/a"), b"more")
    spoil(disk, path, starts[2] + 70)
    with pytest.raises(StoreDamaged, match=f"00000002.seg is damaged at offset {starts[2]}.*synced up to"):
        new_store(disk)


def test_a_missing_segment_is_refused() -> None:
    disk, _, _ = three_batches()
    store = new_store(disk)
    store._reclaim.stopped = True  # or some of the messages stand in the newest segment too
    put(store, store.declare("/queue/a"), b"more")
    del disk.directories[f"{DIRECTORY}/log"]["00000002.seg"]
    with pytest.raises(StoreDamaged, match=r"/queue/a .* ids 1, 2, 3, 4; .*00000002\.seg"):
        new_store(disk)


def test_a_missing_newest_segment_is_refused() -> None:
    disk, _, _ = three_batches()
    store = new_store(disk)
    put(store, store.declare("/queue/a"), b"more")
    del disk.directories[f"{DIRECTORY}/log"]["00000003.seg"]
    with pytest.raises(StoreDamaged, match=r"00000003\.seg is missing"):
        new_store(disk)


def test_a_log_without_segments_is_refused() -> None:
    disk = new_disk()
    new_store(disk).close()
    disk.directories[f"{DIRECTORY}/log"].clear()
    disk.inode(f"{DIRECTORY}/watermark").data.clear()
    with pytest.raises(StoreDamaged, match="holds no segment"):
        new_store(disk)


def test_a_segment_of_another_store_is_refused() -> None:
    disk, path, _ = three_batches()
    other = SimDisk()
    other.make_parents("/data")
    store = FileStore(
        DIRECTORY,
        segment_bytes=65536,
        fsio=other,
        syncer=InlineSyncer(other),
        jobs=InlineJobs(),
        entropy=lambda n: b"\1" * n,
    )
    store.open(0.0, 1)
    put(store, store.declare("/queue/a"), b"foreign")
    disk.inode(path).data[:] = other.inode(path).data
    with pytest.raises(StoreDamaged, match="belongs to another store"):
        new_store(disk)


def test_a_leftover_of_a_birth_is_ignored() -> None:
    disk, _, _ = three_batches()
    fd = disk.open(f"{DIRECTORY}/log/00000003.seg.tmp", create=True)
    disk.write(fd, b"half a birth", 0)
    assert len(bodies(disk)) == 4
    store = new_store(disk)
    put(store, store.declare("/queue/a"), b"B4")
    assert len(bodies(disk)) == 5


def test_two_crashes_in_a_row_lose_nothing() -> None:
    """The old tail's end is stated once, and holds for good."""
    disk, path, starts = three_batches()
    zero(disk, path, starts[2] + 512, starts[2] + BLOCK)
    store = new_store(disk)
    put(store, store.declare("/queue/a"), b"C1")
    assert [body[:2] for body in bodies(disk)] == [b"B0", b"B1", b"B2", b"C1"]
    store = new_store(disk.survive())
    put(store, store.declare("/queue/a"), b"C2")
    found = store._fsio
    assert isinstance(found, SimDisk)
    assert [body[:2] for body in bodies(found)] == [b"B0", b"B1", b"B2", b"C1", b"C2"]


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_a_clean_stop_is_told_from_a_crash(fsync: Any) -> None:
    interval = 50 if fsync == "interval" else 0
    disk = new_disk()
    store = new_store(disk, fsync, interval_ms=interval)
    put(store, store.declare("/queue/a"), b"one")
    store.close()
    after = disk.power_cut(Random(1))
    store = new_store(after, fsync, interval_ms=interval)
    assert store._clean
    queue: Any = store.declare("/queue/a")
    assert (queue.ready, queue.next_id) == (1, 2)
    put(store, queue, b"two")
    store = new_store(after.survive(), fsync, interval_ms=interval)
    queue = store.declare("/queue/a")
    assert not store._clean
    assert (queue.ready, queue.next_id) == (2, 3 + (1 << 24))


def test_an_id_is_never_used_again() -> None:
    """Under "never" a message can be delivered and then lost: its id may not come back with another body."""
    disk = new_disk()
    store = new_store(disk, "never")
    queue: Any = store.declare("/queue/a")
    for body in (b"one", b"two"):
        put(store, queue, body)
    seen = {delivery.id for delivery in store.claim(queue, 10, 1 << 20)}
    assert seen == {1, 2}
    for seed in range(8):
        after = disk.power_cut(Random(seed))
        store = new_store(after, "never")
        queue = store.declare("/queue/a")
        put(store, queue, b"new")
        fresh = [d.id for d in store.claim(queue, 10, 1 << 20) if d.message is not None and d.message.body == b"new"]
        if queue.number == 1 and queue.next_id > 2:
            assert not seen & set(fresh)


def test_the_number_of_a_lost_queue_is_never_used_again() -> None:
    """Its messages may have been delivered, and a late ACK of one must not hit another."""
    disk = new_disk()
    store = new_store(disk, "never")
    queue = store.declare("/queue/a")
    put(store, queue, b"one")
    assert [delivery.id for delivery in store.claim(queue, 10, 1 << 20)] == [1]
    after = disk.power_cut(Random(1), content=0)
    store = new_store(after, "never")
    assert list(store.queues()) == []
    again = store.declare("/queue/b")
    assert again.number > queue.number
    put(store, again, b"two")
    store.close()
    store = new_store(after)
    assert store.declare("/queue/c").number == again.number + 1, "after a clean stop there is nothing to fear"


# ------------------------------------------------------------------ damage met on delivery


def test_a_damaged_payload_is_set_aside_and_the_queue_goes_on() -> None:
    disk, path, starts = three_batches(watermark=True)
    events: list[tuple[str, dict[str, Any]]] = []
    store = new_store(disk, report=lambda event, **fields: events.append((event, fields)))
    queue = store.declare("/queue/a")
    put(store, queue, b"B4")
    spoil(disk, path, starts[1] + 500)
    got = store.claim(queue, 10, 1 << 20)
    assert [d.message.body[:2] for d in got if d.message] == [b"B0", b"B1", b"B3", b"B4"]
    assert [(event, fields["id"], fields["queue"]) for event, fields in events] == [
        ("message is damaged and was set aside", 3, "/queue/a")
    ]
    for delivery in got[:3]:
        unit = Unit()
        unit.settle(queue, delivery.id)
        store.append(unit)
    turn(store)
    assert (queue.ready, queue.in_flight) == (0, 1)
    files = disk.contents()
    assert path not in files
    assert f"{DIRECTORY}/quarantine/00000002.seg" in files, "a damaged segment is kept, though nothing in it lives"


def test_a_damaged_payload_found_at_the_start_is_set_aside() -> None:
    disk, path, starts = three_batches(watermark=True)
    spoil(disk, path, starts[1] + 500)
    events: list[str] = []
    store = new_store(disk, report=lambda event, **fields: events.append(event))
    assert [body[:2] for body in read_everything(store)["/queue/a"].values()] == [b"B0", b"B1", b"B3"]
    assert events == ["message is damaged and was set aside"]


@pytest.mark.parametrize("damage", ["unreadable", "cut"])
def test_a_cold_message_that_cannot_be_read_is_set_aside(damage: str) -> None:
    disk, path, starts = three_batches()
    store = new_store(disk)
    queue = store.declare("/queue/a")
    disk.cold = lambda: True
    if damage == "unreadable":
        disk.bad_reads = {(path, starts[1] + 600)}
    else:
        del disk.inode(path).data[starts[2] + 300 :]
    got: list[bytes] = []
    for _ in range(12):
        got += [d.message.body[:2] for d in store.claim(queue, 10, 1 << 20) if d.message]
        store.completed()
    assert got == ([b"B0", b"B1", b"B3"] if damage == "unreadable" else [b"B0", b"B1", b"B2"])


def test_a_cold_read_comes_back_with_on_ready() -> None:
    disk, _, _ = three_batches()
    store = new_store(disk)
    queue = store.declare("/queue/a")
    calls: list[int] = []
    queue.on_ready = lambda: calls.append(1)
    disk.cold = lambda: True
    assert store.claim(queue, 2, 1 << 20) == []
    assert (queue.ready, queue.in_flight, calls) == (4, 0, [])
    store.completed()
    assert calls == [1]
    (first, second) = store.claim(queue, 2, 1 << 20)
    assert (first.id, second.id, queue.in_flight) == (1, 2, 2)
    queue.warm = None  # type: ignore[attr-defined]
    assert store.read(queue, 2) is None
    store.completed()
    message = store.read(queue, 2)
    assert message is not None
    assert message.body[:2] == b"B1"


# ------------------------------------------------------------------ failing writes, syncs and space


@pytest.mark.parametrize("drop", [False, True])
def test_a_failed_sync_is_final(drop: bool) -> None:
    disk = new_disk()
    store = new_store(disk)
    queue = store.declare("/queue/a")
    told: list[int] = []
    store.durable = told.append
    first = put(store, queue, b"one")
    disk.fail_sync_at = disk.syncs + 1
    disk.drop_on_failed_sync = drop
    with pytest.raises(StoreFailed, match=r"00000002\.seg: .*Input/output error.*start again"):
        put(store, queue, b"two")
    assert told == [first]
    for call in (store.flush, store.completed, lambda: store.append(Unit()), lambda: store.tick(9.0)):
        with pytest.raises(StoreFailed):
            call()
    assert not store.has_room()
    syncs = disk.syncs
    store.close()
    assert disk.syncs == syncs
    assert bodies(disk.power_cut(Random(3))) == [b"one"]


def test_a_failed_write_is_final() -> None:
    disk = new_disk()
    store = new_store(disk)
    queue = store.declare("/queue/a")
    put(store, queue, b"one")
    disk.fail_write_at = disk.writes + 1
    with pytest.raises(StoreFailed, match=r"00000002\.seg"):
        put(store, queue, b"two")
    assert store.committed == 1


def test_lost_and_misdirected_writes_below_the_synced_end_are_refused() -> None:
    for misdirected in (False, True):
        disk, path, starts = three_batches(watermark=True)
        data = disk.inode(path).data
        if misdirected:
            data[starts[1] : starts[1] + BLOCK] = data[starts[0] : starts[0] + BLOCK]
        else:
            zero(disk, path, starts[1], starts[1] + BLOCK)
        with pytest.raises(StoreDamaged, match=f"offset {starts[1]}"):
            new_store(disk)


def test_every_flipped_byte_is_found_or_harmless() -> None:
    """The same state, one message set aside, an unsynced tail, or a refusal; nothing else, and never a traceback."""
    disk, path, starts = three_batches()
    whole = bodies(disk)
    kinds = set()
    end = starts[2] + BLOCK
    for offset in [*range(96), *range(BLOCK, BLOCK + 300), *range(starts[0], starts[0] + 400), *range(0, end, 97)]:
        found = disk.survive()
        spoil(found, path, offset)
        try:
            left = bodies(found)
        except StoreDamaged:
            kinds.add("refused")
            continue
        kinds.add("same" if left == whole else "less")
        assert all(body in whole for body in left)
        assert len(left) >= 3
    assert kinds == {"refused", "same", "less"}


# ------------------------------------------------------------------ creation


def test_a_crash_during_creation_can_be_created_again() -> None:
    disk = new_disk()
    world = World(disk, Random(1), Model({}))
    assert len(world.moments) > 10
    for seed, moment in enumerate(world.moments):
        for found in (moment.disk.power_cut(Random(seed)), moment.disk.survive()):
            store = new_store(found)
            put(store, store.declare("/queue/a"), b"one")
            assert bodies(found) == [b"one"]


def test_a_directory_with_something_else_is_refused() -> None:
    disk = new_disk()
    disk.make_parents(DIRECTORY)
    disk.close(disk.open(f"{DIRECTORY}/letters.txt", create=True))
    with pytest.raises(StoreDamaged, match=r"no FORMAT.*letters\.txt"):
        new_store(disk)
    assert list(disk.directories[DIRECTORY]) == ["letters.txt"]


def test_a_store_without_its_format_is_refused() -> None:
    disk, _, _ = three_batches()
    del disk.directories[DIRECTORY]["FORMAT"]
    with pytest.raises(StoreDamaged, match="no FORMAT"):
        new_store(disk)


def test_a_damaged_or_newer_format_is_refused() -> None:
    disk, _, _ = three_batches()
    whole = bytes(disk.inode(f"{DIRECTORY}/FORMAT").data)
    for offset in range(len(whole)):
        found = disk.survive()
        spoil(found, f"{DIRECTORY}/FORMAT", offset)
        with pytest.raises(StoreDamaged, match="FORMAT"):
            new_store(found)


def test_refusals_end_with_the_right_code() -> None:
    assert (StoreDamaged.exit_code, StoreFailed.exit_code) == (65, 74)
    assert issubclass(StoreDamaged, StoreError)
