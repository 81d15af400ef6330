"""The background look at the log while other things happen: reads that fail, segments that go, a stop, a crash."""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path
from random import Random
from typing import Any

import pytest
from simdisk import SimDisk
from test_faults import spoil
from test_index_cache import Events, index_of, new_store, put, turn
from test_quarantine import settle
from test_scrub import ASIDE, BROKEN, LOG, VERIFIED, begun, delivered, named, of, older, place, scrubbed, stopped

from radiator.errors import StoreDamaged
from radiator.message import Message
from radiator.store.base import Unit
from radiator.store.file import scrub
from radiator.store.file.engine import FileStore
from radiator.store.file.segment import OPENING_OFFSET


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a segment of the tests has several."""
    monkeypatch.setattr(scrub, "_PIECE_BYTES", 8192)


# ------------------------------------------------------------------ reads that fail


def test_a_block_that_cannot_be_read_costs_the_message_in_it() -> None:
    disk = stopped(2500)
    store, events = begun(disk)
    path, offset = place(named(store, "/queue/a"), 2)
    disk.bad_reads = {(path, offset // 4096 * 4096 + 4096)}
    scrubbed(store, events)
    assert [fields["id"] for fields in of(events, ASIDE)] == [2]
    assert "Input/output error" in of(events, ASIDE)[0]["reason"]
    assert delivered(store) == [1, *range(3, 41)]


def test_a_head_that_cannot_be_read_is_damage_of_the_segment() -> None:
    disk = stopped()
    store, events = begun(disk)
    path, offset = place(named(store, "/queue/a"), 2)
    disk.bad_reads = {(path, offset // 4096 * 4096)}
    scrubbed(store, events)
    (said,) = of(events, BROKEN)
    assert (said["path"], said["offset"]) == (path, offset // 4096 * 4096)
    assert "Input/output error" in said["reason"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_what_the_system_could_not_read_is_read_again(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = stopped()
    store, events = begun(disk)
    right = disk.read
    failing = True
    failures: list[int] = []

    def read(fd: int, offset: int, length: int) -> bytes:
        if failing:
            failures.append(offset)
            raise OSError(number, os.strerror(number))
        return right(fd, offset, length)

    monkeypatch.setattr(disk, "read", read)
    for step in range(40):
        store.tick(step * 0.1)
        turn(store)
    assert [(event, fields["reason"]) for event, fields in events] == [
        ("segment could not be verified and is tried again", os.strerror(number))
    ]
    assert len(failures) == 8, "each second one try that must not wait, one that may"
    failing = False
    told = scrubbed(store, events)
    assert told["damaged"] == 0
    assert told["segments"] == len(older(store))


# ------------------------------------------------------------------ what happens meanwhile


def test_a_segment_that_goes_meanwhile_is_left_out() -> None:
    disk = stopped()
    store, events = begun(disk)
    gone = older(store)[1:4]
    for segment in gone:
        spoil(disk, f"{LOG}/{segment.number:08d}.seg", OPENING_OFFSET + 9)
    store.tick(0.1)
    turn(store)
    for name in ("/queue/a", "/queue/b"):
        queue = named(store, name)
        while deliveries := store.claim(queue, 10, 1 << 20):
            settle(store, *deliveries)
    turn(store)
    assert not {segment.number for segment in gone} & set(store._ledger.segments)
    for step in range(2, 30):
        store.tick(step * 0.1)
        turn(store)
    assert not of(events, BROKEN)
    assert not any(segment.readers for segment in store._ledger.segments.values())


class Held:
    """Jobs that wait until they are let go, but for the urgent ones."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.finished: list[Any] = []

    def fileno(self) -> int:
        return -1

    def run(self, function: Any, done: Any, *, urgent: bool = False) -> None:
        (self.finished if urgent else self.waiting).append((function, done))

    def collect(self) -> None:
        while self.finished:
            function, done = self.finished.pop(0)
            done(function(), None)

    def close(self) -> None:
        self.waiting.clear()


