"""The frame kernel, pure twin: bytes to frames, frames to bytes. The readable specification of both twins.

    bytes ──receive_data──▶ [input] ──next_frame──▶ Frame(command, headers, receipt, block, plain, body)

    between frames ──first byte──▶ command line ──LF──▶ header lines ──blank line──▶ body ──NUL──▶ between frames

It must never hold more than `max_frame` bytes of an unfinished frame, never raise anything but ProtocolError on
whatever bytes, never give another answer because of how the bytes were sliced, and knows no session, limit setting or
clock. To keep the answer independent of the slicing, what is wrong with the *shape* (command, NUL, lengths, counts) is
told at the first byte that shows it, and what is wrong *inside* header lines when the header is complete. Longer than
most modules here: parser and encoders share the escapes, and a twin is one module.
Called by: `stomp.frame`, when the compiled twin is not in use; tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from radiator.errors import ProtocolError
from radiator.stomp.grammar import (
    BLOCK_COMMANDS,
    BODY_COMMANDS,
    CLIENT_COMMANDS,
    CONNECT_COMMANDS,
    ESCAPES,
    HIDDEN_HEADERS,
    HIDDEN_PREFIX,
    KNOWN_HEADERS,
)

__all__ = [
    "Frame",
    "Parser",
    "encode_frame",
    "encode_message",
    "encode_receipt",
    "escape",
    "translate_block",
    "unescape",
]

_LF: Final = 10
_CR: Final = 13
_BLANKS: Final = b" \t"
_CRLF_VERSIONS: Final = (0, 12)
_TRIMMED_VERSIONS: Final = (0, 10)
_LINE_ENDS: Final = re.compile(rb"(?:\r?\n)*+")
_ESCAPE: Final = re.compile(rb"\\(.?)", re.DOTALL)
_KNOWN: Final = {name.encode(): name for name in KNOWN_HEADERS}
_HIDDEN: Final = frozenset(name.encode() for name in HIDDEN_HEADERS)
_VISIBLE: Final = frozenset(_KNOWN) - _HIDDEN
_HIDDEN_PREFIX: Final = HIDDEN_PREFIX.encode()
_SHOWN_BYTES: Final = 20


class Frame:
    """One frame as it arrived. Read-only for everybody but the parser.

    `headers` holds the headers unescaped by the rules of the version, the first of repeats (STOMP 1.2, "Repeated Header
    Entries"). `receipt` is the wire value of the first `receipt` header, to be echoed as it is, or None. For SEND and
    MESSAGE, `block` holds the header lines that travel on, in wire form, each ended by LF, in order, repeats included,
    without those of `grammar.HIDDEN_HEADERS`; `plain` says that the block reads the same in every version.
    """

    __slots__ = ("block", "body", "command", "headers", "plain", "receipt")

    def __init__(
        self,
        command: str,
        headers: dict[str, str],
        receipt: bytes | None = None,
        block: bytes = b"",
        plain: bool = True,
        body: bytes = b"",
    ) -> None:
        self.command = command
        self.headers = headers
        self.receipt = receipt
        self.block = block
        self.plain = plain
        self.body = body


class Parser:
    """Frames out of the bytes of one connection, in any slicing.

    `max_frame` counts a frame's bytes from the first of its command to its NUL, `max_headers` its header lines,
    `max_header_line` the bytes of one line without its end; each may be reached and not passed. `commands` are those
    that the peer may send. `mid_frame` says that the last `next_frame` found a frame's beginning without its end.
    `failed_receipt` is for the answer to a frame that raised ProtocolError: the wire value of its first `receipt`
    header, as in `Frame`; None where that line was not whole before the fault, is itself no header of the version, or
    where the frame is a CONNECT or STOMP, which cannot ask for a receipt.
    """

    __slots__ = (
        "_body",
        "_command",
        "_commands",
        "_cr",
        "_data",
        "_error",
        "_frame",
        "_header",
        "_last",
        "_last_size",
        "_length",
        "_line",
        "_lines",
        "_max_frame",
        "_max_header_line",
        "_max_headers",
        "_prefixes",
        "_searched",
        "_start",
        "_unread",
        "_version",
        "failed_receipt",
        "mid_frame",
    )

    def __init__(
        self, *, max_frame: int, max_headers: int, max_header_line: int, commands: frozenset[str] = CLIENT_COMMANDS
    ) -> None:
        self._max_frame = max_frame
        self._max_headers = max_headers
        self._max_header_line = max_header_line
        self._commands, self._prefixes = _command_tables(commands)
        self._version = 0
        self._data: bytes | bytearray = b""  # bytes as received, or a bytearray that grows while a frame is unfinished
        self._start = 0  # in _data: the first byte of the frame that is next
        self._cr = False  # a carriage return between frames waits for its line feed
        self._last: Frame | None = None
        self._last_size = 0
        self._unread = False
        self._error: str | None = None
        self.failed_receipt: bytes | None = None
        self.mid_frame = False
        self._begin()

    def _begin(self) -> None:
        """Forget how far the next frame was read; all offsets count from its first byte."""
        self._command: str | None = None  # set once the command line is complete
        self._header = 0  # where the first header line begins
        self._line = 0  # where the header line that is not complete yet begins
        self._lines = 0  # header lines that are complete
        self._searched = 0  # nothing before this needs another look
        self._frame: Frame | None = None  # set once the header is complete
        self._body = 0  # where the body begins
        self._length = -1  # the content-length, -1 without one

    @property
    def version(self) -> int:
        """The version whose rules apply from the next frame on: 10, 11, 12, or 0 before one is negotiated."""
        return self._version

    @version.setter
    def version(self, version: int) -> None:
        _check_version(version)
        if version != self._version:
            self._version = version
            self._begin()

    @property
    def buffered(self) -> int:
        """Bytes held that were not returned as frames; line ends between frames count until they are skipped."""
        return len(self._data) - self._start + (self._last_size if self._unread else 0)

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take what the socket gave; a bytes object is kept as it is, anything else copied. A dead parser drops it."""
        if self._error is not None:
            return
        if not self._data:
            self._data = bytes(data)
        elif isinstance(self._data, bytearray):
            self._data += data
        else:
            self._data = bytearray(self._data[self._start :])
            self._start = 0
            self._data += data

    def next_frame(self) -> Frame | None:
        """The next whole frame; None when more data is needed.

        Raises ProtocolError where the input is no STOMP; the parser is dead then, and raises the same again.
        """
        if self._unread:
            self._unread = False
            return self._last
        self._last = None
        if self._error is not None:
            raise ProtocolError(self._error)
        try:
            if (
                (self._command is not None or self._read_command())
                and (self._frame is not None or self._read_header())
                and self._read_body()
            ):
                self.mid_frame = False
                return self._last
        except ProtocolError as error:
            self.failed_receipt = self._find_receipt()
            self.clear()
            self._error = str(error)
            raise
        self._keep_rest()
        return None

    def unread(self) -> None:
        """Put the frame that `next_frame` has just returned back: the next call returns it again.

        Raises RuntimeError where the last call returned no frame, or it was put back already.
        """
        if self._last is None or self._unread:
            raise RuntimeError("no frame to put back")
        self._unread = True

    def clear(self) -> None:
        """Drop all input."""
        self._data = b""
        self._start = 0
        self._cr = False
        self._last = None
        self._unread = False
        self.mid_frame = False
        self._begin()

    def _find_receipt(self) -> bytes | None:
        """What `failed_receipt` becomes: looked for in the whole header lines that came before the fault."""
        if self._command is None or self._command in CONNECT_COMMANDS:
            return None
        if self._frame is not None:
            return self._frame.receipt
        version = self._version
        head = bytes(self._data[self._start + self._header : self._start + self._line])
        for line in head.split(b"\n")[:-1]:
            if version in _CRLF_VERSIONS and line.endswith(b"\r"):
                line = line[:-1]
            raw_name, colon, raw_value = line.partition(b":")
            name = raw_name.strip(_BLANKS) if version in _TRIMMED_VERSIONS else raw_name
            if colon and name == b"receipt":
                try:
                    _read_line(line, version)
                except (ProtocolError, UnicodeDecodeError):
                    return None
                return raw_value
        return None

    def _keep_rest(self) -> None:
        """Own what is left of the input and nothing else: the next data is added to it."""
        self.mid_frame = self._start < len(self._data)
        if not self.mid_frame:
            self._data = b""
        elif isinstance(self._data, bytearray):
            del self._data[: self._start]
        else:
            self._data = bytearray(self._data[self._start :])
        self._start = 0

    def _stop(self) -> int:
        """Where reading ends: nobody looks at bytes that the largest possible frame could not have."""
        return min(len(self._data), self._start + self._max_frame)

    def _wait(self, stop: int) -> bool:
        """False: more data is needed; ProtocolError where it could only make the frame too large."""
        if stop - self._start == self._max_frame:
            raise ProtocolError(f"frame is larger than limits.frame ({self._max_frame} bytes)")
        return False

    def _read_command(self) -> bool:
        """Skip the line ends before a frame, then read its command line; True when that is complete."""
        self._skip_line_ends()
        data, start = self._data, self._start
        if start == len(data):
            return False
        stop = self._stop()
        end = data.find(b"\n", start, stop)
        line = bytes(data[start : end if end >= 0 else stop])
        known = line[:-1] if line.endswith(b"\r") and self._version in _CRLF_VERSIONS else line
        if end >= 0 and known in self._commands:
            self._command = self._commands[known]
            self._header = self._line = end + 1 - start
            return True
        if end < 0 and (line in self._prefixes or (known is not line and known in self._commands)):
            return self._wait(stop)
        raise ProtocolError(f'unknown command, starting with "{_show(self._unknown(line))}"')

    def _skip_line_ends(self) -> None:
        """STOMP 1.2, "Augmented BNF": EOLs may stand between frames. LF and CRLF pass in every version."""
        data, start = self._data, self._start
        if self._cr and start < len(data):
            if data[start] != _LF:
                raise ProtocolError("carriage return without a line feed between frames")
            self._cr = False
            start += 1
        if start < len(data) and data[start] in b"\r\n":
            match = _LINE_ENDS.match(data, start)
            start = match.end() if match else start
            if start < len(data) and data[start] == _CR:
                start += 1
                if start < len(data):
                    raise ProtocolError("carriage return without a line feed between frames")
                self._cr = True
        self._start = start

    def _unknown(self, line: bytes) -> bytes:
        """The shortest beginning of a command line that no command has: the same for every slicing."""
        crlf = self._version in _CRLF_VERSIONS
        for size in range(1, len(line) + 1):
            head = line[:size]
            if head not in self._prefixes and not (crlf and head[-1] == _CR and head[:-1] in self._commands):
                return head
        return line + b"\n"

    def _read_header(self) -> bool:
        """Find the blank line after the header; True when it is there, the header read and `_frame` set."""
        stop = self._stop()
        if self._find_blank_line(stop) or self._find_lines(stop):
            self._open_frame()
            return True
        return self._wait(stop)

    def _find_blank_line(self, stop: int) -> bool:
        """The usual case in two searches: all there, LF only, every limit kept. False leaves it to `_find_lines`."""
        if self._searched:
            return False
        data, first = self._data, self._start + self._header
        self._searched = self._header
        nul = data.find(b"\0", first, stop)
        end = data.find(b"\n\n", first - 1, nul) if nul >= 0 else -1
        if end < 0 or end - first > self._max_header_line:
            return False
        if self._version in _CRLF_VERSIONS and data.find(b"\r", first, end) >= 0:
            return False
        if data.count(b"\n", first, end + 1) > self._max_headers:
            return False
        self._line = end + 1 - self._start
        self._body = end + 2 - self._start
        return True

    def _find_lines(self, stop: int) -> bool:
        """Line by line, from where the last call ended; True when the blank line is there."""
        data, start = self._data, self._start
        crlf = self._version in _CRLF_VERSIONS
        while True:
            first = start + self._line
            end = data.find(b"\n", start + self._searched, stop)
            self._check_line(first, stop if end < 0 else end, crlf)
            if end < 0:
                self._searched = stop - start
                return False
            self._searched = end + 1 - start
            if end == first or (crlf and end == first + 1 and data[first] == _CR):
                self._body = self._searched
                return True
            if self._lines == self._max_headers:
                raise ProtocolError(f"more than limits.headers ({self._max_headers}) header lines")
            self._lines += 1
            self._line = self._searched

    def _check_line(self, first: int, end: int, crlf: bool) -> None:
        """Raise what the bytes [first, end) of an unfinished or whole header line break first: no NUL, no excess."""
        data = self._data
        over = first + self._max_header_line
        if crlf and over < end and data[over] == _CR:
            over += 1  # may yet be the line's end
        if data.find(b"\0", max(first, self._start + self._searched), min(end, over + 1)) >= 0:
            raise ProtocolError(f"NUL in header line {self._lines + 1}")
        if over < end:
            raise ProtocolError(
                f"header line {self._lines + 1} is longer than limits.header_line ({self._max_header_line} bytes)"
            )

    def _open_frame(self) -> None:
        """Read the complete header into `_frame`, and see whether the body may be there and fits."""
        command, version = str(self._command), self._version
        head = bytes(self._data[self._start + self._header : self._start + self._line])
        lines = head.split(b"\n")
        lines.pop()
        simple = version >= 11 and b"\\" not in head and b"\r" not in head
        keep = command in BLOCK_COMMANDS
        headers: dict[str, str] = {}
        block: list[bytes] = []
        blanks = False
        receipt = None
        for number, line in enumerate(lines, 1):
            try:
                if not simple and version in _CRLF_VERSIONS and line.endswith(b"\r"):
                    line = line[:-1]
                raw_name, colon, raw_value = line.partition(b":")
                if simple and colon and raw_name:
                    name = _KNOWN.get(raw_name) or raw_name.decode()
                    value = raw_value.decode()
                else:
                    name, value = _read_line(line, version)
            except UnicodeDecodeError:
                raise ProtocolError(f"header line {number} is not UTF-8") from None
            except ProtocolError as error:
                raise ProtocolError(f"header line {number} {error}") from None
            if name not in headers:
                headers[name] = value
                if name == "receipt":
                    receipt = raw_value
            if keep and (raw_name in _VISIBLE or not _is_hidden(raw_name)):
                block.append(line)
                if version in _TRIMMED_VERSIONS:
                    blanks = blanks or raw_name != raw_name.strip(_BLANKS) or raw_value != raw_value.strip(_BLANKS)
        kept = b"\n".join([*block, b""])
        plain = kept.count(b":") == len(block) and (simple or (not blanks and b"\\" not in kept and b"\r" not in kept))
        self._frame = Frame(command, headers, receipt, kept, plain)
        if "content-length" in headers:
            self._length = self._content_length(headers["content-length"])

    def _content_length(self, text: str) -> int:
        """The number in a content-length header, if a frame with it is allowed."""
        if not text.isascii() or not text.isdigit():
            raise ProtocolError(f'content-length "{_show(text.encode()[:_SHOWN_BYTES])}" is not a number')
        digits = text.lstrip("0") or "0"
        if digits != "0" and self._may_not_have_body():
            raise ProtocolError(f"{self._command} frame with a body")
        if len(digits) > 18 or self._body + int(digits) + 1 > self._max_frame:
            raise ProtocolError(
                f"content-length {digits[:_SHOWN_BYTES]} makes a frame larger than limits.frame"
                f" ({self._max_frame} bytes)"
            )
        return int(digits)

    def _may_not_have_body(self) -> bool:
        """STOMP 1.1 and later forbid a body to most frames; 1.0 does not, and there it is skipped."""
        return self._version != 10 and self._command not in BODY_COMMANDS

    def _read_body(self) -> bool:
        """Find the NUL after the body; True when `_last` is the whole frame."""
        data, start = self._data, self._start
        stop = self._stop()
        body = start + self._body
        if self._length >= 0:
            end = body + self._length
            if end >= stop:
                return self._wait(stop)
            if data[end]:
                raise ProtocolError(f"no NUL after the body of content-length {self._length}")
        else:
            end = data.find(b"\0", max(body, start + self._searched), stop)
            if self._may_not_have_body() and body < stop and end != body:
                raise ProtocolError(f"{self._command} frame with a body")
            if end < 0:
                self._searched = stop - start
                return self._wait(stop)
        frame = self._frame
        if frame is not None and frame.command in BODY_COMMANDS:
            frame.body = bytes(data[body:end])
        self._last = frame
        self._last_size = end + 1 - start
        self._start = end + 1
        if self._start == len(data):
            self._data = b""
            self._start = 0
        self._begin()
        return True


@lru_cache(maxsize=8)
def _command_tables(commands: frozenset[str]) -> tuple[dict[bytes, str], frozenset[bytes]]:
    """The commands by their bytes, and every beginning that one of them has."""
    table = {command.encode(): command for command in commands}
    return table, frozenset(name[:size] for name in table for size in range(1, len(name) + 1))


def _show(data: bytes) -> str:
    """`data` as printable ASCII on one line, for an error's text."""
    return "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in data)


def _is_hidden(raw_name: bytes) -> bool:
    """Does this header stay behind? Blanks around the name do not count: a 1.0 client would trim them away."""
    name = raw_name.strip(_BLANKS)
    return name in _HIDDEN or name.startswith(_HIDDEN_PREFIX)


def _read_line(line: bytes, version: int) -> tuple[str, str]:
    """Name and value of a header line without its end; the ProtocolError's text continues "header line N ..."."""
    if version == 12 and b"\r" in line:
        raise ProtocolError("has a carriage return inside")
    raw_name, colon, raw_value = line.partition(b":")
    if not colon:
        raise ProtocolError("has no colon")
    if version in _TRIMMED_VERSIONS:
        raw_name, raw_value = raw_name.strip(_BLANKS), raw_value.strip(_BLANKS)
    if not raw_name:
        raise ProtocolError("has no name")
    line.decode()
    return _unescape(raw_name, version).decode(), _unescape(raw_value, version).decode()


def _check_version(version: int) -> None:
    if version not in ESCAPES:
        raise ValueError(f"no STOMP version {version}")


def _unescape(raw: bytes, version: int) -> bytes:
    """Undo the escapes of `version`; the ProtocolError's text continues "header ..."."""
    escapes = ESCAPES[version]
    if not escapes or b"\\" not in raw:
        return raw

    def replace(match: re.Match[bytes]) -> bytes:
        try:
            return escapes[match[1]]
        except KeyError:
            raise ProtocolError(f'has an undefined escape "{_show(match[0])}"') from None

    return _ESCAPE.sub(replace, raw)


def _escape(raw: bytes, version: int, name: bool) -> bytes:
    """`raw` with the escapes of `version`; in 1.0, which has none, it is only kept from ending a line or name."""
    if version in _TRIMMED_VERSIONS:
        raw = raw.replace(b"\n", b"\\n").replace(b"\r", b"\\r")
        return raw.replace(b":", b"\\c") if name else raw
    raw = raw.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b":", b"\\c")
    return raw.replace(b"\r", b"\\r") if version == 12 else raw


