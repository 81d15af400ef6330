"""Many messages at once: places from the log, and an index written down piece by piece and read back."""

from __future__ import annotations

import random
from struct import Struct
from typing import Any

import pytest
from twins import load_twin

PLACE = Struct("<QQIHH")
CHUNK = 4096


def places(*ids: int, address: int = 1 << 32, length: int = 200) -> bytes:
    return b"".join(PLACE.pack(id, address + 8 * id, length, 0, 0) for id in ids)


def pieces_of(index: Any) -> list[bytes]:
    pieces = []
    piece, id = index.dump()
    while piece:
        pieces.append(piece)
        piece, id = index.dump(id)
    return pieces


def history(twin: Any, seed: int) -> Any:
    """An index of three chunks and a hole, with all that can be in one."""
    rng = random.Random(seed)
    index = twin.QueueIndex()
    index.put_places(places(*range(1, 2 * CHUNK)))
    index.skip(5 * CHUNK)
    index.put_places(places(*range(5 * CHUNK, 5 * CHUNK + 700)))
    for id in rng.sample(range(1, 2 * CHUNK), 300):
        index.settle(id)
    index.kill(CHUNK - 40, CHUNK + 40)
    claimed = [claim[0] for claim in index.claim(50, 1 << 30)]
    index.release(claimed[::2], True)
    return index


def test_places_are_puts(index_twin: Any) -> None:
    index = index_twin.QueueIndex()
    assert index.put_places(places(1, 2, 3)) == (3, 600, [])
    assert index.addresses() == [(1, (1 << 32) + 8, 200), (2, (1 << 32) + 16, 200), (3, (1 << 32) + 24, 200)]
    assert (index.next, index.ready) == (4, 3)
    # A copy that is newer replaces, with the length that the old one had; an older one is nothing.
    assert index.put_places(places(2, address=2 << 32, length=150)) == (1, 150, [((1 << 32) + 16, 200)])
    assert index.put_places(places(2, address=1 << 31)) == (0, 0, [])
    index.settle(3)
    assert index.put_places(places(3, address=3 << 32)) == (0, 0, [])


def test_places_past_the_end_are_ignored_where_the_end_is_known(index_twin: Any) -> None:
    index = index_twin.QueueIndex(1, 3)
    assert index.put_places(places(1, 2, 3, 9), False) == (2, 400, [])
    assert (index.next, index.live) == (3, 2)
    assert index.put_places(places(3, 9)) == (2, 400, [])
    assert (index.next, index.missing(9)) == (10, [4, 5, 6, 7, 8])


def test_places_that_are_cut_short_are_refused(index_twin: Any) -> None:
    index = index_twin.QueueIndex()
    with pytest.raises(ValueError, match="24 bytes each, 25 are there"):
        index.put_places(places(1) + b"x")
    with pytest.raises(OverflowError):
        index.put_places(PLACE.pack((1 << 64) - 1, 8, 8, 0, 0))
    assert index.put_places(memoryview(b"")) == (0, 0, [])
    assert (index.next, index.live) == (1, 0)


def test_recount_only_raises(index_twin: Any) -> None:
    index = index_twin.QueueIndex()
    index.put_places(places(1, 2, 3))
    index.recount([(1, 3), (3, 70_000), (9, 1)])
    index.recount([(1, 2), (2, 0)])
    assert index.counts() == [(1, 3), (3, 65535)]


@pytest.mark.parametrize("seed", range(3))
def test_both_twins_write_the_same_pieces_and_read_them(index_twin: Any, seed: int) -> None:
    index = history(index_twin, seed)
    pieces = pieces_of(index)
    pure = load_twin("radiator.store.file.index_pure", "", "pure")
    assert pieces == pieces_of(history(pure, seed))
    other = index_twin.QueueIndex(index.floor, index.next)
    other.load(iter(pieces))
    assert (other.ready, other.in_flight) == (index.live, 0), "what was in flight is ready after a start"
    assert other.addresses() == index.addresses()
    assert other.counts() == index.counts()
    assert other.dead_ranges() == index.dead_ranges()
    assert pieces_of(other) == pieces


