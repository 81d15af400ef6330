"""Every client frame in every version: what it asks of the broker, its receipt, and its errors."""

import pytest
from stomp_fakes import WALL_MS, FakeBroker, Talk

from radiator.errors import Refused

ALL = ("1.0", "1.1", "1.2")
LATER = ("1.1", "1.2")


def calls(version, data):
    """What one frame makes the session ask of the broker."""
    talk = Talk(version=version)
    assert talk.ask(data) == []
    assert not talk.session.ending
    return talk.client.calls


def message_of(version, data):
    error = Talk(version=version).error(data)
    return error.headers["message"]


# SEND


@pytest.mark.parametrize("version", ALL)
def test_send(version):
    talk = Talk(version=version)
    talk.tell("SEND\ndestination:/queue/a\ncontent-type:text/plain\nreceipt:9\ncontent-length:5\n\nhe\0lo\0")
    assert talk.client.calls == [("send", "/queue/a", b"he\0lo", None)]
    (message,) = talk.broker.messages
    assert message.block == b"destination:/queue/a\ncontent-type:text/plain\n"
    assert message.plain
    assert message.version == talk.session.version
    assert message.arrival_ms == WALL_MS
    (receipt,) = talk.frames()
    assert (receipt.command, receipt.headers) == ("RECEIPT", {"receipt-id": "9"})


def test_what_the_broker_sets_cannot_be_forged():
    talk = Talk(version="1.2")
    forged = [
        "message-id",
        "subscription",
        "ack",
        "redelivered",
        "delivery-count",
        "dead-letter-queue",
        "dead-letter-x",
    ]
    lines = "".join(f"{name}:1\n" for name in forged)
    talk.tell(f"SEND\ndestination:/queue/a\n{lines}x:1\nx:2\n\n\0")
    assert talk.broker.messages[0].block == b"destination:/queue/a\nx:1\nx:2\n"


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("lines", ["", "destination:\n"])
def test_send_needs_a_destination(version, lines):
    assert message_of(version, f"SEND\n{lines}\n\0") == "SEND needs the header destination"


@pytest.mark.parametrize("version", ALL)
def test_send_in_a_transaction(version):
    talk = Talk(version=version)
    talk.tell("BEGIN\ntransaction:t\n\n\0SEND\ndestination:/queue/a\ntransaction:t\n\nx\0COMMIT\ntransaction:t\n\n\0")
    assert talk.client.calls == [("begin", "t"), ("send", "/queue/a", b"x", "t"), ("commit", "t")]
    assert b"transaction" not in talk.broker.messages[0].block


# SUBSCRIBE, UNSUBSCRIBE


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("ack", ["auto", "client", "client-individual"])
def test_subscribe(version, ack):
    assert calls(version, f"SUBSCRIBE\nid:s\ndestination:/queue/a\nack:{ack}\n\n\0") == [
        ("subscribe", "s", "/queue/a", ack, None, b"s")
    ]


@pytest.mark.parametrize("version", ALL)
def test_ack_is_auto_where_it_is_not_given(version):
    assert calls(version, "SUBSCRIBE\nid:s\ndestination:/queue/a\n\n\0")[0][3] == "auto"


def test_subscribe_without_id_in_1_0():
    assert calls("1.0", "SUBSCRIBE\ndestination: /queue/a\n\n\0") == [
        ("subscribe", None, "/queue/a", "auto", None, None)
    ]


@pytest.mark.parametrize("version", LATER)
@pytest.mark.parametrize("lines", ["", "id:\n"])
def test_subscribe_needs_an_id(version, lines):
    assert message_of(version, f"SUBSCRIBE\n{lines}destination:/queue/a\n\n\0") == "SUBSCRIBE needs the header id"


@pytest.mark.parametrize("version", ALL)
def test_subscribe_needs_a_destination(version):
    assert message_of(version, "SUBSCRIBE\nid:s\n\n\0") == "SUBSCRIBE needs the header destination"


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("ack", ["", "Auto", "manual", "client individual"])
def test_subscribe_with_another_ack(version, ack):
    assert "header ack" in message_of(version, f"SUBSCRIBE\nid:s\ndestination:/queue/a\nack:{ack}\n\n\0")


@pytest.mark.parametrize("version", ALL)
def test_subscribe_with_a_selector_is_never_accepted(version):
    assert "selector" in message_of(version, "SUBSCRIBE\nid:s\ndestination:/queue/a\nselector:a=1\n\n\0")


