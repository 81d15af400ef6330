"""The parser, on both twins: every frame and every fault whole, byte by byte and with trailing data; limits; state."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from frame_cases import BAD, FAILED, GOOD, LIMITS, Bad, Failed, Good, attributes, byte_by_byte, make_parser, read_all

from radiator.errors import ProtocolError

good = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in GOOD.items()])
bad = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in BAD.items()])
failed = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in FAILED.items()])


def expected(case: Good) -> tuple[Any, ...]:
    return (case.command, case.headers, case.block, case.body, case.receipt, case.plain)


@good
def test_a_frame_whole(frame_twin: Any, case: Good) -> None:
    parser = make_parser(frame_twin, case.version)
    assert read_all(parser, [case.wire]) == ([expected(case)], None)
    assert (parser.buffered, parser.mid_frame) == (0, False)


@good
def test_a_frame_byte_by_byte(frame_twin: Any, case: Good) -> None:
    parser = make_parser(frame_twin, case.version)
    for i, byte in enumerate(byte_by_byte(case.wire[:-1])):
        parser.receive_data(byte)
        assert parser.next_frame() is None
        started = bool(case.wire[: i + 1].lstrip(b"\r\n"))
        assert parser.mid_frame is started
        assert parser.buffered == (len(case.wire[: i + 1].lstrip(b"\r\n")) if started else 0)
    parser.receive_data(case.wire[-1:])
    assert attributes(parser.next_frame()) == expected(case)
    assert (parser.buffered, parser.mid_frame) == (0, False)


@good
def test_a_frame_with_trailing_data(frame_twin: Any, case: Good) -> None:
    parser = make_parser(frame_twin, case.version)
    wire = case.wire + b"\n" + case.wire + b"\nSEN"
    assert read_all(parser, [wire]) == ([expected(case)] * 2, None)
    assert (parser.buffered, parser.mid_frame) == (3, True)


@good
def test_a_frame_from_a_memoryview_that_changes_afterwards(frame_twin: Any, case: Good) -> None:
    parser = make_parser(frame_twin, case.version)
    buffer = bytearray(case.wire[:-1])
    parser.receive_data(memoryview(buffer))
    buffer[:] = b"\xff" * len(buffer)
    parser.receive_data(case.wire[-1:])
    assert attributes(parser.next_frame()) == expected(case)


@good
def test_a_frame_of_exactly_max_frame_bytes_passes_and_one_more_does_not(frame_twin: Any, case: Good) -> None:
    size = len(case.wire.lstrip(b"\r\n"))
    for chunks in ([case.wire], byte_by_byte(case.wire)):
        assert read_all(make_parser(frame_twin, case.version, max_frame=size), chunks) == ([expected(case)], None)
        frames, text = read_all(make_parser(frame_twin, case.version, max_frame=size - 1), chunks)
        assert frames == []
        assert text is not None
        assert text.endswith(f"larger than limits.frame ({size - 1} bytes)")


@bad
def test_a_fault_is_told_at_the_byte_that_shows_it(frame_twin: Any, case: Bad) -> None:
    parser = make_parser(frame_twin, case.version)
    assert read_all(parser, byte_by_byte(case.wire[:-1])) == ([], None)
    assert read_all(parser, [case.wire[-1:]]) == ([], case.text)
    assert case.text.isascii()
    assert case.text.isprintable()


@bad
def test_a_fault_reads_the_same_in_any_slicing(frame_twin: Any, case: Bad) -> None:
    for tail in (b"", b"\0", b"\n\n\0SEND\n\n\0", b"\xff" * 5000):
        assert read_all(make_parser(frame_twin, case.version), [case.wire + tail]) == ([], case.text)


@bad
def test_frames_before_a_fault_are_returned(frame_twin: Any, case: Bad) -> None:
    before = GOOD["send"] if case.version else GOOD["connect"]
    parser = make_parser(frame_twin, case.version)
    assert read_all(parser, [before.wire + case.wire]) == ([expected(before)], case.text)


@bad
def test_after_a_fault_the_parser_is_dead(frame_twin: Any, case: Bad) -> None:
    parser = make_parser(frame_twin, case.version)
    assert read_all(parser, [case.wire]) == ([], case.text)
    assert (parser.buffered, parser.mid_frame) == (0, False)
    parser.receive_data(GOOD["send"].wire)
    assert parser.buffered == 0
    parser.clear()
    with pytest.raises(ProtocolError) as caught:
        parser.next_frame()
    assert str(caught.value) == case.text
    with pytest.raises(RuntimeError, match="no frame to put back"):
        parser.unread()


@failed
def test_the_receipt_of_a_failed_frame_is_known_in_any_slicing(frame_twin: Any, case: Failed) -> None:
    for chunks in ([case.wire], byte_by_byte(case.wire), [case.wire + b"\nreceipt:late\n\n\0"]):
        parser = make_parser(frame_twin, case.version)
        assert parser.failed_receipt is None
        assert read_all(parser, chunks)[1] is not None
        assert parser.failed_receipt == case.receipt
        parser.clear()
        assert parser.failed_receipt == case.receipt
        if case.receipt is not None:
            frame_twin.unescape(parser.failed_receipt, case.version)


@good
def test_nothing_has_failed_where_a_frame_was_read(frame_twin: Any, case: Good) -> None:
    parser = make_parser(frame_twin, case.version)
    read_all(parser, [case.wire, b"SEND\nreceipt:half"])
    assert parser.failed_receipt is None


def test_a_header_that_outgrows_the_frame_still_names_its_receipt(frame_twin: Any) -> None:
    wire = b"SEND\nreceipt:r\na:" + b"b" * 40
    for chunks in ([wire], byte_by_byte(wire)):
        parser = make_parser(frame_twin, max_frame=30)
        assert read_all(parser, chunks) == ([], "frame is larger than limits.frame (30 bytes)")
        assert parser.failed_receipt == b"r"


# ------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("slicer", [lambda wire: [wire], byte_by_byte], ids=["whole", "sliced"])
def test_header_lines_are_counted(frame_twin: Any, end: bytes, slicer: Any) -> None:
    lines = b"".join(b"h%d:x" % i + end for i in range(8))
    frames, text = read_all(make_parser(frame_twin), slicer(b"SEND" + end + lines + end + b"\0"))
    assert text is None
    assert len(frames[0][1]) == 8
    wire = b"SEND" + end + lines + b"more:x" + end + end + b"\0"
    assert read_all(make_parser(frame_twin), slicer(wire)) == ([], "more than limits.headers (8) header lines")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("slicer", [lambda wire: [wire], byte_by_byte], ids=["whole", "sliced"])
def test_a_header_line_is_measured_without_its_end(frame_twin: Any, end: bytes, slicer: Any) -> None:
    line = b"a:" + b"x" * 62
    frames, text = read_all(make_parser(frame_twin), slicer(b"SEND" + end + b"b:c" + end + line + end + end + b"\0"))
    assert text is None
    assert frames[0][1]["a"] == "x" * 62
    wire = b"SEND" + end + b"b:c" + end + line + b"x" + end + end + b"\0"
    text = "header line 2 is longer than limits.header_line (64 bytes)"
    assert read_all(make_parser(frame_twin), slicer(wire)) == ([], text)


def test_a_long_header_line_is_refused_before_its_end(frame_twin: Any) -> None:
    parser = make_parser(frame_twin, 12)
    assert read_all(parser, [b"SEND\na:", b"x" * 62]) == ([], None)
    assert read_all(parser, [b"x"])[1] == "header line 1 is longer than limits.header_line (64 bytes)"


def test_a_carriage_return_may_stand_at_the_limit_only_as_part_of_the_end(frame_twin: Any) -> None:
    text = "header line 1 is longer than limits.header_line (64 bytes)"
    line = b"SEND\na:" + b"x" * 62
    parser = make_parser(frame_twin, 12)
    assert read_all(parser, [line + b"\r"]) == ([], None)
    assert read_all(parser, [b"x"]) == ([], text)
    assert read_all(make_parser(frame_twin, 12), [line + b"\rx"]) == ([], text)
    assert read_all(make_parser(frame_twin, 11), [line + b"\r"]) == ([], text)
    assert read_all(make_parser(frame_twin, 12), [line + b"\r\0"]) == ([], "NUL in header line 1")


def test_the_first_fault_wins_whatever_comes_later(frame_twin: Any) -> None:
    early = b"SEND\n" + b"x" * 10 + b"\0" + b"x" * 100
    assert read_all(make_parser(frame_twin), [early]) == ([], "NUL in header line 1")
    late = b"SEND\n" + b"x" * 65 + b"\0"
    assert read_all(make_parser(frame_twin), [late])[1] == "header line 1 is longer than limits.header_line (64 bytes)"
    inside = b"SEND\nno colon\nb\0"
    assert read_all(make_parser(frame_twin), [inside]) == ([], "NUL in header line 2")


def test_an_endless_header_or_body_stops_at_max_frame(frame_twin: Any) -> None:
    text = "frame is larger than limits.frame (100 bytes)"
    for start in (b"SEND\n", b"SEND\n\n"):
        parser = make_parser(frame_twin, max_frame=100, max_header_line=200)
        assert read_all(parser, [start, b"x" * (99 - len(start))]) == ([], None)
        assert parser.buffered == 99
        assert read_all(parser, [b"x"]) == ([], text)
        whole = make_parser(frame_twin, max_frame=100, max_header_line=200)
        assert read_all(whole, [start + b"x" * 200 + b"\0"]) == ([], text)


def test_a_content_length_that_cannot_fit_is_refused_before_the_body(frame_twin: Any) -> None:
    head = b"SEND\ncontent-length:%d\n\n"
    fits = 100 - len(head % 10) - 1
    parser = make_parser(frame_twin, max_frame=100)
    assert read_all(parser, [head % fits, b"x" * fits])[1] is None
    assert len(read_all(parser, [b"\0"])[0]) == 1
    parser = make_parser(frame_twin, max_frame=100)
    text = f"content-length {fits + 1} makes a frame larger than limits.frame (100 bytes)"
    assert read_all(parser, [head % (fits + 1)]) == ([], text)


def test_a_limit_smaller_than_a_command(frame_twin: Any) -> None:
    for chunks in ([b"SEND\n\n\0"], byte_by_byte(b"SEND\n\n\0")):
        assert read_all(make_parser(frame_twin, max_frame=3), chunks) == (
            [],
            "frame is larger than limits.frame (3 bytes)",
        )


def test_large_headers_and_bodies(frame_twin: Any) -> None:
    lines = b"".join(b"name-%04d:%b\nreceipt:%d\n" % (i, b"v" * 100, i) for i in range(500))
    body = bytes(range(256)) * 4096
    wire = b"SEND\n" + lines + b"content-length:%d\n\n" % len(body) + body + b"\0"
    chunks = [wire[i : i + 65536] for i in range(0, len(wire), 65536)]
    parser = make_parser(frame_twin, max_frame=len(wire), max_headers=1001, max_header_line=110)
    frames, text = read_all(parser, chunks)
    assert text is None
    (frame,) = frames
    assert frame is not None
    assert frame[2] == b"".join(b"name-%04d:%b\n" % (i, b"v" * 100) for i in range(500))
    assert frame[3] == body
    assert frame[4] == b"0"


def test_a_thousand_frames_in_one_piece(frame_twin: Any) -> None:
    case = GOOD["send"]
    frames, text = read_all(make_parser(frame_twin), [case.wire * 1000])
    assert text is None
    assert frames == [expected(case)] * 1000


def test_a_limit_counts_frames_one_by_one(frame_twin: Any) -> None:
    wire = GOOD["send"].wire
    parser = make_parser(frame_twin, max_frame=len(wire))
    assert read_all(parser, [b"\n" * 500 + wire * 50, wire[:7], wire[7:] + wire])[1] is None


# -------------------------------------------------------------------------------------------------------------- state


def test_the_version_counts_from_the_next_frame_on(frame_twin: Any) -> None:
    parser = make_parser(frame_twin, 0)
    parser.receive_data(b"CONNECT\npasscode:a\\x\n\n\0SEND\na:b\\n\n\n\0SEND\na:\\x\n\n\0")
    assert parser.next_frame().headers == {"passcode": "a\\x"}
    parser.version = 12
    assert parser.version == 12
    assert parser.next_frame().headers == {"a": "b\n"}
    parser.version = 10
    assert parser.next_frame().headers == {"a": "\\x"}


def test_a_change_of_version_reads_an_unfinished_frame_again(frame_twin: Any) -> None:
    parser = make_parser(frame_twin, 10)
    assert read_all(parser, [b"SEND\na:\\t\n\nbody"]) == ([], None)
    parser.version = 12
    assert read_all(parser, [b"\0"]) == ([], 'header line 1 has an undefined escape "\\t"')


@pytest.mark.parametrize("version", [-1, 1, 9, 13, 20])
def test_other_versions_are_refused(frame_twin: Any, version: int) -> None:
    parser = make_parser(frame_twin)
    with pytest.raises(ValueError, match=f"no STOMP version {version}"):
        parser.version = version
    assert parser.version == 12


def test_unread_gives_the_same_frame_again(frame_twin: Any) -> None:
    first, second = GOOD["send"].wire, GOOD["no headers"].wire
    parser = make_parser(frame_twin)
    parser.receive_data(first + second + b"SE")
    frame = parser.next_frame()
    held = len(second) + 2
    assert parser.buffered == held
    parser.unread()
    assert (parser.buffered, parser.mid_frame) == (held + len(first), False)
    with pytest.raises(RuntimeError, match="no frame to put back"):
        parser.unread()
    parser.receive_data(b"ND")
    assert parser.buffered == held + len(first) + 2
    assert parser.next_frame() is frame
    parser.unread()
    assert parser.next_frame() is frame
    assert parser.buffered == held + 2
    assert parser.next_frame().command == "DISCONNECT"
    assert parser.next_frame() is None
    with pytest.raises(RuntimeError, match="no frame to put back"):
        parser.unread()
    assert (parser.buffered, parser.mid_frame) == (4, True)


def test_unread_needs_a_frame(frame_twin: Any) -> None:
    with pytest.raises(RuntimeError, match="no frame to put back"):
        make_parser(frame_twin).unread()


def test_clear_drops_everything(frame_twin: Any) -> None:
    parser = make_parser(frame_twin)
    parser.receive_data(GOOD["send"].wire + b"SEND\nhalf")
    assert parser.next_frame() is not None
    assert parser.next_frame() is None
    parser.clear()
    assert (parser.buffered, parser.mid_frame, parser.version) == (0, False, 12)
    assert read_all(parser, [GOOD["send"].wire]) == ([expected(GOOD["send"])], None)


def test_an_idle_parser_holds_nothing_of_what_it_was_given(frame_twin: Any) -> None:
    chunk = b"".join([GOOD["send"].wire] * 100)
    before = sys.getrefcount(chunk)
    parser = make_parser(frame_twin)
    read_all(parser, [chunk])
    assert sys.getrefcount(chunk) == before
    read_all(parser, [chunk, b"\n"])
    assert parser.buffered == 0


def test_an_unfinished_frame_does_not_keep_the_whole_chunk(frame_twin: Any) -> None:
    chunk = b"".join([GOOD["send"].wire] * 100) + b"SEND\n"
    before = sys.getrefcount(chunk)
    parser = make_parser(frame_twin)
    read_all(parser, [chunk])
    assert sys.getrefcount(chunk) == before
    assert parser.buffered == 5


def test_a_frame_is_dropped_with_the_next_call(frame_twin: Any) -> None:
    parser = make_parser(frame_twin)
    parser.receive_data(GOOD["send"].wire)
    frame = parser.next_frame()
    held = sys.getrefcount(frame)
    assert parser.next_frame() is None
    assert sys.getrefcount(frame) == held - 1


def test_only_the_given_commands_are_known(frame_twin: Any) -> None:
    client = frame_twin.Parser(**LIMITS)
    client.receive_data(b"MESSAGE\n\n\0")
    with pytest.raises(ProtocolError, match='unknown command, starting with "M"'):
        client.next_frame()
    server = frame_twin.Parser(**LIMITS, commands=frozenset(["CONNECTED"]))
    server.receive_data(b"CONNECTED\nversion:1.2\n\n\0")
    assert server.next_frame().headers == {"version": "1.2"}
    server.receive_data(b"CONNECT\n")
    with pytest.raises(ProtocolError, match="unknown command, starting with"):
        server.next_frame()


def test_known_names_exist_once(frame_twin: Any) -> None:
    parser = make_parser(frame_twin)
    parser.receive_data(b"SEND\ndestination:/q\n\n\0" * 2)
    (first,) = parser.next_frame().headers
    (second,) = parser.next_frame().headers
    assert first is second