def test_a_piece_byte_by_byte(index_twin: Any) -> None:
    index = index_twin.QueueIndex(5, 5)
    for id, deliveries in ((5, 0), (6, 258), (7, 0)):
        index.put(id, id << 32 | 8, 16 * id, deliveries)
    index.settle(6)
    assert pieces_of(index)[0].hex() == (
        "0500000000000000" "03000000" "00000000"
        "0800000005000000" "0000000000000000" "0800000007000000"
        "50000000" "00000000" "70000000"
        "0000" "0000" "0000"
        "01" "03" "01"
    )  # fmt: skip


def test_an_empty_index_has_no_pieces(index_twin: Any) -> None:
    for index in (index_twin.QueueIndex(), index_twin.QueueIndex(70, 70)):
        assert index.dump() == (b"", index.next)
        index.load([])
        assert index.put(index.next, 8, 8) == (True, 0)


def test_pieces_that_do_not_fit_are_refused(index_twin: Any) -> None:
    index = history(index_twin, 0)
    index.kill(1, 3)
    pieces = pieces_of(index)
    floor, next = index.floor, index.next
    assert len(pieces) == 3
    first = pieces[0]
    wrong: list[list[bytes]] = [
        [],
        pieces[1:],
        [pieces[0], pieces[2], pieces[1]],
        [pieces[0], pieces[0]],
        [b""],
        [first[:15]],
        [first[:-1]],
        [first + b"\1"],
        [first[:8] + b"\0\0\0\0" + first[12:16]],
        [first[:8] + b"\xff\xff\xff\xff" + first[12:]],
        [first[:-1] + b"\3"],
        [first[:-1] + b"\0"],
        [first[:-2] + b"\2" + first[-1:]],
        [(floor + 1).to_bytes(8, "little") + first[8:]],
        [((1 << 64) - 1).to_bytes(8, "little") + first[8:]],
    ]
    for some in wrong:
        with pytest.raises(ValueError, match="piece"):
            index_twin.QueueIndex(floor, next).load(some)
    for bad_floor, bad_next in ((floor - 1, next), (floor, floor + 10), (floor, floor)):
        with pytest.raises(ValueError, match="piece"):
            index_twin.QueueIndex(bad_floor, bad_next).load(pieces)
    with pytest.raises(ValueError, match="piece"):
        index.load(pieces)


def test_a_piece_that_lies_never_breaks_the_index(index_twin: Any) -> None:
    """Whatever one byte becomes: refused, or an index that keeps its rules."""
    index = index_twin.QueueIndex()
    index.put_places(places(*range(1, 9)))
    index.settle(4)
    index.settle(8)
    (piece,) = pieces_of(index)
    for at in range(len(piece)):
        for value in (0, 1, 2, 3, 255):
            changed = piece[:at] + bytes((value,)) + piece[at + 1 :]
            other = index_twin.QueueIndex(1, 9)
            try:
                other.load([changed])
            except ValueError:
                continue
            assert not other.missing(1)
            assert other.live == len(other.addresses())
            assert len(other.kill(0, 99)) + sum(last - first + 1 for first, last in index.dead_ranges()) >= 6
            assert (other.floor, other.live) == (9, 0)


def test_a_drained_index_starts_again(index_twin: Any) -> None:
    """Chunks whose memory went back to the system are made anew."""
    index = index_twin.QueueIndex()
    for _ in range(3):
        first = index.next
        index.put_places(places(*range(first, first + 3 * CHUNK)))
        assert len(index.kill(first, first + 3 * CHUNK)) == 3 * CHUNK
        assert (index.live, index.floor) == (0, index.next)
    assert index.dump() == (b"", index.next)
