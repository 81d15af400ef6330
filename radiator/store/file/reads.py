"""Delivery reads: claimed messages come from the page cache, or from a job that reads what is cold.

It must never block the loop, and never hand out a byte whose checksum it did not verify. A short or refused read that
must not block says "cold"; only a read that may block can say "damaged", and only where the device or the file says so:
what the system had no memory or no descriptor for is read again later. Called by: `engine` (claim, read, tick).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from radiator.errors import CorruptRecord
from radiator.message import Delivery, Message
from radiator.store.file.damage import DAMAGE_ERRORS
from radiator.store.file.fsio import Fsio
from radiator.store.file.ledger import FileQueue, Ledger
from radiator.store.file.record import decode_message
from radiator.store.file.recovery import Report
from radiator.store.file.syncer import JobRunner

__all__ = ["Reads"]

_GROUP_BYTES = 256 << 10
"""What one read fetches at most, unless a single message is larger."""
_GAP_BYTES = 16 << 10
"""Reading over a gap of this size is cheaper than another call."""
_WARM_QUEUES = 64
"""How many queues may hold what a cold read brought; the oldest is dropped."""

Bytes = bytes | bytearray | memoryview


class Reads:
    """The reads of one store. `set_aside(queue, id, address, why)` is called for a claimed message that is damaged.

    `retry` is to be called about once a second; `report` tells an operator of reads that it has to try again.
    """

    __slots__ = ("_failing", "_fsio", "_jobs", "_later", "_ledger", "_report", "_set_aside", "_warm")

    def __init__(
        self,
        fsio: Fsio,
        jobs: JobRunner,
        ledger: Ledger,
        set_aside: Callable[[FileQueue, int, int, str], None],
        report: Report = lambda event, **fields: None,
    ) -> None:
        self._fsio = fsio
        self._jobs = jobs
        self._ledger = ledger
        self._set_aside = set_aside
        self._report = report
        self._warm: dict[FileQueue, None] = {}
        self._later: dict[FileQueue, None] = {}  # somebody waits for their on_ready, and nothing else brings it
        self._failing = 0  # the errno that was reported, until a read succeeds

    def claim(self, queue: FileQueue, count: int, max_bytes: int) -> list[Delivery]:
        """Take ready messages in order, as `Store.claim` says. Hot."""
        deliveries: list[Delivery] = []
        if queue.reading:
            return deliveries  # the first one is on its way from the disk
        taken = queue.index.claim(count, max_bytes)
        total = len(taken)
        position = 0
        while position < total:
            _, start, length, _ = taken[position]
            end = start + length
            limit = start + _GROUP_BYTES
            if queue.warm is not None and start >= queue.warm[0]:
                limit = queue.warm[0] + len(queue.warm[1])  # where this holds nothing of it, one message is a group
            behind = position + 1
            while behind < total:
                _, address, length, _ = taken[behind]
                if not end <= address <= end + _GAP_BYTES or address + length > limit:
                    break
                end = address + length
                behind += 1
            data = self._bytes(queue, start, end - start)
            if data is None:
                queue.index.unclaim([entry[0] for entry in taken[position:]])
                self._fetch(queue, start, taken[position][2], end - start)
                break
            for id, address, _, earlier in taken[position:behind]:
                try:
                    message, _ = decode_message(data, address - start)
                except CorruptRecord as error:
                    self._set_aside(queue, id, address, str(error))
                else:
                    deliveries.append(Delivery(queue, id, earlier, message))
            position = behind
        if total and not deliveries and not queue.reading:
            self._later[queue] = None  # all damaged: what is behind must not wait for notes that a full disk refuses
        return deliveries

    def retry(self) -> None:
        """Let the queues be claimed again whose reads ended with nothing; a turn later is soon enough."""
        later, self._later = self._later, {}
        for queue in later:
            if not queue.dropped:
                queue.on_ready()

    def read(self, queue: FileQueue, id: int) -> Message | None:
        """The message `id` once more, as `Store.read` says. CorruptRecord where it is damaged or gone."""
        place = queue.index.get(id)
        if place is None:
            raise CorruptRecord(f"message {queue.number}-{id} is gone")
        if queue.reading:
            return None
        _, address, length, _ = place
        data = self._bytes(queue, address, length)
        if data is None:
            self._fetch(queue, address, length, length)
            return None
        try:
            return decode_message(data)[0]
        except CorruptRecord as error:
            self._set_aside(queue, id, address, str(error))
            raise

    def _bytes(self, queue: FileQueue, address: int, length: int) -> Bytes | None:
        """What stands at `address`, if that needs no device. Too few bytes mean that the disk has no more."""
        warm = queue.warm
        if warm is not None:
            start, data = warm
            if start == address or (start <= address and address + length <= start + len(data)):
                return memoryview(data)[address - start :]
            queue.warm = None
            self._warm.pop(queue, None)
        segment = self._ledger.segments[address >> 32]
        return self._fsio.read_nowait(segment.fd, address & 0xFFFFFFFF, length)

    def _fetch(self, queue: FileQueue, address: int, first: int, length: int) -> None:
        """Read `length` bytes from the device in a job; `first` of them are the first message."""
        segment = self._ledger.segments[address >> 32]
        segment.readers += 1
        queue.reading = True

        def done(data: Bytes | None, error: BaseException | None) -> None:
            segment.readers -= 1
            queue.reading = False
            if isinstance(error, OSError):
                if error.errno not in DAMAGE_ERRORS:
                    self._postpone(queue, error)
                    return
            elif error is not None:
                raise error
            else:
                self._failing = 0
            if data is None or len(data) < length:
                if length > first:
                    # Which message is it? The first alone must be readable, or is damaged.
                    self._fetch(queue, address, first, first)
                    return
                data = data or b""
            if not queue.dropped:
                self._keep(queue, address, data)
                queue.on_ready()

        self._jobs.run(lambda: self._fsio.read(segment.fd, address & 0xFFFFFFFF, length), done)

    def _postpone(self, queue: FileQueue, error: OSError) -> None:
        """The system could not read just now: the messages stay where they are."""
        self._later[queue] = None
        if error.errno != self._failing:
            self._failing = error.errno or 0
            reason = os.strerror(self._failing) if self._failing else str(error)
            self._report("a message could not be read and is tried again", queue=queue.name, reason=reason)

    def _keep(self, queue: FileQueue, address: int, data: Bytes) -> None:
        """Hold what came until it is claimed, whatever the page cache does meanwhile."""
        queue.warm = (address, data)
        self._warm.pop(queue, None)
        self._warm[queue] = None
        if len(self._warm) > _WARM_QUEUES:
            oldest = next(iter(self._warm))
            del self._warm[oldest]
            oldest.warm = None
