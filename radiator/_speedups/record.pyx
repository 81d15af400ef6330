# cython: language_level=3
"""Records, batches and segment headers as bytes: the compiled twin of `radiator.store.file.record_pure`.

Names, signatures, errors and texts are the pure twin's, which is the specification; it is never imported here. One
growing buffer takes a batch, so that a put costs two copies and three checksums, and no Python object.

Over 500 lines, since a twin is one module, and the writer and the reader of a format belong together.
"""

from collections import namedtuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memcmp, memcpy, memset

from radiator.errors import CorruptRecord
from radiator.message import Message

cdef extern from "Python.h":
    # Declared without its error contract: `fit` looks for itself.
    unsigned long long PyLong_AsUnsignedLongLong(object number) noexcept
    void *PyErr_Occurred() noexcept
    int PyErr_ExceptionMatches(object error) noexcept
    void PyErr_Clear() noexcept

cdef extern from "zlib.h":
    unsigned long zlib_crc32 "crc32"(unsigned long crc, const uint8_t *data, unsigned int length) noexcept nogil
    const uint32_t *get_crc_table() noexcept

BLOCK = 4096
HEADER_BYTES = 64
MAX_PAYLOAD = 1 << 30
SETTLED_HEAD_BYTES = 32
RANGE_BYTES = 16
FORMAT_VERSION = 1
OPENING = 1

PUT = 1
SETTLED = 2
DEFINE = 3
DROP = 4
NEXT_QUEUE = 16
STATE = 17
COUNTS = 18
SEGMENT = 19
PLACES = 256

cdef enum:
    block_bytes = 4096
    header_bytes = 64
    max_payload = 1 << 30
    format_version = 1
    checksum_crc32 = 1
    flag_opening = 1
    flag_plain = 1
    may_skip = 0x80
    type_put = 1
    type_settled = 2
    type_define = 3
    type_drop = 4
    type_next_queue = 16
    type_state = 17
    type_counts = 18
    type_segment = 19
    message_head = 56
    settled_head = 32
    range_bytes = 16
    short_bytes = 256
    place_bytes = 24
    first_buffer = 1 << 16
    kept_buffer = 1 << 22

cdef object UNFIT = "a number does not fit its field"
cdef object FINISHED = "the batch is finished: clear it first"

BatchHeader = namedtuple("BatchHeader", ("address", "durable", "length", "records", "body", "flags"), module=__name__)
SegmentHeader = namedtuple(
    "SegmentHeader", ("store_id", "number", "created_ms", "capacity", "version"), module=__name__
)


# Little-endian numbers, byte by byte; the compiler makes single moves of them where the machine is little-endian.

cdef inline void store_u16(uint8_t *place, uint32_t value) noexcept:
    place[0] = value & 0xFF
    place[1] = (value >> 8) & 0xFF


cdef inline void store_u32(uint8_t *place, uint32_t value) noexcept:
    place[0] = value & 0xFF
    place[1] = (value >> 8) & 0xFF
    place[2] = (value >> 16) & 0xFF
    place[3] = (value >> 24) & 0xFF


cdef inline void store_u64(uint8_t *place, uint64_t value) noexcept:
    store_u32(place, <uint32_t>(value & 0xFFFFFFFFu))
    store_u32(place + 4, <uint32_t>(value >> 32))


cdef inline uint32_t load_u16(const uint8_t *place) noexcept:
    return place[0] | (<uint32_t>place[1] << 8)


cdef inline uint32_t load_u32(const uint8_t *place) noexcept:
    return place[0] | (<uint32_t>place[1] << 8) | (<uint32_t>place[2] << 16) | (<uint32_t>place[3] << 24)


cdef inline uint64_t load_u64(const uint8_t *place) noexcept:
    return load_u32(place) | (<uint64_t>load_u32(place + 4) << 32)


# zlib's table for one byte, carried on over zero to seven zero bytes: eight bytes are looked up at once.
cdef uint32_t[8][256] slices


cdef void fill_slices() noexcept:
    cdef const uint32_t *table = get_crc_table()
    cdef int byte, more
    for byte in range(256):
        slices[0][byte] = table[byte]
        for more in range(1, 8):
            slices[more][byte] = table[slices[more - 1][byte] & 0xFF] ^ (slices[more - 1][byte] >> 8)


fill_slices()


cdef uint32_t checksum(uint32_t start, const uint8_t *data, uint64_t length) noexcept:
    """CRC-32 as zlib has it; `length` is below 4 GiB.

    zlib 1.2.13 needs 150 ns for the 72 bytes of a head, which is checked twice; this loop needs 30 (bench_record.py).
    """
    cdef uint32_t crc, low, high
    if length > short_bytes:
        return <uint32_t>zlib_crc32(start, data, <unsigned int>length)
    crc = ~start
    while length >= 8:
        low = crc ^ load_u32(data)
        high = load_u32(data + 4)
        crc = (
            slices[7][low & 0xFF]
            ^ slices[6][(low >> 8) & 0xFF]
            ^ slices[5][(low >> 16) & 0xFF]
            ^ slices[4][low >> 24]
            ^ slices[3][high & 0xFF]
            ^ slices[2][(high >> 8) & 0xFF]
            ^ slices[1][(high >> 16) & 0xFF]
            ^ slices[0][high >> 24]
        )
        data += 8
        length -= 8
    while length:
        crc = (crc >> 8) ^ slices[0][(crc ^ data[0]) & 0xFF]
        data += 1
        length -= 1
    return ~crc


