"""A flood on one connection, or a consumer that is stuck, delays nobody: each waits for the disk, not for another."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from daemon import BUSY, PATIENCE, Daemon, encode
from neighbour import Neighbour

from radiator._speedups import COMPILED

USUAL_SECONDS = 0.25
"""What a receipted SEND may usually take beside a flood: a few turns, each with 64 KiB of the flood."""

WORST_SECONDS = 1.0 + BUSY
"""What it may take at all: a busy machine and a slow disk have their part in it."""

FLOOD_BYTES = 48 << 20

FLOODER = """
import socket, sys
data = sys.stdin.buffer.read()
left = int(sys.argv[2])
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    sock.sendall(b"CONNECT\\naccept-version:1.2\\nhost:/\\n\\n\\0")
    chunk = data * (1 + (1 << 18) // len(data))
    while left > 0:
        sock.sendall(chunk)
        left -= len(chunk)
    sock.sendall(b"DISCONNECT\\nreceipt:bye\\n\\n\\0")
    answer = b""
    while more := sock.recv(1 << 16):
        answer = (answer + more)[-100:]
    assert b"receipt-id:bye" in answer, answer
"""


@pytest.fixture(params=["require", "off"], ids=["compiled", "pure"])
def daemon(request, tmp_path):
    if request.param == "require" and not COMPILED:
        pytest.skip("the compiled twin is not built")
    config = "create: true\nlimits: {stall_timeout: 1h}\n"
    with Daemon(tmp_path, config, log_level="info", env={"RADIATOR_SPEEDUPS": request.param}) as daemon:
        yield daemon
        assert daemon.process.poll() is None


def flooder(daemon: Daemon, frame: bytes, size: int) -> subprocess.Popen[bytes]:
    """A process that sends `frame` again and again, as fast as it is taken, then disconnects."""
    arguments = [sys.executable, "-c", FLOODER, str(daemon.address[1]), str(size)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE)
    assert process.stdin is not None
    with process.stdin as stream:
        stream.write(frame)
    return process


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        (encode("SEND", {"destination": "/queue/flood"}, b"x" * 100), FLOOD_BYTES // 4),
        (
            encode("SEND", {"destination": "/queue/flood", "content-length": "1000000"}, b"x" * 1_000_000),
            FLOOD_BYTES * 4,
        ),
        (encode("SEND", {"destination": "/topic/nobody"}, b"x" * 20), FLOOD_BYTES // 16),
        (b"\n", FLOOD_BYTES),
    ],
    ids=["small messages", "large messages", "a topic without subscribers", "line ends"],
)
def test_a_flood_on_one_connection_delays_no_other(daemon, frame, size):
    with Neighbour(daemon.address[1]) as idle:
        pass
    with Neighbour(daemon.address[1]) as neighbour:
        assert flooder(daemon, frame, size).wait(3 * PATIENCE) == 0
    print(f"idle: median {idle.median * 1000:.1f} ms, worst {idle.worst * 1000:.1f}")
    print(f"beside the flood: median {neighbour.median * 1000:.1f} ms, worst {neighbour.worst * 1000:.1f}")
    assert neighbour.median < USUAL_SECONDS
    assert neighbour.worst < WORST_SECONDS


def test_a_flood_from_many_connections_delays_no_other(daemon):
    frame = encode("SEND", {"destination": "/queue/flood"}, b"x" * 1000)
    with Neighbour(daemon.address[1]) as neighbour:
        flooders = [flooder(daemon, frame, FLOOD_BYTES // 24) for _ in range(6)]
        assert [each.wait(3 * PATIENCE) for each in flooders] == [0] * 6
    assert neighbour.median < USUAL_SECONDS
    assert neighbour.worst < WORST_SECONDS


def test_a_stuck_consumer_delays_no_other(daemon):
    with daemon.connect() as producer:
        body = b"x" * 10_000
        for _ in range(300):
            producer.send("SEND", {"destination": "/queue/stuck"}, body)
        producer.send("SEND", {"destination": "/queue/stuck", "receipt": "all"}, body)
        assert producer.frame()[0] == "RECEIPT"
    stuck = [daemon.connect() for _ in range(5)]
    for number, client in enumerate(stuck):
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        ack = "auto" if number % 2 else "client"
        client.send("SUBSCRIBE", {"destination": "/queue/stuck", "id": "0", "ack": ack, "prefetch-count": "1000"})
        client.send("SUBSCRIBE", {"destination": "/topic/stuck", "id": "1", "ack": "auto"})
    with Neighbour(daemon.address[1]) as neighbour, daemon.connect() as producer:
        for number in range(200):
            producer.send("SEND", {"destination": "/topic/stuck", "receipt": str(number)}, body)
            assert producer.frame()[0] == "RECEIPT"
    assert neighbour.median < USUAL_SECONDS
    assert neighbour.worst < WORST_SECONDS
    for client in stuck:
        client.close()


def test_a_consumer_without_acks_blocks_only_itself(daemon):
    with daemon.connect() as silent, daemon.connect() as producer, daemon.connect() as consumer:
        silent.send("SUBSCRIBE", {"destination": "/queue/a", "id": "0", "ack": "client", "receipt": "sub"})
        assert silent.frame()[0] == "RECEIPT"
        consumer.send("SUBSCRIBE", {"destination": "/queue/a", "id": "0", "ack": "client", "receipt": "sub"})
        assert consumer.frame()[0] == "RECEIPT"
        for number in range(50):
            producer.send("SEND", {"destination": "/queue/a"}, b"%d" % number)
        held = int(silent.frame()[2])
        taken = []
        for _ in range(49):
            _, headers, body = consumer.frame()
            taken.append(int(body))
            consumer.send("ACK", {"id": headers["ack"]})
        assert sorted([held, *taken]) == list(range(50))
        assert taken == sorted(taken)
        silent.close()
        assert int(consumer.frame()[2]) == held


def test_the_files_of_this_directory_need_no_radiator():
    for name in ("kill_clients.py", "neighbour.py", "stomp_scenarios.py"):
        assert "import radiator" not in Path(__file__).with_name(name).read_text("utf-8").split('"""', 2)[2]
