"""The full disk, simulated: puts are refused, all else goes on, for as long as it takes; crashes at every step."""

from __future__ import annotations

import contextlib
import errno
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from model import DIRECTORY, read_everything
from simdisk import SimDisk
from test_faults import new_disk, put, turn

from radiator.broker.transaction import OPERATION_BYTES, Transaction
from radiator.config.schema import Limits
from radiator.errors import Refused, StoreBusy, StoreFailed
from radiator.message import Delivery, Message
from radiator.store.base import StoreQueue, Unit
from radiator.store.file.engine import FileStore
from radiator.store.file.spares import Puts, Spares
from radiator.store.file.syncer import InlineJobs, InlineSyncer

SEGMENT = 32768
LOG = f"{DIRECTORY}/log"
FULL = "the disk is full: persistent messages are refused until there is room"
ROOM = "the disk has room again: persistent messages are taken"


class FakeQueue:
    """Persistent queue `number`, as far as a transaction looks at it."""

    persistent = True

    def __init__(self, number: int) -> None:
        self.handle = StoreQueue(f"/queue/{number}", number)

    def delivery(self, id: int) -> Delivery:
        """Message `id` of it, in somebody's hands."""
        delivery = Delivery(self.handle, id, 0, None)
        delivery.subscription = SimpleNamespace(queue=self)
        return delivery


class Owner:
    """A store on a disk, its clock, and what it reported."""

    def __init__(self, disk: SimDisk, stop_free: int = 0, now: float = 0.0, segment_bytes: int = SEGMENT) -> None:
        self.disk = disk
        self.now = now
        self.events: list[str] = []
        self.store = FileStore(
            DIRECTORY,
            segment_bytes=segment_bytes,
            buffer_bytes=16384,
            fsio=disk,
            syncer=InlineSyncer(disk),
            jobs=InlineJobs(),
            stop_free=stop_free,
            report=lambda event, **fields: self.events.append(event),
            entropy=bytes,
        )
        self.store.open(self.now, 1)
        self.queue: StoreQueue = self.store.declare("/queue/a")

    def second(self, count: int = 1) -> None:
        """Time passes."""
        for _ in range(count):
            self.now += 1.0
            self.store.tick(self.now)
            turn(self.store)

    def put(self, body: bytes) -> None:
        put(self.store, self.queue, body)

    def ack(self) -> bytes:
        """Claim one message and settle it alone, durable when this returns; its body."""
        while not (got := self.store.claim(self.queue, 1, 1 << 20)):
            assert self.queue.ready
            turn(self.store)
        unit = Unit()
        unit.settle(self.queue, got[0].id)
        number = self.store.append(unit)
        turn(self.store)
        turn(self.store)
        assert self.store.committed >= number
        assert got[0].message is not None
        return got[0].message.body

    def fill(self) -> list[bytes]:
        """Put until that is refused; the bodies that were taken."""
        taken: list[bytes] = []
        try:
            while len(taken) < 10000:
                body = b"%d:" % len(taken) + bytes(900)
                self.put(body)
                taken.append(body)
        except Refused:
            return taken
        raise AssertionError("the disk was never full")


def filled(segments: float = 8, stop_free: int = 0) -> tuple[Owner, list[bytes]]:
    """A store on a disk of so many segments' size, full to the brim: what is free, another program takes."""
    disk = new_disk()
    disk.capacity = int(segments * SEGMENT)
    owner = Owner(disk, stop_free)
    taken = owner.fill()
    steal(disk)
    return owner, taken


def steal(disk: SimDisk) -> None:
    """Another program takes all that is free."""
    disk.make_parents("/other")
    fd = (
        disk.open("/other/thief", write=True)
        if "/other/thief" in disk.contents()
        else disk.open("/other/thief", create=True)
    )
    disk.allocate(fd, disk.size(fd) + disk.free_bytes("/"))
    disk.close(fd)


def give_back(disk: SimDisk) -> None:
    """It is gone."""
    disk.unlink("/other/thief")


def over_quota(disk: SimDisk, what: str) -> None:
    """From now on no file gets "blocks", or no new one in log/ its "inode", whatever the file system says is free."""
    allocate, open_file = disk.allocate, disk.open

    def no_blocks(fd: int, length: int) -> None:
        if length > disk.size(fd):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        allocate(fd, length)

    def no_inode(path: str, *, write: bool = False, create: bool = False) -> int:
        if create and path.startswith(LOG) and path not in disk.contents():
            raise OSError(errno.ENOSPC, "No space left on device")
        return open_file(path, write=write, create=create)

    if what == "blocks":
        disk.allocate = no_blocks  # type: ignore[method-assign]
    else:
        disk.open = no_inode  # type: ignore[method-assign]


