"""Stores to break: small, of several segments, with everything in them; and what must be found in them.

Nothing here asserts; the tests of check, repair and snapshot do.
"""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

from model import DIRECTORY, State, read_everything
from simdisk import SimDisk

from radiator.message import Message
from radiator.store.base import Reason, StoreQueue, Unit
from radiator.store.file.engine import FileStore
from radiator.store.file.format import Names
from radiator.store.file.syncer import InlineJobs, InlineSyncer

NAMES = Names(DIRECTORY)
SEGMENT_BYTES = 49152


class Built(NamedTuple):
    """A disk with a store, what is alive in it, and everything that was ever sent: (queue, body)."""

    disk: SimDisk
    state: State
    sent: set[tuple[str, bytes]]


def open_store(disk: SimDisk, segment_bytes: int = SEGMENT_BYTES, **options: Any) -> FileStore:
    """The engine on that disk."""
    store = FileStore(
        DIRECTORY,
        segment_bytes=segment_bytes,
        buffer_bytes=16384,
        fsio=disk,
        syncer=InlineSyncer(disk),
        jobs=InlineJobs(),
        entropy=Random(5).randbytes,
        **options,
    )
    store.open(0.0, 1_700_000_000_000)
    return store


def turn(store: FileStore) -> None:
    """The end of a turn, and what the disk did meanwhile."""
    store.flush()
    for _ in range(4):
        store.completed()


def build(seed: int = 1, steps: int = 80, *, clean: bool = True, cache: bool = False) -> Built:
    """A store with a history of sends, fanout, transactions, acknowledgements and rotations.

    Without its cache (the saved index), since a start that uses one looks at little else.
    """
    rng = Random(seed)
    disk = SimDisk()
    disk.make_parents("/data")
    store = open_store(disk)
    queues = [store.declare(f"/queue/{name}") for name in "abc"]
    sent: set[tuple[str, bytes]] = set()
    for step in range(steps):
        unit = Unit()
        for _ in range(rng.randint(1, 3)):
            body = b"%d:" % step + rng.randbytes(rng.choice((10, 200, 2500)))
            targets: list[StoreQueue] = rng.sample(queues, rng.choice((1, 1, 1, 2)))
            unit.put(
                Message(12, True, b"destination:/queue/x\nn:%d\n" % step, body, arrival_ms=1_700_000_000_000), targets
            )
            sent |= {(queue.name, body) for queue in targets}
        queue = rng.choice(queues)
        held = store.claim(queue, rng.randint(0, 4), 10000)
        for delivery in held:
            if rng.random() < 0.4:
                unit.settle(queue, delivery.id, Reason.ACKED)
            else:
                store.release(queue, [delivery.id], delivered=True)
        store.append(unit)
        turn(store)
    state = read_everything(store)
    if clean:
        store.close()
    path = f"{DIRECTORY}/index"
    if not cache and path in disk.contents():
        disk.unlink(path)
        disk.sync_directory(DIRECTORY)
    return Built(disk, state, sent)


def state_of(disk: SimDisk) -> State:
    """What a start finds."""
    store = open_store(disk)
    state = read_everything(store)
    store.close()
    return state