@pytest.mark.parametrize(
    ("lines", "window"),
    [
        ("prefetch-count:1", 1),
        ("prefetch-count:007", 7),
        ("activemq.prefetchSize:20", 20),
        ("activemq.prefetchSize:20\nprefetch-count:3", 3),
        ("activemq.prefetchSize:0\nprefetch-count:3", 3),
        ("prefetch-count:" + "9" * 5000, 10**19),
        ("prefetch-count:" + "0" * 50 + "8", 8),
    ],
)
def test_the_window(lines, window):
    assert calls("1.2", f"SUBSCRIBE\nid:s\ndestination:/queue/a\n{lines}\n\n\0")[0][4] == window


@pytest.mark.parametrize("name", ["prefetch-count", "activemq.prefetchSize"])
@pytest.mark.parametrize("value", ["0", "000", "-1", "+1", "1.0", "many", "", "0x10", "\u0661"])
def test_a_window_that_is_none(name, value):
    assert name in message_of("1.2", f"SUBSCRIBE\nid:s\ndestination:/queue/a\n{name}:{value}\n\n\0")


@pytest.mark.parametrize("version", ALL)
def test_unsubscribe(version):
    assert calls(version, "UNSUBSCRIBE\nid:s\n\n\0") == [("unsubscribe", "s", None)]


def test_unsubscribe_by_destination_in_1_0():
    assert calls("1.0", "UNSUBSCRIBE\ndestination:/queue/a\n\n\0") == [("unsubscribe", None, "/queue/a")]


@pytest.mark.parametrize("version", LATER)
def test_unsubscribe_needs_an_id(version):
    assert message_of(version, "UNSUBSCRIBE\ndestination:/queue/a\n\n\0") == "UNSUBSCRIBE needs the header id"


def test_unsubscribe_needs_something_in_1_0():
    assert message_of("1.0", "UNSUBSCRIBE\n\n\0") == "UNSUBSCRIBE needs the header id or destination"


# ACK, NACK


def holding(version):
    """A conversation in which message 41 of queue 7 is held by subscription s, with ack number 5."""
    talk = Talk(version=version)
    talk.tell("SUBSCRIBE\nid:s\ndestination:/queue/a\nack:client-individual\n\n\0")
    talk.client.deliver("s", 41, b"destination:/queue/a\n", b"x", ack=5)
    (frame,) = talk.frames()
    assert frame.headers["message-id"] == "7-41"
    talk.client.calls.clear()
    return talk, frame


ACKS = {"1.0": "message-id:7-41", "1.1": "message-id:7-41\nsubscription:s", "1.2": "id:5"}


@pytest.mark.parametrize("version", ALL)
def test_ack(version):
    talk, _ = holding(version)
    talk.tell(f"ACK\n{ACKS[version]}\n\n\0")
    assert talk.client.calls[-1] == ("settle", (7, 41), True, True, None)


def test_ack_in_1_0_may_name_the_subscription():
    talk, _ = holding("1.0")
    talk.tell("ACK\nmessage-id:7-41\nsubscription:s\n\n\0")
    assert ("find_message", 7, 41, "s") in talk.client.calls


@pytest.mark.parametrize("version", ALL)
def test_ack_in_a_transaction(version):
    talk, _ = holding(version)
    talk.tell(f"ACK\n{ACKS[version]}\ntransaction:t\n\n\0")
    assert talk.client.calls[-1] == ("settle", (7, 41), True, True, "t")


@pytest.mark.parametrize("version", LATER)
@pytest.mark.parametrize(("lines", "requeue"), [("", True), ("requeue:true\n", True), ("requeue:false\n", False)])
def test_nack(version, lines, requeue):
    talk, _ = holding(version)
    talk.tell(f"NACK\n{ACKS[version]}\n{lines}\n\0")
    assert talk.client.calls[-1] == ("settle", (7, 41), False, requeue, None)


def test_nack_is_unknown_in_1_0():
    assert message_of("1.0", "NACK\nmessage-id:7-41\n\n\0") == "NACK is not a command of STOMP 1.0"


@pytest.mark.parametrize("version", LATER)
def test_nack_with_another_requeue(version):
    assert "requeue" in message_of(version, f"NACK\n{ACKS[version]}\nrequeue:maybe\n\n\0")


