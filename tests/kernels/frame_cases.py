"""Frames good and bad with what must come of them, and the helpers that feed them to a parser in any slicing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from radiator.errors import ProtocolError
from radiator.stomp.grammar import CLIENT_COMMANDS, SERVER_COMMANDS

LIMITS = {"max_frame": 4096, "max_headers": 8, "max_header_line": 64}
ALL_COMMANDS = CLIENT_COMMANDS | SERVER_COMMANDS


class Good(NamedTuple):
    """One frame, and the attributes it must have."""

    version: int
    wire: bytes
    command: str
    headers: dict[str, str]
    block: bytes = b""
    body: bytes = b""
    receipt: bytes | None = None
    plain: bool = True


class Bad(NamedTuple):
    """Bytes whose last one shows what is wrong, and the error's text. Without that byte nothing is wrong yet."""

    version: int
    wire: bytes
    text: str


class Failed(NamedTuple):
    """Bytes that no parser takes, and what of the failed frame's receipt can be echoed."""

    version: int
    wire: bytes
    receipt: bytes | None


GOOD = {
    "connect": Good(0, b"CONNECT\naccept-version:1.2\nhost:a\n\n\0", "CONNECT", {"accept-version": "1.2", "host": "a"}),
    "stomp in crlf": Good(0, b"STOMP\r\nhost:a\r\n\r\n\0", "STOMP", {"host": "a"}),
    "mixed line ends": Good(0, b"CONNECT\r\nhost:a\nlogin:b\r\n\n\0", "CONNECT", {"host": "a", "login": "b"}),
    "connect is trimmed": Good(0, b"CONNECT\n host :\t a \n\n\0", "CONNECT", {"host": "a"}),
    "connect is not unescaped": Good(0, b"CONNECT\npasscode:a\\b\\n\n\n\0", "CONNECT", {"passcode": "a\\b\\n"}),
    "connect keeps a carriage return inside": Good(
        0, b"CONNECT\npasscode:a\rb\r\n\n\0", "CONNECT", {"passcode": "a\rb"}
    ),
    "line ends before": Good(12, b"\n\r\n\n\nACK\nid:1\n\n\0", "ACK", {"id": "1"}),
    "crlf before in 1.1": Good(11, b"\r\nACK\nid:1\n\n\0", "ACK", {"id": "1"}),
    "no headers": Good(12, b"DISCONNECT\n\n\0", "DISCONNECT", {}),
    "no headers in crlf": Good(12, b"DISCONNECT\r\n\r\n\0", "DISCONNECT", {}),
    "send": Good(
        12,
        b"SEND\ndestination:/queue/a\n\nhello\0",
        "SEND",
        {"destination": "/queue/a"},
        b"destination:/queue/a\n",
        b"hello",
    ),
    "send with everything hidden": Good(
        12,
        b"SEND\nreceipt:7\ndestination:/q\ntransaction:t\ncontent-length:3\nx:1\nack:9\nsubscription:s\n\na\0b\0",
        "SEND",
        {
            "receipt": "7",
            "destination": "/q",
            "transaction": "t",
            "content-length": "3",
            "x": "1",
            "ack": "9",
            "subscription": "s",
        },
        b"destination:/q\nx:1\n",
        b"a\0b",
        b"7",
    ),
    "the rest is hidden too": Good(
        11,
        b"SEND\nmessage-id:1\nredelivered:true\ndelivery-count:3\ndead-letter-x:1\ndead-letter-:\ndead-letter:y\n\n\0",
        "SEND",
        {
            "message-id": "1",
            "redelivered": "true",
            "delivery-count": "3",
            "dead-letter-x": "1",
            "dead-letter-": "",
            "dead-letter": "y",
        },
        b"dead-letter:y\n",
    ),
    "blanks do not unhide": Good(
        12, b"SEND\nmessage-id :1\n\tack:2\n\n\0", "SEND", {"message-id ": "1", "\tack": "2"}, b""
    ),
    "send with nothing": Good(12, b"SEND\n\n\0", "SEND", {}),
    "empty body by length": Good(12, b"SEND\ncontent-length:0\n\n\0", "SEND", {"content-length": "0"}),
    "leading zeros": Good(12, b"SEND\ncontent-length:0003\n\nabc\0", "SEND", {"content-length": "0003"}, body=b"abc"),
    "many zeros": Good(12, b"SEND\ncontent-length:" + b"0" * 40 + b"\n\n\0", "SEND", {"content-length": "0" * 40}),
    "first of repeats": Good(
        12,
        b"SEND\na:1\na:2\ncontent-length:1\ncontent-length:x\nreceipt:p\nreceipt:q\n\n\0\0",
        "SEND",
        {"a": "1", "content-length": "1", "receipt": "p"},
        b"a:1\na:2\n",
        b"\0",
        b"p",
    ),
    "colons in a value": Good(12, b"SEND\na:b:c::\n\n\0", "SEND", {"a": "b:c::"}, b"a:b:c::\n", plain=False),
    "empty value": Good(12, b"SEND\na:\n\n\0", "SEND", {"a": ""}, b"a:\n"),
    "escapes in 1.1": Good(
        11, b"SEND\na\\c:x\\n\\\\n\\c\n\n\0", "SEND", {"a:": "x\n\\n:"}, b"a\\c:x\\n\\\\n\\c\n", plain=False
    ),
    "escapes in 1.2": Good(
        12, b"SEND\na:\\r\\n\\c\\\\\n\n\0", "SEND", {"a": "\r\n:\\"}, b"a:\\r\\n\\c\\\\\n", plain=False
    ),
    "an escape in a hidden header": Good(
        12, b"SEND\nreceipt:a\\cb\nx:1\n\n\0", "SEND", {"receipt": "a:b", "x": "1"}, b"x:1\n", receipt=b"a\\cb"
    ),
    "no escapes in 1.0": Good(10, b"SEND\na:\\t\\\n\n\0", "SEND", {"a": "\\t\\"}, b"a:\\t\\\n", plain=False),
    "1.0 is trimmed, its block is not": Good(
        10, b"SEND\n a : b \nreceipt: r\n\n\0", "SEND", {"a": "b", "receipt": "r"}, b" a : b \n", b"", b" r", False
    ),
    "a blank behind a name of 1.0": Good(10, b"SEND\na\t:b\n\n\0", "SEND", {"a": "b"}, b"a\t:b\n", plain=False),
    "a blank behind a value of 1.0": Good(10, b"SEND\na:b \n\n\0", "SEND", {"a": "b"}, b"a:b \n", plain=False),
    "a value of 1.0 that is a blank": Good(10, b"SEND\na: \n\n\0", "SEND", {"a": ""}, b"a: \n", plain=False),
    "blanks inside do not count in 1.0": Good(10, b"SEND\na b:c d\n\n\0", "SEND", {"a b": "c d"}, b"a b:c d\n"),
    "blanks of a hidden header of 1.0": Good(
        10, b"SEND\na:\nreceipt: r\n\n\0", "SEND", {"a": "", "receipt": "r"}, b"a:\n", receipt=b" r"
    ),
    "1.1 is not trimmed": Good(11, b"SEND\n a : b \n\n\0", "SEND", {" a ": " b "}, b" a : b \n"),
    "crlf is normalised in 1.2": Good(
        12,
        b"SEND\r\na:1\r\nreceipt:2\r\nb:3\n\r\nx\r\n\0",
        "SEND",
        {"a": "1", "receipt": "2", "b": "3"},
        b"a:1\nb:3\n",
        b"x\r\n",
        b"2",
    ),
    "a carriage return is data in 1.1": Good(11, b"SEND\na:1\r\n\n\0", "SEND", {"a": "1\r"}, b"a:1\r\n", plain=False),
    "utf-8": Good(
        12,
        "SEND\nd\u00e9:\u20ac\U0001f600\n\n\0".encode(),
        "SEND",
        {"d\u00e9": "\u20ac\U0001f600"},
        "d\u00e9:\u20ac\U0001f600\n".encode(),
    ),
    "utf-8 beside an escape": Good(
        12, "SEND\na:\u20ac\\n\n\n\0".encode(), "SEND", {"a": "\u20ac\n"}, "a:\u20ac\\n\n".encode(), plain=False
    ),
    "a body of any bytes": Good(12, b"SEND\n\n\xff\xfe\n\n\r\0", "SEND", {}, body=b"\xff\xfe\n\n\r"),
    "a body of another frame in 1.0": Good(10, b"SUBSCRIBE\nid:1\n\nignored\0", "SUBSCRIBE", {"id": "1"}),
    "the same by length": Good(10, b"SUBSCRIBE\ncontent-length:2\n\n\0\0\0", "SUBSCRIBE", {"content-length": "2"}),
    "no body by length": Good(12, b"ACK\ncontent-length:0\nid:1\n\n\0", "ACK", {"content-length": "0", "id": "1"}),
    "error": Good(12, b"ERROR\nmessage:no\n\nbody\0", "ERROR", {"message": "no"}, body=b"body"),
    "message": Good(
        12,
        b"MESSAGE\nsubscription:s\nmessage-id:1-2\nack:3\ncontent-length:2\ndestination:/q\n\n\0\0\0",
        "MESSAGE",
        {"subscription": "s", "message-id": "1-2", "ack": "3", "content-length": "2", "destination": "/q"},
        b"destination:/q\n",
        b"\0\0",
    ),
    "receipt": Good(11, b"RECEIPT\nreceipt-id:r\n\n\0", "RECEIPT", {"receipt-id": "r"}),
    "a long line of hidden ones": Good(
        12,
        b"SEND\n" + b"receipt:%b\n" % (b"x" * 56) * 7 + b"a:b\n\n\0",
        "SEND",
        {"receipt": "x" * 56, "a": "b"},
        b"a:b\n",
        receipt=b"x" * 56,
    ),
}

