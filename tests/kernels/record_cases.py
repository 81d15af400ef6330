"""Bytes and events that the record kernel's tests share; `sealed` is a third way of writing a batch, by hand."""

from __future__ import annotations

import struct
import zlib
from typing import Any, TypeAlias

from radiator.message import Message

STORE_ID = bytes(range(16))
ADDRESS = 7 << 32 | 8192

MESSAGE = Message(
    12, True, b"destination:/queue/a\n", b"hello", arrival_ms=1, expires_ms=2, not_before_ms=3, priority=9, deliveries=4
)

Golden: TypeAlias = tuple[list[tuple[Any, ...]], str]

# The calls on a writer, and the records that they make, in hexadecimal: the disk format itself. A change here is a
# change of the format, with all that it asks for.
GOLDEN: dict[str, Golden] = {
    "put": (
        [("put", MESSAGE, [(5, 6)])],
        "1929a9de01010000480000001a0000008c9933c615000000010000000000000002000000000000000300000000000000"
        "0400090c010000000500000006000000000000000000000064657374696e6174696f6e3a2f71756575652f610a68656c"
        "6c6f000000000000",
    ),
    "put twice": (
        [("put", MESSAGE, [(5, 6), (7, 8)])],
        "8c6c906101010000500000001a0000008c9933c615000000010000000000000002000000000000000300000000000000"
        "0400090c0200000005000000060000000000000007000000080000000000000064657374696e6174696f6e3a2f717565"
        "75652f610a68656c6c6f000000000000",
    ),
    "settled": (
        [("settle", 3, 9, 1), ("settle", 3, 4, 1), ("settle", 3, 5, 1)],
        "f42fee6b0200000020000000200000000aa1974202000000030000000100000004000000000000000500000000000000"
        "09000000000000000900000000000000",
    ),
    "define": (
        [("define", 3, "/queue/é")],
        "7c8ba620030000002000000009000000255fd47c0000000003000000000000002f71756575652fc3a900000000000000",
    ),
    "drop": (
        [("drop", 3)],
        "047afef604000000200000000000000000000000000000000300000000000000",
    ),
    "next_queue": (
        [("next_queue", 4)],
        "b956b3e110000000200000000000000000000000000000000400000000000000",
    ),
    "state": (
        [("state", 3, "/queue/xy", 100, 10, [(12, 13), (20, 20)])],
        "86b193ec11000000300000003000000056ead03e02000000030000000900000064000000000000000a00000000000000"
        "2f71756575652f7879000000000000000c000000000000000d0000000000000014000000000000001400000000000000",
    ),
    "counts": (
        [("counts", 3, [(11, 2)])],
        "ccacff95120000002000000010000000956745f40100000003000000000000000b000000000000000200000000000000",
    ),
    "segment": (
        [("segment", 6, 12288)],
        "478e43cd130000002800000000000000000000000000000006000000000000000030000000000000",
    ),
}
GOLDEN_HEADER = (
    "526442318b55037b002000000700000000000000000000000010000001000000"
    "1fe2651000000000000102030405060708090a0b0c0d0e0f6800000000000000"
)


def message_fields(message: Message) -> tuple[Any, ...]:
    """Everything a message holds, to compare by."""
    return tuple(getattr(message, name) for name in Message.__slots__)


def head(kind: int, payload: bytes, number: int, rest: bytes, flags: int = 0) -> bytes:
    """A record head with the checksums that belong to it."""
    length = 24 + len(rest)
    tail = struct.pack("<BBHIIII", kind, flags, 0, length, len(payload), zlib.crc32(payload), number) + rest
    return struct.pack("<I", zlib.crc32(tail)) + tail


def sealed(content: list[tuple[bytes, bytes]], address: int = ADDRESS, **changed: int) -> bytes:
    """A batch of (head, payload) pairs with honest checksums; `changed` fields of the header may lie."""
    body = b"".join(head + payload + bytes(-len(payload) % 8) for head, payload in content)
    fields = {
        "address": address,
        "durable": 0,
        "length": (64 + len(body) + 4095) // 4096 * 4096,
        "records": len(content),
        "heads_crc": zlib.crc32(b"".join(head for head, _ in content)),
        "flags": 0,
        "body": len(body),
    } | changed
    rest = struct.pack(
        "<QQIIII16sII",
        fields["address"],
        fields["durable"],
        fields["length"],
        fields["records"],
        fields["heads_crc"],
        fields["flags"],
        STORE_ID,
        fields["body"],
        0,
    )
    batch = b"RdB1" + struct.pack("<I", zlib.crc32(rest)) + rest + body
    return batch.ljust(max(fields["length"], len(batch)) if fields["length"] < 1 << 20 else len(batch), b"\0")
