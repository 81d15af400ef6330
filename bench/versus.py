"""This tree against another one, or an empty store against a full one: the same load on both, in turns.

    python bench/versus.py --loadgen PATH --other DIR [--rounds 7] [-n 200000]
    python bench/versus.py --loadgen PATH --backlog 10000000 [--rounds 7] [-n 200000]

`--other DIR` is a checkout of an earlier commit with its extensions built in place. With `--backlog` both servers run
this tree, and one of them holds so many waiting messages in the queue that is measured: what is put goes behind them,
what is got are the oldest. Prints, for put and get (20 clients each, 100-byte bodies, `fsync: always`), the medians of
messages/s and of the processor time of a message, and the ratios; exit 1 where the first is more than `--tolerance`
(15 % unless told) slower than the second. The machine is shared: give it enough rounds, and nothing else to do.
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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loadgen", metavar="PATH", required=True, help="the outside load generator")
    parser.add_argument("--other", metavar="DIR", help="another checkout, built in place")
    parser.add_argument("--backlog", type=int, default=0, help="waiting messages of the first server")
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
