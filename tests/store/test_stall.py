"""A disk that does not answer is reported once, and once more when it does."""

from __future__ import annotations

from typing import Any

from test_faults import new_disk, put

from radiator.store.file.engine import FileStore
from radiator.store.file.stall import STALL_SECONDS, StallWatch
from radiator.store.file.syncer import InlineJobs, InlineSyncer

Events = list[tuple[str, float]]


def watch() -> tuple[StallWatch, Events]:
    events: Events = []
    return StallWatch(lambda event, **fields: events.append((event, fields["seconds"]))), events


def test_one_piece_of_work_is_reported_at_the_limit_and_at_its_end() -> None:
    stall, events = watch()
    work = object()
    assert stall.look(work, "log", 10.0) == 10.0 + STALL_SECONDS
    assert stall.look(work, "log", 9.9 + STALL_SECONDS) == 10.0 + STALL_SECONDS
    assert events == []
    for now in (10.0, 11.0, 500.0):
        assert stall.look(work, "log", now + STALL_SECONDS) is None
    assert events == [("the disk does not answer; nothing is acknowledged meanwhile", STALL_SECONDS)]
    assert stall.look(None, "log", 600.0) is None
    assert stall.look(None, "log", 700.0) is None
    assert events[1:] == [("the disk answers again", 590.0)]


def test_many_short_pieces_are_no_stall() -> None:
    stall, events = watch()
    for second in range(100):
        stall.look(object(), "log", float(second))
    stall.look(None, "log", 500.0)
    assert events == []


def test_the_next_piece_begins_anew() -> None:
    stall, events = watch()
    stall.look("first", "log", 0.0)
    stall.look("first", "log", 40.0)
    assert stall.look("second", "log", 41.0) == 41.0 + STALL_SECONDS
    assert [event for event, _ in events][1:] == ["the disk answers again"]
    stall.look("second", "log", 75.0)
    assert len(events) == 3


class Hanging(InlineSyncer):
    """A disk that takes its time."""

    hangs = False

    def result(self) -> tuple[int, int] | None:
        return None if self.hangs else super().result()


def test_a_store_whose_sync_hangs_says_so() -> None:
    disk = new_disk()
    events: list[tuple[str, dict[str, Any]]] = []
    syncer = Hanging(disk)
    store = FileStore(
        "/data/store",
        segment_bytes=65536,
        fsio=disk,
        syncer=syncer,
        jobs=InlineJobs(),
        report=lambda event, **fields: events.append((event, fields)),
    )
    store.open(0.0, 1)
    queue = store.declare("/queue/a")
    put(store, queue, b"one")
    syncer.hangs = True
    put(store, queue, b"two")
    now = 1.0
    while now < 100:
        deadline = store.tick(now)
        assert deadline is not None
        assert deadline <= 1.0 + STALL_SECONDS or events, "nobody would look in time"
        now = max(deadline, now + 1)
    assert [(event, fields["path"]) for event, fields in events] == [
        ("the disk does not answer; nothing is acknowledged meanwhile", "/data/store/log")
    ]
    syncer.hangs = False
    store.completed()
    store.tick(now)
    assert [event for event, _ in events][1:] == ["the disk answers again"]
    assert store.committed == 2
