"""The oracle must see every kind of lie; here it is lied to without a broker."""

from __future__ import annotations

import math

import pytest
from earlyreceipt import early
from oracle import QUEUES, Books, Broken, Unit
from recorder import DEAD, F1, F2, TARGET, A, B, body_of


def book(*units: Unit, **held: tuple[str, int, int, int]) -> Books:
    books = Books()
    books.units = {unit.name: unit for unit in units}
    books.held = {f"{A}:{key}": order for key, order in held.items()}
    return books


def unit(number: int, puts: str = "", acks: str = "", done: float = math.inf, client: str = "one") -> Unit:
    """Sent at `number`; `puts` and `acks` are keys of queue a, or QUEUE:KEY."""
    references = [[word if ":" in word else f"{A}:{word}" for word in words.split()] for words in (puts, acks)]
    return Unit(f"{client}/{number}", (client, 1, number), float(number), *references, done)


def there(**found: str) -> dict[str, list[str]]:
    return {queue: found.get(queue[7:], "").split() for queue in QUEUES}


def test_what_was_kept_is_fine_and_is_what_is_known_next():
    books = book(unit(1, "x", done=1.5), unit(2, "y"), unit(3, "z"), old=("one", 0, 7, 0))
    assert books.compare(there(a="old x y")).there == 3
    assert set(books.held) == {f"{A}:old", f"{A}:x", f"{A}:y"}
    assert not books.units
    assert books.compare(there(a="old x y")).lost == []
    with pytest.raises(Broken, match="back from the dead"):
        books.compare(there(a="old x y z"))


@pytest.mark.parametrize(
    ("units", "found", "complaint"),
    [
        ([unit(1, "x", done=1.5)], there(), "are lost"),
        ([unit(1, "x")], there(a="x w"), "never sent"),
        ([unit(1, "x")], there(a="x x"), "twice"),
        ([unit(1, "x"), unit(2, "y")], there(a="y x"), "stands behind"),
        ([unit(1, "x y")], there(a="y x"), "stands behind"),
        ([unit(1, "x"), unit(2, acks="x", done=2.5)], there(a="x"), "after a receipted ACK"),
        ([unit(1, f"{A}:x {B}:y")], there(a="x"), "half a unit"),
        ([unit(1, f"{F1}:x {F2}:x")], there(f2="x"), "half a unit"),
        ([unit(1, "x"), unit(2, f"{TARGET}:x", acks="x")], there(a="x", target="x"), "half a unit"),
        ([unit(1, "x", done=1.5), unit(2, f"{TARGET}:x", acks="x")], there(), "half a unit"),
        ([unit(1, "x y", done=1.5), unit(2, acks="x y")], there(a="y"), "half a unit"),
        ([unit(1, "x"), unit(2, "y")], there(a="y"), "sent before is not"),
    ],
)
def test_lies(units, found, complaint):
    with pytest.raises(Broken, match=complaint):
        book(*units).compare(found)


def test_what_was_there_before_must_stay_and_must_go_when_acknowledged():
    with pytest.raises(Broken, match="are lost"):
        book(x=("one", 0, 1, 0)).compare(there(), -math.inf)
    with pytest.raises(Broken, match="half a unit"):
        book(unit(1, f"{TARGET}:x", acks="x"), x=("one", 0, 1, 0)).compare(there(), -math.inf)
    with pytest.raises(Broken, match="stands behind"):
        book(unit(1, "y"), x=("one", 0, 1, 0)).compare(there(a="y x"))


def test_a_delivery_promises_as_much_as_a_receipt():
    books = book(unit(1, "x"))
    books.delivered[f"{A}:x"] = 1.2
    with pytest.raises(Broken, match="are lost"):
        books.compare(there())
    books = book()
    books.delivered[f"{A}:x"] = 1.2
    with pytest.raises(Broken, match="never sent or gone before"):
        books.compare(there())


def test_a_power_cut_may_take_the_end_of_the_order_and_only_that():
    verdict = book(unit(1, "x", done=1.5), unit(2, "y", done=2.5)).compare(there(a="x"), -math.inf)
    assert verdict.lost == [2.5]
    later = unit(3, "z", client="two")
    with pytest.raises(Broken, match="receipted before it was sent"):
        book(unit(1, "x", done=1.5), later).compare(there(a="z"), -math.inf)
    book(unit(1, "x", done=3.5), later).compare(there(a="z"), -math.inf)
    with pytest.raises(Broken, match="are lost"):
        book(unit(1, "x", done=1.5), unit(2, "y", done=2.5)).compare(there(a="x"), 2.6)
    book(unit(1, "x", done=1.5), unit(2, "y", done=2.5)).compare(there(a="x"), 2.4)


def test_a_lost_ack_brings_its_message_back_only_where_it_may_be_lost():
    units = unit(1, "x", done=1.5), unit(2, acks="x", done=2.5)
    assert book(*units).compare(there(a="x"), -math.inf).lost == [2.5]
    with pytest.raises(Broken, match="after a receipted ACK"):
        book(*units).compare(there(a="x"), 3.0)


def test_a_dead_letter_may_be_overtaken():
    units = unit(1, f"{DEAD}:x", acks="x"), unit(2, "y")
    book(*units, x=("one", 0, 1, 0)).compare(there(a="x y"))


def test_bodies_differ_and_some_are_larger_than_a_page():
    bodies = {body_of(f"single/1/{number}") for number in range(2000)}
    assert len(bodies) == 2000
    assert max(map(len, bodies)) > 4096
    assert all(b"\0" in body for body in bodies)


@pytest.mark.parametrize(
    ("sent", "told", "is_early"),
    [(0.5, 2.0, False), (0.5, 1.9, True), (1.5, 2.5, True), (1.5, 4.0, False), (3.5, 9.0, True), (0.0, 0.5, True)],
)
def test_a_whole_sync_must_lie_between(sent, told, is_early):
    assert early([1.0, 3.0], [2.0, 4.0], sent, told) is is_early
