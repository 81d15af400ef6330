"""The bytes of every record, batch and segment header, and that they read back as what was written."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest
from record_cases import ADDRESS, GOLDEN, GOLDEN_HEADER, MESSAGE, STORE_ID, message_fields, sealed

from radiator.errors import CorruptRecord
from radiator.message import Message


def write(record: Any, calls: list[tuple[Any, ...]], opening: bool = False, durable: int = 0) -> bytes:
    writer = record.BatchWriter(STORE_ID)
    for name, *arguments in calls:
        getattr(writer, name)(*arguments)
    return bytes(writer.finish(ADDRESS, durable, opening))


@pytest.mark.parametrize("name", GOLDEN)
def test_record_bytes_are_golden(record_twin: Any, name: str) -> None:
    calls, expected = GOLDEN[name]
    batch = write(record_twin, calls)
    header = record_twin.decode_batch_header(batch, ADDRESS, STORE_ID)
    assert batch[64 : 64 + header.body].hex() == expected


def test_batch_header_bytes_are_golden(record_twin: Any) -> None:
    assert write(record_twin, GOLDEN["put"][0])[:64].hex() == GOLDEN_HEADER


def test_a_batch_reads_back_in_order(record_twin: Any) -> None:
    calls: list[tuple[Any, ...]] = [call for calls, _ in GOLDEN.values() for call in calls]
    batch = write(record_twin, calls, opening=True, durable=77)
    place = ADDRESS + 64
    assert record_twin.decode_batch(batch, ADDRESS, STORE_ID, True) == [
        (record_twin.PUT, 5, 6, place, 104, 4, 2, 3),
        (record_twin.PUT, 5, 6, place + 104, 112, 4, 2, 3),
        (record_twin.PUT, 7, 8, place + 104, 112, 4, 2, 3),
        (record_twin.DEFINE, 3, "/queue/é"),
        # The settlements of the calls before stand here: a drop flushes them.
        (record_twin.SETTLED, 3, 1, 4, 5),
        (record_twin.SETTLED, 3, 1, 9, 9),
        (record_twin.DROP, 3),
        (record_twin.NEXT_QUEUE, 4),
        (record_twin.STATE, 3, "/queue/xy", 100, 10, [(12, 13), (20, 20)]),
        (record_twin.COUNTS, 3, [(11, 2)]),
        (record_twin.SEGMENT, 6, 12288),
    ]
    header = record_twin.decode_batch_header(batch[:64], ADDRESS, STORE_ID)
    assert header == (ADDRESS, 77, 4096, 9, header.body, record_twin.OPENING)
    assert header.length == len(batch)


def test_numbers_of_types_and_sizes_are_fixed(record_twin: Any) -> None:
    names = ("PUT", "SETTLED", "DEFINE", "DROP", "NEXT_QUEUE", "STATE", "COUNTS", "SEGMENT")
    assert [getattr(record_twin, name) for name in names] == [1, 2, 3, 4, 16, 17, 18, 19]
    assert (record_twin.BLOCK, record_twin.HEADER_BYTES, record_twin.MAX_PAYLOAD) == (4096, 64, 1 << 30)
    assert (record_twin.FORMAT_VERSION, record_twin.OPENING) == (1, 1)


def test_a_message_reads_back(record_twin: Any) -> None:
    batch = write(record_twin, [("put", MESSAGE, [(1, 2), (3, 4)])])
    message, length = record_twin.decode_message(memoryview(batch)[64:])
    assert message_fields(message) == message_fields(MESSAGE)
    assert type(message.block) is bytes
    assert type(message.body) is bytes
    assert length == 112
    assert record_twin.decode_message(batch, 64)[1] == 112
    assert record_twin.decode_message(bytearray(batch), 64)[1] == 112
    assert record_twin.decode_references(batch, 64) == [(1, 2), (3, 4)]
    # Only the head is needed for the references.
    assert record_twin.decode_references(batch[64:144], 0) == [(1, 2), (3, 4)]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 255, 256, 257, 4096, 70_000])
def test_bodies_of_any_size_read_back(record_twin: Any, size: int) -> None:
    body = bytes(at * 7 & 0xFF for at in range(size))
    batch = write(record_twin, [("put", Message(10, False, b"", body), [(1, 1)])])
    assert len(batch) % 4096 == 0
    [event] = record_twin.decode_batch(batch, ADDRESS, STORE_ID, True)
    offset = event[3] - ADDRESS
    message, length = record_twin.decode_message(batch, offset)
    assert message.body == body
    assert not message.plain
    assert length == event[4] == 72 + (size + 7) // 8 * 8
    # The checksum is zlib's whatever the length: the compiled twin has a loop of its own for short data.
    assert struct.unpack_from("<I", batch, offset + 16)[0] == zlib.crc32(body)


@pytest.mark.parametrize("count", [1, 2, 3, 100])
def test_a_body_is_stored_once_for_all_references(record_twin: Any, count: int) -> None:
    references = [(queue, queue << 40) for queue in range(1, count + 1)]
    batch = write(record_twin, [("put", MESSAGE, references)])
    events = record_twin.decode_batch(batch, ADDRESS, STORE_ID, True)
    assert [event[1:3] for event in events] == references
    assert len({event[3] for event in events}) == 1
    assert record_twin.decode_references(batch, 64) == references
    assert batch.count(MESSAGE.body) == 1


def test_highest_numbers_read_back(record_twin: Any) -> None:
    top = (1 << 64) - 1
    message = Message(255, True, b"", b"", top, top, top, 255, 70_000)
    calls = [("put", message, [((1 << 32) - 1, top)]), ("settle", 1, top, 255), ("settle", 1, top - 1, 255)]
    events = record_twin.decode_batch(write(record_twin, calls), ADDRESS, STORE_ID, True)
    assert events[0][1:3] == ((1 << 32) - 1, top)
    # A delivery count stops at what its field can hold.
    assert events[0][5:] == (65535, top, top)
    assert events[1] == (record_twin.SETTLED, 1, 255, top - 1, top)


def test_settlements_are_joined_by_queue_and_reason(record_twin: Any) -> None:
    calls = [
        ("settle", queue, id, reason) for queue, id, reason in [(2, 1, 0), (1, 7, 1), (1, 5, 0), (1, 4, 0), (1, 5, 0)]
    ]
    assert record_twin.decode_batch(write(record_twin, calls), ADDRESS, STORE_ID, True) == [
        (record_twin.SETTLED, 1, 0, 4, 5),
        (record_twin.SETTLED, 1, 1, 7, 7),
        (record_twin.SETTLED, 2, 0, 1, 1),
    ]


def test_size_bounds_what_finish_gives(record_twin: Any) -> None:
    writer = record_twin.BatchWriter(STORE_ID)
    assert writer.empty
    assert writer.size == 64
    writer.settle(1, 1, 0)
    assert not writer.empty
    assert writer.records == 0
    assert writer.size == 64 + 48
    writer.settle(1, 2, 0)
    writer.put(MESSAGE, [(1, 3)])
    assert writer.size == 64 + 48 + 16 + 104
    writer.flush_settled()
    assert writer.size == 64 + 48 + 104
    assert writer.records == 2
    assert len(writer.finish(ADDRESS, 0)) == 4096


def test_a_writer_is_used_again(record_twin: Any) -> None:
    writer = record_twin.BatchWriter(STORE_ID)
    writer.put(MESSAGE, [(1, 1)])
    writer.settle(1, 1, 0)
    kept = writer.finish(ADDRESS, 0)
    before = bytes(kept)
    for call in (lambda: writer.put(MESSAGE, [(1, 1)]), lambda: writer.settle(1, 1, 0), lambda: writer.drop(1)):
        with pytest.raises(ValueError, match="clear it first"):
            call()
    with pytest.raises(ValueError, match="clear it first"):
        writer.finish(ADDRESS, 0)
    writer.clear()
    assert (writer.empty, writer.size, writer.records) == (True, 64, 0)
    writer.put(MESSAGE, [(1, 1)])
    writer.settle(1, 1, 0)
    assert bytes(writer.finish(ADDRESS, 0)) == before
    # A view that somebody still holds is not written over.
    assert bytes(kept) == before


def test_a_large_batch_survives_the_growth_of_its_buffer(record_twin: Any) -> None:
    writer = record_twin.BatchWriter(STORE_ID)
    message = Message(12, True, b"a:b\n", b"x" * 1_000_000)
    for id in range(1, 8):
        writer.put(message, [(1, id)])
    batch = writer.finish(ADDRESS, 0)
    assert [event[2] for event in record_twin.decode_batch(batch, ADDRESS, STORE_ID, True)] == list(range(1, 8))
    batch.release()
    writer.clear()
    writer.put(message, [(1, 8)])
    assert len(record_twin.decode_batch(writer.finish(ADDRESS, 0), ADDRESS, STORE_ID, True)) == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("put", (MESSAGE, [(1 << 32, 1)])),
        ("put", (MESSAGE, [(1, 1), (1, 1 << 64)])),
        ("put", (MESSAGE, [(1, -1)])),
        ("put", (Message(256, True, b"", b""), [(1, 1)])),
        ("put", (Message(12, True, b"", b"", priority=-1), [(1, 1)])),
        ("put", (Message(12, True, b"", b"", arrival_ms=1 << 64), [(1, 1)])),
        ("settle", (1 << 32, 1, 0)),
        ("settle", (1, -1, 0)),
        ("settle", (1, 1, 256)),
        ("define", (1 << 32, "x")),
        ("drop", (-1,)),
        ("next_queue", (1 << 32,)),
        ("state", (1, "x", 1 << 64, 1, [])),
        ("state", (1, "x", 9, 1, [(1, 1 << 64)])),
        ("counts", (1, [(1, 1 << 32)])),
        ("segment", (1, 1 << 64)),
    ],
)
def test_numbers_that_do_not_fit_change_nothing(record_twin: Any, name: str, arguments: tuple[Any, ...]) -> None:
    writer = record_twin.BatchWriter(STORE_ID)
    with pytest.raises(OverflowError, match="a number does not fit its field"):
        getattr(writer, name)(*arguments)
    assert (writer.size, writer.records, writer.empty) == (64, 0, True)
    writer.put(MESSAGE, [(5, 6)])
    assert bytes(writer.finish(ADDRESS, 0)) == write(record_twin, GOLDEN["put"][0])


def test_a_message_needs_a_reference(record_twin: Any) -> None:
    writer = record_twin.BatchWriter(STORE_ID)
    with pytest.raises(ValueError, match="a message needs a reference"):
        writer.put(MESSAGE, [])
    assert writer.empty


def test_a_store_id_has_16_bytes(record_twin: Any) -> None:
    with pytest.raises(ValueError, match="a store id has 16 bytes, not 15"):
        record_twin.BatchWriter(bytes(15))
    with pytest.raises(ValueError, match="a store id has 16 bytes, not 17"):
        record_twin.encode_segment_header(bytes(17), 1, 1, 1)


def test_segment_header_reads_back(record_twin: Any) -> None:
    block = record_twin.encode_segment_header(STORE_ID, 7, 1_700_000_000_000, 64 << 20)
    assert len(block) == 4096
    assert block[:56] == struct.pack(
        "<8sHHI16sIIQQ", b"RADLOG1\0", 1, 1, 0, STORE_ID, 7, 0, 1_700_000_000_000, 64 << 20
    )
    assert block[56:4092] == bytes(4036)
    assert struct.unpack("<I", block[4092:])[0] == zlib.crc32(block[:4092])
    header = record_twin.decode_segment_header(memoryview(block))
    assert header == (STORE_ID, 7, 1_700_000_000_000, 64 << 20, 1)
    assert (header.store_id, header.number, header.capacity, header.version) == (STORE_ID, 7, 64 << 20, 1)
    with pytest.raises(OverflowError, match="a number does not fit its field"):
        record_twin.encode_segment_header(STORE_ID, 1 << 32, 1, 1)


@pytest.mark.parametrize(
    ("offset", "value", "text"),
    [
        (8, 2, "the segment has format version 2, this radiator reads 1"),
        (10, 9, "the segment uses checksum 9, which is unknown to this version"),
    ],
)
def test_segment_of_another_version_is_refused(record_twin: Any, offset: int, value: int, text: str) -> None:
    block = bytearray(record_twin.encode_segment_header(STORE_ID, 7, 1, 1))
    struct.pack_into("<H", block, offset, value)
    struct.pack_into("<I", block, 4092, zlib.crc32(block[:4092]))
    with pytest.raises(CorruptRecord) as caught:
        record_twin.decode_segment_header(block)
    assert str(caught.value) == text


def test_the_reference_writer_agrees(record_twin: Any) -> None:
    """`sealed`, which the damage tests build on, writes what a writer writes."""
    batch = write(record_twin, GOLDEN["drop"][0])
    assert sealed([(batch[64:96], b"")]) == batch
