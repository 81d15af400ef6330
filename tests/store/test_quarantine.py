"""Damaged messages: dead only after their note, and what held them is kept, whatever happens in between."""

from __future__ import annotations

import errno
from random import Random
from typing import Any

import pytest
from model import DIRECTORY
from simdisk import SimDisk
from test_faults import BLOCK, new_disk, new_store, put, spoil, turn
from test_reclaim import garbage, kept, place

from radiator.errors import CorruptRecord, StoreFailed
from radiator.message import Delivery
from radiator.store.base import StoreQueue, Unit
from radiator.store.file.engine import FileStore

LOG = f"{DIRECTORY}/log"
QUARANTINE = f"{DIRECTORY}/quarantine"

Events = list[tuple[str, dict[str, Any]]]


def reported(disk: SimDisk, **options: Any) -> tuple[FileStore, Events]:
    events: Events = []
    return new_store(disk, report=lambda event, **fields: events.append((event, fields)), **options), events


def with_damage() -> tuple[SimDisk, FileStore, StoreQueue, Events, str]:
    """A store with messages 1, 2 and 3 in segment 2, of which 2 is damaged, and another message in segment 2."""
    disk = new_disk()
    store, events = reported(disk)
    queue = store.declare("/queue/a")
    for body in (b"one", b"two", b"three"):
        put(store, queue, body * 700)
    offset = place(queue, 2)[1] & 0xFFFFFFFF
    path = f"{LOG}/00000002.seg"
    spoil(disk, path, offset + 500)
    return disk, store, queue, events, path


def settle(store: FileStore, *deliveries: Delivery) -> None:
    unit = Unit()
    for delivery in deliveries:
        unit.settle(delivery.queue, delivery.id)
    store.append(unit)
    turn(store)


def evidence(disk: SimDisk, damaged: bytes) -> list[str]:
    """Where the damaged segment still is."""
    return [path for path, data in disk.contents().items() if data.startswith(damaged)]


def leave(store: FileStore, queue: StoreQueue) -> None:
    """Settle whatever is delivered, and come to the next segments."""
    while deliveries := store.claim(queue, 10, 1 << 20):
        settle(store, *deliveries)
    turn(store)
    garbage(store, 2)
    turn(store)


def test_a_damaged_message_is_noted_then_dead_then_its_segment_is_kept() -> None:
    disk, store, queue, events, path = with_damage()
    got = store.claim(queue, 10, 1 << 20)
    assert [delivery.id for delivery in got] == [1, 3]
    note = f"{QUARANTINE}/00000002.keep"
    assert note not in disk.contents(), "no file is touched in a claim"
    assert queue.in_flight == 3, "it is not dead yet"
    turn(store)
    (line,) = disk.contents()[note].decode().splitlines()
    number, id, offset, name, why = line.split("\t")
    assert (int(number), int(id), name) == (queue.number, 2, "/queue/a")
    assert int(offset) % BLOCK == 64
    assert "checksum" in why
    turn(store)
    assert queue.in_flight == 2
    settle(store, *got)
    garbage(store, 2)
    turn(store)
    assert path not in disk.contents()
    assert f"{QUARANTINE}/00000002.seg" in disk.contents()
    assert [event for event, _ in events] == ["message is damaged and was set aside"]
    after = disk.power_cut(Random(1))
    assert f"{QUARANTINE}/00000002.seg" in after.contents()
    again, events = reported(after)
    assert (again.declare("/queue/a").ready, events) == (0, [])


def test_a_crash_at_every_operation_keeps_the_damaged_segment() -> None:
    """Found on delivery, its messages settled, moved away; each time the next life goes through to the end as well."""
    disk, store, queue, _, path = with_damage()
    damaged = bytes(disk.inode(path).data[: 5 * BLOCK])
    moments: list[tuple[str, SimDisk]] = []
    disk.before = lambda what: moments.append((what, disk.copy()))
    leave(store, queue)
    assert f"{QUARANTINE}/00000002.seg" in disk.contents()
    assert {"link", "unlink", "rename"} <= {what for what, _ in moments}
    rng = Random(1)
    for _, moment in moments:
        for found in (moment.power_cut(rng), moment.survive()):
            assert evidence(found, damaged)
            again, events = reported(found)
            a = again.declare("/queue/a")
            leave(again, a)
            assert (a.ready, a.in_flight) == (0, 0)
            assert len(events) <= 1
            assert evidence(found, damaged) == [f"{QUARANTINE}/00000002.seg"]


def test_damage_found_at_a_start_is_noted_before_anything_forgets_it() -> None:
    disk, store, _, _, path = with_damage()
    store.tick(1.0)
    store.tick(2.0)
    turn(store)
    damaged = bytes(disk.inode(path).data[: 5 * BLOCK])
    crashed = disk.survive()
    before = crashed.contents()
    again, events = reported(crashed)
    assert crashed.contents() == before, "a recovery writes nothing"
    assert [fields["id"] for _, fields in events] == [2]
    moments: list[SimDisk] = []
    crashed.before = lambda what: moments.append(crashed.copy())
    a = again.declare("/queue/a")
    leave(again, a)
    assert evidence(crashed, damaged) == [f"{QUARANTINE}/00000002.seg"]
    assert "found at the start" in crashed.contents()[f"{QUARANTINE}/00000002.keep"].decode()
    rng = Random(2)
    for moment in moments:
        for found in (moment.power_cut(rng), moment.survive()):
            assert evidence(found, damaged)
            third, _ = reported(found)
            leave(third, third.declare("/queue/a"))
            assert evidence(found, damaged) == [f"{QUARANTINE}/00000002.seg"]