def spares(disk: SimDisk) -> list[str]:
    return [name for name in disk.list_directory(LOG) if name.startswith("spare")]


def newest(disk: SimDisk) -> str:
    return max(name for name in disk.list_directory(LOG) if name.endswith(".seg"))


# ------------------------------------------------------------------ what is refused, and what is not


def test_spares_of_real_blocks_are_made_with_the_store() -> None:
    owner = Owner(new_disk())
    owner.put(b"one")
    assert spares(owner.disk) == ["spare-1", "spare-2", "spare-3"]
    for name in spares(owner.disk):
        assert owner.disk.contents()[f"{LOG}/{name}"] == bytes(SEGMENT)
    assert owner.disk.power_cut(Random(1), 0.0, 0.0).contents()[f"{LOG}/spare-1"] == bytes(SEGMENT)


def test_a_put_below_stop_free_is_refused_with_the_limit_named() -> None:
    disk = new_disk()
    disk.capacity = 100 * SEGMENT
    owner = Owner(disk, stop_free=SEGMENT * 10 + 5)
    owner.put(b"kept")
    disk.capacity = disk.used() + SEGMENT * 10 + 5
    owner.second()
    owner.put(b"exactly at the limit")
    disk.capacity -= 1
    owner.second()
    with pytest.raises(
        Refused, match=rf"the disk is full: {SEGMENT * 10 + 4} bytes are free, disk.stop_free is 327685"
    ):
        owner.put(b"refused")
    unit = Unit()
    unit.put(Message(12, True, b"destination:x\n", b"refused"), [owner.queue])
    unit.settle(owner.queue, owner.store.claim(owner.queue, 1, 99)[0].id)
    for ask in (owner.store.check, owner.store.append):
        with pytest.raises(Refused):
            ask(unit)
    assert owner.events == [FULL]
    assert owner.ack() == b"exactly at the limit"
    assert owner.queue.in_flight == 1  # the unit was refused whole


def test_it_recovers_with_a_margin_and_says_both_once() -> None:
    disk = new_disk()
    disk.capacity = 100 * SEGMENT
    owner = Owner(disk, stop_free=SEGMENT * 10)
    owner.put(b"kept")
    used = disk.used()
    ready: list[int] = []
    owner.store.resumed = lambda: ready.append(1)
    for free, full in ((10, False), (9, True), (10, True), (10.9, True), (11, False), (10, False), (9.9, True)):
        disk.capacity = used + int(SEGMENT * free)
        ready.clear()
        owner.second()
        if full:
            with pytest.raises(Refused):
                owner.store.check(unit_of(owner))
        else:
            owner.store.check(unit_of(owner))
        assert bool(ready) == (free == 11)  # dead letters that were refused are tried again
        owner.second(3)
    assert owner.events == [FULL, ROOM, FULL]


def unit_of(owner: Owner, size: int = 1) -> Unit:
    unit = Unit()
    unit.put(Message(12, True, b"destination:x\n", bytes(size)), [owner.queue])
    return unit


def test_it_is_asked_every_second_and_after_each_birth() -> None:
    disk = new_disk()
    owner = Owner(disk)
    turn(owner.store)
    turn(owner.store)
    asked: list[float] = []
    disk.free_bytes = lambda path: asked.append(owner.now) or 1 << 40  # type: ignore[method-assign, func-returns-value]
    owner.store.tick(0.0)
    turn(owner.store)
    owner.store.tick(0.9)
    turn(owner.store)
    owner.second(2)
    assert asked == [0.0, 1.0, 2.0]
    owner.put(bytes(SEGMENT))
    turn(owner.store)
    assert asked == [0.0, 1.0, 2.0, 2.0]


def test_what_was_accepted_when_the_disk_is_met_full_is_kept() -> None:
    """The put came before anybody knew; it goes to the spare, and is receipted."""
    disk = new_disk()
    disk.capacity = 5 * SEGMENT
    owner = Owner(disk)
    disk.capacity = disk.used()
    number = put(owner.store, owner.queue, b"accepted")
    assert owner.store.committed == number
    assert owner.events == [FULL]
    with pytest.raises(Refused, match="0 bytes are free"):
        owner.put(b"refused")
    again = Owner(disk.power_cut(Random(1), 0.0, 0.0))
    assert again.ack() == b"accepted"


