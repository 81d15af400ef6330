"""The early-receipt detector: syncs are made late, and every receipt and delivery of a load is held against them.

    python tests/real/earlyreceipt.py [--seconds 10] [--delay-ms 50] [--directory DIR] [--seed N]

A preloaded library delays each sync of the daemon and says when it began and ended. Under `always`, between the moment
when a client sent something and the moment when it was receipted (or the message delivered), a whole sync must lie: one
that began after the first and ended before the second. Needs Linux and a C compiler, no root. Called by:
`test_real_early_receipt`, and by hand.
"""

from __future__ import annotations

import argparse
import bisect
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from daemon import Daemon
from oracle import CONFIG, Books, Broken, Load
from test_early_receipt import LIBRARY

__all__ = ["detect", "early", "why_no_compiler"]


def why_no_compiler() -> str | None:
    """Why syncs cannot be delayed here; None where they can."""
    if sys.platform != "linux":
        return "a library is preloaded on Linux only"
    return None if shutil.which(os.environ.get("CC", "cc")) else "no C compiler is installed"


def early(began: Sequence[float], ended: Sequence[float], sent_at: float, told_at: float) -> bool:
    """Was something that was sent at `sent_at` told to be safe at `told_at` without a whole sync between them?

    `began` and `ended` are sorted. Two syncs at a time make the answer milder, never wrong.
    """
    first = bisect.bisect_right(began, sent_at)
    if first == len(began):
        return True
    last = bisect.bisect_left(ended, began[first])
    return last == len(ended) or ended[last] > told_at


def detect(directory: Path, seconds: float, delay_ms: int, seed: object, prelude: str = "") -> tuple[int, int]:
    """Load a daemon with late syncs for so long; how many receipts and deliveries were held against how many syncs."""
    library = directory / "slow_sync.so"
    compiler = os.environ.get("CC", "cc")
    source = library.with_suffix(".c")
    source.write_text(LIBRARY)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    delay = directory / "delay"
    delay.write_text(str(delay_ms))
    env = {"LD_PRELOAD": str(library), "RADIATOR_TEST_DELAY": str(delay)}
    config = f"{CONFIG}fsync: always\n"
    books = Books()
    with Daemon(directory, config, log_level="info", env=env, prelude=prelude) as daemon:
        load = Load(daemon, directory, 1, seed)
        load.run(seconds)
        daemon.kill()
    daemon.wait()
    books.read(load)
    times = {word: _times(daemon.log, f"sync {word} ") for word in ("began", "ended")}
    told = [(unit.name, unit.sent_at, unit.done_at) for unit in books.units.values() if unit.done_at < math.inf]
    sent_at = {reference: unit.sent_at for unit in books.units.values() for reference in unit.puts}
    told += [(reference, sent_at[reference], at) for reference, at in books.delivered.items()]
    for what, sent, at in told:
        if early(times["began"], times["ended"], sent, at):
            raise Broken(f"{what}: sent at {sent}, told at {at}, and no sync of that time covers it")
    return len(told), len(times["ended"])


def _times(log: list[str], start: str) -> list[float]:
    return sorted(float(line.removeprefix(start).split()[0]) for line in log if line.startswith(start))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of load")
    parser.add_argument("--delay-ms", type=int, default=50, help="of each sync")
    parser.add_argument("--directory", type=Path, default=None, help="where the temporary files are made")
    parser.add_argument("--seed", type=int, default=None, help="of what the clients do")
    options = parser.parse_args()
    reason = why_no_compiler()
    if reason is not None:
        sys.exit(reason)
    seed = random.randrange(1 << 30) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="early-") as place:
        told, syncs = detect(Path(place), options.seconds, options.delay_ms, seed)
    print(
        f"seed {seed}: {told} receipts and deliveries, {syncs} syncs of at least {options.delay_ms} ms: none was early"
    )


if __name__ == "__main__":
    main()