BAD = {
    "a tls hello": Bad(0, b"\x16", 'unknown command, starting with "\\x16"'),
    "an http request": Bad(0, b"G", 'unknown command, starting with "G"'),
    "a second nul": Bad(12, b"\0", 'unknown command, starting with "\\x00"'),
    "an unknown command": Bad(12, b"SENT", 'unknown command, starting with "SENT"'),
    "one byte too many": Bad(12, b"SENDS", 'unknown command, starting with "SENDS"'),
    "lower case": Bad(12, b"s", 'unknown command, starting with "s"'),
    "a blank after": Bad(12, b"SEND ", 'unknown command, starting with "SEND "'),
    "an unfinished command": Bad(12, b"SEN\n", 'unknown command, starting with "SEN\\x0a"'),
    "a carriage return in 1.1": Bad(11, b"SEND\r", 'unknown command, starting with "SEND\\x0d"'),
    "a carriage return inside": Bad(12, b"SEND\rx", 'unknown command, starting with "SEND\\x0dx"'),
    "an early carriage return": Bad(12, b"SEN\r", 'unknown command, starting with "SEN\\x0d"'),
    "a lone carriage return": Bad(12, b"\n\rS", "carriage return without a line feed between frames"),
    "two carriage returns": Bad(12, b"\r\r", "carriage return without a line feed between frames"),
    "nul in the first header": Bad(12, b"SEND\na\0", "NUL in header line 1"),
    "nul where the header should end": Bad(12, b"SEND\na:b\n\0", "NUL in header line 2"),
    "nul in place of headers": Bad(12, b"SEND\n\0", "NUL in header line 1"),
    "no colon": Bad(12, b"SEND\na:b\nnothing\n\n", "header line 2 has no colon"),
    "no colon in 1.0": Bad(10, b"SEND\nnothing\n\n", "header line 1 has no colon"),
    "no name": Bad(12, b"SEND\n:b\n\n", "header line 1 has no name"),
    "no name but blanks in 1.0": Bad(10, b"SEND\n\t :b\n\n", "header line 1 has no name"),
    "no name but an escape elsewhere": Bad(12, b"SEND\n:\\n\n\n", "header line 1 has no name"),
    "a blank line of 1.2 in 1.1": Bad(11, b"SEND\n\r\n\n", "header line 1 has no colon"),
    "a carriage return in a line": Bad(12, b"SEND\na:b\rc\n\n", "header line 1 has a carriage return inside"),
    "two at a line's end": Bad(12, b"SEND\na:b\r\r\n\n", "header line 1 has a carriage return inside"),
    "an escape of 1.2 in 1.1": Bad(11, b"SEND\na:\\r\n\n", 'header line 1 has an undefined escape "\\r"'),
    "an undefined escape": Bad(12, b"SEND\na:b\nc:\\t\n\n", 'header line 2 has an undefined escape "\\t"'),
    "an undefined escape in a name": Bad(12, b"SEND\n\\x:\\t\n\n", 'header line 1 has an undefined escape "\\x"'),
    "an escape of nothing": Bad(12, b"SEND\na:\\\n\n", 'header line 1 has an undefined escape "\\"'),
    "an escape of a byte": Bad(12, "SEND\na:\\\u20ac\n\n".encode(), 'header line 1 has an undefined escape "\\\\xe2"'),
    "not utf-8": Bad(12, b"SEND\na:\xff\n\n", "header line 1 is not UTF-8"),
    "a name that is not utf-8": Bad(12, b"SEND\na:b\n\xc3:a\n\n", "header line 2 is not UTF-8"),
    "not utf-8, with an escape": Bad(12, b"SEND\na:\\t\xff\n\n", "header line 1 is not UTF-8"),
    "surrogates": Bad(12, b"SEND\na:\xed\xa0\x80\n\n", "header line 1 is not UTF-8"),
    "not utf-8 in 1.0": Bad(10, b"SEND\na:\xff\n\n", "header line 1 is not UTF-8"),
    "length of words": Bad(12, b"SEND\ncontent-length:abc\n\n", 'content-length "abc" is not a number'),
    "length of nothing": Bad(12, b"SEND\ncontent-length:\n\n", 'content-length "" is not a number'),
    "length with a sign": Bad(12, b"SEND\ncontent-length:+1\n\n", 'content-length "+1" is not a number'),
    "length below zero": Bad(12, b"SEND\ncontent-length:-1\n\n", 'content-length "-1" is not a number'),
    "length with a blank": Bad(12, b"SEND\ncontent-length: 1\n\n", 'content-length " 1" is not a number'),
    "length of foreign digits": Bad(
        12, "SEND\ncontent-length:\u0661\n\n".encode(), 'content-length "\\xd9\\xa1" is not a number'
    ),
    "a long wrong length": Bad(
        12, b"SEND\ncontent-length:" + b"1x" * 20 + b"\n\n", f'content-length "{"1x" * 10}" is not a number'
    ),
    "length too large": Bad(
        12, b"SEND\ncontent-length:4096\n\n", "content-length 4096 makes a frame larger than limits.frame (4096 bytes)"
    ),
    "length of 40 digits": Bad(
        12,
        b"SEND\ncontent-length:00" + b"9" * 40 + b"\n\n",
        f"content-length {'9' * 20} makes a frame larger than limits.frame (4096 bytes)",
    ),
    "length too small": Bad(12, b"SEND\ncontent-length:1\n\nab", "no NUL after the body of content-length 1"),
    "length zero and a body": Bad(12, b"SEND\ncontent-length:0\n\nb", "no NUL after the body of content-length 0"),
    "a body where none may be": Bad(12, b"ACK\nid:1\n\nb", "ACK frame with a body"),
    "the same by length, with more": Bad(11, b"SUBSCRIBE\ncontent-length:1\n\n", "SUBSCRIBE frame with a body"),
    "a connect with a body": Bad(0, b"CONNECT\n\n\n", "CONNECT frame with a body"),
}

