# cython: language_level=3, embedsignature=True, auto_pickle=False
"""The frame kernel, compiled twin: bytes to frames, frames to bytes. `stomp/frame_pure.py` is its specification.

    bytes ──receive_data──▶ chunk or rest ──next_frame──▶ Frame(command, headers, receipt, block, plain, body)

Frames are read straight from the bytes object that was received; only an unfinished frame is copied, into `_rest`.
It must never import its pure twin or any policy, never raise anything but ProtocolError on whatever bytes, and never
read outside [base, base + size): every search is bounded by a `stop` that `_stop` computed from that size.
Called by: `stomp.frame`, when the compiled twins are in use; tests.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy

from radiator.errors import ProtocolError

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

cdef object _ProtocolError = ProtocolError

# The tables below repeat those of stomp/grammar.py: a kernel imports no policy. A parity test compares them.
CLIENT_COMMANDS = frozenset(
    ("CONNECT", "STOMP", "SEND", "SUBSCRIBE", "UNSUBSCRIBE", "ACK", "NACK", "BEGIN", "COMMIT", "ABORT", "DISCONNECT")
)
BODY_COMMANDS = frozenset(("SEND", "MESSAGE", "ERROR"))
BLOCK_COMMANDS = frozenset(("SEND", "MESSAGE"))
CONNECT_COMMANDS = frozenset(("CONNECT", "STOMP", "CONNECTED"))
HIDDEN_HEADERS = frozenset(
    (
        "receipt",
        "transaction",
        "content-length",
        "message-id",
        "subscription",
        "ack",
        "redelivered",
        "delivery-count",
    )
)
HIDDEN_PREFIX = "dead-letter-"
KNOWN_HEADERS = HIDDEN_HEADERS | frozenset(
    (
        "accept-version",
        "activemq.prefetchSize",
        "content-type",
        "destination",
        "expires",
        "heart-beat",
        "host",
        "id",
        "login",
        "message",
        "passcode",
        "persistent",
        "prefetch-count",
        "priority",
        "receipt-id",
        "requeue",
        "selector",
        "server",
        "session",
        "version",
    )
)

cdef enum:
    LF = 10
    CR = 13
    TAB = 9
    BLANK = 32
    COLON = 58
    BACKSLASH = 92
    SHOWN_BYTES = 20  # of a wrong value in an error's text
    SCRATCH_BYTES = 1024  # a header of up to this many bytes is filtered on the stack
    NAME_SLOTS = 128  # power of two, over four times the known names
    COMMAND_SLOTS = 16
    # flags of a command and of a known header
    HAS_BODY = 1
    HAS_BLOCK = 2
    IS_HIDDEN = 1
    IS_RECEIPT = 2
    IS_LENGTH = 4


# --------------------------------------------------------------------------------------------- names known beforehand

cdef struct Name:
    const unsigned char *text  # of a bytes object that _names keeps alive for good; NULL: an empty slot
    Py_ssize_t size
    PyObject *name  # the str, kept alive there too
    int flags

cdef Name[NAME_SLOTS] _slots
cdef list _names = []
cdef const unsigned char *_prefix = NULL
cdef Py_ssize_t _prefix_size = 0


cdef inline unsigned int _slot(const unsigned char *text, Py_ssize_t size) noexcept nogil:
    """Where a name of at least one byte is looked for first."""
    return <unsigned int> ((size * 11 + text[0] * 3 + text[size - 1] * 5 + text[size >> 1]) & (NAME_SLOTS - 1))


cdef int _learn_names() except -1:
    """Fill the table of known names, once, at import."""
    cdef bytes raw
    cdef unsigned int slot
    global _prefix, _prefix_size
    for name in sorted(KNOWN_HEADERS):
        raw = name.encode()
        _names.append((raw, name))
        slot = _slot(<const unsigned char *> PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
        while _slots[slot].text != NULL:
            slot = (slot + 1) & (NAME_SLOTS - 1)
        _slots[slot].text = <const unsigned char *> PyBytes_AS_STRING(raw)
        _slots[slot].size = PyBytes_GET_SIZE(raw)
        _slots[slot].name = <PyObject *> name
        _slots[slot].flags = (
            (IS_HIDDEN if name in HIDDEN_HEADERS else 0)
            | (IS_RECEIPT if name == "receipt" else 0)
            | (IS_LENGTH if name == "content-length" else 0)
        )
    raw = HIDDEN_PREFIX.encode()
    _names.append((raw, HIDDEN_PREFIX))
    _prefix = <const unsigned char *> PyBytes_AS_STRING(raw)
    _prefix_size = PyBytes_GET_SIZE(raw)
    return 0


_learn_names()


cdef inline Name *_known(const unsigned char *text, Py_ssize_t size) noexcept nogil:
    """The known name that these bytes (at least one) spell, or NULL."""
    cdef unsigned int slot = _slot(text, size)
    while _slots[slot].text != NULL:
        if _slots[slot].size == size and memcmp(_slots[slot].text, text, size) == 0:
            return &_slots[slot]
        slot = (slot + 1) & (NAME_SLOTS - 1)
    return NULL


cdef inline bint _is_hidden(const unsigned char *text, Py_ssize_t size) noexcept nogil:
    """Does this header stay behind? Blanks around the name do not count: a 1.0 client would trim them away."""
    cdef Name *name
    _trim(&text, &size)
    if size == 0:
        return False
    name = _known(text, size)
    if name != NULL:
        return name.flags & IS_HIDDEN
    return size >= _prefix_size and memcmp(text, _prefix, _prefix_size) == 0


cdef inline void _trim(const unsigned char **text, Py_ssize_t *size) noexcept nogil:
    """Take the blanks away from both ends."""
    while size[0] > 0 and (text[0][0] == BLANK or text[0][0] == TAB):
        text[0] += 1
        size[0] -= 1
    while size[0] > 0 and (text[0][size[0] - 1] == BLANK or text[0][size[0] - 1] == TAB):
        size[0] -= 1


cdef inline bint _has_blanks(const unsigned char *text, Py_ssize_t size) noexcept nogil:
    """Is there something at either end that `_trim` takes away?"""
    if size == 0:
        return False
    return text[0] == BLANK or text[0] == TAB or text[size - 1] == BLANK or text[size - 1] == TAB


cdef inline Py_ssize_t _find(
    const unsigned char *base, unsigned char byte, Py_ssize_t first, Py_ssize_t stop
) noexcept nogil:
    """The offset of the first `byte` in [first, stop), or -1."""
    cdef const unsigned char *found
    if first >= stop:
        return -1
    found = <const unsigned char *> memchr(base + first, byte, stop - first)
    return -1 if found == NULL else found - base


# ------------------------------------------------------------------------------------------------------- command tables

cdef struct Command:
    const unsigned char *text  # of a bytes object that the table's _keep holds
    Py_ssize_t size
    PyObject *name
    int flags


@cython.final
@cython.internal
cdef class _Commands:
    """The commands that a parser takes; one table per set, shared by all parsers."""

    cdef Command[COMMAND_SLOTS] commands
    cdef Py_ssize_t count
    cdef list _keep

    def __cinit__(self, commands):
        cdef bytes raw
        if len(commands) > COMMAND_SLOTS:
            raise ValueError(f"more than {COMMAND_SLOTS} commands")
        self._keep = []
        self.count = 0
        for name in sorted(commands, key=_by_use):
            raw = name.encode()
            self._keep.append((raw, name))
            self.commands[self.count].text = <const unsigned char *> PyBytes_AS_STRING(raw)
            self.commands[self.count].size = PyBytes_GET_SIZE(raw)
            self.commands[self.count].name = <PyObject *> name
            self.commands[self.count].flags = (
                (HAS_BODY if name in BODY_COMMANDS else 0) | (HAS_BLOCK if name in BLOCK_COMMANDS else 0)
            )
            self.count += 1

    cdef inline Command *find(self, const unsigned char *text, Py_ssize_t size) noexcept:
        """The command that these bytes spell, or NULL."""
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.commands[i].size == size and memcmp(self.commands[i].text, text, size) == 0:
                return &self.commands[i]
        return NULL

    cdef bint begins(self, const unsigned char *text, Py_ssize_t size) noexcept:
        """Does a command begin with these bytes?"""
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.commands[i].size >= size and memcmp(self.commands[i].text, text, size) == 0:
                return True
        return False


def _by_use(name):
    """Sort key: the commands that are most of the traffic first."""
    return (name not in ("SEND", "ACK", "MESSAGE"), name)


cdef dict _tables = {}  # frozenset of commands: their table; one entry per role, so it stays small


cdef _Commands _table(commands):
    """The shared table of a set of commands."""
    cdef _Commands table = _tables.get(commands)
    if table is None:
        table = _tables[frozenset(commands)] = _Commands(commands)
    return table


# -------------------------------------------------------------------------------------------------------------- frames

@cython.final
@cython.freelist(64)  # a frame lives for one call of its handler; most turns need one or two at a time
cdef class Frame:
    """One frame as it arrived. Read-only for everybody but the parser.

    `headers` holds the headers unescaped by the rules of the version, the first of repeats (STOMP 1.2, "Repeated Header
    Entries"). `receipt` is the wire value of the first `receipt` header, to be echoed as it is, or None. For SEND and
    MESSAGE, `block` holds the header lines that travel on, in wire form, each ended by LF, in order, repeats included,
    without those of `grammar.HIDDEN_HEADERS`; `plain` says that the block reads the same in every version.
    """

    cdef readonly str command
    cdef readonly dict headers
    cdef readonly bytes receipt
    cdef readonly bytes block
    cdef readonly bint plain
    cdef readonly bytes body
    cdef int flags

    def __init__(
        self,
        str command not None,
        dict headers not None,
        bytes receipt=None,
        bytes block not None=b"",
        bint plain=True,
        bytes body not None=b"",
    ):
        self.command = command
        self.headers = headers
        self.receipt = receipt
        self.block = block
        self.plain = plain
        self.body = body


@cython.final
cdef class Parser:
    """Frames out of the bytes of one connection, in any slicing.

    `max_frame` counts a frame's bytes from the first of its command to its NUL, `max_headers` its header lines,
    `max_header_line` the bytes of one line without its end; each may be reached and not passed. `commands` are those
    that the peer may send. `mid_frame` says that the last `next_frame` found a frame's beginning without its end.
    `failed_receipt` is for the answer to a frame that raised ProtocolError: the wire value of its first `receipt`
    header, as in `Frame`; None where that line was not whole before the fault, is itself no header of the version, or
    where the frame is a CONNECT or STOMP, which cannot ask for a receipt.
    """

    cdef Py_ssize_t _max_frame
    cdef Py_ssize_t _max_headers
    cdef Py_ssize_t _max_header_line
    cdef _Commands _commands
    cdef bytes _chunk  # the input as received; None where there is none or it is in _rest
    cdef bytearray _rest  # the input where it began with an unfinished frame: owned, grows
    cdef Py_ssize_t _start  # in the input: the first byte of the frame that is next
    cdef Frame _last
    cdef Py_ssize_t _last_size
    cdef str _error
    cdef int _version
    cdef bint _unread
    cdef bint _cr  # a carriage return between frames waits for its line feed
    cdef readonly bint mid_frame
    cdef readonly bytes failed_receipt
    # How far the next frame was read; all offsets count from its first byte.
    cdef Command *_command  # of _commands, not NULL once the command line is complete
    cdef Frame _frame  # not None once the header is complete
    cdef Py_ssize_t _header  # where the first header line begins
    cdef Py_ssize_t _line  # where the header line that is not complete yet begins
    cdef Py_ssize_t _lines  # header lines that are complete
    cdef Py_ssize_t _searched  # nothing before this needs another look
    cdef Py_ssize_t _body  # where the body begins
    cdef Py_ssize_t _length  # the content-length, -1 without one

    def __init__(
        self,
        *,
        Py_ssize_t max_frame,
        Py_ssize_t max_headers,
        Py_ssize_t max_header_line,
        commands=CLIENT_COMMANDS,
    ):
        self.clear()
        self._max_frame = max_frame
        self._max_headers = max_headers
        self._max_header_line = max_header_line
        self._commands = _table(commands)
        self._version = 0
        self._error = None
        self.failed_receipt = None

    cdef inline void _begin(self) noexcept:
        """Forget how far the next frame was read."""
        self._command = NULL
        self._frame = None
        self._header = 0
        self._line = 0
        self._lines = 0
        self._searched = 0
        self._body = 0
        self._length = -1

    @property
    def version(self):
        """The version whose rules apply from the next frame on: 10, 11, 12, or 0 before one is negotiated."""
        return self._version

    @version.setter
    def version(self, int version):
        if version not in (0, 10, 11, 12):
            raise ValueError(f"no STOMP version {version}")
        if version != self._version:
            self._version = version
            self._begin()

    @property
    def buffered(self):
        """Bytes held that were not returned as frames; line ends between frames count until they are skipped."""
        return self._size() - self._start + (self._last_size if self._unread else 0)

    cdef inline Py_ssize_t _size(self) noexcept:
        """Bytes of the input, the part before `_start` included."""
        if self._rest is not None:
            return PyByteArray_GET_SIZE(self._rest)
        return 0 if self._chunk is None else PyBytes_GET_SIZE(self._chunk)

    cdef inline const unsigned char *_base(self) noexcept:
        """The input's first byte; valid until the input changes, which no reading method does. NULL without input."""
        if self._rest is not None:
            return <const unsigned char *> PyByteArray_AS_STRING(self._rest)
        if self._chunk is not None:
            return <const unsigned char *> PyBytes_AS_STRING(self._chunk)
        return NULL

    def receive_data(self, data):
        """Take what the socket gave; a bytes object is kept as it is, anything else copied. A dead parser drops it."""
        if self._error is not None:
            return
        if self._size() == 0:
            self._rest = None
            self._start = 0
            self._chunk = bytes(data)
            return
        if self._rest is None:
            self._own_rest()
        self._rest += data

    cdef int _own_rest(self) except -1:
        """Move what is left of the chunk into a buffer of our own."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self._chunk)
        self._rest = PyByteArray_FromStringAndSize(PyBytes_AS_STRING(self._chunk) + self._start, size - self._start)
        self._chunk = None
        self._start = 0
        return 0

    def next_frame(self):
        """The next whole frame; None when more data is needed.

        Raises ProtocolError where the input is no STOMP; the parser is dead then, and raises the same again.
        """
        if self._unread:
            self._unread = False
            return self._last
        self._last = None
        if self._error is not None:
            raise _ProtocolError(self._error)
        try:
            if (
                (self._command != NULL or self._read_command())
                and (self._frame is not None or self._read_header())
                and self._read_body()
            ):
                self.mid_frame = False
                return self._last
        except _ProtocolError as error:
            self.failed_receipt = self._find_receipt()
            self.clear()
            self._error = str(error)
            raise
        self._keep_rest()
        return None

    def unread(self):
        """Put the frame that `next_frame` has just returned back: the next call returns it again.

        Raises RuntimeError where the last call returned no frame, or it was put back already.
        """
        if self._last is None or self._unread:
            raise RuntimeError("no frame to put back")
        self._unread = True

    cpdef clear(self):
        """Drop all input."""
        self._chunk = None
        self._rest = None
        self._start = 0
        self._cr = False
        self._last = None
        self._unread = False
        self.mid_frame = False
        self._begin()

    cdef bytes _find_receipt(self):
        """What `failed_receipt` becomes: looked for in the whole header lines that came before the fault."""
        cdef const unsigned char *line
        cdef const unsigned char *last
        cdef const unsigned char *end
        cdef const unsigned char *colon
        cdef const unsigned char *name
        cdef Py_ssize_t size, name_size
        if self._command == NULL or <str> self._command.name in CONNECT_COMMANDS:
            return None
        if self._frame is not None:
            return self._frame.receipt
        line = self._base() + self._start + self._header
        last = self._base() + self._start + self._line
        while line < last:
            end = <const unsigned char *> memchr(line, LF, last - line)  # there: `last` stands behind a line feed
            size = end - line
            if size > 0 and line[size - 1] == CR and self._ends_with_crlf():
                size -= 1
            colon = <const unsigned char *> memchr(line, COLON, size)
            if colon != NULL:
                name = line
                name_size = colon - line
                if self._version < 11:
                    _trim(&name, &name_size)
                if name_size == 7 and memcmp(name, b"receipt", 7) == 0:
                    if self._version == 12 and memchr(line, CR, size) != NULL:
                        return None
                    name_size = colon - line
                    size -= name_size + 1
                    try:
                        _read_line(line, name_size, colon + 1, size, self._version, 0)
                    except _ProtocolError:
                        return None
                    return PyBytes_FromStringAndSize(<const char *> colon + 1, size)
            line = end + 1
        return None

    cdef int _keep_rest(self) except -1:
        """Own what is left of the input and nothing else: the next data is added to it."""
        self.mid_frame = self._start < self._size()
        if not self.mid_frame:
            self._chunk = None
            self._rest = None
        elif self._rest is None:
            self._own_rest()
        elif self._start > 0:
            del self._rest[: self._start]
        self._start = 0
        return 0

    cdef inline Py_ssize_t _stop(self) noexcept:
        """Where reading ends: nobody looks at bytes that the largest possible frame could not have."""
        cdef Py_ssize_t size = self._size()
        return self._start + self._max_frame if size - self._start > self._max_frame else size

    cdef bint _wait(self, Py_ssize_t stop) except -1:
        """False: more data is needed; ProtocolError where it could only make the frame too large."""
        if stop - self._start == self._max_frame:
            raise _ProtocolError(f"frame is larger than limits.frame ({self._max_frame} bytes)")
        return False

    cdef bint _read_command(self) except -1:
        """Skip the line ends before a frame, then read its command line; True when that is complete."""
        cdef const unsigned char *base = self._base()
        cdef const unsigned char *line
        cdef Py_ssize_t stop, end, size
        cdef Command *command
        self._skip_line_ends(base)
        if self._start == self._size():
            return False
        stop = self._stop()
        end = _find(base, LF, self._start, stop)
        line = base + self._start
        size = (stop if end < 0 else end) - self._start
        if end >= 0:
            command = self._commands.find(line, size)
            if command == NULL and size > 0 and line[size - 1] == CR and self._ends_with_crlf():
                command = self._commands.find(line, size - 1)
            if command != NULL:
                self._command = command
                self._header = self._line = end + 1 - self._start
                return True
        elif self._may_begin(line, size):
            return self._wait(stop)
        end = 1
        while end < size and self._may_begin(line, end):
            end += 1
        if end == size and self._may_begin(line, size):
            raise _ProtocolError(f'unknown command, starting with "{_show(line, size)}\\x0a"')
        raise _ProtocolError(f'unknown command, starting with "{_show(line, end)}"')

    cdef bint _may_begin(self, const unsigned char *line, Py_ssize_t size) noexcept:
        """May an unfinished command line hold these bytes, at least one?"""
        if self._commands.begins(line, size):
            return True
        return line[size - 1] == CR and self._ends_with_crlf() and self._commands.find(line, size - 1) != NULL

    cdef inline bint _ends_with_crlf(self) noexcept:
        """May a line end with CRLF? Where not, a carriage return is data."""
        return self._version == 12 or self._version == 0

    cdef int _skip_line_ends(self, const unsigned char *base) except -1:
        """STOMP 1.2, "Augmented BNF": EOLs may stand between frames. LF and CRLF pass in every version."""
        cdef Py_ssize_t size = self._size()
        while self._start < size:
            if base[self._start] == LF:
                self._cr = False
            elif self._cr:
                raise _ProtocolError("carriage return without a line feed between frames")
            elif base[self._start] == CR:
                self._cr = True
            else:
                break
            self._start += 1
        return 0

    cdef bint _read_header(self) except -1:
        """Find the blank line after the header; True when it is there, the header read and `_frame` set."""
        cdef const unsigned char *base = self._base()
        cdef Py_ssize_t stop = self._stop()
        cdef Py_ssize_t first, end
        cdef bint crlf = self._ends_with_crlf()
        if self._searched == 0:
            self._searched = self._header
        while True:
            first = self._start + self._line
            end = _find(base, LF, self._start + self._searched, stop)
            self._check_line(base, first, stop if end < 0 else end, crlf)
            if end < 0:
                self._searched = stop - self._start
                return self._wait(stop)
            self._searched = end + 1 - self._start
            if end == first or (crlf and end == first + 1 and base[first] == CR):
                self._body = self._searched
                self._open_frame(base)
                return True
            if self._lines == self._max_headers:
                raise _ProtocolError(f"more than limits.headers ({self._max_headers}) header lines")
            self._lines += 1
            self._line = self._searched

    cdef inline int _check_line(
        self, const unsigned char *base, Py_ssize_t first, Py_ssize_t end, bint crlf
    ) except -1:
        """Raise what the bytes [first, end) of an unfinished or whole header line break first: no NUL, no excess."""
        cdef Py_ssize_t over = first + self._max_header_line if self._max_header_line < end - first else end
        cdef Py_ssize_t searched = self._start + self._searched
        if crlf and over < end and base[over] == CR:
            over += 1  # may yet be the line's end
        if _find(base, 0, searched if searched > first else first, over + 1 if over < end else end) >= 0:
            raise _ProtocolError(f"NUL in header line {self._lines + 1}")
        if over < end:
            raise _ProtocolError(
                f"header line {self._lines + 1} is longer than limits.header_line ({self._max_header_line} bytes)"
            )
        return 0

    cdef int _open_frame(self, const unsigned char *base) except -1:
        """Read the complete header into `_frame`, and see whether the body may be there and fits."""
        cdef const unsigned char *head = base + self._start + self._header
        cdef Py_ssize_t size = self._line - self._header
        cdef const unsigned char *line = head
        cdef const unsigned char *last = head + size
        cdef const unsigned char *end
        cdef const unsigned char *colon
        cdef const unsigned char *value
        cdef Py_ssize_t name_size, value_size, raw_size
        cdef unsigned char[SCRATCH_BYTES] scratch
        cdef unsigned char *kept = scratch
        cdef Py_ssize_t kept_size = 0
        cdef bytearray large = None  # holds `kept` where the scratch is too small
        cdef Py_ssize_t number = 0
        cdef bint keep = self._command.flags & HAS_BLOCK
        cdef bint crlf = self._ends_with_crlf()
        cdef bint trim = self._version < 11
        # Nothing to trim, to unescape, to normalise: most frames that are not hostile.
        cdef bint simple = not trim and memchr(head, BACKSLASH, size) == NULL and memchr(head, CR, size) == NULL
        cdef bint plain = True
        cdef bint hidden
        cdef Name *known
        cdef dict headers = {}
        cdef bytes receipt = None
        cdef str name, text
        cdef str length = None
        cdef Frame frame
        if keep and size > SCRATCH_BYTES:
            large = PyByteArray_FromStringAndSize(NULL, size)
            kept = <unsigned char *> PyByteArray_AS_STRING(large)
        while line < last:
            number += 1
            end = <const unsigned char *> memchr(line, LF, last - line)  # there: `last` stands behind a line feed
            raw_size = end - line
            if not simple:
                if crlf and raw_size > 0 and line[raw_size - 1] == CR:
                    raw_size -= 1
                if self._version == 12 and memchr(line, CR, raw_size) != NULL:
                    raise _ProtocolError(f"header line {number} has a carriage return inside")
            colon = <const unsigned char *> memchr(line, COLON, raw_size)
            if colon == NULL:
                raise _ProtocolError(f"header line {number} has no colon")
            name_size = colon - line
            value = colon + 1
            value_size = raw_size - name_size - 1
            if simple and name_size > 0:
                known = _known(line, name_size)
                if known != NULL:
                    name = <str> known.name
                    hidden = known.flags & IS_HIDDEN
                else:
                    name = _text(line, name_size, number)
                    hidden = keep and _is_hidden(line, name_size)
                text = _text(value, value_size, number)
            else:
                name, text = _read_line(line, name_size, value, value_size, self._version, number)
                hidden = _is_hidden(line, name_size)
                known = NULL
            if name not in headers:
                headers[name] = text
                if known == NULL:
                    if name == "receipt":
                        receipt = PyBytes_FromStringAndSize(<const char *> value, value_size)
                    elif name == "content-length":
                        length = text
                elif known.flags & IS_RECEIPT:
                    receipt = PyBytes_FromStringAndSize(<const char *> value, value_size)
                elif known.flags & IS_LENGTH:
                    length = text
            if keep and not hidden:
                memcpy(kept + kept_size, line, raw_size)  # fits: no more than the whole header is kept
                kept_size += raw_size
                kept[kept_size] = LF
                kept_size += 1
                if plain:
                    plain = memchr(value, COLON, value_size) == NULL and (
                        simple or (memchr(line, BACKSLASH, raw_size) == NULL and memchr(line, CR, raw_size) == NULL)
                    )
                    if trim and plain:
                        plain = not (_has_blanks(line, name_size) or _has_blanks(value, value_size))
            line = end + 1
        frame = Frame.__new__(Frame)
        frame.command = <str> self._command.name
        frame.flags = self._command.flags
        frame.headers = headers
        frame.receipt = receipt
        frame.block = PyBytes_FromStringAndSize(<char *> kept, kept_size) if kept_size > 0 else b""
        frame.plain = plain
        frame.body = b""
        self._frame = frame
        if length is not None:
            self._length = self._content_length(length)
        return 0

    cdef Py_ssize_t _content_length(self, str text) except -1:
        """The number in a content-length header, if a frame with it is allowed."""
        cdef bytes raw = text.encode()
        cdef const unsigned char *digits = <const unsigned char *> PyBytes_AS_STRING(raw)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(raw)
        cdef Py_ssize_t number = 0
        cdef Py_ssize_t i
        for i in range(size):
            if not 48 <= digits[i] <= 57:
                size = 0
        if size == 0:
            raise _ProtocolError(
                f'content-length "{_show(digits, min(len(raw), SHOWN_BYTES))}" is not a number'
            )
        while size > 1 and digits[0] == 48:
            digits += 1
            size -= 1
        if digits[0] != 48 and self._may_not_have_body():
            raise _ProtocolError(f"{self._frame.command} frame with a body")
        if size <= 18:
            for i in range(size):
                number = number * 10 + (digits[i] - 48)
        if size > 18 or number > self._max_frame - self._body - 1:
            raise _ProtocolError(
                f"content-length {_show(digits, min(size, SHOWN_BYTES))} makes a frame larger than limits.frame"
                f" ({self._max_frame} bytes)"
            )
        return number

    cdef inline bint _may_not_have_body(self) noexcept:
        """STOMP 1.1 and later forbid a body to most frames; 1.0 does not, and there it is skipped."""
        return self._version != 10 and not self._command.flags & HAS_BODY

    cdef bint _read_body(self) except -1:
        """Find the NUL after the body; True when `_last` is the whole frame."""
        cdef const unsigned char *base = self._base()
        cdef Py_ssize_t stop = self._stop()
        cdef Py_ssize_t body = self._start + self._body
        cdef Py_ssize_t searched = self._start + self._searched
        cdef Py_ssize_t end
        cdef Frame frame = self._frame
        if self._length >= 0:
            end = body + self._length
            if end >= stop:
                return self._wait(stop)
            if base[end] != 0:
                raise _ProtocolError(f"no NUL after the body of content-length {self._length}")
        elif self._may_not_have_body():
            if body >= stop:
                return self._wait(stop)
            if base[body] != 0:
                raise _ProtocolError(f"{frame.command} frame with a body")
            end = body
        else:
            end = _find(base, 0, searched if searched > body else body, stop)
            if end < 0:
                self._searched = stop - self._start
                return self._wait(stop)
        if frame.flags & HAS_BODY and end > body:
            frame.body = PyBytes_FromStringAndSize(<const char *> base + body, end - body)
        self._last = frame
        self._last_size = end + 1 - self._start
        self._start = end + 1
        if self._start == self._size():
            self._chunk = None
            self._rest = None
            self._start = 0
        self._begin()
        return True


cdef inline str _text(const unsigned char *raw, Py_ssize_t size, Py_ssize_t number):
    """Bytes of header line `number` as text."""
    try:
        return <str> PyUnicode_DecodeUTF8(<const char *> raw, size, NULL)
    except UnicodeDecodeError:
        raise _ProtocolError(f"header line {number} is not UTF-8") from None


cdef str _show(const unsigned char *data, Py_ssize_t size):
    """`data` as printable ASCII on one line, for an error's text."""
    cdef Py_ssize_t i
    return "".join([chr(data[i]) if 32 <= data[i] < 127 else f"\\x{data[i]:02x}" for i in range(size)])


# ------------------------------------------------------------------------------------------------------------- escapes

cdef tuple _read_line(
    const unsigned char *name,
    Py_ssize_t name_size,
    const unsigned char *value,
    Py_ssize_t value_size,
    int version,
    Py_ssize_t number,
):
    """Name and value of a header line that may hold escapes, or blanks to trim."""
    cdef str line_name, line_value
    if version < 11:
        _trim(&name, &name_size)
        _trim(&value, &value_size)
    if name_size == 0:
        raise _ProtocolError(f"header line {number} has no name")
    line_name = _text(name, name_size, number)
    line_value = _text(value, value_size, number)
    if version < 11:
        return line_name, line_value
    try:
        if memchr(name, BACKSLASH, name_size) != NULL:
            line_name = _unescape(name, name_size, version).decode()
        if value_size > 0 and memchr(value, BACKSLASH, value_size) != NULL:
            line_value = _unescape(value, value_size, version).decode()
    except _ProtocolError as error:
        raise _ProtocolError(f"header line {number} {error}") from None
    return line_name, line_value


cdef bytes _unescape(const unsigned char *raw, Py_ssize_t size, int version):
    """Undo the escapes of `version`; the ProtocolError's text continues "header ..."."""
    cdef bytearray plain
    cdef unsigned char *out
    cdef unsigned char byte
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t used = 0
    if version < 11:
        return PyBytes_FromStringAndSize(<const char *> raw, size)
    plain = PyByteArray_FromStringAndSize(NULL, size)  # no escape grows
    out = <unsigned char *> PyByteArray_AS_STRING(plain)
    while i < size:
        byte = raw[i]
        i += 1
        if byte == BACKSLASH:
            byte = raw[i] if i < size else 0
            if byte == c"n":
                byte = LF
            elif byte == c"c":
                byte = COLON
            elif byte == c"r" and version == 12:
                byte = CR
            elif byte != BACKSLASH:
                raise _ProtocolError(
                    f'has an undefined escape "{_show(raw + i - 1, 2 if i < size else 1)}"'
                )
            i += 1
        out[used] = byte
        used += 1
    return PyBytes_FromStringAndSize(<char *> out, used)


cdef bytes _escape(const unsigned char *raw, Py_ssize_t size, int version, bint name):
    """`raw` with the escapes of `version`; in 1.0, which has none, it is only kept from ending a line or name."""
    cdef bytearray escaped = PyByteArray_FromStringAndSize(NULL, 2 * size)  # every byte may become two
    cdef unsigned char *out = <unsigned char *> PyByteArray_AS_STRING(escaped)
    cdef unsigned char second
    cdef Py_ssize_t i
    cdef Py_ssize_t used = 0
    for i in range(size):
        second = 0
        if raw[i] == LF:
            second = c"n"
        elif raw[i] == CR and version != 11:
            second = c"r"
        elif raw[i] == COLON and (version >= 11 or name):
            second = c"c"
        elif raw[i] == BACKSLASH and version >= 11:
            second = BACKSLASH
        if second != 0:
            out[used] = BACKSLASH
            out[used + 1] = second
            used += 2
        else:
            out[used] = raw[i]
            used += 1
    return PyBytes_FromStringAndSize(<char *> out, used)


cdef inline bytes _escape_text(str text, int version, bint name):
    """A name or a value in wire form."""
    cdef bytes raw = text.encode()
    return _escape(<const unsigned char *> PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), version, name)