cdef inline uint64_t padded(uint64_t length) noexcept:
    return (length + 7) & ~(<uint64_t>7)


cdef inline uint64_t fit(object number, uint64_t most) except? 0xFFFFFFFFFFFFFFFFu:
    """A Python int as an unsigned number of at most `most`; OverflowError beyond."""
    cdef unsigned long long value = PyLong_AsUnsignedLongLong(number)
    if value > most or value == 0xFFFFFFFFFFFFFFFFu and PyErr_Occurred():
        # Without a `try` here, which would cost as much as the conversion: the interpreter's error becomes ours.
        if PyErr_Occurred() and not PyErr_ExceptionMatches(OverflowError):
            PyErr_Clear()
            raise TypeError(f"a number is needed, not {number!r}")
        PyErr_Clear()
        raise OverflowError(UNFIT)
    return value


cdef struct Settled:
    uint32_t queue
    uint32_t reason
    uint64_t id


cdef int compare_settled(const void *left, const void *right) noexcept nogil:
    cdef const Settled *a = <const Settled *>left
    cdef const Settled *b = <const Settled *>right
    if a.queue != b.queue:
        return 1 if a.queue > b.queue else -1
    if a.reason != b.reason:
        return 1 if a.reason > b.reason else -1
    if a.id != b.id:
        return 1 if a.id > b.id else -1
    return 0


cdef class _Buffer:
    """Memory for one batch. A view of it keeps it alive and in its place: the writer never touches it meanwhile."""

    cdef uint8_t *data
    cdef uint64_t capacity
    cdef uint64_t length
    cdef Py_ssize_t views

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, <Py_ssize_t>self.length, 1, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.views -= 1

    cdef uint8_t *extend(self, uint64_t more) except NULL:
        """Room for `more` bytes at the end, which are counted in at once."""
        cdef uint64_t needed = self.length + more
        cdef uint64_t capacity = self.capacity
        cdef uint8_t *data
        if needed > capacity:
            if capacity < first_buffer:
                capacity = first_buffer
            while capacity < needed:
                capacity *= 2
            data = <uint8_t *>realloc(self.data, capacity)
            if data == NULL:
                raise MemoryError()
            self.data = data
            self.capacity = capacity
        data = self.data + self.length
        self.length = needed
        return data


