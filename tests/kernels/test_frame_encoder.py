"""The encoders and the escapes, on both twins: golden bytes, every version, and what the parser makes of them."""

from __future__ import annotations

from typing import Any

import pytest
from frame_cases import make_parser, read_all

from radiator.errors import ProtocolError

LARGEST = 2**64 - 1


def test_a_message_in_full(frame_twin: Any) -> None:
    assert frame_twin.encode_message(b"s\\c1", 3, 17, 5, 2, b"destination:/q\nx:y\n", b"a\0b") == (
        b"MESSAGE\nsubscription:s\\c1\nmessage-id:3-17\nack:5\ncontent-length:3\nredelivered:true\ndelivery-count:2\n"
        b"destination:/q\nx:y\n\na\0b\0"
    )


def test_a_message_with_nothing_optional(frame_twin: Any) -> None:
    assert frame_twin.encode_message(None, 1, 1, 0, 0, b"", b"") == b"MESSAGE\nmessage-id:1-1\ncontent-length:0\n\n\0"


@pytest.mark.parametrize("number", [0, 1, 9, 10, 99, 100, 12345, 10**18, 10**19 - 1, 10**19, LARGEST])
def test_numbers_of_every_length(frame_twin: Any, number: int) -> None:
    ack = b"ack:%d\n" % number if number else b""
    again = b"redelivered:true\ndelivery-count:%d\n" % number if number else b""
    assert frame_twin.encode_message(b"", number, number, number, number, b"a:b\n", b"") == (
        b"MESSAGE\nsubscription:\nmessage-id:%d-%d\n%bcontent-length:0\n%ba:b\n\n\0" % (number, number, ack, again)
    )


@pytest.mark.parametrize("size", [0, 9, 10, 100, 1023, 70000])
def test_the_content_length_is_the_body_s(frame_twin: Any, size: int) -> None:
    body = b"\0" * size
    wire = frame_twin.encode_message(b"s", 1, 2, 3, 0, b"a:b\n", body)
    parser = make_parser(frame_twin, max_frame=100000)
    frames, text = read_all(parser, [wire])
    assert text is None
    assert frames[0][1] == {
        "subscription": "s",
        "message-id": "1-2",
        "ack": "3",
        "content-length": str(size),
        "a": "b",
    }
    assert frames[0][3] == body


def test_a_receipt(frame_twin: Any) -> None:
    assert frame_twin.encode_receipt(b"r\\c1") == b"RECEIPT\nreceipt-id:r\\c1\n\n\0"
    assert frame_twin.encode_receipt(b"") == b"RECEIPT\nreceipt-id:\n\n\0"


ESCAPED = [
    (0, "a:\\\r\n\u20ac", "a:\\\\r\\n\u20ac"),
    (10, "a:\\\r\n\u20ac", "a:\\\\r\\n\u20ac"),
    (11, "a:\\\r\n\u20ac", "a\\c\\\\\r\\n\u20ac"),
    (12, "a:\\\r\n\u20ac", "a\\c\\\\\\r\\n\u20ac"),
]


@pytest.mark.parametrize(("version", "value", "wire"), ESCAPED)
def test_escape(frame_twin: Any, version: int, value: str, wire: str) -> None:
    assert frame_twin.escape(value, version) == wire.encode()
    assert frame_twin.escape("", version) == b""


@pytest.mark.parametrize(("version", "value", "wire"), ESCAPED[2:])
def test_unescape(frame_twin: Any, version: int, value: str, wire: str) -> None:
    assert frame_twin.unescape(wire.encode(), version) == value


@pytest.mark.parametrize("version", [0, 10])
def test_nothing_is_unescaped_in_1_0(frame_twin: Any, version: int) -> None:
    assert frame_twin.unescape(b" \\n\\c\\x\\", version) == " \\n\\c\\x\\"


