"""The file engine on the real disk: kill -9 with an outside oracle, the lock, policies, and who may sync when."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from radiator.errors import StoreFailed, StoreLocked
from radiator.message import Message
from radiator.store.base import Unit
from radiator.store.file.engine import FileStore
from radiator.store.file.format import Names
from radiator.store.file.fsio import RealFsio
from radiator.store.file.repair import repair
from radiator.store.file.snapshot import snapshot
from radiator.store.file.syncer import InlineJobs, InlineSyncer

WRITER = """
import os, sys
from radiator.message import Message
from radiator.store.base import Unit
from radiator.store.file.engine import FileStore

store = FileStore(sys.argv[1], fsync=sys.argv[2], segment_bytes=65536)
store.open(0.0, 1, lambda *_: None)
queue = store.declare("/queue/a")
waiting = []

def told(number):
    while waiting and waiting[0][0] <= number:
        os.write(1, waiting.pop(0)[1])

store.durable = told
count = int(sys.argv[3])
while True:
    unit = Unit()
    unit.put(Message(12, True, b"a:b\\n", b"%d" % count), [queue])
    line = b"sent %d\\n" % count
    tried = b"sending %d\\n" % count
    count += 1
    for delivery in store.claim(queue, 1, 4096) if count % 3 == 0 else []:
        unit.settle(queue, delivery.id)
        line += b"gone %s\\n" % delivery.message.body
        tried += b"acking %s\\n" % delivery.message.body
    os.write(1, tried)
    waiting.append((store.append(unit), line))
    store.flush()
    store.completed()
"""


class Counting(RealFsio):
    """Counts what reaches the disk."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def sync_data(self, fd: int) -> None:
        self.calls.append("sync_data")
        super().sync_data(fd)

    def write(self, fd: int, data: Any, offset: int) -> int:
        self.calls.append("write")
        return super().write(fd, data, offset)


def new_store(path: Path, fsync: Any = "always", **options: Any) -> FileStore:
    fsio = options.pop("fsio", None) or RealFsio()
    store = FileStore(
        str(path),
        fsync=fsync,
        segment_bytes=options.pop("segment_bytes", 65536),
        fsio=fsio,
        syncer=InlineSyncer(fsio),
        jobs=InlineJobs(),
        **options,
    )
    store.open(0.0, 1)
    return store


def turn(store: FileStore) -> None:
    store.flush()
    for _ in range(3):
        store.completed()


def put(store: FileStore, *bodies: bytes) -> int:
    unit = Unit()
    for body in bodies:
        unit.put(Message(12, True, b"a:b\n", body), [store.declare("/queue/a")])
    return store.append(unit)


def found(path: Path) -> list[bytes]:
    store = new_store(path)
    queue = store.declare("/queue/a")
    bodies = []
    while queue.ready:
        bodies += [delivery.message.body for delivery in store.claim(queue, 100, 1 << 20) if delivery.message]
        store.completed()
    store.close()
    return bodies


@pytest.mark.parametrize("fsync", ["always", "never"])
def test_kill_nine_loses_nothing_that_was_told(tmp_path: Path, fsync: str) -> None:
    path = tmp_path / "store"
    heard: dict[bytes, set[int]] = {word: set() for word in (b"sending", b"acking", b"sent", b"gone")}
    for round_number in range(3):
        first = max(heard[b"sending"], default=0) + 1000
        arguments = [sys.executable, "-c", WRITER, str(path), fsync, str(first)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            lines: list[bytes] = []
            while sum(line.startswith(b"gone") for line in lines) < 20 + 7 * round_number:
                lines.append(writer.stdout.readline())
                assert lines[-1], "the writer ended by itself"
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):
                word, number = line.split()
                heard[word].add(int(number))
    left = [int(body) for body in found(path)]
    assert left == sorted(left)
    assert heard[b"sent"] - heard[b"acking"] <= set(left) <= heard[b"sending"]
    assert not heard[b"gone"] & set(left)


def test_a_second_store_on_the_directory_is_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    with pytest.raises(StoreLocked, match="in use by another radiator"):
        new_store(tmp_path / "store")
    store.close()
    new_store(tmp_path / "store").close()


def test_without_its_lock_file_the_directory_is_held_all_the_same(tmp_path: Path) -> None:
    """Whoever takes it for one that was left behind would let two brokers write over each other's messages."""
    store = new_store(tmp_path / "store")
    (tmp_path / "store/lock").unlink()
    with pytest.raises(StoreLocked, match="in use by another radiator"):
        new_store(tmp_path / "store")
    with pytest.raises(StoreLocked, match="in use by another radiator"):
        repair(RealFsio(), Names(str(tmp_path / "store")), lambda plan: True, wall_ms=1)
    store.close()
    new_store(tmp_path / "store").close()


