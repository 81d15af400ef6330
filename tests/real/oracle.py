"""What a broker promised, in the words of its clients' journals, against what is there after it died.

    load = Load(daemon, directory, life, seed) ▸ the broker dies ▸ load.end() ▸ books.read(load)
    start again ▸ look(daemon, books, life, certain_before): takes everything, books.compare ▸ load again

After each comparison every message is settled: it is there, and then it must stay, or it is not, and then it may never
come back. So a comparison needs only what was there before and the journals since. It must never believe the broker
about anything but what it delivers. Called by: `killloop`, `powercut`, `diskfaults`, `nospace` and their tests.
"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from daemon import Daemon
from kill_clients import Stream, frame
from recorder import DEAD, F1, F2, TARGET, A, B, body_of, message

__all__ = [
    "CONFIG",
    "CREW",
    "PRODUCERS",
    "QUEUES",
    "SEGMENTS",
    "Books",
    "Broken",
    "Load",
    "Unit",
    "Verdict",
    "look",
    "segments_of",
]

QUEUES = (A, B, F1, F2, TARGET, DEAD)

CONFIG = f"""\
create: false
max_prefetch: 1000000
destinations:
  {A}: {{type: queue, dead_letter: {DEAD}}}
  {B}: {{type: queue}}
  {TARGET}: {{type: queue}}
  /fanout/f: {{type: fanout, queues: [{F1}, {F2}]}}
"""

PRODUCERS = ("single", "grouped", "fanout")
CREW = (*PRODUCERS, "work", "settle")
"""The clients of a load; each is one process."""

SEGMENTS = (1 << 16, 1 << 18, 1 << 20, 1 << 26)
"""Sizes that the loops change between: with small ones, births, unlinks and reclaim happen all the time."""

PATIENCE = 60.0
DRAIN_ABOVE = 15_000
"""So many messages are too many to look at after each death: then all but one in FORGOTTEN are taken."""

FORGOTTEN = 50
_ALL = {"ack": "client-individual", "prefetch-count": "1000000"}

Order = tuple[str, int, int, int]
"""Sender, its life, the number of its unit, the place in the unit: the order of a sender's messages."""


class Broken(AssertionError):
    """A promise that was not kept."""


def segments_of(size: int) -> str:
    """A prelude for `Daemon`: segments of `size` bytes, which is no setting of the configuration."""
    return (
        "import faulthandler, functools, signal, radiator.server.daemon as daemon\n"
        "faulthandler.register(signal.SIGUSR2)\n"  # where it hangs, if it does
        f"daemon.FileStore = functools.partial(daemon.FileStore, segment_bytes={size})\n"
    )


@dataclass(slots=True)
class Unit:
    """What takes effect as a whole; references are QUEUE:KEY. `done_at` is infinite without a receipt."""

    name: str
    order: tuple[str, int, int]
    sent_at: float
    puts: list[str]
    acks: list[str]
    done_at: float = math.inf

    @property
    def late(self) -> bool:
        """A dead letter: its body is read first, so units that were sent later may come before it."""
        return any(put.startswith(f"{DEAD}:") for put in self.puts)


@dataclass(slots=True)
class Verdict:
    """What one comparison saw: how many messages, and when what is gone was receipted (`lost`)."""

    there: int = 0
    lost: list[float] = field(default_factory=list)


class Load:
    """The clients of one life of a broker, with a journal each in `directory`."""

    def __init__(self, daemon: Daemon, directory: Path, life: int, seed: object, crew: tuple[str, ...] = CREW) -> None:
        self.life = life
        script = Path(__file__).with_name("recorder.py")
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}
        for role in crew:
            journal = Path(tempfile.mkstemp(dir=directory, prefix=f"{role}-{life}-")[1])
            arguments = (daemon.address[1], journal, role, life, seed, role)
            self._processes[journal] = subprocess.Popen([sys.executable, str(script), *map(str, arguments)])

    def run(self, seconds: float) -> None:
        """Return so long after the first client had something to write down."""
        deadline = time.monotonic() + PATIENCE
        while not any(journal.stat().st_size for journal in self._processes):
            if time.monotonic() > deadline:
                raise Broken("no client could begin")
            time.sleep(0.01)
        time.sleep(seconds)

    def refused(self) -> int:
        """How many producers got an ERROR."""
        return sum(
            journal.name.startswith(PRODUCERS) and b"\nE " in journal.read_bytes()[-2000:]
            for journal in self._processes
        )

    def end(self) -> list[Path]:
        """Wait for the clients, whose broker is gone; their journals."""
        codes = []
        for process in self._processes.values():
            try:
                codes.append(process.wait(PATIENCE))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(process.wait())
        if any(codes):
            raise Broken(f"clients ended with {codes}: the connection hung, or the client is wrong")
        return list(self._processes)


