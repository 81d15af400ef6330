"""MESSAGE frames in every pair of versions, and what happens to those that the kernel takes, or does not."""

import pytest
from stomp_fakes import FakeQueue, Talk

from radiator.message import Delivery, Message
from radiator.stomp.frame import encode_message, translate_block
from radiator.stomp.output import OUTPUT_MARK, SEND_BYTES
from radiator.stomp.session import SHARED_BYTES

BLOCK = b"destination:/queue/a\nx:1\nx:2\n"
SUBSCRIBE = "SUBSCRIBE\nid:s\ndestination:/queue/a\nack:{}\n\n\0"


def subscribed(version, ack="client"):
    talk = Talk(version=version)
    talk.tell(SUBSCRIBE.format(ack))
    talk.client.calls.clear()
    return talk


def delivery(message):
    return Delivery(FakeQueue(7), 3, 0, message)


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
        talk.session.publish(talk.client.subscriptions["s"], message, 1, {})
    wire = talk.wire()
    assert b"\nkey:" + VALUES[receiver] + b"\n" in wire


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_a_topics_message_has_an_id_and_in_1_2_an_ack_that_settles_nothing(version):
    talk = subscribed(version, "client")
    message = Message(12, True, b"destination:/topic/t\n", b"x")
    for number in (1, 2):
        talk.session.publish(talk.client.subscriptions["s"], message, number, {})
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
    talk.session.publish(talk.client.subscriptions["s"], Message(12, True, BLOCK, b""), 1, {})
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


LARGE = [SHARED_BYTES, 3 * SEND_BYTES]


@pytest.mark.parametrize("size", [SHARED_BYTES - len(BLOCK) - 1, SHARED_BYTES - len(BLOCK), *LARGE])
@pytest.mark.parametrize("version", ["1.0", "1.2"])
@pytest.mark.parametrize("kind", ["queue", "topic"])
def test_a_message_has_the_same_bytes_whatever_its_size(kind, version, size):
    talk = Talk(version=version)
    talk.tell("SUBSCRIBE\nid:content-length:0\ndestination:/queue/a\n\n\0")
    subscription = talk.client.subscriptions["content-length:0"]
    block = BLOCK + b"content-length:0\n"
    body = b"\0" * size
    if kind == "queue":
        talk.client.deliver("content-length:0", 3, block, body, ack=9)
        expected = (subscription.wire_id, 7, 3, 9 if version == "1.2" else 0, 0, block, body)
    else:
        talk.session.publish(subscription, Message(12, True, block, body), 5, {})
        expected = (subscription.wire_id, 0, 5, talk.client.acks if version == "1.2" else 0, 0, block, body)
    assert talk.woken
    wire = encode_message(*expected)
    assert talk.session.output_bytes == len(wire)
    assert talk.wire() == wire


@pytest.mark.parametrize("size", LARGE)
def test_a_large_body_is_one_object_in_all_outputs(size):
    message = Message(12, True, BLOCK, b"x" * size)
    for _ in range(2):
        talk = subscribed("1.2", "auto")
        talk.session.publish(talk.client.subscriptions["s"], message, 1, {})
        talk.session.deliver(talk.client.subscriptions["s"], delivery(message))
        assert sum(chunk is message.body for chunk in talk.session._chunks) == 2


def test_a_chunk_larger_than_one_send_is_never_copied():
    talk = subscribed("1.2", "auto")
    session = talk.session
    message = Message(12, True, BLOCK, b"x" * 3 * SEND_BYTES)
    for _ in range(2):
        session.deliver(talk.client.subscriptions["s"], delivery(message))
    objects = []
    while session.output_bytes:
        data = session.data_to_send()
        whole = data.obj if isinstance(data, memoryview) else data
        assert whole is message.body or len(whole) <= SEND_BYTES
        objects.append(whole is message.body)
        session.sent(min(len(data), SEND_BYTES), talk.now)
    assert objects == [False, True, True, True] * 2 + [False]
    assert talk.client.calls.count(("taken", 3)) == 2


def test_a_block_is_translated_once_for_all_subscribers_of_a_version(monkeypatch):
    calls = []

    def translate(*call):
        calls.append(call)
        return translate_block(*call)

    monkeypatch.setattr("radiator.stomp.session.translate_block", translate)
    message = Message(12, False, BLOCK + b"k:a\\cb\n", b"x")
    blocks = {}
    for version in ("1.0", "1.0", "1.1", "1.1", "1.2"):
        talk = subscribed(version, "auto")
        talk.session.publish(talk.client.subscriptions["s"], message, 1, blocks)
        assert (b"\nk:a:b\n" if version == "1.0" else b"\nk:a\\cb\n") in talk.wire()
    assert [target for _, _, target in calls] == [10, 11]


@pytest.mark.parametrize(("receiver", "line"), [("1.0", b"x: 1 "), ("1.1", b"x:1"), ("1.2", b"x:1")])
def test_blanks_that_were_no_part_of_a_header_do_not_become_one(receiver, line):
    source = Talk(version="1.0")
    source.tell(b"SEND\ndestination:/queue/a\nx: 1 \n\nbody\0")
    (message,) = source.broker.messages
    talk = subscribed(receiver)
    talk.client.deliver("s", 1, message.block, message.body, version=message.version, plain=message.plain)
    assert b"\n" + line + b"\n" in talk.wire()


def test_no_receipt_follows_the_error_that_its_frame_has_caused():
    talk = Talk(version="1.2")
    real = talk.client.send

    def send(*args):
        real(*args)
        talk.session.fail("too slow")

    talk.client.send = send
    talk.tell("SEND\ndestination:/topic/t\nreceipt:1\n\n\0")
    assert talk.error().headers["message"] == "too slow"
    assert talk.session.hasty


def test_what_is_owed_at_a_disconnect_has_the_time_that_it_takes():
    talk = subscribed("1.2")
    session = talk.session
    talk.client.deliver("s", 1, BLOCK, b"x" * 100_000)
    session.data_to_send()
    session.sent(10, 100.0)
    talk.tell("DISCONNECT\nreceipt:bye\n\n\0")
    assert session.closing
    for now in (150.0, 200.0, 250.0):
        session.data_to_send()
        session.sent(10, now)
        assert talk.tick(now + 1) == now + 60.0
        assert not session.hasty
    talk.tick(310.0)
    assert session.hasty
