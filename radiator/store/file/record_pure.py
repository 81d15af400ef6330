"""Records, batches and segment headers as bytes, in pure Python: the readable specification of the disk format.

It must never open a file, keep a policy, or let anything but CorruptRecord escape a decoder. Called through
`radiator.store.file.record` by the file engine; `radiator._speedups.record` is its compiled twin. Everything is
little-endian; `docs/disk-format.rst` has every offset.

    segment   | header block 4096 | opening batch | batch | batch | …            every batch a multiple of 4096
    batch     | header 64 | record | record | … | zeros to a multiple of 4096    records padded to a multiple of 8
    record    | head: crc type flags lengths payload-crc … | payload | zeros to a multiple of 8

Checksums are `zlib.crc32`. A head's covers its bytes from 4 on; the batch header binds all heads in their order, and
its own checksum covers its bytes from 8 on. A payload has its own, so a damaged body costs one message, not a batch.

Over 500 lines, since a twin is one module, and the writer and the reader of a format belong together.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from struct import error as StructError
from typing import Any, Final, NamedTuple, TypeAlias
from zlib import crc32

from radiator.errors import CorruptRecord
from radiator.message import Message

__all__ = [
    "BLOCK",
    "COUNTS",
    "DEFINE",
    "DROP",
    "FORMAT_VERSION",
    "HEADER_BYTES",
    "MAX_PAYLOAD",
    "NEXT_QUEUE",
    "OPENING",
    "PLACES",
    "PUT",
    "RANGE_BYTES",
    "SEGMENT",
    "SETTLED",
    "SETTLED_HEAD_BYTES",
    "STATE",
    "BatchHeader",
    "BatchWriter",
    "SegmentHeader",
    "decode_batch",
    "decode_batch_header",
    "decode_message",
    "decode_references",
    "decode_segment_header",
    "encode_segment_header",
    "scan_batch",
]

Readable: TypeAlias = bytes | bytearray | memoryview
Event: TypeAlias = tuple[Any, ...]

BLOCK: Final = 4096
HEADER_BYTES: Final = 64
MAX_PAYLOAD: Final = 1 << 30
"""The format's own ceiling for one payload; what is accepted from clients is a matter of configuration, not of this."""
SETTLED_HEAD_BYTES: Final = 32
"""A record of settlements: this head, then `RANGE_BYTES` for each range of ids."""
RANGE_BYTES: Final = 16
FORMAT_VERSION: Final = 1
OPENING: Final = 1
"""Bit of a batch header's flags: this batch restates the store and stands first in its segment."""

# Kinds of events, and types of records: the same numbers.
PUT: Final = 1
SETTLED: Final = 2
DEFINE: Final = 3
DROP: Final = 4
NEXT_QUEUE: Final = 16
STATE: Final = 17
COUNTS: Final = 18
SEGMENT: Final = 19
PLACES: Final = 256
"""No type of a record: `scan_batch` alone has this event, for many messages at once."""

_MAY_SKIP = 0x80
_PLAIN = 1
_CHECKSUM_CRC32 = 1
_BATCH_MAGIC = b"RdB1"
_SEGMENT_MAGIC = b"RADLOG1\0"
_MAX_U32 = 0xFFFFFFFF
_MAX_DELIVERIES = 0xFFFF

_U32 = Struct("<I")
_U64 = Struct("<Q")
_RANGE = Struct("<QQ")
_COUNT = Struct("<QII")
_PLACE = Struct("<QQIHH")  # id, address, length, deliveries, zero
_REFERENCE = Struct("<IQ")
# address, durable, length, records, heads_crc, flags, store id, body, zero: the batch header from byte 8 on
_BATCH = Struct("<QQIIII16sII")
# crc, type, flags, zero, head length, payload length, payload crc, spare: how every head begins
_COMMON = Struct("<IBBHIIII")
_SUBJECT = Struct("<II")  # at 24 in every head but a message's
# Heads without their crc: up to the payload's crc as above, then a number, then what the type adds.
_HEAD_32 = Struct("<BBHIIIIII")
_HEAD_40 = Struct("<BBHIIIIIIQ")
_HEAD_48 = Struct("<BBHIIIIIIQQ")
_MESSAGE = Struct("<BBHIIIIQQQHBBI")
_MESSAGE_ONE = Struct("<BBHIIIIQQQHBBIIQ4x")
_MESSAGE_FIELDS = Struct("<QQQHBBI")  # at 24
_SEGMENT_HEADER = Struct("<8sHHI16sIIQQ")

