"""The contract, flow control and the NACK rule: who gets which message when, seen from the socket."""

from __future__ import annotations

import itertools
import re

import pytest
from contract_peer import house_of

CONFIG = """\
create: true
max_prefetch: 4
limits: {output: 8MiB}
destinations:
  /queue/memory.*: {type: queue, persistent: false}
  /queue/five.*: {type: queue, max_deliveries: 5}
  /queue/two: {type: queue, max_deliveries: 2, dead_letter: /queue/two.dead}
  /queue/once: {type: queue, persistent: false, max_deliveries: 1, dead_letter: /queue/once.dead}
"""
COUNT = itertools.count()


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with house_of(tmp_path_factory.mktemp("flow"), CONFIG) as house:
        yield house


@pytest.fixture(params=["/queue/disk.", "/queue/memory."])
def queue(request):
    """A queue of its own for each test, on disk and in memory."""
    return f"{request.param}{next(COUNT)}"


@pytest.fixture
def producer(house):
    with house.connect() as producer:
        yield producer


def test_the_dialogue_of_the_seed(house, producer, queue):
    """The example of the first README, step by step."""
    other, topic = queue + ".2", queue.replace("queue", "topic")
    with house.connect() as client:
        client.subscribe(queue, "q1", "client")
        client.subscribe(other, "q2", "client")
        client.subscribe(topic, "t1")
        producer.put(queue, "M1", "M2")
        first = client.message("M1")
        client.nothing()
        producer.put(other, "M3")
        client.nothing()
        client.ack(first)
        third = client.message("M3")
        producer.put(topic, "M4")
        assert client.message("M4")["subscription"] == "t1"
        client.nothing()
        client.ack(third)
        second = client.message("M2")
        client.ack(second)
        client.nothing()


def test_after_the_ack_the_next_comes_from_the_next_subscribed_queue_round_robin(house, producer, queue):
    names = [f"{queue}.{letter}" for letter in "abc"]
    for name in names:
        producer.put(name, *(f"{name[-1]}{number}" for number in range(4)))
    with house.connect() as client:
        for name in names:
            client.subscribe(name, name[-1])
            if name is names[0]:
                held = client.message("a0")
        got = []
        for _ in range(11):
            client.ack(held)
            held = client.message()
            got.append(held["body"])
        assert got == ["b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2", "a3", "b3", "c3"]


def test_an_empty_queue_is_passed_over_in_the_ring(house, producer, queue):
    names = [f"{queue}.{letter}" for letter in "abc"]
    with house.connect() as client:
        for name in names:
            client.subscribe(name, name[-1])
        producer.put(names[0], "a0", "a1", "a2")
        held = client.message("a0")
        producer.put(names[2], "c0", "c1")
        got = []
        for _ in range(4):
            client.ack(held)
            held = client.message()
            got.append(held["body"])
        assert got == ["c0", "a1", "c1", "a2"]


def test_one_un_acked_message_over_all_queue_subscriptions_by_default(house, producer, queue):
    producer.put(queue, "a", "b")
    producer.put(queue + ".2", "c")
    with house.connect() as client:
        client.subscribe(queue, "1")
        client.message("a")
        client.send("SUBSCRIBE", {"destination": queue, "id": "2", "ack": "client"})
        client.send("SUBSCRIBE", {"destination": queue + ".2", "id": "3", "ack": "client"})
        client.nothing()


@pytest.mark.parametrize(
    ("headers", "window"),
    [
        ({}, 1),
        ({"prefetch-count": "3"}, 3),
        ({"activemq.prefetchSize": "2"}, 2),
        ({"activemq.prefetchSize": "2", "prefetch-count": "3"}, 3),
        ({"prefetch-count": "3", "activemq.prefetchSize": "2"}, 3),
        ({"prefetch-count": "4"}, 4),
        ({"prefetch-count": "5"}, 4),  # max_prefetch
        ({"prefetch-count": "99999999999999999999999"}, 4),
    ],
)
def test_a_subscription_holds_at_most_its_prefetch_capped_at_max_prefetch(house, producer, headers, window):
    queue = f"/queue/disk.{next(COUNT)}"
    producer.put(queue, *"abcdef")
    with house.connect() as client:
        client.ask("SUBSCRIBE", {"destination": queue, "id": "0", "ack": "client-individual", **headers})
        assert client.bodies(window) == list("abcdef"[:window])
        client.nothing()


@pytest.mark.parametrize("name", ["prefetch-count", "activemq.prefetchSize"])
@pytest.mark.parametrize("value", ["0", "-1", "many", "", "1.5"])
def test_a_prefetch_of_0_negative_or_not_a_number_is_an_error(house, name, value):
    with house.connect() as client:
        client.refused("SUBSCRIBE", {"destination": "/queue/bad", "id": "0", "ack": "client", name: value})


