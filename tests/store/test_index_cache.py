"""The saved index: a start after a clean stop finds what reading the log finds, or reads the log."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from simdisk import SimDisk

from radiator.errors import StoreDamaged
from radiator.message import Message
from radiator.store.base import StoreQueue, Unit
from radiator.store.file import cache, recovery
from radiator.store.file.engine import INDEX_FROM, FileStore
from radiator.store.file.ledger import FileQueue, Ledger
from radiator.store.file.syncer import InlineJobs, InlineSyncer

DIRECTORY = "/data/store"
INDEX = f"{DIRECTORY}/index"
Events = list[tuple[str, dict[str, Any]]]


def new_store(disk: SimDisk, events: Events | None = None, **options: Any) -> FileStore:
    store = FileStore(
        DIRECTORY,
        segment_bytes=32768,
        fsio=disk,
        syncer=InlineSyncer(disk),
        jobs=InlineJobs(),
        report=lambda event, **fields: None if events is None else events.append((event, fields)),
        entropy=Random(7).randbytes,
        **({"index_from": 0, "clock": lambda: 0.0} | options),
    )
    store.open(0.0, 1)
    return store


def turn(store: FileStore) -> None:
    store.flush()
    for _ in range(6):
        store.completed()


def put(store: FileStore, body: bytes, *queues: StoreQueue) -> None:
    unit = Unit()
    unit.put(Message(12, True, b"a:b\n", body), list(queues))
    store.append(unit)
    turn(store)


def busy(**options: Any) -> tuple[SimDisk, FileStore]:
    """A store of several segments: two queues, fanout, settled and held messages, delivery counts, a dropped queue."""
    disk = SimDisk()
    disk.make_parents("/data")
    store = new_store(disk, **options)
    a, b, gone = (store.declare(f"/queue/{name}") for name in ("a", "b", "gone"))
    for number in range(30):
        put(store, b"%d " % number * 700, a)
        put(store, b"both %d" % number * 200, a, b)
        put(store, b"gone", gone)
    store.drop(gone)
    deliveries = store.claim(a, 17, 1 << 20)
    unit = Unit()
    for delivery in deliveries[::2]:
        unit.settle(a, delivery.id)
    store.append(unit)
    turn(store)
    store.release(a, [delivery.id for delivery in deliveries[1:8:2]], delivered=True)
    return disk, store


def state(store: FileStore) -> dict[str, Any]:
    """All that a start must find, but the delivery counts: the log does not have those of this run."""
    ledger = store._ledger
    return {
        "queues": {
            number: (q.name, q.next_id, q.index.floor, q.index.next, q.index.addresses(), q.index.dead_ranges())
            for number, q in ledger.queues.items()
        },
        "next queue": store._next_queue,
        "segments": {
            number: (
                segment.end,
                segment.live,
                segment.live_bytes,
                segment.damaged,
                {at: n for at, n in zip(segment.shared, segment.sharers, strict=True) if n},
            )
            for number, segment in ledger.segments.items()
        },
        "emptied": {segment.number for segment in ledger.emptied if not segment.live},
        "clean": store._clean,
    }


def index_of(queue: StoreQueue) -> Any:
    assert isinstance(queue, FileQueue)
    return queue.index


def without_index(disk: SimDisk) -> SimDisk:
    other = disk.copy()
    other.directories[DIRECTORY].pop("index", None)
    return other


def bodies(store: FileStore) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for queue in store.queues():
        found[queue.name] = []
        while queue.ready:
            found[queue.name] += [d.message.body for d in store.claim(queue, 100, 1 << 20) if d.message is not None]
            store.completed()
    return found


def no_reading(patch: pytest.MonkeyPatch) -> None:
    """Let a start that reads the log fail."""

    def refuse(*arguments: Any) -> None:
        raise AssertionError("the log was read")

    patch.setattr(recovery, "_read_older", refuse)
    patch.setattr(Ledger, "apply", refuse)


def test_a_start_after_a_clean_stop_needs_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, store = busy()
    assert len(store._ledger.segments) > 3
    store.close()
    expected = new_store(without_index(disk))
    before = disk.contents()
    with monkeypatch.context() as patch:
        no_reading(patch)
        events: Events = []
        found = new_store(disk, events)
    assert not events
    assert disk.contents() == before, "a start writes nothing"
    assert state(found) == state(expected)
    assert found._clean
    assert bodies(found) == bodies(expected)


def test_what_follows_is_as_after_a_start_that_read_the_log() -> None:
    disk, store = busy()
    newest = max(store._ledger.segments)
    while max(store._ledger.segments) == newest:
        put(store, bytes(5000), store.declare("/queue/b"))  # until an opening batch has the delivery counts
    store.close()
    both = [disk, without_index(disk)]
    states = []
    for each in both:
        store = new_store(each)
        put(store, b"more", *store.queues())
        queue = store.declare("/queue/a")
        while deliveries := store.claim(queue, 10, 1 << 20):
            unit = Unit()
            for delivery in deliveries:
                unit.settle(queue, delivery.id)
            store.append(unit)
            turn(store)
        store.declare("/queue/new")
        turn(store)
        states.append(state(store))
        store.close()
    assert states[0] == states[1]
    assert both[0].contents() == both[1].contents()


def test_delivery_counts_outlive_a_clean_stop() -> None:
    disk, store = busy()
    queue = store.declare("/queue/a")
    store.claim(queue, 3, 1 << 20)
    counts = index_of(queue).counts()
    assert len(counts) == 4
    store.close()
    found = index_of(new_store(disk).declare("/queue/a"))
    assert found.counts() == counts
    assert found.in_flight == 0, "what was held is ready again"


def test_damage_anywhere_in_it_changes_nothing() -> None:
    disk, store = busy()
    store.close()
    expected = state(new_store(without_index(disk)))
    good = bytes(disk.inode(INDEX).data)
    assert state(new_store(disk)) == expected
    inode = disk.inode(INDEX)
    for at in range(len(good)):
        inode.data[:] = good
        inode.data[at] ^= 1 << at % 8
        events: Events = []
        assert state(new_store(disk, events)) == expected, at
        assert [event for event, _ in events] == ["saved index is damaged: the log is read instead"], at
    for length in (0, 1, 59, 63, 64, 70, len(good) // 2, len(good) - 12, len(good) - 1):
        inode.data[:] = good[:length]
        assert state(new_store(disk)) == expected, length
    inode.data[:] = good + b"\0"
    assert state(new_store(disk)) == expected


def test_sections_that_are_moved_or_left_out_are_seen() -> None:
    disk, store = busy()
    store.close()
    good = bytes(disk.inode(INDEX).data)
    parts = [good[:64]]
    at = 64
    while at < len(good):
        length = 12 + int.from_bytes(good[at + 4 : at + 8], "little")
        parts.append(good[at : at + length])
        at += length
    assert len(parts) > 8
    expected = state(new_store(without_index(disk)))
    for number in range(1, len(parts)):
        for wrong in (parts[:number] + parts[number + 1 :], parts[: number + 1] + parts[number:]):
            disk.inode(INDEX).data[:] = b"".join(wrong)
            events: Events = []
            assert state(new_store(disk, events)) == expected
            assert len(events) == 1


def test_an_unreadable_index_is_no_error() -> None:
    disk, store = busy()
    store.close()
    expected = state(new_store(without_index(disk)))
    for at in (0, 100):
        disk.bad_reads = {(INDEX, at)}
        events: Events = []
        assert state(new_store(disk, events)) == expected
        assert len(events) == 1


def test_it_is_of_no_use_after_the_first_write(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, store = busy()
    store.close()
    old = bytes(disk.inode(INDEX).data)
    store = new_store(disk)
    queue = store.declare("/queue/a")
    put(store, b"after", queue)
    assert INDEX not in disk.contents(), "its room is given back"
    killed = disk.copy()
    killed.inode(killed_index(killed, old))
    expected = state(new_store(without_index(killed)))
    assert not expected["clean"]
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "load_index", lambda *arguments: pytest.fail("it was asked for"))
        assert state(new_store(killed)) == expected
    # Not after the next clean stop either, which is of another moment.
    store.close()
    again = disk.copy()
    expected = state(new_store(without_index(again)))
    assert expected["clean"]
    again.inode(killed_index(again, old))
    events: Events = []
    assert state(new_store(again, events)) == expected
    assert not events, "nobody need know of an old one"


def killed_index(disk: SimDisk, data: bytes) -> str:
    """Put an index of an earlier time into the directory."""
    fd = disk.open(INDEX, create=True)
    disk.write(fd, data, 0)
    disk.close(fd)
    return INDEX


def test_a_start_that_writes_nothing_leaves_it_good(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, store = busy()
    store.close()
    new_store(disk).close()
    no_reading(monkeypatch)
    assert new_store(disk)._clean


def test_a_missing_segment_is_found_all_the_same() -> None:
    disk, store = busy()
    store.close()
    alive = [segment.number for segment in store._ledger.segments.values() if segment.live]
    assert len(alive) > 3
    for number in alive[:-1]:
        lacking = disk.copy()
        del lacking.directories[f"{DIRECTORY}/log"][f"{number:08d}.seg"]
        with pytest.raises(StoreDamaged, match=f"{number:08d}.seg"):
            new_store(lacking)


def test_short_and_foreign_segments_are_found_all_the_same() -> None:
    disk, store = busy()
    store.close()
    tail = store._ledger.segments[max(store._ledger.segments)]
    log = f"{DIRECTORY}/log"
    for number in store._ledger.segments:
        for harm in ("short", "header", "foreign"):
            if harm == "short" and number == tail.number:
                continue
            harmed = disk.copy()
            data = harmed.inode(f"{log}/{number:08d}.seg").data
            if harm == "short":
                del data[-4096:]
            elif harm == "header":
                data[20] ^= 1
            else:
                other = min(set(store._ledger.segments) - {number})
                data[:4096] = harmed.inode(f"{log}/{other:08d}.seg").data[:4096]
            with pytest.raises(StoreDamaged, match=f"{number:08d}.seg"):
                new_store(harmed)


def test_damage_in_the_newest_segment_is_found_all_the_same() -> None:
    disk, store = busy()
    store._ledger.recounted = False  # else the newest would hold no message
    store.close()
    tail = max(store._ledger.segments)
    path = f"{DIRECTORY}/log/{tail:08d}.seg"
    good = bytes(disk.inode(path).data)

    def outcome(disk: SimDisk) -> object:
        try:
            return state(new_store(disk))
        except StoreDamaged as error:
            return str(error)

    whole = outcome(disk)
    outcomes = []
    for at in range(3, len(good), 509):
        disk.inode(path).data[at] ^= 4
        outcomes.append(outcome(without_index(disk)))
        assert outcome(disk) == outcomes[-1]
        disk.inode(path).data[at] ^= 4
    assert {type(each) for each in outcomes} == {str, dict}
    assert any(isinstance(each, dict) and each != whole for each in outcomes), "no payload was damaged"
    del disk.inode(path).data[-4096:]
    assert isinstance(outcome(disk), str)


def test_a_stop_that_is_short_of_time_or_room_saves_none() -> None:
    disk, store = busy()
    store.close()
    expected = state(new_store(without_index(disk)))["queues"]
    times = iter((0.0, *[cache.SAVE_SECONDS + 1.0] * 99))
    for case in ("time", "room", "full", "error"):
        events: Events = []
        options: dict[str, Any] = {}
        if case == "time":
            options = {"clock": lambda: next(times)}
        disk, store = busy(**options)
        store._report = lambda event, events=events, **fields: events.append((event, fields))
        with pytest.MonkeyPatch.context() as patch:
            if case == "time":
                patch.setattr(cache, "_WRITE_BYTES", 256)
            elif case == "room":
                store._stop_free = 1 << 60
            else:
                number = errno.ENOSPC if case == "full" else errno.EIO
                fail_on_index(patch, disk, number)
            store.close()
        assert [event for event, _ in events] == ["index was not saved: the next start reads the whole log"], case
        assert not [name for name in disk.directories[DIRECTORY] if name.startswith("index")], case
        assert state(new_store(disk))["queues"] == expected, case


def fail_on_index(patch: pytest.MonkeyPatch, disk: SimDisk, number: int) -> None:
    """Let writes to the index fail, and nothing else."""
    write = disk.write

    def wrong(fd: int, data: Any, offset: int) -> int:
        if disk.files[fd] is disk.directories[DIRECTORY].get("index.tmp"):
            raise OSError(number, os.strerror(number))
        return write(fd, data, offset)

    patch.setattr(disk, "write", wrong)


def test_a_small_log_has_none() -> None:
    disk, store = busy(index_from=INDEX_FROM)
    store.close()
    assert INDEX not in disk.contents()
    total = sum(segment.end for segment in new_store(disk)._ledger.segments.values())
    disk, store = busy(index_from=total)
    store.close()
    assert INDEX not in disk.contents()
    disk, store = busy(index_from=total - 1)
    store.close()
    assert INDEX in disk.contents()


@pytest.mark.parametrize("seed", range(3))
def test_a_crash_at_every_operation_of_a_stop_and_of_the_next_start(seed: int) -> None:
    rng = Random(seed)
    disk, store = busy()
    moments: list[SimDisk] = []
    disk.before = lambda what: moments.append(disk.copy())
    store.close()
    stopped = len(moments)
    store = new_store(disk)
    queue = store.declare("/queue/a")
    put(store, b"after", queue)
    moments.append(disk.copy())
    expected = bodies(new_store(without_index(moments[0])))
    later = {**expected, "/queue/a": [*expected["/queue/a"], b"after"]}
    used = 0
    for number, moment in enumerate(moments):
        for after in (moment.survive(), moment.power_cut(rng), moment.power_cut(rng)):
            events: Events = []
            store = new_store(after, events)
            assert not events, number
            used += INDEX in after.contents() and store._clean
            assert state(store) == state(new_store(without_index(after))), number
            found = bodies(store)
            assert found == expected or (number >= stopped and found == later), number
    assert used, "no crash left one that was good"
    assert f"{INDEX}.tmp" in {path for moment in moments for path in moment.contents()}


ONE_RUN = """
import sys
from radiator.message import Message
from radiator.store.base import Unit
from radiator.store.file import recovery
from radiator.store.file.engine import FileStore

def refuse(*arguments):
    sys.exit("the log was read")

if sys.argv[2] != "first":
    recovery._read_older = refuse
store = FileStore(sys.argv[1], segment_bytes=65536, index_from=0)
store.open(0.0, 1)
queue = store.declare("/queue/a")
for number in range(20):
    unit = Unit()
    unit.put(Message(12, True, b"a:b\\n", b"%s %d " % (sys.argv[2].encode(), number) * 900), [queue])
    mark = store.append(unit)
    while store.committed < mark:
        store.completed()
print(queue.ready)
store.close()
"""


def test_on_a_real_disk_each_twin_reads_what_the_other_saved(tmp_path: Path) -> None:
    path = tmp_path / "store"
    for count, (name, twin) in enumerate((("first", "auto"), ("second", "off"), ("third", "auto"), ("last", "off"))):
        done = subprocess.run(
            [sys.executable, "-c", ONE_RUN, str(path), name],
            env=os.environ | {"RADIATOR_SPEEDUPS": twin},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) == 20 * (count + 1)
        assert (path / "index").stat().st_size > 20 * (count + 1) * 15
        assert not (path / "index.tmp").exists()