cdef int _check_version(int version) except -1:
    """ValueError where there is no such version."""
    if version not in (0, 10, 11, 12):
        raise ValueError(f"no STOMP version {version}")
    return 0


def escape(str value not None, int version):
    """A header value in wire form (STOMP 1.1 and 1.2, "Value Encoding").

    In 1.0 and before negotiation (10, 0) there are no escapes: LF and CR are written as the two characters \\n and \\r.
    """
    _check_version(version)
    return _escape_text(value, version, False)


def unescape(bytes value not None, int version):
    """A header value from its wire form. Raises ProtocolError: an undefined escape, or bytes that are not UTF-8."""
    _check_version(version)
    try:
        value.decode()
        return _unescape(
            <const unsigned char *> PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), version
        ).decode()
    except UnicodeDecodeError:
        raise _ProtocolError("header is not UTF-8") from None
    except _ProtocolError as error:
        raise _ProtocolError(f"header {error}") from None


def translate_block(bytes block not None, int source, int target):
    """A stored header block, re-escaped from the sender's version to the receiver's.

    Blanks around a name or a value are no part of it where `source` trims them (1.0). Raises ProtocolError where the
    block is none of `source`.
    """
    cdef const unsigned char *line = <const unsigned char *> PyBytes_AS_STRING(block)
    cdef const unsigned char *last = line + PyBytes_GET_SIZE(block)
    cdef const unsigned char *end
    cdef const unsigned char *colon
    cdef Py_ssize_t number = 0
    cdef list parts
    _check_version(source)
    _check_version(target)
    if source == target or (source < 11 and target < 11):
        return block
    parts = []
    while line < last:
        number += 1
        end = <const unsigned char *> memchr(line, LF, last - line)
        if end == NULL:
            end = last
        colon = <const unsigned char *> memchr(line, COLON, end - line)
        if colon == NULL:
            raise _ProtocolError(f"header line {number} has no colon")
        try:
            parts.append(_translate(line, colon - line, source, target, True))
            parts.append(b":")
            parts.append(_translate(colon + 1, end - colon - 1, source, target, False))
            parts.append(b"\n")
        except _ProtocolError as error:
            raise _ProtocolError(f"header line {number} {error}") from None
        line = end + 1
    return b"".join(parts)


