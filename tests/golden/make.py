"""Golden stores: small data directories of each version of the format, and what a start must find in them.

They are made once, and kept for good: what a released radiator wrote, every later one must read. A new version of the
format adds a folder here, and never makes an old one anew.

    python tests/golden/make.py                    write tests/golden/1/*.tar.gz and *.json of the present version
    python tests/golden/make.py --describe FILE    what this radiator finds in one, as JSON

`crashed` ends with a batch that nothing says was synced; `stopped` came to a clean stop.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for folder in (HERE.parent / "store", HERE.parent.parent):  # what is installed comes first
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from model import DIRECTORY, disk_with, files_of  # noqa: E402
from simdisk import SimDisk  # noqa: E402

from radiator.message import Message  # noqa: E402
from radiator.store.base import Reason, StoreQueue, Unit  # noqa: E402
from radiator.store.file.engine import FileStore  # noqa: E402
from radiator.store.file.syncer import InlineJobs, InlineSyncer  # noqa: E402

VERSION = 1
NAMES = ("crashed", "stopped")
STORE_ID = bytes(range(16, 32))
WALL_MS = 1_700_000_000_000


def open_store(disk: SimDisk, now: float) -> FileStore:
    store = FileStore(
        DIRECTORY,
        segment_bytes=20480,
        fsio=disk,
        syncer=InlineSyncer(disk),
        jobs=InlineJobs(),
        entropy=lambda count: STORE_ID[:count],
    )
    store.open(now, WALL_MS)
    return store


def commit(store: FileStore, *puts: tuple[Message, list[StoreQueue]], settled: Mapping[Any, Reason] = {}) -> None:
    """One batch."""
    unit = Unit()
    for message, queues in puts:
        unit.put(message, queues)
    for (queue, id), reason in settled.items():
        unit.settle(queue, id, reason)
    store.append(unit)
    store.flush()
    for _ in range(4):
        store.completed()


def message(number: int, size: int = 40) -> Message:
    """Different in every field."""
    version = 10 + number % 3
    block = b"destination:/queue/a\nnumber:%d\n" % number + (b"tab\\ctab:x\\n\n" if number % 2 else b"")
    body = b"body %d " % number + bytes(range(256)) * (size // 256) + b"." * (size % 256)
    times = (WALL_MS + number, WALL_MS * (number % 3 == 0), WALL_MS * (number % 5 == 0))
    return Message(version, not number % 2, block, body, *times, number % 10)


def make(clean: bool) -> dict[str, bytes]:
    """All record types, in as few segments as have them: a log with a history."""
    disk = SimDisk()
    disk.make_parents("/data")
    store = open_store(disk, 0.0)
    a, b, gone = (store.declare(name) for name in ("/queue/a", "/queue/bé", "/queue/dropped"))
    commit(store, (message(1), [a]), (message(2), [a, b]), (message(3), [gone, a]), (message(4, 700), [b]))
    commit(store, *((message(number), [a]) for number in range(5, 12)))
    store.claim(a, 3, 1 << 20)
    held = store.claim(b, 2, 1 << 20)
    store.release(b, [delivery.id for delivery in held], delivered=True)
    commit(store, settled={(a, 1): Reason.ACKED, (a, 2): Reason.EXPIRED, (a, 3): Reason.DEAD_LETTERED})
    store.drop(gone)
    commit(store, (message(12), [a, b]))
    store.claim(a, 6, 1 << 20)
    commit(store, (message(13), [b]), settled={(a, 5): Reason.PURGED, (a, 6): Reason.PURGED, (a, 8): Reason.ACKED})
    commit(store, (message(14, 300), [store.declare("/queue/later")]))
    if clean:
        store.close()
    else:
        commit(store, (message(15), [a]), (message(16), [b]), settled={(a, 4): Reason.ACKED})
        # The watermark follows, then comes the batch of which nothing says that it was synced.
        store.tick(1.0)
        store.tick(2.0)
        store.completed()
        commit(store, (message(17), [a]))
    return files_of(disk)


def describe(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Everything that a start finds, in a form that JSON keeps."""
    store = open_store(disk_with(files), 0.0)
    found: dict[str, Any] = {"clean": store._clean, "queues": {}}
    for queue in store.queues():
        next_id: int = queue.next_id  # type: ignore[attr-defined]
        messages = []
        for delivery in store.claim(queue, 1000, 1 << 30):
            kept = delivery.message
            assert kept is not None
            fields = {name: getattr(kept, name) for name in Message.__slots__}
            fields |= {"id": delivery.id, "deliveries": delivery.deliveries}
            messages.append({k: v.decode("latin-1") if isinstance(v, bytes) else v for k, v in fields.items()})
        found["queues"][queue.name] = {"number": queue.number, "next": next_id, "messages": messages}
    return found


def pack(files: Mapping[str, bytes]) -> bytes:
    """A tar of the files that depends on nothing else."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for path, data in sorted(files.items()):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def load(path: Path) -> dict[str, bytes]:
    """The files of a golden store."""
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def main() -> None:
    if sys.argv[1:2] == ["--describe"]:
        json.dump(describe(load(Path(sys.argv[2]))), sys.stdout)
        return
    folder = HERE / str(VERSION)
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        files = make(clean=name == "stopped")
        (folder / f"{name}.tar.gz").write_bytes(pack(files))
        (folder / f"{name}.json").write_text(json.dumps(describe(files), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
