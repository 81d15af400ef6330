"""A second reader of the disk format, written from `docs/disk-format.rst` and the rules of recovery alone.

It must never import anything of radiator: it is the other opinion. It takes the files of a data directory as bytes and
says what a start must find, or that it must refuse. Called by: the simulator, the byte-level suite, the golden stores.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

BLOCK = 4096
HOLE = 1 << 24
MESSAGE, ACK, QUEUE, DROP, NEXT_QUEUE, STATE, COUNTS, SEGMENT = 1, 2, 3, 4, 16, 17, 18, 19

Range = tuple[int, int]


class MustRefuse(Exception):
    """A start on this must be refused; the text says why."""


class _Invalid(Exception):
    """No batch stands here."""


class Place(NamedTuple):
    """A message's record: where it is, how long, its payload, and whether that is as it was written."""

    address: int
    length: int
    payload: bytes
    intact: bool


class Queue:
    """One queue; ids are dead below `floor` and in `dead`, which ascends and does not overlap."""

    def __init__(self, name: str, next: int = 1, floor: int = 1, dead: list[Range] | None = None) -> None:
        self.name = name
        self.next = next
        self.floor = floor
        self.dead = dead or []
        self.live: dict[int, Place] = {}

    def is_dead(self, id: int) -> bool:
        return id < self.floor or any(first <= id <= last for first, last in self.dead)

    def kill(self, first: int, last: int) -> None:
        last = min(last, self.next - 1)
        if last - first < len(self.live):
            for id in range(first, last + 1):
                self.live.pop(id, None)
        else:
            self.live = {id: place for id, place in self.live.items() if not first <= id <= last}
        spans = sorted([*self.dead, (first, last)]) if first <= last else self.dead
        self.dead = []
        for begin, end in spans:
            if self.dead and begin <= self.dead[-1][1] + 1:
                self.dead[-1] = (self.dead[-1][0], max(end, self.dead[-1][1]))
            else:
                self.dead.append((begin, end))
        while self.dead and self.dead[0][0] <= self.floor:
            self.floor = max(self.floor, self.dead.pop(0)[1] + 1)

    def put(self, id: int, place: Place) -> None:
        if self.is_dead(id):
            return
        self.next = max(self.next, id + 1)
        if id not in self.live or self.live[id].address < place.address:
            self.live[id] = place

    def missing(self) -> int | None:
        """An id that is neither dead nor located."""
        expected = self.floor
        for first, last in sorted([*self.dead, *((id, id) for id in self.live)]):
            if first > expected:
                return expected
            expected = max(expected, last + 1)
        return expected if expected < self.next else None


class Found(NamedTuple):
    """What a start finds. `set_aside` are messages whose payload is damaged, where their record was the one to use."""

    queues: dict[int, Queue]
    segments: dict[int, int]
    clean: bool
    set_aside: list[tuple[str, int]]
    end: int
    durable: int

    def bodies(self) -> dict[str, dict[int, bytes]]:
        """By queue and id, the payload that can be delivered: header block and body."""
        return {
            q.name: {id: q.live[id].payload for id in sorted(q.live) if q.live[id].intact} for q in self.queues.values()
        }

    def spoilt(self) -> list[tuple[str, int]]:
        """Every message that a start or a delivery must set aside."""
        live = [(q.name, id) for q in self.queues.values() for id in q.live if not q.live[id].intact]
        return sorted([*self.set_aside, *live])


Event = tuple[int, int, bytes, bytes, int, int, bool]  # type, number at 20, head, payload, address, length, intact


class _Batch(NamedTuple):
    end: int
    opening: bool
    events: list[Event]


def _header(data: bytes, start: int, number: int, store_id: bytes) -> tuple[int, int, int, int, int, int]:
    """(durable, length, records, checksum of the heads, flags, body) of the batch that should begin at `start`."""
    header = data[start : start + 64]
    if len(header) < 64 or header[:4] != b"RdB1" or zlib.crc32(header[8:]) != struct.unpack_from("<I", header, 4)[0]:
        raise _Invalid
    address, durable, length, records, heads, flags, store, body, _ = struct.unpack_from("<QQIIII16sII", header, 8)
    if address != number << 32 | start or store != store_id or length % BLOCK or body % 8 or length < 64 + body:
        raise _Invalid
    return durable, length, records, heads, flags, body


