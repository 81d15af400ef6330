"""The simulator: histories that crash at every operation of their disk, again after that, and on a spoilt disk.

    python tests/store/simulate.py --seconds 60            as many histories as fit
    python tests/store/simulate.py --points 100000         until that many crash points were survived
    python tests/store/simulate.py --replay 17:203:41      one case: run 17, crash point 203, then 41 of the next life

A crash point is an operation of the disk, with a power cut before it (even numbers) or a `kill -9` (odd numbers). A
history, in what is counted here, is one run with one crash point and the recovery from it.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent.parent):  # what is installed comes first
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from history import POLICIES, History, history, seen_until  # noqa: E402
from model import Model, Violation, check, judge  # noqa: E402
from simdisk import SimDisk  # noqa: E402

REGRESSIONS = HERE / "regressions.txt"
# With what chance an unsynced piece of content, or a change of names, survives a power cut.
CHANCES = ((0.5, 0.5), (0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1), (0.9, 0.5), (0.1, 0.9), (0, 0.5))


class Case(NamedTuple):
    """What it takes to see one failure again."""

    seed: int
    policy: str | None
    point: int | None = None
    second: int | None = None
    spoilt: bool = False

    @property
    def command(self) -> str:
        policy = f" --policy {self.policy}" if self.policy else ""
        return f"python tests/store/simulate.py{policy} --replay {self}"

    def __str__(self) -> str:
        points = "".join(f":{point}" for point in (self.point, self.second) if point is not None)
        return f"{self.seed}{points}{'!' if self.spoilt else ''}"

    @classmethod
    def parse(cls, text: str, policy: str | None) -> Case:
        match = re.fullmatch(r"([0-9]+)(?::([0-9]+))?(?::([0-9]+))?(!?)", text)
        if match is None:
            raise ValueError(f"{text!r} is not SEED, SEED:POINT, SEED:POINT:POINT or SEED:POINT!")
        seed, point, second = (None if part is None else int(part) for part in match.groups()[:3])
        assert seed is not None
        return cls(seed, policy, point, second, bool(match[4]))


class Failed(Exception):
    """A case that did not survive."""

    def __init__(self, case: Case, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}\n{case.command}")
        self.case = case


class Counts:
    """What was survived."""

    def __init__(self) -> None:
        self.runs = self.crashes = self.second = self.spoilt = 0

    @property
    def points(self) -> int:
        return self.crashes + self.second + self.spoilt

    def __str__(self) -> str:
        return (
            f"{self.points} histories of {self.runs} runs: {self.crashes} crash points, {self.second} in the recovery "
            f"and the life after it, {self.spoilt} on spoilt disks"
        )


def crashed(life: History, point: int, dice: Random) -> tuple[SimDisk, int]:
    """The disk that the crash point leaves, and how many steps must be on it."""
    moment = life.moments[point // 2]
    if point % 2:
        return moment.disk.survive(), moment.after_kill
    return moment.disk.power_cut(dice, *dice.choice(CHANCES)), moment.after_power_cut


def crash(life: History, seed: int, point: int) -> History:
    """One crash point and the recovery from it; the life after that, not yet begun."""
    disk, least = crashed(life, point, Random(f"{seed}:{point}"))
    found = check(disk, life.model, least, life.moments[point // 2].most, seed, life.fsync, History)
    assert isinstance(found, History)
    return found


def next_life(life: History, seed: int, point: int, steps: int) -> History:
    """A start after a power cut and some steps, with every operation recorded, those of the recovery too."""
    state = crash(life, seed, point).model.states[0]
    disk, _ = crashed(life, point, Random(f"{seed}:{point}"))
    seen = seen_until(life, life.moments[point // 2].seen)
    later = History(disk, Random(f"{seed}:{point}:next"), Model(state), fsync=life.fsync, seen=seen)
    later.body = 1_000_000 + point
    later.run(steps)
    return later


def spoil(life: History, seed: int, point: int) -> None:
    """One place of the disk is wrong. A start must refuse, or find what the log says: no more and no less."""
    dice = Random(f"{seed}:{point}!")
    moment = life.moments[point // 2]
    disk = moment.disk.power_cut(dice, 1, 1)
    if not any(disk.contents().values()):
        return
    what = disk.damage(dice, life.moments[dice.randrange(point // 2 + 1)].disk)
    verdict = judge(disk)
    if verdict.refused:
        return
    for state in life.model.states[: moment.most + 1]:
        whole = {
            name: {id: body for id, body in messages.items() if (name, id) not in verdict.set_aside}
            for name, messages in state.items()
        }
        if verdict.state == whole:
            return
    raise Violation(f"after a {what} the state is that of no step")


def run(
    seed: int,
    policy: str | None = None,
    *,
    every: int = 8,
    steps: int = 60,
    faults: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[tuple[str, Case]]:
    """One run, its crash points, and for one in `every` the crash points of the life after it. Yields as it goes.

    `faults` are more faults of the disk, for bugs that are seeded on purpose.
    """
    case = Case(seed, policy)
    try:
        life = history(seed, policy, steps, **faults)
        life.rescan()
        yield "runs", case
        for point in range(2 * len(life.moments)):
            case = Case(seed, policy, point)
            crash(life, seed, point)
            yield "crashes", case
            if point % 4 == 0 and any(life.moments[point // 2].disk.contents().values()):
                case = Case(seed, policy, point, spoilt=True)
                spoil(life, seed, point)
                yield "spoilt", case
            # Only after a power cut is all that is there on the platters; kills in a row are steps of a history.
            if point % 2 == 0 and (point // 2 + seed) % every == 0:
                case = Case(seed, policy, point)
                later = next_life(life, seed, point, 6)
                for second in range(2 * len(later.moments)):
                    case = Case(seed, policy, point, second)
                    crash(later, seed, second)
                    yield "second", case
    except Exception as error:
        raise Failed(case, error) from error


def replay(case: Case) -> None:
    """Exactly one case, with its error as it came."""
    life = history(case.seed, case.policy)
    if case.point is None:
        life.rescan()
    elif case.spoilt:
        spoil(life, case.seed, case.point)
    elif case.second is None:
        crash(life, case.seed, case.point)
        if case.point % 2 == 0:
            next_life(life, case.seed, case.point, 6)
    else:
        crash(next_life(life, case.seed, case.point, 6), case.seed, case.second)


def regressions() -> list[Case]:
    """The cases that failed once: `SEED:POINT policy  what it was`, policy - for the history's own."""
    lines = (line.split(maxsplit=2) for line in REGRESSIONS.read_text("utf-8").splitlines() if line[:1].isdigit())
    return [Case.parse(text, None if policy == "-" else policy) for text, policy, _ in lines]


