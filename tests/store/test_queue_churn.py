"""Queues that come and go: what a broker drops to make room, through power cuts, and numbers that are never reused."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from simdisk import PowerCut, SimDisk
from test_faults import new_disk, new_store, turn

from radiator.broker.broker import Broker
from radiator.config.schema import Config, Limits
from radiator.errors import Refused
from radiator.message import Delivery, Message
from radiator.store.file import engine
from radiator.store.file.engine import FileStore
from radiator.store.file.recovery import QUEUE_HOLE
from radiator.store.memory import MemoryStore

BEFORE = {"/queue/1", "/queue/2", "/queue/3"}
AFTER = {"/queue/2", "/queue/3", "/queue/4"}


class Peer:
    """Acknowledges nothing by itself."""

    output_bytes = 0

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def deliver(self, subscription: Any, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    def release_receipts(self, committed: int) -> None:
        """Nobody waits."""


def broker_over(store: FileStore) -> Broker:
    return Broker(
        Config(limits=Limits(queues=3)),
        store,
        MemoryStore(),
        wall_ms=lambda: 1,
        escape=lambda value, version: value.encode(),
        report=lambda event, **fields: None,
    )


def send(broker: Broker, destination: str) -> None:
    broker.client(Peer()).send(destination, Message(12, True, b"", destination.encode()))  # type: ignore[arg-type]


def names(store: FileStore) -> set[str]:
    return {queue.name for queue in store.queues()}


def full_house() -> tuple[SimDisk, FileStore, Broker]:
    """Three queues, the limit; the first was emptied, its consumer has left."""
    disk = new_disk()
    store = new_store(disk)
    broker = broker_over(store)
    for name in sorted(BEFORE):
        send(broker, name)
    turn(store)
    peer = Peer()
    client = broker.client(peer)  # type: ignore[arg-type]
    client.subscribe("s", "/queue/1", "client-individual")
    broker.dispatch()
    client.settle(peer.deliveries[0], positive=True)
    client.close()
    turn(store)
    return disk, store, broker


def test_a_place_is_made_and_a_restart_finds_the_same() -> None:
    disk, store, broker = full_house()
    numbers = {queue.number for queue in store.queues()}
    send(broker, "/queue/4")
    turn(store)
    assert names(store) == AFTER
    with pytest.raises(Refused, match=r"limits\.queues is 3"):
        send(broker, "/queue/5")
    store.close()
    again = new_store(disk)
    assert {queue.name: queue.ready for queue in again.queues()} == dict.fromkeys(AFTER, 1)
    new = next(queue for queue in again.queues() if queue.name == "/queue/4")
    assert new.number not in numbers
    with pytest.raises(Refused, match=r"limits\.queues is 3"):
        send(broker_over(again), "/queue/5")
    again.close()


def test_a_power_cut_leaves_what_was_before_or_what_was_after() -> None:
    disk, store, _ = full_house()
    store.close()
    seen = set()
    for step in range(40):
        copy = disk.copy()
        broker = broker_over(new_store(copy))
        begun = copy.operations

        def cut(what: str, copy: SimDisk = copy, last: int = begun + step) -> None:
            if copy.operations > last:
                copy.off = True
                raise PowerCut

        copy.before = cut
        try:
            send(broker, "/queue/4")
            turn(broker.file_store)  # type: ignore[arg-type]
            finished = True
        except PowerCut:
            finished = False
        for seed in range(4):
            found = new_store(copy.power_cut(Random(seed)))
            there = names(found)
            assert there in (BEFORE, AFTER)
            assert there == AFTER or not finished
            for queue in found.queues():
                assert queue.ready == (queue.name != "/queue/1")
            seen.add(frozenset(there))
            found.close()
        if finished:
            break
    else:
        raise AssertionError("it never came to its end")
    assert seen == {frozenset(BEFORE), frozenset(AFTER)}


@pytest.mark.parametrize("turns", [1000, QUEUE_HOLE * 2])
@pytest.mark.parametrize("fsync", ["always", "never"])
def test_a_lost_tail_gives_no_queue_number_to_another_queue(fsync: str, turns: int) -> None:
    """A number that a client has seen in a message-id is never another queue's, however many came and went unsynced."""
    disk = new_disk()
    store = new_store(disk, fsync, segment_bytes=64 << 20)
    highest = 0
    for count in range(QUEUE_HOLE + QUEUE_HOLE // 4):
        queue = store.declare(f"/queue/{count}")
        highest = queue.number
        store.drop(queue)
        if count % turns == 0:
            turn(store)
    turn(store)
    assert store._log.tail.number == 2, "a birth would have synced by itself"
    after = new_store(disk.power_cut(Random(1), content=0.0))
    assert after.declare("/queue/new").number > highest


def test_when_all_queue_numbers_are_given_out_new_queues_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_LAST_QUEUE", QUEUE_HOLE + 2)
    store = new_store(new_disk())
    queues = [store.declare("/queue/1"), store.declare("/queue/2")]
    with pytest.raises(Refused, match="all its queue numbers"):
        store.declare("/queue/3")
    assert store.declare("/queue/2") is queues[1]
    turn(store)
    assert names(store) == {"/queue/1", "/queue/2"}
