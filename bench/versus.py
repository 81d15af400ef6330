"""This tree against another one, or an empty store against a full one: the same load on both, in turns.

    python bench/versus.py --loadgen PATH --other DIR [--rounds 7] [-n 200000]
    python bench/versus.py --loadgen PATH --other DIR --instructions [--rounds 3] [-n 20000]
    python bench/versus.py --loadgen PATH --backlog 10000000 [--rounds 7] [-n 200000]

`--other DIR` is a checkout of an earlier commit with its extensions built in place. With `--backlog` both servers run
this tree, and one of them holds so many waiting messages in the queue that is measured: what is put goes behind them,
what is got are the oldest, so it holds as many afterwards.

Never do two servers live at once: each round starts the one and stops it, then the other, and the next round has them
the other way round. Each start has a data directory that is new, but for the backlog, which is put once. Prints, for
put and get (20 clients each, 100-byte bodies, `fsync: always`), each side's medians of messages/s and of the processor
time of a message, and the ratios within each round with their medians; exit 1 where the median round has the first more
than `--tolerance` (15 % unless told) slower than the second. The machine is shared: ratios that lie far apart say that
it had something else to do, and that more rounds are needed.

`--instructions` counts instead what the processor does in user mode for a message, with valgrind, which must be
installed: slow, but the same on a busy machine to about one in a hundred. What the kernel does is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from end_to_end import serving

HERE = str(Path(__file__).parents[1])

SERVE = """
import sys
from radiator.config.schema import Address, Config
from radiator.server.daemon import serve
sys.exit(serve(Config(listen_stomp=(Address("127.0.0.1", 0),), data_dir=sys.argv[1], create=True)))
"""
"""Earlier trees had no command line yet."""

Server = tuple[tuple[str, int], int]
"""(Host, port), process id."""

MODES = ("put", "get")


class Figures(NamedTuple):
    """What one load came to: messages/s, and microseconds of the server's processor time for each."""

    rate: float
    processor: float


def daemon(tree: str, place: str) -> AbstractContextManager[Server]:
    """The daemon of `tree` with its data in `place`."""
    return serving([sys.executable, "-c", SERVE, place], {"PYTHONPATH": tree, "RADIATOR_SPEEDUPS": "require"}, tree)


def run(loadgen: str, server: Server, mode: str, total: int) -> Figures:
    """One load."""
    (host, port), pid = server
    command = [loadgen, "-p", "stomp", "-a", host, "-P", str(port), "-m", mode, "-n", str(total), "-s", "100"]
    command += ["-c", "20", "-w", "10"] if mode == "put" else ["-C", "20"]
    command += ["-d", "/queue/bench", "-M", str(pid), "-t", "600"]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    if max(figures["put"], figures["got"]) < total:  # what was on its way at the end is counted too
        raise RuntimeError(f"{mode} was not finished: {figures}")
    return Figures(figures["msgs_per_s"], figures["server_cpu_us_per_msg"])


def measure(loadgen: str, tree: str, place: str, total: int) -> list[Figures]:
    """The loads of `MODES`, one after the other, on a daemon of `tree` that lives for them only."""
    with daemon(tree, place) as server:
        return [run(loadgen, server, mode, total) for mode in MODES]


def measure_fresh(loadgen: str, tree: str, directory: str, total: int) -> list[Figures]:
    """The same on a data directory of its own below `directory`."""
    with tempfile.TemporaryDirectory(dir=directory, prefix="bench-") as place:
        return measure(loadgen, tree, f"{place}/data", total)


def compare(names: Sequence[str], sides: Sequence[Callable[[], list[Figures]]], rounds: int) -> dict[str, float]:
    """Measure both sides in turns and print what came of it; for each mode the median ratio of messages/s."""
    said: dict[tuple[str, str], list[Figures]] = defaultdict(list)
    turns = list(zip(names, sides, strict=True))
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for name, side in turns:
            for mode, figures in zip(MODES, side(), strict=True):
                said[mode, name].append(figures)
        turns.reverse()
    medians = {}
    for mode in MODES:
        for name in names:
            rate = median(figures.rate for figures in said[mode, name])
            processor = median(figures.processor for figures in said[mode, name])
            print(f"{mode}  {name}: medians {rate:,.0f} messages/s, processor {processor:.1f} us")
        pairs = list(zip(*(said[mode, name] for name in names), strict=True))
        for what in ("rate", "processor"):
            ratios = [getattr(first, what) / getattr(second, what) for first, second in pairs]
            medians[mode, what] = median(ratios)
            each = " ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"{mode}  {what}: ratio {medians[mode, what]:.3f}, the median of {each}")
    return {mode: medians[mode, "rate"] for mode in MODES}


