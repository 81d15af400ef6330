"""What the broker takes of memory: a waiting message, a drained backlog, an idle connection; exit 1 over the goal.

    python bench/memory.py [-n 1000000] [--connections 2000] [--directory DIR]

Growth of resident memory (VmRSS) of a daemon with its default configuration, between the moments before and after: a
million waiting persistent messages, then all of them taken; and in a new daemon, so many connections that have shaken
hands and subscribed. The goals bind the compiled twin; the pure one's figures are printed beside them. The load is
`bench/load.py`, in this process.
"""

from __future__ import annotations

import argparse
import re
import resource
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import load
from end_to_end import QUEUE, broker
from rich.console import Console
from rich.table import Table

from radiator._speedups import COMPILED

GOALS = {"waiting message": 20.0, "idle connection": 24 * 1024.0, "after the drain": 4.0}
"""Bytes for each of them, at most; the last is what a message that is gone may leave behind."""

_SUBSCRIBE = b"SUBSCRIBE\nid:0\ndestination:/queue/idle\nack:client-individual\nreceipt:0\n\n\0"
_SETTLE_SECONDS = 1.0


def resident(pid: int) -> int:
    """VmRSS in bytes, once it stands still."""
    last = -1
    while True:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert found is not None
        now = int(found[1]) * 1024
        if now == last:
            return now
        last = now
        time.sleep(_SETTLE_SECONDS)


def measure(directory: str, twin: str, total: int, connections: int) -> dict[str, float]:
    """Bytes for each waiting message, for each after the drain, and for each idle connection."""
    found = {}
    with broker(directory, twin) as (address, pid):
        # What the first uses allocate is no growth: buffers, caches, the segment.
        load.put(address, 20_000, 20, 10, 100, QUEUE)
        load.get(address, 20_000, 20, QUEUE)
        before = resident(pid)
        load.put(address, total, 20, 100, 100, QUEUE)
        found["waiting message"] = (resident(pid) - before) / total
        load.get(address, total, 20, QUEUE)
        found["after the drain"] = (resident(pid) - before) / total
    # A broker of its own: in the first one they would live in what the backlog left behind, and seem to cost nothing.
    with broker(directory, twin) as (address, pid):
        # The first of them grow tables that all share; they stay, so that nothing is there to be used again.
        peers = _connect(address, 100)
        before = resident(pid)
        peers += _connect(address, connections)
        found["idle connection"] = (resident(pid) - before) / connections
        for peer in peers:
            peer.close()
    return found


def _connect(address: tuple[str, int], count: int) -> list[socket.socket]:
    peers = []
    for _ in range(count):
        peer = load._Peer(address)
        peer.sock.sendall(_SUBSCRIBE)
        answer = b""
        while not answer.endswith(b"\0"):
            answer += peer.sock.recv(65536)
        if not answer.startswith(b"RECEIPT"):
            raise ConnectionError(answer.decode(errors="replace"))
        peers.append(peer.sock)
    return peers


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", dest="total", type=int, default=1_000_000, help="messages waiting")
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--directory", default=".", help="where the brokers' temporary data directories are made")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    shown = Table("bytes for each", "goal", *(twins := ["compiled", "pure"] if COMPILED else ["pure"]))
    found = {}
    for twin in twins:
        print(f"{twin} ...", file=sys.stderr)
        switch = "require" if twin == "compiled" else "off"
        found[twin] = measure(options.directory, switch, options.total, options.connections)
    for what, goal in GOALS.items():
        shown.add_row(what, f"{goal:,.0f}", *(f"{found[twin][what]:,.1f}" for twin in twins))
    Console().print(shown)
    missed = [what for what, goal in GOALS.items() if found.get("compiled", {}).get(what, goal + 1) > goal]
    if missed:
        sys.exit(f"over the goal with the compiled twin: {', '.join(missed)}")


if __name__ == "__main__":
    main()
