"""The background look at what a start from the saved index did not read, and what becomes of damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from model import DIRECTORY, read_everything
from simdisk import SimDisk
from test_faults import spoil
from test_index_cache import Events, index_of, new_store, no_reading, put, turn, without_index
from test_quarantine import QUARANTINE, settle

from radiator.errors import StoreDamaged
from radiator.store.base import StoreQueue
from radiator.store.file import scrub
from radiator.store.file.engine import FileStore
from radiator.store.file.format import Names
from radiator.store.file.segment import OPENING_OFFSET, Segment
from radiator.store.file.survey import survey

LOG = f"{DIRECTORY}/log"
VERIFIED = "the log was verified"
ASIDE = "message is damaged and was set aside"
BROKEN = "segment is damaged"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a segment of the tests has several."""
    monkeypatch.setattr(scrub, "_PIECE_BYTES", 8192)


def stopped(words: int = 900) -> SimDisk:
    """A store of several segments after a clean stop, with its saved index: 40 messages in a, some of them in b too."""
    disk = SimDisk()
    disk.make_parents("/data")
    store = new_store(disk)
    a, b = store.declare("/queue/a"), store.declare("/queue/b")
    for number in range(40):
        put(store, b"%02d " % number * words, *([a, b] if number % 4 == 0 else [a]))
    assert len(store._ledger.segments) > 4
    store.close()
    return disk


def begun(disk: SimDisk, **options: Any) -> tuple[FileStore, Events]:
    """A start from the index: what is behind it is not read yet."""
    events: Events = []
    with pytest.MonkeyPatch.context() as patch:
        no_reading(patch)
        store = new_store(disk, events, **options)
    return store, events


def scrubbed(store: FileStore, events: Events, limit: int = 500) -> dict[str, Any]:
    """Let time pass until it is through; what it said at the end."""
    for step in range(1, limit):
        store.tick(step * 0.1)
        turn(store)
        found = [fields for event, fields in events if event == VERIFIED]
        if found:
            return found[0]
    raise AssertionError(f"it does not come to its end: {events}")


def older(store: FileStore) -> list[Segment]:
    return [segment for _, segment in sorted(store._ledger.segments.items())][:-1]


def place(queue: StoreQueue, id: int) -> tuple[str, int]:
    """The file and the offset of a message."""
    _, address, _, _ = index_of(queue).get(id)
    return f"{LOG}/{address >> 32:08d}.seg", address & 0xFFFFFFFF


def named(store: FileStore, name: str) -> StoreQueue:
    return next(queue for queue in store.queues() if queue.name == name)


def delivered(store: FileStore, name: str = "/queue/a") -> list[int]:
    return list(read_everything(store)[name])


def of(events: Events, name: str) -> list[dict[str, Any]]:
    return [fields for event, fields in events if event == name]


# ------------------------------------------------------------------ a whole log


def test_a_whole_log_is_read_to_its_end_once() -> None:
    disk = stopped()
    store, events = begun(disk)
    before = disk.contents()
    ends = [segment.end for segment in older(store) if segment.live]
    told = scrubbed(store, events)
    assert told["level"] == "info"
    assert (told["segments"], told["damaged"]) == (len(ends), 0)
    assert told["bytes"] == sum(ends) - OPENING_OFFSET * len(ends)
    assert len(events) == 1
    assert disk.contents() == before, "it only reads"
    for step in range(3):
        store.tick(100.0 + step)
        turn(store)
    assert len(events) == 1
    assert delivered(store) == list(range(1, 41))


def test_it_reads_no_faster_than_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "_BYTES_PER_SECOND", 8192)
    store, events = begun(stopped())
    total = sum(segment.end - OPENING_OFFSET for segment in older(store))
    now = 0.0
    while not of(events, VERIFIED):
        now += 0.01
        store.tick(now)
        turn(store)
    assert total / 8192 * 0.9 < now < total / 8192 * 1.5
    assert of(events, VERIFIED)[0]["seconds"] == pytest.approx(now, abs=0.1)


