"""The contract, wire: what the frames of the broker look like, in every version, and what an ERROR does."""

from __future__ import annotations

import contextlib
import itertools
import re
import time

import pytest
from contract_peer import House, Peer, house_of
from daemon import BUSY, PATIENCE, encode

COUNT = itertools.count()
VERSIONS = ["1.0", "1.1", "1.2"]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with house_of(tmp_path_factory.mktemp("wire")) as house:
        yield house


@pytest.fixture
def queue():
    return f"/queue/w{next(COUNT)}"


def say(client: Peer, data: bytes) -> None:
    """Raw bytes, and their receipt `r`."""
    client.sock.sendall(data)
    assert client.frame() == ("RECEIPT", {"receipt-id": "r"}, b"")


@pytest.mark.parametrize("version", VERSIONS)
def test_connected_has_session_server_and_version(house, version):
    """`any host is accepted`; a login is ignored."""
    with house.connect(version=version, host="nowhere", login="a", passcode="b") as client:
        assert client.connected["version"] == version
        assert client.connected["session"]
        assert client.connected["server"].startswith("radiator/")
    with house.connect(version=version) as other:
        assert other.connected["session"] != client.connected["session"]


@pytest.mark.parametrize("command", ["CONNECT", "STOMP"])
def test_the_highest_common_version_is_spoken(house, command):
    for accepted, version in (("1.0,1.1,1.2", "1.2"), ("1.1,1.0", "1.1"), ("1.2,2.0", "1.2"), (None, "1.0")):
        with house.connect(connect=False) as client:
            client.send(command, {"host": "x"} | ({"accept-version": accepted} if accepted else {}))
            assert client.frame()[1]["version"] == version
    with house.connect(connect=False) as client:
        client.send(command, {"accept-version": "2.0", "host": "x"})
        assert client.error("version")["version"] == "1.0,1.1,1.2"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_message_always_carries(house, queue, version):
    with house.connect(version=version) as client:
        client.put(queue, "body", "")
        client.ask("SUBSCRIBE", {"destination": queue, "id": "my id", "ack": "client", "prefetch-count": "2"})
        messages = [client.message(), client.message()]
        for message, length in zip(messages, "40", strict=True):
            assert message["content-length"] == length
            assert re.fullmatch("[0-9]+-[0-9]+", message["message-id"])
            assert message["destination"] == queue
            assert message["subscription"] == "my id"
            assert ("ack" in message) is (version == "1.2")
        assert messages[0]["message-id"] != messages[1]["message-id"]


def test_message_id_names_message_and_queue_and_survives_redelivery(house, queue):
    with house.connect() as client:
        client.put(queue, "a")
        client.put(queue + "x", "b")
        client.subscribe(queue, "1", prefetch_count="2")
        client.subscribe(queue + "x", "2", prefetch_count="2")
        first, other = client.message("a"), client.message("b")
        assert first["message-id"].partition("-")[0] != other["message-id"].partition("-")[0]
        client.nack(first)
        again = client.message("a")
        assert again["message-id"] == first["message-id"]
        assert again["ack"] != first["ack"]


def test_a_1_0_subscription_without_id_has_no_subscription_header(house, queue):
    with house.connect(version="1.0") as client:
        client.put(queue, "a", "b")
        client.ask("SUBSCRIBE", {"destination": queue, "ack": "client"})
        message = client.message("a")
        assert "subscription" not in message
        client.send("ACK", {"message-id": message["message-id"]})
        client.message("b")
        client.ask("UNSUBSCRIBE", {"destination": queue})


def test_acks_of_1_1_name_message_and_subscription(house, queue):
    with house.connect(version="1.1") as client:
        client.put(queue, "a", "b")
        client.subscribe(queue)
        message = client.message("a")
        client.ask("ACK", {"message-id": message["message-id"], "subscription": "other"})  # not held by that one
        client.nothing()
        client.ask("NACK", {"message-id": message["message-id"], "subscription": "0"})
        message = client.message("a")
        client.ask("ACK", {"message-id": message["message-id"], "subscription": "0"})
        client.message("b")


def test_client_headers_pass_through_untouched_in_order_repeats_included(house, queue):
    with house.connect() as client:
        block = f"b:2\na:1\nb:first wins\ndestination:{queue}\nempty:\n spaced : out \nutf-8:\u00e9\u4e16\nb:2\n"
        say(client, f"SEND\nreceipt:r\n{block}content-length:1\ncontent-type:text/plain\n\nx\0".encode())
        client.subscribe(queue)
        client.message("x")
        assert client.lines[client.lines.index("b:2") :] == [*block.splitlines(), "content-type:text/plain"]