def escape(value: str, version: int) -> bytes:
    """A header value in wire form (STOMP 1.1 and 1.2, "Value Encoding").

    In 1.0 and before negotiation (10, 0) there are no escapes: LF and CR are written as the two characters \\n and \\r.
    """
    _check_version(version)
    return _escape(value.encode(), version, False)


def unescape(value: bytes, version: int) -> str:
    """A header value from its wire form. Raises ProtocolError: an undefined escape, or bytes that are not UTF-8."""
    _check_version(version)
    try:
        value.decode()
        return _unescape(value, version).decode()
    except UnicodeDecodeError:
        raise ProtocolError("header is not UTF-8") from None
    except ProtocolError as error:
        raise ProtocolError(f"header {error}") from None


def translate_block(block: bytes, source: int, target: int) -> bytes:
    """A stored header block, re-escaped from the sender's version to the receiver's.

    Blanks around a name or a value are no part of it where `source` trims them (1.0). Raises ProtocolError where the
    block is none of `source`.
    """
    _check_version(source)
    _check_version(target)
    if source == target or (source in _TRIMMED_VERSIONS and target in _TRIMMED_VERSIONS):
        return block
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    translated = bytearray()
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(b":")
        if not colon:
            raise ProtocolError(f"header line {number} has no colon")
        if source in _TRIMMED_VERSIONS:
            name, value = name.strip(_BLANKS), value.strip(_BLANKS)
        try:
            translated += _escape(_unescape(name, source), target, True) + b":"
            translated += _escape(_unescape(value, source), target, False) + b"\n"
        except ProtocolError as error:
            raise ProtocolError(f"header line {number} {error}") from None
    return bytes(translated)