cdef class BatchWriter:
    """One batch being filled.

    `size` is an upper bound of its bytes with the header and without the padding at its end: each settlement counts as
    a range, and as a record too where its queue or reason is not that of the one before. `records` is the number of
    records written so far. Numbers that do not fit their field are an OverflowError, and leave the batch as it was.
    """

    cdef _Buffer buffer
    cdef bytes store_id
    cdef Settled *settled
    cdef uint64_t settles
    cdef uint64_t settled_room
    cdef uint64_t settled_bytes
    cdef uint64_t written
    cdef uint32_t heads_crc
    cdef bint finished
    cdef readonly uint64_t records

    def __cinit__(self, store_id):
        if len(store_id) != 16:
            raise ValueError(f"a store id has 16 bytes, not {len(store_id)}")
        self.store_id = bytes(store_id)
        self.clear()

    def __dealloc__(self):
        free(self.settled)

    @property
    def size(self):
        """Bytes that the batch would have now, at most."""
        return self.written + self.settled_bytes

    @property
    def empty(self):
        """True while there is nothing to write."""
        return not self.records and not self.settles

    def put(self, message, refs):
        """Add a message that stands in each (queue, id) of `refs`; its body is stored once."""
        if self.finished:
            raise ValueError(FINISHED)
        cdef uint64_t count = <uint64_t>len(refs)
        if not count:
            raise ValueError("a message needs a reference")
        cdef bytes block = message.block
        cdef bytes body = message.body
        cdef uint64_t block_length = <uint64_t>PyBytes_GET_SIZE(block)
        cdef uint64_t body_length = <uint64_t>PyBytes_GET_SIZE(body)
        cdef uint64_t length = block_length + body_length
        if length > max_payload:
            raise ValueError(f"a payload of {length} bytes is over the format's limit of {MAX_PAYLOAD}")
        deliveries = message.deliveries
        cdef uint64_t times = 0xFFFF if deliveries > 0xFFFF else fit(deliveries, 0xFFFF)
        cdef uint64_t arrival_ms = fit(message.arrival_ms, 0xFFFFFFFFFFFFFFFFu)
        cdef uint64_t expires_ms = fit(message.expires_ms, 0xFFFFFFFFFFFFFFFFu)
        cdef uint64_t not_before_ms = fit(message.not_before_ms, 0xFFFFFFFFFFFFFFFFu)
        cdef uint64_t priority = fit(message.priority, 0xFF)
        cdef uint64_t version = fit(message.version, 0xFF)
        cdef bint plain = message.plain
        cdef uint64_t head_length = padded(message_head + 12 * count)
        cdef uint64_t payload_length = padded(length)
        cdef uint64_t before = self.buffer.length
        cdef uint8_t *head = self.buffer.extend(head_length + payload_length)
        cdef uint8_t *place = head + message_head
        # The references come first: they are the last thing that can fail, and then the room is given back.
        try:
            for queue, id in refs:
                # `refs` may be changed by nobody meanwhile: converting an int runs no code of others.
                store_u32(place, <uint32_t>fit(queue, 0xFFFFFFFFu))
                store_u64(place + 4, fit(id, 0xFFFFFFFFFFFFFFFFu))
                place += 12
        except BaseException:
            self.buffer.length = before
            raise
        cdef uint8_t *payload = head + head_length
        memset(place, 0, payload - place)
        memcpy(payload, PyBytes_AS_STRING(block), block_length)
        memcpy(payload + block_length, PyBytes_AS_STRING(body), body_length)
        memset(payload + length, 0, payload_length - length)
        head[4] = type_put
        head[5] = flag_plain if plain else 0
        store_u16(head + 6, 0)
        store_u32(head + 8, <uint32_t>head_length)
        store_u32(head + 12, <uint32_t>length)
        store_u32(head + 16, checksum(0, payload, length))
        store_u32(head + 20, <uint32_t>block_length)
        store_u64(head + 24, arrival_ms)
        store_u64(head + 32, expires_ms)
        store_u64(head + 40, not_before_ms)
        store_u16(head + 48, <uint32_t>times)
        head[50] = <uint8_t>priority
        head[51] = <uint8_t>version
        store_u32(head + 52, <uint32_t>count)
        self.seal(head, head_length)
        self.written += head_length + payload_length

    def settle(self, queue, id, reason):
        """Note that message `id` of `queue` is gone; written later, joined with its neighbours to ranges."""
        if self.finished:
            raise ValueError(FINISHED)
        cdef Settled entry
        cdef Settled *grown
        cdef uint64_t room
        entry.queue = <uint32_t>fit(queue, 0xFFFFFFFFu)
        entry.id = fit(id, 0xFFFFFFFFFFFFFFFFu)
        entry.reason = <uint32_t>fit(reason, 0xFF)
        if self.settles == self.settled_room:
            room = 2 * self.settled_room if self.settled_room else 64
            grown = <Settled *>realloc(self.settled, room * sizeof(Settled))
            if grown == NULL:
                raise MemoryError()
            self.settled = grown
            self.settled_room = room
        cdef Settled *place = self.settled + self.settles
        if not self.settles or place[-1].queue != entry.queue or place[-1].reason != entry.reason:
            self.settled_bytes += settled_head
        self.settled_bytes += range_bytes
        place[0] = entry
        self.settles += 1

    def flush_settled(self):
        """Write the settlements collected so far: a record for each queue and reason, in their order."""
        cdef uint64_t settles = self.settles
        cdef Settled *settled = self.settled
        cdef uint64_t at, begin, count
        cdef uint8_t *head
        cdef uint8_t *place
        if not settles:
            return
        for at in range(1, settles):
            if compare_settled(&settled[at - 1], &settled[at]) > 0:
                qsort(settled, settles, sizeof(Settled), compare_settled)
                break
        begin = 0
        while begin < settles:
            # Count the ranges of this queue and reason, then write them.
            count = 1
            at = begin + 1
            while at < settles and settled[at].queue == settled[begin].queue and (
                settled[at].reason == settled[begin].reason
            ):
                if settled[at].id - settled[at - 1].id > 1:
                    count += 1
                at += 1
            head = self.begin(
                type_settled, settled_head, range_bytes * count, count, settled[begin].queue, settled[begin].reason
            )
            place = head + settled_head
            store_u64(place, settled[begin].id)
            begin += 1
            while begin < at:
                if settled[begin].id - settled[begin - 1].id > 1:
                    store_u64(place + 8, settled[begin - 1].id)
                    place += range_bytes
                    store_u64(place, settled[begin].id)
                begin += 1
            store_u64(place + 8, settled[at - 1].id)
            self.end(head)
        self.settles = self.settled_bytes = 0

    def define(self, queue, str name):
        """Say that `queue` is called `name`."""
        self.check_open()
        cdef bytes encoded = name.encode()
        cdef uint8_t *head = self.begin(type_define, 32, len(encoded), 0, fit(queue, 0xFFFFFFFFu), 0)
        memcpy(head + 32, PyBytes_AS_STRING(encoded), <size_t>len(encoded))
        self.end(head)

    def drop(self, queue):
        """Say that `queue` and all in it is gone; what was settled before is written before."""
        self.check_open()
        self.flush_settled()
        self.end(self.begin(type_drop, 32, 0, 0, fit(queue, 0xFFFFFFFFu), 0))

    def next_queue(self, number):
        """Opening batch: the lowest queue number that was never used."""
        self.check_open()
        self.end(self.begin(type_next_queue, 32, 0, 0, fit(number, 0xFFFFFFFFu), 0))

    def state(self, queue, str name, next, floor, dead):
        """Opening batch: a whole queue. Dead are ids below `floor` and those in `dead`: (first, last), ascending.

        `dead` may be bytes: those of `QueueIndex.packed_dead_ranges`.
        """
        self.check_open()
        cdef bytes encoded = name.encode()
        cdef uint64_t name_length = <uint64_t>len(encoded)
        cdef uint64_t number = fit(queue, 0xFFFFFFFFu)
        cdef uint64_t next_id = fit(next, 0xFFFFFFFFFFFFFFFFu)
        cdef uint64_t floor_id = fit(floor, 0xFFFFFFFFFFFFFFFFu)
        cdef bytes ranges = dead if type(dead) is bytes else pack_ranges(dead)
        if len(ranges) % 16:
            raise ValueError(f"ranges have 16 bytes each, {len(ranges)} are there")
        cdef uint64_t range_bytes = <uint64_t>len(ranges)
        cdef uint8_t *head = self.begin(
            type_state, 48, padded(name_length) + range_bytes, range_bytes // 16, number, name_length
        )
        store_u64(head + 32, next_id)
        store_u64(head + 40, floor_id)
        memset(head + 48, 0, padded(name_length))
        memcpy(head + 48, PyBytes_AS_STRING(encoded), name_length)
        memcpy(head + 48 + padded(name_length), PyBytes_AS_STRING(ranges), range_bytes)
        self.end(head)

    def counts(self, queue, counts):
        """Opening batch: how often messages of `queue` were delivered, as (id, deliveries)."""
        self.check_open()
        cdef uint64_t number = fit(queue, 0xFFFFFFFFu)
        cdef bytes packed = pack_counts(counts)
        cdef uint64_t length = <uint64_t>len(packed)
        cdef uint8_t *head = self.begin(type_counts, 32, length, length // 16, number, 0)
        memcpy(head + 32, PyBytes_AS_STRING(packed), length)
        self.end(head)

    def segment(self, number, end):
        """Opening batch: an older segment that is still in the log, and the offset where its batches end."""
        self.check_open()
        cdef uint64_t end_offset = fit(end, 0xFFFFFFFFFFFFFFFFu)
        cdef uint8_t *head = self.begin(type_segment, 40, 0, 0, fit(number, 0xFFFFFFFFu), 0)
        store_u64(head + 32, end_offset)
        self.end(head)

    def finish(self, address, durable, opening=False):
        """Close the batch: all of it, for the disk at `address`. `durable`: everything below is known to be synced.

        The bytes stay valid until `clear`, which must come before the next record.
        """
        self.check_open()
        self.flush_settled()
        cdef uint64_t own = fit(address, 0xFFFFFFFFFFFFFFFFu)
        cdef uint64_t durable_address = fit(durable, 0xFFFFFFFFFFFFFFFFu)
        cdef uint64_t written = self.written
        cdef uint64_t length = (written + block_bytes - 1) & ~(<uint64_t>(block_bytes - 1))
        if length > 0xFFFFFFFFu:
            raise OverflowError(UNFIT)
        memset(self.buffer.extend(length - written), 0, length - written)
        cdef uint8_t *header = self.buffer.data
        memcpy(header, b"RdB1", 4)
        store_u64(header + 8, own)
        store_u64(header + 16, durable_address)
        store_u32(header + 24, <uint32_t>length)
        store_u32(header + 28, <uint32_t>self.records)
        store_u32(header + 32, self.heads_crc)
        store_u32(header + 36, flag_opening if opening else 0)
        memcpy(header + 40, PyBytes_AS_STRING(self.store_id), 16)
        store_u32(header + 56, <uint32_t>(written - header_bytes))
        store_u32(header + 60, 0)
        store_u32(header + 4, checksum(0, header + 8, header_bytes - 8))
        self.finished = True
        return PyMemoryView_FromObject(self.buffer)

    def clear(self):
        """Begin the next batch; the buffer of a large one is given back."""
        # A view that somebody still holds keeps the old buffer, and this writer takes another.
        if self.buffer is None or self.buffer.views or self.buffer.capacity > kept_buffer:
            self.buffer = _Buffer()
        self.buffer.length = 0
        self.buffer.extend(header_bytes)
        if self.settled_room * sizeof(Settled) > kept_buffer:
            free(self.settled)
            self.settled = NULL
            self.settled_room = 0
        self.settles = self.settled_bytes = 0
        self.written = header_bytes
        self.heads_crc = 0
        self.finished = False
        self.records = 0

    cdef int check_open(self) except -1:
        if self.finished:
            raise ValueError(FINISHED)
        return 0

    cdef uint8_t *begin(
        self, uint8_t kind, uint64_t head_length, uint64_t length, uint64_t count, uint64_t number, uint64_t field
    ) except NULL:
        """Room for any record but a message, with what their heads have in common; `end` follows at once."""
        if length > max_payload:
            raise ValueError(f"a payload of {length} bytes is over the format's limit of {MAX_PAYLOAD}")
        cdef uint8_t *head = self.buffer.extend(head_length + padded(length))
        head[4] = kind
        head[5] = 0
        store_u16(head + 6, 0)
        store_u32(head + 8, <uint32_t>head_length)
        store_u32(head + 12, <uint32_t>length)
        store_u32(head + 20, <uint32_t>count)
        store_u32(head + 24, <uint32_t>number)
        store_u32(head + 28, <uint32_t>field)
        return head

    cdef int end(self, uint8_t *head) except -1:
        """The payload is written: pad it, and take the checksums."""
        cdef uint64_t head_length = load_u32(head + 8)
        cdef uint64_t length = load_u32(head + 12)
        cdef uint8_t *payload = head + head_length
        memset(payload + length, 0, padded(length) - length)
        store_u32(head + 16, checksum(0, payload, length))
        self.seal(head, head_length)
        self.written += head_length + padded(length)
        return 0

    cdef void seal(self, uint8_t *head, uint64_t head_length) noexcept:
        store_u32(head, checksum(0, head + 4, head_length - 4))
        self.heads_crc = checksum(self.heads_crc, head, head_length)
        self.records += 1


cdef bytes pack_ranges(object ranges):
    cdef bytes packed = PyBytes_FromStringAndSize(NULL, 16 * <Py_ssize_t>len(ranges))
    cdef uint8_t *place = <uint8_t *>PyBytes_AS_STRING(packed)
    for first, last in ranges:
        store_u64(place, fit(first, 0xFFFFFFFFFFFFFFFFu))
        store_u64(place + 8, fit(last, 0xFFFFFFFFFFFFFFFFu))
        place += 16
    return packed


cdef bytes pack_counts(object counts):
    cdef bytes packed = PyBytes_FromStringAndSize(NULL, 16 * <Py_ssize_t>len(counts))
    cdef uint8_t *place = <uint8_t *>PyBytes_AS_STRING(packed)
    for id, deliveries in counts:
        store_u64(place, fit(id, 0xFFFFFFFFFFFFFFFFu))
        store_u32(place + 8, <uint32_t>fit(deliveries, 0xFFFFFFFFu))
        store_u32(place + 12, 0)
        place += 16
    return packed


cdef object corrupt(uint64_t address, str what):
    return CorruptRecord(f"segment {address >> 32} offset {address & 0xFFFFFFFFu}: {what}")


cdef struct Header:
    uint64_t address
    uint64_t durable
    uint64_t length
    uint64_t records
    uint64_t body
    uint32_t heads_crc
    uint32_t flags


cdef int read_header(const uint8_t *data, uint64_t size, uint64_t address, object store_id, Header *header) except -1:
    cdef bytes store = bytes(store_id)
    if size < header_bytes:
        raise corrupt(address, f"a batch header has 64 bytes, {size} are there")
    if memcmp(data, b"RdB1", 4) != 0:
        raise corrupt(address, "no batch begins here")
    if checksum(0, data + 8, header_bytes - 8) != load_u32(data + 4):
        raise corrupt(address, "the checksum of the batch header does not fit")
    header.address = load_u64(data + 8)
    header.durable = load_u64(data + 16)
    header.length = load_u32(data + 24)
    header.records = load_u32(data + 28)
    header.heads_crc = load_u32(data + 32)
    header.flags = load_u32(data + 36)
    header.body = load_u32(data + 56)
    if header.address != address:
        raise corrupt(
            address, f"this batch belongs to segment {header.address >> 32} offset {header.address & 0xFFFFFFFFu}"
        )
    if len(store) != 16 or memcmp(data + 40, PyBytes_AS_STRING(store), 16) != 0:
        raise corrupt(address, "this batch belongs to another store")
    if header.length % block_bytes or header.body % 8 or header.length < header_bytes + header.body:
        raise corrupt(address, f"a batch of {header.length} bytes cannot hold {header.body} bytes of records")
    return 0


def decode_batch_header(buffer, address, store_id):
    """The header of the batch that should stand at `address`, from its first 64 bytes.

    CorruptRecord where it is no header, or one of another place or another store.
    """
    cdef Py_buffer view
    cdef Header header
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        read_header(<const uint8_t *>view.buf, <uint64_t>view.len, address, store_id, &header)
    finally:
        PyBuffer_Release(&view)
    return BatchHeader(header.address, header.durable, header.length, header.records, header.body, header.flags)


def decode_batch(buffer, address, store_id, payloads, damaged=None):
    """Everything that the batch at `address` says, in its order; `buffer` begins there and holds all of it.

    Heads and the payloads read here are always verified, those of messages where `payloads` says so. Any doubt is a
    CorruptRecord, but for messages' payloads where `damaged` is given: their events are appended to it as well.
    `address` and `length` of a PUT are those of the whole record.

        (PUT, queue, id, address, length, deliveries, expires_ms, not_before_ms)   once for each reference
        (SETTLED, queue, reason, first, last)                                      once for each range
        (DEFINE, queue, name)   (DROP, queue)   (NEXT_QUEUE, number)   (SEGMENT, number, end)
        (STATE, queue, name, next, floor, [(first, last), …])   (COUNTS, queue, [(id, deliveries), …])
    """
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        return read_batch(<const uint8_t *>view.buf, <uint64_t>view.len, address, store_id, payloads, damaged, NULL)
    finally:
        PyBuffer_Release(&view)


def scan_batch(buffer, address, store_id, payloads, damaged=None):
    """As `decode_batch`, but plain messages come packed, for `QueueIndex.put_places`: recovery and commit live on it.

        (PLACES, queue, places)     24 bytes each: id u64, address u64, length u32, deliveries u16, zero u16

    Packed are intact messages of one reference without expiry and not-before. Those between two other events become one
    event for each queue, by its number; order within a queue is kept. Any other message is a PUT.
    """
    cdef Py_buffer view
    cdef Places places
    places.entries = NULL
    places.count = places.room = 0
    places.queues = False
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        return read_batch(<const uint8_t *>view.buf, <uint64_t>view.len, address, store_id, payloads, damaged, &places)
    finally:
        free(places.entries)
        PyBuffer_Release(&view)


cdef struct Place:
    uint64_t id
    uint64_t address
    uint32_t length
    uint32_t queue
    uint32_t deliveries
    uint32_t turn


cdef struct Places:
    # Messages that wait for their event; `queues` says that they are of more than one queue.
    Place *entries
    size_t count
    size_t room
    bint queues


cdef int compare_places(const void *left, const void *right) noexcept nogil:
    cdef const Place *a = <const Place *>left
    cdef const Place *b = <const Place *>right
    if a.queue != b.queue:
        return 1 if a.queue > b.queue else -1
    return 1 if a.turn > b.turn else -1


cdef int add_place(Places *places, const uint8_t *head, uint64_t address, uint64_t length) except -1:
    """The plain message whose verified head begins at `head` waits for its event."""
    cdef Place *place
    cdef size_t room
    if places.count == places.room:
        room = 2 * places.room if places.room else 64
        place = <Place *>realloc(places.entries, room * sizeof(Place))
        if place == NULL:
            raise MemoryError()
        places.entries = place
        places.room = room
    place = &places.entries[places.count]
    place.queue = load_u32(head + message_head)
    place.id = load_u64(head + message_head + 4)
    place.address = address
    place.length = <uint32_t>length
    place.deliveries = load_u16(head + 48)
    place.turn = <uint32_t>places.count
    if places.count and place.queue != places.entries[0].queue:
        places.queues = True
    places.count += 1
    return 0


cdef int join_places(list events, Places *places) except -1:
    """What was packed so far becomes events."""
    cdef size_t first = 0
    cdef size_t end, at
    cdef bytes packed
    cdef uint8_t *target
    if places.queues:
        qsort(places.entries, places.count, sizeof(Place), compare_places)
    while first < places.count:
        end = first
        while end < places.count and places.entries[end].queue == places.entries[first].queue:
            end += 1
        packed = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(place_bytes * (end - first)))
        target = <uint8_t *>PyBytes_AS_STRING(packed)
        for at in range(first, end):
            store_u64(target, places.entries[at].id)
            store_u64(target + 8, places.entries[at].address)
            store_u32(target + 16, places.entries[at].length)
            store_u32(target + 20, places.entries[at].deliveries)
            target += place_bytes
        events.append((PLACES, places.entries[first].queue, packed))
        first = end
    places.count = 0
    places.queues = False
    return 0