FORGED = """\
message-id:forged
subscription:forged
ack:forged
redelivered:forged
delivery-count:forged
dead-letter-queue:forged
dead-letter-reason:forged
dead-letter-anything:forged
content-length:1
transaction-like:kept
"""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("blank", ["", " "])
def test_what_the_broker_sets_cannot_be_forged(house, queue, version, blank):
    """In 1.0 blanks around a name do not count, so they help nobody either."""
    forged = FORGED if not blank or version != "1.0" else FORGED.replace(":", " : ")
    with house.connect(version=version) as client:
        say(client, f"SEND\ndestination:{queue}\n{forged}receipt:r\n\nx\0".encode())
        client.ask("SUBSCRIBE", {"destination": queue, "id": "0", "ack": "client"})
        message = client.message("x")
        names = [line.partition(":")[0].strip() for line in client.lines]
        assert not [line for line in client.lines if "forged" in line]
        assert len(names) == len(set(names))
        assert {"redelivered", "delivery-count", "receipt"}.isdisjoint(names)
        assert message["content-length"] == "1"
        assert "transaction-like" in names


RAW = {"1.0": "a:b\\c\\n", "1.1": "a\\cb\\\\c\\\\n", "1.2": "a\\cb\\\\c\\\\n"}
"""The value `a:b\\c\\n` with two backslashes in it and no line feed, as each version writes it."""


@pytest.mark.parametrize("sender", VERSIONS)
@pytest.mark.parametrize("receiver", VERSIONS)
def test_escapes_between_versions(house, queue, sender, receiver):
    """`translate` where versions differ: whatever the pair, the receiver reads what the sender said."""
    with house.connect(version=sender) as client:
        say(client, f"SEND\ndestination:{queue}\nkey:{RAW[sender]}\nreceipt:r\n\nx\0".encode())
    with house.connect(version=receiver) as client:
        client.ask("SUBSCRIBE", {"destination": queue, "id": "0"})
        client.message("x")
        assert f"key:{RAW[receiver]}" in client.lines


def test_line_feeds_and_returns_reach_1_1_and_1_2(house, queue):
    with house.connect(version="1.2") as client:
        say(client, f"SEND\r\ndestination:{queue}\r\nkey:a\\nb\\rc\r\nreceipt:r\r\n\r\nx\0".encode())
        say(client, f"SEND\ndestination:{queue}.1\nkey:a\\nb\nreceipt:r\n\nx\0".encode())
        client.subscribe(queue)
        client.message("x")
        assert "key:a\\nb\\rc" in client.lines
    with house.connect(version="1.1") as client:
        client.subscribe(queue + ".1")
        client.message("x")
        assert "key:a\\nb" in client.lines


@pytest.mark.parametrize(
    ("version", "line"),
    [
        ("1.1", b"a:\\r"),
        ("1.1", b"a:\\t"),
        ("1.2", b"a:\\t"),
        ("1.2", b"a:b\\"),
        ("1.2", b"a:b\rc"),
        ("1.0", b"a:\xff"),
        ("1.1", b"\xc3:a"),
        ("1.2", b"a:\xed\xa0\x80"),
        ("1.2", b"no colon"),
        ("1.2", b":no name"),
        ("1.2", b"content-length:-1"),
        ("1.2", b"content-length:1x"),
        ("1.2", b"content-length: 1"),
        ("1.2", b"a:\0"),
    ],
)
def test_a_bad_header_is_one_error(house, version, line):
    """`Header bytes are UTF-8, or an ERROR.`"""
    with house.connect(version=version) as client:
        client.sock.sendall(b"SEND\ndestination:/queue/bad\n" + line + b"\n\nx\0")
        client.error()


def test_a_body_with_content_length_may_contain_nuls_and_without_ends_at_the_first(house, queue):
    with house.connect() as client:
        body = b"\0a\0\n\0"
        say(client, encode("SEND", {"destination": queue, "content-length": "5", "receipt": "r"}, body))
        say(client, encode("SEND", {"destination": queue, "receipt": "r"}, b"b\n"))
        client.subscribe(queue, ack="auto")
        assert client.message()["body"].encode() == body
        client.message("b\n")


