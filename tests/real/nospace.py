"""A disk that fills up under load, again and again: a small image, kill -9 while it is full, acks that go on.

    python tests/real/nospace.py [--cycles 20] [--fsync always|<N>ms|never] [--filesystem ext4|xfs] [--directory DIR]
                                 [--seed N]

Each cycle: producers fill the disk until the broker refuses them, and kill -9; on the full disk, messages are taken
with one receipted ACK at a time, and kill -9 in the middle; then everything is taken, which must give space back: SENDs
are accepted again without a restart. Everything is compared with the journals as in `killloop`. Needs root. Called by:
`test_real_nospace`, and by hand.
"""

from __future__ import annotations

import math
import random
import select
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from daemon import Daemon
from kill_clients import Stream, frame
from killloop import options_of
from oracle import CONFIG, PRODUCERS, QUEUES, Books, Broken, Load, Unit, segments_of
from powercut import FILESYSTEM, Image, why_not
from recorder import body_of, message

__all__ = ["IMAGE_BYTES", "NoSpace"]

IMAGE_BYTES = 48 << 20
_LEAST_BYTES = {"ext4": 0, "xfs": 304 << 20}
STOP_FREE = ("0", "8MiB")
"""With none kept free, the births of segments meet a disk that is really full."""

PATIENCE = 60.0
_ALL = {"ack": "client-individual", "prefetch-count": "1000000"}