def instructions(loadgen: str, tree: str, modes: Sequence[str], total: int) -> int:
    """Instructions of a daemon of `tree` from its start to its end, with one load of each of `modes` in turn."""
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        counts = f"{place}/counts"
        command = ["valgrind", "-q", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={counts}"]
        command += ["--max-stackframe=100000000", sys.executable, "-c", SERVE, f"{place}/data"]
        with serving(command, {"PYTHONPATH": tree, "RADIATOR_SPEEDUPS": "require"}, tree) as server:
            for mode in modes:
                run(loadgen, server, mode, total)
        lines = Path(counts).read_text().splitlines()
    return int(next(line for line in reversed(lines) if line.startswith("summary:")).split()[1])


def count(loadgen: str, names: Sequence[str], trees: Sequence[str], total: int, rounds: int) -> list[str]:
    """Print the instructions of a message in each tree; the modes in which the first has over 1 % more."""
    said: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for name, tree in zip(names, trees, strict=True):
            start, put, both = (instructions(loadgen, tree, modes, total) for modes in ([], ["put"], ["put", "get"]))
            said["put", name].append((put - start) / total)
            said["get", name].append((both - put) / total)
    for mode in MODES:
        for name in names:
            print(f"{mode}  {name}: " + " ".join(f"{value:,.0f}" for value in said[mode, name]) + " instructions")
    ratios = {mode: median(said[mode, names[0]]) / median(said[mode, names[1]]) for mode in MODES}
    print("  ".join(f"{mode} ratio {ratio:.3f}" for mode, ratio in ratios.items()))
    return [mode for mode, ratio in ratios.items() if ratio > 1.01]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loadgen", metavar="PATH", required=True, help="the outside load generator")
    parser.add_argument("--other", metavar="DIR", help="another checkout, built in place")
    parser.add_argument("--backlog", type=int, default=0, help="waiting messages of the first server")
    parser.add_argument("--instructions", action="store_true", help="count instructions, not time")
    parser.add_argument("--directory", default=".", help="where the servers' temporary data directories are made")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tolerance", type=float, default=0.15)
    parser.add_argument("-n", dest="total", type=int, default=200_000, help="messages of each load")
    options = parser.parse_args()
    if bool(options.other) == bool(options.backlog):
        parser.error("give one of --other and --backlog")
    if not shutil.which(options.loadgen):
        parser.error(f"{options.loadgen} is no program")
    names = ("this tree", options.other) if options.other else (f"{options.backlog:,} waiting", "empty")
    if options.instructions:
        if options.backlog or not shutil.which("valgrind"):
            parser.error("--instructions needs --other, and valgrind")
        trees = (HERE, os.path.abspath(options.other))
        more = count(options.loadgen, names, trees, options.total, options.rounds)
        sys.exit(f"more instructions: {', '.join(more)}" if more else 0)
    directory = os.path.abspath(options.directory)  # each server runs in its own tree
    with tempfile.TemporaryDirectory(dir=directory, prefix="bench-") as place:
        if options.backlog:
            print(f"putting {options.backlog:,} messages", file=sys.stderr)
            with daemon(HERE, f"{place}/backlog") as server:
                run(options.loadgen, server, "put", options.backlog)
            first = partial(measure, options.loadgen, HERE, f"{place}/backlog", options.total)
        else:
            first = partial(measure_fresh, options.loadgen, HERE, place, options.total)
        second = partial(measure_fresh, options.loadgen, os.path.abspath(options.other or HERE), place, options.total)
        ratios = compare(names, (first, second), options.rounds)
    slow = [mode for mode, ratio in ratios.items() if ratio < 1 - options.tolerance]
    if slow:
        sys.exit(f"slower by more than {options.tolerance:.0%}: {', '.join(slow)}")


if __name__ == "__main__":
    main()