def _batch(data: bytes, start: int, number: int, store_id: bytes) -> _Batch:
    _, length, records, heads_crc, flags, body = _header(data, start, number, store_id)
    if start + length > len(data):
        raise _Invalid
    events: list[Event] = []
    heads = b""
    position, end = start + 64, start + 64 + body
    for _ in range(records):
        if end - position < 24:
            raise _Invalid
        crc, kind, _, _, head_length, payload_length, payload_crc, count = struct.unpack_from(
            "<IBBHIIII", data, position
        )
        payload_at = position + head_length
        if head_length < 24 or payload_at > end or payload_length > end - payload_at:
            raise _Invalid
        head, payload = data[position:payload_at], data[payload_at : payload_at + payload_length]
        intact = zlib.crc32(payload) == payload_crc
        if zlib.crc32(head[4:]) != crc or (not intact and kind != MESSAGE):
            raise _Invalid
        if kind not in (MESSAGE, ACK, QUEUE, DROP, NEXT_QUEUE, STATE, COUNTS, SEGMENT) and not kind & 0x80:
            raise _Invalid
        heads += head
        behind = payload_at + (payload_length + 7) // 8 * 8
        events.append((kind, count, head, payload, number << 32 | position, behind - position, intact))
        position = behind
    if position != end or zlib.crc32(heads) != heads_crc:
        raise _Invalid
    return _Batch(start + length, bool(flags & 1), events)


def _ranges(payload: bytes, count: int) -> Iterator[Range]:
    return struct.iter_unpack("<QQ", payload[: 16 * count])


def _references(head: bytes) -> Iterator[tuple[int, int]]:
    (count,) = struct.unpack_from("<I", head, 52)
    return struct.iter_unpack("<IQ", head[56 : 56 + 12 * count])


