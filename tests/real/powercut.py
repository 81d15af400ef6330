"""Real power cuts: a file system on a loop device is shut down under load without its journal, mounted and compared.

    python tests/real/powercut.py [--cycles 200] [--fsync always|<N>ms|never] [--cache] [--filesystem ext4|xfs]
                                  [--directory DIR] [--seed N]

The shutdown ioctl (with the flag that keeps the journal from being flushed) leaves on the device what the kernel had
written to it, and nothing else: dirty pages and uncommitted names are gone. With --cache the image lies in a second
one, which is the one that is shut down: what was written to the disk and not flushed is gone too. What is promised:

    always   nothing is lost that was receipted before the cut
    <N>ms    at most what was receipted in the last N ms and one sync, and only as the end of the order of commits
    never    only the end of the order of commits
    all      nothing invented, no unit by halves, nothing back that was once seen to be gone; after SIGTERM nothing lost

A daemon that meets the dead disk must exit 74. It must never leave a mount or a loop device behind. Needs root. Called
by: `test_real_powercut`, and by hand (the package is installed, or PYTHONPATH names it).
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from daemon import Daemon
from killloop import options_of
from oracle import CONFIG, SEGMENTS, Books, Broken, Load, look, segments_of

__all__ = ["CachedImage", "Image", "PowerCuts", "why_not"]

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN
_WITHOUT_LOG_FLUSH = struct.pack("I", 2)  # EXT4_GOING_FLAGS_NOLOGFLUSH, XFS_FSOP_GOING_FLAGS_NOLOGFLUSH
IMAGE_BYTES = 768 << 20

FILESYSTEMS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
"""How they are made."""

FILESYSTEM: tuple[str, dict[str, object]] = ("--filesystem", {"choices": FILESYSTEMS, "default": "ext4"})
"""The option, as `options_of` takes it."""

SYNC_SECONDS = 0.5
"""What one sync may take here: the machine has other things to do than this test."""


def why_not(filesystem: str = "ext4") -> str | None:
    """Why such file systems cannot be made and mounted here; None where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux to mount file systems"
    tools = (FILESYSTEMS[filesystem][0], "mount", "umount", "losetup")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if subprocess.run(["losetup", "--find"], capture_output=True, check=False).returncode:
        return "no loop device can be had"
    return None


class Image:
    """A file system in a sparse file, mounted on `path` inside the `with`; the mount may be cut and come back."""

    def __init__(self, directory: Path, size: int = IMAGE_BYTES, filesystem: str = "ext4") -> None:
        self.path = directory / "disk"
        self.path.mkdir()
        self._mounted = False
        self.file = directory / "image"
        with self.file.open("wb") as file:
            file.truncate(size)
        subprocess.run([*FILESYSTEMS[filesystem], str(self.file)], check=True)

    def __enter__(self) -> Image:
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        self.umount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.file), str(self.path)], check=True)
        self._mounted = True

    def write_page_by_page(self) -> None:
        """Let the device write one page at a time, so that what it says of a write is true of all of it.

        A loop device reports a write that its file took only in part as done (Linux 6.18: `lo_complete_rq` looks at
        short reads alone), which no program above it can see.
        """
        found = subprocess.run(
            ["losetup", "-n", "-O", "NAME", "-j", self.file], capture_output=True, check=True, text=True
        )
        device = Path(found.stdout.strip()).name
        Path(f"/sys/block/{device}/queue/max_sectors_kb").write_text("4")

    def umount(self) -> None:
        """Take the mount away, and with it the loop device."""
        if self._mounted:  # not asked of the file system, which may be shut down
            subprocess.run(["umount", str(self.path)], check=True)
            self._mounted = False

    def cut(self) -> float:
        """The power is gone, what is open gives EIO; the moment before that.

        A sync that is under way at that moment may still be reported as done (Linux 6.18: ext4 does not pass on that
        it could not mark the blocks as written), which no machine without power could tell anybody.
        """
        fd = os.open(self.path, os.O_RDONLY)
        try:
            moment = time.monotonic()
            fcntl.ioctl(fd, _SHUTDOWN, _WITHOUT_LOG_FLUSH)
            return moment
        finally:
            os.close(fd)


class CachedImage(Image):
    """The same on a disk that has a cache of its own: the image lies in another one, and that is what is cut.

    What the inner file system wrote to its device is in the outer one's page cache; only a flush takes it from there.
    """

    def __init__(self, directory: Path, filesystem: str = "ext4") -> None:
        outside = directory / "device"
        outside.mkdir()
        self._outer = Image(outside, IMAGE_BYTES + (256 << 20))
        with self._outer:
            super().__init__(self._outer.path, filesystem=filesystem)
        self.path = directory / "disk"
        self.path.mkdir()

    def mount(self) -> None:
        self._outer.mount()
        super().mount()

    def umount(self) -> None:
        super().umount()
        self._outer.umount()

    def cut(self) -> float:
        return self._outer.cut()