@pytest.mark.parametrize("command", ["ACK", "NACK"])
@pytest.mark.parametrize(
    ("version", "lines", "name"),
    [
        ("1.1", "subscription:s", "message-id"),
        ("1.1", "message-id:7-41", "subscription"),
        ("1.2", "message-id:7-41\nsubscription:s", "id"),
        ("1.2", "id:", "id"),
    ],
)
def test_ack_and_nack_need_their_headers(command, version, lines, name):
    assert message_of(version, f"{command}\n{lines}\n\n\0") == f"{command} needs the header {name}"


def test_ack_needs_a_message_id_in_1_0():
    assert message_of("1.0", "ACK\nsubscription:s\n\n\0") == "ACK needs the header message-id"


@pytest.mark.parametrize(
    ("version", "lines"),
    [
        ("1.0", "message-id:7-42"),
        ("1.0", "message-id:nonsense"),
        ("1.1", "message-id:8-41\nsubscription:s"),
        ("1.1", "message-id:7-\nsubscription:s"),
        ("1.1", "message-id:-7-41\nsubscription:s"),
        ("1.2", "id:6"),
        ("1.2", "id:abc"),
        ("1.2", "id:" + "9" * 100),
        ("1.2", "id:\u0665"),
    ],
)
def test_an_ack_of_what_is_not_held_is_counted_and_answered(version, lines):
    talk, _ = holding(version)
    (receipt,) = talk.ask(f"ACK\n{lines}\nreceipt:1\n\n\0")
    assert receipt.command == "RECEIPT"
    assert talk.session.stale_acks == 1
    assert not any(call[0] == "settle" for call in talk.client.calls)


# BEGIN, COMMIT, ABORT, DISCONNECT


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("command", ["BEGIN", "COMMIT", "ABORT"])
def test_transactions(version, command):
    assert calls(version, f"{command}\ntransaction:t\n\n\0") == [(command.lower(), "t")]
    assert message_of(version, f"{command}\n\n\0") == f"{command} needs the header transaction"


@pytest.mark.parametrize("version", ALL)
def test_disconnect(version):
    talk = Talk(version=version)
    (receipt,) = talk.ask("DISCONNECT\nreceipt:77\n\n\0SEND\ndestination:/queue/late\n\n\0")
    assert receipt.headers == {"receipt-id": "77"}
    assert talk.session.closing
    assert not any(call[0] == "send" for call in talk.client.calls)


def test_disconnect_without_receipt():
    talk = Talk(version="1.2")
    assert talk.ask("DISCONNECT\n\n\0") == []
    assert talk.session.closing


# receipts and errors


FRAMES = {
    "SEND": "destination:/queue/a\n",
    "SUBSCRIBE": "destination:/queue/a\nid:s\n",
    "UNSUBSCRIBE": "id:s\n",
    "ACK": "id:5\nmessage-id:7-41\nsubscription:s\n",
    "NACK": "id:5\nmessage-id:7-41\nsubscription:s\n",
    "BEGIN": "transaction:t\n",
    "COMMIT": "transaction:t\n",
    "ABORT": "transaction:t\n",
    "DISCONNECT": "",
}


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("command", FRAMES)
def test_every_frame_may_have_a_receipt(version, command):
    if (version, command) == ("1.0", "NACK"):
        return
    talk, _ = holding(version)
    (receipt,) = talk.ask(f"{command}\n{FRAMES[command]}receipt:r-1\n\n\0")
    assert (receipt.command, receipt.headers) == ("RECEIPT", {"receipt-id": "r-1"})


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    ("command", "method"),
    [
        ("SEND", "send"),
        ("SUBSCRIBE", "subscribe"),
        ("UNSUBSCRIBE", "unsubscribe"),
        ("ACK", "settle"),
        ("BEGIN", "begin"),
        ("COMMIT", "commit"),
        ("ABORT", "abort"),
    ],
)
def test_what_the_broker_refuses_is_one_error(version, command, method):
    talk, _ = holding(version)
    talk.client.raises[method] = Refused("not for you")
    error = talk.error(f"{command}\n{FRAMES[command]}receipt:r-1\n\n\0SEND\ndestination:/queue/b\n\n\0")
    assert error.headers["message"] == "not for you"
    assert error.headers["receipt-id"] == "r-1"
    assert error.headers["content-type"] == "text/plain"
    assert error.headers["content-length"] == str(len(error.body))
    assert error.body == f"{command}: not for you\n".encode()
    assert talk.ask("SEND\ndestination:/queue/b\n\n\0") == []
    assert not any(call[:2] == ("send", "/queue/b") for call in talk.client.calls)


