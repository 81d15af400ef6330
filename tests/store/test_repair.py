"""Check, dump and repair on stores that are broken in every way a disk can: nothing lost without being named.

What is held against each broken store: check sees it exactly where a start would not be as before; repair makes it
start; then every message is there byte for byte or named as gone, and none that was never sent.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple
from zlib import crc32

import pytest
from broken import NAMES, Built, build, open_store, state_of, turn
from model import State
from simdisk import SimDisk

from radiator.errors import StoreDamaged, StoreError, StoreFailed, StoreLocked
from radiator.message import Message
from radiator.store.base import Unit
from radiator.store.file.inspect import check, entries, records, stats
from radiator.store.file.record import BatchWriter
from radiator.store.file.recovery import HOLE
from radiator.store.file.repair import Plan, Repaired, repair
from radiator.store.file.watermark import Watermark, write_watermark


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


def yes(plan: Plan) -> bool:
    return True


def flip(disk: SimDisk, path: str, at: int) -> None:
    """One bit, on the platters too."""
    inode = disk.inode(path)
    inode.data[at] ^= 1 << at % 8
    inode.durable[at] = inode.data[at]


def cut(disk: SimDisk, path: str, size: int) -> None:
    inode = disk.inode(path)
    del inode.data[size:]
    del inode.durable[size:]


def zero(disk: SimDisk, path: str, at: int) -> None:
    inode = disk.inode(path)
    for data in (inode.data, inode.durable):
        data[at : at + 512] = bytes(len(data[at : at + 512]))


def remove(disk: SimDisk, path: str) -> None:
    disk.unlink(path)
    disk.sync_directory(path.rpartition("/")[0])


def segments(disk: SimDisk) -> list[str]:
    return sorted(path for path in disk.contents() if path.endswith(".seg") and "/log/" in path)


def files(disk: SimDisk) -> list[str]:
    return [*segments(disk), NAMES.format, NAMES.watermark]


def gone_ids(result: Repaired) -> set[tuple[str, int]]:
    return {(gone.queue, id) for gone in result.plan.gone for id in range(gone.first, gone.last + 1)}


class Judged(NamedTuple):
    """What became of one broken store."""

    damaged: bool
    lost: int


def judge(built: Built, disk: SimDisk) -> Judged:
    """Hold check and repair against what a start does, and against what was sent."""
    before = disk.contents()
    checked = check(disk, NAMES, deep=True)
    checked.survey.close()
    assert disk.contents() == before, "check wrote"
    start: State | None
    try:
        start = state_of(disk.copy())
    except StoreError:
        start = None
    if not checked.damage:
        assert start == built.state, "check saw nothing"
        return Judged(False, 0)
    assert (checked.refusal is None) == (start is not None)
    result = repair(disk, NAMES, yes, wall_ms=7)
    assert result.done
    end = state_of(disk.copy())
    named = gone_ids(result)
    lost = 0
    for queue, messages in built.state.items():
        for id, body in messages.items():
            if id in end.get(queue, {}):
                assert end[queue][id] == body
            else:
                assert (queue, id) in named or result.plan.redelivered, f"{queue} {id} went without a word"
                lost += 1
    for queue, messages in end.items():
        for id, body in messages.items():
            if id not in built.state.get(queue, {}):
                assert result.plan.redelivered, "delivered again without a warning"
                assert (queue, body) in built.sent or queue.startswith("/queue/recovered-")
    again = check(disk, NAMES, deep=True)
    again.survey.close()
    assert not again.damage
    assert again.refusal is None
    return Judged(True, lost)


def test_a_whole_store_is_whole(built: Built) -> None:
    checked = check(built.disk, NAMES, deep=True)
    assert (checked.damage, checked.refusal) == ([], None)
    found = checked.survey
    state: State = {queue.name: {} for queue in found.queues.values()}
    for entry in entries(found):
        assert entry.message is not None
        state[entry.queue.name][entry.id] = entry.message.body
    assert state == built.state
    found.close()
    assert built.disk.files == {}


def test_the_accounts_are_those_of_the_engine(built: Built) -> None:
    checked = check(built.disk, NAMES)
    told = {row["segment"]: (row["live_messages"], row["live_bytes"]) for row in stats(checked.survey)["segments"]}
    checked.survey.close()
    store = open_store(built.disk.copy())
    live = {number: (segment.live, segment.live_bytes) for number, segment in store._ledger.segments.items()}
    store.close()
    assert told == live


def test_a_whole_store_is_not_touched_by_repair(built: Built) -> None:
    before = built.disk.contents()
    result = repair(built.disk, NAMES, yes, wall_ms=7)
    assert not result.done
    assert built.disk.contents() == before


@pytest.mark.parametrize("shift", range(3))
def test_every_flipped_bit_is_seen_and_mended(built: Built, shift: int) -> None:
    damaged = 0
    for path in files(built.disk):
        for at in range(shift * 331, len(built.disk.inode(path).data), 2999):
            disk = built.disk.copy()
            flip(disk, path, at)
            damaged += judge(built, disk).damaged
    assert damaged > 30


@pytest.mark.parametrize("harm", [cut, zero])
def test_every_cut_and_every_lost_sector_is_seen_and_mended(built: Built, harm: object) -> None:
    damaged = 0
    for path in files(built.disk):
        for at in range(0, len(built.disk.inode(path).data), 8192):
            disk = built.disk.copy()
            harm(disk, path, at)  # type: ignore[operator]
            damaged += judge(built, disk).damaged
    assert damaged > 20


def test_a_saved_index_hides_no_damage() -> None:
    built = build(cache=True)
    rng = Random(8)
    for path in segments(built.disk):
        disk = built.disk.copy()
        flip(disk, path, 4096 + rng.randrange(64))
        assert judge(built, disk).damaged


def test_every_removed_file_is_seen_and_mended(built: Built) -> None:
    for path in segments(built.disk):
        disk = built.disk.copy()
        remove(disk, path)
        assert judge(built, disk).damaged
    disk = built.disk.copy()
    remove(disk, NAMES.format)
    assert judge(built, disk) == (True, 0)
    disk = built.disk.copy()
    remove(disk, NAMES.watermark)
    assert judge(built, disk) == (False, 0)


def test_many_places_at_once(built: Built) -> None:
    rng = Random(3)
    for _ in range(12):
        disk = built.disk.copy()
        for path in segments(disk)[:-1]:
            flip(disk, path, rng.randrange(4096, len(disk.inode(path).data)))
        judge(built, disk)


def test_one_flipped_bit_in_a_head_costs_one_message_not_a_batch() -> None:
    disk = SimDisk()
    disk.make_parents("/data")
    store = open_store(disk)
    queue = store.declare("/queue/a")
    unit = Unit()
    for number in range(20):
        unit.put(Message(12, True, b"", b"body %d" % number), [queue])
    store.append(unit)
    turn(store)
    store.close()
    path = segments(disk)[-1]
    flip(disk, path, bytes(disk.inode(path).data).index(b"body 7") - 20)
    result = repair(disk, NAMES, yes, wall_ms=7)
    assert gone_ids(result) == {("/queue/a", 8)}
    assert sorted(state_of(disk)["/queue/a"]) == [id for id in range(1, 21) if id != 8]


def test_a_body_that_is_a_log_gives_no_messages() -> None:
    """A message may hold records of this very store: where a length is damaged, they must not be taken for real."""
    disk = SimDisk()
    disk.make_parents("/data")
    store = open_store(disk)
    queue = store.declare("/queue/a")
    turn(store)
    forged = BatchWriter(Random(5).randbytes(16))
    for id in range(2, 6):
        forged.put(Message(12, True, b"", b"phantom"), [(queue.number, id)])
    image = bytes(forged.finish(4096, 0))[64:-64]
    unit = Unit()
    for body in (image, b"real"):
        unit.put(Message(12, True, b"", body), [queue])
    store.append(unit)
    turn(store)
    store.close()
    path = segments(disk)[-1]
    head = disk.contents()[path].index(image) - 72
    for length in (0, 72 + 8, 2 * (72 + 8)):  # the payload seems to end where a forged record begins
        broken = disk.copy()
        inode = broken.inode(path)
        for data in (inode.data, inode.durable):
            data[head + 12 : head + 16] = length.to_bytes(4, "little")
        result = repair(broken, NAMES, yes, wall_ms=7)
        assert gone_ids(result) or result.plan.redelivered
        assert b"phantom" not in state_of(broken)["/queue/a"].values()


def broken_in_two(built: Built) -> SimDisk:
    disk = built.disk.copy()
    for path in segments(disk)[1:3]:
        zero(disk, path, 8192)
    return disk


def test_nothing_happens_without_a_yes(built: Built) -> None:
    disk = broken_in_two(built)
    lock = disk.lock(NAMES.lock)
    disk.close(lock)
    before = disk.contents()
    result = repair(disk, NAMES, lambda plan: False, wall_ms=7)
    assert result.plan.damage
    assert not result.done
    assert disk.contents() == before
    assert disk.files == {}


def test_a_crash_at_every_operation_of_a_repair(built: Built) -> None:
    disk = broken_in_two(built)
    originals = [bytes(disk.inode(path).data) for path in segments(disk)[1:3]]
    done = disk.copy()
    result = repair(done, NAMES, yes, wall_ms=7)
    whole = state_of(done)
    moments: list[SimDisk] = []
    disk.before = lambda what: moments.append(disk.copy())
    repair(disk, NAMES, yes, wall_ms=7)
    assert len(moments) >= 15
    rng = Random(9)
    for moment in moments:
        for after in (moment.survive(), *(moment.power_cut(rng) for _ in range(4))):
            kept = list(after.contents().values())
            for original in originals:  # zeros may follow: cutting a predecessor to its end is not synced
                assert any(data[: len(original)] == original for data in kept), "an original is lost"
            try:
                found = state_of(after.copy())
            except StoreDamaged:
                again = repair(after, NAMES, yes, wall_ms=8)
                assert gone_ids(again) == gone_ids(result)
                found = state_of(after)
            assert found == whole


def test_a_repair_in_several_steps(built: Built) -> None:
    disk = built.disk.copy()
    for path in segments(disk):
        zero(disk, path, 8192)
    one = repair(disk.copy(), NAMES, yes, wall_ms=7)
    result = repair(disk, NAMES, yes, wall_ms=7, copy_bytes=1)
    assert len(one.segments) == 1
    assert len(result.segments) > 2
    assert result.plan.gone == one.plan.gone
    state_of(disk)


def test_originals_are_in_quarantine_and_do_not_replace_older_ones(built: Built) -> None:
    disk = built.disk.copy()
    path = segments(disk)[1]
    zero(disk, path, 8192)
    original = bytes(disk.inode(path).data)
    name = path.rpartition("/")[2]
    disk.close(disk.open(f"{NAMES.quarantine}/{name}", create=True))
    repair(disk, NAMES, yes, wall_ms=7)
    assert path not in disk.contents()
    assert disk.contents()[f"{NAMES.quarantine}/{name}"] == b""
    assert disk.contents()[f"{NAMES.quarantine}/{name}.1"] == original


def test_numbers_are_not_used_again(built: Built) -> None:
    disk = built.disk.copy()
    newest = segments(disk)[-1]
    remove(disk, newest)
    repair(disk, NAMES, yes, wall_ms=7)
    assert segments(disk)[-1] > newest
    store = open_store(disk)
    for queue in store.queues():
        assert queue.next_id > max(built.state[queue.name], default=0)  # type: ignore[attr-defined]
    store.close()


def test_deliveries_and_the_rest_of_a_message_survive_the_copy() -> None:
    disk = SimDisk()
    disk.make_parents("/data")
    store = open_store(disk)
    queue = store.declare("/queue/a")
    for number in range(3):
        unit = Unit()
        unit.put(Message(11, False, b"k:v\\c\n", b"body %d" % number, 123, 456, 789, 7), [queue])
        store.append(unit)
        turn(store)
    store.release(queue, [delivery.id for delivery in store.claim(queue, 1, 1000)], delivered=True)
    for size in (60000, 1):  # the count is in the opening batch of the segment that the second one begins
        unit = Unit()
        unit.put(Message(11, False, b"", bytes(size)), [queue])
        store.append(unit)
        turn(store)
    store.close()
    path = next(path for path in segments(disk) if b"body 1" in disk.contents()[path])
    flip(disk, path, disk.contents()[path].index(b"body 1"))
    result = repair(disk, NAMES, yes, wall_ms=7)
    assert gone_ids(result) == {("/queue/a", 2)}
    store = open_store(disk)
    (queue,) = store.queues()
    one, three = store.claim(queue, 2, 10000)
    assert (one.id, one.deliveries, three.id, three.deliveries) == (1, 1, 3, 0)
    message = one.message
    assert message is not None
    assert (message.version, message.plain, message.block, message.body) == (11, False, b"k:v\\c\n", b"body 0")
    assert (message.arrival_ms, message.expires_ms, message.not_before_ms, message.priority) == (123, 456, 789, 7)
    store.close()


def test_a_watermark_ahead_of_the_log_is_damage_and_is_mended(built: Built) -> None:
    disk = built.disk.copy()
    checked = check(disk, NAMES)
    checked.survey.close()
    mark = Watermark(1000, 900 << 32 | 8192, clean=False)
    write_watermark(disk, NAMES.watermark, checked.survey.store_id, mark, sync=True)
    assert judge(built, disk).damaged
    assert segments(disk)[-1].endswith("00000901.seg")
    lost = 900 - checked.survey.newest
    store = open_store(disk)
    for queue in store.queues():  # each of the lost segments may have used as many ids as fit into one
        assert queue.next_id > max(built.state[queue.name]) + 2 * HOLE * lost  # type: ignore[attr-defined]
    store.close()


def test_an_unreadable_sector_is_damage_of_what_is_in_it(built: Built) -> None:
    disk = built.disk.copy()
    path = segments(disk)[1]
    disk.bad_reads = {(path, 9000)}
    checked = check(disk, NAMES, deep=True)
    checked.survey.close()
    assert checked.damage[0].segment == int(path[-12:-4])
    assert "reading failed" in checked.damage[0].what


def test_an_unsynced_tail_is_a_note() -> None:
    built = build(clean=False)
    disk = built.disk.copy()
    path = segments(disk)[-1]
    found = check(disk, NAMES)
    end = found.survey.segments[found.survey.newest].end
    found.survey.close()
    disk.inode(path).data[end : end + 100] = b"x" * 100
    checked = check(disk, NAMES)
    checked.survey.close()
    assert not checked.damage
    assert [finding.kind for finding in checked.survey.findings] == ["tail"]


def test_hopeless_is_said_and_nothing_is_changed(built: Built) -> None:
    disk = built.disk.copy()
    for path in segments(disk):
        zero(disk, path, 4096)
    before = disk.contents()
    with pytest.raises(StoreDamaged, match="no segment whose opening batch is readable"):
        repair(disk, NAMES, yes, wall_ms=7)
    assert disk.contents() == before
    checked = check(disk, NAMES)
    bodies = {entry.message.body for entry in entries(checked.survey) if entry.message is not None}
    assert {body for messages in built.state.values() for body in messages.values()} <= bodies
    checked.survey.close()


def test_a_newer_format_is_left_alone(built: Built) -> None:
    disk = built.disk.copy()
    text = bytes(disk.inode(NAMES.format).data).replace(b"radiator-store 1", b"radiator-store 2")
    body = text[: text.index(b"crc32")]
    disk.inode(NAMES.format).data[:] = body + b"crc32 %08x\n" % crc32(body)
    before = disk.contents()
    with pytest.raises(StoreDamaged, match="use the newer radiator"):
        repair(disk, NAMES, yes, wall_ms=7)
    assert disk.contents() == before


def test_repair_wants_the_lock(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = broken_in_two(built)

    def held(path: str) -> int:
        raise BlockingIOError

    monkeypatch.setattr(disk, "lock", held)
    with pytest.raises(StoreLocked):
        repair(disk, NAMES, yes, wall_ms=7)


def test_no_store_is_no_store() -> None:
    disk = SimDisk()
    disk.make_parents("/data/store")
    with pytest.raises(StoreFailed, match="holds no store"):
        repair(disk, NAMES, yes, wall_ms=7)
    assert disk.contents() == {}


def test_the_records_are_all_there(built: Built) -> None:
    checked = check(built.disk, NAMES)
    found = list(records(checked.survey))
    checked.survey.close()
    kinds = {record["type"] for record in found}
    assert kinds >= {"message", "settled", "state", "next-queue", "segment", "counts"}
    places = [(record["segment"], record["batch"]) for record in found]
    assert places == sorted(places)


def test_the_dead_are_shown_where_asked(built: Built) -> None:
    checked = check(built.disk, NAMES)
    found = checked.survey
    dead = [entry for entry in entries(found, settled=True) if entry.settled]
    assert dead
    for entry in dead:
        assert entry.message is not None
        assert (entry.queue.name, entry.message.body) in built.sent
        assert entry.id not in built.state[entry.queue.name]
    only = list(entries(found, queue="/queue/b", settled=True))
    assert {entry.queue.name for entry in only} == {"/queue/b"}
    found.close()


def test_a_creation_that_was_cut_short_is_no_damage() -> None:
    disk = SimDisk()
    disk.make_parents("/data")
    moments: list[SimDisk] = []
    disk.before = lambda what: moments.append(disk.copy())
    open_store(disk).close()
    for moment in moments:
        try:
            checked = check(moment, NAMES)
        except StoreFailed:
            continue
        checked.survey.close()
        assert not checked.damage


def test_a_note_that_a_start_cannot_read_is_damage(built: Built) -> None:
    """One about a segment that is still in the log; of those that are not, a start reads none."""
    disk = built.disk.copy()
    number = NAMES.segments(disk)[0]
    disk.make_directory(NAMES.quarantine)
    paths = [f"{NAMES.quarantine}/{number:08d}.keep", f"{NAMES.quarantine}/90000000.keep"]
    for path in paths:
        disk.place(path, b"-\t-\t4096\t-\twhy\n")
    disk.bad_reads = {(paths[1], 0)}
    checked = check(disk, NAMES)
    checked.survey.close()
    assert (checked.damage, checked.refusal) == ([], None)
    disk.bad_reads |= {(paths[0], 0)}
    checked = check(disk, NAMES)
    checked.survey.close()
    assert [(finding.kind, finding.path) for finding in checked.damage] == [("kept", paths[0])]
    assert checked.refusal is not None
    assert checked.refusal.startswith(f"{paths[0]}: ")
    with pytest.raises(StoreFailed, match="cannot be opened"):
        open_store(disk)
