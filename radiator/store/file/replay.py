"""The reading of a log that may be broken, for a survey: what `recovery` does with one that is whole.

It must never stop at damage, and never believe a byte without its checksum. Where the rules of `recovery` refuse, it
says so and goes on: with the next batch that verifies in its own place, and with the single records of one that does
not. Called by: `survey`.

    base     the newest segment whose opening batch verifies: its state is where the reading begins
    older    those that it lists, up to their stated ends: searched for what is alive
    later    the base and every segment after it: replayed in order, up to the tail that was never synced
    a gap    where something of the replayed part cannot be read: the index that a clean stop saved says what was lost
             there; else nobody knows what a queue got behind it, unless a later id of that queue was found
    at last  every id between a queue's floor and its next id is dead or located, or it is gone
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from radiator.errors import CorruptRecord
from radiator.store.base import Progress, Reason
from radiator.store.file.cache import load_index
from radiator.store.file.ledger import Ledger
from radiator.store.file.record import (
    COUNTS,
    DEFINE,
    DROP,
    HEADER_BYTES,
    NEXT_QUEUE,
    OPENING,
    PUT,
    SEGMENT,
    SETTLED,
    STATE,
)
from radiator.store.file.recovery import HOLE
from radiator.store.file.salvage import Batch
from radiator.store.file.segment import OPENING_OFFSET
from radiator.store.file.views import QueueView, Range, SegmentView, Survey, joined

__all__ = ["Replay"]


class Replay:
    """The reading of all segments, once."""

    def __init__(self, found: Survey, deep: bool, progress: Progress) -> None:
        self.found = found
        self.deep = deep
        self.progress = progress
        self.done = 0
        self.total = sum(segment.file.size for segment in found.segments.values())
        self.suspects: list[tuple[int, int, int]] = []  # queue, id, address of messages with a damaged payload
        self.last = -1  # the address of the record that was put last
        self.gaps = False
        self.opening_lost = False
        self.next_at_gap: dict[int, int] = {}  # the next id of each queue at the last place where ids may be lost
        self.jumped: dict[int, int] = {}  # where a queue's ids jumped as after an unclean end
        self.ahead: dict[int, dict[int, tuple[int, int, int]]] = {}  # by queue and id: places in the segment being read
        self.first_unknown = 1  # queues below this are in the base's opening batch, or were dropped before

    def run(self) -> None:
        found = self.found
        openings = self._choose_base()
        if openings is not None:
            for event in openings.events:
                self._apply_state(event)
            self.first_unknown = found.next_queue
        base = found.base if found.base is not None else 0
        for number in sorted(found.segments):
            if number < base:
                self._locate(found.segments[number])
        for number in sorted(found.segments):
            if number >= base:
                self._replay(found.segments[number], opening=openings if number == base else None)
        mark = found.watermark
        if found.newest:
            self._cut(found.segments[found.newest])
        newer = found.strangers if mark is None else [mark.address >> 32]
        if found.newest < max([*newer, *found.unopened], default=0):
            self._gap()  # a newer one is gone
        saved = self._saved() if found.uncertain else None
        if saved is not None:
            self._recall(saved)
        elif found.uncertain:
            self._unknown_ends()
        self._suspects()
        self._missing()
        self._account()
        self.progress("reading the log", self.total, self.total)

    def _choose_base(self) -> Batch | None:
        """The newest opening batch that verifies; those that do not are findings."""
        found = self.found
        for number in sorted(found.segments, reverse=True):
            segment = found.segments[number]
            try:
                batch = segment.file.batch(OPENING_OFFSET, payloads=True)
                if not batch.flags & OPENING:
                    raise CorruptRecord(f"segment {number} offset {OPENING_OFFSET}: this is no opening batch")
            except CorruptRecord as error:
                segment.broken = True
                self.opening_lost = True
                what = f"the opening batch is damaged: {error}"
                found.find("opening", segment.file.path, what, segment=number, offset=OPENING_OFFSET)
                continue
            found.base = number
            return batch
        self.gaps = True
        return None

    def _apply_state(self, event: tuple[Any, ...]) -> None:
        """What an opening batch says."""
        found = self.found
        kind = event[0]
        if kind == NEXT_QUEUE:
            found.next_queue = event[1]
        elif kind == STATE:
            _, number, name, next, floor, dead = event
            queue = found.queues[number] = QueueView(number, name, floor, next)
            for first, last in dead:
                queue.index.kill(first, last)
        elif kind == COUNTS:
            if event[1] in found.queues:
                found.queues[event[1]].counts = dict(event[2])
        elif kind == SEGMENT:
            found.stated[event[1]] = event[2]

    def _locate(self, segment: SegmentView) -> None:
        """Find the messages of an older segment that are alive."""
        found = self.found
        end = found.stated.get(segment.number)
        if end is None:
            if segment.file.path != found.names.segment(segment.number):
                return  # by the name it has, recovery does look at it
            # Recovery does not look into it: nothing in it counts, damage neither.
            segment.broken = False
            found.findings = [
                finding._replace(damage=False) if finding.segment == segment.number else finding
                for finding in found.findings
            ]
            what = "it is no part of the log any more, and was left behind"
            found.find("unlisted", segment.file.path, what, damage=False, segment=segment.number)
            return
        segment.role = "older"
        segment.end = end
        for batch in self._batches(segment, OPENING_OFFSET, end, self.deep):
            for event in self._without_copies(segment, batch):
                if event[0] == PUT:
                    _, number, id, address, length, deliveries, _, _ = event
                    queue = found.queues.get(number)
                    if queue is not None and id < queue.index.next:
                        self._put(queue, id, address, length, queue.counts.get(id, deliveries))
                elif event[0] == SETTLED:
                    self._note_aside(event)

    def _replay(self, segment: SegmentView, opening: Batch | None) -> None:
        """Apply what the base and later segments say, up to the tail that was never synced."""
        found = self.found
        newest = segment.number == found.newest
        segment.role = "newest" if newest else "replayed"
        if self.opening_lost and opening is None:
            self._gap()  # nothing says where its predecessor ended
        start = OPENING_OFFSET
        if opening is not None:
            start = opening.offset + opening.length
            found.batches += 1
        segment.durable = max(start, segment.file.durable())
        mark = found.watermark
        if mark is not None and mark.address >> 32 == segment.number:
            segment.durable = max(segment.durable, mark.address & 0xFFFFFFFF)
        segment.end = start
        if opening is None:
            self._look_ahead(segment)
        for batch in self._batches(segment, start, None, True):
            segment.end = batch.offset + batch.length
            if batch.flags & OPENING and opening is None:
                continue  # a later segment whose own opening was not good enough to begin with
            alone = found.base is None and len(found.segments) == 1 and batch.offset == OPENING_OFFSET
            for event in self._without_copies(segment, batch):
                if alone and event[0] in (NEXT_QUEUE, STATE, COUNTS, SEGMENT):
                    self._apply_state(event)  # what is left of the only opening batch that there is
                else:
                    self._apply(event)

    def _batches(self, segment: SegmentView, offset: int, end: int | None, payloads: bool) -> Iterator[Batch]:
        """Every batch from `offset` to `end` (None: to the unsynced tail); damage is noted, and gone around."""
        found, file = self.found, segment.file
        begun = self.done
        while offset < (file.size if end is None else end):
            try:
                batch = file.batch(offset, payloads=payloads)
                if end is not None and offset + batch.length > end:
                    raise CorruptRecord(f"the batch ends behind the segment's end at offset {end}")
                if end is None and batch.damaged and offset + batch.length > segment.durable:
                    raise CorruptRecord("the checksum of a payload does not fit")
            except CorruptRecord as error:
                limit = segment.durable if end is None else end
                if offset >= limit:
                    self._tail(segment, offset, str(error))
                    break
                if end is not None or offset != OPENING_OFFSET:  # else it was said when the base was chosen
                    what = f"{error}; everything up to offset {limit} was synced"
                    found.find("batch", file.path, what, segment=segment.number, offset=offset)
                segment.broken = True
                self.gaps = True
                batch = file.salvage(offset, file.size if end is None else end)
            found.batches += 1
            yield batch
            if not batch.whole and end is None:
                self._gap()
            offset = batch.offset + batch.length
            self.done = begun + offset
            self.progress("reading the log", self.done, self.total)
        else:
            if end is None and offset < segment.durable:
                what = f"the file ends there, but everything up to offset {segment.durable} was synced"
                found.find("batch", file.path, what, segment=segment.number, offset=offset)
                segment.broken = True
                self.gaps = True
                self._gap()
        self.done = begun + file.size

    def _gap(self) -> None:
        """Here stood something of the replayed part that cannot be read: sends, acknowledgements, new queues."""
        self.found.uncertain = True
        self.next_at_gap = {number: queue.index.next for number, queue in self.found.queues.items()}

    def _without_copies(self, segment: SegmentView, batch: Batch) -> list[tuple[Any, ...]]:
        """The batch's events without the damaged copies of messages that are whole elsewhere."""
        events = batch.events
        for event in batch.damaged:
            _, number, id, address, *_ = event
            queue = self.found.queues.get(number)
            if queue is None or queue.index.get(id) is None:
                self.suspects.append((number, id, address))
                continue
            events.remove(event)
            segment.broken = True
            self.found.find(
                "copy",
                segment.file.path,
                "a copy of a message is damaged; another one is whole",
                segment=segment.number,
                offset=address & 0xFFFFFFFF,
                queue=queue.name,
                number=number,
                ids=((id, id),),
            )
        return events

    def _tail(self, segment: SegmentView, offset: int, why: str) -> None:
        """What follows was never synced: zeros, or a batch whose receipts never left."""
        try:
            rest = segment.file.get(offset, HEADER_BYTES)
        except CorruptRecord:
            rest = memoryview(b"")
        if any(rest):
            what = f"an unsynced tail begins here and does not count: {why}"
            # Only the newest segment has one; of another one nobody can tell any more where it ended.
            damage = segment.role != "newest"
            if damage:
                self._gap()
            self.found.find("tail", segment.file.path, what, damage=damage, segment=segment.number, offset=offset)

    def _cut(self, segment: SegmentView) -> None:
        """A file is made in its whole size, and cut to its end by a clean stop or a snapshot; else from outside."""
        mark = self.found.watermark
        if segment.file.size >= segment.capacity or (
            mark is not None and mark.address == segment.number << 32 | segment.end
        ):
            return
        what = (
            f"the file has {segment.file.size} bytes and was made for {segment.capacity}, and no clean stop cut it: if "
            "something else did, what stood behind its end is lost, and nothing here can say whether it was synced"
        )
        self.found.find("cut", segment.file.path, what, damage=False, segment=segment.number, offset=segment.end)

    def _put(self, queue: QueueView, id: int, address: int, length: int, deliveries: int) -> None:
        queue.index.put(id, address, length, deliveries)
        if address == self.last:
            self.found.shared.add(address)
        self.last = address

    def _apply(self, event: tuple[Any, ...]) -> None:
        """One event of a replayed batch, as `Ledger.apply` would take it."""
        found = self.found
        kind = event[0]
        if kind == PUT:
            _, number, id, address, length, deliveries, _, _ = event
            queue = found.queues.get(number) or self._unknown(number)
            if queue is not None:
                if self.opening_lost and id - queue.index.next >= HOLE:
                    self._jump(queue)  # the opening batch that is lost had said so
                self._put(queue, id, address, length, deliveries)
        elif kind == SETTLED:
            self._note_aside(event)
            queue = found.queues.get(event[1])
            if queue is not None:
                queue.index.kill(event[3], event[4])
        elif kind == DEFINE:
            _, number, name = event
            if number not in found.queues:
                found.queues[number] = QueueView(number, name)
            found.queues[number].name = name
            found.queues[number].name_lost = False
            found.next_queue = max(found.next_queue, number + 1)
        elif kind == DROP:
            found.queues.pop(event[1], None)
            found.dropped.add(event[1])

    def _unknown(self, number: int) -> QueueView | None:
        """A queue whose definition stood in something that is lost; None where it was dropped."""
        found = self.found
        if not self.gaps or number in found.dropped or number < self.first_unknown:
            return None
        queue = found.queues[number] = QueueView(number, f"/queue/recovered-{number}")
        queue.name_lost = True
        found.next_queue = max(found.next_queue, number + 1)
        what = "its definition is lost, and its name with it"
        found.find("queue", found.names.log, what, queue=queue.name, number=number)
        return queue

    def _jump(self, queue: QueueView) -> None:
        """Ids were skipped as after an unclean end. Those that copies further on in this segment have were not."""
        index, first = queue.index, queue.index.next
        for id, place in sorted(self.ahead.get(queue.number, {}).items()):
            if first <= id < first + HOLE:
                index.skip(id)
                index.put(id, *place)
        self.jumped.setdefault(queue.number, index.next)
        index.skip(first + HOLE)

    def _look_ahead(self, segment: SegmentView) -> None:
        """Note the places of all messages in a segment whose opening batch is lost."""
        self.ahead = {}
        offset = OPENING_OFFSET
        while offset < segment.file.size:
            try:
                batch = segment.file.batch(offset, payloads=False)
            except CorruptRecord:
                if offset >= segment.durable:
                    break
                batch = segment.file.salvage(offset, segment.file.size)
            for event in batch.events:
                if event[0] == PUT:
                    _, number, id, address, length, deliveries, _, _ = event
                    self.ahead.setdefault(number, {})[id] = (address, length, deliveries)
            offset += batch.length

    def _unknown_ends(self) -> None:
        """Where nothing that was read behind the last gap says how far a queue had come."""
        found = self.found
        for number, queue in sorted(found.queues.items()):
            if number in self.jumped:
                found.unknown.append((queue, self.jumped[number]))
            elif self.next_at_gap.get(number) == queue.index.next:
                found.unknown.append((queue, queue.index.next))

    def _saved(self) -> Ledger | None:
        """The index as the last clean stop saved it, where that stop is the end of this log."""
        found = self.found
        mark = found.watermark
        if mark is None or not mark.clean or mark.address >> 32 < found.newest:
            return None

        def report(event: str, **fields: Any) -> None:
            """A saved index that cannot be used is no damage."""

        loaded = load_index(found.fsio, found.names, found.store_id, mark, report)
        return None if loaded is None else loaded[0]

    def _recall(self, saved: Ledger) -> None:
        """Let the saved index say what was alive: so what is lost behind a gap has its ids, and the settled stay so."""
        found = self.found
        found.uncertain = False
        found.next_queue = max(found.next_queue, saved.next_queue)
        found.findings = [finding for finding in found.findings if finding.kind != "queue"]
        found.queues = {number: found.queues[number] for number in found.queues if number in saved.queues}
        for number, known in sorted(saved.queues.items()):
            queue = found.queues.setdefault(number, QueueView(number, known.name))
            queue.name, queue.name_lost = known.name, False
            index, end = queue.index, known.index.next
            if index.next < end:  # the ids up to there are missing then, and those that were dead are made so
                index.put(end, 0, 0)
                index.kill(end, end)
            for first, last in ((1, known.index.floor - 1), *known.index.dead_ranges()):
                index.kill(first, last)

    def _note_aside(self, event: tuple[Any, ...]) -> None:
        if event[2] == Reason.DAMAGED and event[1] in self.found.queues:
            aside = self.found.queues[event[1]].aside
            if (event[3], event[4]) not in aside:
                aside.append((event[3], event[4]))

    def _suspects(self) -> None:
        """Messages with a damaged payload: a loss where they are alive and this is the copy that counts."""
        found = self.found
        for number, id, address in self.suspects:
            queue = found.queues.get(number)
            place = queue.index.get(id) if queue is not None else None
            if queue is None or place is None or place[1] != address:
                continue
            segment = found.segments[address >> 32]
            segment.broken = True
            found.damaged.append((queue, id, address))
            found.find(
                "message",
                segment.file.path,
                "the message is damaged and will not be delivered",
                segment=segment.number,
                offset=address & 0xFFFFFFFF,
                queue=queue.name,
                number=queue.number,
                ids=((id, id),),
            )

    def _missing(self) -> None:
        """Ids that are neither dead nor located. They are dead from here on, so that each is found once."""
        found = self.found
        absent = [number for number in sorted(found.stated) if number not in found.segments]
        for queue in found.queues.values():
            if queue.name_lost:
                # Nothing says where its ids begin.
                first = next((id for id, _, _ in queue.places()), 1)
                queue.index.kill(1, first - 1)
            ranges: list[Range] = []
            while ids := queue.index.missing(1 << 20):
                for first, last in joined(ids):
                    queue.index.kill(first, last)
                    if ranges and ranges[-1][1] == first - 1:
                        ranges[-1] = (ranges[-1][0], last)
                    else:
                        ranges.append((first, last))
            if not ranges:
                continue
            found.missing.append((queue, ranges))
            count = sum(last - first + 1 for first, last in ranges)
            what = f"{count} messages that were never acknowledged are in no segment"
            if absent:
                what += f"; segments listed and not there: {', '.join(map(str, absent[:8]))}"
            found.find("missing", found.names.log, what, queue=queue.name, number=queue.number, ids=tuple(ranges))

    def _account(self) -> None:
        """Count what lives where; a record with several references has its bytes once."""
        found = self.found
        seen: set[int] = set()
        shared = found.shared
        for queue in found.queues.values():
            for _, address, length in queue.places():
                segment = found.segments[address >> 32]
                segment.live += 1
                if address in shared:
                    if address in seen:
                        continue
                    seen.add(address)
                segment.live_bytes += length