def simulate(counts: Counts, seed: int, policy: str | None, seconds: float, points: int, show: bool) -> None:
    """Run after run from `seed` on, until the time is over or the points are reached."""
    start = shown = time.monotonic()
    while True:
        for what, case in run(seed, policy):
            setattr(counts, what, getattr(counts, what) + 1)
            now = time.monotonic()
            if show and now - shown >= 1:
                shown = now
                rate = counts.points / (now - start) * 60
                sys.stderr.write(f"\r{counts.points:>9} histories, {rate:,.0f} a minute, at {case!s:<20}")
                sys.stderr.flush()
            if now - start >= seconds or counts.points >= points:
                return
        seed += 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Histories on a simulated disk that crash at every operation.")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--points", type=int, default=sys.maxsize, help="stop after this many histories")
    parser.add_argument("--seed", type=int, default=0, help="the first run's number")
    parser.add_argument("--policy", choices=POLICIES, help="this policy in every run (default: by the number)")
    parser.add_argument("--replay", metavar="SEED[:POINT[:POINT]]", help="one case that failed")
    options = parser.parse_args()
    if options.replay:
        replay(Case.parse(options.replay, options.policy))
        sys.stdout.write("survived\n")
        return 0
    if options.seconds == float("inf") and options.points == sys.maxsize:
        options.seconds = 60.0
    counts = Counts()
    start, start_cpu = time.monotonic(), time.process_time()
    try:
        simulate(counts, options.seed, options.policy, options.seconds, options.points, sys.stderr.isatty())
    except Failed as failure:
        sys.stdout.write(f"{counts}\n{failure}\n")
        return 1
    elapsed, cpu = time.monotonic() - start, time.process_time() - start_cpu
    rate = counts.points / cpu * 60
    sys.stdout.write(f"{counts}; {rate:,.0f} a minute of one core, {elapsed:.1f} s, nothing lost\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