cdef list read_batch(
    const uint8_t *data,
    uint64_t size,
    uint64_t address,
    object store_id,
    bint payloads,
    list damaged,
    Places *places,
):
    """The events of a batch; plain messages are packed where `places` is given."""
    cdef Header header
    cdef list events = []
    cdef const uint8_t *head
    cdef uint64_t position = header_bytes
    cdef uint64_t end, head_length, payload, payload_length, place, count, at
    cdef uint32_t kind, number
    cdef uint32_t heads_crc = 0
    cdef bint intact
    read_header(data, size, address, store_id, &header)
    if size < header.length:
        raise corrupt(address, f"a batch of {header.length} bytes, {size} are there")
    end = header_bytes + header.body
    for _ in range(header.records):
        place = address + position
        # Padding after the last payload may lead past the end, never past the buffer: body is a multiple of 8.
        if end < position + 24:
            raise corrupt(place, "the batch ends before its last record")
        head = data + position
        kind = head[4]
        head_length = load_u32(head + 8)
        payload_length = load_u32(head + 12)
        number = load_u32(head + 20)
        payload = position + head_length
        if head_length < 24 or head_length & 7 or payload > end:
            raise corrupt(place, f"a record head cannot have {head_length} bytes")
        if payload_length > max_payload or payload_length > end - payload:
            raise corrupt(place, f"a payload cannot have {payload_length} bytes")
        if checksum(0, head + 4, head_length - 4) != load_u32(head):
            raise corrupt(place, "the checksum of the record head does not fit")
        heads_crc = checksum(heads_crc, head, head_length)
        position = payload + padded(payload_length)
        intact = True
        if payloads or kind != type_put:
            intact = checksum(0, data + payload, payload_length) == load_u32(head + 16)
            if not intact and (kind != type_put or damaged is None):
                raise corrupt(place, "the checksum of the payload does not fit")
        if kind == type_put:
            if head_length < message_head or number > payload_length:
                raise corrupt(place, "the lengths in the message do not fit")
            count = load_u32(head + 52)
            if not count or head_length != padded(message_head + 12 * count):
                raise corrupt(place, f"a head of {head_length} bytes cannot hold {count} references")
            if places != NULL and count == 1 and intact and not load_u64(head + 32) and not load_u64(head + 40):
                add_place(places, head, place, position + address - place)
                continue
            if places != NULL:
                join_places(events, places)
            for at in range(count):
                event = (
                    PUT,
                    load_u32(head + message_head + 12 * at),
                    load_u64(head + message_head + 12 * at + 4),
                    place,
                    position + address - place,
                    load_u16(head + 48),
                    load_u64(head + 32),
                    load_u64(head + 40),
                )
                events.append(event)
                if not intact:
                    damaged.append(event)
        else:
            if places != NULL and not kind & may_skip:
                join_places(events, places)
            read_other(events, kind, head, head_length, number, data + payload, payload_length, place)
    if position != end:
        raise corrupt(address, f"the records end at byte {position}, not {end}")
    if heads_crc != header.heads_crc:
        raise corrupt(address, "the checksum over the record heads does not fit")
    if places != NULL:
        join_places(events, places)
    return events