class _Reading:
    """One reading of one store."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.store_id = _store_id(files.get("FORMAT"))
        self.mark = self._watermark(files.get("watermark", b""))
        self.queues: dict[int, Queue] = {}
        self.stated: dict[int, int] = {}
        self.set_aside: list[tuple[str, int]] = []

    def _watermark(self, data: bytes) -> tuple[int, int, int] | None:
        """(sequence, address, flags) of the slot that counts."""
        slots = []
        for slot in (data[:512], data[512:1024]):
            if len(slot) == 512 and zlib.crc32(slot[:508]) == struct.unpack_from("<I", slot, 508)[0]:
                magic, owner, sequence, address, flags = struct.unpack_from("<8s16sQQI", slot)
                if magic == b"RADMARK1" and owner == self.store_id:
                    slots.append((sequence, address, flags & 1))
        return max(slots, default=None)

    def segment(self, number: int) -> bytes:
        """A segment's bytes, its header checked."""
        data = self.files[f"log/{number:08d}.seg"]
        if len(data) < BLOCK or data[:8] != b"RADLOG1\0":
            raise MustRefuse(f"segment {number} has no header")
        if zlib.crc32(data[:4092]) != struct.unpack_from("<I", data, 4092)[0]:
            raise MustRefuse(f"the header of segment {number} is damaged")
        version, algorithm, _, owner, own = struct.unpack_from("<HHI16sI", data, 8)
        if (version, algorithm, owner, own) != (1, 1, self.store_id, number):
            raise MustRefuse(f"segment {number} is not of this store and place")
        return data

    def apply(self, event: Event, skipped: Collection[tuple[int, int]] = ()) -> None:
        kind, count, head, payload, address, length, intact = event
        if kind == MESSAGE:
            for number, id in _references(head):
                if number in self.queues and (number, id) not in skipped:
                    self.queues[number].put(id, Place(address, length, payload, intact))
            return
        (number,) = struct.unpack_from("<I", head, 24)
        if kind == ACK and number in self.queues:
            for first, last in _ranges(payload, count):
                self.queues[number].kill(first, last)
        elif kind == QUEUE:
            self.queues[number] = Queue(payload.decode())
        elif kind == DROP:
            self.queues.pop(number, None)
        elif kind == STATE:
            name_length, next, floor = struct.unpack_from("<IQQ", head, 28)
            queue = Queue(payload[:name_length].decode(), next, floor)
            for first, last in _ranges(payload[(name_length + 7) // 8 * 8 :], count):
                queue.kill(first, last)
            self.queues[number] = queue
        elif kind == SEGMENT:
            self.stated[number] = struct.unpack_from("<Q", head, 32)[0]

    def older(self, number: int, end: int) -> None:
        data = self.segment(number)
        offset = BLOCK
        while offset < end:
            try:
                batch = _batch(data, offset, number, self.store_id)
            except _Invalid:
                raise MustRefuse(f"segment {number} is damaged at {offset}, it must be whole to {end}") from None
            if batch.end > end:
                raise MustRefuse(f"segment {number} has a batch across its end {end}")
            for event in batch.events:
                if event[0] == MESSAGE:
                    for queue, id in _references(event[2]):
                        if queue in self.queues and id < self.queues[queue].next:
                            self.queues[queue].put(id, Place(event[4], event[5], event[3], event[6]))
            offset = batch.end

    def newest(self, number: int, numbers: list[int]) -> Found:
        data = self.segment(number)
        try:
            opening = _batch(data, BLOCK, number, self.store_id)
        except _Invalid:
            raise MustRefuse(f"the opening batch of segment {number} is damaged") from None
        if not opening.opening:
            raise MustRefuse(f"segment {number} has no opening batch")
        for event in opening.events:
            self.apply(event)
        for older in numbers:
            if older in self.stated:
                self.older(older, self.stated[older])
        durable = opening.end
        for offset in range(opening.end, len(data), BLOCK):
            try:
                said = _header(data, offset, number, self.store_id)[0]
            except _Invalid:
                continue
            if said >> 32 == number:
                durable = max(durable, said & 0xFFFFFFFF)
        if self.mark is not None and self.mark[1] >> 32 == number:
            durable = max(durable, self.mark[1] & 0xFFFFFFFF)
        end = opening.end
        while end < len(data):
            try:
                batch = _batch(data, end, number, self.store_id)
            except _Invalid:
                break
            spoilt = [event for event in batch.events if not event[6]]
            if spoilt and batch.end > durable:
                break
            # A damaged copy of a message whose source is still there does not count: the source does.
            sources = {
                (number, id)
                for event in spoilt
                for number, id in _references(event[2])
                if number in self.queues and id in self.queues[number].live
            }
            for event in batch.events:
                self.apply(event, () if event[6] else sources)
            for event in spoilt:
                for queue_number, id in _references(event[2]):
                    queue = self.queues.get(queue_number)
                    # A batch that puts a message never settles it.
                    if queue is not None and id in queue.live and (queue_number, id) not in sources:
                        self.set_aside.append((queue.name, id))
                        queue.kill(id, id)
            end = batch.end
        if end < durable:
            raise MustRefuse(f"segment {number} is damaged at {end}, and was synced to {durable}")
        return self.result(number, end, durable)

    def result(self, number: int, end: int, durable: int) -> Found:
        segments: dict[int, int] = {}
        clean = self.mark is not None and self.mark[1:] == (number << 32 | end, 1)
        for queue in self.queues.values():
            lost = queue.missing()
            if lost is not None:
                raise MustRefuse(f"{queue.name} lacks the message {lost}")
            for place in queue.live.values():
                segments[place.address >> 32] = segments.get(place.address >> 32, 0) + 1
            if not clean:
                queue.next += HOLE
                queue.kill(queue.next - HOLE, queue.next - 1)
        return Found(self.queues, segments, clean, self.set_aside, number << 32 | end, number << 32 | durable)


def _store_id(data: bytes | None) -> bytes:
    if data is None:
        raise MustRefuse("there is no FORMAT")
    fields = rb"radiator-store 1\nid ([0-9a-f]{32})\ncompatible [0-9]+\nread-only 0\nincompatible 0\n"
    match = re.fullmatch(rb"(" + fields + rb")crc32 ([0-9a-f]{8})\n", data)
    if match is None or int(match[3], 16) != zlib.crc32(match[1]):
        raise MustRefuse("FORMAT is damaged")
    return bytes.fromhex(match[2].decode())


def read_store(files: Mapping[str, bytes]) -> Found:
    """What a start on `files` (path in the data directory: contents) must find. MustRefuse where it must refuse."""
    reading = _Reading(files)
    found = (re.fullmatch(r"log/([0-9]{8,10})\.seg", path) for path in files)
    numbers = sorted(int(match[1]) for match in found if match)
    if not numbers:
        raise MustRefuse("there is no segment")
    if reading.mark is not None and reading.mark[1] >> 32 > numbers[-1]:
        raise MustRefuse("the watermark names a segment that is not there")
    return reading.newest(numbers[-1], numbers[:-1])