def test_a_segment_that_lies_elsewhere_is_in_a_snapshot_itself(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    put(store, b"body")
    store.close()
    newer = new_store(tmp_path / "store")
    put(newer, b"another")
    newer.close()
    segments = sorted((tmp_path / "store/log").glob("*.seg"))
    (tmp_path / "other").mkdir()
    for segment in segments:
        segment.rename(tmp_path / "other" / segment.name)
        segment.symlink_to(tmp_path / "other" / segment.name)
    manifest = snapshot(RealFsio(), Names(str(tmp_path / "store")), str(tmp_path / "saved"), wall_ms=1)
    assert manifest.linked == len(segments) - 1 > 0
    for segment in segments:
        assert not (tmp_path / "saved/log" / segment.name).is_symlink()
    assert (tmp_path / "saved/log" / segments[0].name).samefile(tmp_path / "other" / segments[0].name)


def test_a_link_to_what_is_not_there_is_no_absence_and_makes_nothing(tmp_path: Path) -> None:
    fsio = RealFsio()
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    calls: list[Callable[[str], object]] = [
        fsio.open,
        lambda path: fsio.open(path, write=True),
        lambda path: fsio.open(path, create=True),
        fsio.lock,
        fsio.list_directory,
        fsio.lock_directory,
        fsio.sync_directory,
        lambda path: fsio.link(path, f"{path}.too"),
    ]
    for call in calls:
        with pytest.raises(OSError, match="leads to nothing") as told:
            call(str(link))
        assert (told.value.errno, told.value.filename) == (errno.ELOOP, str(link))
    assert os.listdir(tmp_path) == ["link"]
    for call in calls[:2]:
        with pytest.raises(FileNotFoundError):
            call(str(target))
    fsio.close(fsio.open(str(target), create=True))
    target.write_bytes(b"body")
    for options, left in (({}, b"body"), ({"write": True}, b"body"), ({"create": True}, b"")):
        fsio.close(fsio.open(str(link), **options))
        assert target.read_bytes() == left
    fsio.close(fsio.lock(str(link)))


def test_a_directory_that_was_made_stays(tmp_path: Path) -> None:
    """Each name on the way to it: a store, or a snapshot, is gone with any of them."""
    synced: list[str] = []

    class Noting(RealFsio):
        def sync_directory(self, path: str) -> None:
            synced.append(path)
            super().sync_directory(path)

    fsio = Noting()
    tmp_path = tmp_path.resolve()
    for _ in range(2):
        fsio.make_directory(str(tmp_path / "a" / "b" / "c"))
        assert synced == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "far").symlink_to(tmp_path / "a" / "b")
    fsio.make_directory(str(tmp_path / "link" / "d"))
    fsio.make_directory(str(tmp_path / "far" / ".." / "e" / "f"))
    assert synced[3:] == [str(tmp_path / "a"), str(tmp_path / "a"), str(tmp_path / "a" / "e")]


def test_a_lock_is_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(OSError, match="no regular file"):
        RealFsio().lock(str(tmp_path / "lock"))


@pytest.mark.parametrize(
    "which", ["FORMAT", "watermark", "lock", "log", "quarantine", "log/spare-1", "oldest", "newest"]
)
def test_a_start_is_refused_where_a_link_leads_to_nothing(which: str, tmp_path: Path) -> None:
    """Nothing is made anew for what lies on a disk that is not there: that would be a second store."""
    for _ in range(2):
        store = new_store(tmp_path / "store")
        put(store, b"body")
        store.close()
    segments = sorted((tmp_path / "store/log").glob("*.seg"))
    path = {"oldest": segments[0], "newest": segments[-1]}.get(which, tmp_path / "store" / which)
    path.rename(tmp_path / "other")
    path.symlink_to(tmp_path / "other")
    new_store(tmp_path / "store").close()
    (tmp_path / "other").rename(tmp_path / "away")
    before = files_of(tmp_path)
    with pytest.raises(StoreFailed) as told:
        new_store(tmp_path / "store")
    assert str(told.value).startswith(f"{path}: this is a symbolic link that leads to nothing: the ")
    assert files_of(tmp_path) == before
    (tmp_path / "away").rename(tmp_path / "other")
    store = new_store(tmp_path / "store")
    assert len(store.claim(store.declare("/queue/a"), 9, 4096)) == 2
    store.close()