@pytest.mark.parametrize(
    ("version", "wire", "text"),
    [
        (11, b"\\r", 'header has an undefined escape "\\r"'),
        (12, b"a\\t", 'header has an undefined escape "\\t"'),
        (12, b"a\\", 'header has an undefined escape "\\"'),
        (12, b"a\\\n", 'header has an undefined escape "\\\\x0a"'),
        (12, b"\\\0", 'header has an undefined escape "\\\\x00"'),
        (10, b"\xff", "header is not UTF-8"),
        (12, b"\\t\xff", "header is not UTF-8"),
    ],
)
def test_what_cannot_be_unescaped(frame_twin: Any, version: int, wire: bytes, text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        frame_twin.unescape(wire, version)
    assert str(caught.value) == text


@pytest.mark.parametrize("version", [11, 12])
def test_a_frame_is_escaped(frame_twin: Any, version: int) -> None:
    wire = frame_twin.encode_frame("ERROR", [("message", "a:b\n"), ("k:\\", "v")], b"body", version)
    assert wire == b"ERROR\nmessage:a\\cb\\n\nk\\c\\\\:v\n\nbody\0"


@pytest.mark.parametrize("version", [0, 10])
def test_a_frame_of_1_0_cannot_be_split_by_its_headers(frame_twin: Any, version: int) -> None:
    wire = frame_twin.encode_frame("ERROR", [("message", "a:b\n\nc\r"), ("k:\n", "\\")], b"", version)
    assert wire == b"ERROR\nmessage:a:b\\n\\nc\\r\nk\\c\\n:\\\n\n\0"


@pytest.mark.parametrize("command", ["CONNECT", "STOMP", "CONNECTED"])
def test_frames_of_connecting_are_never_escaped(frame_twin: Any, command: str) -> None:
    wire = frame_twin.encode_frame(command, iter([("session", "a:\\b\n")]), b"", 12)
    assert wire == command.encode() + b"\nsession:a:\\b\\n\n\n\0"


def test_no_header_is_added(frame_twin: Any) -> None:
    assert frame_twin.encode_frame("SEND", [], b"", 12) == b"SEND\n\n\0"


@pytest.mark.parametrize(
    ("source", "target", "block", "wanted"),
    [
        (10, 12, b"a:b:c\\n\\\n", b"a:b\\cc\\\\n\\\\\n"),
        (10, 11, b"a:b\r\n", b"a:b\r\n"),
        (10, 11, b"destination: /queue/b\n", b"destination:/queue/b\n"),
        (10, 12, b" a b\t:\t c: d \n e:  \n", b"a b:c\\c d\ne:\n"),
        (0, 12, b" a : b \n", b"a:b\n"),
        (11, 10, b" a : b \n", b" a : b \n"),
        (11, 12, b" a : b \n", b" a : b \n"),
        (10, 12, b"a:b\r\n", b"a:b\\r\n"),
        (11, 12, b"a\\c:\\n\r\n", b"a\\c:\\n\\r\n"),
        (12, 11, b"a:\\r\\n\\\\\n", b"a:\r\\n\\\\\n"),
        (12, 10, b"a:\\r\\n\\\\\\cb\n", b"a:\\r\\n\\:b\n"),
        (11, 10, b"message-id\\c1:2\n", b"message-id\\c1:2\n"),
        (12, 10, b"x\\n:\\n\n", b"x\\n:\\n\n"),
        (12, 0, b"a:b\\cc\nd:e\nd:f\n", b"a:b:c\nd:e\nd:f\n"),
        (11, 12, b"a:b:c\n", b"a:b\\cc\n"),
        (12, 11, b"a:\n", b"a:\n"),
        (12, 11, b"", b""),
        (12, 11, b"a:b", b"a:b\n"),
    ],
)
def test_translate_block(frame_twin: Any, source: int, target: int, block: bytes, wanted: bytes) -> None:
    assert frame_twin.translate_block(block, source, target) == wanted


@pytest.mark.parametrize(("source", "target"), [(0, 10), (10, 0), (10, 10), (11, 11), (12, 12)])
def test_a_block_that_needs_no_translation_is_the_same_object(frame_twin: Any, source: int, target: int) -> None:
    block = b" a: b\\x\n"
    assert frame_twin.translate_block(block, source, target) is block


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (b"a:b\nc\n", "header line 2 has no colon"),
        (b"a:b\n\n", "header line 2 has no colon"),
        (b"a:b\nc:\\t\n", 'header line 2 has an undefined escape "\\t"'),
        (b"a\\:b\n", 'header line 1 has an undefined escape "\\"'),
    ],
)
def test_what_cannot_be_translated(frame_twin: Any, block: bytes, text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        frame_twin.translate_block(block, 12, 11)
    assert str(caught.value) == text


@pytest.mark.parametrize("version", [-1, 1, 13])
def test_versions_that_are_none(frame_twin: Any, version: int) -> None:
    match = f"no STOMP version {version}"
    with pytest.raises(ValueError, match=match):
        frame_twin.escape("a", version)
    with pytest.raises(ValueError, match=match):
        frame_twin.unescape(b"a", version)
    with pytest.raises(ValueError, match=match):
        frame_twin.encode_frame("SEND", [], b"", version)
    with pytest.raises(ValueError, match=match):
        frame_twin.translate_block(b"", version, 12)
    with pytest.raises(ValueError, match=match):
        frame_twin.translate_block(b"", 12, version)


def test_a_sender_cannot_forge_what_the_broker_sets_by_way_of_another_version(frame_twin: Any) -> None:
    parser = make_parser(frame_twin, 11)
    parser.receive_data(b"SEND\nmessage-id\\cx:9\nack :9\nreceipt:1\n\n\0")
    block = parser.next_frame().block
    translated = frame_twin.translate_block(block, 11, 10)
    wire = frame_twin.encode_message(b"s", 1, 2, 0, 0, translated, b"")
    receiver = make_parser(frame_twin, 10)
    receiver.receive_data(wire)
    assert receiver.next_frame().headers == {
        "subscription": "s",
        "message-id": "1-2",
        "content-length": "0",
        "message-id\\cx": "9",
    }
