"""The one NACK rule, lost connections, and dead letters in one unit."""

from __future__ import annotations

import pytest
from broker_fakes import NOW_MS, world

from radiator.config.schema import Destination
from radiator.store.base import Reason

ORDERS = Destination("/queue/orders", "queue", persistent=True, max_deliveries=2, dead_letter="/queue/orders.dead")
THUMBS = Destination("/queue/thumbs", "queue", persistent=False, max_deliveries=2, dead_letter="/queue/thumbs.dead")


def test_nack_puts_back_at_the_old_place_and_the_consumer_at_the_rings_end():
    w = world()
    a, b = w.connect(), w.connect()
    a.subscribe("/queue/a")
    a.send("/queue/a", "1", "2", "3")
    assert a.got() == ["1"]
    b.subscribe("/queue/a")
    a.nack("1")
    w.broker.dispatch()
    assert (b.got(), a.got()) == (["1"], ["2"])
    assert [d.deliveries for d in b.peer.deliveries] == [1]
    assert [d.deliveries for d in a.peer.deliveries] == [0, 0]
    b.nack("1")
    a.ack("2")
    w.broker.dispatch()
    assert (a.got(), b.got()) == (["1"], ["3"])
    assert a.peer.deliveries[-1].deliveries == 2


def test_a_lone_consumer_gets_what_it_nacked_again():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a")
    c.send("/queue/a", "1", "2")
    for count in range(4):
        assert c.got() == ["1"]
        assert c.peer.deliveries[-1].deliveries == count
        c.nack("1")


@pytest.mark.parametrize("how", ["close", "unsubscribe"])
def test_a_lost_connection_and_unsubscribe_give_back_what_was_held(how):
    w = world()
    a, b = w.connect(), w.connect()
    a.subscribe("/queue/a", 3, id="s")
    a.subscribe("/queue/other", id="o")
    a.send("/queue/other", "o")
    a.send("/queue/a", "1", "2", "3", "4")
    assert len(a.got()) == 3
    b.subscribe("/queue/a", 10)
    before = b.got()
    if how == "close":
        a.client.close()
        a.client.close()
        assert a.client.holds == 0
        assert not w.broker.targets["/queue/other"].seats
    else:
        a.client.unsubscribe("s")
        assert a.client.holds == 1
        a.find("o")
    assert sorted(before + b.got()) == ["1", "2", "3", "4"]
    counts = {d.id: d.deliveries for d in b.peer.deliveries}
    assert counts[1] == 1
    assert counts[2] == 1
    assert counts[4] == 0


def test_a_nack_in_a_transaction_takes_effect_at_commit():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a", 2)
    c.send("/queue/a", "1", "2", "3")
    assert c.got() == ["1", "2"]
    c.client.begin("t")
    c.nack("1", transaction="t")
    one = c.peer.deliveries[0]
    assert c.client.find_ack(one.ack) is None
    assert c.client.find_message(one.queue.number, one.id) is None
    assert c.got() == [], "its place is not free before"
    c.client.commit("t")
    assert c.got() == ["1"]
    c.client.begin("t")
    c.nack("1", transaction="t")
    c.client.abort("t")
    c.ack("1")
    assert c.got() == ["3"]


def test_a_nack_in_a_transaction_of_a_subscription_that_ended_is_done_already():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a", 2)
    c.send("/queue/a", "1", "2")
    c.got()
    c.client.begin("t")
    c.nack("1", requeue=False, transaction="t")
    c.ack("2", "t")
    c.client.unsubscribe("/queue/a")
    c.client.commit("t")
    w.broker.dispatch()
    assert w.ready("/queue/a") == ["1"]
    assert w.broker.targets["/queue/a"].dropped == 0


def test_what_was_acked_in_an_aborted_transaction_of_an_ended_subscription_goes_back():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a", 2)
    c.send("/queue/a", "1", "2")
    c.got()
    c.client.begin("t")
    c.ack("1", "t")
    c.client.unsubscribe("/queue/a")
    assert w.ready("/queue/a") == ["2"]
    c.client.abort("t")
    assert w.ready("/queue/a") == ["1", "2"]
    assert c.client.holds == 0


