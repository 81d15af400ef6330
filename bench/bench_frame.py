"""How fast frames are parsed and encoded: both twins in one process, and the gates between them.

Run by `pytest bench/bench_frame.py`. A gate compares ratios of the same run, best of several interleaved rounds, and
never an absolute time: the compiled twin must be at least twice as fast as the pure one, the pure one must keep up with
a fixed control loop (so that nobody wins the first gate by slowing it), and slicing must not make a large frame dear.
"""

from __future__ import annotations

from typing import Any

import pytest
from kernel_gates import GATE, load_twin, ratio

MODULES = {"pure": "radiator.stomp.frame_pure", "compiled": "radiator._speedups.frame"}
FRAMES = 400
SEND = (
    b"SEND\ndestination:/queue/orders\ncontent-type:text/plain\nreceipt:r-12345\ncontent-length:50\n\n"
    + b"x" * 50
    + b"\0"
)
BLOCK = b"destination:/queue/orders\ncontent-type:text/plain\n"
BODY = b"x" * 100
CONTROL_GATE = 5.0
"""How many times as long as its control loop the pure twin may take; measured here: 3.6 (parser), 1.3 (encoder)."""


@pytest.fixture(params=MODULES)
def twin(request: pytest.FixtureRequest) -> Any:
    return load_twin(MODULES, request.param)


def parse(twin: Any, data: bytes) -> int:
    """Parse all of `data` as one receive gave it; the number of frames."""
    parser = twin.Parser(max_frame=4 << 20, max_headers=64, max_header_line=8 << 10)
    parser.version = 12
    parser.receive_data(data)
    count = 0
    while parser.next_frame() is not None:
        count += 1
    return count


def parse_sliced(twin: Any, data: bytes, size: int) -> int:
    """Parse `data` in pieces of `size` bytes."""
    parser = twin.Parser(max_frame=4 << 20, max_headers=64, max_header_line=8 << 10)
    parser.version = 12
    count = 0
    for first in range(0, len(data), size):
        parser.receive_data(data[first : first + size])
        while parser.next_frame() is not None:
            count += 1
    return count


def encode(twin: Any) -> bytes:
    """As many messages as one turn may deliver; the last."""
    wire = b""
    for number in range(FRAMES):
        wire = twin.encode_message(b"sub-1", 3, 1000000 + number, number + 1, 0, BLOCK, BODY)
    return wire


def control_parse(data: bytes) -> int:
    """The least that Python code can do with a frame: find its ends, split its lines, build a dict."""
    count = first = 0
    while first < len(data):
        blank = data.find(b"\n\n", first)
        command, *lines = data[first:blank].split(b"\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.decode()] = value.decode()
        body = data[blank + 2 : blank + 2 + int(headers["content-length"])]
        first = blank + 3 + len(body)
        count += bool(command)
    return count


def control_encode() -> bytes:
    """The least that Python code can do for a message: fill in a template, add the block and the body."""
    wire = b""
    for number in range(FRAMES):
        head = b"MESSAGE\nsubscription:%b\nmessage-id:%d-%d\nack:%d\ncontent-length:%d\n" % (
            b"sub-1",
            3,
            1000000 + number,
            number + 1,
            len(BODY),
        )
        wire = head + BLOCK + b"\n" + BODY + b"\0"
    return wire


def test_parse(benchmark: Any, twin: Any) -> None:
    benchmark.extra_info["frames"] = FRAMES
    assert benchmark(parse, twin, SEND * FRAMES) == FRAMES


def test_parse_pieces_of_a_packet_s_size(benchmark: Any, twin: Any) -> None:
    assert benchmark(parse_sliced, twin, SEND * FRAMES, 1448) == FRAMES


def test_encode_message(benchmark: Any, twin: Any) -> None:
    assert benchmark(encode, twin).endswith(BODY + b"\0")


def test_encode_receipt(benchmark: Any, twin: Any) -> None:
    assert benchmark(twin.encode_receipt, b"r-12345") == b"RECEIPT\nreceipt-id:r-12345\n\n\0"


def test_the_compiled_parser_is_twice_as_fast() -> None:
    pure, compiled, data = load_twin(MODULES, "pure"), load_twin(MODULES, "compiled"), SEND * FRAMES
    assert ratio(lambda: parse(pure, data), lambda: parse(compiled, data)) >= GATE


def test_the_compiled_encoder_is_twice_as_fast() -> None:
    pure, compiled = load_twin(MODULES, "pure"), load_twin(MODULES, "compiled")
    assert ratio(lambda: encode(pure), lambda: encode(compiled)) >= GATE


def test_the_pure_parser_keeps_up_with_its_control() -> None:
    pure, data = load_twin(MODULES, "pure"), SEND * FRAMES
    assert control_parse(data) == parse(pure, data)
    assert ratio(lambda: parse(pure, data), lambda: control_parse(data)) <= CONTROL_GATE


def test_the_pure_encoder_keeps_up_with_its_control() -> None:
    pure = load_twin(MODULES, "pure")
    assert control_encode() == encode(pure)
    assert ratio(lambda: encode(pure), control_encode) <= CONTROL_GATE


def test_small_slices_of_a_large_frame_cost_in_proportion(twin: Any) -> None:
    def frame(size: int) -> bytes:
        return b"SEND\n" + b"name:value\n" * 60 + b"\n" + b"x" * size + b"\0"

    small, large = frame(100_000), frame(800_000)
    # Eight times the work; quadratic, it would be sixty-four times.
    assert ratio(lambda: parse_sliced(twin, large, 64), lambda: parse_sliced(twin, small, 64)) < 24


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__]))