_HEAD_LENGTHS = {SETTLED: 32, DEFINE: 32, DROP: 32, NEXT_QUEUE: 32, STATE: 48, COUNTS: 32, SEGMENT: 40}
_MESSAGE_HEAD = 56
_PADDING = tuple(bytes(-size & 7) for size in range(8))


class BatchHeader(NamedTuple):
    """What the first 64 bytes of a batch say: `length` is the whole of it, `body` the records without the padding."""

    address: int
    durable: int
    length: int
    records: int
    body: int
    flags: int


class SegmentHeader(NamedTuple):
    """What the first 4096 bytes of a segment file say; `created_ms` is wall-clock time since the epoch."""

    store_id: bytes
    number: int
    created_ms: int
    capacity: int
    version: int


class BatchWriter:
    """One batch being filled.

    `size` is an upper bound of its bytes with the header and without the padding at its end: each settlement counts as
    a range, and as a record too where its queue or reason is not that of the one before. `records` is the number of
    records written so far. Numbers that do not fit their field are an OverflowError, and leave the batch as it was.
    """

    __slots__ = (
        "_chunks",
        "_finished",
        "_heads_crc",
        "_last",
        "_settled",
        "_settled_bytes",
        "_store_id",
        "_written",
        "records",
    )

    records: int
    _chunks: list[bytes]
    _finished: bool
    _heads_crc: int
    _last: tuple[int, int] | None
    _settled: dict[tuple[int, int], list[int]]
    _settled_bytes: int
    _written: int

    def __init__(self, store_id: bytes) -> None:
        if len(store_id) != 16:
            raise ValueError(f"a store id has 16 bytes, not {len(store_id)}")
        self._store_id = bytes(store_id)
        self.clear()

    @property
    def size(self) -> int:
        """Bytes that the batch would have now, at most."""
        return self._written + self._settled_bytes

    @property
    def empty(self) -> bool:
        """True while there is nothing to write."""
        return not self.records and not self._settled

    def put(self, message: Message, refs: Sequence[tuple[int, int]]) -> None:
        """Add a message that stands in each (queue, id) of `refs`; its body is stored once."""
        if self._finished:
            raise ValueError("the batch is finished: clear it first")
        count = len(refs)
        if not count:
            raise ValueError("a message needs a reference")
        block, body = message.block, message.body
        block_length = len(block)
        length = block_length + len(body)
        if length > MAX_PAYLOAD:
            raise ValueError(f"a payload of {length} bytes is over the format's limit of {MAX_PAYLOAD}")
        deliveries = message.deliveries
        if deliveries > _MAX_DELIVERIES:
            deliveries = _MAX_DELIVERIES
        head_length = (_MESSAGE_HEAD + 12 * count + 7) & ~7
        fields = (
            PUT,
            _PLAIN if message.plain else 0,
            0,
            head_length,
            length,
            crc32(body, crc32(block)),
            block_length,
            message.arrival_ms,
            message.expires_ms,
            message.not_before_ms,
            deliveries,
            message.priority,
            message.version,
            count,
        )
        try:
            if count == 1:
                rest = _MESSAGE_ONE.pack(*fields, *refs[0])
            else:
                rest = _MESSAGE.pack(*fields) + b"".join([_REFERENCE.pack(queue, id) for queue, id in refs])
                rest += bytes(head_length - 4 - len(rest))
        except StructError as error:
            raise OverflowError("a number does not fit its field") from error
        head = _U32.pack(crc32(rest)) + rest
        self._heads_crc = crc32(head, self._heads_crc)
        padding = _PADDING[length & 7]
        self._chunks += (head, block, body, padding)
        self._written += head_length + length + len(padding)
        self.records += 1

    def settle(self, queue: int, id: int, reason: int) -> None:
        """Note that message `id` of `queue` is gone; written later, joined with its neighbours to ranges."""
        if self._finished:
            raise ValueError("the batch is finished: clear it first")
        if not (0 <= queue <= _MAX_U32 and 0 <= id < 1 << 64 and 0 <= reason < 256):
            raise OverflowError("a number does not fit its field")
        group = queue, reason
        if group != self._last:
            self._last = group
            self._settled_bytes += SETTLED_HEAD_BYTES
        self._settled_bytes += RANGE_BYTES
        ids = self._settled.get(group)
        if ids is None:
            self._settled[group] = [id]
        else:
            ids.append(id)

    def flush_settled(self) -> None:
        """Write the settlements collected so far: a record for each queue and reason, in their order."""
        settled, self._settled, self._settled_bytes, self._last = self._settled, {}, 0, None
        for (queue, reason), ids in sorted(settled.items()):
            ranges: list[bytes] = []
            ids.sort()
            first = last = ids[0]
            for id in ids:
                if id > last + 1:
                    ranges.append(_RANGE.pack(first, last))
                    first = id
                last = id
            ranges.append(_RANGE.pack(first, last))
            self._add(_HEAD_32, SETTLED, b"".join(ranges), len(ranges), queue, reason)

    def define(self, queue: int, name: str) -> None:
        """Say that `queue` is called `name`."""
        self._add(_HEAD_32, DEFINE, name.encode(), 0, queue, 0)

    def drop(self, queue: int) -> None:
        """Say that `queue` and all in it is gone; what was settled before is written before."""
        self.flush_settled()
        self._add(_HEAD_32, DROP, b"", 0, queue, 0)

    def next_queue(self, number: int) -> None:
        """Opening batch: the lowest queue number that was never used."""
        self._add(_HEAD_32, NEXT_QUEUE, b"", 0, number, 0)

    def state(self, queue: int, name: str, next: int, floor: int, dead: Sequence[tuple[int, int]] | bytes) -> None:
        """Opening batch: a whole queue. Dead are ids below `floor` and those in `dead`: (first, last), ascending.

        `dead` may be bytes: those of `QueueIndex.packed_dead_ranges`.
        """
        self._check_open()
        encoded = name.encode()
        if isinstance(dead, bytes):
            ranges = dead
            if len(ranges) % _RANGE.size:
                raise ValueError(f"ranges have 16 bytes each, {len(ranges)} are there")
        else:
            try:
                ranges = b"".join([_RANGE.pack(first, last) for first, last in dead])
            except StructError as error:
                raise OverflowError("a number does not fit its field") from error
        payload = encoded + _PADDING[len(encoded) & 7] + ranges
        self._add(_HEAD_48, STATE, payload, len(ranges) // _RANGE.size, queue, len(encoded), next, floor)

    def counts(self, queue: int, counts: Sequence[tuple[int, int]]) -> None:
        """Opening batch: how often messages of `queue` were delivered, as (id, deliveries)."""
        self._check_open()
        try:
            payload = b"".join([_COUNT.pack(id, deliveries, 0) for id, deliveries in counts])
        except StructError as error:
            raise OverflowError("a number does not fit its field") from error
        self._add(_HEAD_32, COUNTS, payload, len(counts), queue, 0)

    def segment(self, number: int, end: int) -> None:
        """Opening batch: an older segment that is still in the log, and the offset where its batches end."""
        self._add(_HEAD_40, SEGMENT, b"", 0, number, 0, end)

    def finish(self, address: int, durable: int, opening: bool = False) -> memoryview:
        """Close the batch: all of it, for the disk at `address`. `durable`: everything below is known to be synced.

        The bytes stay valid until `clear`, which must come before the next record.
        """
        self._check_open()
        self.flush_settled()
        padding = -self._written % BLOCK
        try:
            rest = _BATCH.pack(
                address,
                durable,
                self._written + padding,
                self.records,
                self._heads_crc,
                OPENING if opening else 0,
                self._store_id,
                self._written - HEADER_BYTES,
                0,
            )
        except StructError as error:
            raise OverflowError("a number does not fit its field") from error
        self._finished = True
        header = _BATCH_MAGIC + _U32.pack(crc32(rest)) + rest
        return memoryview(b"".join([header, *self._chunks, bytes(padding)]))

    def clear(self) -> None:
        """Begin the next batch; the buffer of a large one is given back."""
        self._chunks = []
        self._heads_crc = 0
        self._settled = {}
        self._settled_bytes = 0
        self._last = None
        self._written = HEADER_BYTES
        self._finished = False
        self.records = 0

    def _check_open(self) -> None:
        if self._finished:
            raise ValueError("the batch is finished: clear it first")

    def _add(self, form: Struct, kind: int, payload: bytes, count: int, number: int, *fields: int) -> None:
        """Any record but a message: heads differ only in what follows the count."""
        self._check_open()
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"a payload of {len(payload)} bytes is over the format's limit of {MAX_PAYLOAD}")
        try:
            rest = form.pack(kind, 0, 0, form.size + 4, len(payload), crc32(payload), count, number, *fields)
        except StructError as error:
            raise OverflowError("a number does not fit its field") from error
        head = _U32.pack(crc32(rest)) + rest
        self._heads_crc = crc32(head, self._heads_crc)
        padding = _PADDING[len(payload) & 7]
        self._chunks += (head, payload, padding)
        self._written += len(head) + len(payload) + len(padding)
        self.records += 1


