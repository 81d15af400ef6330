"""The index of one queue in pure Python: where each of its messages stands in the log, and what state it is in.

It holds offsets, never messages; it must never touch the log or decide what is delivered. Called through
`radiator.store.file.index` by the file engine; `radiator._speedups.index` is its compiled twin.

    put ──▶ READY ──claim──▶ IN FLIGHT ──settle, kill──▶ dead        ids below `floor` are dead
              ▲                  │                                   ids from `next` on were never used
              └─ release, unclaim┘                                   any other id: dead, live, or missing

Ids are dense, so an array needs no keys: chunks of 4096 ids hold a slot each (address, length, deliveries, state: 15
bytes), in a window that grows with use. A chunk whose ids are all dead is freed; it is then, like a hole that was
skipped or purged, one interval in `_gone`. A missing id is one that recovery has not located yet, or lost.

Over 500 lines, since a twin is one module, and this one a single data structure.
"""

from __future__ import annotations

import re
import sys
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Any, Final

__all__ = ["CHUNK", "IN_FLIGHT", "READY", "QueueIndex"]

CHUNK: Final = 4096
READY: Final = 1
IN_FLIGHT: Final = 2

_MISSING = 0
_DEAD = 3
_SHIFT = 12
# A window that grows downwards does so in steps, since each one copies it.
_STEP = 64
_MAX_DELIVERIES = 0xFFFF
_NOT_DEAD = re.compile(rb"[^\x03]")
_DEAD_RUN = re.compile(rb"\x03+")
_LIVE = re.compile(rb"[\x01\x02]")
_LIVE_RUN = re.compile(rb"[\x01\x02]+")
_ANY_LIVE_OR_DEAD = re.compile(rb"[\x01\x03]+")
_PLACE = Struct("<QQIHH")
_PIECE = Struct("<QII")
_COLUMN_BYTES = (8, 4, 2)
_SLOT_BYTES = 15
_AS_DUMPED = bytes((_DEAD, READY, READY, _DEAD)) + bytes(252)
_UNFIT_PIECE = "a piece of an index does not fit where it is"