@dataclass(slots=True)
class Books:
    """Everything that is known about the messages of one store."""

    held: dict[str, Order] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)
    delivered: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    receipts: int = 0

    def read(self, load: Load) -> None:
        """Take the journals of a load that ended."""
        for journal in load.end():
            client = journal.name.split("-")[0]
            with journal.open(encoding="ascii") as lines:
                for number, line in enumerate(lines):
                    self._take(line, (client, load.life, number))
            journal.unlink()

    def _take(self, line: str, order: tuple[str, int, int]) -> None:
        kind, first, *rest = line.split()
        if kind == "S":
            effects = [effect.partition(":") for effect in rest[1:]]
            puts = [reference for word, _, reference in effects if word == "put"]
            acks = [reference for word, _, reference in effects if word == "ack"]
            self.units[first] = Unit(first, order, float(rest[0]), puts, acks)
        elif kind == "R":
            self.receipts += 1
            self.units[first].done_at = float(rest[0])
        elif kind == "G":
            self.delivered.setdefault(first, float(rest[0]))
        elif kind == "E":
            self.errors.append(line)
        else:
            raise Broken(line)

    def compare(self, found: dict[str, list[str]], certain_before: float = math.inf) -> Verdict:
        """`found` against all that is known; what was promised before `certain_before` must have been kept.

        What was promised later may be gone, but only as the end of the order in which it was committed.
        """
        units = sorted(self.units.values(), key=lambda unit: unit.order)
        putting = {reference: unit for unit in units for reference in unit.puts}
        acking: dict[str, list[Unit]] = {}
        for unit in units:
            for reference in unit.acks:
                acking.setdefault(reference, []).append(unit)  # twice, where a death undid the first
        there = {f"{queue}:{key}" for queue, keys in found.items() for key in keys}
        strange = there - self.held.keys() - putting.keys()
        if strange:
            raise Broken(f"never sent, or back from the dead: {sorted(strange)[:5]}")
        ghosts = self.delivered.keys() - self.held.keys() - putting.keys()
        if ghosts:
            raise Broken(f"delivered, and never sent or gone before: {sorted(ghosts)[:5]}")
        self._check_order(found, putting)
        # A delivery says the same as a receipt: only what is committed is delivered.
        certain = set(self.held)
        certain.update(
            reference
            for reference, unit in putting.items()
            if min(unit.done_at, self.delivered.get(reference, math.inf)) < certain_before
        )
        lost = sorted(reference for reference in certain - there if reference not in acking)
        if lost:
            first = putting.get(lost[0], "it was there before")
            raise Broken(f"{len(lost)} of {len(certain)} are lost: {lost[:3]} … {lost[-3:]}; the first: {first}")
        for reference in there & acking.keys():
            for unit in acking[reference]:
                if unit.done_at < certain_before:
                    raise Broken(f"{reference} is there after a receipted ACK: {unit}")
        verdict = _check_units(units, there, acking, certain)
        verdict.there = len(there)
        orders = {
            reference: (*unit.order, unit.puts.index(reference)) for reference, unit in putting.items()
        } | self.held
        self.held = {reference: orders[reference] for reference in there}
        self.units.clear()
        self.delivered.clear()
        return verdict

    def _check_order(self, found: dict[str, list[str]], putting: dict[str, Unit]) -> None:
        """Nothing is there twice, and all of a queue stands in the order of its sender."""
        for queue, keys in found.items():
            if len(keys) != len(set(keys)):
                raise Broken(f"{queue}: twice there: {[key for key, count in Counter(keys).items() if count > 1][:5]}")
            last: dict[str, Order] = {}
            for key in keys:
                reference = f"{queue}:{key}"
                unit = putting.get(reference)
                order = self.held[reference] if unit is None else (*unit.order, unit.puts.index(reference))
                if order < last.get(order[0], order):
                    raise Broken(f"{queue}: {key} stands behind what its sender sent later: {order}, {last[order[0]]}")
                last[order[0]] = order


