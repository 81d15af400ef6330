"""Every sentence of the flow-control rules (the contract), on memory queues with fake sessions."""

from __future__ import annotations

import pytest
from broker_fakes import Consumer, message, world

from radiator.broker.queue import OUTPUT_MARK
from radiator.errors import Refused


def test_the_dialogue_of_the_seed():
    """The example of the first README, line by line."""
    w = world()
    producer, c1 = w.connect(), w.connect()
    c1.subscribe("/queue/q1", ack="client")
    c1.subscribe("/queue/q2", ack="client")
    c1.subscribe("/topic/t1", ack="auto")
    producer.send("/queue/q1", "M1", "M2")
    assert c1.got() == ["M1"]
    producer.send("/queue/q2", "M3")
    assert c1.got() == []
    c1.ack("M1")
    assert c1.got() == ["M3"]
    producer.send("/topic/t1", "M4")
    assert [body for body, _ in c1.peer.published] == ["M4"]
    assert c1.got() == []
    c1.ack("M3")
    assert c1.got() == ["M2"]
    c1.ack("M2")
    assert c1.got() == []
    assert w.broker.stats()["totals"]["in_flight"] == 0


def test_one_unacked_message_over_all_subscriptions_by_default():
    w = world()
    c = w.connect()
    for name in "abc":
        c.subscribe(f"/queue/{name}")
        c.send(f"/queue/{name}", f"{name}1", f"{name}2")
    seen = []
    for _ in range(6):
        (body,) = c.got()
        assert c.got() == []
        assert c.client.holds == 1
        seen.append(body)
        c.ack(body)
    assert seen == ["a1", "b1", "c1", "a2", "b2", "c2"]
    assert c.got() == []


def test_the_next_comes_after_the_last_delivered_subscription_not_the_least_used():
    w = world()
    c = w.connect()
    for name in "abc":
        c.subscribe(f"/queue/{name}")
    c.send("/queue/b", "b1")
    assert c.got() == ["b1"]
    c.send("/queue/a", "a1")
    c.send("/queue/c", "c1")
    c.ack("b1")
    assert c.got() == ["c1"]


def test_a_new_subscription_stands_behind_those_before_it():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a")
    c.send("/queue/a", "a1")
    c.send("/queue/a", "a2")
    assert c.got() == ["a1"]
    c.subscribe("/queue/b")
    c.send("/queue/b", "b1")
    c.ack("a1")
    assert c.got() == ["b1"]


def test_the_connections_ring_is_in_the_order_of_subscription():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a")
    c.subscribe("/queue/b")
    c.send("/queue/a", "a1")
    assert c.got() == ["a1"]
    c.subscribe("/queue/c")
    for name in "cba":
        c.send(f"/queue/{name}", f"{name}x")
    order = []
    body = "a1"
    for _ in range(3):
        c.ack(body)
        (body,) = c.got()
        order.append(body)
    assert order == ["bx", "cx", "ax"]


def test_a_subscription_holds_at_most_its_prefetch_and_a_connection_the_largest():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a", 3)
    c.subscribe("/queue/b", 2)
    c.send("/queue/a", "a1", "a2", "a3", "a4", "a5")
    c.send("/queue/b", "b1", "b2", "b3")
    assert sorted(c.got()) == ["a1", "a2", "b1"]
    c.ack("a1")
    assert c.got() == ["b2"]
    c.ack("a2")
    assert c.got() == ["a3"], "b holds its prefetch"
    c.client.unsubscribe("/queue/a")
    # Both of b are still held, and 2 is the largest prefetch now.
    assert c.got() == []
    c.ack("b1")
    assert c.got() == ["b3"]


def test_prefetch_is_capped_and_must_be_positive():
    w = world(max_prefetch=2)
    c = w.connect()
    c.subscribe("/queue/a", 1000)
    c.send("/queue/a", "1", "2", "3")
    assert c.got() == ["1", "2"]
    for bad in (0, -1):
        with pytest.raises(Refused, match="prefetch"):
            c.subscribe("/queue/b", bad)