def test_a_unit_that_only_a_fresh_segment_could_hold_is_refused_where_none_is_sure() -> None:
    disk = new_disk()
    owner = Owner(disk)
    owner.put(b"kept")
    unit = Unit()
    for _ in range(400):
        unit.put(Message(12, True, b"", b"x" * 80), [owner.queue])
    size = 400 * (80 + 80 + 12)
    disk.capacity = disk.used() + SEGMENT + size - 1
    owner.second()
    for ask in (owner.store.check, owner.store.append):
        with pytest.raises(Refused, match=rf"full for {size} bytes in one piece: {SEGMENT + size - 1} bytes"):
            ask(unit)
    owner.put(b"a small one is taken")
    disk.capacity = disk.used() + SEGMENT + size
    owner.second()
    number = owner.store.append(unit)
    turn(owner.store)
    assert owner.store.committed == number


def test_what_was_refused_in_one_piece_is_tried_again_when_it_has_room() -> None:
    """A dead letter that is large waits for room though the disk is not full: it must be woken."""
    disk = new_disk()
    disk.capacity = 100 * SEGMENT
    owner = Owner(disk)
    owner.put(b"kept")
    used = disk.used()
    woken: list[float] = []
    owner.store.resumed = lambda: woken.append(owner.now)

    def refuse(size: int, free: int) -> None:
        disk.capacity = used + free
        owner.second()
        unit = Unit()
        unit.put(Message(12, True, b"", bytes(size)), [owner.queue])
        with pytest.raises(Refused, match="in one piece"):
            owner.store.check(unit)

    size = 2 * SEGMENT
    refuse(size + 5000, 2 * SEGMENT)
    refuse(size, 2 * SEGMENT)
    refuse(size + 9000, 2 * SEGMENT)
    needed = size + SEGMENT + 80 + 12
    for free, times in ((2 * SEGMENT, 0), (needed - 1, 0), (needed, 1), (needed, 0), (needed + 9000, 0)):
        disk.capacity = used + free
        woken.clear()
        owner.second()
        assert len(woken) == times
    assert owner.events == []


def test_settlements_in_one_piece_that_no_spare_could_hold_are_refused_on_a_full_disk() -> None:
    """Refused at the COMMIT: as an error of the disk they would end the broker."""
    disk = new_disk()
    owner = Owner(disk)
    one = Unit()
    one.put(Message(12, True, b"", b"x"), [owner.queue])
    for _ in range(1100):
        owner.store.append(one)
    for _ in range(8):
        turn(owner.store)
    disk.capacity = disk.used()
    owner.second()
    held = owner.store.claim(owner.queue, 2000, 1 << 20)
    assert len(held) == 1100
    unit = Unit()
    for delivery in held:
        unit.settle(owner.queue, delivery.id)
    with pytest.raises(Refused, match=f"full for {32 + 16 * 1100} bytes in one piece"):
        owner.store.check(unit)
    for delivery in held:
        number = owner.store.settle(owner.queue, delivery.id)
    for _ in range(8):
        turn(owner.store)
    assert owner.store.committed == number


def test_a_transaction_of_acks_alone_has_room_on_a_full_disk() -> None:
    """As many as `limits.transaction` allows where it is not configured, and however they are mixed."""
    disk = new_disk()
    disk.capacity = 3 << 24  # the spares, and no byte more
    store = FileStore(DIRECTORY, fsio=disk, syncer=InlineSyncer(disk), jobs=InlineJobs())
    store.open(0.0, 1)
    assert store._spares.puts is Puts.REFUSED
    limits = Limits()
    count = limits.transaction // OPERATION_BYTES
    transaction = Transaction()
    queues = [FakeQueue(number) for number in range(1000)]
    transaction.acked = [queues[id % 1000].delivery(id) for id in range(count)]
    durable = transaction.parts().durable
    assert durable is not None
    assert len(durable.settled) == count
    store.check(durable)
    durable.settled *= 4
    with pytest.raises(Refused, match="in one piece"):
        store.check(durable)