def test_a_connection_holds_at_most_the_largest_prefetch_of_its_live_subscriptions(house, producer, queue):
    producer.put(queue, *"abcd")
    producer.put(queue + ".2", *"uvwx")
    with house.connect() as client:
        client.subscribe(queue, "1", prefetch_count="2")
        held = [client.message("a"), client.message("b")]
        client.subscribe(queue + ".2", "2", prefetch_count="3")
        assert client.message()["body"] == "u"
        client.nothing()
        client.ask("UNSUBSCRIBE", {"id": "2"})  # now the largest is 2 again
        client.nothing()
        client.ack(held[0])
        client.message("c")
        client.nothing()


def test_subscribe_with_an_id_in_use_changes_the_window_where_destination_and_ack_are_the_same(house, producer, queue):
    producer.put(queue, *"abcdef")
    with house.connect() as client:
        client.subscribe(queue, "0")
        held = [client.message("a")]
        client.subscribe(queue, "0", prefetch_count="3")
        held += [client.message("b"), client.message("c")]
        client.nothing()
        client.subscribe(queue, "0", prefetch_count="1")
        client.ack(held[0])
        client.ack(held[1])
        client.nothing()
        client.ack(held[2])
        client.message("d")
        client.nothing()


@pytest.mark.parametrize("change", [{"destination": "/queue/disk.other"}, {"ack": "client"}])
def test_subscribe_with_an_id_in_use_for_something_else_is_an_error(house, change):
    with house.connect() as client:
        headers = {"destination": "/queue/disk.same", "id": "0", "ack": "client-individual"}
        client.ask("SUBSCRIBE", headers)
        client.refused("SUBSCRIBE", {**headers, **change})


def test_consumers_of_a_queue_take_turns_one_message_at_a_time(house, producer, queue):
    """A ring moves only on delivery, one message at a time: a window of 4 gets no four in a row."""
    clients = {name: house.connect() for name in "xyz"}
    for client in clients.values():
        client.subscribe(queue, prefetch_count="4")
    producer.put(queue, *(str(number) for number in range(12)))
    assert clients["x"].bodies(4) == ["0", "3", "6", "9"]
    assert clients["y"].bodies(4) == ["1", "4", "7", "10"]
    assert clients["z"].bodies(4) == ["2", "5", "8", "11"]


def test_a_backlog_is_handed_out_in_turns_too(house, producer, queue):
    clients = [house.connect() for _ in range(2)]
    for client in clients:
        client.subscribe(queue, prefetch_count="3")
    producer.ask("BEGIN", {"transaction": "t"})
    for number in range(6):
        producer.send("SEND", {"destination": queue, "transaction": "t"}, str(number).encode())
    producer.ask("COMMIT", {"transaction": "t"})
    assert [client.bodies(3) for client in clients] == [["0", "2", "4"], ["1", "3", "5"]]


def test_a_ring_does_not_move_for_who_had_no_room(house, producer, queue):
    first, second = house.connect(), house.connect()
    first.subscribe(queue)
    second.subscribe(queue)
    producer.put(queue, "a", "b")
    held = first.message("a")
    other = second.message("b")
    producer.put(queue, "c")  # nobody has room
    second.ack(other)
    other = second.message("c")  # first had none, and keeps its place
    first.ack(held)
    first.nothing()
    second.ack(other)
    second.nothing()
    producer.put(queue, "d", "e")
    first.message("d")
    second.message("e")


def test_an_ack_inside_a_transaction_frees_its_place_and_abort_makes_the_message_held_again(house, producer, queue):
    producer.put(queue, "a", "b", "c")
    with house.connect() as client, house.connect() as other:
        client.subscribe(queue)
        first = client.message("a")
        client.ask("BEGIN", {"transaction": "t"})
        client.ack(first, transaction="t")
        second = client.message("b")
        client.ask("ABORT", {"transaction": "t"})
        client.ack(second)
        client.nothing()  # it holds a again
        other.subscribe(queue)
        other.message("c")  # and nobody else has got it
        client.ack(first)
        client.nothing()
        client.close()
        other.nothing()  # the ACK after the ABORT was good


def test_an_aborted_ack_is_held_and_goes_back_with_the_connection(house, producer, queue):
    producer.put(queue, "a")
    client = house.connect()
    client.subscribe(queue)
    message = client.message("a")
    client.ask("BEGIN", {"transaction": "t"})
    client.ack(message, transaction="t")
    client.ask("ABORT", {"transaction": "t"})
    client.close()
    with house.connect() as other:
        other.subscribe(queue)
        assert other.message("a")["delivery-count"] == "1"