def test_a_lost_connection_aborts_its_transactions():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a", 2)
    c.send("/queue/a", "1", "2")
    c.got()
    c.client.begin("t")
    c.ack("1", "t")
    c.send("/queue/b", "never", transaction="t")
    c.client.close()
    assert w.ready("/queue/a") == ["1", "2"]
    assert w.ready("/queue/b") == []


def test_requeue_false_without_a_dead_letter_drops_counted_and_reported():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a")
    c.send("/queue/a", "1", "2")
    c.got()
    c.nack("1", requeue=False)
    assert c.got() == ["2"]
    assert w.broker.stats()["queues"]["/queue/a"]["dropped"] == 1
    assert w.reports == [("message_dropped", {"queue": "/queue/a", "id": 1, "reason": "nacked"})]


def test_a_dead_letter_moves_in_one_unit_with_its_story_in_front():
    w = world(ORDERS)
    c = w.connect()
    c.send("/queue/orders", "poison")
    w.disk.complete()
    c.subscribe("/queue/orders")
    assert c.got() == ["poison"]
    appended = w.disk.appended
    c.nack("poison", requeue=False)
    mark = c.client.receipt_mark()
    assert w.disk.appended == appended, "bodies are not read while frames are parsed"
    assert not w.broker.reached(mark)
    w.broker.dispatch()
    assert w.disk.appended == appended + 1
    (unit,) = w.disk.batch
    ((dead, handles),) = unit.puts
    assert [handle.name for handle in handles] == ["/queue/orders.dead"]
    assert [(queue.name, id, reason) for queue, id, reason in unit.settled] == [
        ("/queue/orders", 1, Reason.DEAD_LETTERED)
    ]
    assert dead.block == (
        b"dead-letter-queue:/queue/orders\ndead-letter-reason:nacked\n"
        b"dead-letter-time:%d\ndead-letter-count:1\ndestination:/queue/orders\n" % NOW_MS
    )
    assert dead.plain
    assert not w.broker.reached(mark)
    w.disk.complete()
    assert w.broker.reached(mark)
    assert c.peer.released[-1] == w.broker.committed
    assert w.ready("/queue/orders.dead") == ["poison"]
    assert w.broker.targets["/queue/orders"].handle.in_flight == 0


def test_a_queue_name_with_special_characters_is_escaped():
    w = world(Destination("/queue/a:b", "queue", persistent=False, dead_letter="/queue/dead"))
    c = w.connect()
    c.subscribe("/queue/a:b")
    c.send("/queue/a:b", "x")
    c.got()
    c.nack("x", requeue=False)
    w.broker.dispatch()
    (dead,) = w.broker.targets["/queue/dead"].handle.messages.values()
    assert dead.block.startswith(b"dead-letter-queue:/queue/a\\cb\n")
    assert not dead.plain


@pytest.mark.parametrize("how", ["nack", "close", "unsubscribe"])
@pytest.mark.parametrize("settings", [ORDERS, THUMBS], ids=["disk", "memory"])
def test_max_deliveries_dead_letters_instead_of_one_more(how, settings):
    w = world(settings)
    p = w.connect()
    p.send(settings.name, "poison")
    w.disk.complete()
    for count in range(2):
        c = w.connect()
        c.subscribe(settings.name, id="s")
        assert c.got() == ["poison"]
        assert c.peer.deliveries[0].deliveries == count
        if how == "nack":
            c.nack("poison")
        elif how == "unsubscribe":
            c.client.unsubscribe("s")
        else:
            c.client.close()
        if how == "nack" and count == 0:
            # Again to the same consumer.
            assert c.got() == ["poison"]
            c.nack("poison")
            break
    w.broker.dispatch()
    w.disk.complete()
    assert w.ready(f"{settings.name}.dead") == ["poison"]
    assert w.broker.stats()["queues"][settings.name]["dead_lettered"] == 1
    assert w.broker.targets[settings.name].handle.in_flight == 0
    (dead,) = w.broker.targets[f"{settings.name}.dead"].handle.messages.values()
    assert b"dead-letter-reason:max-deliveries\n" in dead.block
    assert b"dead-letter-count:2\n" in dead.block


def test_max_deliveries_without_a_dead_letter_drops():
    w = world(Destination("/queue/a", "queue", persistent=False, max_deliveries=1))
    c = w.connect()
    c.subscribe("/queue/a")
    c.send("/queue/a", "1")
    c.got()
    c.nack("1")
    assert c.got() == []
    assert w.broker.targets["/queue/a"].dropped == 1
    assert w.reports[0][1]["reason"] == "max-deliveries"


