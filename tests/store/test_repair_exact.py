"""What a repair can know of what is lost: by name where anything tells of it, else from which id on nothing does.

Also of files that have the wrong name, and of the only segment without its opening batch: all is readable there.
"""

from __future__ import annotations

import pytest
from broken import NAMES, Built, build, open_store, state_of, turn
from model import State, files_of
from reader import MustRefuse, read_store
from simdisk import SimDisk

from radiator.errors import StoreDamaged
from radiator.message import Message
from radiator.store.base import Unit
from radiator.store.file.format import Format, encode_format
from radiator.store.file.inspect import check
from radiator.store.file.record import encode_segment_header
from radiator.store.file.repair import Plan, Repaired, repair
from radiator.store.file.watermark import Watermark, write_watermark


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


def yes(plan: Plan) -> bool:
    return True


def segments(disk: SimDisk) -> list[str]:
    return sorted(path for path in disk.contents() if path.endswith(".seg") and "/log/" in path)


def remove(disk: SimDisk, path: str) -> None:
    disk.unlink(path)
    disk.sync_directory(path.rpartition("/")[0])


def move(disk: SimDisk, source: str, target: str) -> None:
    disk.rename(source, target)
    disk.sync_directory(NAMES.log)


def spoil(disk: SimDisk, path: str, at: int, length: int) -> None:
    inode = disk.inode(path)
    for data in (inode.data, inode.durable):
        data[at : at + length] = bytes(len(data[at : at + length]))


def gone(result: Repaired) -> set[tuple[str, int]]:
    return {(gone.queue, id) for gone in result.plan.gone for id in range(gone.first, gone.last + 1)}


def lost(before: State, after: State) -> set[tuple[str, int]]:
    return {(queue, id) for queue, held in before.items() for id in held if id not in after.get(queue, {})}


def again(before: State, after: State) -> set[tuple[str, int]]:
    return lost(after, before)


def test_a_lost_newest_segment_is_unknown_from_an_id_on(built: Built) -> None:
    disk = built.disk.copy()
    remove(disk, segments(disk)[-1])
    result = repair(disk, NAMES, yes, wall_ms=7)
    unknown = {entry.queue: entry.first for entry in result.plan.unknown}
    missing = lost(built.state, state_of(disk)) - gone(result)
    assert missing
    for queue, id in missing:
        assert id >= unknown[queue]
    for queue, first in unknown.items():
        assert all(id < first for id in state_of(disk)[queue]), "it tells of messages that are known"
    assert result.plan.redelivered


@pytest.mark.parametrize("number", range(24))
def test_a_hole_in_the_newest_segment(number: int) -> None:
    """Wherever it is: each loss has a name or is behind the last known id."""
    built = build(seed=number, steps=30, clean=number % 2 == 0)
    disk = built.disk
    path = segments(disk)[-1]
    spoil(disk, path, 4096 * (1 + number % 8), 4096)
    try:
        read_store(files_of(disk))
    except MustRefuse:
        pass
    else:
        return  # nothing on the disk tells it from a tail that was never synced
    result = repair(disk, NAMES, yes, wall_ms=7)
    unknown = {entry.queue: entry.first for entry in result.plan.unknown}
    for queue, id in lost(built.state, state_of(disk)) - gone(result):
        assert id >= unknown[queue]
    assert result.plan.redelivered or not again(built.state, state_of(disk))


@pytest.mark.parametrize("seed", range(4))
def test_copies_behind_a_lost_opening_batch(seed: int) -> None:
    """After an unclean end ids are skipped; survivors that were copied then have lower ones, and are alive."""
    built = build(seed=seed, clean=False)
    store = open_store(built.disk)
    for number in range(20):
        unit = Unit()
        for queue in store.queues():
            unit.put(Message(12, True, b"", b"%d" % number + bytes(900)), [queue])
            for delivery in store.claim(queue, 2, 1 << 20)[:1]:
                unit.settle(queue, delivery.id)
        store.append(unit)
        turn(store)
        for tick in range(4):
            store.tick(float(number * 4 + tick))
            turn(store)
        before = state_of(built.disk.copy())
        disk = built.disk.copy()
        spoil(disk, segments(disk)[-1], 4096, 512)
        try:
            result = repair(disk, NAMES, yes, wall_ms=7)
        except StoreDamaged:
            continue
        after = state_of(disk)
        if not result.done:
            continue
        unknown = {entry.queue: entry.first for entry in result.plan.unknown}
        for queue_name, id in lost(before, after) - gone(result):
            assert id >= unknown[queue_name]
        assert not {pair for pair in lost(before, after) if pair[1] < 1 << 24 and pair not in gone(result)}
    store.close()


