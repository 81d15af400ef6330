"""Random histories on each twin of the index, checked at every step against a model of a dict and a set."""

from __future__ import annotations

from inspect import cleandoc
from struct import Struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from radiator.store.file import index_pure

CHUNK = 4096
READY, IN_FLIGHT = 1, 2
PLACE = Struct("<QQIHH")


class Model:
    """What an index must do, without any thought of memory or time."""

    def __init__(self, floor: int, next: int) -> None:
        self.floor = floor
        self.next = next
        self.located: dict[int, tuple[int, int, int]] = {}  # id: address, length, deliveries
        self.claimed: set[int] = set()
        self.dead: set[int] = set()

    def put(self, id: int, address: int, length: int, deliveries: int) -> tuple[bool, int]:
        if id < self.floor or id in self.dead:
            return False, address
        self.next = max(self.next, id + 1)
        if id in self.located:
            old = self.located[id]
            if address <= old[0]:
                return False, address if address < old[0] else 0
            self.located[id] = (address, length, max(old[2], deliveries))
            return True, old[0]
        self.located[id] = (address, length, deliveries)
        return True, 0

    def put_places(self, places: bytes, grow: bool) -> tuple[int, int, list[tuple[int, int]]]:
        count = size = 0
        replaced: list[tuple[int, int]] = []
        for id, address, length, deliveries, _ in PLACE.iter_unpack(places):
            if id >= self.next and not grow:
                continue
            old = self.located.get(id)
            accepted, lost = self.put(id, address, length, deliveries)
            if accepted:
                count += 1
                size += length
                if lost and old is not None:
                    replaced.append(old[:2])
        return count, size, replaced

    def recount(self, counts: list[tuple[int, int]]) -> None:
        for id, deliveries in counts:
            if id in self.located:
                address, length, old = self.located[id]
                self.located[id] = (address, length, max(old, min(65535, deliveries)))

    def put_many(self, count: int) -> None:
        for id in range(self.next, self.next + count):
            self.put(id, id * 8, id % 50, 0)

    def skip(self, next: int) -> None:
        old, self.next = self.next, max(next, self.next)
        self.kill(old, self.next - 1)

    def kill(self, first: int, last: int) -> list[tuple[int, int]]:
        killed = range(max(first, self.floor), min(last, self.next - 1) + 1)
        taken = [self.located.pop(id)[:2] for id in killed if id in self.located]
        self.dead.update(killed)
        self.claimed.difference_update(killed)
        while self.floor in self.dead:
            self.dead.discard(self.floor)
            self.floor += 1
        return taken

    def settle(self, id: int) -> tuple[int, int] | None:
        return (self.kill(id, id) or [None])[0]  # type: ignore[list-item]

    def claim(self, limit: int, max_bytes: int) -> list[tuple[int, int, int, int]]:
        claimed: list[tuple[int, int, int, int]] = []
        for id in sorted(self.located.keys() - self.claimed):
            address, length, deliveries = self.located[id]
            if len(claimed) >= limit or (claimed and length > max_bytes):
                break
            max_bytes -= length
            self.claimed.add(id)
            claimed.append((id, address, length, deliveries))
        return claimed

    def release(self, ids: list[int], delivered: bool) -> int:
        count = 0
        for id in ids:
            if id in self.claimed:
                address, length, deliveries = self.located[id]
                self.located[id] = (address, length, min(65535, deliveries + delivered))
                self.claimed.discard(id)
                count += 1
        return count

    def move(self, id: int, old: int, new: int) -> bool:
        if id not in self.located or self.located[id][0] != old:
            return False
        self.located[id] = (new, *self.located[id][1:])
        return True

    def get(self, id: int) -> tuple[int, int, int, int] | None:
        return (IN_FLIGHT if id in self.claimed else READY, *self.located[id]) if id in self.located else None

    def dead_ranges(self) -> list[tuple[int, int]]:
        ranges: list[tuple[int, int]] = []
        for id in sorted(self.dead):
            if ranges and ranges[-1][1] == id - 1:
                ranges[-1] = (ranges[-1][0], id)
            else:
                ranges.append((id, id))
        return ranges

    def missing(self, limit: int) -> list[int]:
        absent = [id for id in range(self.floor, self.next) if id not in self.located and id not in self.dead]
        return absent[:limit]


