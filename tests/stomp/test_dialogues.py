"""Whole conversations of several clients with the real broker."""

import pytest
from stomp_house import House

from radiator.config.schema import Destination, Limits

VERSIONS = ("1.0", "1.1", "1.2")


def send(destination, body, receipt=None, transaction=None):
    lines = [f"destination:{destination}"]
    if receipt is not None:
        lines.append(f"receipt:{receipt}")
    if transaction is not None:
        lines.append(f"transaction:{transaction}")
    return "SEND\n" + "\n".join(lines) + f"\n\n{body}\0"


def subscribe(destination, id="s", ack="client-individual", more=""):
    return f"SUBSCRIBE\nid:{id}\ndestination:{destination}\nack:{ack}\n{more}\n\0"


def ack(frame, command="ACK", more=""):
    """The ACK or NACK of a MESSAGE, with the headers of every version at once."""
    lines = [f"message-id:{frame.headers['message-id']}"]
    if "subscription" in frame.headers:
        lines.append(f"subscription:{frame.headers['subscription']}")
    if "ack" in frame.headers:
        lines.append(f"id:{frame.headers['ack']}")
    return f"{command}\n" + "\n".join(lines) + f"\n{more}\n\0"


def bodies(frames):
    return [frame.body.decode() for frame in frames if frame.command == "MESSAGE"]


@pytest.mark.parametrize("receiver", VERSIONS)
@pytest.mark.parametrize("sender", VERSIONS)
@pytest.mark.parametrize("queue", ["/queue/memory", "/queue/one"])
def test_one_message_at_a_time(queue, sender, receiver):
    house = House()
    producer, consumer = house.talk(sender), house.talk(receiver)
    receipts = producer.ask("".join(send(queue, f"m{n}", n) for n in range(5)))
    assert [frame.headers["receipt-id"] for frame in receipts] == ["0", "1", "2", "3", "4"]
    frames = consumer.ask(subscribe(queue, ack="client"))
    for n in range(5):
        (frame,) = frames
        assert frame.body == f"m{n}".encode()
        assert frame.headers["destination"] == queue
        assert frame.headers["subscription"] == "s"
        assert ("ack" in frame.headers) == (receiver == "1.2")
        assert consumer.frames() == []
        frames = consumer.ask(ack(frame))
    assert frames == []


def test_the_example_of_the_seed():
    """The example of the first README: M1 and M2 to Q1, M3 to Q2, M4 to a topic; one client holds one at a time."""
    house = House()
    client, producer = house.talk(), house.talk()
    client.ask(subscribe("/queue/one", "q1", "client") + subscribe("/queue/two", "q2", "client"))
    client.ask(subscribe("/topic/chat", "t1", "auto"))
    producer.ask(send("/queue/one", "M1") + send("/queue/one", "M2"))
    (first,) = client.frames()
    assert first.body == b"M1"
    producer.ask(send("/queue/two", "M3"))
    assert client.frames() == []
    (third,) = client.ask(ack(first))
    assert third.body == b"M3"
    producer.ask(send("/topic/chat", "M4"))
    (fourth,) = client.frames()
    assert (fourth.body, fourth.headers["subscription"]) == (b"M4", "t1")
    (second,) = client.ask(ack(third))
    assert second.body == b"M2"
    assert client.ask(ack(second)) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_cumulative_ack(version):
    house = House()
    consumer, producer = house.talk(version), house.talk()
    consumer.ask(subscribe("/queue/one", ack="client", more="prefetch-count:4\n"))
    producer.ask("".join(send("/queue/one", n) for n in range(6)))
    frames = consumer.frames()
    assert bodies(frames) == ["0", "1", "2", "3"]
    assert bodies(consumer.ask(ack(frames[2]))) == ["4", "5"]
    consumer.session.connection_lost()
    other = house.talk()
    back = other.ask(subscribe("/queue/one", more="prefetch-count:9\n"))
    assert bodies(back) == ["3", "4", "5"]
    assert {frame.headers["redelivered"] for frame in back} == {"true"}
    assert {frame.headers["delivery-count"] for frame in back} == {"1"}