@pytest.mark.parametrize("command", ["ACK", "NACK"])
def test_ack_client_settles_the_named_and_all_delivered_before_it(house, producer, queue, command):
    producer.put(queue, *"abcd")
    with house.connect() as client:
        client.subscribe(queue, ack="client", prefetch_count="4")
        held = [client.message() for _ in range(4)]
        client.ask("SUBSCRIBE", {"destination": queue, "id": "0", "ack": "client", "prefetch-count": "1"})
        client.send(command, {"id": held[2]["ack"]})
        client.nothing()  # d is held still
        client.close()
    with house.connect() as other:
        other.subscribe(queue, prefetch_count="4")
        left = [other.message() for _ in range(1 if command == "ACK" else 4)]
        assert [message["body"] for message in left] == (["d"] if command == "ACK" else list("abcd"))
        assert {message["delivery-count"] for message in left} == {"1"}
        other.nothing()


def test_cumulative_acks_go_by_order_of_delivery_never_by_id(house, producer, queue):
    producer.put(queue, *"abc")
    with house.connect() as first, house.connect() as client:
        first.subscribe(queue)
        a = first.message("a")
        client.subscribe(queue, ack="client", prefetch_count="4")
        b, c = client.message("b"), client.message("c")
        first.nack(a)
        a = client.message("a")  # delivered last, though its id is the lowest
        first.ask("UNSUBSCRIBE", {"id": "0"})
        assert a["delivery-count"] == "1"
        client.ack(c)  # b and c, not a
        client.close()
        first.subscribe(queue, "1", prefetch_count="4")
        assert first.message("a")["delivery-count"] == "2"
        first.nothing()
        assert b["message-id"] < c["message-id"]


def test_a_cumulative_ack_leaves_other_subscriptions_alone(house, producer, queue):
    producer.put(queue, "a")
    producer.put(queue + ".2", "u")
    with house.connect() as client:
        client.subscribe(queue, "1", "client", prefetch_count="2")
        client.message("a")
        client.subscribe(queue + ".2", "2", "client", prefetch_count="2")
        client.ack(client.message("u"))
    with house.connect() as other:
        other.subscribe(queue, "1", prefetch_count="2")
        other.message("a")
        other.subscribe(queue + ".2", "2", prefetch_count="2")
        other.nothing()


def test_nack_puts_back_at_the_old_place_and_its_consumer_at_the_rings_end(house, producer, queue):
    clients = [house.connect() for _ in range(3)]
    for client in clients:
        client.subscribe(queue)
    producer.put(queue, *"abcd")
    held = [client.message(body) for client, body in zip(clients, "abc", strict=True)]
    clients[1].ack(held[1])
    held[1] = clients[1].message("d")
    producer.put(queue, "e")
    clients[0].nack(held[0])  # it is alone with room, so it gets it again, counted
    held[0] = clients[0].message("a")
    assert (held[0]["redelivered"], held[0]["delivery-count"]) == ("true", "1")
    clients[2].ack(held[2])
    held[2] = clients[2].message("e")


def test_another_consumer_with_room_gets_what_was_nacked(house, producer, queue):
    with house.connect() as first, house.connect() as second:
        first.subscribe(queue)
        producer.put(queue, "a")
        message = first.message("a")
        second.subscribe(queue)
        first.nack(message)
        assert second.message("a")["delivery-count"] == "1"
        first.nothing()


def test_delivery_count_is_the_number_of_earlier_deliveries(house, producer, queue):
    producer.put(queue, "a")
    with house.connect() as client:
        client.subscribe(queue)
        message = client.message("a")
        assert "redelivered" not in message
        assert "delivery-count" not in message
        acks = {message["ack"]}
        for count in range(1, 4):
            client.nack(message)
            message = client.message("a")
            assert (message["redelivered"], message["delivery-count"]) == ("true", str(count))
            acks.add(message["ack"])
        assert len(acks) == 4  # new for each delivery


def test_unsubscribe_is_a_lost_connection_for_that_subscription(house, producer, queue):
    producer.put(queue, "a", "b")
    with house.connect() as client:
        client.subscribe(queue, prefetch_count="2")
        held = [client.message("a"), client.message("b")]
        client.ask("UNSUBSCRIBE", {"id": "0"})
        client.send("ACK", {"id": held[0]["ack"]})  # no longer held: ignored
        client.subscribe(queue, "1", prefetch_count="2")
        for body in "ab":
            assert client.message(body)["delivery-count"] == "1"


@pytest.mark.parametrize("requeue", ["true", "false"])
def test_requeue_false_drops_where_no_dead_letter_is_configured(house, producer, queue, requeue):
    producer.put(queue, "a", "b")
    with house.connect() as client:
        client.subscribe(queue)
        client.nack(client.message("a"), requeue=requeue)
        client.message("a" if requeue == "true" else "b")


