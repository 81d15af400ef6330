"""A look into a store beside the broker that writes it: whatever that does between two reads, a whole store is whole.

The broker's engine runs in the same thread, and works on while the file operations of the look wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, cast

import pytest
from broken import NAMES, open_store, turn
from simdisk import SimDisk

from radiator.errors import StoreFailed
from radiator.message import Message
from radiator.store.base import Unit
from radiator.store.file.engine import FileStore
from radiator.store.file.fsio import Fsio
from radiator.store.file.inspect import check
from radiator.store.file.survey import steady, survey
from radiator.store.file.views import Survey


class Broker:
    """A store that is open, and work for it."""

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk
        self.store: FileStore = open_store(disk)
        self.queue = self.store.declare("/queue/a")
        self.kept: set[int] = set()
        self.sent = 0
        self.now = 0.0

    def put(self, count: int = 1, length: int = 3000) -> None:
        for _ in range(count):
            unit = Unit()
            unit.put(Message(12, True, b"n:%d\n" % self.sent, bytes(length)), [self.queue])
            self.sent += 1
            self.store.append(unit)
            turn(self.store)

    def consume(self, count: int, keep: Callable[[int], bool] = lambda id: False) -> None:
        """Acknowledge the oldest messages, but those to be kept."""
        held = self.store.claim(self.queue, count, 1 << 30)
        unit = Unit()
        for delivery in held:
            if keep(delivery.id):
                self.kept.add(delivery.id)
            else:
                unit.settle(delivery.queue, delivery.id)
        self.store.append(unit)
        self.tick()

    def tick(self) -> None:
        for _ in range(3):
            turn(self.store)
            self.now += 5.0
            self.store.tick(self.now)
        turn(self.store)

    def segments(self) -> list[int]:
        return NAMES.segments(cast("Fsio", self.disk))

    def rotate(self) -> None:
        """A newer segment than all that were there, and a watermark that says so."""
        newest = self.segments()[-1]
        while self.segments()[-1] == newest:
            self.put()

    def reclaim(self) -> None:
        """All that were there are gone, and what lived in them is elsewhere."""
        last = self.segments()[-1]
        while self.segments()[0] <= last:
            self.put()
            self.consume(100, keep=lambda id: id % 16 == 0)


class Beside:
    """The operations of a look: `between(operation, path)` is called behind each."""

    def __init__(self, disk: SimDisk, between: Callable[[str, str], None]) -> None:
        self._disk = disk
        self._between = between

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def list_directory(self, path: str) -> list[str]:
        found = self._disk.list_directory(path)
        self._between("list", path)
        return found

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        assert not write
        assert not create
        fd = self._disk.open(path)
        self._between("open", path)
        return fd

    def read(self, fd: int, offset: int, length: int) -> bytes:
        data = self._disk.read(fd, offset, length)
        self._between("read", "")
        return data


@pytest.fixture
def broker() -> Broker:
    disk = SimDisk()
    disk.make_parents("/data")
    broker = Broker(disk)
    for _ in range(3):
        broker.rotate()
    return broker


def assert_whole(found: Survey, broker: Broker, sent: int) -> None:
    """No damage, and all is there that was sent before and is there still."""
    assert not [finding for finding in found.findings if finding.damage]
    there = {id for queue in found.queues.values() for id, _, _ in queue.places()}
    assert {id for id in broker.kept if id <= sent} <= there
    assert all(queue.index.next > sent for queue in found.queues.values())
    found.close()


@pytest.mark.parametrize("work", [Broker.rotate, Broker.reclaim])
@pytest.mark.parametrize("at", ["list", "open"])
@pytest.mark.parametrize("times", [1, 3])
def test_what_comes_and_goes_behind_a_listing(
    work: Callable[[Broker], None], at: str, times: int, broker: Broker
) -> None:
    left = times

    def between(operation: str, path: str) -> None:
        nonlocal left
        if operation == at and path.startswith(NAMES.log) and left:
            left -= 1
            work(broker)

    fsio = cast("Fsio", Beside(broker.disk, between))
    sent = broker.sent
    assert_whole(survey(fsio, NAMES), broker, sent)
    assert left < times
    left, sent = times, broker.sent
    checked = check(fsio, NAMES)
    assert (checked.damage, checked.refusal) == ([], None)
    assert_whole(checked.survey, broker, sent)
    assert left < times


def test_the_watermark_is_read_before_the_segments_are_listed(broker: Broker) -> None:
    """So that one look is enough for a broker that rotates and reclaims nothing."""
    seen: list[str] = []

    def between(operation: str, path: str) -> None:
        seen.append(path)
        if path == NAMES.watermark or (operation == "list" and path == NAMES.log):
            broker.rotate()

    sent = broker.sent
    assert_whole(survey(cast("Fsio", Beside(broker.disk, between)), NAMES), broker, sent)
    assert seen.count(NAMES.watermark) == 1


@pytest.mark.parametrize("seed", range(12))
def test_whatever_a_broker_does_meanwhile(seed: int, broker: Broker) -> None:
    rng = Random(seed)
    left = 60

    def between(operation: str, path: str) -> None:
        nonlocal left
        if left and rng.random() < 0.1:
            left -= 1
            for _ in range(rng.randint(1, 3)):
                if rng.random() < 0.6:
                    broker.put(rng.randint(1, 6), rng.choice((10, 3000, 9000)))
                else:
                    broker.consume(rng.randint(1, 30), keep=lambda id: id % 8 == 0)

    fsio = cast("Fsio", Beside(broker.disk, between))
    while left:
        sent = broker.sent
        assert_whole(survey(fsio, NAMES), broker, sent)
        sent = broker.sent
        checked = check(fsio, NAMES, deep=True)
        assert (checked.damage, checked.refusal) == ([], None)
        assert_whole(checked.survey, broker, sent)


def test_a_store_that_never_looks_the_same_twice_is_given_up_on() -> None:
    looks: list[_Look] = []
    with pytest.raises(
        StoreFailed, match="faster than it can be read: no two of 100 looks found the same, the last one x: look 100"
    ):
        steady(NAMES, lambda: _Look(looks))
    assert all(look.closed for look in looks)
    assert len(looks) == 100


def test_damage_that_stays_is_told_among_what_changes() -> None:
    looks: list[_Look] = []
    found = steady(NAMES, lambda: _Look(looks, "the same"))
    assert "the same" in [finding.what for finding in found.findings]
    assert [look.closed for look in looks] == [True] * (len(looks) - 1) + [False]
    assert len(looks) < 10


def test_the_same_damage_twice_is_enough(broker: Broker) -> None:
    newest = broker.disk.inode(NAMES.segment(broker.segments()[0]))
    newest.data[4096] ^= 1
    opened: list[str] = []
    fsio = cast("Fsio", Beside(broker.disk, lambda operation, path: opened.append(path)))
    found = survey(fsio, NAMES)
    assert [finding for finding in found.findings if finding.damage]
    assert opened.count(NAMES.watermark) == 2
    found.close()


class _Look(Survey):
    """One that finds another damage than the one before it, and maybe one that it found too."""

    def __init__(self, looks: list[_Look], always: str = "") -> None:
        super().__init__(cast("Fsio", SimDisk()), NAMES)
        looks.append(self)
        self.closed = False
        self.find("x", "x", f"look {len(looks)}")
        if always:
            self.find("x", "x", always)

    def close(self) -> None:
        self.closed = True