class _Chunk:
    """The slots of the ids from `start` on, as far as used, of the 4096 that begin at `base`.

    `open` counts those of the 4096 that are not dead, in the window or not. A slot's state may be MISSING although its
    id is dead: then `_gone` or the floor says so.
    """

    __slots__ = ("addresses", "base", "deliveries", "lengths", "open", "start", "states")

    def __init__(self, base: int, start: int) -> None:
        self.base = base
        self.start = start
        self.open = CHUNK
        self.addresses = array("Q")
        self.lengths = array("I")
        self.deliveries = array("H")
        self.states = bytearray()

    def reach(self, id: int) -> int:
        """The slot of `id`, after growing the window over it."""
        slot = id - self.start
        if slot < 0:
            more = min((_STEP - 1 - slot) // _STEP * _STEP, self.start - self.base)
            self.addresses = array("Q", bytes(8 * more)) + self.addresses
            self.lengths = array("I", bytes(4 * more)) + self.lengths
            self.deliveries = array("H", bytes(2 * more)) + self.deliveries
            self.states = bytearray(more) + self.states
            self.start -= more
            return slot + more
        more = slot + 1 - len(self.states)
        if more > 0:
            self.addresses.frombytes(bytes(8 * more))
            self.lengths.frombytes(bytes(4 * more))
            self.deliveries.frombytes(bytes(2 * more))
            self.states += bytes(more)
        return slot


class QueueIndex:
    """The messages of one queue, by id from 1 on.

    `ready` and `in_flight` count messages in these states. Ids are below 2**64 - 1, addresses below 2**64, lengths
    below 2**32.
    """

    __slots__ = (
        "_chunks",
        "_cursor",
        "_gone_first",
        "_gone_last",
        "_numbers",
        "_released",
        "floor",
        "in_flight",
        "next",
        "ready",
    )

    def __init__(self, floor: int = 1, next: int = 1) -> None:
        if not 1 <= floor <= next:
            raise ValueError(f"the floor {floor} must be at least 1, and at most the next id {next}")
        self.floor = floor
        self.next = next
        self.ready = 0
        self.in_flight = 0
        self._chunks: dict[int, _Chunk] = {}
        self._numbers: list[int] = []
        # Every ready id is at or above the cursor, or in the side list. That may hold ids that have died since.
        self._cursor = floor
        self._released: list[int] = []
        # Intervals of dead ids, ascending and apart; they may overlap slots that are dead by themselves.
        self._gone_first: list[int] = []
        self._gone_last: list[int] = []

    @property
    def live(self) -> int:
        """Messages that are ready or in flight."""
        return self.ready + self.in_flight

    def put(self, id: int, address: int, length: int, deliveries: int = 0) -> tuple[bool, int]:
        """Locate message `id`: its record is at `address` and has `length` bytes.

        Returns whether this place is now the message's, and the address of the copy that lost (0 for none). A dead id
        stays dead, so the given copy loses. Of two live copies the higher address wins; the state stays, the higher
        delivery count too. An `id` past the end makes those between missing.
        """
        if not (0 <= address < 1 << 64 and 0 <= length < 1 << 32 and 0 <= id < (1 << 64) - 1):
            raise OverflowError("a number does not fit its field")
        chunk = self._chunks.get(id >> _SHIFT)
        if id >= self.next:
            self.next = id + 1
        elif id < self.floor:
            return False, address
        else:
            state = self._state(id)
            if state == _DEAD:
                return False, address
            if state and chunk is not None:
                slot = id - chunk.start
                old = chunk.addresses[slot]
                if address <= old:
                    return False, address if address < old else 0
                chunk.addresses[slot] = address
                chunk.lengths[slot] = length
                chunk.deliveries[slot] = max(chunk.deliveries[slot], min(deliveries, _MAX_DELIVERIES))
                return True, old
        if chunk is None:
            chunk = self._new_chunk(id)
        if deliveries > _MAX_DELIVERIES:
            deliveries = _MAX_DELIVERIES
        if id - chunk.start == len(chunk.states):
            chunk.addresses.append(address)
            chunk.lengths.append(length)
            chunk.deliveries.append(deliveries)
            chunk.states.append(READY)
        else:
            slot = chunk.reach(id)
            chunk.addresses[slot] = address
            chunk.lengths[slot] = length
            chunk.deliveries[slot] = deliveries
            chunk.states[slot] = READY
        self.ready += 1
        if id < self._cursor:
            insort(self._released, id)
        return True, 0

    def put_places(
        self, places: bytes | bytearray | memoryview, grow: bool = True
    ) -> tuple[int, int, list[tuple[int, int]]]:
        """Locate many messages: `put` for each place of `scan_batch`. Without `grow`, ids past the end are ignored.

        Returns how many places are now the messages', the sum of their lengths, and (address, length) of every copy
        that one of them replaced. Hot: recovery and commit bring every message here.
        """
        if len(places) % _PLACE.size:
            raise ValueError(f"places have 24 bytes each, {len(places)} are there")
        count = size = 0
        replaced: list[tuple[int, int]] = []
        put = self.put
        for id, address, length, deliveries, _ in _PLACE.iter_unpack(places):
            old_length = 0
            if id < self.next:
                found = self._slot(id)
                old_length = 0 if found is None else found[0].lengths[found[1]]
            elif not grow:
                continue
            accepted, old = put(id, address, length, deliveries)
            if accepted:
                count += 1
                size += length
                if old:
                    replaced.append((old, old_length))
        return count, size, replaced

    def skip(self, next: int) -> None:
        """Raise `next`; the ids passed over are dead. A lower `next` changes nothing."""
        old = self.next
        if next <= old:
            return
        self.next = next
        self.kill(old, next - 1)

    def kill(self, first: int, last: int) -> list[tuple[int, int]]:
        """Make the ids from `first` to `last` dead, as far as they are below `next`.

        Returns (address, length) of those that were live, by id.
        """
        if first == last:
            place = self._settle_live(first)
            if place is not None:
                return [place]
        first = max(first, self.floor)
        last = min(last, self.next - 1)
        taken: list[tuple[int, int]] = []
        if first > last:
            return taken
        if last - first >= CHUNK:
            self._kill_wide(first, last, taken)
        else:
            for base in range(first & -CHUNK, last + 1, CHUNK):
                self._kill_in_chunk(max(first, base), min(last, base + CHUNK - 1), taken)
        if first == self.floor:
            self._rise()
        return taken

    def settle(self, id: int) -> tuple[int, int] | None:
        """Make `id` dead: the (address, length) where it was live, else None."""
        place = self._settle_live(id)
        if place is None:
            self.kill(id, id)
        return place

    def claim(self, limit: int, max_bytes: int) -> list[tuple[int, int, int, int]]:
        """Take up to `limit` ready messages in the order of their ids: (id, address, length, deliveries).

        Stops before the sum of their lengths passes `max_bytes`; one message always fits.
        """
        claimed: list[tuple[int, int, int, int]] = []
        full = False
        while not full and len(claimed) < limit and len(claimed) < self.ready:
            found = self._first_ready()
            if found is None:
                break
            chunk, slot = found
            states, lengths = chunk.states, chunk.lengths
            id = chunk.start + slot
            side = id < self._cursor
            while len(claimed) < limit:
                length = lengths[slot]
                if claimed and length > max_bytes:
                    full = True
                    break
                max_bytes -= length
                states[slot] = IN_FLIGHT
                claimed.append((id, chunk.addresses[slot], length, chunk.deliveries[slot]))
                id += 1
                slot += 1
                if side:
                    del self._released[0]
                    break
                # Most neighbours are ready as well: no search for these.
                self._cursor = id
                if slot == len(states) or states[slot] != READY:
                    break
        self.ready -= len(claimed)
        self.in_flight += len(claimed)
        return claimed

    def unclaim(self, ids: Iterable[int]) -> int:
        """Put messages back that nobody saw: `release` without raising the delivery count."""
        return self.release(ids, False)

    def release(self, ids: Iterable[int], delivered: bool) -> int:
        """Put messages that are in flight back at their old places; how many were. `delivered` raises their counts."""
        count = 0
        for id in ids:
            found = self._slot(id)
            if found is None or found[0].states[found[1]] != IN_FLIGHT:
                continue
            chunk, slot = found
            chunk.states[slot] = READY
            if delivered and chunk.deliveries[slot] < _MAX_DELIVERIES:
                chunk.deliveries[slot] += 1
            if id < self._cursor:
                insort(self._released, id)
            count += 1
            self.ready += 1
            self.in_flight -= 1
        return count

    def get(self, id: int) -> tuple[int, int, int, int] | None:
        """(state, address, length, deliveries) of a live message, state being READY or IN_FLIGHT."""
        found = self._slot(id)
        if found is None:
            return None
        chunk, slot = found
        return chunk.states[slot], chunk.addresses[slot], chunk.lengths[slot], chunk.deliveries[slot]

    def move(self, id: int, old_address: int, new_address: int) -> bool:
        """Say that the live message `id` was copied; False, and no change, where it is not at `old_address`."""
        found = self._slot(id)
        if found is None or found[0].addresses[found[1]] != old_address:
            return False
        found[0].addresses[found[1]] = new_address
        return True

    def dead_ranges(self) -> list[tuple[int, int]]:
        """The dead ids between `floor` and `next` as (first, last): ascending, apart, never touching."""
        return list(_joined(self._spans(_DEAD_RUN, self._gone_first, self._gone_last)))

    def packed_dead_ranges(self) -> bytes:
        """`dead_ranges` for `BatchWriter.state`: first u64, last u64 of each. A million holes take milliseconds."""
        ends = array("Q", [id for span in self.dead_ranges() for id in span])
        if sys.byteorder == "big":
            ends.byteswap()
        return ends.tobytes()

    def missing(self, limit: int) -> list[int]:
        """Up to `limit` ids between `floor` and `next` that are neither dead nor located: none in a whole store."""
        spans = self._spans(_DEAD_RUN, self._gone_first, self._gone_last) + self._spans(_LIVE_RUN, (), ())
        found: list[int] = []
        expected = self.floor
        for first, last in [*_joined(spans), (self.next, self.next)]:
            if len(found) >= limit:
                break
            found.extend(range(expected, min(first, expected + limit - len(found))))
            expected = last + 1
        return found

    def counts(self) -> list[tuple[int, int]]:
        """(id, deliveries) of the live messages that were delivered before, by id."""
        return [
            (chunk.start + slot, deliveries)
            for chunk in map(self._chunks.__getitem__, self._numbers)
            if any(chunk.deliveries)
            for slot, deliveries in enumerate(chunk.deliveries)
            if deliveries and 0 < chunk.states[slot] < _DEAD
        ]

    def recount(self, counts: Iterable[tuple[int, int]]) -> None:
        """Raise delivery counts to the given ones, as (id, deliveries); ids that are not live are ignored."""
        for id, deliveries in counts:
            found = self._slot(id)
            if found is not None:
                chunk, slot = found
                chunk.deliveries[slot] = max(chunk.deliveries[slot], min(deliveries, _MAX_DELIVERIES))

    def dump(self, first: int = 0) -> tuple[bytes, int]:
        """One piece of what `load` takes: the first chunk with a live message of an id from `first` on.

        Returns the piece and where to go on; b"" where there is none. What is in flight is written as ready. No id may
        be missing.

            first u64 | count u32 | zero u32 | count x: address u64 | length u32 | deliveries u16 | state u8

        Each of the last four is a column of its own. It begins and ends with a live id; state is 1 (live) or 3 (dead),
        the other columns of a dead id are zero. Every id that stands in no piece is dead.
        """
        for number in self._numbers[bisect_left(self._numbers, first >> _SHIFT) :]:
            chunk = self._chunks[number]
            match = _LIVE.search(chunk.states, max(0, first - chunk.start))
            if match is None:
                continue
            low = match.start()
            high = len(chunk.states)
            while not 0 < chunk.states[high - 1] < _DEAD:
                high -= 1
            states = chunk.states[low:high].translate(_AS_DUMPED)
            columns: list[array[int]] = [chunk.addresses[low:high], chunk.lengths[low:high], chunk.deliveries[low:high]]
            for run in _DEAD_RUN.finditer(states):
                for column in columns:
                    column[run.start() : run.end()] = array(column.typecode, bytes(column.itemsize * len(run[0])))
            piece = [_PIECE.pack(chunk.start + low, high - low, 0)]
            for column in columns:
                if sys.byteorder == "big":
                    column.byteswap()
                piece.append(column.tobytes())
            piece.append(bytes(states))
            return b"".join(piece), chunk.start + high
        return b"", self.next

    def load(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        """Be what `dump` wrote piece by piece: all of them in their order, into an index that has only floor and next.

        ValueError where one does not fit; the index is of no use then.
        """
        expected = self.floor
        if self._numbers or self._gone_first:
            raise ValueError(_UNFIT_PIECE)
        for piece in pieces:
            expected = self._load_piece(memoryview(piece), expected)
        if expected < self.next:
            if expected == self.floor:
                raise ValueError(_UNFIT_PIECE)
            self._add_gone(expected, self.next - 1)

    def _load_piece(self, piece: memoryview, expected: int) -> int:
        """The piece is the next one, no id in it is below `expected`; the id behind it."""
        if len(piece) < _PIECE.size:
            raise ValueError(_UNFIT_PIECE)
        first, count, _ = _PIECE.unpack_from(piece)
        number = first >> _SHIFT
        if (
            not 0 < count <= CHUNK
            or len(piece) != _PIECE.size + _SLOT_BYTES * count
            or first < expected
            or first + count > self.next
            or number != (first + count - 1) >> _SHIFT
            or (expected == self.floor and first > expected)
            or number in self._chunks
        ):
            raise ValueError(_UNFIT_PIECE)
        chunk = _Chunk(number << _SHIFT, first)
        at = _PIECE.size
        columns: list[Any] = [chunk.addresses, chunk.lengths, chunk.deliveries]
        for column, size in zip(columns, _COLUMN_BYTES, strict=True):
            column.frombytes(piece[at : at + size * count])
            if sys.byteorder == "big":
                column.byteswap()
            at += size * count
        chunk.states += piece[at:]
        if chunk.states[0] != READY or chunk.states[-1] != READY or _ANY_LIVE_OR_DEAD.fullmatch(chunk.states) is None:
            raise ValueError(_UNFIT_PIECE)
        self._chunks[number] = chunk
        self._numbers.append(number)
        live = chunk.states.count(READY)
        self.ready += live
        # Ids that were never used are open too: they are at the end of the last chunk.
        chunk.open = live + max(0, chunk.base + CHUNK - self.next)
        if first > expected:
            self._add_gone(expected, first - 1)
        end: int = first + count
        return end

    def addresses(self, first: int = 0, limit: int | None = None) -> list[tuple[int, int, int]]:
        """(id, address, length) of live messages from id `first` on, by id; at most `limit`."""
        found: list[tuple[int, int, int]] = []
        for number in self._numbers[bisect_left(self._numbers, first >> _SHIFT) :]:
            chunk = self._chunks[number]
            for match in _LIVE.finditer(chunk.states, max(0, first - chunk.start)):
                if limit is not None and len(found) >= limit:
                    return found
                slot = match.start()
                found.append((chunk.start + slot, chunk.addresses[slot], chunk.lengths[slot]))
        return found

    def _settle_live(self, id: int) -> tuple[int, int] | None:
        """Hot: make one live id dead; None, and no change, for any other."""
        chunk = self._chunks.get(id >> _SHIFT)
        if chunk is not None:
            slot = id - chunk.start
            if 0 <= slot < len(chunk.states) and 0 < chunk.states[slot] < _DEAD:
                if chunk.states[slot] == READY:
                    self.ready -= 1
                else:
                    self.in_flight -= 1
                chunk.states[slot] = _DEAD
                place = (chunk.addresses[slot], chunk.lengths[slot])
                chunk.open -= 1
                if not chunk.open:
                    self._close(chunk)
                if id == self.floor:
                    slot += 1
                    if self._gone_last or slot >= len(chunk.states) or not 0 < chunk.states[slot] < _DEAD:
                        self._rise()
                    else:
                        # Nearly always the next one lives, and the floor moves by one.
                        self.floor = id + 1
                        self._cursor = max(self._cursor, id + 1)
                return place
        return None

    def _slot(self, id: int) -> tuple[_Chunk, int] | None:
        """Chunk and slot of a live id."""
        chunk = self._chunks.get(id >> _SHIFT)
        if chunk is not None:
            slot = id - chunk.start
            if 0 <= slot < len(chunk.states) and 0 < chunk.states[slot] < _DEAD:
                return chunk, slot
        return None

    def _state(self, id: int) -> int:
        """State of an id that is not below the floor."""
        chunk = self._chunks.get(id >> _SHIFT)
        if chunk is not None:
            slot = id - chunk.start
            if 0 <= slot < len(chunk.states) and chunk.states[slot]:
                return chunk.states[slot]
        at = bisect_left(self._gone_last, id)
        return _DEAD if at < len(self._gone_first) and self._gone_first[at] <= id else _MISSING

    def _first_ready(self) -> tuple[_Chunk, int] | None:
        """Chunk and slot of the lowest ready id: released ones are below the cursor, so they come first."""
        while self._released:
            found = self._slot(self._released[0])
            if found is not None:
                return found
            del self._released[0]
        chunk = self._chunks.get(self._cursor >> _SHIFT)
        if chunk is not None:
            slot = chunk.states.find(READY, max(0, self._cursor - chunk.start))
            if slot >= 0:
                return chunk, slot
        for number in self._numbers[bisect_right(self._numbers, self._cursor >> _SHIFT) :]:
            chunk = self._chunks[number]
            slot = chunk.states.find(READY)
            if slot >= 0:
                return chunk, slot
            self._cursor = chunk.base + CHUNK
        return None

    def _new_chunk(self, id: int) -> _Chunk:
        number = id >> _SHIFT
        chunk = _Chunk(number << _SHIFT, id)
        self._chunks[number] = chunk
        insort(self._numbers, number)
        self._count_open(chunk)
        return chunk

    def _count_open(self, chunk: _Chunk) -> None:
        """Count the chunk's ids that are not dead anew."""
        base = chunk.base
        if not chunk.states and not self._gone_last:
            chunk.open = CHUNK - max(0, self.floor - base)
            return
        dead = bytearray(CHUNK)
        intervals = [(chunk.start + run.start(), chunk.start + run.end()) for run in _DEAD_RUN.finditer(chunk.states)]
        at = bisect_left(self._gone_last, base)
        while at < len(self._gone_first) and self._gone_first[at] < base + CHUNK:
            intervals.append((self._gone_first[at], self._gone_last[at] + 1))
            at += 1
        intervals.append((base, self.floor))
        for first, end in intervals:
            first = max(first - base, 0)
            end = min(end - base, CHUNK)
            if first < end:
                dead[first:end] = b"\1" * (end - first)
        chunk.open = dead.count(0)

    def _kill_in_chunk(self, first: int, last: int, taken: list[tuple[int, int]]) -> None:
        """Mark some ids of one chunk dead, each in its slot."""
        chunk = self._chunks.get(first >> _SHIFT)
        if chunk is None:
            at = bisect_left(self._gone_last, last)
            if at < len(self._gone_first) and self._gone_first[at] <= first:
                return
            chunk = self._new_chunk(first)
        low = chunk.reach(first)
        high = chunk.reach(last) + 1
        alive = high - low - chunk.states.count(_DEAD, low, high)
        for match in _LIVE.finditer(bytes(chunk.states), low, high):
            self._take(chunk, match.start(), taken)
        chunk.states[low:high] = bytes((_DEAD,)) * (high - low)
        at = bisect_left(self._gone_last, first)
        if at < len(self._gone_first) and self._gone_first[at] <= last:
            self._count_open(chunk)
        else:
            chunk.open -= alive
        if not chunk.open:
            self._close(chunk)

    def _kill_wide(self, first: int, last: int, taken: list[tuple[int, int]]) -> None:
        """Make more ids dead than a chunk has: whole chunks go, the interval stands for all of them."""
        low = bisect_left(self._numbers, first >> _SHIFT)
        high = bisect_right(self._numbers, last >> _SHIFT)
        edges: list[_Chunk] = []
        for number in self._numbers[low:high]:
            chunk = self._chunks[number]
            begin = max(first - chunk.start, 0)
            for match in _LIVE.finditer(bytes(chunk.states), begin, max(last + 1 - chunk.start, 0)):
                self._take(chunk, match.start(), taken)
            if first <= chunk.base and chunk.base + CHUNK <= last + 1:
                self._forget(chunk)
            else:
                edges.append(chunk)
        self._add_gone(first, last)
        for chunk in edges:
            self._count_open(chunk)
            if not chunk.open:
                self._close(chunk)

    def _take(self, chunk: _Chunk, slot: int, taken: list[tuple[int, int]]) -> None:
        """Mark one slot dead; where it was live, its place goes to `taken`."""
        state = chunk.states[slot]
        if state:
            taken.append((chunk.addresses[slot], chunk.lengths[slot]))
            if state == READY:
                self.ready -= 1
            else:
                self.in_flight -= 1
        chunk.states[slot] = _DEAD

    def _close(self, chunk: _Chunk) -> None:
        """Free a chunk whose ids are all dead."""
        self._forget(chunk)
        self._add_gone(chunk.base, chunk.base + CHUNK - 1)

    def _forget(self, chunk: _Chunk) -> None:
        number = chunk.base >> _SHIFT
        del self._chunks[number]
        del self._numbers[bisect_left(self._numbers, number)]

    def _add_gone(self, first: int, last: int) -> None:
        """Join an interval of dead ids with those it overlaps or touches."""
        low = bisect_left(self._gone_last, first - 1)
        high = bisect_right(self._gone_first, last + 1)
        if low < high:
            first = min(first, self._gone_first[low])
            last = max(last, self._gone_last[high - 1])
        self._gone_first[low:high] = [first]
        self._gone_last[low:high] = [last]

    def _rise(self) -> None:
        """Raise the floor over dead ids. A queue in which nothing is left gives back all its memory."""
        floor = self.floor
        while floor < self.next:
            chunk = self._chunks.get(floor >> _SHIFT)
            if chunk is not None:
                slot = floor - chunk.start
                if 0 <= slot < len(chunk.states) and chunk.states[slot] == _DEAD:
                    match = _NOT_DEAD.search(chunk.states, slot)
                    floor = chunk.start + (len(chunk.states) if match is None else match.start())
                    continue
            at = bisect_left(self._gone_last, floor)
            if at == len(self._gone_first) or self._gone_first[at] > floor:
                break
            floor = self._gone_last[at] + 1
        self.floor = floor
        passed = bisect_left(self._gone_last, floor)
        del self._gone_first[:passed]
        del self._gone_last[:passed]
        if floor == self.next:
            self._chunks.clear()
            self._numbers.clear()
            self._released.clear()
        self._cursor = max(self._cursor, floor)

    def _spans(self, run: re.Pattern[bytes], firsts: Iterable[int], lasts: Iterable[int]) -> list[tuple[int, int]]:
        """The ids whose slots match `run`, as (first, last), and the given intervals; clipped to floor and next."""
        spans = list(zip(firsts, lasts, strict=True))
        for number in self._numbers:
            chunk = self._chunks[number]
            start = chunk.start
            spans += [(start + match.start(), start + match.end() - 1) for match in run.finditer(chunk.states)]
        floor, end = self.floor, self.next - 1
        return [(max(first, floor), min(last, end)) for first, last in spans if last >= floor and first <= end]


def _joined(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Overlapping and touching spans made one, ascending."""
    spans = sorted(spans)
    if not spans:
        return
    first, last = spans[0]
    for begin, end in spans:
        if begin > last + 1:
            yield first, last
            first, last = begin, end
        elif end > last:
            last = end
    yield first, last