def test_an_individual_ack_settles_one():
    house = House()
    consumer, producer = house.talk(), house.talk()
    consumer.ask(subscribe("/queue/one", more="prefetch-count:3\n"))
    producer.ask("".join(send("/queue/one", n) for n in range(3)))
    frames = consumer.frames()
    consumer.ask(ack(frames[1]))
    consumer.ask("UNSUBSCRIBE\nid:s\n\n\0")
    assert bodies(house.talk().ask(subscribe("/queue/one", more="prefetch-count:3\n"))) == ["0", "2"]


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_nack_puts_back_and_dead_letters_at_last(version):
    house = House()
    consumer, producer = house.talk(version), house.talk()
    producer.ask(send("/queue/strict", "x"))
    (first,) = consumer.ask(subscribe("/queue/strict"))
    assert "redelivered" not in first.headers
    (second,) = consumer.ask(ack(first, "NACK"))
    assert second.headers["delivery-count"] == "1"
    assert first.headers["message-id"] == second.headers["message-id"]
    (receipt,) = consumer.ask(ack(second, "NACK", "receipt:n\n"))
    assert receipt.headers["receipt-id"] == "n"
    (dead,) = consumer.ask(subscribe("/queue/strict.dead", "d"))
    assert dead.body == b"x"
    assert dead.headers["destination"] == "/queue/strict"
    assert dead.headers["dead-letter-queue"] == "/queue/strict"
    assert dead.headers["dead-letter-reason"] == "max-deliveries"


def test_nack_without_requeue_dead_letters_at_once():
    house = House()
    consumer = house.talk()
    consumer.ask(send("/queue/strict", "x"))
    (first,) = consumer.ask(subscribe("/queue/strict"))
    assert consumer.ask(ack(first, "NACK", "requeue:false\n")) == []
    (dead,) = consumer.ask(subscribe("/queue/strict.dead", "d"))
    assert dead.headers["dead-letter-reason"] == "nacked"


def test_each_delivery_has_its_own_ack():
    house = House()
    consumer = house.talk()
    consumer.ask(send("/queue/one", "x"))
    (first,) = consumer.ask(subscribe("/queue/one"))
    (second,) = consumer.ask(ack(first, "NACK"))
    assert first.headers["ack"] != second.headers["ack"]
    (receipt,) = consumer.ask(ack(first, more="receipt:r\n"))
    assert receipt.command == "RECEIPT"
    assert consumer.session.stale_acks == 1
    assert consumer.client.holds == 1


def test_receipt_and_delivery_wait_for_the_disk():
    house = House(slow=True)
    producer, consumer = house.talk(), house.talk()
    consumer.ask(subscribe("/queue/one"))
    house.disk()
    assert producer.ask(send("/queue/one", "x", "r")) == []
    assert consumer.frames() == []
    house.disk()
    assert [frame.command for frame in producer.frames()] == ["RECEIPT"]
    assert bodies(consumer.frames()) == ["x"]


def test_disconnect_after_what_the_disk_owes():
    house = House(slow=True)
    producer = house.talk()
    assert producer.ask(send("/queue/one", "x", "1") + "DISCONNECT\nreceipt:2\n\n\0") == []
    house.disk()
    assert [frame.headers["receipt-id"] for frame in producer.frames()] == ["1", "2"]
    assert producer.session.closing


def test_an_error_after_what_the_disk_owes():
    house = House(slow=True)
    producer = house.talk()
    assert producer.ask(send("/queue/one", "x", "1") + send("/nowhere", "y", "2")) == []
    house.disk()
    assert [frame.command for frame in producer.frames()] == ["RECEIPT", "ERROR"]


@pytest.mark.parametrize("persistent", ["/queue/strict"])
def test_disconnect_after_a_dead_letter_that_is_not_written_yet(persistent):
    house = House(slow=True)
    consumer = house.talk()
    consumer.ask(send(persistent, "x"))
    house.disk()
    (frame,) = consumer.ask(subscribe(persistent))
    assert consumer.ask(ack(frame, "NACK", "requeue:false\nreceipt:1\n") + "DISCONNECT\nreceipt:2\n\n\0") == []
    house.disk()
    assert [frame.headers["receipt-id"] for frame in consumer.frames()] == ["1", "2"]


def test_a_transaction_is_whole():
    house = House()
    client, other = house.talk(), house.talk()
    other.ask(subscribe("/queue/two"))
    client.ask(send("/queue/one", "in"))
    (frame,) = client.ask(subscribe("/queue/one"))
    receipts = client.ask(
        "BEGIN\ntransaction:t\nreceipt:b\n\n\0"
        + ack(frame, more="transaction:t\n")
        + send("/queue/two", "out", "s", "t")
    )
    assert [receipt.headers["receipt-id"] for receipt in receipts] == ["b", "s"]
    assert other.frames() == []
    (receipt,) = client.ask("COMMIT\ntransaction:t\nreceipt:c\n\n\0")
    assert receipt.headers["receipt-id"] == "c"
    assert bodies(other.frames()) == ["out"]
    client.session.connection_lost()
    assert bodies(house.talk().ask(subscribe("/queue/one"))) == []