@pytest.mark.parametrize("spared", range(3))
def test_a_start_without_spares_knows_what_a_segment_takes(spared: int) -> None:
    """As much free as a segment has, or takes, less or more a byte: the first write finds its blocks."""
    disk = new_disk()
    Owner(disk).put(b"old")
    for name in spares(disk):
        disk.unlink(f"{LOG}/{name}")
    disk = disk.survive()
    disk.capacity = disk.used() + (SEGMENT, SEGMENT + SEGMENT // 32 - 1, SEGMENT + SEGMENT // 32)[spared]
    assert Owner(disk).ack() == b"old"


def test_a_disk_over_its_quota_is_full_though_bytes_are_free() -> None:
    disk = new_disk()
    owner = Owner(disk)
    right = disk.allocate

    def allocate(fd: int, length: int) -> None:
        raise OSError(122, "Disk quota exceeded")

    disk.allocate = allocate  # type: ignore[method-assign]
    owner.put(b"accepted")
    owner.second(3)
    with pytest.raises(
        Refused, match=r"bytes are free, but a file of \d+ could not be made \(a quota, or no inode left"
    ):
        owner.put(b"refused")
    disk.allocate = right  # type: ignore[method-assign]
    owner.second(3)
    owner.put(b"taken")
    assert owner.events == [FULL, ROOM]
    assert len(spares(disk)) == 3


@pytest.mark.parametrize("what", ["blocks", "inode"])
@pytest.mark.parametrize("how", ["clean", "kill", "power"])
def test_starts_over_a_quota_do_not_take_the_spares_for_puts(how: str, what: str) -> None:
    """The first put is in before anybody knows; a start that misses a spare takes no other, or ACKs would have none."""
    owner = Owner(new_disk())
    taken = [b"%d:" % number + bytes(3000) for number in range(12)]
    for body in taken:
        owner.put(body)
    rng = Random(3)

    def restart() -> Owner:
        if how == "clean":
            owner.store.close()
        disk = owner.disk.power_cut(rng) if how == "power" else owner.disk.survive()
        over_quota(disk, what)
        return Owner(disk, now=owner.now)

    for _ in range(5):
        owner = restart()
        with contextlib.suppress(Refused):
            owner.put(bytes(5000))  # too much to be copied elsewhere at once
            taken.append(bytes(5000))
        turn(owner.store)
        assert owner.events == [FULL]
    assert len(taken) == 12 + 1
    for number, body in enumerate(taken):
        assert owner.ack() == body
        if number % 3 == 0:
            owner = restart()
    owner = Owner(owner.disk.survive(), now=owner.now)
    owner.second(4)
    owner.put(b"taken again")
    assert len(spares(owner.disk)) == 3


def test_a_start_that_misses_a_spare_takes_puts_when_it_has_made_it() -> None:
    """It says why, is no event, and ends at once by itself."""
    disk = new_disk()
    Owner(disk).put(b"old")
    disk = disk.survive()
    disk.unlink(f"{LOG}/spare-2")
    owner = Owner(disk)
    woken: list[str] = []
    owner.store.resumed = lambda: woken.append("dead letters that were refused are tried again")
    with pytest.raises(Refused, match="has just been started, and its spare segments are not ready yet"):
        owner.put(b"too early")
    assert not owner.store.has_room(), "who sends a message alone waits for that moment"
    with pytest.raises(StoreBusy):
        owner.store.put(owner.queue, Message(12, True, b"", b"too early"))
    assert not woken
    owner.store.tick(owner.now)
    turn(owner.store)
    assert woken
    owner.put(b"taken")
    assert owner.events == []


# ------------------------------------------------------------------ spares of half the size


def halved(disk: SimDisk, size: int = SEGMENT) -> SimDisk:
    """What a start finds where a full disk had room for half of each spare, whose size is `size`."""
    disk = disk.survive()
    for name in spares(disk):
        inode = disk.inode(f"{LOG}/{name}")
        del inode.data[size // 2 :], inode.durable[size // 2 :]
    return disk


def sizes(disk: SimDisk) -> list[int]:
    return [len(disk.contents()[f"{LOG}/{name}"]) for name in spares(disk)]


def test_small_spares_become_whole_when_there_is_room() -> None:
    """However they came to be small: a start finds them so, and one that is made anew gets no more."""
    disk = new_disk()
    Owner(disk).put(b"old")
    disk = halved(disk)
    disk.capacity = disk.used() + SEGMENT // 2 - 1
    owner = Owner(disk)
    owner.second(2)
    assert sizes(disk) == [SEGMENT // 2] * 3
    disk.capacity += 1
    owner.second(2)
    assert sorted(sizes(disk)) == [SEGMENT // 2, SEGMENT // 2, SEGMENT]
    disk.capacity += SEGMENT + SEGMENT  # for two halves, and for what a segment takes
    owner.second(2)
    assert sizes(disk) == [SEGMENT] * 3
    assert owner.events == [FULL, ROOM]
    owner.put(b"taken")


def test_a_start_with_small_spares_takes_puts_when_they_are_whole() -> None:
    disk = new_disk()
    Owner(disk).put(b"old")
    disk = halved(disk)
    owner = Owner(disk)
    with pytest.raises(Refused, match="has just been started"):
        owner.put(b"too early")
    owner.second(2)
    owner.put(b"taken")
    assert owner.events == []
    assert sizes(disk) == [SEGMENT] * 3


def test_a_spare_that_stays_small_is_not_made_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system says that there is room, and gives none."""
    disk = new_disk()
    Owner(disk).put(b"old")
    disk = halved(disk)
    over_quota(disk, "blocks")
    made: list[int] = []
    right = Spares.make
    monkeypatch.setattr(Spares, "make", lambda self, number: made.append(number) or right(self, number))  # type: ignore[func-returns-value]
    owner = Owner(disk)
    for _ in range(10):
        turn(owner.store)
    assert 1 <= len(made) <= 2, "at once, and after the birth"
    owner.second(3)
    assert len(made) <= 2 + 3
    with pytest.raises(Refused, match="the disk is full"):
        owner.put(b"refused")
    assert owner.events == [FULL]
    assert owner.ack() == b"old"


def test_what_small_spares_cannot_hold_in_one_batch_is_refused() -> None:
    """A spare of half the size, the half of it for what a segment begins with, and what stands in the batch already."""
    large = 8 * SEGMENT
    disk = new_disk()
    owner = Owner(disk, segment_bytes=large)
    one = Unit()
    one.put(Message(12, True, b"", b"x"), [owner.queue])
    for _ in range(3000):
        owner.store.append(one)
        if owner.store._log.closed:
            turn(owner.store)
    turn(owner.store)
    size = owner.store._spares.size
    disk = halved(disk, size)
    disk.capacity = disk.used()
    owner = Owner(disk, segment_bytes=large)
    steal(disk)
    turn(owner.store)
    held = owner.store.claim(owner.queue, 3000, 1 << 20)
    assert len(held) == 3000
    room = size // 4

    def unit(count: int) -> Unit:
        """The next of the held, as many as that."""
        settled = Unit()
        for delivery in held[:count]:
            settled.settle(owner.queue, delivery.id)
        return settled

    whole = (room - 64 - 32) // 16
    with pytest.raises(Refused, match="in one piece"):
        owner.store.check(unit(whole + 1))
    owner.store.check(unit(whole))
    last = held.pop()
    owner.store.settle(owner.queue, last.id)
    with pytest.raises(Refused, match="in one piece"):
        owner.store.check(unit(whole))  # with the one that stands there already
    settled = unit(whole - 3)
    owner.store.check(settled)
    number = owner.store.append(settled)
    turn(owner.store)
    turn(owner.store)
    assert owner.store.committed == number


def test_a_start_takes_puts_at_once() -> None:
    disk = new_disk()
    Owner(disk).put(b"old")
    owner = Owner(disk.survive())
    owner.store.check(unit_of(owner))
    owner.put(b"new")
    assert owner.events == []


# ------------------------------------------------------------------ consumers drain, however long it takes


@pytest.mark.parametrize("thief", [False, True])
@pytest.mark.parametrize("restart", ["no", "clean", "kill", "power"])
def test_acks_one_at_a_time_drain_a_full_disk(restart: str, thief: bool) -> None:
    """Each is durable by itself; births go from spare to spare. What a thief gets, he keeps."""
    owner, taken = filled()
    rng = Random(7)
    births = 0
    acked: list[bytes] = []
    while len(acked) < len(taken):
        acked.append(owner.ack())
        if thief:
            steal(owner.disk)
        if len(acked) % 5 == 0:
            owner.second()
        if len(acked) % 4 == 0 and restart != "no":
            if restart == "clean":
                owner.store.close()
            disk = owner.disk.power_cut(rng) if restart == "power" else owner.disk.survive()
            if thief:
                steal(disk)
            owner = Owner(disk, now=owner.now)
            births += 1
        if thief:
            with pytest.raises(Refused):
                owner.put(b"refused")
    assert acked == taken
    assert owner.queue.ready == 0
    if restart == "no":
        births = owner.store._log.tail.number - 2 - len(taken) // 8
    assert births >= 4, "the spares were used again"
    if thief:
        give_back(owner.disk)
    owner.second(4)
    owner.put(b"taken again")
    assert read_everything(owner.store)["/queue/a"].popitem()[1] == b"taken again"
    assert len(spares(owner.disk)) == 3


@pytest.mark.parametrize("alone", [True, False])
def test_a_flood_of_acks_is_never_more_than_a_spare_can_hold(alone: bool) -> None:
    """All at once and now of one queue, now of another, by a consumer with a window of thousands.

    Only what is at the disk is bounded.
    """
    disk = new_disk()
    disk.capacity = 10 * SEGMENT
    owner = Owner(disk)
    store, queue = owner.store, owner.queue
    queues = [queue, store.declare("/queue/b")]
    unit = Unit()
    unit.put(Message(12, True, b"", b"x"), queues)
    while store._spares.puts is not Puts.REFUSED:
        for _ in range(50):
            store.append(unit)
        turn(store)
    steal(disk)
    held = [each for pair in zip(*(store.claim(q, 1 << 20, 1 << 30) for q in queues), strict=True) for each in pair]
    assert len(held) * 48 > 2 * SEGMENT, "as settlements are counted where no two of a queue come together"
    # Not all, or the settlements would be joined to one range, and the batch would be small in the end.
    numbers: list[int] = []
    settled = [delivery for delivery in held if delivery.id % 2]
    for delivery in settled:
        if alone:
            numbers.append(store.settle(delivery.queue, delivery.id))
        else:
            unit = Unit()
            unit.settle(delivery.queue, delivery.id)
            numbers.append(store.append(unit))
    assert len(set(numbers)) > 3, "they are in one batch"
    moments: list[tuple[SimDisk, int]] = []
    disk.before = lambda what: moments.append((disk.copy(), store.committed))
    while store.committed < numbers[-1]:
        turn(store)
        steal(disk)
    disk.before = lambda what: None
    moments.append((disk, store.committed))
    order = [(delivery.queue.name, delivery.id) for delivery in settled]
    for moment, committed in moments:
        there = read_everything(Owner(moment.power_cut(Random(1))).store)
        gone = {
            (delivery.queue.name, delivery.id) for delivery in held if delivery.id not in there[delivery.queue.name]
        }
        told = sum(number <= committed for number in numbers)
        assert len(gone) >= told
        assert gone == set(order[: len(gone)]), "batches overtook each other"


def test_a_forest_of_acks_needs_no_room_at_all() -> None:
    """Releases and redeclared queues keep the log growing while nothing dies but what was written since."""
    owner, _ = filled(6)
    rng = Random(9)
    steal(owner.disk)
    for number in range(200):
        queue = owner.store.declare(f"/queue/{number}" + "x" * rng.choice((1, 1, 13000)))
        turn(owner.store)
        owner.store.drop(queue)
        turn(owner.store)
        steal(owner.disk)
    assert owner.store._log.tail.number > 20
    assert owner.events == [FULL]
    assert {len(owner.disk.contents()[f"{LOG}/{name}"]) for name in spares(owner.disk)} == {SEGMENT}, "they shrink"


def test_a_start_on_a_full_disk_serves_consumers() -> None:
    owner, taken = filled()
    disk = owner.disk.survive()
    for _ in range(6):  # each start opens a segment of its own, and each is killed at once
        owner = Owner(disk)
        assert owner.ack() == taken.pop(0)
        disk = owner.disk.survive()
    assert FULL in owner.events


def test_starts_that_are_killed_at_once_do_not_use_up_the_spares() -> None:
    """Each has a segment born, which the next one finds dead; its blocks must serve before any other is needed."""
    owner, taken = filled()
    disk = owner.disk.survive()
    for number in range(8):
        owner = Owner(disk)
        steal(disk)
        before = newest(disk)
        killed: list[SimDisk] = []

        def kill(what: str, before: str = before, disk: SimDisk = disk, killed: list[SimDisk] = killed) -> None:
            """Born, and nothing of what is dead since then has another name yet."""
            if what in ("rename", "unlink") and newest(disk) > before and not killed:
                killed.append(disk.copy())

        disk.before = kill
        owner.store.declare(f"/queue/{number}")
        turn(owner.store)
        disk = killed[0] if killed else disk.survive()
    assert Owner(disk).ack() == taken[0]


def test_a_start_without_spares_on_a_full_disk_refuses_puts() -> None:
    owner, taken = filled()
    owner.second(5)  # no dead segment is left, whose blocks would do
    disk = owner.disk.survive()
    for name in spares(disk):
        disk.unlink(f"{LOG}/{name}")
    steal(disk)
    owner = Owner(disk)
    with pytest.raises(Refused):
        owner.store.check(unit_of(owner))
    with pytest.raises(StoreFailed, match=r"\.seg cannot be made: No space left.*mend the disk, then start again"):
        owner.ack()
    assert not [name for name in disk.list_directory(LOG) if name.endswith(".tmp")]
    give_back(disk)
    owner = Owner(disk)
    assert owner.ack() == taken[0]


@pytest.mark.parametrize("what", ["blocks", "inode"])
def test_a_start_without_spares_over_a_quota_has_the_blocks_of_what_is_dead(what: str) -> None:
    """Killed when the last spare was a segment and the one before it, dead, had its old name still."""
    disk = new_disk()
    owner = Owner(disk)
    for _ in range(9):
        owner.put(bytes(3000))
    held = owner.store.claim(owner.queue, 9, 1 << 20)
    killed: list[SimDisk] = []
    disk.before = lambda what: killed.append(disk.copy()) if what == "unlink" else None
    for delivery in held[:-1]:
        owner.store.settle(owner.queue, delivery.id)
    owner.second(2)
    disk = killed[0]
    for name in spares(disk):
        disk.unlink(f"{LOG}/{name}")
    over_quota(disk, what)
    owner = Owner(disk)
    assert owner.ack() == bytes(3000)
    assert owner.events == [FULL]


def test_a_store_without_spares_gets_them() -> None:
    disk = new_disk()
    Owner(disk).put(b"old")
    for name in spares(disk):
        disk.unlink(f"{LOG}/{name}")
    owner = Owner(disk.survive())
    assert owner.events == []
    assert spares(owner.disk) == []  # a start writes nothing
    owner.second(3)
    assert spares(owner.disk) == ["spare-1", "spare-2", "spare-3"]


def test_an_opening_batch_that_no_spare_can_hold_fails_clearly() -> None:
    disk = new_disk()
    owner = Owner(disk)
    for number in range(4):
        owner.store.declare("/queue/" + str(number) * 9000)
        turn(owner.store)
    owner.second(8)
    disk = owner.disk.survive()
    assert min(len(disk.contents()[f"{LOG}/{name}"]) for name in spares(disk)) > SEGMENT, "they grow with it"
    for name in spares(disk):
        del disk.inode(f"{LOG}/{name}").data[SEGMENT:]
    disk.capacity = disk.used()
    owner = Owner(disk)
    owner.store.declare("/queue/one more")
    with pytest.raises(StoreFailed, match=r"the disk is full, and what a segment begins with \(\d+ bytes\) is more"):
        turn(owner.store)


def test_a_spare_of_unknown_content_is_zeroed_before_it_is_used() -> None:
    owner, taken = filled()
    disk = owner.disk.survive()
    for name in ("spare-1", "spare-2"):
        assert name in spares(disk)
        inode = disk.inode(f"{LOG}/{name}")
        inode.data[:] = bytes(SEGMENT // 2) + b"x" * (SEGMENT // 2)
        inode.data[100] = 1
    owner = Owner(disk)
    owner.second(2)
    assert all(disk.contents()[f"{LOG}/{name}"] == bytes(SEGMENT) for name in spares(disk))
    assert owner.ack() == taken[0]


def test_a_segment_with_a_second_name_is_not_recycled() -> None:
    """A snapshot has it: its bytes must stay."""
    owner, taken = filled()
    disk = owner.disk
    disk.make_parents("/snapshot")
    kept = {}
    for name in disk.list_directory(LOG):
        if name.endswith(".seg"):
            disk.link(f"{LOG}/{name}", f"/snapshot/{name}")
            kept[name] = bytes(disk.inode(f"/snapshot/{name}").data)
    for _ in taken[:-1]:
        owner.ack()
    owner.second(2)
    newest = max(kept)
    for name, data in kept.items():
        if name != newest:
            assert disk.inode(f"/snapshot/{name}").data[: len(data)] == data


# ------------------------------------------------------------------ crashes


@pytest.mark.parametrize("seed", range(4))
def test_a_crash_at_every_step_on_a_full_disk(seed: int) -> None:
    """What was told is there, and the store goes on with nothing free: acks, restart, acks."""
    owner, taken = filled(7.2)
    disk = owner.disk
    owner = Owner(disk.survive())
    moments: list[tuple[SimDisk, int, int]] = []
    told = 0

    def record(what: str) -> None:
        moments.append((owner.disk.copy(), told, started))

    started = 0
    owner.disk.before = record
    for _ in range(len(taken) - 4):
        started = told + 1
        assert owner.ack() == taken[told]
        told += 1
        owner.second()
    rng = Random(seed)
    assert len(moments) > 100
    for moment, least, most in moments[seed::2]:
        for found in (moment.power_cut(rng), moment.survive()):
            again = Owner(found)
            for name in spares(found):
                content = found.contents()[f"{LOG}/{name}"]
                assert any(content[:4096]) or not any(content), "it looks ready, and is not"
            steal(found)
            state = list(read_everything(again.store)["/queue/a"].values())
            assert taken[most:] == state or taken[least:] == state
            for number in range(min(3, len(state))):
                assert again.ack() == state[number]
                again.second()
            third = Owner(found.power_cut(rng))
            assert list(read_everything(third.store)["/queue/a"].values()) == state[3:]


def test_a_failed_write_into_a_spare_is_final() -> None:
    owner, _ = filled()
    owner.disk.fail_sync_at = owner.disk.syncs + 1
    with pytest.raises(StoreFailed, match="Input/output error"):
        owner.ack()


def test_no_write_is_behind_what_was_reserved(monkeypatch: Any) -> None:
    """So none can find the disk full: the blocks are there, whatever the batches' sizes."""
    disk = new_disk()
    rng = Random(5)
    right = disk.write

    def write(fd: int, data: Any, offset: int) -> int:
        assert offset + len(data) <= disk.size(fd) or len(data) <= 512, "the file grows"
        return right(fd, data, offset)

    monkeypatch.setattr(disk, "write", write)
    store = Owner(disk)
    for _ in range(300):
        size = rng.choice((10, 500, 3000, 9000, 15000, 40000, 70000))
        unit = Unit()
        unit.put(Message(12, True, b"destination:x\n", bytes(size)), [store.queue])
        store.store.append(unit)
        if rng.random() < 0.4:
            turn(store.store)
    turn(store.store)


def test_copies_that_come_to_no_end_leave_a_spare_for_the_acks() -> None:
    """On a full disk each life settles one message, copies for a moment and is killed: its copies pin its segment."""
    segment = 16 * SEGMENT
    disk = new_disk()
    disk.capacity = 8 * segment + 100000

    def start(disk: SimDisk) -> FileStore:
        syncer, jobs = InlineSyncer(disk), InlineJobs()
        store = FileStore(
            DIRECTORY, segment_bytes=segment, buffer_bytes=16384, fsio=disk, syncer=syncer, jobs=jobs, entropy=bytes
        )
        store.open(0.0, 1)
        return store

    store = start(disk)
    queue = store.declare("/queue/a")
    unit = Unit()
    unit.put(Message(12, True, b"d:x\n", bytes(900)), [queue])
    count = 0
    while store._spares.puts is not Puts.REFUSED:
        store.append(unit)
        count += 1
        if count % 15 == 0:
            turn(store)
    for _ in range(5):
        turn(store)
    steal(disk)
    now = 0.0
    held: list[Delivery] = [Delivery(queue, 1, 0, None)]
    while held and not store._reclaim.copied_bytes:
        held = store.claim(queue, 5, 1 << 20)
        for delivery in held:
            if delivery.id % 8 and delivery.id < count - 20:
                store.settle(queue, delivery.id)
        now += 0.005
        store.tick(now)
        turn(store)
    for _ in range(8):
        disk = disk.survive()
        store = start(disk)
        queue = store.declare("/queue/a")
        while not (held := store.claim(queue, 1, 1)):
            turn(store)
        number = store.settle(queue, held[0].id)
        turn(store)
        turn(store)
        for tick in (1, 2):
            store.tick(0.1 * tick)
            turn(store)
        assert store.committed >= number


@pytest.mark.parametrize("quota", [False, True])
def test_a_start_copies_nothing_before_it_knows_of_its_spares(quota: bool) -> None:
    """Where they cannot be made, the copies would stand in the batch that takes the last one, and pin it."""
    owner = Owner(new_disk())
    owner.store._reclaim.stop()
    for _ in range(20):
        for _ in range(10):
            owner.store.append(unit_of(owner, 900))
        turn(owner.store)
    for delivery in owner.store.claim(owner.queue, 200, 1 << 20):
        if delivery.id % 3:
            owner.store.settle(owner.queue, delivery.id)
    owner.second(2)
    disk = owner.disk.survive()
    for name in spares(disk)[1:]:
        disk.unlink(f"{LOG}/{name}")
    if quota:
        over_quota(disk, "blocks")
    owner = Owner(disk)
    jobs = owner.store._jobs
    run, late = jobs.run, list[Any]()

    def defer(function: Any, done: Any, *, urgent: bool = False) -> None:
        """A spare is long in the making."""
        if urgent:
            late.append((function, done))
        else:
            run(function, done)

    jobs.run = defer  # type: ignore[method-assign]
    owner.second(5)
    assert owner.store._spares.puts is Puts.HELD
    assert owner.store._reclaim.victim is not None
    jobs.run = run  # type: ignore[method-assign]
    for function, done in late:
        run(function, done)
    turn(owner.store)
    if quota:
        disk = disk.survive()
        over_quota(disk, "blocks")
        assert Owner(disk).ack() == bytes(900)
    else:
        owner.second(5)
        assert owner.store._reclaim.copied_bytes


def test_when_there_is_room_again_whoever_waits_is_told() -> None:
    """Dead letters of a memory queue stand in no queue of this store: only this lets the broker try them again."""
    disk = new_disk()
    owner = Owner(disk, stop_free=4096)
    owner.put(b"x")
    told: list[str] = []
    owner.store.resumed = lambda: told.append("resumed")
    disk.capacity = disk.used()
    owner.second(2)
    assert owner.events == [FULL]
    disk.capacity = None
    owner.second(3)
    assert owner.events == [FULL, ROOM]
    assert told == ["resumed"]
