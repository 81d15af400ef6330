"""The contract: every limit acts, at its boundary and one beyond, in a real daemon."""

from __future__ import annotations

import itertools
import time

import pytest
from contract_peer import Peer, house_of
from daemon import BUSY, PATIENCE, encode

FRAME, HEADERS, LINE = 64 << 10, 10, 200
CONFIG = f"""\
create: true
limits: {{frame: {FRAME}, headers: {HEADERS}, header_line: {LINE}, subscriptions: 3, connections: 4,
         connect_timeout: 1s, frame_timeout: 1s, stall_timeout: 1s, output: 1MiB}}
"""
COUNT = itertools.count()


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with house_of(tmp_path_factory.mktemp("limits"), CONFIG) as house:
        yield house


@pytest.fixture
def client(house):
    """A connection, once those of the test before are gone."""
    client = connected(house)
    with client:
        yield client


def connected(house) -> Peer:
    """A connection; closing takes the daemon a moment, and the limit counts those that are open."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            return house.connect()
        except (AssertionError, ConnectionError):
            continue
    raise AssertionError("no connection")


def frame_of(size: int, *, with_length: bool) -> bytes:
    """A SEND of that many bytes, from the S to the NUL."""
    headers = {"destination": "/queue/frame", "receipt": "r"}
    if with_length:
        length = size - len(encode("SEND", {**headers, "content-length": "00000"}))
        headers["content-length"] = f"{length:05}"
    return encode("SEND", headers, b"x" * (size - len(encode("SEND", headers))))


@pytest.mark.parametrize("with_length", [True, False])
def test_limits_frame_counts_the_whole_frame(client, with_length):
    client.sock.sendall(frame_of(FRAME, with_length=with_length))
    assert client.frame() == ("RECEIPT", {"receipt-id": "r"}, b"")
    client.sock.sendall(frame_of(FRAME + 1, with_length=with_length))
    client.error(str(FRAME))


def test_a_declared_length_that_cannot_fit_is_an_error_before_the_body_comes(client):
    client.sock.sendall(b"SEND\ndestination:/queue/frame\ncontent-length:100000000000\n\n")
    client.error(str(FRAME))


def test_a_body_without_end_is_an_error_once_it_passes(client):
    client.sock.sendall(b"SEND\ndestination:/queue/frame\n\n" + b"x" * FRAME)
    client.error(str(FRAME))


def test_limits_headers(client):
    headers = {"destination": "/topic/a", "receipt": "r"}
    headers |= {f"h{number}": "" for number in range(HEADERS - len(headers))}
    client.send("SEND", headers)
    assert client.frame()[0] == "RECEIPT"
    client.send("SEND", {**headers, "one": "more"})
    client.error(str(HEADERS))


def test_limits_header_line(client):
    client.ask("SEND", {"destination": "/topic/a", "h": "x" * (LINE - 2)})
    client.send("SEND", {"destination": "/topic/a", "h": "x" * (LINE - 1)})
    client.error(str(LINE))


def test_a_header_line_without_end_is_an_error_once_it_passes(client):
    client.sock.sendall(b"SEND\ndestination:/topic/a\nh:" + b"x" * LINE)
    client.error(str(LINE))


def test_limits_subscriptions_count_queues_and_topics(client):
    for number, destination in enumerate(("/queue/a", "/topic/a", "/queue/b")):
        client.subscribe(destination, str(number))
    client.subscribe("/queue/b", "2", prefetch_count="2")  # a window changed is not one more
    client.ask("UNSUBSCRIBE", {"id": "0"})
    client.subscribe("/queue/c", "3")
    client.refused("SUBSCRIBE", {"destination": "/queue/d", "id": "4"}, text="limits.subscriptions is 3")


def test_limits_connections(house, client):
    others = [connected(house) for _ in range(3)]
    with house.connect(connect=False) as over:
        over.error("too many connections")
    for other in (client, *others):
        other.put("/topic/a", "x")
        other.close()


def test_limits_connect_timeout(house, client):
    """Half a CONNECT does not help, and one in time ends the clock."""
    started = time.monotonic()
    with house.connect(connect=False) as silent, house.connect(connect=False) as half:
        half.sock.sendall(b"CONNECT\naccept-version:1.2\n")
        silent.error("connect_timeout")
        assert 1 <= time.monotonic() - started < 2.1 + BUSY
        half.error("connect_timeout")
    client.put("/topic/a", "x")


def test_limits_frame_timeout(client):
    started = time.monotonic()
    client.sock.sendall(b"SEND\ndestination:/topic/a\n\nhalf")
    client.error("frame_timeout")
    assert 1 <= time.monotonic() - started < 2.1 + BUSY


def test_between_frames_nothing_times_out(client):
    client.sock.sendall(b"\n")
    assert client.quiet(1.5)
    client.put("/topic/a", "x")


def test_limits_stall_timeout_ends_an_output_that_does_not_move(house, client):
    """It gives its message back; an ERROR cannot reach it."""
    stuck = connected(house)
    stuck.sock.setsockopt(1, 8, 32768)  # SOL_SOCKET, SO_RCVBUF
    for _ in range(200):
        client.send("SEND", {"destination": "/queue/stall"}, b"x" * 60_000)
    client.nothing()
    started = time.monotonic()
    headers = {"destination": "/queue/stall", "id": "0", "ack": "client", "prefetch-count": "1000", "receipt": "r"}
    stuck.send("SUBSCRIBE", headers)
    assert stuck.frame()[0] == "RECEIPT"  # and reads no more
    client.subscribe("/queue/stall", ack="auto")
    redelivered = 0
    for _ in range(200):
        redelivered += "redelivered" in client.message()
    assert redelivered > 0
    assert 1 <= time.monotonic() - started < 5 + BUSY
    stuck.close()
