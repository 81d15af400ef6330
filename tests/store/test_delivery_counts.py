"""How often a message was delivered: a clean stop says it, whatever the store's size; a crash may forget it."""

from __future__ import annotations

from random import Random

from model import DIRECTORY, files_of
from simdisk import SimDisk
from test_faults import new_disk, put, turn

from radiator.store.file.engine import FileStore
from radiator.store.file.spares import Puts
from radiator.store.file.syncer import InlineJobs, InlineSyncer


def open_store(disk: SimDisk) -> FileStore:
    syncer, jobs = InlineSyncer(disk), InlineJobs()
    store = FileStore(DIRECTORY, segment_bytes=65536, fsio=disk, syncer=syncer, jobs=jobs, stop_free=4096)
    store.open(0.0, 1)
    return store


def delivered(store: FileStore) -> dict[bytes, int]:
    """Everything that waits, with the number of its earlier deliveries."""
    queue = store.declare("/queue/a")
    held = []
    while queue.ready:
        turn(store)
        held += store.claim(queue, 100, 1 << 20)
    counts = {delivery.message.body: delivery.deliveries for delivery in held if delivery.message is not None}
    store.release(queue, [delivery.id for delivery in held], False)
    return counts


def give_back_one(store: FileStore) -> None:
    """The first message is delivered and comes back."""
    queue = store.declare("/queue/a")
    while not (held := store.claim(queue, 1, 1 << 20)):
        turn(store)
    store.release(queue, [held[0].id], True)


def filled(disk: SimDisk) -> FileStore:
    store = open_store(disk)
    for body in (b"one", b"two"):
        put(store, store.declare("/queue/a"), body)
    return store


def test_a_clean_stop_keeps_them() -> None:
    disk = new_disk()
    store = filled(disk)
    for count in (1, 2, 3):
        give_back_one(store)
        store.close()
        store = open_store(disk)
        assert delivered(store) == {b"one": count, b"two": 0}
        assert len(files_of(disk)) < 12, "they leave segments behind"


def test_a_stop_without_news_of_them_writes_nothing() -> None:
    disk = new_disk()
    store = filled(disk)
    give_back_one(store)
    store.close()
    before = files_of(disk)
    store = open_store(disk)
    assert delivered(store) == {b"one": 1, b"two": 0}
    store.close()
    assert files_of(disk) == before


def test_on_a_full_disk_they_may_be_low() -> None:
    """A stop takes no spare for them."""
    disk = new_disk()
    store = filled(disk)
    disk.capacity = disk.used()
    store.tick(100.0)
    turn(store)
    assert store._spares.puts is Puts.REFUSED
    give_back_one(store)
    store.close()
    disk.capacity = None
    assert delivered(open_store(disk))[b"one"] in (0, 1)
    assert sum("spare-" in path for path in disk.contents()) == 3


def test_a_stop_without_spares_ends_well_on_a_disk_that_is_full_unseen() -> None:
    disk = new_disk()
    store = filled(disk)
    give_back_one(store)
    for path in [path for path in disk.contents() if "spare-" in path]:
        disk.unlink(path)
    store._spares._ready.clear()
    disk.capacity = disk.used()
    store.close()


def test_a_crash_in_that_stop_loses_nothing_else() -> None:
    disk = new_disk()
    store = filled(disk)
    give_back_one(store)
    moments: list[SimDisk] = []
    disk.before = lambda what: moments.append(disk.copy())
    store.close()
    disk.before = lambda what: None
    seen = set()
    for number, moment in enumerate([*moments, disk]):
        found = delivered(open_store(moment.power_cut(Random(number))))
        assert found.keys() == {b"one", b"two"}
        seen.add(found[b"one"])
    assert len(moments) > 5
    assert seen == {0, 1}