def test_damage_in_older_segments_leaves_nothing_open(built: Built) -> None:
    """The opening batch of the newest one says what is alive, whatever cannot be read of those before."""
    for path in segments(built.disk)[:-1]:
        disk = built.disk.copy()
        spoil(disk, path, 8192, 8192)
        result = repair(disk, NAMES, yes, wall_ms=7)
        assert (result.plan.redelivered, result.plan.unknown) == (False, [])
        assert gone(result) == lost(built.state, state_of(disk))
        assert not again(built.state, state_of(disk))


@pytest.mark.parametrize("harm", ["removed", "hole", "opening"])
def test_a_saved_index_names_what_the_newest_segment_took_with_it(harm: str) -> None:
    built = saved()
    disk = built.disk
    path = segments(disk)[-1]
    if harm == "removed":
        remove(disk, path)
    else:
        spoil(disk, path, 4096 if harm == "opening" else 8192, 4096)
    result = repair(disk, NAMES, yes, wall_ms=7)
    after = state_of(disk)
    assert gone(result) == lost(built.state, after)
    assert gone(result) or harm == "opening"
    assert not again(built.state, after), "what was acknowledged came back"
    assert (result.plan.redelivered, result.plan.unknown) == (False, [])


def saved() -> Built:
    """A store that stopped cleanly, and saved its index in spite of its size."""
    built = build(seed=3, clean=False)
    store = open_store(built.disk, index_from=0, clock=lambda: 0.0)
    unit = Unit()
    for queue in store.queues():
        unit.settle(queue, store.claim(queue, 1, 1 << 20)[0].id)
        unit.put(Message(12, True, b"", b"the last one of " + queue.name.encode()), [queue])
    store.append(unit)
    turn(store)
    store.close()
    state = state_of(built.disk.copy())
    return Built(built.disk, state, built.sent)


def test_what_has_the_name_of_another_segment_is_read_as_what_it_is(built: Built) -> None:
    names = segments(built.disk)
    far = NAMES.segment(900)
    for pairs in (
        [(names[1], far)],
        [(names[-1], far)],
        [(names[1], far), (names[2], names[1]), (far, names[2])],
        [(names[-2], far), (names[-1], names[-2]), (far, names[-1])],
    ):
        disk = built.disk.copy()
        for source, target in pairs:
            move(disk, source, target)
        result = repair(disk, NAMES, yes, wall_ms=7)
        assert result.done
        assert not gone(result)
        assert state_of(disk) == built.state
        checked = check(disk, NAMES, deep=True)
        checked.survey.close()
        assert checked.damage == []


def test_a_stranger_costs_nothing(built: Built) -> None:
    """A copy of a segment under a higher name, or a segment of another store: what belongs here says all."""
    copied = built.disk.contents()[segments(built.disk)[1]]
    foreign = bytes(encode_segment_header(bytes(range(16)), 900, 7, 0)) + bytes(8192)
    for data in (copied, foreign):
        disk = built.disk.copy()
        disk.write(disk.open(NAMES.segment(900), create=True), data, 0)
        result = repair(disk, NAMES, yes, wall_ms=7)
        assert (result.done, result.plan.redelivered, result.plan.unknown, gone(result)) == (True, False, [], set())
        assert state_of(disk) == built.state


def test_whatever_name_stands_in_quarantine(built: Built) -> None:
    """Numbers that are not used again are read out of names; a superscript is a digit and no number."""
    disk = built.disk.copy()
    disk.place(f"{NAMES.quarantine}/\u00b2.seg", b"")
    remove(disk, NAMES.format)
    assert repair(disk, NAMES, yes, wall_ms=7).done
    assert state_of(disk) == built.state


def test_the_format_of_another_store(built: Built) -> None:
    disk = built.disk.copy()
    data = encode_format(Format(bytes(range(16))))
    disk.write(disk.open(NAMES.format, create=True), data, 0)
    result = repair(disk, NAMES, yes, wall_ms=7)
    assert (result.done, result.plan.redelivered, gone(result)) == (True, False, set())
    assert state_of(disk) == built.state
    assert disk.contents()[f"{NAMES.quarantine}/FORMAT"] == data


def foreign(disk: SimDisk, *numbers: int) -> None:
    """Segments of another store under these numbers."""
    for number in numbers:
        data = bytes(encode_segment_header(bytes(range(16)), number, 7, 0)) + bytes(8192)
        disk.write(disk.open(NAMES.segment(number), create=True), data, 0)