@pytest.mark.parametrize("version", VERSIONS)
def test_receipts_leave_in_order_whatever_they_are_for(house, queue, version):
    frames = [
        ("SEND", {"destination": queue}),
        ("SEND", {"destination": "/topic/w"}),
        ("SUBSCRIBE", {"destination": "/topic/w", "id": "1"}),
        ("BEGIN", {"transaction": "t"}),
        ("SEND", {"destination": queue, "transaction": "t"}),
        ("COMMIT", {"transaction": "t"}),
        ("UNSUBSCRIBE", {"id": "1"}),
        ("BEGIN", {"transaction": "u"}),
        ("ABORT", {"transaction": "u"}),
        ("SEND", {"destination": queue + "x"}),
        ("DISCONNECT", {}),
    ]
    with house.connect(version=version) as client:
        data = [encode(command, {**headers, "receipt": str(n)}) for n, (command, headers) in enumerate(frames)]
        client.sock.sendall(b"".join(data))
        for number in range(len(frames)):
            assert client.frame() == ("RECEIPT", {"receipt-id": str(number)}, b"")
        assert client.eof() == b""


def test_a_receipt_id_is_echoed_as_it_was_written(house):
    with house.connect() as client:
        for value in ("a\\cb", "  x ", "\u00e9", "0"):
            client.send("SEND", {"destination": "/topic/w", "receipt": value})
            assert client.frame()[1]["receipt-id"] == value


def test_an_error_stands_in_the_same_line_as_receipts_and_echoes_receipt_id(house, queue):
    with house.connect() as client:
        good = b"".join(encode("SEND", {"destination": queue, "receipt": str(n)}, b"x") for n in range(20))
        client.sock.sendall(good + encode("SEND", {"receipt": "bad"}, b"x") + good)
        for number in range(20):
            assert client.frame()[1]["receipt-id"] == str(number)
        assert client.error("destination")["receipt-id"] == "bad"
    with house.connect() as client:  # and nothing behind it was done
        client.subscribe(queue, ack="auto", prefetch_count="50")
        assert client.bodies(20) == ["x"] * 20
        client.nothing()


def test_after_an_error_the_connection_is_gone_within_two_seconds_though_the_client_goes_on(house):
    client = house.connect()
    started = time.monotonic()
    client.send("NONSENSE")
    assert client.error()["message"]
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while time.monotonic() - started < PATIENCE:
            client.sock.sendall(b"x" * 1000)
            client.quiet(0.01)
    assert time.monotonic() - started < 2.1 + BUSY


@pytest.mark.parametrize(
    ("version", "command", "headers"),
    [
        ("1.0", "NACK", {"message-id": "1-1"}),
        ("1.1", "ACK", {"id": "1"}),
        ("1.1", "ACK", {"message-id": "1-1"}),
        ("1.2", "ACK", {"message-id": "1-1", "subscription": "0"}),
        ("1.2", "NACK", {"id": "1", "requeue": "maybe"}),
        ("1.2", "SUBSCRIBE", {"destination": "/queue/a"}),
        ("1.2", "SUBSCRIBE", {"id": "0"}),
        ("1.2", "SUBSCRIBE", {"id": "0", "destination": "/queue/a", "ack": "sometimes"}),
        ("1.2", "SUBSCRIBE", {"id": "0", "destination": "/queue/a", "selector": "a = 1"}),
        ("1.2", "UNSUBSCRIBE", {}),
        ("1.2", "UNSUBSCRIBE", {"id": "unknown"}),
        ("1.2", "SEND", {}),
        ("1.2", "CONNECT", {"accept-version": "1.2", "host": "/"}),
        ("1.2", "STOMP", {"accept-version": "1.2", "host": "/"}),
    ],
)
def test_a_frame_that_is_wrong_is_one_error(house, version, command, headers):
    with house.connect(version=version) as client:
        client.send(command, {**headers, "receipt": "r"})
        error = client.error()
        assert error["message"]
        if command not in ("CONNECT", "STOMP"):
            assert error["receipt-id"] == "r"


def test_an_error_waits_at_most_a_second_for_receipts(tmp_path):
    """The disk is held up from outside: the process of the daemon sleeps in its first fdatasync of the log."""
    prelude = """
import os, time
real = os.fdatasync
os.fdatasync = lambda fd: (time.sleep(60), real(fd))[1]
"""
    with House(tmp_path, prelude=prelude, env={"RADIATOR_SPEEDUPS": "off"}) as house:
        client = house.connect()
        started = time.monotonic()
        client.send("SEND", {"destination": "/queue/a", "receipt": "1"})
        client.send("NONSENSE")
        client.error("unknown command")
        assert 0.9 < time.monotonic() - started < 2 + BUSY
