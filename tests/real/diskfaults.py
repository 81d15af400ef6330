"""A disk that fails under load: the daemon must say so once, promise nothing more, exit 74, and start again.

    python tests/real/diskfaults.py [FAULT …] [--fsync always|<N>ms|never] [--directory DIR] [--seed N]

    device                  a real EIO: the file system below the image is shut down, so its device fails each write
    tmpfs                   the same where a thin device is full: ext4 in a sparse file on a tmpfs that is too small
    SYSCALL:ERROR[:N]       strace lets the Nth such call of the daemon fail: fdatasync:EIO:5, pwrite64:ENOSPC, …

Without a FAULT all of FAULTS run. After the failure the disk is mended (the tmpfs grows, strace is gone), the daemon
starts again and everything is compared: under `always` nothing that was receipted before the fault is lost; otherwise
it counts as a power cut. Needs root, strace and mkfs.ext4. Called by: `test_real_faults`, and by hand.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from daemon import Daemon
from oracle import CONFIG, Books, Broken, Load, look, segments_of
from powercut import CachedImage, Image, why_not

__all__ = ["FAULTS", "Outcome", "run", "small_tmpfs", "why_no_strace"]

FAULTS = (
    "device",
    "tmpfs",
    "fdatasync:EIO:1",
    "fdatasync:EIO:40",
    "pwrite64:EIO:30",
    "pwrite64:ENOSPC:30",
    "fsync:EIO:2",
    "rename:EIO:2",
)

PATIENCE = 60.0
_SMALL = 48 << 20
_LARGE = 1 << 30
_ROOM = 512 << 10


class Outcome:
    """What a run saw: the line of the daemon, and how many receipts it had given and how many messages were there."""

    def __init__(self, line: str, receipts: int, there: int) -> None:
        self.line = line
        self.receipts = receipts
        self.there = there


def why_no_strace() -> str | None:
    """Why system calls cannot be made to fail here; None where they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    trial = subprocess.run(
        ["strace", "-f", "-e", "inject=fsync:error=EIO", "true"], capture_output=True, check=False, timeout=PATIENCE
    )
    return "strace may not trace here" if trial.returncode else None


@contextmanager
def small_tmpfs(directory: Path, size: int) -> Iterator[Path]:
    """A tmpfs of `size` bytes for the time of the `with`."""
    path = directory / "tmpfs"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def run(fault: str, directory: Path, fsync: str, seed: object) -> Outcome:
    """Load a daemon until `fault` ends it, mend the disk, start again, compare."""
    if fault == "device":
        with CachedImage(directory) as device:
            return _Run(directory, device.path / "data", fsync, seed).dead(device)
    if fault != "tmpfs":
        return _Run(directory, directory / "data", fsync, seed).injected(*fault.split(":"))
    with small_tmpfs(directory, _SMALL) as path, Image(path, 256 << 20) as image:
        return _Run(directory, image.path / "data", fsync, seed).full(image, path)