class NoSpace:
    """One data directory on a small image, and the lives of its daemons."""

    def __init__(self, image: Image, journals: Path, fsync: str, seed: int) -> None:
        self.there = self.acks = 0
        self.refusals: list[str] = []
        self.books = Books()
        self._image = image
        self._directory = journals
        self._fsync = fsync
        self._seed = seed
        self._chance = random.Random(seed)
        self._life = 0

    def cycle(self) -> None:
        """Fill ▸ kill ▸ a few ACKs ▸ kill ▸ take everything until SENDs are taken again."""
        self._fill()
        with self._daemon() as daemon:
            self.acks += len(self._take(daemon, self._chance.randrange(5, 60)))
            daemon.kill()
        with self._daemon() as daemon:
            found, units = self._take_all(daemon)
            self.there += self.books.compare(found).there
            self.books.units.update({unit.name: unit for unit in units})
            if daemon.terminate():
                raise Broken("SIGTERM, but:\n" + "\n".join(daemon.log))

    def _fill(self) -> None:
        """Producers until all of them are refused, with a consumer beside them; kill -9."""
        with self._daemon() as daemon:
            load = Load(daemon, self._directory, self._life, self._seed, (*PRODUCERS, "work"))
            load.run(0.0)
            deadline = time.monotonic() + PATIENCE
            while load.refused() < len(PRODUCERS):
                if time.monotonic() > deadline or daemon.process.poll() is not None:
                    raise Broken("the disk did not get full:\n" + "\n".join(daemon.log))
                time.sleep(0.02)
            time.sleep(self._chance.uniform(0.0, 0.3))
            daemon.kill()
        self.books.read(load)
        for line in self.books.errors:
            if "the disk is full" not in line or "disk.stop_free" not in line:
                raise Broken(line)
        self.refusals += self.books.errors
        self.books.errors.clear()

    def _take(self, daemon: Daemon, count: int) -> list[Unit]:
        """Take so many messages with one receipted ACK at a time; the units, which are in the books."""
        units: list[Unit] = []
        waiting: deque[tuple[str, str]] = deque()
        stream = Stream(daemon.address[1])
        with stream.sock:
            for queue in QUEUES:
                stream.send(frame("SUBSCRIBE", {"destination": queue, "id": queue, "ack": "client-individual"}))
            for batch in stream.batches():
                for command, headers, body in batch:
                    if command == "RECEIPT":
                        units[-1].done_at = time.monotonic()
                    elif command == "MESSAGE":
                        waiting.append((_reference(headers, body), headers["ack"]))
                if units and units[-1].done_at == math.inf:
                    continue
                if len(units) == count:
                    break
                if waiting:
                    reference, ack = waiting.popleft()
                    units.append(self._unit(len(units), acks=[reference]))
                    stream.send(frame("ACK", {"id": ack, "receipt": units[-1].name}))
        self.books.units.update({unit.name: unit for unit in units})
        return units

    def _take_all(self, daemon: Daemon) -> tuple[dict[str, list[str]], list[Unit]]:
        """Take and acknowledge everything, until each queue has taken a marker and given it back."""
        found: dict[str, list[str]] = {queue: [] for queue in QUEUES}
        units: list[Unit] = []
        markers: dict[str, Unit] = {}
        waiting = list(QUEUES)
        stream = Stream(daemon.address[1])
        with stream.sock:
            for queue in QUEUES:
                stream.send(frame("SUBSCRIBE", {"destination": queue, "id": queue, **_ALL}))
            batches = stream.batches()
            deadline = time.monotonic() + PATIENCE
            while len(markers) < len(QUEUES):
                if not select.select([stream.sock], [], [], 0.1)[0]:
                    if time.monotonic() > deadline:
                        raise Broken(f"no room came back for {waiting}:\n" + "\n".join(daemon.log))
                    waiting = [queue for queue in waiting if not self._mark(daemon, queue)]
                    continue
                data = b""
                batch = next(batches, None)
                if batch is None:
                    raise Broken("the connection ended:\n" + "\n".join(daemon.log))
                for command, headers, body in batch:
                    if command != "MESSAGE":
                        continue
                    reference = _reference(headers, body)
                    queue, _, key = reference.partition(":")
                    unit = self._unit(1000 + len(units), acks=[reference])
                    units.append(unit)
                    data += frame("ACK", {"id": headers["ack"]})
                    if key == self._marker(queue):
                        markers[queue] = unit
                    else:
                        found[queue].append(key)
                stream.send(data)
            stream.send(frame("UNSUBSCRIBE", {"id": QUEUES[0], "receipt": "taken"}))
            while not any(command == "RECEIPT" for command, _, _ in next(batches)):
                pass
        for unit in units:
            unit.done_at = time.monotonic()
        puts = [self._unit(number, puts=[f"{queue}:{self._marker(queue)}"]) for number, queue in enumerate(QUEUES)]
        return found, puts + units

    def _mark(self, daemon: Daemon, queue: str) -> bool:
        """Send a queue its marker; False where the disk is (still) full."""
        stream = Stream(daemon.address[1])
        with stream.sock:
            batches = stream.batches()
            next(batches)
            stream.send(message(queue, self._marker(queue), receipt="marker"))
            try:
                return next(batches)[0][0] == "RECEIPT"
            except SystemExit as error:  # how a stream tells of an ERROR
                if "the disk is full" not in str(error):
                    raise Broken(str(error)) from None
                return False

    def _marker(self, queue: str) -> str:
        return f"end/{self._life}{queue}"

    def _unit(self, number: int, *, puts: list[str] | None = None, acks: list[str] | None = None) -> Unit:
        name = f"take/{self._life}/{number}"
        return Unit(
            f"{name}{'p' if puts else ''}", ("take", self._life, number), time.monotonic(), puts or [], acks or []
        )

    def _daemon(self) -> Daemon:
        self._life += 1
        config = f"{CONFIG}fsync: {self._fsync}\ndisk: {{stop_free: {self._chance.choice(STOP_FREE)}}}\n"
        data = self._image.path / "data"
        return Daemon(self._directory, config, log_level="info", prelude=segments_of(1 << 20), data_dir=data)


def _reference(headers: dict[str, str], body: bytes) -> str:
    """Which message that is; its body must be the one that was sent."""
    if body != body_of(headers["key"]):
        raise Broken(f"{headers} has another body: {body[:80]!r}")
    return f"{headers['subscription']}:{headers['key']}"


def main() -> None:
    """The command line."""
    options = options_of(__doc__, FILESYSTEM)
    reason = why_not(options.filesystem)
    if reason is not None:
        sys.exit(reason)
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(dir=options.directory, prefix="full-") as place,
        Image(Path(place), max(IMAGE_BYTES, _LEAST_BYTES[options.filesystem]), options.filesystem) as image,
    ):
        loop = NoSpace(image, Path(place), options.fsync, options.seed)
        for number in range(options.cycles):
            loop.cycle()
            if sys.stderr.isatty():
                print(f"\r{number + 1} of {options.cycles}", end="", file=sys.stderr, flush=True)
    print(
        f"{options.cycles} cycles: {len(loop.refusals)} refusals, {loop.acks} receipted ACKs on the full disk, "
        f"{loop.books.receipts} receipts, {loop.there} messages compared, none lost, none invented, "
        f"{time.monotonic() - started:.0f} s"
    )
    print(loop.refusals[-1].strip())


if __name__ == "__main__":
    main()