def test_a_note_is_read_by_its_line_ends_alone() -> None:
    """The name of a queue may hold what else ends a line for some; the next life writes the note once more."""
    disk = new_disk()
    store, _ = reported(disk)
    name = "/queue/\x85\u2028\u2029"
    queue = store.declare(name)
    for body in (b"one", b"two", b"three"):
        put(store, queue, body * 700)
    for damaged, noted in ((2, {("2", name)}), (3, {("2", name), ("3", name)})):
        address = place(queue, damaged)[1]
        spoil(disk, f"{LOG}/{address >> 32:08d}.seg", (address & 0xFFFFFFFF) + 500)
        store.claim(queue, 10, 1 << 20)
        turn(store)
        turn(store)
        *lines, end = disk.contents()[f"{QUARANTINE}/{address >> 32:08d}.keep"].decode().split("\n")
        assert {tuple(line.split("\t")[1::2]) for line in lines} == noted
        assert end == ""
        disk = disk.survive()
        store, _ = reported(disk)
        queue = store.declare(name)


def test_a_damaged_survivor_is_set_aside_and_never_copied() -> None:
    disk = new_disk()
    store, events = reported(disk)
    a, b = kept(store, ["/queue/a", "/queue/b"])
    first = store._log.tail.number
    address = place(a, 2)[1]
    path = f"{LOG}/{first:08d}.seg"
    spoil(disk, path, (address & 0xFFFFFFFF) + 150)
    garbage(store, 8)
    assert [(fields["queue"], fields["id"]) for _, fields in events] == [("/queue/a", 2), ("/queue/b", 2)]
    for queue in (a, b):
        assert place(queue, 2) is None
        assert place(queue, 1)[1] >> 32 > first
        assert [delivery.id for delivery in store.claim(queue, 9, 1 << 20)] == [1, 3]
    assert path not in disk.contents()
    assert f"{QUARANTINE}/{first:08d}.seg" in disk.contents()
    assert len(disk.contents()[f"{QUARANTINE}/{first:08d}.keep"].splitlines()) == 2


def test_a_damaged_copy_does_not_take_the_place_of_a_good_source() -> None:
    """The copy was written, its source not yet unlinked; then the power failed, and the copy rots."""
    disk = new_disk()
    store, _ = reported(disk)
    (queue,) = kept(store, ["/queue/a"])
    first = store._log.tail.number
    states: list[tuple[int, SimDisk]] = []

    def before(what: str) -> None:
        address = place(queue, 2)[1]
        if what == "unlink" and not states and address >> 32 > first:
            states.append((address, disk.copy()))

    disk.before = before
    garbage(store, 8)
    ((address, found),) = states
    assert f"{LOG}/{first:08d}.seg" in found.contents()
    spoil(found, f"{LOG}/{address >> 32:08d}.seg", (address & 0xFFFFFFFF) + 150)
    # Something behind the copy says that it was synced.
    again, events = reported(found)
    ids = [delivery.id for delivery in again.claim(again.declare("/queue/a"), 9, 1 << 20)]
    assert ids == [1, 2, 3]
    assert events == []


def test_on_a_full_disk_a_damaged_message_waits_for_its_note() -> None:
    disk, store, queue, events, _ = with_damage()
    right = disk.open

    def full(path: str, *, write: bool = False, create: bool = False) -> int:
        if create and path.endswith(".keep.tmp"):
            raise OSError(errno.ENOSPC, "No space left on device", path)
        return right(path, write=write, create=create)

    disk.open = full  # type: ignore[method-assign]
    got = store.claim(queue, 10, 1 << 20)
    turn(store)
    settle(store, *got)
    assert (queue.ready, queue.in_flight) == (0, 1)
    assert not store.claim(queue, 10, 1 << 20)
    disk.open = right  # type: ignore[method-assign]
    store.tick(1.0)
    turn(store)
    turn(store)
    assert queue.in_flight == 0
    assert len(events) == 1


def test_a_note_that_cannot_be_written_for_another_reason_is_final() -> None:
    disk, store, queue, _, _ = with_damage()
    disk.fail_sync_at = disk.syncs + 1
    store.claim(queue, 10, 1 << 20)
    with pytest.raises(StoreFailed, match="quarantine cannot be written"):
        turn(store)


def test_reading_a_damaged_message_once_more_says_so() -> None:
    """For dead letters: the broker drops it, there is nothing to settle."""
    disk, store, queue, events, path = with_damage()
    for offset in (500,):
        spoil(disk, path, (place(queue, 2)[1] & 0xFFFFFFFF) + offset)
    assert len(store.claim(queue, 10, 1 << 20)) == 3
    spoil(disk, path, (place(queue, 2)[1] & 0xFFFFFFFF) + 500)
    for _ in range(2):
        with pytest.raises(CorruptRecord):
            store.read(queue, 2)
    for _ in range(3):
        turn(store)
    assert place(queue, 2) is None
    assert len(events) == 1
    with pytest.raises(CorruptRecord, match="is gone"):
        store.read(queue, 2)
