"""Disk use over a day of simulated traffic with one forgotten message, on the real disk, with a simulated clock.

    python tests/real/diskuse.py [--messages 1728000] [--segment BYTES] [--directory DIR] [--seed N]

One lone producer sends 20 messages of about 1000 bytes a second for 24 hours, each alone in its batch; a consumer lags
behind by up to 20,000 messages, in slow waves; the tenth message is never acknowledged. Measured is everything that the
data directory takes (blocks, spare segments too), against 2 x live bytes + 4 segments; live bytes are counted here, by
the records of the messages that are not acknowledged. It must never ask the store what it uses. Called by:
`test_real_disk_use`, and by hand.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from radiator._speedups import TWIN
from radiator.message import Message
from radiator.store.base import StoreQueue, Unit
from radiator.store.file.engine import FileStore
from radiator.store.file.fsio import RealFsio
from radiator.store.file.segment import SEGMENT_BYTES
from radiator.store.file.syncer import InlineJobs, InlineSyncer

__all__ = ["Day", "Use", "blocks_of"]

PER_SECOND = 20
A_DAY = 24 * 3600 * PER_SECOND
LAG = 20_000  # or an eighth of all messages, where these are few
WAVES = 5
FORGOTTEN = 10
BLOCK = b"destination:/queue/day\ncontent-type:text/plain\n"
SAMPLE = 500
HEAD = 72  # docs/disk-format.rst: of a message with one reference


class Use(NamedTuple):
    """One sample: bytes on the disk, bytes alive, and what was allowed."""

    disk: int
    live: int
    allowed: int


def blocks_of(directory: Path) -> int:
    """What everything under `directory` takes on the disk, in bytes."""
    return sum(
        os.stat(os.path.join(place, name)).st_blocks * 512 for place, _, names in os.walk(directory) for name in names
    )


def _record_bytes(body: bytes) -> int:
    """What the message takes in the log, padded to 8."""
    return HEAD + (len(BLOCK) + len(body) + 7) // 8 * 8


class Day:
    """A store and the traffic on it; `worst` is the sample that came nearest to what is allowed."""

    def __init__(self, directory: Path, messages: int, segment_bytes: int, seed: object) -> None:
        self.written = 0
        self.worst = Use(0, 0, 1)
        self._directory = directory
        self._messages = messages
        self._segment_bytes = segment_bytes
        self._chance = random.Random(f"{seed}")
        fsio = RealFsio()
        # No receipt is at stake here: what is measured is the same with each policy, and "never" is the fastest.
        self._store = FileStore(
            str(directory),
            fsync="never",
            segment_bytes=segment_bytes,
            fsio=fsio,
            syncer=InlineSyncer(fsio),
            jobs=InlineJobs(),
        )
        self._live = self._claimed = 0
        self._held: deque[tuple[int, int]] = deque()
        self._forgotten: bytes | None = None

    def run(self) -> None:
        """The whole day; AssertionError where the forgotten message is not the one that is left."""
        store = self._store
        store.open(0.0, 1)
        queue = store.declare("/queue/day")
        highest = min(LAG, self._messages // 8)
        for number in range(self._messages):
            body = self._chance.randbytes(self._chance.randrange(900, 1100))
            unit = Unit()
            unit.put(Message(12, True, BLOCK, body), [queue])
            self._live += _record_bytes(body)
            self.written += len(body) + len(BLOCK)
            lag = int(highest * (1 - math.cos(number / self._messages * WAVES * math.tau)) / 2)
            self._settle(unit, queue, lag)
            self._turn(unit, queue, number / PER_SECOND)
            if number % SAMPLE == 0:
                self._sample()
        while self._claimed < self._messages or self._held:
            unit = Unit()
            self._settle(unit, queue, max(0, len(self._held) - 1000))
            self._turn(unit, queue, self._messages / PER_SECOND)
        self._sample()
        store.close()
        self._check_left()

    def _settle(self, unit: Unit, queue: StoreQueue, lag: int) -> None:
        """Take the oldest messages, until the consumer lags behind by `lag`."""
        while len(self._held) > lag:
            id, size = self._held.popleft()
            unit.settle(queue, id)
            self._live -= size

    def _turn(self, unit: Unit, queue: StoreQueue, now: float) -> None:
        """One turn of the loop: what was done goes to the disk, what is there is taken."""
        store = self._store
        store.append(unit)
        store.flush()
        store.completed()
        store.tick(now)
        for delivery in store.claim(queue, 10, 1 << 20):
            assert delivery.message is not None
            self._claimed += 1
            if delivery.id == FORGOTTEN:
                self._forgotten = delivery.message.body
            else:
                self._held.append((delivery.id, _record_bytes(delivery.message.body)))

    def _sample(self) -> None:
        disk = blocks_of(self._directory)
        use = Use(disk, self._live, 2 * self._live + 4 * self._segment_bytes)
        if use.disk / use.allowed > self.worst.disk / self.worst.allowed:
            self.worst = use

    def _check_left(self) -> None:
        store = FileStore(str(self._directory), segment_bytes=self._segment_bytes)
        store.open(0.0, 1)
        try:
            left = [
                each.message and each.message.body for each in store.claim(store.declare("/queue/day"), 10, 1 << 20)
            ]
            assert left == [self._forgotten], f"{len(left)} messages are left, not the forgotten one"
        finally:
            store.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=A_DAY, help="in 24 hours")
    parser.add_argument("--segment", type=int, default=SEGMENT_BYTES, help="bytes of a segment")
    parser.add_argument("--directory", type=Path, default=None, help="where the temporary data directory is made")
    parser.add_argument("--seed", type=int, default=1, help="of the bodies")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="day-") as place:
        day = Day(Path(place) / "data", options.messages, options.segment, options.seed)
        day.run()
    worst = day.worst
    print(f"twin {TWIN}: {options.messages} messages, {day.written >> 20} MiB, {time.monotonic() - started:.0f} s")
    print(
        f"at its worst {worst.disk / (1 << 20):.1f} MiB on the disk with {worst.live / (1 << 20):.1f} MiB alive: "
        f"{worst.disk / worst.allowed:.0%} of 2 x live + 4 segments"
    )
    sys.exit(worst.disk > worst.allowed)


if __name__ == "__main__":
    main()