def test_a_data_directory_that_leads_to_nothing_is_no_new_store(tmp_path: Path) -> None:
    (tmp_path / "store").symlink_to(tmp_path / "other")
    with pytest.raises(StoreFailed, match="leads to nothing"):
        new_store(tmp_path / "store")
    assert os.listdir(tmp_path) == ["store"]


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in directory.rglob("*")}


def test_a_directory_that_cannot_be_made_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreFailed, match="file"):
        new_store(tmp_path / "file" / "store")


def test_a_hundred_appends_of_a_turn_are_one_write_and_one_sync(tmp_path: Path) -> None:
    fsio = Counting()
    store = new_store(tmp_path / "store", fsio=fsio)
    put(store, b"first")
    turn(store)
    fsio.calls.clear()
    for number in range(100):
        put(store, b"%d" % number)
    turn(store)
    assert fsio.calls == ["write", "sync_data"]
    store.close()


def test_never_syncs_only_where_it_must(tmp_path: Path) -> None:
    fsio = Counting()
    store = new_store(tmp_path / "store", "never", fsio=fsio)
    put(store, b"first")
    turn(store)
    fsio.calls.clear()
    number = put(store, b"second")
    turn(store)
    assert (store.committed, fsio.calls) == (number, ["write"])
    store.tick(100.0)
    turn(store)
    assert fsio.calls == ["write"]
    put(store, bytes(70000))
    turn(store)
    put(store, b"in the next segment")
    turn(store)
    assert "sync_data" in fsio.calls
    store.close()


def test_the_interval_syncs_when_idle_too(tmp_path: Path) -> None:
    fsio = Counting()
    store = new_store(tmp_path / "store", "interval", interval_ms=50, fsio=fsio)
    put(store, b"first")
    turn(store)
    number = put(store, b"second")
    turn(store)
    fsio.calls.clear()
    assert store.committed == number
    deadline = store.tick(0.04)
    assert deadline is not None
    assert deadline <= 0.051
    assert fsio.calls == []
    store.tick(0.051)
    assert fsio.calls == ["sync_data"]
    turn(store)
    for step in range(10):
        assert store.tick(0.2 + step * 0.06) is not None
        turn(store)
    assert fsio.calls.count("sync_data") == 1
    store.close()


def test_the_watermark_follows_a_quiet_sync(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    put(store, b"first")
    turn(store)
    before = (tmp_path / "store/watermark").read_bytes()
    deadline = store.tick(1.0)
    assert deadline == pytest.approx(1.05)
    assert (tmp_path / "store/watermark").read_bytes() == before
    store.tick(1.06)
    store.completed()
    assert (tmp_path / "store/watermark").read_bytes() != before
    assert store.tick(2.0) == 3.0  # nothing is left but to ask how full the disk is
    store.close()


def test_dead_segments_are_unlinked_and_space_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = new_store(path)
    queue = store.declare("/queue/a")
    for _ in range(40):
        put(store, bytes(9000))
        turn(store)
        for delivery in store.claim(queue, 10, 1 << 20):
            unit = Unit()
            unit.settle(queue, delivery.id)
            store.append(unit)
            turn(store)
    store.close()
    assert len(list((path / "log").glob("*.seg"))) <= 2
    assert sum(file.stat().st_size for file in (path / "log").glob("*.seg")) < 3 * 65536
    assert found(path) == []


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
    for _ in range(3):
        store = FileStore(str(tmp_path / "store"), segment_bytes=65536)
        store.open(0.0, 1)
        put(store, bytes(70000), b"x")
        store.close()
    if before:
        assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_read_that_must_not_wait_says_cold_where_it_cannot_tell(tmp_path: Path, monkeypatch: Any) -> None:
    fsio = RealFsio()
    fd = fsio.open(str(tmp_path / "file"), create=True)
    fsio.write(fd, b"0123456789", 0)
    warm = fsio.read_nowait(fd, 2, 4)
    assert warm is None or bytes(warm) == b"2345"
    assert fsio.read_nowait(fd, 8, 4) is None
    calls: list[int] = []

    def refuse(*arguments: Any) -> int:
        calls.append(1)
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "preadv", refuse)
    assert fsio.read_nowait(fd, 0, 1) is None
    assert fsio.read_nowait(fd, 0, 1) is None
    assert len(calls) <= 1
    assert bytes(fsio.read(fd, 2, 100)) == b"23456789"
    fsio.close(fd)