def test_max_deliveries_5_is_five_deliveries_and_no_sixth(house, producer):
    producer.put("/queue/five.a", "a", "b")
    with house.connect() as client:
        client.subscribe("/queue/five.a")
        for count in range(5):
            message = client.message("a")
            assert message.get("delivery-count", "0") == str(count)
            client.nack(message)
        client.message("b")


@pytest.mark.parametrize("how", ["NACK", "UNSUBSCRIBE", "close", "ERROR"])
def test_max_deliveries_counts_every_way_back_and_dead_letters(house, producer, how):
    producer.put("/queue/two", how, kept="yes")
    for count in range(2):
        with house.connect() as client:
            client.subscribe("/queue/two")
            message = client.message(how)
            assert message.get("delivery-count", "0") == str(count)
            if how == "NACK" and not count:
                client.nack(message)
                assert client.message(how)["delivery-count"] == "1"
                client.ask("NACK", {"id": message["ack"]})  # of what is no longer held
                break
            if how == "UNSUBSCRIBE":
                client.ask("UNSUBSCRIBE", {"id": "0"})
            elif how == "ERROR":
                client.send("NONSENSE")
                client.error()
    with house.connect() as client:
        client.subscribe("/queue/two.dead")
        message = client.message(how)
        assert message["destination"] == "/queue/two"
        assert message["kept"] == "yes"
        assert message["dead-letter-queue"] == "/queue/two"
        assert message["dead-letter-reason"] == "max-deliveries"
        assert re.fullmatch("[0-9]{13}", message["dead-letter-time"])
        assert "delivery-count" not in message
        client.ask("ACK", {"id": message["ack"]})


def test_the_dead_letter_of_a_memory_queue(house, producer):
    producer.put("/queue/once", "a", "b")
    with house.connect() as client:
        client.subscribe("/queue/once")
        client.nack(client.message("a"))
        client.nack(client.message("b"), requeue="false")
        client.subscribe("/queue/once.dead", "1", prefetch_count="2")
        assert [client.message()["dead-letter-reason"] for _ in range(2)] == ["max-deliveries", "nacked"]


def test_an_ack_for_a_message_no_longer_held_is_not_fatal(house, producer, queue):
    producer.put(queue, "a", "b")
    with house.connect() as client:
        client.subscribe(queue)
        message = client.message("a")
        client.ack(message)
        message = client.message("b")
        for _ in range(2):
            client.ask("ACK", {"id": message["ack"]})
        client.ask("NACK", {"id": "987654321"})
        client.ask("ACK", {"id": "never-given"})
        client.nothing()


def test_ack_auto_needs_no_ack_and_nothing_comes_back(house, producer, queue):
    producer.put(queue, *"abcdef")
    with house.connect() as client:
        client.ask("SUBSCRIBE", {"destination": queue, "id": "0"})  # auto is the default
        assert client.bodies(6) == list("abcdef")
    with house.connect() as other:
        other.subscribe(queue)
        other.nothing()


def test_ack_auto_stands_in_the_same_ring_as_windows(house, producer, queue):
    with house.connect() as auto, house.connect() as window:
        auto.subscribe(queue, ack="auto")
        window.subscribe(queue, prefetch_count="3")
        producer.put(queue, *"abcdef")
        assert auto.bodies(3) == ["a", "c", "e"]
        assert window.bodies(3) == ["b", "d", "f"]


@pytest.mark.parametrize("ack", ["auto", "client-individual"])
def test_windows_and_auto_obey_the_output_mark(house, producer, queue, ack):
    """One that does not read gets what its socket and 256 KiB take; the rest goes to others, at once."""
    size, count = 128 << 10, 80
    stuck = house.connect()
    stuck.sock.setsockopt(1, 8, 32768)  # SOL_SOCKET, SO_RCVBUF
    for _ in range(count):
        producer.send("SEND", {"destination": queue}, b"x" * size)
    producer.nothing()
    headers = {"destination": queue, "id": "0", "ack": ack, "prefetch-count": "4"}
    stuck.send("SUBSCRIBE", headers)
    with house.connect() as other:
        other.ask("SUBSCRIBE", {"destination": queue, "id": "0", "ack": "auto"})
        first = int(other.message()["message-id"].rpartition("-")[2])
        assert first > 1  # what came before is in the other's window or output
        least = count - (4 if ack != "auto" else 64)
        for _ in range(least - 1):
            other.message()
    stuck.close()


def test_one_message_always_fits_an_empty_output(house, producer, queue):
    body = "x" * (3 << 20)
    producer.put(queue, body)
    with house.connect() as client:
        client.subscribe(queue)
        client.message(body)
