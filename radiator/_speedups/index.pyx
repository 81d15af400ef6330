# cython: language_level=3
"""The index of one queue: the compiled twin of `radiator.store.file.index_pure`.

Names, signatures, errors and results are the pure twin's, which is the specification; it is never imported here. A
slot has 16 bytes; chunks of up to 4096 stand in a sorted table, each with a window of slots that grows with use.

Over 500 lines, since a twin is one module, and this one a single data structure.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

cdef extern from "sys/mman.h":
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset) noexcept
    int munmap(void *address, size_t length) noexcept
    void *MAP_FAILED
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS

CHUNK = 4096
READY = 1
IN_FLIGHT = 2

cdef enum:
    chunk_ids = 4096
    first_window = 64
    most_deliveries = 0xFFFF
    missing_id = 0
    ready_id = 1
    in_flight_id = 2
    dead_id = 3
    live_id = 1
    place_bytes = 24
    piece_head = 16
    piece_slot = 15

cdef object UNFIT = "a number does not fit its field"
cdef object UNFIT_PIECE = "a piece of an index does not fit where it is"


cdef struct Slot:
    uint64_t address
    uint32_t length
    uint16_t deliveries
    uint8_t state
    uint8_t spare


cdef struct Chunk:
    # The slots of the ids from `start` on, `used` of them, of the 4096 ids that begin at `base`. `open` counts those
    # of the 4096 that are not dead; a slot may be missing although its id is dead (in `gone`, or below the floor).
    # `live` counts the slots of live messages; while `counted` is not set, none of them was delivered before.
    uint64_t base
    uint64_t start
    Slot *slots
    uint32_t used
    uint32_t room
    uint32_t open
    uint32_t live
    bint counted


cdef struct Span:
    uint64_t first
    uint64_t last


cdef struct Lost:
    uint64_t address
    uint32_t length


# Little-endian numbers, byte by byte; the compiler makes single moves of them where the machine is little-endian.

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


cdef inline bint is_live(const Slot *slot) noexcept:
    return slot.state == ready_id or slot.state == in_flight_id


cdef void *grown(void *memory, size_t *room, size_t needed, size_t size) except NULL:
    """`memory` with room for `needed` entries of `size` bytes; a table is never freed by growing."""
    cdef size_t more = room[0]
    if memory != NULL and needed <= more:
        return memory
    if more < 8:
        more = 8
    while more < needed:
        more *= 2
    memory = realloc(memory, more * size)
    if memory == NULL:
        raise MemoryError()
    room[0] = more
    return memory


cdef Slot *whole_window() except NULL:
    """Room for all slots of a chunk: pages of its own, so that a queue that drains gives them back to the system."""
    cdef void *memory = mmap(
        NULL, chunk_ids * sizeof(Slot), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0
    )
    if memory == MAP_FAILED:
        raise MemoryError()
    return <Slot *>memory


cdef void free_slots(Chunk *chunk) noexcept:
    if chunk.room == chunk_ids:
        munmap(chunk.slots, chunk_ids * sizeof(Slot))
    else:
        free(chunk.slots)


cdef class QueueIndex:
    """The messages of one queue, by id from 1 on.

    `ready` and `in_flight` count messages in these states. Ids are below 2**64 - 1, addresses below 2**64, lengths
    below 2**32.
    """

    cdef readonly uint64_t floor
    cdef readonly uint64_t next
    cdef readonly uint64_t ready
    cdef readonly uint64_t in_flight
    # Chunks by ascending base. Each is a block of its own: pointers to it stay good when the table moves.
    cdef Chunk **chunks
    cdef size_t chunk_count
    cdef size_t chunk_room
    # Every ready id is at or above the cursor, or in the side list. That may hold ids that have died since.
    cdef uint64_t cursor
    cdef uint64_t *released
    cdef size_t released_count
    cdef size_t released_room
    # Spans of dead ids, ascending and apart; they may overlap slots that are dead by themselves.
    cdef Span *gone
    cdef size_t gone_count
    cdef size_t gone_room

    def __init__(self, floor=1, next=1):
        if not 1 <= floor <= next:
            raise ValueError(f"the floor {floor} must be at least 1, and at most the next id {next}")
        if self.next:
            raise ValueError("an index begins once")
        self.floor = floor
        self.next = next
        self.cursor = floor

    def __dealloc__(self):
        self.empty()

    @property
    def live(self):
        """Messages that are ready or in flight."""
        return self.ready + self.in_flight

    def put(self, id, address, length, deliveries=0):
        """Locate message `id`: its record is at `address` and has `length` bytes.

        Returns whether this place is now the message's, and the address of the copy that lost (0 for none). A dead id
        stays dead, so the given copy loses. Of two live copies the higher address wins; the state stays, the higher
        delivery count too. An `id` past the end makes those between missing.
        """
        cdef uint64_t number, place
        cdef uint32_t size
        cdef uint16_t times
        try:
            number = id
            place = address
            size = length
            times = most_deliveries if deliveries > most_deliveries else deliveries
        except OverflowError:
            raise OverflowError(UNFIT) from None
        cdef Lost lost
        if number == 0xFFFFFFFFFFFFFFFFu:
            raise OverflowError(UNFIT)
        accepted = self.locate(number, place, size, times, &lost)
        return accepted != 0, lost.address

    def put_places(self, places, bint grow=True):
        """Locate many messages: `put` for each place of `scan_batch`. Without `grow`, ids past the end are ignored.

        Returns how many places are now the messages', the sum of their lengths, and (address, length) of every copy
        that one of them replaced. Hot: recovery and commit bring every message here.
        """
        cdef const uint8_t[::1] view = places
        cdef const uint8_t *place
        cdef uint64_t count = 0
        cdef uint64_t size = 0
        cdef uint64_t id
        cdef Py_ssize_t at
        cdef Lost lost
        cdef list replaced = []
        if view.shape[0] % place_bytes:
            raise ValueError(f"places have 24 bytes each, {view.shape[0]} are there")
        for at in range(0, view.shape[0], place_bytes):
            place = &view[at]
            id = load_u64(place)
            if id >= self.next and not grow:
                continue
            if id == 0xFFFFFFFFFFFFFFFFu:
                raise OverflowError(UNFIT)
            if self.locate(id, load_u64(place + 8), load_u32(place + 16), load_u16(place + 20), &lost):
                count += 1
                size += load_u32(place + 16)
                if lost.address:
                    replaced.append((lost.address, lost.length))
        return count, size, replaced

    cdef int locate(
        self, uint64_t id, uint64_t address, uint32_t length, uint16_t deliveries, Lost *lost
    ) except -1:
        """What `put` does; whether the place is now the message's. `lost` is the copy that is none any more."""
        cdef Chunk *chunk
        cdef Slot *slot
        lost.address = address
        lost.length = length
        if id < self.floor:
            return 0
        chunk = self.find(id)
        if id < self.next:
            # An id below the window gives a huge difference.
            slot = NULL
            if chunk != NULL and id - chunk.start < chunk.used:
                slot = &chunk.slots[id - chunk.start]
            if slot != NULL and is_live(slot):
                if address <= slot.address:
                    if address == slot.address:
                        lost.address = 0
                    return 0
                lost.address = slot.address
                lost.length = slot.length
                slot.address = address
                slot.length = length
                if deliveries > slot.deliveries:
                    slot.deliveries = deliveries
                    chunk.counted = True
                return 1
            if self.state_of(id) == dead_id:
                return 0
        lost.address = 0
        if chunk == NULL:
            chunk = self.new_chunk(id)
        slot = self.reach(chunk, id)
        if id < self.cursor:
            self.insert_released(id)
        if id >= self.next:
            self.next = id + 1
        slot.address = address
        slot.length = length
        slot.deliveries = deliveries
        slot.state = ready_id
        if deliveries:
            chunk.counted = True
        chunk.live += 1
        self.ready += 1
        return 1

    def skip(self, uint64_t next):
        """Raise `next`; the ids passed over are dead. A lower `next` changes nothing."""
        cdef uint64_t old = self.next
        if next <= old:
            return
        self.next = next
        self.kill(old, next - 1)

    def kill(self, uint64_t first, uint64_t last):
        """Make the ids from `first` to `last` dead, as far as they are below `next`.

        Returns (address, length) of those that were live, by id.
        """
        cdef list taken = []
        cdef uint64_t begin, end
        if first < self.floor:
            first = self.floor
        if last >= self.next:
            last = self.next - 1
        if first > last:
            return taken
        if last - first >= chunk_ids:
            self.kill_wide(first, last, taken)
        else:
            begin = first
            while True:
                end = begin | (chunk_ids - 1)
                if end > last:
                    end = last
                self.kill_in_chunk(begin, end, taken)
                if end == last:
                    break
                begin = end + 1
        if first == self.floor:
            self.rise()
        return taken

    def settle(self, uint64_t id):
        """Make `id` dead: the (address, length) where it was live, else None."""
        cdef Slot *slot = self.live_slot(id)
        cdef Chunk *chunk
        if slot == NULL:
            self.kill(id, id)
            return None
        place = (slot.address, slot.length)
        if slot.state == ready_id:
            self.ready -= 1
        else:
            self.in_flight -= 1
        slot.state = dead_id
        chunk = self.find(id)
        chunk.live -= 1
        chunk.open -= 1
        if not chunk.open:
            self.close(chunk)
        if id == self.floor:
            self.rise()
        return place

    def claim(self, int64_t limit, int64_t max_bytes):
        """Take up to `limit` ready messages in the order of their ids: (id, address, length, deliveries).

        Stops before the sum of their lengths passes `max_bytes`; one message always fits.
        """
        cdef list claimed = []
        cdef Slot *slot
        cdef uint64_t id = 0
        while limit > 0 and self.ready:
            slot = self.first_ready(&id)
            if slot == NULL or (claimed and <int64_t>slot.length > max_bytes):
                break
            claimed.append((id, slot.address, slot.length, slot.deliveries))
            max_bytes -= slot.length
            limit -= 1
            slot.state = in_flight_id
            self.ready -= 1
            self.in_flight += 1
            if id < self.cursor:
                self.drop_released(1)
            else:
                self.cursor = id + 1
        return claimed

    def unclaim(self, ids):
        """Put messages back that nobody saw: `release` without raising the delivery count."""
        return self.release(ids, False)

    def release(self, ids, bint delivered):
        """Put messages that are in flight back at their old places; how many were. `delivered` raises their counts."""
        cdef uint64_t id
        cdef uint64_t count = 0
        cdef Slot *slot
        for id in ids:
            slot = self.live_slot(id)
            if slot == NULL or slot.state != in_flight_id:
                continue
            if id < self.cursor:
                self.insert_released(id)
            slot.state = ready_id
            if delivered and slot.deliveries < most_deliveries:
                slot.deliveries += 1
                self.find(id).counted = True
            self.ready += 1
            self.in_flight -= 1
            count += 1
        return count

    def get(self, uint64_t id):
        """(state, address, length, deliveries) of a live message, state being READY or IN_FLIGHT."""
        cdef Slot *slot = self.live_slot(id)
        if slot == NULL:
            return None
        return slot.state, slot.address, slot.length, slot.deliveries

    def move(self, uint64_t id, uint64_t old_address, uint64_t new_address):
        """Say that the live message `id` was copied; False, and no change, where it is not at `old_address`."""
        cdef Slot *slot = self.live_slot(id)
        if slot == NULL or slot.address != old_address:
            return False
        slot.address = new_address
        return True

    def dead_ranges(self):
        """The dead ids between `floor` and `next` as (first, last): ascending, apart, never touching."""
        cdef list found = []
        cdef uint64_t id = self.floor
        cdef uint64_t first = 0
        cdef uint64_t last = 0
        cdef bint inside = False
        while id < self.next:
            if self.stretch(id, &last) == dead_id:
                if not inside:
                    inside = True
                    first = id
            elif inside:
                inside = False
                found.append((first, id - 1))
            if last >= self.next - 1:
                break
            id = last + 1
        if inside:
            found.append((first, self.next - 1))
        return found

    def packed_dead_ranges(self):
        """`dead_ranges` for `BatchWriter.state`: first u64, last u64 of each. A million holes take milliseconds."""
        cdef uint8_t *packed = NULL
        cdef size_t room = 0
        cdef size_t count = 0
        cdef size_t at
        cdef uint64_t id = self.floor
        cdef uint64_t first = 0
        cdef uint64_t last = 0
        cdef uint64_t offset
        cdef Chunk *chunk
        cdef bint inside = False
        cdef bint dead
        try:
            while id < self.next:
                # A chunk gives a span for every second of its ids at most.
                packed = <uint8_t *>grown(packed, &room, count + chunk_ids // 2 + 1, sizeof(Span))
                at = self.position(id)
                chunk = self.chunks[at] if at < self.chunk_count else NULL
                if chunk == NULL or id - chunk.start >= chunk.used or (
                    chunk.slots[id - chunk.start].state == missing_id
                ):
                    dead = self.stretch(id, &last) == dead_id
                    if dead != inside:
                        inside = dead
                        if dead:
                            first = id
                        else:
                            store_u64(packed + 16 * count, first)
                            store_u64(packed + 16 * count + 8, id - 1)
                            count += 1
                    if last >= self.next - 1:
                        break
                    id = last + 1
                    continue
                offset = id - chunk.start
                while offset < chunk.used and chunk.slots[offset].state != missing_id:
                    dead = chunk.slots[offset].state == dead_id
                    if dead != inside:
                        inside = dead
                        if dead:
                            first = chunk.start + offset
                        else:
                            store_u64(packed + 16 * count, first)
                            store_u64(packed + 16 * count + 8, chunk.start + offset - 1)
                            count += 1
                    offset += 1
                id = chunk.start + offset
            if inside:
                packed = <uint8_t *>grown(packed, &room, count + 1, sizeof(Span))
                store_u64(packed + 16 * count, first)
                store_u64(packed + 16 * count + 8, self.next - 1)
                count += 1
            return PyBytes_FromStringAndSize(<const char *>packed, <Py_ssize_t>(16 * count))
        finally:
            free(packed)

    def missing(self, int64_t limit):
        """Up to `limit` ids between `floor` and `next` that are neither dead nor located: none in a whole store."""
        cdef list found = []
        cdef uint64_t id = self.floor
        cdef uint64_t last = 0
        cdef int state
        while id < self.next:
            state = self.stretch(id, &last)
            if last > self.next - 1:
                last = self.next - 1
            if state == missing_id:
                while id <= last:
                    if <int64_t>len(found) >= limit:
                        return found
                    found.append(id)
                    id += 1
            id = last + 1
        return found

    def counts(self):
        """(id, deliveries) of the live messages that were delivered before, by id."""
        cdef list found = []
        cdef size_t at
        cdef uint32_t offset
        cdef Chunk *chunk
        for at in range(self.chunk_count):
            chunk = self.chunks[at]
            if not chunk.counted:
                continue
            for offset in range(chunk.used):
                if chunk.slots[offset].deliveries and is_live(&chunk.slots[offset]):
                    found.append((chunk.start + offset, chunk.slots[offset].deliveries))
        return found

    def recount(self, counts):
        """Raise delivery counts to the given ones, as (id, deliveries); ids that are not live are ignored."""
        cdef uint64_t id
        cdef uint64_t most
        cdef Slot *slot
        for id, deliveries in counts:
            slot = self.live_slot(id)
            most = most_deliveries if deliveries > most_deliveries else deliveries
            if slot != NULL and most > slot.deliveries:
                slot.deliveries = <uint16_t>most
                self.find(id).counted = True

    def dump(self, uint64_t first=0):
        """One piece of what `load` takes: the first chunk with a live message of an id from `first` on.

        Returns the piece and where to go on; b"" where there is none. What is in flight is written as ready. No id may
        be missing.

            first u64 | count u32 | zero u32 | count x: address u64 | length u32 | deliveries u16 | state u8

        Each of the last four is a column of its own. It begins and ends with a live id; state is 1 (live) or 3 (dead),
        the other columns of a dead id are zero. Every id that stands in no piece is dead.
        """
        cdef size_t at
        cdef uint64_t low, high
        cdef uint64_t begin
        cdef Chunk *chunk
        for at in range(self.position(first), self.chunk_count):
            chunk = self.chunks[at]
            begin = first - chunk.start if first > chunk.start else 0
            if not chunk.live or begin >= chunk.used:
                continue
            low = begin
            while low < chunk.used and not is_live(&chunk.slots[low]):
                low += 1
            if low == chunk.used:
                continue
            high = chunk.used
            while not is_live(&chunk.slots[high - 1]):
                high -= 1
            return dump_slots(chunk, low, high), chunk.start + high
        return b"", self.next

    def load(self, pieces):
        """Be what `dump` wrote piece by piece: all of them in their order, into an index that has only floor and next.

        ValueError where one does not fit; the index is of no use then.
        """
        cdef const uint8_t[::1] piece
        cdef uint64_t expected = self.floor
        if self.chunk_count or self.gone_count:
            raise ValueError(UNFIT_PIECE)
        for piece in pieces:
            expected = self.load_piece(piece, expected)
        if expected < self.next:
            if expected == self.floor:
                raise ValueError(UNFIT_PIECE)
            self.add_gone(expected, self.next - 1)

    cdef uint64_t load_piece(self, const uint8_t[::1] piece, uint64_t expected) except 0:
        """The piece is the next one, no id in it is below `expected`; the id behind it."""
        cdef const uint8_t *addresses
        cdef const uint8_t *lengths
        cdef const uint8_t *deliveries
        cdef const uint8_t *states
        cdef uint64_t first, count, at, room
        cdef Chunk *chunk
        cdef Slot *slot
        if piece.shape[0] < piece_head:
            raise ValueError(UNFIT_PIECE)
        first = load_u64(&piece[0])
        count = load_u32(&piece[8])
        if (
            not 0 < count <= chunk_ids
            or <uint64_t>piece.shape[0] != piece_head + piece_slot * count
            or first < expected
            or first >= self.next
            or count > self.next - first
            or first // chunk_ids != (first + count - 1) // chunk_ids
            or (expected == self.floor and first > expected)
            or (self.chunk_count and self.chunks[self.chunk_count - 1].base == (first & ~(<uint64_t>(chunk_ids - 1))))
        ):
            raise ValueError(UNFIT_PIECE)
        addresses = &piece[piece_head]
        lengths = addresses + 8 * count
        deliveries = lengths + 4 * count
        states = deliveries + 2 * count
        if states[0] != live_id or states[count - 1] != live_id:
            raise ValueError(UNFIT_PIECE)
        chunk = self.new_chunk(first)
        self.reach(chunk, first + count - 1)
        for at in range(count):
            slot = &chunk.slots[at]
            slot.address = load_u64(addresses + 8 * at)
            slot.length = load_u32(lengths + 4 * at)
            slot.deliveries = load_u16(deliveries + 2 * at)
            if states[at] == live_id:
                slot.state = ready_id
                chunk.live += 1
                chunk.counted = chunk.counted or slot.deliveries
            elif states[at] == dead_id:
                slot.state = dead_id
            else:
                raise ValueError(UNFIT_PIECE)
        self.ready += chunk.live
        chunk.open = chunk.live
        # Ids that were never used are open too: they are at the end of the last chunk.
        room = self.next - chunk.base
        if room < chunk_ids:
            chunk.open += <uint32_t>(chunk_ids - room)
        if first > expected:
            self.add_gone(expected, first - 1)
        return first + count

    def addresses(self, uint64_t first=0, limit=None):
        """(id, address, length) of live messages from id `first` on, by id; at most `limit`."""
        cdef list found = []
        cdef int64_t most = 0x7FFFFFFFFFFFFFFF if limit is None else limit
        cdef size_t at
        cdef uint64_t offset
        cdef Chunk *chunk
        cdef Slot *slot
        for at in range(self.position(first), self.chunk_count):
            chunk = self.chunks[at]
            offset = first - chunk.start if first > chunk.start else 0
            while offset < chunk.used:
                slot = &chunk.slots[offset]
                if is_live(slot):
                    if <int64_t>len(found) >= most:
                        return found
                    found.append((chunk.start + offset, slot.address, slot.length))
                offset += 1
        return found

    cdef size_t position(self, uint64_t id) noexcept:
        """Where the chunk of `id` stands in the table, or would."""
        cdef size_t low = 0
        cdef size_t high = self.chunk_count
        cdef size_t middle
        cdef uint64_t base = id & ~(<uint64_t>(chunk_ids - 1))
        while low < high:
            middle = (low + high) // 2
            if self.chunks[middle].base < base:
                low = middle + 1
            else:
                high = middle
        return low

    cdef Chunk *find(self, uint64_t id) noexcept:
        """The chunk of `id`, or NULL. Nearly all work is at a queue's two ends."""
        cdef uint64_t base = id & ~(<uint64_t>(chunk_ids - 1))
        cdef size_t at
        if not self.chunk_count:
            return NULL
        if self.chunks[0].base == base:
            return self.chunks[0]
        if self.chunks[self.chunk_count - 1].base == base:
            return self.chunks[self.chunk_count - 1]
        at = self.position(id)
        if at < self.chunk_count and self.chunks[at].base == base:
            return self.chunks[at]
        return NULL

    cdef Slot *live_slot(self, uint64_t id) noexcept:
        cdef Chunk *chunk = self.find(id)
        # An id below the window gives a huge difference.
        if chunk == NULL or id - chunk.start >= chunk.used or not is_live(&chunk.slots[id - chunk.start]):
            return NULL
        return &chunk.slots[id - chunk.start]

    cdef size_t gone_from(self, uint64_t id) noexcept:
        """The first span of `gone` that ends at `id` or later."""
        cdef size_t low = 0
        cdef size_t high = self.gone_count
        cdef size_t middle
        while low < high:
            middle = (low + high) // 2
            if self.gone[middle].last < id:
                low = middle + 1
            else:
                high = middle
        return low

    cdef int state_of(self, uint64_t id) noexcept:
        """The state of an id that is not below the floor."""
        cdef Chunk *chunk = self.find(id)
        cdef size_t at
        if chunk != NULL and id - chunk.start < chunk.used and chunk.slots[id - chunk.start].state != missing_id:
            return chunk.slots[id - chunk.start].state
        at = self.gone_from(id)
        return dead_id if at < self.gone_count and self.gone[at].first <= id else missing_id

    cdef int stretch(self, uint64_t id, uint64_t *last) noexcept:
        """Missing, dead or live (as ready): what `id` is, and at least all up to `last` with it.

        Not below the floor; past `next` ids count as missing.
        """
        cdef size_t at = self.position(id)
        cdef Chunk *chunk
        cdef uint64_t offset
        cdef int state
        cdef bint live
        last[0] = 0xFFFFFFFFFFFFFFFFu
        if at < self.chunk_count:
            chunk = self.chunks[at]
            if chunk.base > id:
                last[0] = chunk.base - 1
            elif id < chunk.start:
                last[0] = chunk.start - 1
            else:
                offset = id - chunk.start
                if offset < chunk.used and chunk.live == chunk.used:
                    last[0] = chunk.start + chunk.used - 1
                    return ready_id
                if offset < chunk.used:
                    state = chunk.slots[offset].state
                    last[0] = id
                    if state != missing_id:
                        live = state != dead_id
                        offset += 1
                        while offset < chunk.used and chunk.slots[offset].state != missing_id and (
                            live == (chunk.slots[offset].state != dead_id)
                        ):
                            last[0] += 1
                            offset += 1
                        return ready_id if live else dead_id
                else:
                    last[0] = chunk.base + (chunk_ids - 1)
        at = self.gone_from(id)
        if at == self.gone_count:
            return missing_id
        if self.gone[at].first > id:
            if self.gone[at].first - 1 < last[0]:
                last[0] = self.gone[at].first - 1
            return missing_id
        if self.gone[at].last < last[0]:
            last[0] = self.gone[at].last
        return dead_id

    cdef Slot *first_ready(self, uint64_t *id) noexcept:
        """The lowest ready id and its slot: released ones are below the cursor, so they come first."""
        cdef size_t stale = 0
        cdef size_t at
        cdef uint64_t offset
        cdef Chunk *chunk
        cdef Slot *slot = NULL
        while stale < self.released_count:
            id[0] = self.released[stale]
            slot = self.live_slot(id[0])
            if slot != NULL:
                break
            stale += 1
        if stale:
            self.drop_released(stale)
        if slot != NULL:
            return slot
        for at in range(self.position(self.cursor), self.chunk_count):
            chunk = self.chunks[at]
            offset = self.cursor - chunk.start if self.cursor > chunk.start else 0
            while offset < chunk.used:
                if chunk.slots[offset].state == ready_id:
                    id[0] = chunk.start + offset
                    # What was passed over is not looked at again.
                    self.cursor = id[0]
                    return &chunk.slots[offset]
                offset += 1
        return NULL

    cdef Chunk *new_chunk(self, uint64_t id) except NULL:
        cdef size_t at = self.position(id)
        cdef Chunk *chunk
        self.chunks = <Chunk **>grown(self.chunks, &self.chunk_room, self.chunk_count + 1, sizeof(Chunk *))
        chunk = <Chunk *>malloc(sizeof(Chunk))
        if chunk == NULL:
            raise MemoryError()
        memset(chunk, 0, sizeof(Chunk))
        chunk.base = id & ~(<uint64_t>(chunk_ids - 1))
        chunk.start = id
        memmove(self.chunks + at + 1, self.chunks + at, (self.chunk_count - at) * sizeof(Chunk *))
        self.chunks[at] = chunk
        self.chunk_count += 1
        self.count_open(chunk)
        return chunk

    cdef Slot *reach(self, Chunk *chunk, uint64_t id) except NULL:
        """The slot of `id`, after growing the chunk's window over it."""
        cdef uint64_t needed, more, room
        cdef Slot *slots
        if id < chunk.start:
            # Downwards in steps, since each one moves all.
            more = (chunk.start - id + first_window - 1) & ~(<uint64_t>(first_window - 1))
            if more > chunk.start - chunk.base:
                more = chunk.start - chunk.base
        else:
            more = 0
        needed = chunk.used + more
        if id - chunk.start + 1 > needed and id >= chunk.start:
            needed = id - chunk.start + 1
        if needed > chunk.room:
            room = chunk.room if chunk.room else first_window
            while room < needed:
                room *= 4
            if room > chunk_ids:
                room = chunk_ids
            if room == chunk_ids:
                slots = whole_window()
                if chunk.used:
                    memcpy(slots, chunk.slots, chunk.used * sizeof(Slot))
                free(chunk.slots)
            else:
                slots = <Slot *>realloc(chunk.slots, room * sizeof(Slot))
                if slots == NULL:
                    raise MemoryError()
            chunk.slots = slots
            chunk.room = <uint32_t>room
        if more:
            memmove(chunk.slots + more, chunk.slots, chunk.used * sizeof(Slot))
            memset(chunk.slots, 0, more * sizeof(Slot))
            chunk.start -= more
            chunk.used += <uint32_t>more
        elif needed > chunk.used:
            memset(chunk.slots + chunk.used, 0, (needed - chunk.used) * sizeof(Slot))
            chunk.used = <uint32_t>needed
        return &chunk.slots[id - chunk.start]

    cdef void count_open(self, Chunk *chunk) noexcept:
        """Count the chunk's ids that are not dead anew."""
        cdef uint64_t end = chunk.base + (chunk_ids - 1)
        cdef uint64_t id = chunk.base if chunk.base > self.floor else self.floor
        cdef uint64_t last = 0
        cdef int state
        chunk.open = 0
        while id <= end:
            state = self.stretch(id, &last)
            if last > end:
                last = end
            if state != dead_id:
                chunk.open += <uint32_t>(last - id + 1)
            if last == end:
                break
            id = last + 1

    cdef int kill_in_chunk(self, uint64_t first, uint64_t last, list taken) except -1:
        """Mark some ids of one chunk dead, each in its slot."""
        cdef Chunk *chunk = self.find(first)
        cdef uint64_t id
        cdef uint64_t until = 0
        if chunk == NULL:
            if self.stretch(first, &until) == dead_id and until >= last:
                return 0
            chunk = self.new_chunk(first)
        for id in range(first, last + 1):
            if self.state_of(id) != dead_id:
                self.take(chunk, self.reach(chunk, id), taken)
                chunk.open -= 1
        if not chunk.open:
            self.close(chunk)
        return 0

    cdef int kill_wide(self, uint64_t first, uint64_t last, list taken) except -1:
        """Make more ids dead than a chunk has: whole chunks go, the span stands for all of them."""
        cdef size_t at = self.position(first)
        cdef size_t kept = at
        cdef size_t edge = at
        cdef uint64_t offset
        cdef Chunk *chunk
        cdef Chunk *edges[2]
        cdef int edge_count = 0
        self.add_gone(first, last)
        while at < self.chunk_count and self.chunks[at].base <= last:
            chunk = self.chunks[at]
            offset = first - chunk.start if first > chunk.start else 0
            while offset < chunk.used and chunk.start + offset <= last:
                if is_live(&chunk.slots[offset]):
                    self.take(chunk, &chunk.slots[offset], taken)
                offset += 1
            if first <= chunk.base and chunk.base + (chunk_ids - 1) <= last:
                free_slots(chunk)
                free(chunk)
            else:
                self.chunks[kept] = chunk
                kept += 1
                edges[edge_count] = chunk
                edge_count += 1
            at += 1
        if kept < at:
            memmove(self.chunks + kept, self.chunks + at, (self.chunk_count - at) * sizeof(Chunk *))
            self.chunk_count -= at - kept
        for edge in range(<size_t>edge_count):
            self.count_open(edges[edge])
            if not edges[edge].open:
                self.close(edges[edge])
        return 0

    cdef int take(self, Chunk *chunk, Slot *slot, list taken) except -1:
        """Mark one slot dead; where it was live, its place goes to `taken`."""
        if is_live(slot):
            taken.append((slot.address, slot.length))
            chunk.live -= 1
            if slot.state == ready_id:
                self.ready -= 1
            else:
                self.in_flight -= 1
        slot.state = dead_id
        return 0

    cdef int close(self, Chunk *chunk) except -1:
        """Free a chunk whose ids are all dead."""
        cdef size_t at = self.position(chunk.base)
        self.add_gone(chunk.base, chunk.base + (chunk_ids - 1))
        free_slots(chunk)
        free(chunk)
        self.chunk_count -= 1
        memmove(self.chunks + at, self.chunks + at + 1, (self.chunk_count - at) * sizeof(Chunk *))
        return 0

    cdef int add_gone(self, uint64_t first, uint64_t last) except -1:
        """Join a span of dead ids with those it overlaps or touches."""
        cdef size_t low, high
        self.gone = <Span *>grown(self.gone, &self.gone_room, self.gone_count + 1, sizeof(Span))
        # The first chunk begins with id 0, which is dead from the beginning.
        low = self.gone_from(first - 1 if first else 0)
        high = low
        while high < self.gone_count and self.gone[high].first <= last + 1:
            high += 1
        if low < high:
            if self.gone[low].first < first:
                first = self.gone[low].first
            if self.gone[high - 1].last > last:
                last = self.gone[high - 1].last
        memmove(self.gone + low + 1, self.gone + high, (self.gone_count - high) * sizeof(Span))
        self.gone_count = self.gone_count - (high - low) + 1
        self.gone[low].first = first
        self.gone[low].last = last
        return 0

    cdef int rise(self) except -1:
        """Raise the floor over dead ids. A queue in which nothing is left gives back all its memory."""
        cdef uint64_t floor = self.floor
        cdef uint64_t last = 0
        cdef size_t passed
        # One id is asked for first: the stretch of what is not dead can be long, and is of no interest here.
        while floor < self.next and self.state_of(floor) == dead_id:
            self.stretch(floor, &last)
            floor = last + 1
        self.floor = floor
        if self.cursor < floor:
            self.cursor = floor
        if floor == self.next:
            self.empty()
            return 0
        passed = self.gone_from(floor)
        if passed:
            self.gone_count -= passed
            memmove(self.gone, self.gone + passed, self.gone_count * sizeof(Span))
        return 0

    cdef void empty(self) noexcept:
        cdef size_t at
        for at in range(self.chunk_count):
            free_slots(self.chunks[at])
            free(self.chunks[at])
        free(self.chunks)
        free(self.gone)
        free(self.released)
        self.chunks = NULL
        self.gone = NULL
        self.released = NULL
        self.chunk_count = self.chunk_room = 0
        self.gone_count = self.gone_room = 0
        self.released_count = self.released_room = 0

    cdef int insert_released(self, uint64_t id) except -1:
        """Keep `id` in the side list, which is sorted; most come in order, at its end."""
        cdef size_t low = 0
        cdef size_t high = self.released_count
        cdef size_t middle
        self.released = <uint64_t *>grown(
            self.released, &self.released_room, self.released_count + 1, sizeof(uint64_t)
        )
        if high and self.released[high - 1] < id:
            low = high
        while low < high:
            middle = (low + high) // 2
            if self.released[middle] < id:
                low = middle + 1
            else:
                high = middle
        memmove(self.released + low + 1, self.released + low, (self.released_count - low) * sizeof(uint64_t))
        self.released[low] = id
        self.released_count += 1
        return 0

    cdef void drop_released(self, size_t count) noexcept:
        self.released_count -= count
        memmove(self.released, self.released + count, self.released_count * sizeof(uint64_t))
        if not self.released_count:
            free(self.released)
            self.released = NULL
            self.released_room = 0


cdef bytes dump_slots(const Chunk *chunk, uint64_t low, uint64_t high):
    """The slots from `low` to before `high` as a piece."""
    cdef uint64_t count = high - low
    cdef bytes piece = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(piece_head + piece_slot * count))
    cdef uint8_t *addresses = <uint8_t *>PyBytes_AS_STRING(piece) + piece_head
    cdef uint8_t *lengths = addresses + 8 * count
    cdef uint8_t *deliveries = lengths + 4 * count
    cdef uint8_t *states = deliveries + 2 * count
    cdef const Slot *slot
    cdef uint64_t at
    cdef bint live
    store_u64(addresses - piece_head, chunk.start + low)
    store_u32(addresses - 8, <uint32_t>count)
    store_u32(addresses - 4, 0)
    for at in range(count):
        slot = &chunk.slots[low + at]
        live = is_live(slot)
        store_u64(addresses + 8 * at, slot.address if live else 0)
        store_u32(lengths + 4 * at, slot.length if live else 0)
        deliveries[2 * at] = slot.deliveries & 0xFF if live else 0
        deliveries[2 * at + 1] = slot.deliveries >> 8 if live else 0
        states[at] = live_id if live else dead_id
    return piece