class _Run:
    """One data directory, its first daemon that meets the fault and its second that must know everything."""

    def __init__(self, directory: Path, data: Path, fsync: str, seed: object) -> None:
        self._directory = directory
        self._data = data
        self._fsync = fsync
        self._seed = seed
        self._books = Books()

    def dead(self, device: CachedImage) -> Outcome:
        with self._daemon() as daemon:
            look(daemon, self._books, 1)
            line = self._until_it_fails(daemon, device.cut)
        device.umount()
        device.mount()
        return self._again(line)

    def full(self, image: Image, tmpfs: Path) -> Outcome:
        image.write_page_by_page()
        with self._daemon() as daemon, _last_room(tmpfs) as room:
            look(daemon, self._books, 1)
            line = self._until_it_fails(daemon)
        image.umount()
        subprocess.run(["mount", "-o", f"remount,size={_LARGE}", str(tmpfs)], check=True)
        image.mount()
        return self._again(line, room[0])

    def injected(self, call: str, error: str, when: str = "1") -> Outcome:
        with self._daemon() as daemon:
            look(daemon, self._books, 1)
            tracing = ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}"]
            command = ["strace", "-f", "-qq", "-o", "/dev/null", *tracing, "-p", str(daemon.process.pid)]
            with subprocess.Popen(command, stderr=subprocess.DEVNULL) as strace:
                _until_traced(daemon.process.pid)
                line = self._until_it_fails(daemon)
                strace.wait(PATIENCE)
        return self._again(line)

    def _until_it_fails(self, daemon: Daemon, fail: Callable[[], object] | None = None) -> str:
        """Load it until it ends (`fail` is called under way); what it said."""
        load = Load(daemon, self._directory, 1, self._seed)
        try:
            if fail is not None:
                load.run(0.7)
                fail()
            code = daemon.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Broken("the disk failed and the daemon went on:\n" + "\n".join(daemon.log)) from None
        finally:
            daemon.kill()
            self._books.read(load)
        daemon.wait()
        said = [line for line in daemon.log if " error " in line.lower() or "cannot go on" in line]
        if code != 74 or len(said) != 1 or any("Traceback" in line for line in daemon.log):
            raise Broken(f"exit {code}, not 74 with one line:\n" + "\n".join(daemon.log))
        if str(self._data) not in said[0] or "start again" not in said[0]:
            raise Broken(f"it does not say which file and what to do: {said[0]}")
        if self._books.errors:
            raise Broken(self._books.errors[0])
        return said[0]

    def _again(self, line: str, certain_before: float = math.inf) -> Outcome:
        with self._daemon() as daemon:
            verdict = look(daemon, self._books, 2, certain_before if self._fsync == "always" else -math.inf)
            if daemon.terminate():
                raise Broken("SIGTERM, but:\n" + "\n".join(daemon.log))
        return Outcome(line, self._books.receipts, verdict.there)

    def _daemon(self) -> Daemon:
        config = f"{CONFIG}fsync: {self._fsync}\ndisk: {{stop_free: 0}}\n"
        prelude = segments_of(1 << 20)
        return Daemon(self._directory, config, log_level="info", prelude=prelude, data_dir=self._data)


@contextmanager
def _last_room(tmpfs: Path) -> Iterator[list[float]]:
    """In the list: the last moment at which the device below was seen to have room for whatever is written.

    A sync that is under way when the journal meets its first error may be reported as done (Linux 6.18: ext4 does not
    pass on that it could not mark the blocks as written); what was receipted from then on is not certain.
    """
    seen = [-math.inf]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.0005):
            moment = time.monotonic()
            found = os.statvfs(tmpfs)
            if found.f_bavail * found.f_frsize >= _ROOM:
                seen[0] = moment

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


def _until_traced(pid: int) -> None:
    """Wait until every thread of the process has a tracer."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
        if not any("\nTracerPid:\t0\n" in status for status in statuses):
            return
    raise Broken("strace did not attach")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", default=FAULTS, metavar="FAULT")
    parser.add_argument("--fsync", default="always", help="always, never or <N>ms")
    parser.add_argument("--directory", type=Path, default=None, help="where the temporary files are made")
    parser.add_argument("--seed", type=int, default=None, help="of what the clients do")
    options = parser.parse_args()
    seed = random.randrange(1 << 30) if options.seed is None else options.seed
    reason = why_not() or why_no_strace()
    if reason is not None:
        sys.exit(reason)
    print(f"seed {seed}, fsync {options.fsync}", flush=True)
    for fault in options.faults:
        with tempfile.TemporaryDirectory(dir=options.directory, prefix="fault-") as place:
            outcome = run(fault, Path(place), options.fsync, seed)
        print(f"{fault}: exit 74, {outcome.receipts} receipts, {outcome.there} messages there afterwards, none lost")
        print(f"    {outcome.line}", flush=True)


if __name__ == "__main__":
    main()