FAILED = {
    "before an undefined escape": Failed(12, b"SEND\nreceipt:r\na:\\t\n\n", b"r"),
    "after an undefined escape": Failed(12, b"SEND\na:\\t\nreceipt:r\n\n", b"r"),
    "beside a line without a colon": Failed(11, b"ACK\nnothing\nreceipt:r\n\n", b"r"),
    "length too large": Failed(12, b"SEND\ncontent-length:4096\nreceipt:r\n\n", b"r"),
    "length of words": Failed(12, b"SEND\nreceipt:r\ncontent-length:abc\n\n", b"r"),
    "length too small": Failed(12, b"SEND\nreceipt:r\ncontent-length:1\n\nab", b"r"),
    "a body where none may be": Failed(12, b"ACK\nid:1\nreceipt:r\n\nb", b"r"),
    "the same by length": Failed(11, b"ACK\nreceipt:r\ncontent-length:1\n\n", b"r"),
    "an endless body": Failed(12, b"SEND\nreceipt:r\n\n" + b"x" * 4096, b"r"),
    "too many headers": Failed(12, b"SEND\nreceipt:r\n" + b"a:b\n" * 8, b"r"),
    "a header line too long": Failed(12, b"SEND\nreceipt:r\na:" + b"b" * 63, b"r"),
    "nul in the header": Failed(12, b"SEND\nreceipt:r\n\0", b"r"),
    "too late": Failed(12, b"SEND\na\0\nreceipt:r\n\n", None),
    "too late for a line too long": Failed(12, b"SEND\na:" + b"b" * 63 + b"\nreceipt:r\n\n\0", None),
    "its own line is not whole": Failed(12, b"SEND\nreceipt:r\0", None),
    "its own line is too long": Failed(12, b"SEND\nreceipt:" + b"r" * 57 + b"\n\n\0", None),
    "none": Failed(12, b"SEND\nreceipts:r\nreceip:r\nRECEIPT:r\nnothing\n\n", None),
    "empty": Failed(12, b"SEND\nreceipt:\nnothing\n\n", b""),
    "first of repeats": Failed(12, b"SEND\nreceipt:p\nreceipt:q\nnothing\n\n", b"p"),
    "as on the wire": Failed(12, b"SEND\nreceipt:a\\cb:\nnothing\n\n", b"a\\cb:"),
    "in crlf": Failed(12, b"SEND\r\nreceipt:r\r\nnothing\r\n\r\n", b"r"),
    "a carriage return of 1.1": Failed(11, b"SEND\nreceipt:r\r\nnothing\n\n", b"r\r"),
    "with blanks in 1.0": Failed(10, b"SEND\n receipt\t: r \nnothing\n\n", b" r "),
    "with blanks in 1.1": Failed(11, b"SEND\nreceipt :r\nnothing\n\n", None),
    "itself with an undefined escape": Failed(12, b"SEND\nreceipt:\\t\nreceipt:q\n\n", None),
    "itself not utf-8": Failed(12, b"SEND\nreceipt:\xff\n\n", None),
    "itself with a carriage return": Failed(12, b"SEND\nreceipt:a\rb\n\n", None),
    "before any version": Failed(0, b"SEND\nreceipt:r\nnothing\n\n", b"r"),
    "of a connect": Failed(0, b"CONNECT\nreceipt:r\nnothing\n\n", None),
    "of a connect with a body": Failed(0, b"STOMP\nreceipt:r\n\nb", None),
    "of the frame before": Failed(12, b"ACK\nreceipt:r\nid:1\n\n\0SENT", None),
}


def make_parser(twin: Any, version: int = 12, **limits: int) -> Any:
    """A parser with small limits that takes the frames of both sides."""
    parser = twin.Parser(**(LIMITS | limits), commands=ALL_COMMANDS)
    parser.version = version
    return parser


def attributes(frame: Any) -> tuple[Any, ...] | None:
    """Everything a frame says, to compare."""
    if frame is None:
        return None
    return (frame.command, frame.headers, frame.block, frame.body, frame.receipt, frame.plain)


def read_all(parser: Any, chunks: Iterable[bytes]) -> tuple[list[tuple[Any, ...] | None], str | None]:
    """All frames that the chunks hold, each chunk read to its end, and the error's text if they end in one."""
    frames = []
    try:
        for chunk in chunks:
            parser.receive_data(chunk)
            while (frame := parser.next_frame()) is not None:
                frames.append(attributes(frame))
    except ProtocolError as error:
        return frames, str(error)
    return frames, None


def byte_by_byte(wire: bytes) -> Sequence[bytes]:
    """The bytes of `wire`, one at a time."""
    return [wire[i : i + 1] for i in range(len(wire))]
