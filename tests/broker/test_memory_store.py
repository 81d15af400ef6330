"""The memory engine alone: bounds, overflow, places."""

from __future__ import annotations

import pytest
from broker_fakes import message

from radiator.errors import Refused
from radiator.store.base import Unit
from radiator.store.memory import FIRST_NUMBER, Bounds, MemoryStore


def put(store, queue, *bodies):
    for body in bodies:
        unit = Unit()
        unit.put(message(body), [queue])
        assert store.append(unit) == 0


def bodies(deliveries):
    return [delivery.message.body.decode() for delivery in deliveries]


def claim(store, queue, count=100, max_bytes=1 << 20):
    return store.claim(queue, count, max_bytes)


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def queue(store):
    return store.declare("/queue/a")


def test_declare_is_idempotent_and_numbers_are_apart_from_those_of_files(store, queue):
    assert store.declare("/queue/a") is queue
    assert queue.number == FIRST_NUMBER > 0xFFFFFFFF
    other = store.declare("/queue/b")
    assert list(store.queues()) == [queue, other]
    store.drop(queue)
    assert store.declare("/queue/a").number > other.number


def test_claim_takes_in_order_and_stops_by_count_and_bytes(store, queue):
    put(store, queue, "aaaa", "bbbb", "cccc")
    assert bodies(claim(store, queue, 1)) == ["aaaa"]
    assert bodies(claim(store, queue, 5, 3)) == ["bbbb"], "one message always fits"
    assert (queue.ready, queue.in_flight) == (1, 2)
    assert bodies(claim(store, queue, 5, 5)) == ["cccc"]
    assert claim(store, queue) == []


def test_released_messages_stand_at_their_old_places(store, queue):
    put(store, queue, "1", "2", "3", "4")
    taken = claim(store, queue, 3)
    calls = []
    queue.on_ready = lambda: calls.append(1)
    store.release(queue, [taken[2].id], delivered=False)
    store.release(queue, [taken[0].id], delivered=True)
    assert calls == [1, 1]
    again = claim(store, queue)
    assert bodies(again) == ["1", "3", "4"]
    assert [delivery.deliveries for delivery in again] == [1, 0, 0]
    unit = Unit()
    for delivery in again:
        unit.settle(queue, delivery.id)
    store.append(unit)
    assert (queue.ready, queue.in_flight, len(queue.messages), queue.counts) == (0, 1, 1, {})
    assert store.read(queue, taken[1].id).body == b"2"


SIZE = len(message("x").block) + 1


@pytest.mark.parametrize(
    ("bounds", "text"),
    [(Bounds(2, 1 << 20), "max_messages is 2"), (Bounds(10, 2 * SIZE), f"max_bytes is {2 * SIZE}")],
)
def test_reject_at_the_bound(store, queue, bounds, text):
    queue.bounds = bounds
    put(store, queue, "1", "2")
    claim(store, queue)
    with pytest.raises(Refused, match=f"/queue/a is full: {text}"):
        put(store, queue, "3")
    unit = Unit()
    unit.settle(queue, 1)
    store.append(unit)
    put(store, queue, "3")
    assert queue.bytes == 2 * SIZE


@pytest.mark.parametrize("bounds", [Bounds(2, 1 << 20, True), Bounds(10, 2 * SIZE, True)])
def test_drop_oldest_never_drops_a_held_message(store, queue, bounds):
    queue.bounds = bounds
    put(store, queue, "1", "2", "3")
    assert queue.dropped == 1
    held = claim(store, queue, 1)
    assert bodies(held) == ["2"]
    put(store, queue, "4")
    assert bodies(claim(store, queue)) == ["4"]
    with pytest.raises(Refused, match="nothing can be dropped"):
        put(store, queue, "5")
    store.release(queue, [held[0].id], delivered=True)
    put(store, queue, "6")
    assert bodies(claim(store, queue)) == ["6"]
    assert queue.dropped == 3
    assert queue.counts == {}


def test_a_message_larger_than_the_queue_drops_nobody(store, queue):
    queue.bounds = Bounds(10, 100, True)
    put(store, queue, "1")
    with pytest.raises(Refused, match="max_bytes is 100"):
        put(store, queue, "x" * 100)
    assert queue.ready == 1


def test_a_unit_is_all_or_nothing(store, queue):
    other = store.declare("/queue/b")
    other.bounds = Bounds(1, 1 << 20)
    put(store, other, "full")
    unit = Unit()
    unit.put(message("1"), [queue, other])
    for refuse in (store.check, store.append):
        with pytest.raises(Refused, match="/queue/b is full"):
            refuse(unit)
    assert queue.ready == 0
    two = Unit()
    two.put(message("1"), [queue])
    two.put(message("2"), [queue, store.declare("/queue/c")])
    store.append(two)
    assert bodies(claim(store, queue)) == ["1", "2"]


def test_reserved_room_is_kept_until_it_is_used(store, queue):
    queue.bounds = Bounds(2, 1 << 20)
    unit = Unit()
    unit.put(message("later"), [queue])
    store.check(unit)
    store.reserve(unit)
    put(store, queue, "now")
    with pytest.raises(Refused):
        put(store, queue, "too much")
    store.apply(unit)
    assert bodies(claim(store, queue)) == ["now", "later"]
    assert (queue.reserved_messages, queue.reserved_bytes) == (0, 0)


def test_nothing_waits_in_memory(store, queue):
    store.open(0.0, 0, lambda what, done, total: None)
    store.flush()
    store.completed()
    assert store.tick(1.0) is None
    assert store.has_room()
    store.close()
    assert list(store.queues()) == []


def test_a_full_queue_knows_how_much_of_it_is_ready_without_looking(store, queue):
    def ready_bytes():
        ids = [*queue.returned, *queue.fresh]
        return sum(len(queue.messages[id].block) + len(queue.messages[id].body) for id in ids)

    class Unlooked(list):
        def __iter__(self):
            raise AssertionError("a put looks at every message that came back")

    queue.bounds = Bounds(100, 4 * SIZE, True)
    put(store, queue, "1", "2", "3", "4")
    held = claim(store, queue, 3)
    assert queue.ready_bytes == ready_bytes() == SIZE
    store.release(queue, [delivery.id for delivery in held[1:]], delivered=True)
    assert queue.ready_bytes == ready_bytes() == 3 * SIZE
    queue.returned = Unlooked(queue.returned)
    put(store, queue, "5", "6")
    queue.returned = []
    assert queue.ready_bytes == ready_bytes() == 3 * SIZE
    assert bodies(claim(store, queue)) == ["4", "5", "6"]
    assert queue.ready_bytes == 0
    with pytest.raises(Refused, match="nothing can be dropped"):
        put(store, queue, "7")