class PowerCuts:
    """One data directory on one image, and the lives of its daemons.

    `lost` counts receipts from before a cut that it took back, the oldest by `lost_seconds`; `untrue` those that came
    while it happened.
    """

    def __init__(self, image: Image, journals: Path, fsync: str, seed: int, bug: str = "") -> None:
        """`bug`: what a test does to the daemon before it starts; then the pure twin runs."""
        self.cuts = self.lost = self.untrue = self.there = 0
        self.lost_seconds = 0.0
        self.books = Books()
        self._image = image
        self._directory = journals
        self._fsync = fsync
        self._bug = bug
        self._seed = seed
        self._chance = random.Random(seed)
        self._life = 0
        self._certain_before = math.inf
        self._cut_at = 0.0

    def cycle(self) -> None:
        """One life: compare, load, cut, mount again."""
        self._life += 1
        while self._chance.random() < 0.15:
            # Recovery may be cut as often as it likes; what it trusted is what it must find again.
            with self._daemon(wait=False) as daemon:
                time.sleep(self._chance.uniform(0.1, 0.6))
                self._cut(daemon)
        with self._daemon() as daemon:
            self._look(daemon)
            load = Load(daemon, self._directory, self._life, self._seed)
            load.run(self._chance.uniform(0.02, 1.2))
            if daemon.process.poll() is not None:
                raise Broken("it ended by itself:\n" + "\n".join(daemon.log))
            clean = self._chance.random() < 0.1
            if clean and daemon.terminate():
                raise Broken("SIGTERM, but:\n" + "\n".join(daemon.log))
            self._cut_at = self._cut(daemon)
        self.books.read(load)
        if self.books.errors:
            raise Broken(self.books.errors[0])
        self._certain_before = math.inf if clean else self._bound()

    def check(self) -> None:
        """A last life that only compares."""
        self._life += 1
        with self._daemon() as daemon:
            self._look(daemon)
            if daemon.terminate():
                raise Broken("SIGTERM, but:\n" + "\n".join(daemon.log))
        self._certain_before = math.inf

    def _bound(self) -> float:
        """What was promised before this moment must be there."""
        if self._fsync == "always":
            return self._cut_at
        if self._fsync == "never":
            return -math.inf
        return self._cut_at - int(self._fsync.removesuffix("ms")) / 1000 - SYNC_SECONDS

    def _look(self, daemon: Daemon) -> None:
        verdict = look(daemon, self.books, self._life, self._certain_before)
        self.there += verdict.there
        ages = [self._cut_at - moment for moment in verdict.lost]
        self.lost += sum(age > 0 for age in ages)
        self.untrue += sum(age <= 0 for age in ages)
        self.lost_seconds = max(self.lost_seconds, *ages, 0.0)

    def _cut(self, daemon: Daemon) -> float:
        """Cut the power under `daemon`, see it end as it should, bring the disk back; when that was."""
        self.cuts += 1
        ran = daemon.process.poll() is None
        moment = self._image.cut()
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.process.wait(0.5)
        if daemon.process.poll() is None:
            daemon.kill()  # it had nothing to write, so it never met the dead disk
        elif ran and daemon.wait() != 74:
            raise Broken(f"exit {daemon.wait()} on a dead disk:\n" + "\n".join(daemon.log))
        self._image.umount()
        self._image.mount()
        return moment

    def _daemon(self, wait: bool = True) -> Daemon:
        config = f"{CONFIG}fsync: {self._fsync}\n"
        data = self._image.path / "data"
        prelude = segments_of(self._chance.choice(SEGMENTS)) + self._bug
        env = {"RADIATOR_SPEEDUPS": "off"} if self._bug else {}
        return Daemon(self._directory, config, log_level="info", prelude=prelude, wait=wait, data_dir=data, env=env)


def main() -> None:
    """The command line."""
    cache = ("--cache", {"action": "store_true", "help": "the disk has a cache of its own"})
    options = options_of(__doc__, cache, FILESYSTEM)
    reason = why_not(options.filesystem)
    if reason is not None:
        sys.exit(reason)
    started = time.monotonic()
    kind = CachedImage if options.cache else Image
    with (
        tempfile.TemporaryDirectory(dir=options.directory, prefix="cut-") as place,
        kind(Path(place), filesystem=options.filesystem) as image,
    ):
        loop = PowerCuts(image, Path(place), options.fsync, options.seed)
        for number in range(options.cycles):
            loop.cycle()
            if sys.stderr.isatty():
                print(f"\r{number + 1} of {options.cycles}", end="", file=sys.stderr, flush=True)
        loop.check()
    lost = f"{loop.lost} receipts lost, the oldest {loop.lost_seconds * 1000:.0f} ms before its cut"
    print(
        f"{options.cycles} cycles: {loop.cuts} cuts, {loop.books.receipts} receipts, {loop.there} messages compared, "
        f"{lost if loop.lost else 'none lost'} ({loop.untrue} came during a cut), none invented, "
        f"{time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
