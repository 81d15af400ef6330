"""Dead ranges packed for an opening batch: the same as the list of them, in both twins, and at a million holes fast."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

import pytest

STORE_ID = bytes(range(16))


def unpacked(data: bytes) -> list[tuple[int, int]]:
    return list(struct.iter_unpack("<QQ", data))


def grow(index: Any, rng: Random) -> None:
    """Puts, holes, settlements and purges, in any order."""
    choice = rng.random()
    id = index.next
    if choice < 0.5:
        for number in range(rng.randint(1, 300)):
            index.put(id + number, (1 << 32) + 8 * (id + number), 100)
    elif choice < 0.6:
        index.skip(id + rng.randint(1, 20000))
    elif choice < 0.7:
        first = rng.randint(0, id)
        index.kill(first, first + rng.randint(0, 9000))
    elif choice < 0.75:
        index.put(id + rng.randint(1, 3000), 8, 100)
    else:
        for _ in range(50):
            index.settle(rng.randint(1, id))


@pytest.mark.parametrize("seed", range(30))
def test_packed_and_listed_dead_ranges_are_the_same(seed: int, index_twin: Any, record_twin: Any) -> None:
    rng = Random(seed)
    index = index_twin.QueueIndex()
    assert index.packed_dead_ranges() == b""
    for _ in range(rng.randint(5, 80)):
        grow(index, rng)
    listed = index.dead_ranges()
    packed = index.packed_dead_ranges()
    assert unpacked(packed) == listed
    batches = []
    for dead in (listed, packed):
        writer = record_twin.BatchWriter(STORE_ID)
        writer.state(3, "/queue/ä", index.next, index.floor, dead)
        batches.append(bytes(writer.finish(4096, 0, True)))
    assert batches[0] == batches[1]


def test_packed_ranges_that_are_no_ranges_are_refused(record_twin: Any) -> None:
    writer = record_twin.BatchWriter(STORE_ID)
    with pytest.raises(ValueError, match="ranges have 16 bytes each, 15 are there"):
        writer.state(1, "a", 9, 1, bytes(15))
    assert writer.empty
