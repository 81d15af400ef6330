"""What the broker may rely on, whatever the engine: one suite over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simdisk import SimDisk

from radiator.errors import Refused
from radiator.message import Message
from radiator.store.base import Reason, Store, StoreQueue, Unit
from radiator.store.file import engine
from radiator.store.file.engine import FileStore
from radiator.store.file.syncer import InlineJobs, InlineSyncer
from radiator.store.memory import MemoryStore


@pytest.fixture(params=["memory", "file on the simulated disk", "file with threads"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore()
    elif request.param == "file with threads":
        made = FileStore(str(tmp_path / "store"), segment_bytes=65536)
    else:
        disk = SimDisk()
        disk.make_parents("/data")
        made = FileStore("/data/store", segment_bytes=65536, fsio=disk, syncer=InlineSyncer(disk), jobs=InlineJobs())
    made.open(0.0, 1, lambda what, done, total: None)
    yield made
    made.close()


def settled(store: Store, number: int) -> None:
    """Let turns end until `number` is committed and no read is on its way."""
    store.flush()
    for _ in range(3):
        store.completed()
    while store.committed < number:
        store.completed()


def claim(store: Store, queue: StoreQueue, count: int, max_bytes: int = 1 << 20) -> list[Any]:
    """Claim until there is something, as on_ready would make the broker do."""
    while not (got := store.claim(queue, count, max_bytes)) and queue.ready:
        store.completed()
    return got


def put(store: Store, queues: list[StoreQueue], *bodies: bytes) -> int:
    unit = Unit()
    for body in bodies:
        unit.put(Message(12, True, b"destination:/queue/a\nk:v\n", body, arrival_ms=5, priority=7), queues)
    number = store.append(unit)
    settled(store, number)
    return number


def settle(store: Store, queue: StoreQueue, *ids: int, reason: Reason = Reason.ACKED) -> None:
    unit = Unit()
    for id in ids:
        unit.settle(queue, id, reason)
    settled(store, store.append(unit))


def test_a_message_comes_back_as_it_went_in(store: Store) -> None:
    queue = store.declare("/queue/a")
    put(store, [queue], b"body \x00 of bytes")
    (delivery,) = claim(store, queue, 10)
    message = delivery.message
    assert (delivery.queue, delivery.deliveries) == (queue, 0)
    assert (message.version, message.plain, message.block, message.body) == (
        12,
        True,
        b"destination:/queue/a\nk:v\n",
        b"body \x00 of bytes",
    )
    assert (message.arrival_ms, message.priority) == (5, 7)


def test_messages_come_in_order_and_counts_follow(store: Store) -> None:
    queue = store.declare("/queue/a")
    put(store, [queue], *(b"%d" % n for n in range(20)))
    assert (queue.ready, queue.in_flight) == (20, 0)
    first = claim(store, queue, 5)
    assert [d.message.body for d in first] == [b"0", b"1", b"2", b"3", b"4"]
    assert (queue.ready, queue.in_flight) == (15, 5)
    settle(store, queue, *(d.id for d in first))
    assert (queue.ready, queue.in_flight) == (15, 0)
    assert claim(store, queue, 1)[0].message.body == b"5"


def test_released_messages_stand_at_their_old_places(store: Store) -> None:
    queue = store.declare("/queue/a")
    put(store, [queue], *(b"%d" % n for n in range(4)))
    got = claim(store, queue, 3)
    calls: list[int] = []
    queue.on_ready = lambda: calls.append(1)
    store.release(queue, [got[2].id, got[0].id], delivered=True)
    store.release(queue, [got[1].id], delivered=False)
    assert calls
    again = claim(store, queue, 4)
    assert [(d.message.body, d.deliveries) for d in again] == [(b"0", 1), (b"1", 0), (b"2", 1), (b"3", 0)]
    assert [d.id for d in again[:3]] == [d.id for d in got]


def test_one_message_in_several_queues_lives_in_each(store: Store) -> None:
    one, two = store.declare("/queue/1"), store.declare("/queue/2")
    put(store, [one, two], b"both")
    (first,) = claim(store, one, 5)
    settle(store, one, first.id)
    (second,) = claim(store, two, 5)
    assert second.message.body == b"both"
    assert (one.ready, one.in_flight, two.ready, two.in_flight) == (0, 0, 0, 1)


def test_a_unit_moves_a_message(store: Store) -> None:
    source, target = store.declare("/queue/a"), store.declare("/queue/dead")
    put(store, [source], b"x")
    (delivery,) = claim(store, source, 1)
    unit = Unit()
    unit.put(delivery.message, [target])
    unit.settle(source, delivery.id, Reason.DEAD_LETTERED)
    settled(store, store.append(unit))
    assert (source.ready, source.in_flight, target.ready) == (0, 0, 1)


def test_a_claim_stops_at_its_bytes_but_one_always_fits(store: Store) -> None:
    queue = store.declare("/queue/a")
    put(store, [queue], *(bytes(1000) for _ in range(10)))
    assert len(claim(store, queue, 10, 1)) == 1
    assert 1 <= len(claim(store, queue, 10, 3500)) <= 4


def test_a_message_can_be_read_while_it_is_held(store: Store) -> None:
    queue = store.declare("/queue/a")
    put(store, [queue], b"again")
    (delivery,) = claim(store, queue, 1)
    delivery.message = None
    while (message := store.read(queue, delivery.id)) is None:
        store.completed()
    assert message.body == b"again"


def test_queues_have_one_name_and_numbers_of_their_own(store: Store) -> None:
    one, two = store.declare("/queue/1"), store.declare("/queue/2")
    assert store.declare("/queue/1") is one
    assert one.number != two.number
    assert [queue.name for queue in store.queues()] == ["/queue/1", "/queue/2"]
    put(store, [one], b"x")
    settled(store, store.drop(one))
    again = store.declare("/queue/1")
    assert again.number > two.number
    assert (again.ready, [queue.name for queue in store.queues()]) == (0, ["/queue/2", "/queue/1"])


def test_on_ready_is_called_when_messages_become_claimable(store: Store) -> None:
    queue = store.declare("/queue/a")
    calls: list[int] = []
    queue.on_ready = lambda: calls.append(queue.ready)
    put(store, [queue], b"x")
    assert calls
    assert calls[-1] == 1


def test_a_refused_unit_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_PAYLOAD", 100)
    queue: Any = store.declare("/queue/a")
    if isinstance(store, MemoryStore):
        pytest.skip("its bounds are of another kind and have tests of their own")
    unit = Unit()
    unit.put(Message(12, True, b"a:b\n", bytes(10)), [queue])
    unit.put(Message(12, True, b"a:b\n", bytes(100)), [queue])
    for call in (store.check, store.append):
        with pytest.raises(Refused, match="limit of 100"):
            call(unit)
    assert queue.next_id == 1


def test_room_is_there_again_after_a_completion(store: Store) -> None:
    queue = store.declare("/queue/a")
    assert store.has_room()
    unit = Unit()
    unit.put(Message(12, True, b"a:b\n", bytes(3 << 20)), [queue])
    number = store.append(unit)
    assert store.has_room() == isinstance(store, MemoryStore)
    settled(store, number)
    assert store.has_room()


def test_a_put_is_pending_until_it_can_be_claimed(store: Store) -> None:
    queue = store.declare("/queue/a")
    assert queue.pending == 0
    unit = Unit()
    unit.put(Message(12, True, b"destination:/queue/a\n", b"1"), [queue])
    unit.put(Message(12, True, b"destination:/queue/a\n", b"2"), [queue])
    number = store.append(unit)
    assert queue.pending + queue.ready == 2
    settled(store, number)
    assert (queue.pending, queue.ready, queue.in_flight) == (0, 2, 0)
    ids = [delivery.id for delivery in claim(store, queue, 2)]
    assert (queue.pending, queue.ready, queue.in_flight) == (0, 0, 2)
    settle(store, queue, *ids)
    assert (queue.pending, queue.ready, queue.in_flight) == (0, 0, 0)