# Ids that stand near the ends of chunks, near each other, or anywhere in the first five chunks.
IDS = st.one_of(
    st.integers(1, 20),
    st.builds(lambda chunk, offset: max(1, chunk * CHUNK + offset), st.integers(0, 4), st.integers(-3, 3)),
    st.integers(1, 5 * CHUNK),
)
SPANS = st.one_of(
    st.tuples(IDS, IDS).map(sorted),
    st.tuples(IDS, st.integers(0, 8)).map(lambda span: [span[0], span[0] + span[1]]),
)
PLACES = st.lists(
    st.tuples(IDS, st.integers(1, 5), st.integers(0, 40), st.sampled_from([0, 0, 1, 65535]), st.just(0)), max_size=5
).map(lambda places: b"".join(PLACE.pack(*place) for place in places))
STEPS = st.one_of(
    st.tuples(st.just("put_places"), PLACES, st.booleans()),
    st.tuples(st.just("recount"), st.lists(st.tuples(IDS, st.sampled_from([0, 1, 2, 70_000])), max_size=4)),
    st.tuples(st.just("put"), IDS, st.integers(1, 5), st.integers(0, 40), st.sampled_from([0, 0, 1, 65535])),
    st.tuples(st.just("put_many"), st.sampled_from([1, 2, 5, 70, CHUNK - 1, CHUNK, 2 * CHUNK + 1])),
    st.tuples(st.just("kill"), SPANS),
    st.tuples(st.just("skip"), IDS),
    st.tuples(st.just("settle"), IDS),
    st.tuples(st.just("claim"), st.sampled_from([0, 1, 3, 100, 5000]), st.sampled_from([0, 60, 1 << 30])),
    st.tuples(st.just("release"), st.lists(IDS, max_size=5), st.booleans()),
    st.tuples(st.just("release_claimed"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("settle_claimed"), st.integers(0, 3)),
    st.tuples(st.just("move"), IDS, st.integers(1, 5), st.integers(1, 5)),
)


def dumped(index: Any) -> list[bytes]:
    """Every piece of an index."""
    pieces = []
    piece, id = index.dump()
    while piece:
        pieces.append(piece)
        piece, id = index.dump(id)
    assert id == index.next
    return pieces


@given(start=st.tuples(IDS, IDS).map(sorted), steps=st.lists(STEPS, max_size=14))
@settings(max_examples=150, deadline=None)
def test_the_index_does_what_the_model_does(index_twin: Any, start: list[int], steps: list[tuple[Any, ...]]) -> None:
    index, model = index_twin.QueueIndex(*start), Model(*start)
    claimed: list[int] = []
    for name, *rest in steps:
        if name == "put_many":
            for id in range(model.next, model.next + rest[0]):
                assert index.put(id, id * 8, id % 50, 0) == (True, 0)
            model.put_many(*rest)
            continue
        if name in ("release_claimed", "settle_claimed"):
            # Some of what is really in flight: ids at random would seldom be.
            chosen = claimed[rest[0] :: 3]
            claimed = [id for id in claimed if id not in set(chosen)]
            if name == "settle_claimed":
                assert [index.settle(id) for id in chosen] == [model.settle(id) for id in chosen]
            else:
                assert index.release(chosen, rest[1]) == model.release(chosen, rest[1])
        else:
            arguments = rest[0] if name == "kill" else rest
            result = getattr(index, name)(*arguments)
            assert result == getattr(model, name)(*arguments), name
            if name == "claim":
                claimed += [claim[0] for claim in result]
        numbers = (index.floor, index.next, index.ready, index.in_flight, index.live)
        assert numbers == (
            model.floor,
            model.next,
            len(model.located) - len(model.claimed),
            len(model.claimed),
            len(model.located),
        ), name
    assert index.dead_ranges() == model.dead_ranges()
    assert index.missing(10_000) == model.missing(10_000)
    assert index.missing(3) == model.missing(3)
    live = sorted(model.located.items())
    assert index.addresses() == [(id, entry[0], entry[1]) for id, entry in live]
    assert index.counts() == [(id, entry[2]) for id, entry in live if entry[2]]
    for id in {1, CHUNK - 1, CHUNK, model.floor, model.next - 1, model.next, *(id for id, _ in live[:20])}:
        assert index.get(id) == model.get(id)
    if not index.missing(1):
        # What is saved says all of this, and means the same to both twins.
        pieces = dumped(index)
        for twin in (index_pure, index_twin):
            other = twin.QueueIndex(index.floor, index.next)
            other.load(pieces)
            assert (other.ready, other.in_flight, other.counts()) == (index.live, 0, index.counts())
            assert other.addresses() == index.addresses()
            assert other.dead_ranges() == model.dead_ranges()
            assert dumped(other) == pieces
            assert other.settle(index.next) is None
            assert other.put(index.next + 1, 8, 8) == (True, 0)
            assert other.missing(2) == [index.next]
            assert len(other.kill(0, index.next + 2)) == index.live + 1
            assert (other.floor, other.live) == (other.next, 0)
    # Whatever the history, the rest comes out in order, and then nothing is left.
    assert index.claim(1 << 30, 1 << 50) == model.claim(1 << 30, 1 << 50)
    assert index.kill(0, 1 << 63) == model.kill(0, 1 << 63)
    assert (index.floor, index.live) == (model.floor, 0) == (index.next, 0)


def test_both_twins_have_the_same_public_names(index_twin: Any) -> None:
    for name in index_pure.__all__:
        assert hasattr(index_twin, name), name
    for name, method in vars(index_pure.QueueIndex).items():
        if not name.startswith("_") and callable(method):
            assert cleandoc(getattr(index_twin.QueueIndex, name).__doc__) == cleandoc(method.__doc__), name
    assert (index_twin.CHUNK, index_twin.READY, index_twin.IN_FLIGHT) == (CHUNK, READY, IN_FLIGHT)
