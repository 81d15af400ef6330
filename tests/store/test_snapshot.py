"""Snapshots of a store that is written meanwhile, and what is restored from them: a prefix, whole, nothing missing."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from operator import attrgetter
from random import Random

import pytest
from broken import NAMES, build, state_of
from model import DIRECTORY, Model, State, World, read_everything
from simdisk import SimDisk

from radiator.errors import StoreDamaged, StoreError, StoreFailed
from radiator.store.file.engine import FileStore
from radiator.store.file.format import Names
from radiator.store.file.inspect import Entry, check, entries
from radiator.store.file.snapshot import Manifest, read_manifest, restore, snapshot
from radiator.store.file.syncer import InlineJobs, InlineSyncer

SNAPSHOT = "/data/snapshot"
SEGMENT = 32768
RESTORED = Names("/data/restored")


def state_at(disk: SimDisk, directory: str) -> State:
    """What a start in `directory` finds."""
    store = FileStore(directory, fsio=disk, segment_bytes=SEGMENT, syncer=InlineSyncer(disk), jobs=InlineJobs())
    store.open(0.0, 1)
    state = read_everything(store)
    store.close()
    return state


class Busy(World):
    """A world that rotates all the time."""

    def make_store(self) -> FileStore:
        return FileStore(
            DIRECTORY,
            fsync=self.fsync,  # type: ignore[arg-type]
            segment_bytes=8192,
            fsio=self.disk,
            syncer=InlineSyncer(self.disk),
            jobs=InlineJobs(),
            entropy=self.rng.randbytes,
        )


def busy_world(seed: int, fsync: str) -> World:
    disk = SimDisk()
    disk.make_parents("/data")
    world = Busy(disk, Random(seed), Model({}), fsync=fsync, record=False)
    world.run(80)
    return world


@pytest.mark.parametrize("fsync", ["always", "never"])
@pytest.mark.parametrize("seed", range(8))
def test_a_snapshot_under_load_has_everything_told_before(seed: int, fsync: str) -> None:
    """Between any two operations of the snapshot the store goes on: sends, settles, rotates, reclaims, drops."""
    world = busy_world(seed, fsync)
    disk = world.disk
    told = world.model.committed(world.told)
    newest = NAMES.segments(disk)[-1]
    busy = False
    steps = 0

    def meanwhile(what: str) -> None:
        nonlocal busy, steps
        if not busy and steps < 300:
            busy = True
            for _ in range(8):
                steps += 1
                world.random_step()
                if world.told == max(world.model.numbers):
                    world.turn()
            busy = False

    world.stop = lambda: None  # type: ignore[method-assign]  # a stop and a start are no business of this test
    world.start = lambda: None  # type: ignore[method-assign]
    disk.before = meanwhile
    snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    disk.before = lambda what: None
    assert NAMES.segments(disk)[-1] > newest + 3
    assert read_manifest(disk, SNAPSHOT).end >> 32 > newest  # it was overtaken, and began again
    restore(disk, SNAPSHOT, RESTORED, segment_bytes=SEGMENT)
    state = state_at(disk, RESTORED.directory)
    assert state in world.model.states[told:]


def test_a_snapshot_is_linked_and_stays_as_it_is() -> None:
    disk = build().disk
    before = {path: data for path, data in disk.contents().items() if path.startswith(DIRECTORY)}
    manifest = snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    assert {path: data for path, data in disk.contents().items() if path.startswith(DIRECTORY)} == before
    assert manifest.linked == len(manifest.segments) - 1 > 2
    assert read_manifest(disk, SNAPSHOT) == manifest._replace(linked=0)
    *older, (newest, end) = manifest.segments
    for number, _ in older:
        assert disk.inode(Names(SNAPSHOT).segment(number)) is disk.inode(NAMES.segment(number))
    assert disk.inode(Names(SNAPSHOT).segment(newest)) is not disk.inode(NAMES.segment(newest))
    assert len(disk.inode(Names(SNAPSHOT).segment(newest)).data) == end
    saved = {path: data for path, data in disk.contents().items() if path.startswith(SNAPSHOT)}
    restore(disk, SNAPSHOT, RESTORED, segment_bytes=SEGMENT)
    state_at(disk, RESTORED.directory)
    assert {path: data for path, data in disk.contents().items() if path.startswith(SNAPSHOT)} == saved
    assert disk.files == {}


def test_without_links_there_are_copies() -> None:
    built = build()
    disk = built.disk

    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    disk.link = refuse  # type: ignore[method-assign]
    assert snapshot(disk, NAMES, SNAPSHOT, wall_ms=9).linked == 0
    assert restore(disk, SNAPSHOT, RESTORED, segment_bytes=SEGMENT).linked == 0
    assert state_at(disk, RESTORED.directory) == built.state


def test_ids_are_not_used_again_after_a_restore() -> None:
    """The original may have given ids away since the snapshot: their acknowledgements must not hit other messages."""
    disk = build().disk
    snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    restore(disk, SNAPSHOT, RESTORED, segment_bytes=SEGMENT)
    store = FileStore(RESTORED.directory, fsio=disk, syncer=InlineSyncer(disk), jobs=InlineJobs())
    store.open(0.0, 1)
    original = FileStore(DIRECTORY, fsio=disk, syncer=InlineSyncer(disk), jobs=InlineJobs())
    original.open(0.0, 1)
    for ours, theirs in zip(store.queues(), original.queues(), strict=True):
        assert ours.next_id >= theirs.next_id + (1 << 24)  # type: ignore[attr-defined]
    store.close()
    original.close()


def make(what: str, disk: SimDisk) -> None:
    if what == "snapshot":
        snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    else:
        restore(disk, SNAPSHOT, RESTORED, segment_bytes=SEGMENT)


def moments_of(what: str, disk: SimDisk) -> list[SimDisk]:
    """The disk before every operation of a snapshot or a restore, and at its end."""
    moments: list[SimDisk] = []
    disk.before = lambda operation: moments.append(disk.copy())
    make(what, disk)
    disk.before = lambda operation: None
    return [*moments, disk.copy()]


def files_in(disk: SimDisk, directory: str) -> dict[str, bytes]:
    return {path: data for path, data in disk.contents().items() if path.startswith(f"{directory}/")}


def cuts(moments: list[SimDisk]) -> Iterator[SimDisk]:
    """What is found after a kill and after some power cuts at each moment."""
    rng = Random(4)
    for moment in moments:
        yield moment.survive()
        for _ in range(5):
            yield moment.power_cut(rng)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("what", ["snapshot", "restore"])
def test_a_power_cut_at_every_operation(what: str, again: bool) -> None:
    """Complete, or refused as unfinished and made by the next try; what is copied is never touched.

    A manifest means a complete snapshot, FORMAT a complete store. `again`: over one that was cut short near its end.
    """
    built = build()
    disk = built.disk
    origin, target = (DIRECTORY, SNAPSHOT) if what == "snapshot" else (SNAPSHOT, RESTORED.directory)
    last = f"{target}/{'manifest' if what == 'snapshot' else 'FORMAT'}"
    if what == "restore":
        snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    original = files_in(disk, origin)
    for path in original:
        disk.inode(path).settle()  # the cuts to their ends need no sync
    if again:
        before = [moment for moment in moments_of(what, disk.copy()) if last not in moment.contents()]
        disk = before[-1]
    complete = unfinished = 0
    for after in cuts(moments_of(what, disk)):
        assert files_in(after, origin) == original
        found = files_in(after, target)
        if last in found:
            complete += 1
        else:
            if f"{target}/FORMAT" in found:
                assert what == "snapshot"  # which lacks its manifest only
                assert state_at(after.copy(), target) == built.state
            elif found:
                with pytest.raises(StoreDamaged, match="has not come to its end"):
                    state_at(after.copy(), target)
                unfinished += 1
            if what == "snapshot":
                with pytest.raises(StoreError, match=r"manifest|is not there"):
                    restore(after, SNAPSHOT, RESTORED, segment_bytes=SEGMENT)
            make(what, after)
        if what == "snapshot":
            restore(after, SNAPSHOT, RESTORED, segment_bytes=SEGMENT)
        assert state_at(after, RESTORED.directory) == built.state
        assert f"{RESTORED.directory}/incomplete.tmp" not in after.contents()
    assert complete >= 6
    assert unfinished > 50


def test_what_a_snapshot_and_a_restore_link_is_synced() -> None:
    """A backup that was copied here a moment ago may be nowhere but in memory."""
    built = build()
    disk = built.disk
    snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    original = files_in(disk, SNAPSHOT)

    def forget() -> None:
        for path in original:
            inode = disk.inode(path)
            inode.durable.clear()
            inode.touch(0, len(inode.data))

    forget()
    restore(disk, SNAPSHOT, RESTORED, segment_bytes=SEGMENT)
    assert state_at(disk.power_cut(Random(1), content=0.0), RESTORED.directory) == built.state
    forget()
    snapshot(disk, NAMES, "/data/second", wall_ms=9)
    assert state_at(disk.power_cut(Random(1), content=0.0), "/data/second") == built.state


def test_a_start_takes_a_stale_marker_away() -> None:
    """A power cut may keep FORMAT and the marker: should FORMAT be lost one day, a restore must not clear the log."""
    built = build()
    disk = built.disk
    marker = f"{DIRECTORY}/incomplete.tmp"
    disk.place(marker, b"")
    snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    checked = check(disk, NAMES, deep=True)
    checked.survey.close()
    assert (checked.damage, checked.refusal) == ([], None)
    with pytest.raises(StoreFailed, match="is not empty"):
        restore(disk, SNAPSHOT, NAMES, segment_bytes=SEGMENT)
    assert state_of(disk) == built.state
    assert marker not in disk.power_cut(Random(1), names_kept=0.0).contents()


def test_a_restore_and_a_start_do_not_meet() -> None:
    """In an empty directory each of the two could begin while the other does."""
    disk = build().disk
    snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    locked: list[str] = []
    lock = disk.lock

    def note(path: str) -> int:
        locked.append(path)
        return lock(path)

    disk.lock = note  # type: ignore[method-assign]
    restore(disk, SNAPSHOT, RESTORED, segment_bytes=SEGMENT)
    assert locked == [f"{RESTORED.directory}/incomplete.tmp", RESTORED.lock]
    disk.make_parents("/data/third")

    def late(path: str) -> int:
        disk.place("/data/third/incomplete.tmp", b"")  # by a restore that began after the first look, and was killed
        return lock(path)

    disk.lock = late  # type: ignore[method-assign]
    with pytest.raises(StoreDamaged, match="has not come to its end"):
        state_at(disk, "/data/third")
    assert "log" not in disk.list_directory("/data/third")


@pytest.mark.parametrize("what", ["snapshot", "restore"])
def test_what_another_one_completed_since_the_first_look_is_left_alone(what: str) -> None:
    built = build()
    disk = built.disk
    snapshot(disk, NAMES, "/data/source", wall_ms=9)
    target = {"snapshot": SNAPSHOT, "restore": RESTORED.directory}[what]

    def make() -> None:
        if what == "snapshot":
            snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
        else:
            restore(disk, "/data/source", RESTORED, segment_bytes=SEGMENT)

    lock = disk.lock
    made: list[dict[str, bytes]] = []

    def late(path: str) -> int:
        disk.lock = lock  # type: ignore[method-assign]
        make()
        made.append(disk.contents())
        return lock(path)

    disk.make_parents(target)
    disk.place(f"{target}/incomplete.tmp", b"")
    disk.lock = late  # type: ignore[method-assign]
    with pytest.raises(StoreFailed, match="is not empty"):
        make()
    assert disk.contents() == made[0]
    assert state_at(disk, target) == built.state


def spoil(disk: SimDisk, names: Names, number: int, *, last: bool = False) -> Entry:
    """Flip a bit in the body of the first message (or the last) that lives in a segment; that message."""
    checked = check(disk, names)
    try:
        found = [entry for entry in entries(checked.survey) if entry.address >> 32 == number]
    finally:
        checked.survey.close()
    entry = max(found, key=attrgetter("address")) if last else min(found, key=attrgetter("address"))
    assert entry.message is not None
    data = disk.inode(names.segment(number)).data
    data[data.index(entry.message.body, entry.address & 0xFFFFFFFF) + 2] ^= 1
    return entry


def named(manifest: Manifest) -> set[tuple[str | None, int | None, int, int | None, int | None]]:
    """The messages that are said to be damaged: queue, its number, id, segment, offset."""
    assert {finding.kind for finding in manifest.damage} <= {"message"}
    return {
        (finding.queue, finding.number, first, finding.segment, finding.offset)
        for finding in manifest.damage
        for first, _ in finding.ids
    }


def name_of(entry: Entry) -> tuple[str | None, int | None, int, int | None, int | None]:
    return entry.queue.name, entry.queue.number, entry.id, entry.address >> 32, entry.address & 0xFFFFFFFF


def test_a_restore_reads_every_message_and_names_the_damaged() -> None:
    """What rotted in a backup is said when it is restored, and the rest of it is used."""
    built = build()
    disk = built.disk
    manifest = snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    assert manifest.damage == ()
    origin = Names(SNAPSHOT)
    spoilt = [spoil(disk, origin, manifest.segments[at][0]) for at in (0, 2, -1)]
    told = named(restore(disk, SNAPSHOT, RESTORED, segment_bytes=SEGMENT))
    assert {name_of(entry) for entry in spoilt} <= told
    store = FileStore(
        RESTORED.directory, fsio=disk, segment_bytes=SEGMENT, syncer=InlineSyncer(disk), jobs=InlineJobs()
    )
    store.open(0.0, 1)
    lost = {(queue, id) for queue, _, id, _, _ in told}
    assert len(lost) < sum(map(len, built.state.values()))
    for queue in store.queues():
        expected = [id for id in built.state[queue.name] if (queue.name, id) not in lost]
        got: list[int] = []
        while held := store.claim(queue, 1000, 1 << 30):
            got += [delivery.id for delivery in held]
        assert got == expected
    store.close()


def test_a_snapshot_names_the_damaged_messages_of_the_newest_segment() -> None:
    disk = build().disk
    newest = NAMES.segments(disk)[-1]
    entry = spoil(disk, NAMES, newest)
    manifest = snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    assert name_of(entry) in named(manifest)
    assert named(restore(disk, SNAPSHOT, RESTORED, segment_bytes=SEGMENT)) == named(manifest)


def test_every_harm_to_a_snapshot_is_seen_by_restore() -> None:
    built = build()
    snapshot(built.disk, NAMES, SNAPSHOT, wall_ms=9)
    paths = [path for path in built.disk.contents() if path.startswith(SNAPSHOT)]
    refused = told = 0
    for path in paths:
        for at in range(0, max(1, len(built.disk.inode(path).data)), 1511):
            disk = built.disk.copy()
            inode = disk.inode(path)
            if inode.data:
                inode.data[at] ^= 1 << at % 8
            else:
                disk.unlink(path)
            try:
                manifest = restore(disk, SNAPSHOT, RESTORED, segment_bytes=SEGMENT)
            except StoreError:
                assert RESTORED.format not in disk.contents()
                refused += 1
                continue
            checked = check(disk, RESTORED, deep=True)
            checked.survey.close()
            assert checked.damage == list(manifest.damage)
            assert checked.refusal is None
            assert manifest.damage or state_at(disk, RESTORED.directory) == built.state
            told += bool(manifest.damage)
    assert refused > 20
    assert told > 20


def test_the_place_must_be_empty() -> None:
    disk = build().disk
    disk.make_parents("/data/other")
    disk.close(disk.open("/data/other/file", create=True))
    with pytest.raises(StoreFailed, match="is not empty"):
        snapshot(disk, NAMES, "/data/other", wall_ms=9)
    snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    with pytest.raises(StoreFailed, match="is not empty"):
        snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    with pytest.raises(StoreFailed, match="is not empty"):
        restore(disk, SNAPSHOT, NAMES, segment_bytes=SEGMENT)
    with pytest.raises(StoreDamaged, match="no snapshot"):
        restore(disk, DIRECTORY, RESTORED, segment_bytes=SEGMENT)
    with pytest.raises(StoreFailed, match="holds no store"):
        snapshot(disk, Names("/data/other"), "/data/more", wall_ms=9)


def test_a_damaged_store_gives_no_snapshot() -> None:
    disk = build().disk
    manifest = snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    for number, offset in ((manifest.segments[0][0], 4170), (manifest.segments[-1][0], 4100)):
        harmed = disk.copy()
        harmed.inode(NAMES.segment(number)).data[offset] ^= 1
        with pytest.raises(StoreDamaged):
            snapshot(harmed, NAMES, "/data/second", wall_ms=9)
        with pytest.raises(StoreDamaged, match="no snapshot"):
            read_manifest(harmed, "/data/second")


@pytest.mark.parametrize("harm", ["header", "cut", "another's file"])
def test_a_store_of_broken_structure_gives_no_snapshot(harm: str) -> None:
    """Whichever segment it is: the header, the end that the next one or the watermark says, its place in the chain."""
    disk = build().disk
    numbers = NAMES.segments(disk)
    for number, other in zip(numbers, numbers[1:] + numbers[:1], strict=True):
        harmed = disk.copy()
        inode = harmed.inode(NAMES.segment(number))
        if harm == "header":
            inode.data[20] ^= 1
        elif harm == "cut":
            del inode.data[-4096:]
        else:
            inode.data[:] = harmed.inode(NAMES.segment(other)).data
        with pytest.raises(StoreDamaged, match=f"{number:08d}.seg"):
            snapshot(harmed, NAMES, SNAPSHOT, wall_ms=9)
        assert not {f"{SNAPSHOT}/FORMAT", f"{SNAPSHOT}/manifest"} & set(harmed.contents())


def test_a_store_without_its_newest_segment_gives_no_snapshot() -> None:
    """What is left may be whole in itself, up to an earlier moment: only the watermark tells."""
    disk = build().disk
    newest = NAMES.segments(disk)[-1]
    disk.unlink(NAMES.segment(newest))
    with pytest.raises(StoreDamaged, match=f"{newest:08d}.seg is missing: the watermark says") as refused:
        snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    assert "radiator store check" in str(refused.value)
    assert SNAPSHOT not in disk.directories


def test_every_missing_segment_is_seen_by_a_snapshot() -> None:
    disk = build().disk
    for number in NAMES.segments(disk):
        harmed = disk.copy()
        harmed.unlink(NAMES.segment(number))
        with pytest.raises(StoreDamaged, match=f"{number:08d}.seg"):
            snapshot(harmed, NAMES, SNAPSHOT, wall_ms=9)
        assert not {f"{SNAPSHOT}/FORMAT", f"{SNAPSHOT}/manifest"} & set(harmed.contents())
    for path in list(disk.contents()):
        if path.startswith(NAMES.log):
            disk.unlink(path)
    with pytest.raises(StoreDamaged, match="holds no segment"):
        snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    del disk.directories[NAMES.log]
    with pytest.raises(StoreDamaged, match="holds no segment"):
        snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    assert SNAPSHOT not in disk.directories


def test_a_watermark_and_a_log_of_different_moments_are_no_damage() -> None:
    """A look into the log may miss the segment that is born meanwhile, when the one before goes meanwhile too."""
    disk = build().disk
    listed = disk.list_directory
    looks = 0

    def early(path: str) -> list[str]:
        nonlocal looks
        found = listed(path)
        looks += path == NAMES.log
        return found[:1] if path == NAMES.log and looks == 1 else found

    disk.list_directory = early  # type: ignore[method-assign]
    assert snapshot(disk, NAMES, SNAPSHOT, wall_ms=9).end >> 32 == NAMES.segments(disk)[-1]


def test_a_full_disk_ends_a_snapshot_without_a_manifest() -> None:
    disk = build().disk
    operations = 0

    def stop(what: str) -> None:
        nonlocal operations
        operations += 1
        if what == "write":
            raise OSError(errno.ENOSPC, "No space left on device")

    disk.before = stop
    with pytest.raises(OSError, match="No space"):
        snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    disk.before = lambda what: None
    assert disk.files == {}
    with pytest.raises(StoreDamaged, match="did not come to its end"):
        restore(disk, SNAPSHOT, RESTORED, segment_bytes=SEGMENT)


def test_a_restored_store_has_its_spares() -> None:
    """Else the disk could be full before its first start, which could take no ACK then."""
    disk = busy_world(1, "always").disk
    snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    restore(disk, SNAPSHOT, RESTORED, segment_bytes=SEGMENT)
    disk.capacity = disk.used()
    store = FileStore(
        RESTORED.directory, fsio=disk, segment_bytes=SEGMENT, syncer=InlineSyncer(disk), jobs=InlineJobs()
    )
    store.open(0.0, 1)
    queue = next(queue for queue in store.queues() if queue.ready)
    held = store.claim(queue, 1, 1 << 20)
    number = store.settle(queue, held[0].id)
    store.flush()
    while store.committed < number:
        store.completed()
    disk.capacity = None


def test_without_room_for_its_spares_a_restore_does_not_end() -> None:
    disk = busy_world(1, "always").disk
    snapshot(disk, NAMES, SNAPSHOT, wall_ms=9)
    disk.capacity = disk.used() + 70000
    with pytest.raises(OSError, match="No space left"):
        restore(disk, SNAPSHOT, RESTORED, segment_bytes=SEGMENT)
    assert RESTORED.format not in disk.contents()
    disk.capacity = None
    restore(disk, SNAPSHOT, RESTORED, segment_bytes=SEGMENT)
    assert RESTORED.format in disk.contents()