def test_the_text_of_an_error_stays_on_its_line():
    talk = Talk(version="1.2")
    talk.client.raises["send"] = Refused("unknown destination a\nforged:b")
    talk.tell("SEND\ndestination:a\\nforged:b\n\n\0")
    wire = talk.wire()
    assert b"message:unknown destination a\\nforged\\cb\n" in wire
    assert b"\nforged" not in wire.partition(b"\n\n")[0]


@pytest.mark.parametrize(
    "frame",
    [
        "SEND\ndestination:/queue/a\nbad\\escape:1\n\n\0",
        "SEND\nno colon\n\n\0",
        "SEND\ndestination:/queue/a\ncontent-length:x\n\n\0",
        "SEND\ndestination:/queue/a\ncontent-length:2\n\nabc\0",
        "NONSENSE\n\n\0",
        "SUBSCRIBE\ndestination:/queue/a\nid:1\n\nbody\0",
        b"SEND\ndestination:/queue/\xff\n\n\0",
        b"SEND\nde\0stination:/queue/a\n\n\0",
        "MESSAGE\n\n\0",
        "send\n\n\0",
    ],
)
def test_bad_frames_are_one_error(frame):
    talk = Talk(version="1.2")
    error = talk.error(frame)
    assert error.headers["message"].isascii()
    assert talk.ask(frame) == []
    assert talk.client.calls == []


@pytest.mark.parametrize(
    ("limit", "data"),
    [
        ({"frame": 1024}, "SEND\ndestination:/queue/a\n\n" + "x" * 1024),
        ({"headers": 8}, "SEND\n" + "a:b\n" * 9 + "\n\0"),
        ({"header_line": 128}, "SEND\na:" + "x" * 127 + "\n\n\0"),
    ],
)
def test_limits_are_named_by_their_error(limit, data):
    (name,) = limit
    talk = Talk(version="1.2", **limit)
    error = talk.error(data)
    assert f"limits.{name}" in error.headers["message"]


@pytest.mark.parametrize(
    "raw",
    [b"a\\cb", b"a\\\\b", b"a b ", b"\xc3\xa4", b"1:2"],
    ids=["colon", "backslash", "blanks", "utf-8", "raw colon"],
)
def test_a_receipt_is_echoed_as_it_was_written(raw):
    talk = Talk(version="1.2")
    talk.tell(b"SEND\ndestination:/queue/a\nreceipt:" + raw + b"\n\n\0")
    assert talk.wire() == b"RECEIPT\nreceipt-id:" + raw + b"\n\n\0"


def test_the_first_of_repeated_receipts_counts():
    talk = Talk(version="1.2")
    (receipt,) = talk.ask("SEND\ndestination:/queue/a\nreceipt:1\nreceipt:2\n\n\0")
    assert receipt.headers["receipt-id"] == "1"


# slicing

DIALOGUE = (
    b"CONNECT\naccept-version:1.2\nhost:h\n\n\0\n\nSUBSCRIBE\nid:s\ndestination:/queue/a\nack:client\nreceipt:1\n\n\0"
    b"SEND\r\ndestination:/queue/b\r\ncontent-length:3\r\nreceipt:2\r\n\r\na\0b\0\r\n"
    b"BEGIN\ntransaction:t\n\n\0SEND\ndestination:/queue/c\ntransaction:t\nreceipt:3\n\nbody\0\n"
    b"COMMIT\ntransaction:t\nreceipt:4\n\n\0ACK\nid:1\n\n\0UNSUBSCRIBE\nid:s\n\n\0DISCONNECT\nreceipt:5\n\n\0trailing"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, len(DIALOGUE)])
def test_slicing_makes_no_difference(size):
    whole = Talk(FakeBroker())
    whole.tell(DIALOGUE)
    expected = whole.wire()
    assert expected.count(b"RECEIPT") == 5
    sliced = Talk(FakeBroker())
    got = []
    for start in range(0, len(DIALOGUE), size):
        sliced.tell(memoryview(DIALOGUE)[start : start + size])
        got.append(sliced.wire())
    assert b"".join(got) == expected
    assert sliced.client.calls == whole.client.calls
    assert [message.block for message in sliced.broker.messages] == [
        b"destination:/queue/b\n",
        b"destination:/queue/c\n",
    ]
    assert sliced.session.closing


def test_a_thousand_frames_in_one_piece():
    talk = Talk(version="1.2")
    frames = talk.ask("".join(f"SEND\ndestination:/queue/a\nreceipt:{n}\n\n\0" for n in range(1000)))
    assert [frame.headers["receipt-id"] for frame in frames] == [str(n) for n in range(1000)]