def decode_batch_header(buffer: Readable, address: int, store_id: bytes) -> BatchHeader:
    """The header of the batch that should stand at `address`, from its first 64 bytes.

    CorruptRecord where it is no header, or one of another place or another store.
    """
    if len(buffer) < HEADER_BYTES:
        raise _corrupt(address, f"a batch header has 64 bytes, {len(buffer)} are there")
    if buffer[:4] != _BATCH_MAGIC:
        raise _corrupt(address, "no batch begins here")
    if crc32(memoryview(buffer)[8:HEADER_BYTES]) != _U32.unpack_from(buffer, 4)[0]:
        raise _corrupt(address, "the checksum of the batch header does not fit")
    own, durable, length, records, _, flags, store, body, _ = _BATCH.unpack_from(buffer, 8)
    if own != address:
        raise _corrupt(address, f"this batch belongs to {_where(own)}")
    if store != store_id:
        raise _corrupt(address, "this batch belongs to another store")
    if length % BLOCK or body % 8 or length < HEADER_BYTES + body:
        raise _corrupt(address, f"a batch of {length} bytes cannot hold {body} bytes of records")
    return BatchHeader(own, durable, length, records, body, flags)


def decode_batch(
    buffer: Readable, address: int, store_id: bytes, payloads: bool, damaged: list[Event] | None = None
) -> list[Event]:
    """Everything that the batch at `address` says, in its order; `buffer` begins there and holds all of it.

    Heads and the payloads read here are always verified, those of messages where `payloads` says so. Any doubt is a
    CorruptRecord, but for messages' payloads where `damaged` is given: their events are appended to it as well.
    `address` and `length` of a PUT are those of the whole record.

        (PUT, queue, id, address, length, deliveries, expires_ms, not_before_ms)   once for each reference
        (SETTLED, queue, reason, first, last)                                      once for each range
        (DEFINE, queue, name)   (DROP, queue)   (NEXT_QUEUE, number)   (SEGMENT, number, end)
        (STATE, queue, name, next, floor, [(first, last), …])   (COUNTS, queue, [(id, deliveries), …])
    """
    return _read_batch(buffer, address, store_id, payloads, damaged, False)