cdef int read_other(
    list events,
    uint32_t kind,
    const uint8_t *head,
    uint64_t head_length,
    uint64_t count,
    const uint8_t *payload,
    uint64_t length,
    uint64_t place,
) except -1:
    """Append the events of a record that is no message; `count` is the number at byte 20."""
    cdef uint64_t expected = 32
    cdef uint64_t subject, field, next, floor, at
    if kind == type_state:
        expected = 48
    elif kind == type_segment:
        expected = 40
    elif kind not in (type_settled, type_define, type_drop, type_next_queue, type_counts):
        if not kind & may_skip:
            raise corrupt(place, f"records of type {kind} are unknown to this version")
        return 0
    if head_length != expected:
        raise corrupt(place, f"a record of type {kind} cannot have a head of {head_length} bytes")
    subject = load_u32(head + 24)
    field = load_u32(head + 28)
    if kind == type_settled:
        ranges = read_ranges(payload, length, count, 0, 0xFFFFFFFFFFFFFFFFu, place)
        for first, last in ranges:
            events.append((SETTLED, subject, field & 0xFF, first, last))
    elif kind == type_define:
        events.append((DEFINE, subject, read_name(payload, length, place)))
    elif kind == type_drop:
        events.append((DROP, subject))
    elif kind == type_next_queue:
        events.append((NEXT_QUEUE, subject))
    elif kind == type_segment:
        events.append((SEGMENT, subject, load_u64(head + 32)))
    elif kind == type_counts:
        if length != 16 * count:
            raise corrupt(place, f"a payload of {length} bytes cannot hold {count} counts")
        counts = [(load_u64(payload + 16 * at), load_u32(payload + 16 * at + 8)) for at in range(count)]
        events.append((COUNTS, subject, counts))
    else:
        next = load_u64(head + 32)
        floor = load_u64(head + 40)
        if floor > next:
            raise corrupt(place, f"the floor {floor} is over the next id {next}")
        if field > length or padded(field) > length:
            raise corrupt(place, f"a name of {field} bytes cannot be in a payload of {length}")
        name = read_name(payload, field, place)
        at = padded(field)
        if count and floor == next:
            # Nothing is below `next`, and read_ranges takes the highest id that may stand there.
            raise empty_ranges(payload + at, length - at, count, place)
        ranges = read_ranges(payload + at, length - at, count, floor, next - 1 if count else 0, place)
        events.append((STATE, subject, name, next, floor, ranges))
    return 0


