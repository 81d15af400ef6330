"""How fast records are written and read: both twins in one process, and the gates between them.

Run by `pytest bench/bench_record.py`. A gate compares ratios of the same run, best of several interleaved rounds, and
never an absolute time: the compiled twin must be at least twice as fast as the pure one, and the pure one must keep up
with a fixed control loop, so that nobody wins the first gate by slowing it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from kernel_gates import GATE, load_twin, ratio

from radiator.message import Message

MODULES = {"pure": "radiator.store.file.record_pure", "compiled": "radiator._speedups.record"}
STORE_ID = bytes(range(16))
ADDRESS = 1 << 32 | 4096
RECORDS = 500
MESSAGE = Message(12, True, b"destination:/queue/orders\ncontent-type:text/plain\n", b"x" * 100, 1_700_000_000_000)
CONTROL_GATE = 4.0
"""How many times as long as its control loop the pure twin may take; measured here: 1.9 (writing), 1.6 (reading)."""


@pytest.fixture(params=MODULES)
def twin(request: pytest.FixtureRequest) -> Any:
    return load_twin(MODULES, request.param)


def write(twin: Any) -> bytes:
    """One batch of messages, each with one reference, and of as many settlements."""
    writer = twin.BatchWriter(STORE_ID)
    for id in range(1, RECORDS + 1):
        writer.put(MESSAGE, [(1, id)])
        writer.settle(2, id, 0)
    return bytes(writer.finish(ADDRESS, 0))


def read(twin: Any, batch: bytes) -> int:
    """What a completed batch says, as the commit path asks for it."""
    return len(twin.decode_batch(batch, ADDRESS, STORE_ID, False))


def deliver(twin: Any, batch: bytes) -> int:
    """Every message of a batch, one after the other."""
    position = 64
    for _ in range(RECORDS):
        _, length = twin.decode_message(batch, position)
        position += length
    return position


def control_write() -> bytes:
    """The least that Python code can do: pack a head, take the three checksums, join."""
    pack = struct.Struct("<BBHIIIIQQQHBBIIQ4x").pack
    chunks = []
    heads = 0
    for id in range(1, RECORDS + 1):
        payload = zlib.crc32(MESSAGE.body, zlib.crc32(MESSAGE.block))
        head = pack(1, 1, 0, 72, 150, payload, 50, MESSAGE.arrival_ms, 0, 0, 0, 4, 12, 1, 1, id)
        head = zlib.crc32(head).to_bytes(4, "little") + head
        heads = zlib.crc32(head, heads)
        chunks += (head, MESSAGE.block, MESSAGE.body)
    return b"".join(chunks)


def control_read(batch: bytes) -> int:
    """The least that Python code can do: two checksums over each head, and its fields."""
    unpack = struct.Struct("<IBBHIIIIQQQHBBIIQ").unpack_from
    view = memoryview(batch)
    found = []
    heads = 0
    position = 64
    for _ in range(RECORDS):
        fields = unpack(view, position)
        assert zlib.crc32(view[position + 4 : position + 72]) == fields[0]
        heads = zlib.crc32(view[position : position + 72], heads)
        found.append((1, fields[-2], fields[-1], position, 224, fields[11], fields[9], fields[10]))
        position += 224
    return len(found)


def test_write(benchmark: Any, twin: Any) -> None:
    benchmark.extra_info["records"] = RECORDS
    assert len(benchmark(write, twin)) % 4096 == 0


def test_read(benchmark: Any, twin: Any) -> None:
    # All settlements are one range.
    assert benchmark(read, twin, write(twin)) == RECORDS + 1


def test_deliver(benchmark: Any, twin: Any) -> None:
    assert benchmark(deliver, twin, write(twin)) == 64 + RECORDS * 224


@pytest.mark.parametrize("work", ["write", "read", "deliver"])
def test_the_compiled_twin_is_twice_as_fast(work: str) -> None:
    pure, compiled = load_twin(MODULES, "pure"), load_twin(MODULES, "compiled")
    batch = write(pure)
    calls: dict[str, Callable[[Any], object]] = {
        "write": write,
        "read": lambda twin: read(twin, batch),
        "deliver": lambda twin: deliver(twin, batch),
    }
    assert ratio(lambda: calls[work](pure), lambda: calls[work](compiled)) >= GATE


def test_the_pure_writer_keeps_up_with_its_control() -> None:
    pure = load_twin(MODULES, "pure")
    assert ratio(lambda: write(pure), control_write) <= CONTROL_GATE


def test_the_pure_reader_keeps_up_with_its_control() -> None:
    pure = load_twin(MODULES, "pure")
    batch = write(pure)
    assert control_read(batch) == RECORDS
    assert ratio(lambda: read(pure, batch), lambda: control_read(batch)) <= CONTROL_GATE


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__]))
