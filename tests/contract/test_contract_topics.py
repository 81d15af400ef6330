"""The contract on topics: memory only, every subscriber connected now gets it, no flow control."""

from __future__ import annotations

import itertools

import pytest
from contract_peer import house_of

OUTPUT = 256 << 10
CONFIG = f"""\
create: false
limits: {{output: {OUTPUT}}}
destinations:
  /topic/free.*: {{type: topic}}
  /topic/drop: {{type: topic, slow: drop}}
  /topic/nobody: {{type: topic}}
  no/prefix at all: {{type: topic}}
"""
COUNT = itertools.count()


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with house_of(tmp_path_factory.mktemp("topics"), CONFIG) as house:
        yield house


@pytest.fixture
def topic():
    return f"/topic/free.{next(COUNT)}"


def test_every_subscriber_connected_now_gets_it_and_nobody_later(house, topic):
    with house.connect() as producer, house.connect() as one, house.connect() as two, house.connect() as late:
        producer.put(topic, "before")
        one.subscribe(topic, "x", "auto")
        two.subscribe(topic, "y", "client")
        producer.put(topic, "now")
        assert one.message("now")["subscription"] == "x"
        assert two.message("now")["subscription"] == "y"
        late.subscribe(topic)
        late.nothing()


def test_a_topic_has_no_flow_control(house, topic):
    with house.connect() as producer, house.connect() as client:
        client.subscribe(topic, prefetch_count="1")
        producer.put(topic, *(str(number) for number in range(50)))
        assert client.bodies(50) == [str(number) for number in range(50)]


def test_messages_of_topics_leave_the_window_of_queues_alone(house, topic):
    """One that holds nothing of a queue and has un-ACKed messages of a topic is told of everything published."""
    with house.connect() as client:
        client.subscribe(topic, "1", "client")
        client.subscribe("no/prefix at all", "2", "client")
        client.send("SEND", {"destination": topic}, b"a")
        client.send("SEND", {"destination": "no/prefix at all"}, b"b")
        assert client.bodies(2) == ["a", "b"]


@pytest.mark.parametrize("ack", ["auto", "client", "client-individual"])
def test_in_1_2_a_topics_message_has_an_ack_of_its_own_and_acks_are_ignored(house, topic, ack):
    """`MESSAGE always carries … in 1.2 an ack that is new for each delivery`."""
    with house.connect() as client:
        client.subscribe(topic, ack=ack)
        client.send("SEND", {"destination": topic}, b"a")
        client.send("SEND", {"destination": topic}, b"b")
        first, second = client.message("a"), client.message("b")
        assert first["ack"] != second["ack"]
        assert first["message-id"] != second["message-id"]
        client.ask("ACK", {"id": first["ack"]})
        client.ask("NACK", {"id": second["ack"], "requeue": "false"})


def test_several_subscriptions_of_one_connection_get_a_copy_each(house, topic):
    with house.connect() as client:
        client.subscribe(topic, "1")
        client.subscribe(topic, "2")
        client.send("SEND", {"destination": topic}, b"a")
        assert {client.message("a")["subscription"] for _ in range(2)} == {"1", "2"}
        client.ask("UNSUBSCRIBE", {"id": "1"})
        client.send("SEND", {"destination": topic}, b"b")
        assert client.message("b")["subscription"] == "2"
        client.nothing()


def flood(house, producer, topic, reader=None):
    """A subscriber that does not read, and far more than its socket and limits.output take; `reader` gets all."""
    slow = house.connect(connect=False)
    slow.sock.setsockopt(1, 8, 32768)  # SOL_SOCKET, SO_RCVBUF
    slow.send("CONNECT", {"accept-version": "1.2", "host": "/"})
    assert slow.frame()[0] == "CONNECTED"
    slow.subscribe(topic)
    for number in range(200):
        producer.put(topic, f"{number:06}" + "x" * 60_000)
        if reader is not None:
            assert reader.message()["body"].startswith(f"{number:06}")
    return slow


def test_a_subscriber_whose_output_passes_limits_output_is_disconnected_with_an_error(house, topic):
    with house.connect() as producer, house.connect() as other:
        other.subscribe(topic)
        slow = flood(house, producer, topic, other)
        count = 0
        while (frame := slow.frame())[0] == "MESSAGE":
            assert frame[2].startswith(f"{count:06}".encode())
            count += 1
        assert frame[0] == "ERROR"
        assert f"limits.output is {OUTPUT}" in frame[1]["message"]
        assert slow.eof() == b""
        assert 0 < count < 200


def test_a_topic_with_slow_drop_drops_for_it_instead(house):
    with house.connect() as producer:
        slow = flood(house, producer, "/topic/drop")
        seen = []
        while not slow.quiet(0.3):
            seen.append(int(slow.message()["body"][:6]))
        assert 0 < len(seen) < 200
        assert seen == list(range(len(seen)))
        producer.put("/topic/drop", "after")
        slow.message("after")


def test_one_message_always_fits_an_empty_output(house, topic):
    with house.connect() as client, house.connect() as producer:
        client.subscribe(topic)
        producer.put(topic, "x" * (2 * OUTPUT))
        assert len(client.message()["body"]) == 2 * OUTPUT


def test_topics_in_a_transaction_are_published_by_its_commit(house, topic):
    with house.connect() as client, house.connect() as producer:
        client.subscribe(topic)
        for end in ("ABORT", "COMMIT"):
            producer.ask("BEGIN", {"transaction": "t"})
            producer.put(topic, end, transaction="t")
            client.nothing()
            producer.ask(end, {"transaction": "t"})
        client.message("COMMIT")
        client.nothing()
