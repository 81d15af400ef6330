"""kill -9 under load, again and again, against the journals of the clients.

    python tests/real/killloop.py [--cycles 200] [--fsync always|<N>ms|never] [--directory DIR] [--seed N]

Each cycle starts the daemon on the same data, compares everything that is there with what was promised, loads it and
ends it: mostly with SIGKILL at a random moment, now and then while it starts, now and then with SIGTERM. In every
policy nothing that was receipted may be missing. Called by: `test_real_kill`, and by hand (the package is installed, or
PYTHONPATH names it).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from daemon import Daemon
from oracle import CONFIG, SEGMENTS, Books, Broken, Load, look, segments_of

from radiator._speedups import TWIN

__all__ = ["KillLoop", "end_while_starting", "options_of"]


class KillLoop:
    """One data directory and the lives of its daemons."""

    def __init__(self, directory: Path, fsync: str, seed: int) -> None:
        self.kills = self.stops = self.births = self.there = 0
        self.books = Books()
        self._directory = directory
        self._fsync = fsync
        self._seed = seed
        self._chance = random.Random(seed)
        self._life = 0

    def cycle(self) -> None:
        """One life: compare, load, end."""
        self._life += 1
        while self._chance.random() < 0.15:
            end_while_starting(self._daemon(wait=False), self._chance)
            self.kills += 1
        with self._daemon() as daemon:
            self.there += look(daemon, self.books, self._life).there
            load = Load(daemon, self._directory, self._life, self._seed)
            load.run(self._chance.uniform(0.02, 1.2))
            if daemon.process.poll() is not None:
                raise Broken("it ended by itself:\n" + "\n".join(daemon.log))
            if self._chance.random() < 0.12:
                self.stops += 1
                if daemon.terminate():
                    raise Broken("SIGTERM, but:\n" + "\n".join(daemon.log))
            else:
                self.kills += 1
                daemon.kill()
        self.births += any((self._directory / "data/log").glob("*.seg.tmp"))
        self.books.read(load)
        if self.books.errors:
            raise Broken(self.books.errors[0])

    def check(self) -> None:
        """A last life that only compares."""
        self._life += 1
        with self._daemon() as daemon:
            self.there += look(daemon, self.books, self._life).there
            if daemon.terminate():
                raise Broken("SIGTERM, but:\n" + "\n".join(daemon.log))

    def _daemon(self, wait: bool = True) -> Daemon:
        config = f"{CONFIG}fsync: {self._fsync}\n"
        prelude = segments_of(self._chance.choice(SEGMENTS))
        return Daemon(self._directory, config, log_level="info", prelude=prelude, wait=wait)


def end_while_starting(daemon: Daemon, chance: random.Random) -> None:
    """Kill it somewhere between its first instruction and its first connections."""
    with daemon:
        time.sleep(chance.uniform(0.1, 0.6))
        daemon.kill()


def options_of(description: str | None, *more: tuple[str, dict[str, object]]) -> argparse.Namespace:
    """The command line that the loops share; prints what makes a run repeatable."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=200, help="lives of the daemon")
    parser.add_argument("--fsync", default="always", help="always, never or <N>ms")
    parser.add_argument("--directory", type=Path, default=None, help="where the temporary files are made")
    parser.add_argument("--seed", type=int, default=None, help="of the moments and of what the clients do")
    for name, how in more:
        parser.add_argument(name, **how)  # type: ignore[arg-type]  # the keywords of add_argument
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.randrange(1 << 30)
    print(f"seed {options.seed}, fsync {options.fsync}, twin {TWIN}", flush=True)
    return options


def main() -> None:
    """The command line."""
    options = options_of(__doc__)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="kill-") as place:
        loop = KillLoop(Path(place), options.fsync, options.seed)
        for number in range(options.cycles):
            loop.cycle()
            if sys.stderr.isatty():
                print(f"\r{number + 1} of {options.cycles}", end="", file=sys.stderr, flush=True)
        loop.check()
    print(
        f"{options.cycles} cycles: {loop.kills} kills ({loop.births} in the birth of a segment), "
        f"{loop.stops} clean stops, {loop.books.receipts} receipts, {loop.there} messages compared, none lost, "
        f"none invented, {time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