def scan_batch(
    buffer: Readable, address: int, store_id: bytes, payloads: bool, damaged: list[Event] | None = None
) -> list[Event]:
    """As `decode_batch`, but plain messages come packed, for `QueueIndex.put_places`: recovery and commit live on it.

        (PLACES, queue, places)     24 bytes each: id u64, address u64, length u32, deliveries u16, zero u16

    Packed are intact messages of one reference without expiry and not-before. Those between two other events become one
    event for each queue, by its number; order within a queue is kept. Any other message is a PUT.
    """
    return _read_batch(buffer, address, store_id, payloads, damaged, True)


def _read_batch(
    buffer: Readable, address: int, store_id: bytes, payloads: bool, damaged: list[Event] | None, packed: bool
) -> list[Event]:
    header = decode_batch_header(buffer, address, store_id)
    if len(buffer) < header.length:
        raise _corrupt(address, f"a batch of {header.length} bytes, {len(buffer)} are there")
    view = memoryview(buffer)
    events: list[Event] = []
    places: dict[int, list[bytes]] = {}
    heads_crc = 0
    position = HEADER_BYTES
    end = HEADER_BYTES + header.body
    for _ in range(header.records):
        place = address + position
        if end - position < 24:
            raise _corrupt(place, "the batch ends before its last record")
        crc, kind, _, _, head_length, payload_length, payload_crc, number = _COMMON.unpack_from(view, position)
        payload = position + head_length
        if head_length < 24 or head_length & 7 or payload > end:
            raise _corrupt(place, f"a record head cannot have {head_length} bytes")
        if payload_length > MAX_PAYLOAD or payload_length > end - payload:
            raise _corrupt(place, f"a payload cannot have {payload_length} bytes")
        head = view[position:payload]
        if crc32(head[4:]) != crc:
            raise _corrupt(place, "the checksum of the record head does not fit")
        heads_crc = crc32(head, heads_crc)
        position = payload + ((payload_length + 7) & ~7)
        intact = True
        if payloads or kind != PUT:
            intact = crc32(view[payload : payload + payload_length]) == payload_crc
            if not intact and (kind != PUT or damaged is None):
                raise _corrupt(place, "the checksum of the payload does not fit")
        if kind == PUT:
            if head_length < _MESSAGE_HEAD or number > payload_length:
                raise _corrupt(place, "the lengths in the message do not fit")
            _, expires_ms, not_before_ms, deliveries, _, _, count = _MESSAGE_FIELDS.unpack_from(head, 24)
            if not count or head_length != (_MESSAGE_HEAD + 12 * count + 7) & ~7:
                raise _corrupt(place, f"a head of {head_length} bytes cannot hold {count} references")
            length = position - place + address
            if packed and count == 1 and intact and not expires_ms and not not_before_ms:
                queue, id = _REFERENCE.unpack_from(head, _MESSAGE_HEAD)
                places.setdefault(queue, []).append(_PLACE.pack(id, place, length, deliveries, 0))
                continue
            _join_places(events, places)
            for at in range(_MESSAGE_HEAD, _MESSAGE_HEAD + 12 * count, 12):
                queue, id = _REFERENCE.unpack_from(head, at)
                event = (PUT, queue, id, place, length, deliveries, expires_ms, not_before_ms)
                events.append(event)
                if not intact and damaged is not None:
                    damaged.append(event)
        elif kind in _HEAD_LENGTHS:
            if head_length != _HEAD_LENGTHS[kind]:
                raise _corrupt(place, f"a record of type {kind} cannot have a head of {head_length} bytes")
            _join_places(events, places)
            _decode_other(events, kind, head, number, view[payload : payload + payload_length], place)
        elif not kind & _MAY_SKIP:
            raise _corrupt(place, f"records of type {kind} are unknown to this version")
    if position != end:
        raise _corrupt(address, f"the records end at byte {position}, not {end}")
    if heads_crc != _U32.unpack_from(view, 32)[0]:
        raise _corrupt(address, "the checksum over the record heads does not fit")
    _join_places(events, places)
    return events