cdef object empty_ranges(const uint8_t *payload, uint64_t length, uint64_t count, uint64_t place):
    """The error for ranges where there is room for none."""
    if length != 16 * count:
        return corrupt(place, f"a payload of {length} bytes cannot hold {count} ranges")
    return corrupt(place, f"the range {load_u64(payload)} to {load_u64(payload + 8)} is out of order")


cdef list read_ranges(
    const uint8_t *payload, uint64_t length, uint64_t count, uint64_t low, uint64_t high, uint64_t place
):
    """`count` ranges (first, last), which must ascend from `low` on and not pass `high`."""
    cdef list ranges = []
    cdef uint64_t at, first, last
    cdef bint full = False
    if length != 16 * count:
        raise corrupt(place, f"a payload of {length} bytes cannot hold {count} ranges")
    for at in range(count):
        first = load_u64(payload + 16 * at)
        last = load_u64(payload + 16 * at + 8)
        if full or first < low or last < first or last > high:
            raise corrupt(place, f"the range {first} to {last} is out of order")
        full = last == 0xFFFFFFFFFFFFFFFFu
        low = last + 1
        ranges.append((first, last))
    return ranges


cdef str read_name(const uint8_t *payload, uint64_t length, uint64_t place):
    try:
        return (<const char *>payload)[:length].decode("utf-8")
    except UnicodeDecodeError as error:
        raise corrupt(place, "the name of the queue is not UTF-8") from error