def test_a_message_that_was_delivered_too_often_before_a_restart_is_not_delivered():
    """The limit may be lower than when it was delivered last."""
    w = world(ORDERS)
    c = w.connect()
    c.send("/queue/orders", "1", "2")
    w.disk.complete()
    handle = w.broker.targets["/queue/orders"].handle
    handle.counts[1] = 7
    c.subscribe("/queue/orders", 5)
    assert c.got() == ["2"]
    w.disk.complete()
    assert w.ready("/queue/orders.dead") == ["1"]


def test_receipts_wait_for_the_tickets_before_them_in_order():
    w = world(ORDERS)
    c = w.connect()
    c.send("/queue/orders", "1", "2")
    w.disk.complete()
    c.subscribe("/queue/orders", 2)
    assert c.got() == ["1", "2"]
    before = c.client.receipt_mark()
    assert w.broker.reached(before)
    w.disk.cold = {b"1"}
    c.nack("1", requeue=False)
    first = c.client.receipt_mark()
    c.nack("2", requeue=False)
    second = c.client.receipt_mark()
    w.broker.dispatch()
    w.disk.complete()
    assert w.broker.reached(before)
    assert not w.broker.reached(first)
    assert not w.broker.reached(second)
    w.disk.warm()
    w.broker.dispatch()
    assert not w.broker.reached(first)
    w.disk.complete()
    assert w.broker.reached(first)
    assert w.broker.reached(second)
    assert w.ready("/queue/orders.dead") == ["1", "2"]
    assert not c.client.tickets
    assert c.client.receipt_mark() == (w.broker.committed, None)


def test_a_dead_letter_in_memory_releases_its_receipt_at_once():
    w = world(THUMBS)
    c = w.connect()
    c.subscribe("/queue/thumbs")
    c.send("/queue/thumbs", "1")
    c.got()
    c.nack("1", requeue=False)
    mark = c.client.receipt_mark()
    assert not w.broker.reached(mark)
    w.broker.dispatch()
    assert w.broker.reached(mark)
    assert c.peer.released == [0]
    assert w.ready("/queue/thumbs.dead") == ["1"]


def test_a_dead_letter_from_memory_to_disk_leaves_memory_when_it_is_durable():
    w = world(
        Destination("/queue/m", "queue", persistent=False, dead_letter="/queue/d"),
        Destination("/queue/d", "queue", persistent=True),
    )
    c = w.connect()
    c.subscribe("/queue/m")
    c.send("/queue/m", "1")
    c.got()
    c.nack("1", requeue=False)
    w.broker.dispatch()
    source = w.broker.targets["/queue/m"].handle
    assert source.in_flight == 1
    w.disk.complete()
    assert source.in_flight == 0
    assert w.ready("/queue/d") == ["1"]


@pytest.mark.parametrize("trouble", ["room", "full"])
def test_a_dead_letter_that_finds_no_room_stays_in_flight_until_there_is(trouble):
    w = world(ORDERS)
    c = w.connect()
    c.send("/queue/orders", "1", "2")
    w.disk.complete()
    c.subscribe("/queue/orders")
    c.got()
    w.disk.room = trouble != "room"
    w.disk.full = trouble == "full"
    c.nack("1", requeue=False)
    assert c.got() == ["2"], "the queue goes on"
    assert w.broker.targets["/queue/orders"].handle.in_flight == 2
    assert not w.disk.batch
    w.disk.room, w.disk.full = True, False
    w.disk.complete()
    w.broker.dispatch()
    w.disk.complete()
    assert w.ready("/queue/orders.dead") == ["1"]
    assert w.broker.stats()["queues"]["/queue/orders.dead"]["put"] == 1


