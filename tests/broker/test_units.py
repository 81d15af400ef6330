"""Units: fanout, transactions, both engines in one; when receipts may leave; when a SEND must wait."""

from __future__ import annotations

import pytest
from broker_fakes import message, world

from radiator.broker.transaction import OPERATION_BYTES
from radiator.config.schema import Destination
from radiator.errors import Refused, StoreBusy

MIXED = (
    Destination("/fanout/f", "fanout", queues=("/queue/d1", "/queue/d2", "/queue/m")),
    Destination("/queue/d1", "queue", persistent=True),
    Destination("/queue/d2", "queue", persistent=True),
    Destination("/queue/m", "queue", persistent=False, max_messages=2),
)


def test_a_persistent_message_is_delivered_and_receipted_only_once_durable():
    w = world(persistent=True)
    p, c = w.connect(), w.connect()
    c.subscribe("/queue/a")
    p.send("/queue/a", "1")
    mark = p.client.receipt_mark()
    assert c.got() == []
    assert not w.broker.reached(mark)
    w.disk.complete()
    assert w.broker.reached(mark)
    assert p.peer.released == [1]
    assert c.got() == ["1"]
    assert c.peer.released == [], "nothing of its own waits"


def test_receipts_of_a_later_batch_wait_longer():
    w = world(persistent=True)
    p, q = w.connect(), w.connect()
    p.send("/queue/a", "1")
    w.disk.filling = 2
    q.send("/queue/a", "2")
    w.broker.durable(1)
    assert (p.peer.released, q.peer.released) == ([1], [])
    assert not w.broker.reached(q.client.receipt_mark())
    w.broker.durable(2)
    assert (p.peer.released, q.peer.released) == ([1], [2])


def test_a_session_that_ends_is_still_told_of_the_receipts_it_owes():
    w = world(persistent=True)
    p = w.connect()
    p.send("/queue/a", "1")
    p.client.close()
    w.disk.complete()
    assert p.peer.released == [1]


def test_without_room_a_send_waits_and_settlements_do_not():
    w = world(persistent=True)
    c = w.connect()
    c.send("/queue/a", "1")
    w.disk.complete()
    c.subscribe("/queue/a")
    c.got()
    w.disk.room = False
    with pytest.raises(StoreBusy):
        c.send("/queue/a", "2")
    c.client.begin("t")
    c.send("/queue/a", "3", transaction="t")
    with pytest.raises(StoreBusy):
        c.client.commit("t")
    assert not w.disk.batch
    c.ack("1")
    assert len(w.disk.batch) == 1
    w.disk.room = True
    c.client.commit("t")
    w.disk.complete()
    assert c.got() == ["3"]


def test_a_fanout_is_one_message_in_one_unit():
    w = world(*MIXED)
    p = w.connect()
    p.send("/fanout/f", "1")
    (unit,) = w.disk.batch
    ((stored, handles),) = unit.puts
    assert stored.body == b"1"
    assert [handle.name for handle in handles] == ["/queue/d1", "/queue/d2"]
    assert w.ready("/queue/m") == [], "the part in memory waits for the disk"
    w.disk.complete()
    for name in ("/queue/d1", "/queue/d2", "/queue/m"):
        assert w.ready(name) == ["1"]
        assert w.broker.stats()["queues"][name]["put"] == 1


def test_one_refusal_refuses_the_whole_fanout():
    w = world(*MIXED)
    p = w.connect()
    p.send("/fanout/f", "1", "2")
    with pytest.raises(Refused, match=r"/queue/m is full: max_messages is 2"):
        p.send("/fanout/f", "3")
    assert len(w.disk.batch) == 2
    w.disk.complete()
    assert w.ready("/queue/d1") == w.ready("/queue/m") == ["1", "2"]
    w.disk.full = True
    w.broker.targets["/queue/m"].handle.bounds = w.broker.targets["/queue/m"].handle.bounds._replace(max_messages=9)
    with pytest.raises(Refused, match="disk is full"):
        p.send("/fanout/f", "3")
    assert w.ready("/queue/m") == ["1", "2"]
    assert w.broker.targets["/queue/m"].handle.reserved_messages == 0


