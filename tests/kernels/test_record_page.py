"""The reader printed in docs/disk-format.rst reads what both kernels write: the page is enough to write another."""

from __future__ import annotations

import re
import struct
import textwrap
from pathlib import Path
from typing import Any

import pytest
from record_cases import GOLDEN, MESSAGE, STORE_ID

PAGE = Path(__file__).parents[2] / "docs" / "disk-format.rst"


@pytest.fixture(scope="module")
def read_segment() -> Any:
    if not PAGE.exists():
        pytest.skip("the documentation is not beside the tests")
    code = re.search(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert code is not None
    names: dict[str, Any] = {}
    exec(textwrap.dedent(code[1]), names)
    return names["read_segment"]


def segment(record: Any, number: int) -> bytes:
    """A segment of two batches."""
    data = record.encode_segment_header(STORE_ID, number, 1, 1 << 16)
    everything = [call for written, _ in GOLDEN.values() for call in written]
    for calls in (GOLDEN["state"][0], everything):
        writer = record.BatchWriter(STORE_ID)
        for name, *arguments in calls:
            getattr(writer, name)(*arguments)
        data += bytes(writer.finish(number << 32 | len(data), 0))
    return bytes(data)


def test_the_printed_reader_reads_a_segment(record_twin: Any, read_segment: Any) -> None:
    data = segment(record_twin, 3)
    records = list(read_segment(data + bytes(4096)))
    assert [kind for kind, _, _ in records] == [17, 1, 1, 3, 2, 4, 16, 17, 18, 19]
    _, fields, payload = records[1]
    assert struct.unpack_from("<IQQQHBBIIQ", fields) == (len(MESSAGE.block), 1, 2, 3, 4, 9, 12, 1, 5, 6)
    assert payload == MESSAGE.block + MESSAGE.body
    assert struct.unpack("<4Q", records[4][2]) == (4, 5, 9, 9)


def test_the_printed_reader_stops_at_damage(record_twin: Any, read_segment: Any) -> None:
    data = bytearray(segment(record_twin, 3))
    data[8192 + 64 + 80] ^= 1
    assert [kind for kind, _, _ in read_segment(bytes(data))] == [17]
    assert [kind for kind, _, _ in read_segment(bytes(data[:8191]))] == [17]