def test_subscribe_again_changes_the_window_both_ways():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a", 1)
    c.send("/queue/a", "1", "2", "3", "4", "5")
    assert c.got() == ["1"]
    c.subscribe("/queue/a", 3)
    assert c.got() == ["2", "3"]
    c.subscribe("/queue/a", 2)
    c.ack("1")
    assert c.got() == []
    c.ack("2")
    assert c.got() == ["4"]
    with pytest.raises(Refused, match="in use"):
        c.client.subscribe("/queue/a", "/queue/b", "client-individual", 1)
    with pytest.raises(Refused, match="in use"):
        c.client.subscribe("/queue/a", "/queue/a", "client", 1)
    assert len(c.client.subscriptions) == 1


def test_a_queue_gives_turns_to_its_connections():
    w = world()
    consumers = [w.connect() for _ in range(3)]
    for c in consumers:
        c.subscribe("/queue/a", 2)
    consumers[0].send("/queue/a", *map(str, range(6)))
    w.broker.dispatch()
    assert [c.got() for c in consumers] == [["0", "3"], ["1", "4"], ["2", "5"]]


def test_the_ring_goes_by_the_last_delivery_not_by_who_has_room_first():
    w = world()
    a, b = w.connect(), w.connect()
    for c in (a, b):
        c.subscribe("/queue/a")
    a.send("/queue/a", "1", "2")
    assert (a.got(), b.got()) == (["1"], ["2"])
    b.ack("2")
    a.ack("1")
    a.send("/queue/a", "3")
    assert (a.got(), b.got()) == (["3"], [])
    a.ack("3")
    a.send("/queue/a", "4", "5")
    w.broker.dispatch()
    assert (a.got(), b.got()) == (["5"], ["4"])


def test_many_subscriptions_of_one_connection_are_one_place_in_the_ring():
    w = world()
    greedy, modest = w.connect(), w.connect()
    for id in "xyz":
        greedy.subscribe("/queue/a", 10, id=id)
    modest.subscribe("/queue/a", 10)
    greedy.send("/queue/a", *map(str, range(8)))
    w.broker.dispatch()
    assert len(greedy.got()) == len(modest.got()) == 4
    by_id = [d.subscription.id for d in greedy.peer.deliveries]
    assert by_id == ["x", "y", "z", "x"]


def test_a_ring_moves_only_on_delivery():
    """A consumer that was passed over for want of room keeps its place."""
    w = world()
    a, b = w.connect(), w.connect()
    a.subscribe("/queue/other")
    a.send("/queue/other", "o")
    assert a.got() == ["o"]
    a.subscribe("/queue/a")
    b.subscribe("/queue/a", 2)
    b.send("/queue/a", "1")
    assert b.got() == ["1"]
    a.ack("o")
    b.send("/queue/a", "2")
    assert a.got() == ["2"]


def test_no_turn_ends_with_a_ready_message_beside_a_consumer_with_room():
    w = world()
    a, b = w.connect(), w.connect()
    a.subscribe("/queue/1")
    a.subscribe("/queue/2")
    b.subscribe("/queue/2")
    a.send("/queue/1", "1x", "1y")
    a.send("/queue/2", "2x", "2y", "2z")
    w.broker.dispatch()
    assert a.client.holds == b.client.holds == 1
    held = a.got() + b.got()
    a.ack(held[0])
    b.ack(held[1])
    w.broker.dispatch()
    assert a.client.holds == b.client.holds == 1


def test_an_ack_frees_its_place_before_it_is_durable():
    w = world(persistent=True)
    c = w.connect()
    c.subscribe("/queue/a")
    c.send("/queue/a", "1", "2")
    assert c.got() == []
    w.disk.complete()
    assert c.got() == ["1"]
    c.ack("1")
    assert c.got() == ["2"]
    assert not w.broker.reached(c.client.receipt_mark())
    w.disk.complete()
    assert w.broker.reached(c.client.receipt_mark())


