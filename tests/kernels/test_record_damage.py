"""Damage: whatever happens to the bytes, a decoder says CorruptRecord or what was written, and both twins agree."""

from __future__ import annotations

import importlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_cases import ADDRESS, GOLDEN, MESSAGE, STORE_ID, head, message_fields, sealed

from radiator.errors import CorruptRecord
from radiator.message import Message


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    """The pure and the compiled twin."""
    pytest.importorskip("radiator._speedups.record", exc_type=ImportError)
    names = ("radiator.store.file.record_pure", "radiator._speedups.record")
    return tuple(importlib.import_module(name) for name in names)  # type: ignore[return-value]


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a decoder returns, with messages made comparable, or the text of its CorruptRecord."""
    try:
        result = function(*arguments)
    except CorruptRecord as error:
        return str(error)
    if isinstance(result, tuple) and isinstance(result[0], Message):
        return message_fields(result[0]), result[1]
    return result


def small_batch(record: Any) -> bytes:
    writer = record.BatchWriter(STORE_ID)
    for calls, _ in GOLDEN.values():
        for name, *arguments in calls:
            getattr(writer, name)(*arguments)
    return bytes(writer.finish(ADDRESS, ADDRESS - 4096, True))


def padding_of(record: Any, batch: bytes) -> set[int]:
    """Offsets of the zeros behind payloads and at the end, which no checksum covers."""
    body = record.decode_batch_header(batch, ADDRESS, STORE_ID).body
    offsets = set(range(64 + body, len(batch)))
    position = 64
    while position < 64 + body:
        head_length, payload_length = struct.unpack_from("<II", batch, position + 8)
        end = position + head_length + payload_length
        position = (end + 7) // 8 * 8
        offsets |= set(range(end, position))
    return offsets


def test_every_flipped_bit_of_a_batch_is_found(record_twin: Any) -> None:
    batch = small_batch(record_twin)
    events = record_twin.decode_batch(batch, ADDRESS, STORE_ID, True)
    padding = padding_of(record_twin, batch)
    body = record_twin.decode_batch_header(batch, ADDRESS, STORE_ID).body
    damaged = bytearray(batch)
    for offset in range(64 + body + 8):
        for bit in range(8):
            damaged[offset] ^= 1 << bit
            if offset in padding:
                assert record_twin.decode_batch(damaged, ADDRESS, STORE_ID, True) == events
            else:
                with pytest.raises(CorruptRecord, match=r"^segment 7 offset \d+: "):
                    record_twin.decode_batch(damaged, ADDRESS, STORE_ID, True)
            damaged[offset] ^= 1 << bit
    assert damaged == batch


def test_every_truncation_of_a_batch_is_found(record_twin: Any) -> None:
    batch = small_batch(record_twin)
    for length in range(len(batch)):
        with pytest.raises(CorruptRecord):
            record_twin.decode_batch(memoryview(batch)[:length], ADDRESS, STORE_ID, True)
    assert record_twin.decode_batch(batch + b"more", ADDRESS, STORE_ID, True)


def test_every_flipped_bit_and_truncation_of_a_message_is_found(record_twin: Any) -> None:
    record = bytes.fromhex(GOLDEN["put"][1])
    for length in range(98):  # what follows is padding
        with pytest.raises(CorruptRecord):
            record_twin.decode_message(record[:length])
    for offset in range(98):
        for bit in range(8):
            damaged = bytearray(record)
            damaged[offset] ^= 1 << bit
            with pytest.raises(CorruptRecord):
                record_twin.decode_message(damaged)
            if offset < 72:
                with pytest.raises(CorruptRecord):
                    record_twin.decode_references(damaged)
    for offset in (-1, len(record), len(record) + 1, len(record) - 55):
        with pytest.raises(CorruptRecord, match="no message begins here"):
            record_twin.decode_message(record, offset)


def test_every_flipped_bit_of_a_segment_header_is_found(record_twin: Any) -> None:
    block = record_twin.encode_segment_header(STORE_ID, 7, 1, 1)
    for offset in [*range(64), 2000, *range(4088, 4096)]:
        damaged = bytearray(block)
        damaged[offset] ^= 1 << offset % 8
        with pytest.raises(CorruptRecord):
            record_twin.decode_segment_header(damaged)
    with pytest.raises(CorruptRecord, match="a segment header has 4096 bytes, 4095 are there"):
        record_twin.decode_segment_header(block[:-1])


def test_a_batch_of_another_place_or_store_is_refused(record_twin: Any) -> None:
    batch = small_batch(record_twin)
    for function in (record_twin.decode_batch_header, lambda *rest: record_twin.decode_batch(*rest, True)):
        with pytest.raises(CorruptRecord) as caught:
            function(batch, ADDRESS + 4096, STORE_ID)
        assert str(caught.value) == "segment 7 offset 12288: this batch belongs to segment 7 offset 8192"
        with pytest.raises(CorruptRecord) as caught:
            function(batch, ADDRESS, bytes(16))
        assert str(caught.value) == "segment 7 offset 8192: this batch belongs to another store"
        with pytest.raises(CorruptRecord) as caught:
            function(bytes(4096), ADDRESS, STORE_ID)
        assert str(caught.value) == "segment 7 offset 8192: no batch begins here"


def test_a_damaged_body_costs_one_message_where_asked(record_twin: Any) -> None:
    writer = record_twin.BatchWriter(STORE_ID)
    for id in (1, 2, 3):
        writer.put(MESSAGE, [(1, id), (2, id)])
    batch = bytearray(writer.finish(ADDRESS, 0))
    events = record_twin.decode_batch(batch, ADDRESS, STORE_ID, True)
    batch[events[2][3] - ADDRESS + 80] ^= 1
    place = events[2][3] & 0xFFFFFFFF
    with pytest.raises(CorruptRecord) as caught:
        record_twin.decode_batch(batch, ADDRESS, STORE_ID, True)
    assert str(caught.value) == f"segment 7 offset {place}: the checksum of the payload does not fit"
    damaged: list[Any] = []
    assert record_twin.decode_batch(batch, ADDRESS, STORE_ID, True, damaged) == events
    assert damaged == events[2:4]
    # Not looked at, not found: recovery asks with the payloads, the commit path without.
    assert record_twin.decode_batch(batch, ADDRESS, STORE_ID, False) == events


def test_a_damaged_payload_of_any_other_record_is_never_set_aside(record_twin: Any) -> None:
    writer = record_twin.BatchWriter(STORE_ID)
    writer.settle(1, 1, 0)
    batch = bytearray(writer.finish(ADDRESS, 0))
    batch[64 + 32] ^= 1
    for payloads in (True, False):
        with pytest.raises(CorruptRecord, match="segment 7 offset 8256: the checksum of the payload does not fit"):
            record_twin.decode_batch(batch, ADDRESS, STORE_ID, payloads, [])


def test_unknown_types_are_skipped_only_where_they_say_so(record_twin: Any) -> None:
    drop = (head(4, b"", 0, struct.pack("<II", 3, 0)), b"")
    batch = sealed([(head(0x90, b"later", 0, bytes(24)), b"later"), drop])
    assert record_twin.decode_batch(batch, ADDRESS, STORE_ID, True) == [(record_twin.DROP, 3)]
    batch = sealed([drop, (head(0x10 | 0x04, b"", 0, bytes(8)), b"")])
    with pytest.raises(CorruptRecord) as caught:
        record_twin.decode_batch(batch, ADDRESS, STORE_ID, True)
    assert str(caught.value) == "segment 7 offset 8288: records of type 20 are unknown to this version"


def _name(text: bytes) -> bytes:
    return text + bytes(-len(text) % 8)


NUMBERS = struct.Struct("<II")
BROKEN: dict[str, tuple[bytes, str]] = {
    "head too short": (
        sealed([(head(4, b"", 0, b""), b"")]),
        "offset 8256: a record of type 4 cannot have a head of 24 bytes",
    ),
    "head of no multiple of 8": (
        sealed([(head(4, b"", 0, bytes(16)).replace(b"\x28\0\0\0", b"\x21\0\0\0"), b"")]),
        "offset 8256: a record head cannot have 33 bytes",
    ),
    "head of another type": (
        sealed([(head(4, b"", 0, bytes(16)), b"")]),
        "offset 8256: a record of type 4 cannot have a head of 40 bytes",
    ),
    "too many records": (
        sealed([(head(4, b"", 0, bytes(8)), b"")], records=2),
        "offset 8288: the batch ends before its last record",
    ),
    "too few records": (
        sealed([(head(4, b"", 0, bytes(8)), b"")] * 2, records=1),
        "offset 8192: the records end at byte 96, not 128",
    ),
    "heads not bound": (
        sealed([(head(4, b"", 0, bytes(8)), b"")], heads_crc=1),
        "offset 8192: the checksum over the record heads does not fit",
    ),
    "body over length": (
        sealed([(head(4, b"", 0, bytes(8)), b"")], body=4040),
        "offset 8192: a batch of 4096 bytes cannot hold 4040 bytes of records",
    ),
    "length of no block": (
        sealed([(head(4, b"", 0, bytes(8)), b"")], length=4104),
        "offset 8192: a batch of 4104 bytes cannot hold 32 bytes of records",
    ),
    "length not there": (
        sealed([(head(4, b"", 0, bytes(8)), b"")], length=1 << 30),
        "offset 8192: a batch of 1073741824 bytes, 96 are there",
    ),
    "ranges not in order": (
        sealed([(head(2, p := struct.pack("<4Q", 5, 6, 6, 7), 2, NUMBERS.pack(1, 0)), p)]),
        "offset 8256: the range 6 to 7 is out of order",
    ),
    "range turned round": (
        sealed([(head(2, p := struct.pack("<2Q", 6, 5), 1, NUMBERS.pack(1, 0)), p)]),
        "offset 8256: the range 6 to 5 is out of order",
    ),
    "range after the last id": (
        sealed([(head(2, p := struct.pack("<4Q", 1, 2**64 - 1, 0, 0), 2, NUMBERS.pack(1, 0)), p)]),
        "offset 8256: the range 0 to 0 is out of order",
    ),
    "more ranges than bytes": (
        sealed([(head(2, p := struct.pack("<2Q", 1, 1), 2, NUMBERS.pack(1, 0)), p)]),
        "offset 8256: a payload of 16 bytes cannot hold 2 ranges",
    ),
    "name not UTF-8": (
        sealed([(head(3, p := b"\xff", 0, NUMBERS.pack(1, 0)), p)]),
        "offset 8256: the name of the queue is not UTF-8",
    ),
    "name over payload": (
        sealed([(head(17, p := b"/q", 0, struct.pack("<IIQQ", 1, 3, 9, 1)), p)]),
        "offset 8256: a name of 3 bytes cannot be in a payload of 2",
    ),
    "name without padding": (
        sealed([(head(17, p := b"/q", 0, struct.pack("<IIQQ", 1, 2, 9, 1)), p)]),
        "offset 8256: a name of 2 bytes cannot be in a payload of 2",
    ),
    "floor over next": (
        sealed([(head(17, p := _name(b"/q"), 0, struct.pack("<IIQQ", 1, 2, 1, 2)), p)]),
        "offset 8256: the floor 2 is over the next id 1",
    ),
    "dead range below floor": (
        sealed([(head(17, p := _name(b"/q") + struct.pack("<2Q", 1, 3), 1, struct.pack("<IIQQ", 1, 2, 9, 2)), p)]),
        "offset 8256: the range 1 to 3 is out of order",
    ),
    "dead range past next": (
        sealed([(head(17, p := _name(b"/q") + struct.pack("<2Q", 3, 9), 1, struct.pack("<IIQQ", 1, 2, 9, 2)), p)]),
        "offset 8256: the range 3 to 9 is out of order",
    ),
    "dead range where nothing is": (
        sealed([(head(17, p := _name(b"/q") + struct.pack("<2Q", 2, 2), 1, struct.pack("<IIQQ", 1, 2, 2, 2)), p)]),
        "offset 8256: the range 2 to 2 is out of order",
    ),
    "no dead ranges where nothing is": (
        sealed([(head(17, p := _name(b"/q"), 1, struct.pack("<IIQQ", 1, 2, 2, 2)), p)]),
        "offset 8256: a payload of 0 bytes cannot hold 1 ranges",
    ),
    "counts do not fit": (
        sealed([(head(18, p := bytes(24), 1, NUMBERS.pack(1, 0)), p)]),
        "offset 8256: a payload of 24 bytes cannot hold 1 counts",
    ),
    "block over payload": (
        sealed([(head(1, b"", 1, struct.pack("<QQQHBBIIQ4x", 0, 0, 0, 0, 0, 0, 1, 1, 1)), b"")]),
        "offset 8256: the lengths in the message do not fit",
    ),
    "no references": (
        sealed([(head(1, b"", 0, struct.pack("<QQQHBBI", 0, 0, 0, 0, 0, 0, 0)), b"")]),
        "offset 8256: a head of 56 bytes cannot hold 0 references",
    ),
    "too many references": (
        sealed([(head(1, b"", 0, struct.pack("<QQQHBBI", 0, 0, 0, 0, 0, 0, 2**32 - 1)), b"")]),
        "offset 8256: a head of 56 bytes cannot hold 4294967295 references",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_honest_checksums_do_not_save_bad_fields(record_twin: Any, name: str) -> None:
    batch, text = BROKEN[name]
    with pytest.raises(CorruptRecord) as caught:
        record_twin.decode_batch(batch, ADDRESS, STORE_ID, True)
    assert str(caught.value) == f"segment 7 {text}"


def test_a_payload_over_the_format_is_refused_on_both_sides(record_twin: Any) -> None:
    lying = bytearray(head(1, b"", 0, struct.pack("<QQQHBBIIQ4x", 0, 0, 0, 0, 0, 0, 1, 1, 1)))
    struct.pack_into("<I", lying, 12, (1 << 30) + 1)
    struct.pack_into("<I", lying, 0, zlib.crc32(lying[4:]))
    with pytest.raises(CorruptRecord, match="a payload cannot have 1073741825 bytes"):
        record_twin.decode_message(lying)
    with pytest.raises(CorruptRecord, match="offset 8256: a payload cannot have 1073741825 bytes"):
        record_twin.decode_batch(sealed([(bytes(lying), b"")]), ADDRESS, STORE_ID, True)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_twins_agree_on_bytes_with_honest_checksums(both: tuple[Any, Any], data: st.DataObject) -> None:
    """Heads and payloads at random, under checksums that fit: nothing but CorruptRecord escapes."""
    kinds = st.sampled_from([1, 2, 3, 4, 16, 17, 18, 19, 20, 0x81])
    small = st.integers(0, 40)
    records = []
    for _ in range(data.draw(st.integers(0, 3))):
        payload = data.draw(
            st.one_of(
                st.binary(max_size=40),
                st.lists(small, max_size=6).map(lambda numbers: struct.pack(f"<{len(numbers)}Q", *numbers)),
            )
        )
        words = data.draw(st.lists(small, min_size=0, max_size=14))
        rest = struct.pack(f"<{len(words)}I", *words)
        records.append((head(data.draw(kinds), payload, data.draw(st.integers(0, 4)), rest, data.draw(small)), payload))
    changed = data.draw(st.dictionaries(st.sampled_from(["records", "body", "length", "heads_crc"]), small, max_size=1))
    batch = sealed(records, **changed)
    pure, compiled = both
    set_aside: tuple[list[Any], list[Any]] = ([], [])
    for payloads in (True, False):
        for damaged in (None, set_aside):
            results = [
                outcome(twin.decode_batch, batch, ADDRESS, STORE_ID, payloads, damaged and damaged[which])
                for which, twin in enumerate(both)
            ]
            assert results[0] == results[1]
    assert set_aside[0] == set_aside[1]
    assert outcome(pure.decode_message, batch, 64) == outcome(compiled.decode_message, batch, 64)
    assert outcome(pure.decode_references, batch, 64) == outcome(compiled.decode_references, batch, 64)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_twins_agree_on_damage(both: tuple[Any, Any], data: st.DataObject) -> None:
    pure, compiled = both
    batch = bytearray(small_batch(pure))
    for _ in range(data.draw(st.integers(1, 3))):
        batch[data.draw(st.integers(0, 700))] = data.draw(st.integers(0, 255))
    del batch[data.draw(st.sampled_from([len(batch), 63, 64, 200, 4095])) :]
    for arguments in ((batch, ADDRESS, STORE_ID, True), (batch, ADDRESS, STORE_ID, False)):
        assert outcome(pure.decode_batch, *arguments) == outcome(compiled.decode_batch, *arguments)
    damaged: tuple[list[Any], list[Any]] = ([], [])
    assert outcome(pure.decode_batch, batch, ADDRESS, STORE_ID, True, damaged[0]) == outcome(
        compiled.decode_batch, batch, ADDRESS, STORE_ID, True, damaged[1]
    )
    assert damaged[0] == damaged[1]
    offset = data.draw(st.integers(0, 200))
    assert outcome(pure.decode_message, batch, offset) == outcome(compiled.decode_message, batch, offset)