@pytest.mark.parametrize("source", ["watermark", "index"])
@pytest.mark.parametrize("harm", ["removed", "damaged"])
def test_without_its_format_a_store_is_what_its_watermark_or_index_says(harm: str, source: str) -> None:
    """However many segments of another one lie among its own."""
    built = saved()
    disk = built.disk
    before = disk.contents()
    if harm == "removed":
        remove(disk, NAMES.format)
    else:
        spoil(disk, NAMES.format, 20, 4)
    if source == "watermark":
        remove(disk, NAMES.index)
        spoil(disk, NAMES.watermark, 0, 512)  # one slot is enough
    else:
        spoil(disk, NAMES.watermark, 0, 1024)
    foreign(disk, *range(100, 200))
    result = repair(disk, NAMES, yes, wall_ms=7)
    assert (result.done, gone(result)) == (True, set())
    assert disk.contents()[NAMES.format] == before[NAMES.format]
    assert state_of(disk) == built.state
    assert NAMES.segment(150) not in disk.contents()


@pytest.mark.parametrize("harm", ["removed", "damaged", "of another store"])
def test_no_identity_is_made_up_from_segments(harm: str, built: Built) -> None:
    disk = built.disk.copy()
    if harm == "removed":
        remove(disk, NAMES.format)
        remove(disk, NAMES.watermark)
    elif harm == "damaged":
        spoil(disk, NAMES.format, 20, 4)
        spoil(disk, NAMES.watermark, 0, 1024)
    else:
        disk.write(disk.open(NAMES.format, create=True), encode_format(Format(bytes(range(16)))), 0)
        for sequence in (7, 8):
            write_watermark(disk, NAMES.watermark, bytes(range(16)), Watermark(sequence, 1 << 32, True), sync=True)
    before = disk.contents()
    for agree in (yes, lambda plan: False):
        with pytest.raises(StoreDamaged, match=r"FORMAT: what is left of .* are of this store: .* restore FORMAT from"):
            repair(disk, NAMES, agree, wall_ms=7)
    assert disk.contents() == before
    checked = check(disk, NAMES)
    assert checked.damage[0].kind == "format"
    assert {name: set(held) for name, held in built.state.items()} == {
        queue.name: {id for id, _, _ in queue.places()} for queue in checked.survey.queues.values()
    }, "what is readable can be read"
    checked.survey.close()


def test_a_watermark_whose_slots_differ_says_nothing(built: Built) -> None:
    disk = built.disk.copy()
    remove(disk, NAMES.format)
    write_watermark(disk, NAMES.watermark, bytes(range(16)), Watermark(1000, 1 << 32, True), sync=True)
    with pytest.raises(StoreDamaged, match=r"does not say that the segments in .* are of this store"):
        repair(disk, NAMES, yes, wall_ms=7)


def test_the_only_segment_is_enough_without_its_opening_batch() -> None:
    disk = SimDisk()
    disk.make_parents("/data")
    store = open_store(disk)
    queue = store.declare("/queue/a")
    unit = Unit()
    for number in range(10):
        unit.put(Message(12, True, b"", b"body %d" % number), [queue])
    store.append(unit)
    turn(store)
    unit = Unit()
    unit.settle(queue, store.claim(queue, 1, 1000)[0].id)
    store.append(unit)
    turn(store)
    store.close()
    before = state_of(disk.copy())
    (path,) = segments(disk)
    spoil(disk, path, 4096, 512)
    result = repair(disk, NAMES, yes, wall_ms=7)
    assert result.done
    assert state_of(disk) == before


def test_hopeless_is_said_before_anybody_is_asked(built: Built) -> None:
    disk = built.disk.copy()
    for path in segments(disk):
        spoil(disk, path, 4096, 512)

    def agree(plan: Plan) -> bool:
        raise AssertionError("there is nothing to agree to")

    with pytest.raises(StoreDamaged, match="no segment whose opening batch is readable"):
        repair(disk, NAMES, agree, wall_ms=7)


def test_a_name_that_no_segment_can_have_is_none(built: Built) -> None:
    disk = built.disk.copy()
    before = NAMES.segments(disk)
    for name in ("000000003.seg", "9999999999.seg", "3.seg", "00000003.seg.bak"):
        disk.close(disk.open(f"{NAMES.log}/{name}", create=True))
    disk.place(f"{NAMES.quarantine}/9999999999.seg", b"")
    assert NAMES.segments(disk) == before
    assert state_of(disk.copy()) == built.state
    remove(disk, NAMES.format)
    assert repair(disk, NAMES, yes, wall_ms=7).segments == [before[-1] + 1]
    assert state_of(disk) == built.state