cdef bytes _translate(const unsigned char *raw, Py_ssize_t size, int source, int target, bint name):
    """A name or a value of a block, from one version's wire form to another's."""
    cdef bytes plain
    if source < 11:
        _trim(&raw, &size)
    plain = _unescape(raw, size, source)
    return _escape(<const unsigned char *> PyBytes_AS_STRING(plain), PyBytes_GET_SIZE(plain), target, name)


# ------------------------------------------------------------------------------------------------------------ encoders

cdef inline char *_put(char *out, const char *data, Py_ssize_t size) noexcept nogil:
    """Copy and step on; the caller has counted the bytes before it allocated."""
    memcpy(out, data, size)
    return out + size


cdef inline Py_ssize_t _digits(uint64_t number) noexcept nogil:
    """How many decimal digits `number` has."""
    cdef Py_ssize_t count = 1
    while number >= 10:
        number //= 10
        count += 1
    return count


cdef inline char *_put_number(char *out, uint64_t number, Py_ssize_t digits) noexcept nogil:
    """Write `number` in the `digits` that _digits has counted."""
    cdef Py_ssize_t i = digits
    while i > 0:
        i -= 1
        out[i] = <char> (48 + number % 10)
        number //= 10
    return out + digits


def encode_message(
    bytes subscription,
    uint64_t queue,
    uint64_t id,
    uint64_t ack,
    uint64_t deliveries,
    bytes block not None,
    bytes body not None,
):
    """A MESSAGE frame: our own header lines, then the stored block as it is, then the body.

    `subscription` is the subscriber's id in wire form, `queue`-`id` names the message, `ack` the delivery (0: no such
    header), `deliveries` counts earlier deliveries. Ours come first, where the first of repeats counts.
    """
    cdef Py_ssize_t subscription_size = 0 if subscription is None else PyBytes_GET_SIZE(subscription)
    cdef Py_ssize_t block_size = PyBytes_GET_SIZE(block)
    cdef Py_ssize_t body_size = PyBytes_GET_SIZE(body)
    cdef Py_ssize_t queue_digits = _digits(queue)
    cdef Py_ssize_t id_digits = _digits(id)
    cdef Py_ssize_t ack_digits = _digits(ack)
    cdef Py_ssize_t length_digits = _digits(body_size)
    cdef Py_ssize_t deliveries_digits = _digits(deliveries)
    # 39: what stands around the numbers, the block and the body of every MESSAGE.
    cdef Py_ssize_t size = 39 + queue_digits + id_digits + length_digits + block_size + body_size
    cdef bytes frame
    cdef char *out
    if subscription is not None:
        size += 13 + subscription_size + 1
    if ack > 0:
        size += 4 + ack_digits + 1
    if deliveries > 0:
        size += 32 + deliveries_digits + 1
    frame = PyBytes_FromStringAndSize(NULL, size)
    out = PyBytes_AS_STRING(frame)
    out = _put(out, b"MESSAGE\n", 8)
    if subscription is not None:
        out = _put(out, b"subscription:", 13)
        out = _put(out, PyBytes_AS_STRING(subscription), subscription_size)
        out = _put(out, b"\n", 1)
    out = _put(out, b"message-id:", 11)
    out = _put_number(out, queue, queue_digits)
    out = _put(out, b"-", 1)
    out = _put_number(out, id, id_digits)
    if ack > 0:
        out = _put(out, b"\nack:", 5)
        out = _put_number(out, ack, ack_digits)
    out = _put(out, b"\ncontent-length:", 16)
    out = _put_number(out, body_size, length_digits)
    if deliveries > 0:
        out = _put(out, b"\nredelivered:true\ndelivery-count:", 33)
        out = _put_number(out, deliveries, deliveries_digits)
    out = _put(out, b"\n", 1)
    out = _put(out, PyBytes_AS_STRING(block), block_size)
    out = _put(out, b"\n", 1)
    out = _put(out, PyBytes_AS_STRING(body), body_size)
    out = _put(out, b"\0", 1)
    assert out == PyBytes_AS_STRING(frame) + size, "counted and written sizes differ"
    return frame


def encode_receipt(bytes receipt not None):
    """A RECEIPT frame that echoes `receipt`, a header value in wire form."""
    cdef Py_ssize_t receipt_size = PyBytes_GET_SIZE(receipt)
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, 19 + receipt_size + 3)
    cdef char *out = PyBytes_AS_STRING(frame)
    out = _put(out, b"RECEIPT\nreceipt-id:", 19)
    out = _put(out, PyBytes_AS_STRING(receipt), receipt_size)
    out = _put(out, b"\n\n\0", 3)
    return frame


def encode_frame(str command not None, headers, bytes body not None, int version):
    """Any frame, with exactly these headers, escaped by the rules of `version` (CONNECT and CONNECTED never are)."""
    cdef list parts = [command.encode(), b"\n"]
    cdef str name, value
    _check_version(version)
    if command in CONNECT_COMMANDS:
        version = 0
    for name, value in headers:
        parts.append(_escape_text(name, version, True))
        parts.append(b":")
        parts.append(_escape_text(value, version, False))
        parts.append(b"\n")
    parts.append(b"\n")
    parts.append(body)
    parts.append(b"\0")
    return b"".join(parts)