def test_an_ack_in_a_transaction_frees_its_place_and_abort_takes_it_back():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a")
    c.send("/queue/a", "1", "2", "3")
    assert c.got() == ["1"]
    c.client.begin("t")
    c.ack("1", "t")
    assert c.got() == ["2"]
    c.client.abort("t")
    assert c.client.holds == 2
    assert c.got() == []
    c.ack("2")
    assert c.got() == [], "still one held, which fills the window"
    c.ack("1")
    assert c.got() == ["3"]


def test_cumulative_settling_goes_by_order_of_delivery_not_by_id():
    w = world()
    c, other = w.connect(), w.connect()
    other.subscribe("/queue/a", 2)
    c.send("/queue/a", "1", "2", "3", "4")
    assert other.got() == ["1", "2"]
    c.subscribe("/queue/a", 10, ack="client")
    assert c.got() == ["3", "4"]
    other.client.close()
    assert c.got() == ["1", "2"]
    c.ack("1")
    # 3, 4 were delivered before 1 although their ids are higher; 2 was delivered after it.
    assert [w.disk is not None, c.client.holds] == [True, 1]
    c.find("2")


def test_cumulative_settling_leaves_other_subscriptions_alone():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a", 10, ack="client")
    c.subscribe("/queue/b", 10, ack="client")
    c.subscribe("/queue/c", 10)
    for name in "abc":
        c.send(f"/queue/{name}", f"{name}1", f"{name}2")
    assert len(c.got()) == 6
    c.ack("a2")
    assert c.client.holds == 4
    c.ack("c2")
    assert c.client.holds == 3
    c.nack("b2")
    assert c.got() == ["b1", "b2"]


def test_abort_restores_the_order_for_cumulative_acks():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a", 10, ack="client")
    c.send("/queue/a", "1", "2", "3")
    assert c.got() == ["1", "2", "3"]
    c.client.begin("t")
    c.ack("2", "t")
    assert c.client.holds == 1
    c.client.abort("t")
    c.ack("2")
    assert c.client.holds == 1
    c.find("3")


def auto(w, **more) -> Consumer:
    c = w.connect()
    c.peer.counts_output = True
    c.subscribe("/queue/a", ack="auto", **more)
    return c


def test_auto_is_ready_while_the_output_is_under_the_mark():
    w = world()
    c = auto(w)
    size = OUTPUT_MARK // 4
    c.send("/queue/a", *(str(n) * size for n in range(6)))
    assert [body[0] for body in c.got()] == ["0", "1", "2", "3"]
    assert c.client.holds == 0
    c.peer.output_bytes = OUTPUT_MARK - 1
    c.client.output_drained()
    assert [body[0] for body in c.got()] == ["4"]
    c.peer.output_bytes = 0
    c.client.output_drained()
    assert [body[0] for body in c.got()] == ["5"]


def test_one_message_always_fits_an_empty_output():
    w = world()
    c = auto(w)
    c.send("/queue/a", "x" * (OUTPUT_MARK * 5), "y" * (OUTPUT_MARK * 5))
    assert [body[0] for body in c.got()] == ["x"]
    c.peer.output_bytes = 0
    c.client.output_drained()
    assert [body[0] for body in c.got()] == ["y"]


def test_an_auto_message_is_settled_when_the_kernel_took_it_and_unsent_ones_go_back_unraised():
    w = world()
    c = auto(w)
    c.send("/queue/a", "1", "2", "3")
    assert c.got() == ["1", "2", "3"]
    first, *unsent = c.peer.deliveries
    c.client.taken([first])
    c.client.untaken(unsent)
    c.client.close()
    d = w.connect()
    d.subscribe("/queue/a", 5)
    assert d.got() == ["2", "3"]
    assert [delivery.deliveries for delivery in d.peer.deliveries] == [0, 0]


def test_auto_stands_in_the_same_ring_as_windows():
    w = world()
    a, b = auto(w), w.connect()
    b.subscribe("/queue/a", 10)
    b.send("/queue/a", "1", "2", "3", "4")
    w.broker.dispatch()
    assert (a.got(), b.got()) == (["1", "3"], ["2", "4"])


