"""Defects that a review found: starved queues, reads that failed for a moment, disks without inodes or links."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from model import DIRECTORY
from simdisk import SimDisk
from test_faults import new_disk, new_store, put, turn
from test_fulldisk import FULL, Owner
from test_quarantine import QUARANTINE, evidence, leave, reported, with_damage

from radiator.store.base import StoreQueue
from radiator.store.file.engine import FileStore
from radiator.store.file.format import Names
from radiator.store.file.reclaim import remove
from radiator.store.file.segment import Segment
from radiator.store.file.spares import SPARES, Puts, Spares

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Listener:
    """Counts the calls of `on_ready`."""

    def __init__(self, queue: StoreQueue) -> None:
        self.calls = 0
        queue.on_ready = self.called

    def called(self) -> None:
        self.calls += 1


def refuse(
    disk: SimDisk, name: str, number: int, which: Callable[[str], bool] = lambda path: True
) -> Callable[[], None]:
    """Let the operation `name` fail with errno `number` for such paths; what is returned ends that."""
    right = getattr(disk, name)

    def failing(path: str, *arguments: Any, **options: Any) -> Any:
        if (name != "open" or options.get("create")) and which(path):
            raise OSError(number, os.strerror(number), path)
        return right(path, *arguments, **options)

    setattr(disk, name, failing)
    return lambda: setattr(disk, name, right)


# ------------------------------------------------------------------ claims that brought nothing


def one_damaged() -> tuple[SimDisk, FileStore, StoreQueue, Listener]:
    disk, store, queue, _, _ = with_damage()
    (first,) = store.claim(queue, 1, 1 << 20)
    assert first.id == 1
    return disk, store, queue, Listener(queue)


def test_the_message_behind_a_damaged_one_is_told_of_when_that_is_dead() -> None:
    _, store, queue, heard = one_damaged()
    assert not store.claim(queue, 1, 1 << 20)
    assert (heard.calls, queue.ready) == (0, 1)
    for _ in range(3):
        turn(store)
    assert heard.calls
    assert [delivery.id for delivery in store.claim(queue, 1, 1 << 20)] == [3]


def test_it_is_told_of_while_a_full_disk_refuses_the_note() -> None:
    disk, store, queue, heard = one_damaged()
    refuse(disk, "open", errno.ENOSPC, lambda path: path.endswith(".keep.tmp"))
    assert not store.claim(queue, 1, 1 << 20)
    for _ in range(3):
        turn(store)
    assert heard.calls == 0
    store._reads.retry()
    assert heard.calls == 1
    assert [delivery.id for delivery in store.claim(queue, 1, 1 << 20)] == [3]
    store._reads.retry()
    assert heard.calls == 1


# ------------------------------------------------------------------ reads that failed for a moment


def cold(number: int) -> tuple[SimDisk, FileStore, StoreQueue, Callable[[], None]]:
    """A store with three messages of which none is in memory, and reads that fail with errno `number`."""
    disk = new_disk()
    store = new_store(disk)
    queue = store.declare("/queue/a")
    for body in (b"one", b"two", b"three"):
        put(store, queue, body)
    disk.cold = lambda: True
    right = disk.read

    def read(fd: int, offset: int, length: int) -> bytes:
        raise OSError(number, os.strerror(number))

    disk.read = read  # type: ignore[method-assign]

    def mend() -> None:
        disk.read = right  # type: ignore[method-assign]

    return disk, store, queue, mend


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EINTR, errno.EMFILE, errno.EAGAIN, errno.ETIMEDOUT])
def test_a_read_that_failed_for_a_moment_loses_nothing(number: int) -> None:
    disk, store, queue, mend = cold(number)
    heard = Listener(queue)
    for _ in range(3):
        assert not store.claim(queue, 3, 1 << 20)
        store.completed()
        store.completed()
        assert heard.calls == 0, "nobody is asked to try again at once: that would spin"
        store._reads.retry()
        assert heard.calls == 1
        heard.calls = 0
    assert (queue.ready, queue.in_flight) == (3, 0)
    mend()
    assert not store.claim(queue, 3, 1 << 20)
    store.completed()
    assert heard.calls == 1
    assert [delivery.id for delivery in store.claim(queue, 3, 1 << 20)] == [1, 2, 3]
    assert not disk.list_directory(QUARANTINE)


def test_the_operator_hears_once_of_reads_that_fail() -> None:
    _, store, queue, _ = cold(errno.ENOMEM)
    events: list[str] = []
    store._reads._report = lambda event, **fields: events.append(f"{event}: {fields['queue']} {fields['reason']}")
    for _ in range(3):
        store.claim(queue, 3, 1 << 20)
        store.completed()
        store._reads.retry()
    assert events == [f"a message could not be read and is tried again: /queue/a {os.strerror(errno.ENOMEM)}"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EBADMSG, errno.EILSEQ])
def test_a_read_that_the_device_refuses_is_damage(number: int) -> None:
    disk, store, queue, mend = cold(number)
    for _ in range(8):
        store.claim(queue, 1, 1 << 20)
        store.completed()
    mend()
    turn(store)
    turn(store)
    assert queue.ready + queue.in_flight == 0
    assert disk.list_directory(QUARANTINE) == ["00000002.keep"]


# ------------------------------------------------------------------ no inodes


class CountingJobs:
    """Jobs that are counted and done at once."""

    def __init__(self) -> None:
        self.ran = 0

    def run(self, function: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self.ran += 1
        done(function(), None)


@pytest.mark.parametrize("number", NO_ROOM)
def test_a_spare_that_cannot_be_made_is_left_to_the_tick(number: int) -> None:
    """The file system says that much is free, and refuses: a quota, or no inodes."""
    disk, jobs, names = new_disk(), CountingJobs(), Names(DIRECTORY)
    disk.make_parents(names.log)
    spares = Spares(disk, jobs, names, segment_bytes=1 << 16, stop_free=0, report=lambda event, **fields: None)  # type: ignore[arg-type]
    spares.look()
    assert spares.wanted
    mend = refuse(disk, "open", number)
    made = spares.next()
    assert not spares.make(made)
    spares.made(made, 0)
    assert (spares.wanted, spares.puts, jobs.ran) == (False, Puts.REFUSED, 0)
    mend()
    spares.tick(1.0)
    assert spares.wanted
    while spares.wanted:
        made = spares.next()
        spares.made(made, spares.make(made))
    assert (spares.short, spares.puts, jobs.ran) == (False, Puts.TAKEN, 1 + SPARES)


@pytest.mark.parametrize("number", NO_ROOM)
def test_without_inodes_puts_are_refused_and_nothing_else(number: int) -> None:
    owner = Owner(new_disk())
    for count in range(10):
        owner.put(b"%d" % count)
    mend = refuse(owner.disk, "open", number)
    bodies = [b"%d" % count for count in range(10)] + owner.fill()
    assert len(bodies) > 10
    assert owner.events == [FULL]
    owner.second(3)
    while bodies:
        assert owner.ack() == bodies.pop(0)
    mend()
    owner.second(5)
    owner.put(b"more")
    assert owner.store._spares.puts is Puts.TAKEN


# ------------------------------------------------------------------ notes that a full disk refuses at a start


@pytest.mark.parametrize("links", [True, False])
def test_a_start_that_cannot_write_its_notes_goes_on(links: bool) -> None:
    disk, store, _, _, path = with_damage()
    store.tick(1.0)
    store.tick(2.0)
    turn(store)
    damaged = bytes(disk.inode(path).data[: 5 * 4096])
    crashed = disk.survive()
    again, _ = reported(crashed)
    mend = refuse(crashed, "open", errno.ENOSPC, lambda name: name.endswith(".keep.tmp"))
    if not links:
        refuse(crashed, "link", errno.EPERM)
    rng = Random(1)
    queue = again.declare("/queue/a")
    leave(again, queue)
    assert (queue.ready, queue.in_flight) == (0, 0)
    assert path in crashed.contents(), "not noted, not removed"
    if links:
        for found in (crashed.power_cut(rng), crashed.survive()):
            third, _ = reported(found)
            leave(third, third.declare("/queue/a"))
            assert evidence(found, damaged)
    mend()
    again.tick(5.0)
    for _ in range(3):
        turn(again)
    assert path not in crashed.contents()
    assert evidence(crashed, damaged) == [f"{QUARANTINE}/00000002.seg"]
    assert "found at the start" in crashed.contents()[f"{QUARANTINE}/00000002.keep"].decode()


def test_a_note_that_fails_for_another_reason_fails_the_birth() -> None:
    disk, store, _, _, _ = with_damage()
    store.tick(1.0)
    store.tick(2.0)
    turn(store)
    crashed = disk.survive()
    again = new_store(crashed)
    refuse(crashed, "open", errno.EROFS, lambda name: name.endswith(".keep.tmp"))
    with pytest.raises(Exception, match="Read-only file system"):
        put(again, again.declare("/queue/a"), b"more")


# ------------------------------------------------------------------ no links


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_a_damaged_segment_is_renamed_where_there_are_no_links(number: int) -> None:
    disk, store, queue, _, path = with_damage()
    refuse(disk, "link", number)
    leave(store, queue)
    assert path not in disk.contents()
    after = disk.power_cut(Random(1), names_kept=0.0)
    assert f"{QUARANTINE}/00000002.seg" in after.contents()
    assert path not in after.contents()


def test_a_damaged_segment_stays_in_its_directory_where_quarantine_is_on_another_file_system() -> None:
    disk, store, queue, _, path = with_damage()
    damaged = bytes(disk.inode(path).data[: 5 * 4096])
    rename = disk.rename

    def inside(source: str, target: str) -> None:
        if os.path.dirname(source) != os.path.dirname(target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source)
        rename(source, target)

    disk.rename = inside  # type: ignore[method-assign]
    refuse(disk, "link", errno.EXDEV)
    leave(store, queue)
    after = disk.power_cut(Random(1), names_kept=0.0)
    assert evidence(after, damaged) == [f"{path}.aside"]
    again, _ = reported(after)
    put(again, again.declare("/queue/a"), b"more")
    assert evidence(after, damaged) == [f"{path}.aside"]


def test_a_segment_that_is_gone_already_is_no_failure() -> None:
    disk, names = new_disk(), Names(DIRECTORY)
    for directory in (names.log, names.quarantine):
        disk.make_parents(directory)
    disk.place(names.segment(2), b"two")
    remove(disk, names, [Segment(1, 0, 0), Segment(2, 0, 0)])
    assert not disk.contents()