def encode_message(
    subscription: bytes | None, queue: int, id: int, ack: int, deliveries: int, block: bytes, body: bytes
) -> bytes:
    """A MESSAGE frame: our own header lines, then the stored block as it is, then the body.

    `subscription` is the subscriber's id in wire form, `queue`-`id` names the message, `ack` the delivery (0: no such
    header), `deliveries` counts earlier deliveries. Ours come first, where the first of repeats counts.
    """
    return b"".join(
        (
            b"MESSAGE\n",
            b"" if subscription is None else b"subscription:%b\n" % subscription,
            b"message-id:%d-%d\n" % (queue, id),
            b"ack:%d\n" % ack if ack > 0 else b"",
            b"content-length:%d\n" % len(body),
            b"redelivered:true\ndelivery-count:%d\n" % deliveries if deliveries > 0 else b"",
            block,
            b"\n",
            body,
            b"\0",
        )
    )


def encode_receipt(receipt: bytes) -> bytes:
    """A RECEIPT frame that echoes `receipt`, a header value in wire form."""
    return b"RECEIPT\nreceipt-id:%b\n\n\0" % receipt


def encode_frame(command: str, headers: Iterable[tuple[str, str]], body: bytes, version: int) -> bytes:
    """Any frame, with exactly these headers, escaped by the rules of `version` (CONNECT and CONNECTED never are)."""
    _check_version(version)
    if command in CONNECT_COMMANDS:
        version = 0
    parts = [command.encode(), b"\n"]
    for name, value in headers:
        parts += (_escape(name.encode(), version, True), b":", _escape(value.encode(), version, False), b"\n")
    parts += (b"\n", body, b"\0")
    return b"".join(parts)