def test_a_full_window_does_not_stop_an_auto_subscription_of_the_same_connection():
    w = world()
    c = w.connect()
    c.subscribe("/queue/w")
    c.subscribe("/queue/a", ack="auto")
    c.send("/queue/w", "w1", "w2")
    c.send("/queue/a", "a1", "a2")
    assert sorted(c.got()) == ["a1", "a2", "w1"]


def test_windows_obey_the_output_mark():
    w = world()
    c = w.connect()
    c.peer.counts_output = True
    c.subscribe("/queue/a", 100)
    c.send("/queue/a", *(str(n) * (OUTPUT_MARK // 2) for n in range(4)))
    assert [body[0] for body in c.got()] == ["0", "1"]
    c.peer.output_bytes = 0
    c.client.output_drained()
    assert [body[0] for body in c.got()] == ["2", "3"]


def test_topics_have_no_flow_control():
    w = world()
    c = w.connect()
    c.subscribe("/topic/t", ack="auto")
    c.subscribe("/queue/a")
    c.send("/queue/a", "1", "2")
    assert c.got() == ["1"]
    c.send("/topic/t", *map(str, range(50)))
    assert [body for body, _ in c.peer.published] == list(map(str, range(50)))


def test_ten_thousand_consumers_without_room_cost_nothing_per_message():
    w = world()
    crowd = [w.connect() for _ in range(300)]
    for c in crowd:
        c.subscribe("/queue/a")
    crowd[0].send("/queue/a", *map(str, range(300)))
    w.broker.dispatch()
    reader = w.connect()
    reader.subscribe("/queue/a")
    queue = w.broker.targets["/queue/a"]
    reader.send("/queue/a", "x", "y")
    assert reader.got() == ["x"]
    assert len(queue.ring) == 0
    reader.ack("x")
    assert len(queue.ring) == 1
    assert reader.got() == ["y"]


def test_seats_of_consumers_that_come_and_go_are_forgotten():
    w = world()
    c = w.connect()
    for _ in range(500):
        c.subscribe("/queue/a")
        c.client.unsubscribe("/queue/a")
    queue = w.broker.targets["/queue/a"]
    assert len(queue.ring) < 50
    assert not queue.seats
    c.send("/queue/a", "1")
    c.subscribe("/queue/a")
    assert c.got() == ["1"]


def test_a_queue_is_claimed_from_once_per_turn():
    w = world(persistent=True)
    consumers = [w.connect() for _ in range(5)]
    for c in consumers:
        c.subscribe("/queue/a", 2)
    consumers[0].send("/queue/a", *map(str, range(40)))
    w.disk.complete()
    w.disk.claims = 0
    w.broker.dispatch()
    assert sum(c.client.holds for c in consumers) == 10
    # One claim brings all; the one after it finds no consumer and is not made.
    assert w.disk.claims == 1
    assert w.broker.targets["/queue/a"].handle.in_flight == 10


def test_what_was_claimed_too_much_goes_back_uncounted():
    w = world()
    c = w.connect()
    c.peer.counts_output = True
    c.subscribe("/queue/a", 100)
    c.send("/queue/a", "x" * OUTPUT_MARK, "small", "small too")
    assert [body[0] for body in c.got()] == ["x"]
    queue = w.broker.targets["/queue/a"]
    assert (queue.handle.ready, queue.handle.in_flight, len(queue.local)) == (2, 1, 0)
    c.peer.output_bytes = 0
    c.client.output_drained()
    assert c.got() == ["small", "small too"]
    assert [d.deliveries for d in c.peer.deliveries] == [0, 0, 0]


def test_a_cold_message_is_waited_for_and_keeps_the_order():
    w = world(persistent=True)
    c = w.connect()
    c.subscribe("/queue/a", 10)
    c.send("/queue/a", "1", "2", "3")
    w.disk.cold = {b"2"}
    w.disk.complete()
    assert c.got() == ["1"]
    assert c.got() == []
    w.disk.warm()
    assert c.got() == ["2", "3"]


def test_wake_is_called_when_there_is_work():
    w = world()
    c = w.connect()
    woken = []
    w.broker.wake = lambda: woken.append(1)
    c.send("/queue/a", "1")
    assert woken == [], "nobody consumes"
    c.subscribe("/queue/a")
    assert woken == [1]
    c.got()
    c.send("/queue/a", "2")
    assert woken == [1], "no room"
    c.ack("1")
    assert woken == [1, 1]


def test_find_by_ack_number_and_by_message_id():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a", 10, id="s1")
    c.subscribe("/queue/b", 10, id="s2")
    c.send("/queue/a", "a1", "a2")
    c.send("/queue/b", "b1")
    c.got()
    for delivery in c.peer.deliveries:
        sub = delivery.subscription.id
        assert c.client.find_ack(delivery.ack) is delivery
        assert c.client.find_message(delivery.queue.number, delivery.id, sub) is delivery
        assert c.client.find_message(delivery.queue.number, delivery.id, None) is delivery
        assert c.client.find_message(delivery.queue.number, delivery.id, "s9") is None
    gone = c.find("a1")
    c.ack("a1")
    assert c.client.find_ack(gone.ack) is None
    assert c.client.find_message(gone.queue.number, gone.id, None) is None
    c.client.settle(gone, positive=True)
    assert c.client.holds == 2, "an ACK of what is not held changes nothing"
    c.send("/queue/a", "a3")
    c.got()
    late = c.peer.deliveries[-1]
    assert c.client.find_message(late.queue.number, late.id, "s1") is late
    assert len({d.ack for d in c.peer.deliveries}) == 4


def test_ack_numbers_are_new_for_each_delivery():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a")
    c.send("/queue/a", "1")
    c.got()
    c.nack("1")
    c.got()
    first, second = c.peer.deliveries
    assert first.id == second.id
    assert first.ack != second.ack


def test_subscriptions_without_an_id_are_known_by_their_destination():
    w = world()
    c = w.connect()
    c.client.subscribe(None, "/queue/a", "client", None)
    c.client.subscribe(None, "/queue/a", "client", 2)
    c.client.subscribe("7", "/queue/b", "client", None)
    c.send("/queue/a", "1", "2", "3")
    assert c.got() == ["1", "2"]
    c.client.unsubscribe(None, "/queue/a")
    c.client.unsubscribe(None, "/queue/b")
    assert c.client.holds == 0
    for key in ((None, "/queue/a"), ("7", None)):
        with pytest.raises(Refused, match="no subscription"):
            c.client.unsubscribe(*key)


def test_the_limit_of_subscriptions():
    w = world(limit_subscriptions=2)
    c = w.connect()
    c.subscribe("/queue/a")
    c.subscribe("/topic/b")
    with pytest.raises(Refused, match=r"limits\.subscriptions is 2"):
        c.subscribe("/queue/c")
    c.subscribe("/queue/a", 5)
    c.client.unsubscribe("/topic/b")
    c.subscribe("/queue/c")


def test_an_unknown_ack_mode_is_refused():
    with pytest.raises(Refused, match="ack must be"):
        world().connect().subscribe("/queue/a", ack="maybe")


def test_message_order_of_one_producer():
    w = world()
    p, c = w.connect(), w.connect()
    c.subscribe("/queue/a", 7)
    sent = [str(n) for n in range(100)]
    got = []
    for body in sent:
        p.client.send("/queue/a", message(body))
        for back in c.got():
            got.append(back)
            c.ack(back)
    assert got == sent


def test_a_seat_that_was_passed_over_twice_is_forgotten_with_its_subscriptions():
    w = world()
    c = w.connect()
    c.subscribe("/queue/full", 1)
    c.send("/queue/full", "f")
    c.send("/queue/a", "1")
    assert c.got() == ["f"]
    for id in "xy":
        c.subscribe("/queue/a", id=id)
        assert c.got() == []
    for id in "xy":
        c.client.unsubscribe(id)
    c.ack("f")
    queue = w.broker.targets["/queue/a"]
    assert c.got() == []
    assert (queue.ring, queue.stale, c.client.missed) == ([], 0, [])