def _check_units(units: list[Unit], there: set[str], acking: dict[str, list[Unit]], certain: set[str]) -> Verdict:
    """Each whole or absent, and what is absent was the end of the order of commits."""
    verdict = Verdict()
    broken_off: dict[tuple[str, int], Unit] = {}
    happened = []
    for unit in units:
        # A put that is not there tells nothing if it was acknowledged since; an ACK, only if the message had come.
        signs = {put in there for put in unit.puts if put in there or put not in acking}
        signs |= {ack not in there for ack in unit.acks if ack in there or (ack in certain and len(acking[ack]) == 1)}
        if len(signs) > 1:
            raise Broken(f"half a unit is there: {unit}")
        if not signs:
            continue
        client = unit.order[:2]
        if signs == {True}:
            happened.append(unit)
            if client in broken_off and not unit.late:
                raise Broken(f"{unit} is there, and what its client sent before is not: {broken_off[client]}")
            continue
        if not unit.late:
            broken_off.setdefault(client, unit)
        if unit.done_at < math.inf:
            verdict.lost.append(unit.done_at)
    oldest = min(verdict.lost, default=math.inf)
    for unit in happened:
        if unit.sent_at > oldest:
            raise Broken(f"{unit} is there, and something that was receipted before it was sent is not")
    return verdict


def look(daemon: Daemon, books: Books, life: int, certain_before: float = math.inf) -> Verdict:
    """Compare everything that is there with `books`; then all goes back, or most is taken where it became too much."""
    stream = Stream(daemon.address[1])
    try:
        with stream.sock:
            return _look(stream, books, life, certain_before)
    except (TimeoutError, StopIteration) as error:
        daemon.process.send_signal(signal.SIGUSR2)
        time.sleep(0.5)
        raise Broken(f"{error!r}, the daemon said and is at:\n" + "\n".join(daemon.log)) from error


def _look(stream: Stream, books: Books, life: int, certain_before: float) -> Verdict:
    batches = stream.batches()
    next(batches)
    found: dict[str, list[str]] = {}
    acks: dict[str, str] = {}
    markers = []
    for queue in QUEUES:
        marker = f"end/{life}{queue}"
        markers.append(Unit(marker, ("look", life, len(markers)), time.monotonic(), [f"{queue}:{marker}"], []))
        found[queue] = keys = []
        # The receipt comes first, so the marker has its place when the queue is asked.
        stream.send(message(queue, marker, receipt=marker))
        _receipt(batches, marker)
        markers[-1].done_at = time.monotonic()
        stream.send(frame("SUBSCRIBE", {"destination": queue, "id": queue, **_ALL}))
        while not keys or keys[-1] != marker:
            for command, headers, body in next(batches):
                key = headers.get("key", "")
                if command != "MESSAGE" or headers["subscription"] != queue or body != body_of(key):
                    raise Broken(f"{queue}: no message of ours: {command} {headers} {body[:80]!r}")
                acks[f"{queue}:{key}"] = headers["ack"]
                keys.append(key)
        keys.pop()
    verdict = books.compare(found, certain_before)
    for unit in markers:
        books.units[unit.name] = unit
    taken = [unit.puts[0] for unit in markers]
    if verdict.there > DRAIN_ABOVE:
        taken += [reference for number, reference in enumerate(books.held) if number % FORGOTTEN]
    units = [
        Unit(f"take/{life}/{number}", ("look", life, len(markers) + number), time.monotonic(), [], [reference])
        for number, reference in enumerate(taken)
    ]
    for unit in units:
        books.units[unit.name] = unit
    stream.send(b"".join(frame("ACK", {"id": acks[reference]}) for reference in taken[:-1]))
    # The receipt of the last one covers all that was sent before it.
    stream.send(frame("ACK", {"id": acks[taken[-1]], "receipt": "taken"}))
    _receipt(batches, "taken")
    for unit in units:
        unit.done_at = time.monotonic()
    return verdict


def _receipt(batches: Iterator[list[tuple[str, dict[str, str], bytes]]], receipt: str) -> None:
    """The next frame must be this RECEIPT."""
    answer = next(batches)
    if [(command, headers) for command, headers, _ in answer] != [("RECEIPT", {"receipt-id": receipt})]:
        raise Broken(f"waited for the receipt {receipt}, there came {answer}")
