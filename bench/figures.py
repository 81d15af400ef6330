"""The figures of the whole broker, from an outside load generator, in one table; exit 1 where a goal is missed.

    python bench/figures.py --loadgen PATH [--rounds 3] [-n 200000] [--directory DIR] [--no-beanstalkd]

put    20 producers with 10 receipts outstanding each, 100-byte bodies, `fsync: always`: receipts/s
get    20 consumers drain that backlog, one un-ACKed each: messages/s
pipe   both at once, to the last ACK: messages/s
topic  4 producers, 10 subscribers: messages/s out

Every server (both twins, and beanstalkd with `-b DIR -f 0` where it is installed) has its turn in every round, so that
what else the machine does falls on all; the table has the medians. The generator takes the options that
`bench/end_to_end.py` names, `-p beanstalk`, `-m pipe` and `-m topic`, and prints one JSON line. The data directories
are made below the working directory unless `--directory` says otherwise: /tmp may be no disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from end_to_end import broker
from rich.console import Console
from rich.table import Table

from radiator._speedups import COMPILED

GOALS = {"put": 40_000, "get": 25_000}
"""What the compiled twin must reach, per second, on two cores shared with the load."""

LOADS: dict[str, tuple[str, ...]] = {
    "put": ("-c", "20", "-w", "10"),
    "get": ("-C", "20"),
    "pipe": ("-c", "20", "-C", "20", "-w", "10"),
    "topic": ("-c", "4", "-C", "10", "-w", "50"),
}
SHARES = {"compiled": 1, "pure": 4, "beanstalkd": 50}
"""A slower server gets so much less to do: the rate does not depend on it. beanstalkd syncs once for each message."""

_PATIENCE_SECONDS = 10.0


@contextmanager
def beanstalkd(directory: str) -> Iterator[tuple[tuple[str, int], int]]:
    """A beanstalkd that syncs with every write: ((host, port), process id)."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()[:2]
    with tempfile.TemporaryDirectory(dir=directory, prefix="bench-") as place:
        command = ["beanstalkd", "-l", address[0], "-p", str(address[1]), "-b", place, "-f", "0"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # it complains of every client that leaves
        try:
            end = time.monotonic() + _PATIENCE_SECONDS
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    socket.create_connection(address).close()
                    break
                if time.monotonic() > end or process.poll() is not None:
                    raise RuntimeError("beanstalkd did not start")
                time.sleep(0.01)
            yield address, process.pid
        finally:
            process.terminate()
            process.wait()


def run(loadgen: str, server: str, mode: str, address: tuple[str, int], pid: int, total: int) -> dict[str, Any]:
    """One load; what the generator says of it."""
    protocol = "beanstalk" if server == "beanstalkd" else "stomp"
    # put and get share a queue: the one drains what the other has left.
    destination = {"put": "/queue/bench", "get": "/queue/bench", "pipe": "/queue/pipe", "topic": "/topic/bench"}[mode]
    command = [loadgen, "-p", protocol, "-a", address[0], "-P", str(address[1]), "-m", mode, *LOADS[mode]]
    command += ["-n", str(total), "-s", "100", "-d", destination, "-M", str(pid), "-t", "120"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    if mode != "topic" and total not in (figures["put"], figures["got"]):
        raise RuntimeError(f"{server}: {mode} was not finished: {done.stdout}")
    return figures


def measure(options: argparse.Namespace, servers: list[str]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """All rounds: what was said of each (mode, server)."""
    said: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for number in range(options.rounds):
        for server in servers:
            print(f"round {number + 1} of {options.rounds}: {server}", file=sys.stderr)
            if server == "beanstalkd":
                opened = beanstalkd(options.directory)
            else:
                opened = broker(options.directory, "require" if server == "compiled" else "off")
            with opened as (address, pid):
                for mode in LOADS:
                    if mode == "topic" and server == "beanstalkd":
                        continue
                    total = options.total // SHARES[server] // (10 if mode == "topic" else 1)
                    said[mode, server].append(run(options.loadgen, server, mode, address, pid, total))
    return said


def table(said: dict[tuple[str, str], list[dict[str, Any]]]) -> Table:
    """The medians, one line for each load and server."""
    shown = Table("load", "server", "per second", "all rounds", "p50 ms", "p99 ms", "CPU us", "to beanstalkd", "goal")
    for (mode, server), rounds in sorted(said.items(), key=lambda each: list(LOADS).index(each[0][0])):
        rate = median(each["msgs_per_s"] for each in rounds)
        other = said.get((mode, "beanstalkd"))
        ratio = rate / median(each["msgs_per_s"] for each in other) if other else None
        goal = GOALS.get(mode) if server == "compiled" else None
        shown.add_row(
            mode,
            server,
            f"{rate:,.0f}",
            " ".join(f"{each['msgs_per_s']:,.0f}" for each in rounds),
            f"{median(each['p50_us'] for each in rounds) / 1000:.1f}",
            f"{median(each['p99_us'] for each in rounds) / 1000:.1f}",
            f"{median(each['server_cpu_us_per_msg'] for each in rounds):.1f}",
            f"{ratio:.2f}" if ratio else "",
            "" if goal is None else f"{goal:,} {'reached' if rate >= goal else 'MISSED'}",
        )
    return shown


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loadgen", metavar="PATH", help="the outside load generator")
    parser.add_argument("--directory", default=".", help="where the servers' temporary data directories are made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-n", dest="total", type=int, default=200_000, help="messages of each load")
    parser.add_argument("--no-beanstalkd", action="store_true", help="leave it out")
    options = parser.parse_args()
    if not options.loadgen or not shutil.which(options.loadgen):
        parser.error("--loadgen PATH is needed: a built load generator (see above for what it must take)")
    servers = ["compiled", "pure"] if COMPILED else ["pure"]
    if not options.no_beanstalkd:
        if shutil.which("beanstalkd"):
            servers.append("beanstalkd")
        else:
            print("beanstalkd is not installed: nothing to compare with", file=sys.stderr)
    said = measure(options, servers)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table(said))
    missed = [
        f"{mode}: {goal:,}/s"
        for mode, goal in GOALS.items()
        if (mode, "compiled") not in said or median(each["msgs_per_s"] for each in said[mode, "compiled"]) < goal
    ]
    if missed:
        sys.exit(f"missed with the compiled twin: {', '.join(missed)}")


if __name__ == "__main__":
    main()