def test_an_aborted_transaction_never_was():
    house = House()
    client = house.talk()
    client.ask(send("/queue/one", "in"))
    (frame,) = client.ask(subscribe("/queue/one"))
    client.ask("BEGIN\ntransaction:t\n\n\0" + ack(frame, more="transaction:t\n") + send("/queue/two", "out", None, "t"))
    client.ask("ABORT\ntransaction:t\n\n\0")
    assert client.client.holds == 1
    assert client.ask(ack(frame, more="receipt:a\n"))[0].command == "RECEIPT"
    assert client.session.stale_acks == 0
    assert bodies(client.ask(subscribe("/queue/two", "z"))) == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("COMMIT\ntransaction:t\n\n\0", "t"),
        ("ABORT\ntransaction:t\n\n\0", "t"),
        ("BEGIN\ntransaction:t\n\n\0BEGIN\ntransaction:t\n\n\0", "t"),
        (send("/queue/one", "x", None, "t"), "t"),
        ("UNSUBSCRIBE\nid:s\n\n\0", "s"),
        (send("/elsewhere", "x"), "/elsewhere"),
        (subscribe("/elsewhere"), "/elsewhere"),
        (subscribe("/fanout/both"), "/fanout/both"),
        (subscribe("/queue/one") + subscribe("/queue/two"), "s"),
        (send("/queue/small", "x") * 3, "max_messages"),
    ],
)
def test_what_the_broker_refuses(data, said):
    house = House(create=False)
    error = house.talk().error(data)
    assert said in error.headers["message"]


def test_a_fanout_gives_each_queue_a_copy():
    house = House()
    client = house.talk()
    (receipt,) = client.ask(send("/fanout/both", "x", "r"))
    assert receipt.headers["receipt-id"] == "r"
    for id, queue in (("1", "/queue/one"), ("2", "/queue/two")):
        (frame,) = client.ask(subscribe(queue, id, "auto"))
        assert (frame.body, frame.headers["destination"]) == (b"x", "/fanout/both")


def test_a_topic_reaches_all_who_listen_now():
    house = House()
    producer, one, two = house.talk(), house.talk("1.0"), house.talk("1.1")
    producer.ask(send("/topic/chat", "early"))
    for listener in (one, two):
        assert listener.ask(subscribe("/topic/chat", ack="auto")) == []
    producer.ask(send("/topic/chat", "now") + send("/topic/chat", "then"))
    for listener in (one, two):
        frames = listener.frames()
        assert bodies(frames) == ["now", "then"]
        assert len({frame.headers["message-id"] for frame in frames}) == 2
    one.ask("UNSUBSCRIBE\nid:s\n\n\0")
    producer.ask(send("/topic/chat", "last"))
    assert bodies(one.frames()) == []
    assert bodies(two.frames()) == ["last"]