def test_nothing_overtakes_the_deferred_part_in_a_memory_queue():
    w = world(*MIXED)
    p = w.connect()
    p.send("/fanout/f", "1")
    p.send("/queue/m", "2")
    assert w.ready("/queue/m") == []
    with pytest.raises(Refused):
        p.send("/queue/m", "3")
    w.disk.complete()
    assert w.ready("/queue/m") == ["1", "2"]
    assert w.broker.targets["/queue/m"].handle.reserved_messages == 0
    assert w.broker.targets["/queue/m"].handle.reserved_bytes == 0


def test_nothing_overtakes_what_a_transaction_publishes():
    w = world(persistent=True)
    p, c = w.connect(), w.connect()
    c.subscribe("/topic/t", ack="auto")
    p.client.begin("t")
    p.send("/queue/a", "disk", transaction="t")
    p.send("/topic/t", "1", transaction="t")
    p.client.commit("t")
    p.send("/topic/t", "2")
    p.send("/topic/free", "3")
    assert c.peer.published == []
    w.disk.complete()
    assert [body for body, _ in c.peer.published] == ["1", "2"]
    p.send("/topic/t", "4")
    assert [body for body, _ in c.peer.published] == ["1", "2", "4"]
    assert not w.broker.deferred_topics


def test_a_topic_that_went_before_its_deferred_message_came_misses_it():
    w = world(persistent=True)
    p, c = w.connect(), w.connect()
    c.subscribe("/topic/t", ack="auto")
    p.client.begin("t")
    p.send("/queue/a", "disk", transaction="t")
    p.send("/topic/t", "1", transaction="t")
    p.client.commit("t")
    c.client.close()
    w.disk.complete()
    assert c.peer.published == []
    assert "/topic/t" not in w.broker.targets


def test_commit_appends_in_one_piece_over_both_engines():
    w = world(*MIXED)
    c = w.connect()
    c.send("/queue/d1", "in")
    c.send("/queue/m", "in m")
    w.disk.complete()
    c.subscribe("/queue/d1", 2)
    c.subscribe("/queue/m", 2)
    assert sorted(c.got()) == ["in", "in m"]
    c.client.begin("t")
    c.ack("in", "t")
    c.ack("in m", "t")
    c.send("/queue/d2", "out 1", transaction="t")
    c.send("/queue/m", "out 2", transaction="t")
    assert not w.disk.batch
    assert w.broker.reached(c.client.receipt_mark()), "the receipt inside says that the transaction took it"
    c.client.commit("t")
    mark = c.client.receipt_mark()
    (unit,) = w.disk.batch
    assert len(unit.puts) == len(unit.settled) == 1
    assert not w.broker.reached(mark)
    assert w.broker.targets["/queue/m"].handle.in_flight == 1
    w.disk.complete()
    assert w.broker.reached(mark)
    assert w.ready("/queue/d2") == ["out 1"]
    assert w.ready("/queue/m") == ["out 2"]
    assert w.broker.stats()["totals"]["in_flight"] == 0
    assert w.broker.stats()["totals"]["acked"] == 2


def test_the_messages_of_a_transaction_take_their_places_at_commit():
    w = world()
    p, q = w.connect(), w.connect()
    p.client.begin("t")
    p.send("/queue/a", "1", transaction="t")
    q.send("/queue/a", "2")
    p.client.commit("t")
    assert w.ready("/queue/a") == ["2", "1"]


def test_a_refused_commit_has_changed_nothing():
    w = world(*MIXED)
    p = w.connect()
    p.client.begin("t")
    p.send("/queue/d1", "1", transaction="t")
    p.send("/queue/m", "2", "3", "4", transaction="t")
    with pytest.raises(Refused, match="max_messages is 2"):
        p.client.commit("t")
    assert not w.disk.batch
    assert w.ready("/queue/m") == []
    p.client.close()
    assert w.broker.stats()["totals"]["put"] == 0


