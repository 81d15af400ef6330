"""MESSAGE frames in every pair of versions, and what happens to those that the kernel takes, or does not."""

import pytest
from stomp_fakes import Talk

from radiator.message import Message
from radiator.stomp.output import OUTPUT_MARK, SEND_BYTES

BLOCK = b"destination:/queue/a\nx:1\nx:2\n"
SUBSCRIBE = "SUBSCRIBE\nid:s\ndestination:/queue/a\nack:{}\n\n\0"


def subscribed(version, ack="client"):
    talk = Talk(version=version)
    talk.tell(SUBSCRIBE.format(ack))
    talk.client.calls.clear()
    return talk


def test_a_message_in_1_2_by_the_byte():
    talk = subscribed("1.2")
    delivery = talk.client.deliver("s", 3, BLOCK, b"a\0b", ack=9)
    assert talk.wire() == (b"MESSAGE\nsubscription:s\nmessage-id:7-3\nack:9\ncontent-length:3\n" + BLOCK + b"\na\0b\0")
    assert delivery.message is None


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_message_before_1_2_has_no_ack(version):
    talk = subscribed(version)
    talk.client.deliver("s", 3, BLOCK, b"", ack=9)
    assert talk.wire() == b"MESSAGE\nsubscription:s\nmessage-id:7-3\ncontent-length:0\n" + BLOCK + b"\n\0"


def test_a_message_of_a_1_0_subscription_without_id():
    talk = Talk(version="1.0")
    talk.tell("SUBSCRIBE\ndestination:/queue/a\n\n\0")
    talk.client.deliver("/queue/a", 3, BLOCK, b"")
    (frame,) = talk.frames()
    assert "subscription" not in frame.headers
    assert frame.headers["destination"] == "/queue/a"


def test_a_redelivered_message_says_so():
    talk = subscribed("1.2")
    talk.client.deliver("s", 3, BLOCK, b"", ack=1)
    talk.client.deliver("s", 3, BLOCK, b"", ack=2, deliveries=2)
    first, again = talk.frames()
    assert "redelivered" not in first.headers
    assert "delivery-count" not in first.headers
    assert (again.headers["redelivered"], again.headers["delivery-count"]) == ("true", "2")


def test_a_subscription_id_is_escaped_on_its_way_back():
    talk = Talk(version="1.1")
    talk.tell("SUBSCRIBE\nid:a\\cb\\\\\ndestination:/queue/a\n\n\0")
    talk.client.deliver("a:b\\", 3, BLOCK, b"")
    assert b"subscription:a\\cb\\\\\n" in talk.wire()


VALUES = {"1.0": b"a:b\\", "1.1": b"a\\cb\\\\", "1.2": b"a\\cb\\\\"}
NUMBERS = {"1.0": 10, "1.1": 11, "1.2": 12}


@pytest.mark.parametrize("receiver", VALUES)
@pytest.mark.parametrize("sender", VALUES)
@pytest.mark.parametrize("kind", ["queue", "topic"])
def test_headers_read_the_same_in_every_version(kind, sender, receiver):
    source = Talk(version=sender)
    source.tell(b"SEND\ndestination:/queue/a\nkey:" + VALUES[sender] + b"\n\nbody\0")
    (message,) = source.broker.messages
    assert not message.plain
    talk = subscribed(receiver)
    if kind == "queue":
        talk.client.deliver("s", 1, message.block, message.body, version=message.version, plain=message.plain)
    else:
        talk.session.publish(talk.client.subscriptions["s"], message, 1)
    wire = talk.wire()
    assert b"\nkey:" + VALUES[receiver] + b"\n" in wire


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_a_topics_message_has_an_id_and_in_1_2_an_ack_that_settles_nothing(version):
    talk = subscribed(version, "client")
    message = Message(12, True, b"destination:/topic/t\n", b"x")
    for number in (1, 2):
        talk.session.publish(talk.client.subscriptions["s"], message, number)
    frames = talk.frames()
    assert [frame.headers["message-id"] for frame in frames] == ["0-1", "0-2"]
    assert all(frame.headers["subscription"] == "s" for frame in frames)
    acks = [frame.headers.get("ack") for frame in frames]
    if version == "1.1":
        assert acks == [None, None]
        talk.tell("ACK\nmessage-id:0-1\nsubscription:s\n\n\0")
    else:
        assert len({*acks, None}) == 3
        talk.tell(f"ACK\nid:{acks[0]}\n\n\0")
    assert talk.session.stale_acks == 1


def test_content_length_is_always_there():
    talk = subscribed("1.2")
    for body in (b"", b"x", b"x" * 1000):
        talk.client.deliver("s", 1, BLOCK, body)
    assert [frame.headers["content-length"] for frame in talk.frames()] == ["0", "1", "1000"]