def decode_message(buffer, Py_ssize_t offset=0):
    """The message whose record begins at byte `offset` of `buffer`, and the record's length with its padding.

    Head and payload are verified; CorruptRecord where that fails.
    """
    cdef Py_buffer view
    cdef const uint8_t *head
    cdef uint64_t size, head_length, payload_length, block_length
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        size = <uint64_t>view.len
        read_message_head(<const uint8_t *>view.buf, size, offset)
        head = <const uint8_t *>view.buf + offset
        head_length = load_u32(head + 8)
        payload_length = load_u32(head + 12)
        block_length = load_u32(head + 20)
        if payload_length > max_payload or payload_length > size - <uint64_t>offset - head_length:
            raise CorruptRecord(f"byte {offset}: a payload cannot have {payload_length} bytes")
        if block_length > payload_length:
            raise CorruptRecord(f"byte {offset}: the lengths in the message do not fit")
        if checksum(0, head + head_length, payload_length) != load_u32(head + 16):
            raise CorruptRecord(f"byte {offset}: the checksum of the payload does not fit")
        message = Message(
            head[51],
            head[5] & flag_plain != 0,
            PyBytes_FromStringAndSize(<const char *>head + head_length, <Py_ssize_t>block_length),
            PyBytes_FromStringAndSize(
                <const char *>head + head_length + block_length, <Py_ssize_t>(payload_length - block_length)
            ),
            load_u64(head + 24),
            load_u64(head + 32),
            load_u64(head + 40),
            head[50],
            load_u16(head + 48),
        )
        return message, head_length + padded(payload_length)
    finally:
        PyBuffer_Release(&view)