def test_abort_sends_nothing():
    w = world()
    p = w.connect()
    p.client.begin("t")
    p.send("/queue/a", "1", transaction="t")
    p.client.abort("t")
    assert w.ready("/queue/a") == []
    with pytest.raises(Refused, match="has not begun"):
        p.client.commit("t")


def test_names_of_transactions():
    w = world(limit_transactions=2)
    p = w.connect()
    p.client.begin("t")
    with pytest.raises(Refused, match="has begun already"):
        p.client.begin("t")
    for use in (p.client.commit, p.client.abort):
        with pytest.raises(Refused, match="has not begun"):
            use("u")
    with pytest.raises(Refused, match="has not begun"):
        p.send("/queue/a", "1", transaction="u")
    p.client.begin("u")
    with pytest.raises(Refused, match=r"limits\.transactions is 2"):
        p.client.begin("v")
    p.client.commit("t")
    p.client.begin("v")
    w.connect().client.begin("t")


def test_the_bytes_of_a_transaction_are_bounded():
    one = message("x" * 100)
    size = len(one.block) + len(one.body) + OPERATION_BYTES
    w = world(limit_transaction=2 * size + OPERATION_BYTES)
    c = w.connect()
    c.subscribe("/queue/b")
    c.send("/queue/b", "b1", "b2")
    c.got()
    c.client.begin("t")
    c.client.begin("u")
    for _ in range(2):
        c.client.send("/queue/a", one, "t")
        c.client.send("/queue/a", one, "u")
    c.ack("b1", "t")
    c.got()
    with pytest.raises(Refused, match=r"limits\.transaction is"):
        c.ack("b2", "t")
    assert c.client.holds == 1
    with pytest.raises(Refused, match=r"limits\.transaction is"):
        c.client.send("/queue/a", one, "t")
    c.ack("b2", "u")
    for name in "tu":
        c.client.commit(name)
    assert len(w.ready("/queue/a")) == 4


def test_a_send_in_a_transaction_to_nowhere_is_refused_at_once():
    w = world()
    c = w.connect()
    c.client.begin("t")
    with pytest.raises(Refused, match="unknown destination nowhere"):
        c.send("nowhere", "1", transaction="t")


def test_reservations_drop_the_oldest_and_never_fail_later():
    w = world(
        Destination("/fanout/f", "fanout", queues=("/queue/d", "/queue/m")),
        Destination("/queue/d", "queue", persistent=True),
        Destination("/queue/m", "queue", persistent=False, max_messages=2, overflow="drop-oldest"),
    )
    c = w.connect()
    c.send("/queue/m", "1", "2")
    c.send("/fanout/f", "3")
    assert w.ready("/queue/m") == ["2"]
    w.disk.complete()
    assert w.ready("/queue/m") == ["2", "3"]
    c.subscribe("/queue/m", 2)
    assert c.got() == ["2", "3"]
    with pytest.raises(Refused, match="nothing can be dropped"):
        c.send("/fanout/f", "4")
    assert not w.disk.batch
    assert w.broker.stats()["queues"]["/queue/m"]["dropped"] == 1


def test_who_listens_at_commit_gets_what_was_sent_to_a_topic_in_a_transaction():
    w = world()
    p, c = w.connect(), w.connect()
    p.client.begin("t")
    p.send("/topic/t", "1", transaction="t")
    c.subscribe("/topic/t", ack="auto")
    p.client.commit("t")
    assert [body for body, _ in c.peer.published] == ["1"]
    c.client.unsubscribe("/topic/t")
    p.client.begin("t")
    p.send("/topic/t", "2", transaction="t")
    p.client.commit("t")
    assert len(c.peer.published) == 1