def _join_places(events: list[Event], places: dict[int, list[bytes]]) -> None:
    """What was packed so far becomes events."""
    events += [(PLACES, queue, b"".join(places[queue])) for queue in sorted(places)]
    places.clear()


def _decode_other(
    events: list[Event], kind: int, head: memoryview, count: int, payload: memoryview, place: int
) -> None:
    """Append the events of a record that is no message; `count` is the number at byte 20."""
    subject, field = _SUBJECT.unpack_from(head, 24)
    if kind == SETTLED:
        for first, last in _ranges(payload, count, 0, 1 << 64, place):
            events.append((SETTLED, subject, field & 0xFF, first, last))
    elif kind == DEFINE:
        events.append((DEFINE, subject, _name(payload, place)))
    elif kind == STATE:
        next, floor = _RANGE.unpack_from(head, 32)
        if floor > next:
            raise _corrupt(place, f"the floor {floor} is over the next id {next}")
        padded = (field + 7) & ~7
        if field > len(payload) or padded > len(payload):
            raise _corrupt(place, f"a name of {field} bytes cannot be in a payload of {len(payload)}")
        name = _name(payload[:field], place)
        events.append((STATE, subject, name, next, floor, _ranges(payload[padded:], count, floor, next, place)))
    elif kind == COUNTS:
        if len(payload) != _COUNT.size * count:
            raise _corrupt(place, f"a payload of {len(payload)} bytes cannot hold {count} counts")
        events.append((COUNTS, subject, [(id, deliveries) for id, deliveries, _ in _COUNT.iter_unpack(payload)]))
    elif kind == SEGMENT:
        events.append((SEGMENT, subject, _U64.unpack_from(head, 32)[0]))
    else:
        events.append((kind, subject))