def decode_references(buffer, Py_ssize_t offset=0):
    """Every (queue, id) of the message whose record begins at byte `offset`; verifies the head, needs no payload."""
    cdef Py_buffer view
    cdef const uint8_t *place
    cdef uint64_t at
    cdef list references = []
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        read_message_head(<const uint8_t *>view.buf, <uint64_t>view.len, offset)
        place = <const uint8_t *>view.buf + offset
        for at in range(load_u32(place + 52)):
            references.append((load_u32(place + message_head + 12 * at), load_u64(place + message_head + 12 * at + 4)))
    finally:
        PyBuffer_Release(&view)
    return references


cdef int read_message_head(const uint8_t *data, uint64_t size, Py_ssize_t offset) except -1:
    """Verify the head of the message at `offset`; its payload is not looked at."""
    cdef const uint8_t *head
    cdef uint64_t head_length, count, left
    if offset < 0 or <uint64_t>offset > size or size - <uint64_t>offset < message_head:
        raise CorruptRecord(f"byte {offset}: no message begins here")
    left = size - <uint64_t>offset
    head = data + offset
    if head[4] != type_put:
        raise CorruptRecord(f"byte {offset}: no message begins here")
    head_length = load_u32(head + 8)
    if head_length < message_head or head_length & 7 or head_length > left:
        raise CorruptRecord(f"byte {offset}: a record head cannot have {head_length} bytes")
    if checksum(0, head + 4, head_length - 4) != load_u32(head):
        raise CorruptRecord(f"byte {offset}: the checksum of the record head does not fit")
    count = load_u32(head + 52)
    if not count or head_length != padded(message_head + 12 * count):
        raise CorruptRecord(f"byte {offset}: a head of {head_length} bytes cannot hold {count} references")
    return 0


def encode_segment_header(store_id, number, created_ms, capacity):
    """The first 4096 bytes of segment `number`; `capacity` is the size in bytes that the file was made for."""
    if len(store_id) != 16:
        raise ValueError(f"a store id has 16 bytes, not {len(store_id)}")
    cdef bytes store = bytes(store_id)
    cdef uint8_t[block_bytes] block
    memset(block, 0, block_bytes)
    memcpy(block, b"RADLOG1\0", 8)
    store_u16(block + 8, format_version)
    store_u16(block + 10, checksum_crc32)
    memcpy(block + 16, PyBytes_AS_STRING(store), 16)
    store_u32(block + 32, <uint32_t>fit(number, 0xFFFFFFFFu))
    store_u64(block + 40, fit(created_ms, 0xFFFFFFFFFFFFFFFFu))
    store_u64(block + 48, fit(capacity, 0xFFFFFFFFFFFFFFFFu))
    store_u32(block + block_bytes - 4, checksum(0, block, block_bytes - 4))
    return PyBytes_FromStringAndSize(<const char *>block, block_bytes)


def decode_segment_header(buffer):
    """What a segment's first 4096 bytes say; CorruptRecord where they are no header that this version can read."""
    cdef Py_buffer view
    cdef const uint8_t *block
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        block = <const uint8_t *>view.buf
        if view.len < block_bytes:
            raise CorruptRecord(f"a segment header has 4096 bytes, {view.len} are there")
        if memcmp(block, b"RADLOG1\0", 8) != 0:
            raise CorruptRecord("no segment begins here")
        if checksum(0, block, block_bytes - 4) != load_u32(block + block_bytes - 4):
            raise CorruptRecord("the checksum of the segment header does not fit")
        if load_u16(block + 8) != format_version:
            raise CorruptRecord(
                f"the segment has format version {load_u16(block + 8)}, this radiator reads {FORMAT_VERSION}"
            )
        if load_u16(block + 10) != checksum_crc32:
            raise CorruptRecord(
                f"the segment uses checksum {load_u16(block + 10)}, which is unknown to this version"
            )
        return SegmentHeader(
            PyBytes_FromStringAndSize(<const char *>block + 16, 16),
            load_u32(block + 32),
            load_u64(block + 40),
            load_u64(block + 48),
            load_u16(block + 8),
        )
    finally:
        PyBuffer_Release(&view)