def test_a_memory_queues_dead_letter_is_tried_again_when_the_disk_has_space():
    """None of the file store's queues brings it back, and nothing else may ever be put."""
    w = world(
        Destination("/queue/m", "queue", persistent=False, dead_letter="/queue/dead"),
        Destination("/queue/dead", "queue", persistent=True),
    )
    c = w.connect()
    c.send("/queue/m", "1")
    c.subscribe("/queue/m")
    assert c.got() == ["1"]
    w.disk.full = True
    c.nack("1", requeue=False)
    w.broker.dispatch()
    assert not w.disk.batch
    mark = c.client.receipt_mark()
    w.disk.full = False
    woken = []
    w.broker.wake = lambda: woken.append(1)
    w.disk.resumed()  # as the file store does
    assert woken
    w.broker.dispatch()
    w.disk.complete()
    assert w.ready("/queue/dead") == ["1"]
    assert w.broker.reached(mark)


def refused(cold=()):
    """A full disk, and a consumer whose dead letter "1" was refused, with "2" behind it; `cold` is on disk alone."""
    w = world(ORDERS)
    c = w.connect()
    c.send("/queue/orders", "1", "2")
    w.disk.complete()
    c.subscribe("/queue/orders")
    c.got()
    w.disk.full = True
    w.disk.cold = set(cold)
    c.nack("1", requeue=False)
    return w, c


def test_a_dead_letter_is_tried_again_when_the_disk_has_space_though_nothing_completes():
    w, c = refused()
    assert c.got() == ["2"]
    assert not w.broker.targets["/queue/orders"].ring, "nobody has room, so only the dead letter can bring it back"
    assert not w.disk.batch
    w.disk.full = False
    woken = []
    w.broker.wake = lambda: woken.append(1)
    w.broker.resumed()  # as the file store says it
    assert woken
    w.broker.dispatch()
    w.disk.complete()
    assert w.ready("/queue/orders.dead") == ["1"]


def test_a_refused_dead_letter_is_left_alone_until_there_may_be_room():
    """A store keeps one body of a queue that was not in memory: read again, it would push out what was claimed."""
    w, c = refused(cold=[b"2"])
    assert c.got() == []
    right, read = w.disk.read, []
    w.disk.read = lambda *arguments: read.append(arguments) or right(*arguments)
    w.disk.warm()
    assert c.got() == ["2"]
    assert not read
    w.disk.full = False
    w.broker.resumed()
    w.broker.dispatch()
    assert len(read) == 1
    w.disk.complete()
    assert w.ready("/queue/orders.dead") == ["1"]


def test_a_full_dead_letter_queue_in_memory_drops_reported():
    w = world(
        Destination("/queue/m", "queue", persistent=False, dead_letter="/queue/d"),
        Destination("/queue/d", "queue", persistent=False, max_messages=1),
    )
    c = w.connect()
    c.subscribe("/queue/m", 2)
    c.send("/queue/m", "1", "2")
    c.got()
    c.nack("1", requeue=False)
    c.nack("2", requeue=False)
    mark = c.client.receipt_mark()
    w.broker.dispatch()
    assert w.ready("/queue/d") == ["1"]
    assert w.reports[-1][0] == "message_dropped"
    assert "max_messages is 1" in w.reports[-1][1]["reason"]
    assert w.broker.reached(mark)


def test_a_damaged_message_has_no_dead_letter_and_keeps_no_receipt():
    w = world(ORDERS)
    c = w.connect()
    c.send("/queue/orders", "1", "2")
    w.disk.complete()
    c.subscribe("/queue/orders", 2)
    c.got()
    w.disk.damaged = {b"1"}
    c.nack("1", requeue=False)
    c.nack("2", requeue=False)
    mark = c.client.receipt_mark()
    w.broker.dispatch()
    w.disk.complete()
    assert w.broker.reached(mark)
    assert w.ready("/queue/orders.dead") == ["2"]


def test_a_later_ticket_speaks_for_the_ones_before_it_on_other_queues():
    w = world(ORDERS, Destination("/queue/b", "queue", persistent=True, dead_letter="/queue/b.dead"))
    c = w.connect()
    c.send("/queue/orders", "1")
    c.send("/queue/b", "2")
    w.disk.complete()
    c.subscribe("/queue/orders", 2)
    c.subscribe("/queue/b", 2)
    c.got()
    w.disk.cold = {b"1"}
    c.nack("1", requeue=False)
    c.nack("2", requeue=False)
    second = c.client.receipt_mark()
    w.broker.dispatch()
    w.disk.complete()
    w.disk.warm()
    w.broker.dispatch()
    assert not w.broker.reached(second), "the first is not on the disk yet"
    w.disk.complete()
    assert w.broker.reached(second)