def _ranges(payload: memoryview, count: int, low: int, high: int, place: int) -> list[tuple[int, int]]:
    """`count` ranges (first, last), which must ascend from `low` on and stay below `high`."""
    if len(payload) != _RANGE.size * count:
        raise _corrupt(place, f"a payload of {len(payload)} bytes cannot hold {count} ranges")
    ranges = list(_RANGE.iter_unpack(payload))
    for first, last in ranges:
        if not low <= first <= last < high:
            raise _corrupt(place, f"the range {first} to {last} is out of order")
        low = last + 1
    return ranges


def _name(payload: memoryview, place: int) -> str:
    try:
        return str(payload, "utf-8")
    except UnicodeDecodeError as error:
        raise _corrupt(place, "the name of the queue is not UTF-8") from error


def decode_message(buffer: Readable, offset: int = 0) -> tuple[Message, int]:
    """The message whose record begins at byte `offset` of `buffer`, and the record's length with its padding.

    Head and payload are verified; CorruptRecord where that fails.
    """
    view = memoryview(buffer)
    head_length, payload_length, payload_crc, block_length, _ = _message_head(view, offset)
    payload = offset + head_length
    if payload_length > MAX_PAYLOAD or payload_length > len(view) - payload:
        raise CorruptRecord(f"byte {offset}: a payload cannot have {payload_length} bytes")
    if block_length > payload_length:
        raise CorruptRecord(f"byte {offset}: the lengths in the message do not fit")
    end = payload + payload_length
    if crc32(view[payload:end]) != payload_crc:
        raise CorruptRecord(f"byte {offset}: the checksum of the payload does not fit")
    arrival_ms, expires_ms, not_before_ms, deliveries, priority, version, _ = _MESSAGE_FIELDS.unpack_from(
        view, offset + 24
    )
    message = Message(
        version,
        bool(view[offset + 5] & _PLAIN),
        bytes(view[payload : payload + block_length]),
        bytes(view[payload + block_length : end]),
        arrival_ms,
        expires_ms,
        not_before_ms,
        priority,
        deliveries,
    )
    return message, head_length + ((payload_length + 7) & ~7)


