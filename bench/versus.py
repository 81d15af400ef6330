"""This tree against another one, or an empty store against a full one: the same load on both, in turns.

    python bench/versus.py --loadgen PATH --other DIR [--rounds 7] [-n 200000]
    python bench/versus.py --loadgen PATH --other DIR --instructions [--rounds 3] [-n 20000]
    python bench/versus.py --loadgen PATH --backlog 10000000 [--rounds 7] [-n 200000]

`--other DIR` is a checkout of an earlier commit with its extensions built in place. With `--backlog` both servers run
this tree, and one of them holds so many waiting messages in the queue that is measured: what is put goes behind them,
what is got are the oldest. Prints, for put and get (20 clients each, 100-byte bodies, `fsync: always`), the medians of
messages/s and of the processor time of a message, and the ratios; exit 1 where the first is more than `--tolerance`
(15 % unless told) slower than the second. The machine is shared: give it enough rounds, and nothing else to do.

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
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median

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


def daemon(tree: str, place: str) -> AbstractContextManager[Server]:
    """The daemon of `tree` with its data in `place`."""
    return serving([sys.executable, "-c", SERVE, place], {"PYTHONPATH": tree, "RADIATOR_SPEEDUPS": "require"}, tree)


def run(loadgen: str, server: Server, mode: str, total: int) -> tuple[float, float]:
    """One load: messages/s, and microseconds of the server's processor time for each."""
    (host, port), pid = server
    command = [loadgen, "-p", "stomp", "-a", host, "-P", str(port), "-m", mode, "-n", str(total), "-s", "100"]
    command += ["-c", "20", "-w", "10"] if mode == "put" else ["-C", "20"]
    command += ["-d", "/queue/bench", "-M", str(pid), "-t", "600"]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    if max(figures["put"], figures["got"]) < total:  # what was on its way at the end is counted too
        raise RuntimeError(f"{mode} was not finished: {figures}")
    return figures["msgs_per_s"], figures["server_cpu_us_per_msg"]


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
    for mode in ("put", "get"):
        for name in names:
            print(f"{mode}  {name}: " + " ".join(f"{value:,.0f}" for value in said[mode, name]) + " instructions")
    ratios = {mode: median(said[mode, names[0]]) / median(said[mode, names[1]]) for mode in ("put", "get")}
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
    said: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory(dir=options.directory, prefix="bench-") as place,
        daemon(HERE, f"{place}/0") as first,
        daemon(os.path.abspath(options.other or HERE), f"{place}/1") as second,
    ):
        if options.backlog:
            print(f"putting {options.backlog:,} messages", file=sys.stderr)
            run(options.loadgen, first, "put", options.backlog)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            pairs = list(zip(names, (first, second), strict=True))
            for mode in ("put", "get"):
                for name, server in pairs if number % 2 else reversed(pairs):
                    said[mode, name].append(run(options.loadgen, server, mode, options.total))
    slow = []
    for mode in ("put", "get"):
        rates = [median(rate for rate, _ in said[mode, name]) for name in names]
        times = [median(time for _, time in said[mode, name]) for name in names]
        for name in names:
            print(f"{mode}  {name}: " + " ".join(f"{rate:,.0f}" for rate, _ in said[mode, name]) + " messages/s")
        print(
            f"{mode}  medians {rates[0]:,.0f} to {rates[1]:,.0f} messages/s: ratio {rates[0] / rates[1]:.3f};"
            f" processor {times[0]:.1f} to {times[1]:.1f} us: ratio {times[0] / times[1]:.3f}"
        )
        if rates[0] < (1 - options.tolerance) * rates[1]:
            slow.append(mode)
    if slow:
        sys.exit(f"slower by more than {options.tolerance:.0%}: {', '.join(slow)}")


if __name__ == "__main__":
    main()