def test_a_start_that_read_the_log_has_nothing_to_verify() -> None:
    disk = without_index(stopped())
    events: Events = []
    store = new_store(disk, events)
    for segment in older(store):
        spoil(disk, f"{LOG}/{segment.number:08d}.seg", OPENING_OFFSET + 70)
    for step in range(100):
        store.tick(step * 0.1)
        turn(store)
    assert events == []


def test_a_batch_longer_than_a_piece_is_verified_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "_PIECE_BYTES", 4096)
    disk = stopped()
    store, events = begun(disk)
    path, offset = place(named(store, "/queue/a"), 2)
    spoil(disk, path, offset + 2600)
    assert scrubbed(store, events)["damaged"] == 1
    assert of(events, ASIDE)[0]["id"] == 2


@pytest.mark.parametrize("cold", [True, False])
def test_what_was_not_in_memory_is_not_kept_there(cold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was there stays, for somebody needed it."""
    disk = stopped()
    store, events = begun(disk)
    dropped: list[tuple[int, int]] = []
    monkeypatch.setattr(disk, "drop_cache", lambda fd, offset=0, length=0: dropped.append((offset, length)))
    disk.cold = lambda: cold
    scrubbed(store, events)
    assert bool(dropped) is cold
    assert all(offset >= OPENING_OFFSET and length > 0 for offset, length in dropped)


# ------------------------------------------------------------------ damage


@pytest.mark.parametrize("id", [1, 2])
def test_a_damaged_message_is_set_aside_and_the_others_are_delivered(id: int) -> None:
    """Message 1 stands in two queues."""
    disk = stopped()
    store, events = begun(disk)
    path, offset = place(named(store, "/queue/a"), id)
    spoil(disk, path, offset + 500)
    told = scrubbed(store, events)
    queues = {"/queue/a", "/queue/b"} if id == 1 else {"/queue/a"}
    assert {(fields["queue"], fields["id"], fields["path"]) for fields in of(events, ASIDE)} == {
        (queue, id, path) for queue in queues
    }
    assert {fields["reason"] for fields in of(events, ASIDE)} == {"the checksum of the payload does not fit"}
    assert told["damaged"] == len(queues) == len(events) - 1
    turn(store)
    assert delivered(store) == [number for number in range(1, 41) if number != id]
    note = disk.contents()[f"{QUARANTINE}/{Path(path).stem}.keep"].decode()
    assert len(note.splitlines()) == len(queues)
    assert store._ledger.segments[int(Path(path).stem)].damaged


def test_damage_in_what_is_dead_is_nobodys_loss() -> None:
    disk = stopped()
    store, events = begun(disk)
    queue = named(store, "/queue/a")
    (first,) = store.claim(queue, 1, 1 << 20)
    path, offset = place(queue, 2)
    settle(store, *store.claim(queue, 1, 1 << 20))
    spoil(disk, path, offset + 500)
    assert scrubbed(store, events)["damaged"] == 0
    assert len(events) == 1
    store.release(queue, [first.id], delivered=False)
    assert delivered(store) == [1, *range(3, 41)]


def test_a_damaged_record_whose_message_was_copied_is_nobodys_loss() -> None:
    disk = stopped()
    store, events = begun(disk)
    queue = named(store, "/queue/a")
    path, offset = place(queue, 2)
    message = store.read(queue, 2)
    assert message is not None
    store._log.filling.put(message, ((queue.number, 2),))  # as reclaim does it
    turn(store)
    assert place(queue, 2)[0] != path
    spoil(disk, path, offset + 500)
    assert scrubbed(store, events)["damaged"] == 0
    assert delivered(store) == list(range(1, 41))


@pytest.mark.parametrize("where", ["batch header", "message head", "opening batch", "a settlement"])
def test_a_damaged_head_is_told_once_and_the_segment_is_kept(where: str) -> None:
    disk = SimDisk()
    disk.make_parents("/data")
    store = new_store(disk)
    a = store.declare("/queue/a")
    for number in range(24):
        put(store, b"%02d " % number * 1300, a)  # hardly any room is lost: nothing is worth copying
        if number == 4:
            settled_at = store._log.tail.number, store._log.tail.end
            settle(store, *store.claim(a, 1, 1 << 20))
    store.close()
    store, events = begun(disk)
    path, offset = place(named(store, "/queue/a"), 6)
    batch = offset // 4096 * 4096
    if where == "batch header":
        spoil(disk, path, batch + 9)
    elif where == "message head":
        spoil(disk, path, offset + 30)
    elif where == "opening batch":
        batch = OPENING_OFFSET
        spoil(disk, path, batch + 70)
    else:
        number, batch = settled_at
        path = f"{LOG}/{number:08d}.seg"
        spoil(disk, path, batch + 64 + 32 + 1)
    damaged = disk.contents()[path]
    told = scrubbed(store, events)
    (said,) = of(events, BROKEN)
    assert (said["level"], said["path"], said["offset"]) == ("error", path, batch)
    assert said["reason"]
    assert "store repair" in said["advice"]
    assert (told["damaged"], len(events)) == (1, 2)
    # Nothing is lost but a message whose own head is damaged, which its delivery finds.
    number = int(Path(path).stem)
    whole = [id for id in range(2, 25) if (where, id) != ("message head", 6)]
    assert delivered(store) == whole
    turn(store)
    queue = named(store, "/queue/a")
    assert disk.contents()[f"{QUARANTINE}/{number:08d}.keep"].decode().startswith(f"-\t-\t{batch}\t-\t")
    # When nothing lives in it any more it goes to quarantine/, like any other that is damaged.
    while deliveries := store.claim(queue, 10, 1 << 20):
        settle(store, *deliveries)
    for _ in range(12):
        put(store, b"more" * 900, queue)
        settle(store, *store.claim(queue, 1, 1 << 20))
        turn(store)
    assert path not in disk.contents()
    assert disk.contents()[f"{QUARANTINE}/{number:08d}.seg"].startswith(damaged[: batch + 4096])
    store.close()
    new_store(without_index(disk)).close()


def test_the_note_about_a_segment_outlives_a_stop_and_is_shown_by_a_survey() -> None:
    disk = stopped()
    store, events = begun(disk)
    path, offset = place(named(store, "/queue/a"), 6)
    spoil(disk, path, offset // 4096 * 4096 + 9)
    scrubbed(store, events)
    store.close()
    number = int(Path(path).stem)
    again, events = begun(disk)
    assert again._ledger.segments[number].damaged
    scrubbed(again, events)
    assert len(of(events, BROKEN)) == 1, "each start that does not read it says so"
    turn(again)
    note = disk.contents()[f"{QUARANTINE}/{number:08d}.keep"]
    assert note.count(b"\n") == 1
    found = survey(disk, Names(DIRECTORY))
    assert [f.offset for f in found.findings if "its segment is damaged" in f.what and not f.damage] == [
        offset // 4096 * 4096
    ]
    found.close()
    with pytest.raises(StoreDamaged):
        new_store(without_index(disk))


def test_a_segment_that_ends_too_soon_is_damaged() -> None:
    disk = stopped()
    store, events = begun(disk)
    segment = older(store)[1]
    path = f"{LOG}/{segment.number:08d}.seg"
    for image in (disk.inode(path).data, disk.inode(path).durable):
        del image[-4096:]
    scrubbed(store, events)
    (said,) = of(events, BROKEN)
    assert said["path"] == path
    assert said["offset"] < segment.end


def test_damage_behind_a_damaged_head_is_found_in_the_other_segments() -> None:
    disk = stopped()
    store, events = begun(disk)
    queue = named(store, "/queue/a")
    first, offset = place(queue, 2)
    spoil(disk, first, offset // 4096 * 4096 + 9)
    other, offset = place(queue, 26)
    assert other != first
    spoil(disk, other, offset + 900)
    assert scrubbed(store, events)["damaged"] == 2
    assert [event for event, _ in events] == [BROKEN, ASIDE, VERIFIED]