def decode_references(buffer: Readable, offset: int = 0) -> list[tuple[int, int]]:
    """Every (queue, id) of the message whose record begins at byte `offset`; verifies the head, needs no payload."""
    view = memoryview(buffer)
    count = _message_head(view, offset)[4]
    start = offset + _MESSAGE_HEAD
    return [_REFERENCE.unpack_from(view, at) for at in range(start, start + 12 * count, 12)]


def _message_head(view: memoryview, offset: int) -> tuple[int, int, int, int, int]:
    """Verify a message's head: its length, the payload's length and checksum, the block's length, the references."""
    if offset < 0 or len(view) - offset < _MESSAGE_HEAD:
        raise CorruptRecord(f"byte {offset}: no message begins here")
    crc, kind, _, _, head_length, payload_length, payload_crc, block_length = _COMMON.unpack_from(view, offset)
    if kind != PUT:
        raise CorruptRecord(f"byte {offset}: no message begins here")
    if head_length < _MESSAGE_HEAD or head_length & 7 or head_length > len(view) - offset:
        raise CorruptRecord(f"byte {offset}: a record head cannot have {head_length} bytes")
    if crc32(view[offset + 4 : offset + head_length]) != crc:
        raise CorruptRecord(f"byte {offset}: the checksum of the record head does not fit")
    count = _U32.unpack_from(view, offset + 52)[0]
    if not count or head_length != (_MESSAGE_HEAD + 12 * count + 7) & ~7:
        raise CorruptRecord(f"byte {offset}: a head of {head_length} bytes cannot hold {count} references")
    return head_length, payload_length, payload_crc, block_length, count


def encode_segment_header(store_id: bytes, number: int, created_ms: int, capacity: int) -> bytes:
    """The first 4096 bytes of segment `number`; `capacity` is the size in bytes that the file was made for."""
    if len(store_id) != 16:
        raise ValueError(f"a store id has 16 bytes, not {len(store_id)}")
    try:
        fields = _SEGMENT_HEADER.pack(
            _SEGMENT_MAGIC, FORMAT_VERSION, _CHECKSUM_CRC32, 0, store_id, number, 0, created_ms, capacity
        )
    except StructError as error:
        raise OverflowError("a number does not fit its field") from error
    block = fields.ljust(BLOCK - 4, b"\0")
    return block + _U32.pack(crc32(block))


def decode_segment_header(buffer: Readable) -> SegmentHeader:
    """What a segment's first 4096 bytes say; CorruptRecord where they are no header that this version can read."""
    if len(buffer) < BLOCK:
        raise CorruptRecord(f"a segment header has 4096 bytes, {len(buffer)} are there")
    if buffer[:8] != _SEGMENT_MAGIC:
        raise CorruptRecord("no segment begins here")
    if crc32(memoryview(buffer)[: BLOCK - 4]) != _U32.unpack_from(buffer, BLOCK - 4)[0]:
        raise CorruptRecord("the checksum of the segment header does not fit")
    _, version, checksum, _, store_id, number, _, created_ms, capacity = _SEGMENT_HEADER.unpack_from(buffer)
    if version != FORMAT_VERSION:
        raise CorruptRecord(f"the segment has format version {version}, this radiator reads {FORMAT_VERSION}")
    if checksum != _CHECKSUM_CRC32:
        raise CorruptRecord(f"the segment uses checksum {checksum}, which is unknown to this version")
    return SegmentHeader(store_id, number, created_ms, capacity, version)


def _where(address: int) -> str:
    return f"segment {address >> 32} offset {address & _MAX_U32}"


def _corrupt(address: int, what: str) -> CorruptRecord:
    return CorruptRecord(f"{_where(address)}: {what}")