def test_auto_is_settled_when_the_kernel_took_the_last_byte():
    talk = subscribed("1.2", "auto")
    session = talk.session
    for number in (1, 2, 3):
        talk.client.deliver("s", number, BLOCK, b"x" * 100)
    one = session.output_bytes // 3
    data = bytes(session.data_to_send())
    assert len(data) == session.output_bytes
    session.sent(one - 1, talk.now)
    assert talk.client.calls == []
    assert bytes(session.data_to_send()) == data[one - 1 :]
    session.sent(1, talk.now)
    assert talk.client.calls == [("taken", 1)]
    session.sent(2 * one, talk.now)
    assert talk.client.calls == [("taken", 1), ("taken", 2, 3)]
    assert session.output_bytes == 0


def test_unsent_auto_messages_go_back_when_the_connection_is_lost():
    talk = subscribed("1.2", "auto")
    session = talk.session
    for number in (1, 2, 3):
        talk.client.deliver("s", number, BLOCK, b"x" * 100)
    session.data_to_send()
    session.sent(session.output_bytes // 2, talk.now)
    session.connection_lost()
    assert talk.client.calls == [("taken", 1), ("untaken", 2, 3)]
    assert talk.client.closed
    assert session.output_bytes == 0


def test_other_messages_are_not_settled_by_sending():
    talk = subscribed("1.2", "client")
    talk.client.deliver("s", 1, BLOCK, b"x")
    talk.wire()
    talk.session.connection_lost()
    assert talk.client.calls == []


def test_nothing_is_delivered_after_the_end():
    talk = subscribed("1.2", "auto")
    talk.session.fail("over")
    talk.wire()
    talk.client.deliver("s", 1, BLOCK, b"x")
    talk.session.publish(talk.client.subscriptions["s"], Message(12, True, BLOCK, b""), 1)
    assert talk.frames() == []
    talk.session.connection_lost()
    assert ("untaken", 1) in talk.client.calls


def test_the_broker_hears_when_the_output_fell_below_its_mark():
    talk = subscribed("1.2", "auto")
    session = talk.session
    while session.output_bytes < OUTPUT_MARK:
        talk.client.deliver("s", 1, BLOCK, b"x" * 50_000)
    session.data_to_send()
    session.sent(session.output_bytes - OUTPUT_MARK, talk.now)
    assert ("output_drained",) not in talk.client.calls
    session.data_to_send()
    session.sent(1, talk.now)
    assert ("output_drained",) in talk.client.calls
    talk.client.calls.clear()
    talk.wire()
    assert ("output_drained",) not in talk.client.calls


def test_a_large_output_is_sent_in_bounded_pieces():
    talk = subscribed("1.2")
    for number in range(100):
        talk.client.deliver("s", number, BLOCK, b"x" * 10_000)
    total = talk.session.output_bytes
    sizes = []
    while talk.session.output_bytes:
        data = talk.session.data_to_send()
        sizes.append(len(data))
        talk.session.sent(len(data), talk.now)
    assert sum(sizes) == total
    assert max(sizes) < SEND_BYTES + 11_000


def test_a_client_that_reads_nothing_is_read_no_more():
    talk = Talk(version="1.2")
    frames = "SEND\ndestination:/queue/a\nreceipt:" + "r" * 8000 + "\n\n\0"
    while talk.session.wants_read:
        talk.tell(frames)
    assert OUTPUT_MARK < talk.session.output_bytes < OUTPUT_MARK + 10_000
    talk.session.data_to_send()
    talk.session.sent(20_000, talk.now)
    assert talk.session.wants_read


def test_input_is_discarded_but_read_once_the_end_is_decided():
    talk = Talk(version="1.2")
    talk.error("NONSENSE\n\n\0")
    assert talk.session.wants_read
    talk.tell("x" * 100_000)
    assert talk.frames() == []


def test_one_wake_per_turn():
    talk = subscribed("1.2")
    woken = talk.woken
    for number in (1, 2, 3):
        talk.client.deliver("s", number, BLOCK, b"x")
    assert talk.woken == woken + 1


def test_what_a_client_holds_goes_back_as_soon_as_its_end_is_decided():
    for last in ("DISCONNECT\n\n\0", "NONSENSE\n\n\0"):
        talk = subscribed("1.2")
        talk.tell(last)
        assert talk.client.closed
    talk = subscribed("1.2", "auto")
    talk.client.deliver("s", 1, BLOCK, b"x")
    talk.tell("DISCONNECT\n\n\0")
    assert talk.client.closed
    talk.wire()
    assert talk.client.calls == [("taken", 1)]


def test_a_client_that_the_broker_fails_is_closed_by_the_broker():
    talk = subscribed("1.2")
    talk.session.fail("over")
    assert not talk.client.closed
    talk.session.connection_lost()
    assert talk.client.closed
