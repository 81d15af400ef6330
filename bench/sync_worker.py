"""Is the compiled sync worker worth its place? The same broker with it and with a Python thread, in turns.

    PYTHONPATH=. python bench/sync_worker.py --loadgen PATH [--rounds 5] [-n 100000] [--directory DIR]

Both sides use the compiled twins and differ in the sync worker alone. `put` is 20 producers with a window of 10, `lone`
one producer that waits for each receipt, `pipe` 20 producers and 20 consumers; figures are medians of messages/s and of
the server's CPU time per message.
The generator takes the options that `bench/end_to_end.py` names.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

_START = """
import sys
from radiator.server import daemon
from radiator.store.file.fsio import RealFsio
from radiator.store.file.syncer import ThreadSyncer
from radiator.cli import main
if sys.argv.pop(1) == "thread":
    daemon._sync_worker = lambda: ThreadSyncer(RealFsio())
main()
"""

LOADS = {
    "put": ["-m", "put", "-c", "20", "-w", "10"],
    "lone": ["-m", "put", "-c", "1", "-w", "1"],
    "pipe": ["-m", "pipe", "-c", "20", "-C", "20", "-w", "10", "-d", "/queue/pipe"],
}
SHARES = {"put": 1, "lone": 20, "pipe": 2}
"""A load has this part of the messages, so that all take about as long."""


def run(worker: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The figures of one daemon's life."""
    env = {**os.environ, "RADIATOR_SPEEDUPS": "require"}
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="bench-") as place:
        arguments = ["--listen", "127.0.0.1:0", "--data-dir", f"{place}/data"]
        process = subprocess.Popen(
            [sys.executable, "-c", _START, worker, *arguments], stderr=subprocess.PIPE, text=True, env=env
        )
        try:
            assert process.stderr is not None
            found = next(filter(None, (re.search(r"listening stomp (\S+):(\d+)", line) for line in process.stderr)))
            figures = {}
            for name, load in LOADS.items():
                command = [options.loadgen, "-p", "stomp", "-a", found[1], "-P", found[2], *load]
                command += ["-n", str(options.total // SHARES[name]), "-s", "100", "-M", str(process.pid)]
                figures[name] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            return figures
        finally:
            process.terminate()
            process.communicate()


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loadgen", metavar="PATH", required=True, help="an outside load generator")
    parser.add_argument("--directory", default=".", help="where the temporary data directories are made")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-n", dest="total", type=int, default=100_000, help="messages of a put load")
    options = parser.parse_args()
    rounds = [(run("native", options), run("thread", options)) for _ in range(options.rounds)]
    for name in LOADS:
        for figure in ("msgs_per_s", "server_cpu_us_per_msg"):
            native = statistics.median(pair[0][name][figure] for pair in rounds)
            thread = statistics.median(pair[1][name][figure] for pair in rounds)
            ratio = statistics.median(pair[0][name][figure] / pair[1][name][figure] for pair in rounds)
            print(f"{name:5} {figure:22} native {native:10.1f}  thread {thread:10.1f}  native/thread {ratio:.2f}")


if __name__ == "__main__":
    main()