def test_a_slow_topic_subscriber_is_told_and_closed():
    house = House()
    producer, slow = house.talk(), house.talk()
    slow.ask(subscribe("/topic/chat", ack="auto"))
    limit = house.broker.config.limits.output
    body = "x" * 1_000_000
    for _ in range(limit // len(body) + 2):
        producer.tell(send("/topic/chat", body))
    house.turn()
    assert slow.session.closing
    assert slow.session.output_bytes <= limit + 1000
    *messages, error = slow.frames()
    assert {frame.command for frame in messages} == {"MESSAGE"}
    assert "limits.output" in error.headers["message"]
    assert producer.ask(send("/topic/chat", "more", "r"))[0].command == "RECEIPT"
    assert slow.frames() == []


@pytest.mark.parametrize("body", ["", "x" * 300])
@pytest.mark.parametrize(("source", "target"), [("1.0", "1.2"), ("1.0", "1.1"), ("1.2", "1.1"), ("1.2", "1.2")])
def test_the_output_of_a_topic_subscriber_never_passes_its_limit(source, target, body):
    """All of each MESSAGE counts: our own header lines, and what its block grows by in another version."""
    topic = Destination("/topic/chat", "topic", slow="drop")
    house = House(destinations=(topic,), limits=Limits(output=20_000))
    producer, slow = house.talk(source), house.talk(target)
    slow.ask(subscribe("/topic/chat", id="s" * 100, ack="auto"))
    for _ in range(300):
        producer.tell(f"SEND\ndestination:/topic/chat\nx:{':' * 50}\n\n{body}\0")
        assert slow.session.output_bytes <= 20_000
    assert slow.session.output_bytes > 19_000
    assert house.broker.stats()["topics"]["/topic/chat"]["dropped"]


def test_auto_on_a_queue_settles_what_was_sent_and_returns_the_rest():
    house = House()
    producer, consumer = house.talk(), house.talk()
    producer.ask("".join(send("/queue/one", n) for n in range(4)))
    consumer.tell(subscribe("/queue/one", ack="auto"))
    house.turn()
    data = consumer.session.data_to_send()
    consumer.session.sent(len(data) // 2 + 5, consumer.now)
    consumer.session.connection_lost()
    house.turn()
    rest = house.talk().ask(subscribe("/queue/one", ack="auto"))
    assert bodies(rest) == ["2", "3"]
    assert all("redelivered" not in frame.headers for frame in rest)


def test_auto_stops_at_the_output_mark_and_goes_on():
    house = House()
    producer, consumer = house.talk(), house.talk()
    body = "x" * 100_000
    producer.ask(send("/queue/one", body) * 20)
    consumer.tell(subscribe("/queue/one", ack="auto"))
    house.turn()
    assert consumer.session.output_bytes < (256 << 10) + 101_000
    assert len(consumer.frames()) == 20


def test_a_message_of_a_failed_client_goes_to_another_unharmed():
    house = House()
    bad, good = house.talk(), house.talk()
    bad.ask(subscribe("/queue/one"))
    bad.tell("NONSENSE\n\n\0")
    good.ask(subscribe("/queue/one"))
    frames = good.ask(send("/queue/one", "x", "r"))
    assert bodies(frames) == ["x"]
    assert all("redelivered" not in frame.headers for frame in frames)


def test_a_full_store_holds_producers_back_but_not_consumers():
    house = House()
    producer, consumer = house.talk(), house.talk()
    producer.ask(send("/queue/one", "before"))
    house.store.room = False
    assert producer.ask(send("/queue/one", "x", "1") + send("/queue/one", "y", "2")) == []
    assert producer.session.blocked
    (frame,) = consumer.ask(subscribe("/queue/one"))
    (receipt,) = consumer.ask(ack(frame, more="receipt:a\n"))
    assert receipt.headers["receipt-id"] == "a"
    house.store.room = True
    producer.session.resume(producer.now)
    assert [frame.headers["receipt-id"] for frame in producer.frames()] == ["1", "2"]
    assert bodies(consumer.frames()) == ["x"]


def test_a_1_0_client_by_destination():
    house = House()
    client = house.talk("1.0")
    client.ask("SEND\ndestination: /queue/one\n\nhello\0")
    (frame,) = client.ask("SUBSCRIBE\ndestination: /queue/one\nack: client\n\n\0")
    assert frame.body == b"hello"
    assert "subscription" not in frame.headers
    assert client.ask(f"ACK\nmessage-id: {frame.headers['message-id']}\nreceipt: 1\n\n\0")[0].command == "RECEIPT"
    assert client.client.holds == 0
    client.ask("UNSUBSCRIBE\ndestination: /queue/one\n\n\0")
    client.ask("SEND\ndestination: /queue/one\n\nagain\0")
    assert client.frames() == []


def test_sigterm_gives_the_receipts_owed():
    house = House(slow=True)
    producer = house.talk()
    producer.ask(send("/queue/one", "x", "1") + "SEND\ndestination:/queue/one\n\nhalf")
    producer.session.drain(producer.now)
    house.disk()
    assert [frame.headers["receipt-id"] for frame in producer.frames()] == ["1"]
    assert producer.session.closing


def test_sigterm_commits_what_was_read_while_the_store_was_full():
    house = House(slow=True)
    producer = house.talk()
    producer.ask("BEGIN\ntransaction:t\n\n\0" + send("/queue/one", "x", transaction="t"))
    house.store.room = False
    producer.ask("COMMIT\ntransaction:t\nreceipt:1\n\n\0" + send("/queue/one", "y", "2"))
    producer.session.drain(producer.now)
    assert not producer.session.closing
    house.store.room = True
    producer.session.resume(producer.now)
    house.disk()
    assert [frame.headers["receipt-id"] for frame in producer.frames()] == ["1", "2"]
    assert producer.session.closing
