"""What a backlog costs: memory per waiting message, the speed of work beside it, and the start after it.

Run by `python -m bench.backlog` from the top of the source: it makes a store in a new directory under `--directory`,
loads `--messages` waiting messages through the store's interface, and prints

    growth     bytes of resident memory per waiting message, at a tenth of the backlog and at all of it
    speed      messages per second of processor time that come, are claimed and settled, with the backlog and in an
               empty store, in turns (the disk is as busy with both, and more so with what the load left behind)
    clean      seconds of a start after a clean stop, with the saved index; and of the stop
    unclean    seconds of a start after a kill, per GB of log
    drained    bytes of resident memory per message that are left when the queue was drained

Each start is in a process of its own. `--cold` forgets the page cache of the log before it. The store is removed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from radiator.message import Message
from radiator.store.base import StoreQueue, Unit
from radiator.store.file.engine import FileStore
from radiator.store.file.fsio import RealFsio
from radiator.store.file.syncer import InlineJobs, InlineSyncer

BATCH = 500
BLOCK = b"destination:/queue/backlog\ncontent-type:text/plain\n"


def resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def opened(path: str) -> FileStore:
    fsio = RealFsio()
    store = FileStore(path, fsync="never", fsio=fsio, syncer=InlineSyncer(fsio), jobs=InlineJobs())
    store.open(time.monotonic(), time.time_ns() // 1_000_000)
    return store


def turn(store: FileStore) -> None:
    store.flush()
    store.completed()
    store.completed()


def load(store: FileStore, queue: StoreQueue, count: int, size: int) -> None:
    message = Message(12, True, BLOCK, b"x" * size, time.time_ns() // 1_000_000)
    for at in range(count):
        unit = Unit()
        unit.put(message, [queue])
        store.append(unit)
        if at % BATCH == BATCH - 1:
            turn(store)
    turn(store)


def work(store: FileStore, queue: StoreQueue, count: int, size: int) -> float:
    """Messages per second of processor time through a queue: put, made visible, claimed, settled."""
    message = Message(12, True, BLOCK, b"x" * size, time.time_ns() // 1_000_000)
    start = time.process_time()
    for _ in range(0, count, BATCH):
        for _ in range(BATCH):
            unit = Unit()
            unit.put(message, [queue])
            store.append(unit)
        turn(store)
        for delivery in store.claim(queue, BATCH, 1 << 30):
            unit = Unit()
            unit.settle(queue, delivery.id)
            store.append(unit)
        turn(store)
    return count / (time.process_time() - start)


def forget(path: str) -> None:
    """Take the store's files out of the page cache."""
    for file in Path(path).rglob("*"):
        if file.is_file():
            fd = os.open(file, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def log_bytes(path: str) -> int:
    return sum(file.stat().st_blocks * 512 for file in Path(path, "log").glob("*.seg"))


def start(path: str) -> None:
    """The child's part: one start, timed."""
    before = resident()
    begin, cpu = time.perf_counter(), time.process_time()
    store = opened(path)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    messages = sum(queue.ready for queue in store.queues())
    growth = (resident() - before) / max(1, messages)
    sys.stdout.write(f"{seconds:.2f} s ({cpu:.2f} s of it on the processor), {messages} messages, ")
    sys.stdout.write(f"{growth:.1f} bytes of memory each\n")
    sys.stdout.flush()
    os._exit(0)


def fill(path: str, arguments: argparse.Namespace) -> None:
    """The child's part: load, measure, stop cleanly."""
    out = sys.stdout
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as beside:
        empty = opened(os.path.join(beside, "store"))
        store = opened(path)
        queue, busy, lone = store.declare("/queue/backlog"), store.declare("/queue/busy"), empty.declare("/queue/busy")
        turn(store)
        load(store, queue, BATCH, arguments.size)
        work(empty, lone, BATCH, arguments.size)
        before = resident()
        for part in (arguments.messages // 10, arguments.messages):
            load(store, queue, part - queue.ready, arguments.size)
            out.write(f"growth at {queue.ready}: {(resident() - before) / queue.ready:.2f} bytes per message\n")
            out.flush()
        pairs = [
            (work(empty, lone, arguments.work, arguments.size), work(store, busy, arguments.work, arguments.size))
            for _ in range(arguments.rounds)
        ]
        best = [max(side) for side in zip(*pairs, strict=True)]
        out.write(f"speed: {best[0]:.0f}/s empty, {best[1]:.0f}/s with the backlog: {best[1] / best[0]:.2f} of it\n")
        begin = time.perf_counter()
        store.close()
        out.write(f"stop: {time.perf_counter() - begin:.2f} s, ")
        index = Path(path, "index")
        out.write(f"saved index {index.stat().st_size >> 20} MiB\n" if index.exists() else "no index saved\n")
        empty.close()


def drain(path: str) -> None:
    """The child's part: what is left in memory when all is gone."""
    before = resident()
    store = opened(path)
    (queue,) = (queue for queue in store.queues() if queue.name == "/queue/backlog")
    messages = queue.ready
    full = resident()
    while queue.ready:
        for delivery in store.claim(queue, 10_000, 1 << 30):
            unit = Unit()
            unit.settle(queue, delivery.id)
            store.append(unit)
        turn(store)
    sys.stdout.write(
        f"drained: {(full - before) / messages:.1f} bytes per message before, "
        f"{(resident() - before) / messages:.2f} after\n"
    )
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--directory", default=None)
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--size", type=int, default=100, help="bytes of a body")
    parser.add_argument("--work", type=int, default=100_000, help="messages of each round of the speed's comparison")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--child", choices=["fill", "start", "drain"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        {"fill": lambda: fill(arguments.directory, arguments), "start": lambda: start(arguments.directory)}.get(
            arguments.child, lambda: drain(arguments.directory)
        )()
        return
    directory = tempfile.mkdtemp(prefix="backlog-", dir=arguments.directory)
    path = os.path.join(directory, "store")

    def child(what: str) -> None:
        given = [f"--{name}={getattr(arguments, name)}" for name in ("messages", "size", "work", "rounds")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, __file__, "--child", what, "--directory", path, *given]
        subprocess.run(command, check=True, env=environment)

    def timed(what: str) -> None:
        if arguments.cold:
            forget(path)
        sys.stdout.write(what)
        sys.stdout.flush()
        child("start")

    try:
        child("fill")
        size = log_bytes(path) / 1e9
        timed("clean start: ")
        os.unlink(os.path.join(path, "index"))
        os.truncate(os.path.join(path, "watermark"), 0)
        timed(f"unclean start, {size:.2f} GB of log: ")
        child("drain")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
