from collections.abc import Sequence
from typing import Any, Final, NamedTuple, final

from radiator.message import Message

BLOCK: Final = 4096
HEADER_BYTES: Final = 64
MAX_PAYLOAD: Final = 1073741824
SETTLED_HEAD_BYTES: Final = 32
RANGE_BYTES: Final = 16
FORMAT_VERSION: Final = 1
OPENING: Final = 1

PUT: Final = 1
SETTLED: Final = 2
DEFINE: Final = 3
DROP: Final = 4
NEXT_QUEUE: Final = 16
STATE: Final = 17
COUNTS: Final = 18
SEGMENT: Final = 19
PLACES: Final = 256

class BatchHeader(NamedTuple):
    address: int
    durable: int
    length: int
    records: int
    body: int
    flags: int

class SegmentHeader(NamedTuple):
    store_id: bytes
    number: int
    created_ms: int
    capacity: int
    version: int

@final
class BatchWriter:
    def __init__(self, store_id: bytes) -> None: ...
    @property
    def records(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def empty(self) -> bool: ...
    def put(self, message: Message, refs: Sequence[tuple[int, int]]) -> None: ...
    def settle(self, queue: int, id: int, reason: int) -> None: ...
    def flush_settled(self) -> None: ...
    def define(self, queue: int, name: str) -> None: ...
    def drop(self, queue: int) -> None: ...
    def next_queue(self, number: int) -> None: ...
    def state(self, queue: int, name: str, next: int, floor: int, dead: Sequence[tuple[int, int]] | bytes) -> None: ...
    def counts(self, queue: int, counts: Sequence[tuple[int, int]]) -> None: ...
    def segment(self, number: int, end: int) -> None: ...
    def finish(self, address: int, durable: int, opening: bool = False) -> memoryview: ...
    def clear(self) -> None: ...

def decode_batch_header(buffer: bytes | bytearray | memoryview, address: int, store_id: bytes) -> BatchHeader: ...
def decode_batch(
    buffer: bytes | bytearray | memoryview,
    address: int,
    store_id: bytes,
    payloads: bool,
    damaged: list[tuple[Any, ...]] | None = None,
) -> list[tuple[Any, ...]]: ...
def scan_batch(
    buffer: bytes | bytearray | memoryview,
    address: int,
    store_id: bytes,
    payloads: bool,
    damaged: list[tuple[Any, ...]] | None = None,
) -> list[tuple[Any, ...]]: ...
def decode_message(buffer: bytes | bytearray | memoryview, offset: int = 0) -> tuple[Message, int]: ...
def decode_references(buffer: bytes | bytearray | memoryview, offset: int = 0) -> list[tuple[int, int]]: ...
def encode_segment_header(store_id: bytes, number: int, created_ms: int, capacity: int) -> bytes: ...
def decode_segment_header(buffer: bytes | bytearray | memoryview) -> SegmentHeader: ...
