"""The contract: SIGTERM or SIGINT stop reading, commit what was read, send the receipts owed, exit 0 within 10 s."""

from __future__ import annotations

import contextlib
import signal
import socket
import time

import pytest
from contract_peer import House
from daemon import BUSY, PATIENCE, encode


@pytest.fixture
def house(tmp_path):
    with House(tmp_path) as house:
        yield house


def test_what_was_read_is_committed_and_receipted_and_there_after_the_restart(house, tmp_path):
    """Producers that never stop sending, and one that reads no receipt, while the signal comes."""
    clients = [house.connect() for _ in range(4)]
    for client in clients[1:]:
        client.ask("SEND", {"destination": "/queue/a", "n": "first"})
    house.process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    for place, client in enumerate(clients):
        frames = b"".join(encode("SEND", {"destination": "/queue/a", "receipt": f"{place}-{n}"}) for n in range(2000))
        try:
            client.sock.sendall(frames)
        except OSError:
            continue  # it reads no more
    receipts = set()
    for client in clients[1:]:
        try:
            while True:
                command, headers, _ = client.frame()
                assert command == "RECEIPT"
                receipts.add(headers["receipt-id"])
        except OSError:
            client.close()
    clients[0].close()
    assert house.wait() == 0
    assert time.monotonic() - started < 10 + BUSY
    with House(tmp_path) as again, again.connect() as client:
        client.subscribe("/queue/a", ack="auto")
        client.send("SEND", {"destination": "/queue/a", "n": "end"})
        found = []
        while (message := client.message()).get("n") != "end":
            found.append(message)
        assert len(found) >= 3 + len(receipts)


def test_stuck_clients_of_every_kind_cannot_hold_up_the_end(house):
    stuck = house.connect()
    stuck.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    with house.connect() as producer:
        for _ in range(100):
            producer.send("SEND", {"destination": "/queue/a"}, b"x" * 100_000)
        producer.nothing()
        stuck.send("SUBSCRIBE", {"destination": "/queue/a", "id": "0", "ack": "client", "prefetch-count": "1000"})
        producer.send("SEND", {"destination": "/queue/a"})
        producer.sock.sendall(b"SEND\ndestination:/queue/half\n\nhalf")
        late = house.connect(connect=False)
        unclosed = house.connect()
        unclosed.send("NONSENSE")
        started = time.monotonic()
        assert house.terminate() == 0
        assert time.monotonic() - started < 10 + BUSY
        for client in (stuck, late, unclosed):
            client.close()


def test_nobody_is_let_in_after_the_signal(house):
    client = house.connect()  # does not close by itself
    house.process.send_signal(signal.SIGINT)
    house.wait_for_line("stopping")
    answer = b""
    gone = contextlib.suppress(ConnectionRefusedError, ConnectionResetError, BrokenPipeError)
    with gone, socket.create_connection(house.address, PATIENCE) as sock:
        sock.sendall(encode("CONNECT", {"accept-version": "1.2", "host": "/"}))
        answer = sock.recv(100)
    assert answer == b""
    client.close()
    assert house.wait() == 0


def test_a_second_signal_exits_at_once(house):
    client = house.connect()
    house.process.send_signal(signal.SIGINT)
    house.wait_for_line("stopping")
    house.process.send_signal(signal.SIGTERM)
    assert house.wait() == -signal.SIGTERM  # the end after the first one would be 0
    client.close()


def test_held_messages_are_there_after_the_restart_and_acknowledged_ones_are_not(house, tmp_path):
    with house.connect() as client:
        client.put("/queue/a", "acked", "held", "waiting")
        client.subscribe("/queue/a", prefetch_count="2")
        client.send("ACK", {"id": client.message("acked")["ack"]})  # no receipt: a clean stop keeps it all the same
        client.message("held")
        client.message("waiting")
        assert house.terminate() == 0
    with House(tmp_path) as again, again.connect() as client:
        client.subscribe("/queue/a", ack="auto")
        assert client.bodies(2) == ["held", "waiting"]
        client.nothing()