def test_a_segment_stays_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = stopped()
    store, events = begun(disk)
    jobs = Held()
    store._scrub._jobs = jobs
    segment = older(store)[0]
    store.tick(0.1)
    assert (segment.readers, len(jobs.waiting)) == (1, 1)
    store.tick(0.2)
    assert len(jobs.waiting) == 1, "one at a time"
    for name in ("/queue/a", "/queue/b"):
        queue = named(store, name)
        while deliveries := store.claim(queue, 10, 1 << 20):
            settle(store, *deliveries)
    turn(store)
    path = f"{LOG}/{segment.number:08d}.seg"
    assert path in disk.contents()
    spoil(disk, path, OPENING_OFFSET + 9)  # nothing lives in it any more: nobody need know
    jobs.finished, jobs.waiting = jobs.waiting, []
    jobs.collect()
    turn(store)
    assert path not in disk.contents()
    assert not of(events, BROKEN)


def test_a_close_in_the_middle_changes_nothing() -> None:
    disk = stopped()
    store, events = begun(disk)
    before = disk.contents()
    jobs = Held()
    for step in range(1, 5):
        store.tick(step * 0.1)
        turn(store)
    store._scrub._jobs = jobs
    store.tick(1.0)
    ((function, done),) = jobs.waiting
    store.close()
    done(function, None)
    assert (events, disk.contents()) == ([], before)
    store, events = begun(disk)
    assert scrubbed(store, events)["segments"] == len(older(store))


def test_an_error_that_is_no_reading_error_is_not_swallowed() -> None:
    store, _ = begun(stopped())
    jobs = Held()
    store._scrub._jobs = jobs
    store.tick(0.1)
    ((_, done),) = jobs.waiting
    with pytest.raises(ZeroDivisionError):
        done(None, ZeroDivisionError())


@pytest.mark.parametrize("harm", ["", "payload", "head"])
def test_a_crash_at_every_operation_meanwhile(harm: str) -> None:
    """With clients at work: the log decides what is found, and a damaged segment is never unlinked."""
    disk = stopped()
    store, events = begun(disk)
    queue = named(store, "/queue/a")
    path, offset = place(queue, 3)
    if harm:
        spoil(disk, path, offset + 700 if harm == "payload" else offset // 4096 * 4096 + 9)
    damaged = disk.contents()[path]
    moments: list[SimDisk] = []
    disk.before = lambda what: moments.append(disk.copy())
    for step in range(1, 60):
        store.tick(step * 0.1)
        turn(store)
        if step % 5 == 0:
            put(store, b"new %d" % step, queue)
            settle(store, *store.claim(queue, 4, 1 << 20))
    assert of(events, VERIFIED)
    rng = Random(harm)
    for moment in moments:
        for after in (moment.survive(), moment.power_cut(rng)):
            kept = [name for name, data in after.contents().items() if data[:20000] == damaged[:20000]]
            assert kept or not harm
            try:
                found = new_store(after)
            except StoreDamaged:
                assert harm == "head", "only a start that reads a damaged head refuses"
                continue
            ids = delivered(found)
            assert len(set(ids)) == len(ids)
            if harm == "payload":
                assert 3 not in ids


# ------------------------------------------------------------------ real files and threads


def test_on_a_real_disk_with_real_threads(tmp_path: Path) -> None:
    path = tmp_path / "store"
    events: Events = []

    def open_store() -> FileStore:
        store = FileStore(
            str(path),
            segment_bytes=65536,
            index_from=0,
            report=lambda event, **fields: events.append((event, fields)),
        )
        store.open(0.0, 1)
        return store

    store = open_store()
    queue = store.declare("/queue/a")
    for number in range(60):
        unit = Unit()
        unit.put(Message(12, True, b"a:b\n", b"%02d " % number * 2000), [queue])
        mark = store.append(unit)
        store.flush()
        while store.committed < mark:
            wait(store)
    store.close()
    store = open_store()
    now = 0.0
    unread = len(older(store))
    _, address, _, _ = index_of(store.declare("/queue/a")).get(7)
    file = path / "log" / f"{address >> 32:08d}.seg"
    with file.open("r+b") as stream:
        stream.seek((address & 0xFFFFFFFF) + 3000)
        stream.write(b"!")
    while not of(events, VERIFIED):
        now += 0.05
        assert now < 500
        store.tick(now)
        wait(store)
    assert [(event, fields.get("id")) for event, fields in events] == [(ASIDE, 7), (VERIFIED, None)]
    assert of(events, VERIFIED)[0]["segments"] == unread
    while index_of(store.declare("/queue/a")).get(7) is not None:
        wait(store)
    store.close()
    assert (path / "quarantine" / f"{file.stem}.keep").read_text().count("\n") == 1


def wait(store: FileStore) -> None:
    """Let the threads do something, and take it."""
    select.select(store.filenos(), [], [], 0.05)
    store.completed()
