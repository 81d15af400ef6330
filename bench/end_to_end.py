"""Persistent messages over loopback with `fsync: always`, through a whole broker in a process of its own.

    pytest bench/end_to_end.py                                benchmark; fails under 1000 messages/s
    python bench/end_to_end.py [--loadgen PATH]               figures of the twin in use, one JSON line each

Both run the radiator that is installed (`PYTHONPATH=.` for the source tree).

`--loadgen PATH` is an outside load generator that takes `-p stomp -a HOST -P PORT -m put|get -n N -s BYTES -c PRODUCERS
-C CONSUMERS -w WINDOW -M PID`; without it `bench/load.py` makes the load (slower itself: it is Python). The data
directory is a temporary one below the working directory unless `--directory` says otherwise: /tmp may be no disk.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import radiator

sys.path.insert(0, str(Path(__file__).parent))

import load

FLOOR = 1000
"""Persistent messages per second that every machine must reach."""

QUEUE = "/queue/bench"


@contextmanager
def serving(command: list[str], env: dict[str, str], cwd: str | None = None) -> Iterator[tuple[tuple[str, int], int]]:
    """A broker that `command` starts: ((host, port), process id) once it listens; SIGTERM at the end."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **env}, cwd=cwd)
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            found = re.search(r"listening stomp (\S+):(\d+)", line)
            if found:
                break
        else:
            raise RuntimeError(f"the broker did not start: {''.join(said)}")
        yield (found[1], int(found[2])), process.pid
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def broker(directory: str, twin: str | None = None) -> Iterator[tuple[tuple[str, int], int]]:
    """A broker with its data below `directory`: ((host, port), process id). `twin` is the switch, None as it is."""
    env = {"PYTHONPATH": str(Path(radiator.__file__).parents[1])}
    if twin is not None:
        env["RADIATOR_SPEEDUPS"] = twin
    with tempfile.TemporaryDirectory(dir=directory, prefix="bench-") as place:
        command = [sys.executable, "-m", "radiator", "--listen", "127.0.0.1:0", "--data-dir", f"{place}/data"]
        with serving(command, env) as server:
            yield server


def test_persistent_messages(benchmark, tmp_path, twin):
    """Send with receipts, then drain; the slower of both rates counts."""
    total = 5000 if twin == "off" else 20000
    with broker(str(tmp_path), twin) as (address, _):

        def run() -> None:
            load.put(address, total, 20, 10, 100, QUEUE)
            load.get(address, total, 20, QUEUE)

        started = time.perf_counter()
        benchmark.pedantic(run, rounds=2, warmup_rounds=0)
        # Each round does both, so this is a rate of messages that went all the way.
        rate = 2 * total / (time.perf_counter() - started)
    benchmark.extra_info["messages_per_s"] = round(rate)
    assert rate >= FLOOR, f"{rate:.0f} persistent messages/s: the floor is {FLOOR}"


def pytest_generate_tests(metafunc) -> None:
    """Both twins where both are built."""
    if "twin" in metafunc.fixturenames:
        from radiator._speedups import COMPILED

        metafunc.parametrize("twin", ["require", "off"] if COMPILED else ["off"])


def main() -> None:
    """Print the figures: receipts/s of 20 producers with a window of 10, then messages/s of 20 draining consumers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loadgen", metavar="PATH", help="an outside load generator")
    parser.add_argument("--directory", default=".", help="where the broker's temporary data directory is made")
    parser.add_argument("-n", dest="total", type=int, default=200_000, help="messages in all")
    options = parser.parse_args()
    with broker(options.directory) as (address, pid):
        for mode in ("put", "get"):
            if options.loadgen:
                command = [options.loadgen, "-p", "stomp", "-a", address[0], "-P", str(address[1]), "-m", mode]
                command += ["-n", str(options.total), "-s", "100", "-w", "10", "-d", QUEUE, "-M", str(pid)]
                command += ["-c", "20"] if mode == "put" else ["-C", "20"]
                subprocess.run(command, check=True)
            else:
                started = time.perf_counter()
                if mode == "put":
                    load.put(address, options.total, 20, 10, 100, QUEUE)
                else:
                    load.get(address, options.total, 20, QUEUE)
                seconds = time.perf_counter() - started
                print(
                    json.dumps({"mode": mode, "messages": options.total, "msgs_per_s": round(options.total / seconds)})
                )


if __name__ == "__main__":
    main()
