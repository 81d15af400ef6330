"""`store check` and the saved index: it is told whether a start uses it, and whether it says what the log says."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from history import History
from model import DIRECTORY, Model
from simdisk import SimDisk
from test_faults import spoil
from test_index_cache import INDEX, busy, index_of, killed_index, new_store, put, without_index

from radiator.store.file import engine, inspect
from radiator.store.file.cache import save_index
from radiator.store.file.engine import FileStore
from radiator.store.file.format import Names
from radiator.store.file.ledger import FileQueue, Ledger
from radiator.store.file.views import Finding

AGREES = "the saved index says what the log says, and is used by a start"


def stopped() -> SimDisk:
    disk, store = busy()
    store.close()
    return disk


def told(disk: SimDisk) -> tuple[list[Finding], bool]:
    """What a check says of the index, and whether it finds damage at all; it changes nothing."""
    before, opened = disk.contents(), set(disk.files)
    checked = inspect.check(disk, Names(DIRECTORY))
    checked.survey.close()
    assert disk.contents() == before
    assert set(disk.files) == opened, "a file was left open"
    return [finding for finding in checked.survey.findings if finding.kind == "index"], bool(checked.damage)


def the_one(disk: SimDisk) -> tuple[str, bool]:
    (finding,), damaged = told(disk)
    assert finding.path == INDEX
    return finding.what, damaged


def test_a_store_without_one() -> None:
    assert told(without_index(stopped())) == ([], False)


def test_one_that_a_start_uses() -> None:
    assert the_one(stopped()) == (AGREES, False)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_was_done_before_the_stop(seed: int) -> None:
    class Indexed(History):
        def make_store(self) -> FileStore:
            store = super().make_store()
            store._index_from = 0
            return store

    disk = SimDisk()
    disk.make_parents("/data")
    life = Indexed(disk, Random(seed), Model({}), record=False, late=bool(seed % 2))
    life.run(120)
    disk.full = False
    life.settle_down()
    for second in range(2, 9):
        life.store.tick(life.now + second)
        life.settle_down()
    put(life.store, b"last", life.store.declare("/queue/last"))
    life.stop()
    assert the_one(disk) == (AGREES, False)
    again = new_store(disk)
    put(again, b"more", again.declare("/queue/last"))
    again.close()
    assert the_one(disk) == (AGREES, False)


def test_delivery_counts_that_the_log_does_not_have_are_no_difference() -> None:
    disk, store = busy()
    queue = store.declare("/queue/a")
    store.release(queue, [delivery.id for delivery in store.claim(queue, 9, 1 << 20)], delivered=True)
    assert index_of(queue).counts()
    store.close()
    assert the_one(disk) == (AGREES, False)


def test_one_that_a_start_ignores() -> None:
    disk = stopped()
    old = disk.contents()[INDEX]
    spoil(disk, INDEX, len(old) // 2)
    what, damaged = the_one(disk)
    assert what.startswith("the saved index is ignored by a start: the checksum of the section")
    assert not damaged
    spoil(disk, INDEX, len(old) // 2)
    store = new_store(disk)
    put(store, b"after", store.declare("/queue/a"))
    killed_index(disk, old)
    assert the_one(disk) == ("the saved index is ignored by a start: no clean stop came last", False)
    store.close()
    killed_index(disk, old)
    assert the_one(disk) == ("the saved index is ignored by a start: it is of another stop", False)
    disk.bad_reads = {(INDEX, 0)}
    what, damaged = the_one(disk)
    assert "Input/output error" in what
    assert not damaged


def test_it_is_not_blamed_for_a_damaged_log() -> None:
    disk, store = busy()
    segment = min(number for number, segment in store._ledger.segments.items() if segment.live)
    store.close()
    spoil(disk, f"{DIRECTORY}/log/{segment:08d}.seg", 4096 + 9)
    checked = inspect.check(disk, Names(DIRECTORY))
    assert checked.refusal is None, "a start from the index does not read it"
    assert {finding.kind for finding in checked.damage} >= {"batch"}
    assert "index" not in {finding.kind for finding in checked.damage}
    (finding,), _ = told(disk)
    assert finding.what == "the saved index is used by a start; it was not held against the log, which is damaged"


def lose_a_message(ledger: Ledger) -> None:
    queue = ledger.queues[max(ledger.queues)]
    ledger.kill(queue, queue.index.next - 1, queue.index.next - 1)


def revive_a_message(ledger: Ledger) -> None:
    queue = ledger.queues[max(ledger.queues)]
    _, address, length = queue.index.addresses()[-1]
    ledger.segments[address >> 32].live += 1
    queue.index.put(queue.index.next, address, length)


def forget_deliveries(ledger: Ledger) -> None:
    """Those that an opening batch says."""
    queue = ledger.queues[min(ledger.queues)]
    places = queue.index.addresses()
    index = queue.index = type(queue.index)(queue.index.floor, queue.index.next)
    expected = index.floor
    for id, address, length in places:
        index.kill(expected, id - 1)
        index.put(id, address, length)
        expected = id + 1
    index.kill(expected, index.next)


def move_a_message(ledger: Ledger) -> None:
    queue = ledger.queues[max(ledger.queues)]
    id, address, _ = queue.index.addresses()[-1]
    queue.index.move(id, address, address - 4096)


def exchange_two_messages(ledger: Ledger) -> None:
    queue = ledger.queues[max(ledger.queues)]
    (first, at, _), (second, there, _) = queue.index.addresses()[-2:]
    queue.index.move(first, at, there)
    queue.index.move(second, there, at)


def acknowledge_another_one(ledger: Ledger) -> None:
    queue = ledger.queues[min(ledger.queues)]
    queue.index.skip(queue.index.next + 5)


def confuse_two_ids(ledger: Ledger) -> None:
    """One that is dead lives, and its neighbour is dead."""
    queue = ledger.queues[min(ledger.queues)]
    places = queue.index.addresses()
    gap = next(at for at in range(1, len(places)) if places[at][0] > places[at - 1][0] + 1)
    revived = places[gap][0] - 1
    index = type(queue.index)(queue.index.floor, queue.index.next)
    places[gap] = (revived, *places[gap][1:])
    expected = index.floor
    for id, address, length in places:
        index.kill(expected, id - 1)
        index.put(id, address, length)
        expected = id + 1
    index.kill(expected, index.next)
    queue.index = index


def invent_a_queue(ledger: Ledger) -> None:
    number = max(ledger.queues) + 1
    ledger.queues[number] = FileQueue("/queue/new", number)


def forget_a_queue(ledger: Ledger) -> None:
    queue = ledger.queues.pop(max(ledger.queues))
    for _, address, _ in queue.index.addresses():
        ledger.segments[address >> 32].live -= 1


def rename_a_queue(ledger: Ledger) -> None:
    ledger.queues[max(ledger.queues)].name = "/queue/other"


def shorten_a_segment(ledger: Ledger) -> None:
    ledger.segments[min(ledger.segments)].end -= 4096


def count_bytes_twice(ledger: Ledger) -> None:
    ledger.segments[min(ledger.segments)].live_bytes *= 2


def use_a_queue_number_again(ledger: Ledger) -> None:
    ledger.next_queue -= 1


MISTAKES: dict[Callable[[Ledger], None], str] = {
    lose_a_message: "next id, floor and messages are",
    revive_a_message: "next id, floor and messages are",
    acknowledge_another_one: "next id, floor and messages are",
    confuse_two_ids: "other ids are acknowledged",
    move_a_message: "stands in another place",
    exchange_two_messages: "stands in another place",
    forget_deliveries: "was delivered 1 times before",
    forget_a_queue: "it lacks queue /queue/b",
    invent_a_queue: "queue /queue/new: it is not in the log",
    rename_a_queue: "its name is /queue/b",
    shorten_a_segment: "end, messages and bytes of segment",
    count_bytes_twice: "end, messages and bytes of segment",
    use_a_queue_number_again: "the next queue's number is",
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_one_that_differs_is_damage(mistake: Callable[[Ledger], None], monkeypatch: pytest.MonkeyPatch) -> None:
    disk, store = busy()
    for _ in range(12):
        put(store, b"another segment" * 300, *store.queues())

    def wrong(fsio: object, names: object, store_id: object, ledger: Ledger, *rest: object, **options: object) -> None:
        mistake(ledger)
        assert save_index(fsio, names, store_id, ledger, *rest, **options) is None  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "save_index", wrong)
    store.close()
    what, damaged = the_one(disk)
    assert damaged
    assert what.startswith("the saved index differs from the log: ")
    assert MISTAKES[mistake] in what
    assert what.endswith("; remove it before the next start")
    assert not told(without_index(disk))[1]
