"""Bad input, floods and sudden deaths against a real daemon, while a neighbour works undisturbed.

Each offender gets one clear ERROR (or a quiet close where no STOMP was spoken) and is closed; the daemon lives, its
memory stays bounded, and what was receipted is there.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import time

import pytest
from daemon import BUSY, PATIENCE, Client, Daemon, encode
from neighbour import Neighbour

MIB = 1 << 20
CONFIG = """\
create: true
limits: {frame: 1MiB, frame_timeout: 1s, connect_timeout: 2s, stall_timeout: 1s, connections: 60, output: 2MiB}
destinations:
  /queue/memory: {type: queue, persistent: false, max_messages: 1000000, max_bytes: 256MiB}
"""
GROWTH = 48 * MIB
"""What resident memory may grow over one abuse: output marks, three batches of some MiB, what the allocator keeps."""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with Daemon(tmp_path_factory.mktemp("abuse"), CONFIG, log_level="info") as daemon:
        # What the first uses allocate is no growth.
        with daemon.connect() as client:
            for number in range(50):
                client.send("SEND", {"destination": "/queue/warm", "receipt": str(number)}, b"x" * 10_000)
                assert client.frame()[0] == "RECEIPT"
        yield daemon
        assert daemon.terminate() == 0


@pytest.fixture
def daemon(house):
    """The one daemon of this file, with a neighbour at work; both must have borne it."""
    before = resident(house)
    with Neighbour(house.address[1]) as neighbour:
        yield house
    assert house.process.poll() is None, "\n".join(house.log[-20:])
    assert not [line for line in house.log if "internal error" in line], "\n".join(house.log[-40:])
    assert neighbour.rounds > 0
    assert neighbour.worst < BUSY
    assert resident(house) - before < GROWTH


def resident(daemon: Daemon) -> int:
    """VmRSS of the daemon in bytes."""
    with open(f"/proc/{daemon.process.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) * 1024


def put(client: Client, destination: str, body: bytes = b"x", receipt: str = "put") -> None:
    client.send("SEND", {"destination": destination, "receipt": receipt}, body)
    assert client.frame() == ("RECEIPT", {"receipt-id": receipt}, b"")


def fill(client: Client, destination: str, count: int, size: int = 100) -> None:
    """Messages numbered from 0, without receipts but for the last."""
    for first in range(0, count, 1000):
        client.sock.sendall(
            b"".join(
                encode("SEND", {"destination": destination, "content-length": str(size)}, b"%*d" % (size, number))
                for number in range(first, min(first + 1000, count))
            )
        )
    put(client, destination, b"%*d" % (size, count))


def drain(client: Client, destination: str) -> list[int]:
    """Take what is in `destination` now: the numbers in the bodies."""
    put(client, destination, b"-1")
    client.send("SUBSCRIBE", {"destination": destination, "id": "drain", "ack": "client", "prefetch-count": "1000"})
    numbers = []
    while True:
        command, headers, body = client.frame()
        assert command == "MESSAGE"
        if len(numbers) % 200 == 199:
            client.send("ACK", {"id": headers["ack"]})
        if body == b"-1":
            client.send("ACK", {"id": headers["ack"], "receipt": "acked"})
            assert client.frame()[0] == "RECEIPT"
            return numbers
        numbers.append(int(body))


def reset(client: Client) -> None:
    """Close with a RST."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


# ---------------------------------------------------------------- input that is wrong

NOISE = random.Random(1).randbytes(20_000)
TLS_HELLO = bytes.fromhex("16030100f4010000f00303") + random.Random(2).randbytes(240)
SEND = b"SEND\ndestination:/queue/a\n"

WRONG = {
    "unknown command": (b"NONSENSE\n\n\0", "unknown command"),
    "lower case": (b"send\ndestination:/queue/a\n\n\0", "unknown command"),
    "long command": (b"S" * 5000, "unknown command"),
    "server's command": (b"MESSAGE\n\n\0", "unknown command"),
    "connected twice": (b"CONNECT\naccept-version:1.2\nhost:/\n\n\0", "CONNECT on a connection that is connected"),
    "no destination": (b"SEND\nx:y\n\nbody\0", "SEND needs the header destination"),
    "empty destination": (b"SEND\ndestination:\n\nbody\0", "SEND needs the header destination"),
    "subscription without id": (b"SUBSCRIBE\ndestination:/queue/a\n\n\0", "SUBSCRIBE needs the header id"),
    "unknown ack mode": (b"SUBSCRIBE\nid:1\nack:never\ndestination:/queue/a\n\n\0", "ack"),
    "unsubscribe from nothing": (b"UNSUBSCRIBE\nid:1\n\n\0", "no subscription"),
    "ack without id": (b"ACK\nreceipt:1\n\n\0", "ACK needs the header id"),
    "begin without name": (b"BEGIN\n\n\0", "BEGIN needs the header transaction"),
    "commit of nothing": (b"COMMIT\ntransaction:t\n\n\0", "transaction"),
    "bad escape": (SEND + b"x:a\\tb\n\n\0", "undefined escape"),
    "half an escape": (SEND + b"x:a\\\n\n\0", "undefined escape"),
    "no colon": (SEND + b"xyz\n\n\0", "no colon"),
    "no name": (SEND + b":xyz\n\n\0", "no name"),
    "not UTF-8": (SEND + b"x:\xff\xfe\n\n\0", "UTF-8"),
    "NUL in a header": (SEND + b"x:a\0b\n\n\0", "NUL in header"),
    "carriage return": (SEND + b"x:a\rb\n\n\0", "carriage return"),
    "content-length of letters": (SEND + b"content-length:abc\n\n\0", "content-length"),
    "negative content-length": (SEND + b"content-length:-1\n\nx\0", "content-length"),
    "content-length too short": (SEND + b"content-length:2\n\nabcdef\0", "content-length"),
    "body on SUBSCRIBE": (b"SUBSCRIBE\nid:1\ndestination:/queue/a\ncontent-length:1\n\nx\0", "body"),
    "declared too large": (SEND + b"content-length:99999999999999999999\n\n", "limits.frame"),
    "too large": (SEND + b"\n" + b"x" * MIB, "limits.frame"),
    "headers too many": (SEND + b"x:y\n" * 64 + b"\n\0", "limits.headers"),
    "header too long": (SEND + b"x:" + b"y" * 8192 + b"\n\n\0", "limits.header_line"),
    "endless header": (SEND + b"x:" + b"y" * 100_000, "limits.header_line"),
    "binary noise": (NOISE, ""),
    "HTTP on an open connection": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "unknown command"),
    "half a frame": (SEND + b"\nhalf a bo", "limits.frame_timeout"),
    "half a header": (b"SEND\ndesti", "limits.frame_timeout"),
    "half a command": (b"SE", "limits.frame_timeout"),
}

NOT_STOMP = {
    "TLS hello": TLS_HELLO,
    "binary noise": b"\xff" + NOISE,
    "NULs": bytes(1000),
    "HTTP request": b"GET /index.html HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
    "HTTP preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "SSH banner": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SEND first": SEND + b"\nbody\0",
    "no version in common": b"CONNECT\naccept-version:7.3\nhost:/\n\n\0",
    "heart-beat of letters": b"CONNECT\naccept-version:1.2\nhost:/\nheart-beat:a,b\n\n\0",
    "half a CONNECT": b"CONNECT\naccept-version:1.2\n",
    "nothing": b"",
    "line ends for ever": b"\n" * 200_000,
}


def the_end(client: Client) -> list[str]:
    """Read to the end of the stream: the `message` of each ERROR. There may be nothing else, and it must end soon."""
    client.sock.settimeout(4.0 + BUSY)
    errors = []
    with contextlib.suppress(ConnectionError):
        while True:
            command, headers, _ = client.frame()
            assert command == "ERROR", (command, headers)
            errors.append(headers["message"])
    return errors


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_gets_one_error_and_the_end(house, name):
    data, text = WRONG[name]
    with house.connect() as client:
        started = time.monotonic()
        # The broker may have closed before all of it is out.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sock.sendall(data)
        (message,) = the_end(client)
        assert text in message
        assert message.isascii()
        assert time.monotonic() - started < 2.5 + BUSY
    with house.connect() as client:
        put(client, "/topic/alive")


@pytest.mark.parametrize("name", NOT_STOMP)
def test_what_is_not_stomp_gets_one_error_or_a_quiet_end(house, name):
    with house.connect(connect=False) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sock.sendall(NOT_STOMP[name])
        assert len(the_end(client)) == (0 if name in ("TLS hello", "binary noise", "NULs") else 1)


def test_every_wrong_input_at_once_disturbs_nobody(daemon):
    clients = [daemon.connect() for _ in WRONG]
    for client, (data, _) in zip(clients, WRONG.values(), strict=True):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sock.sendall(data)
    for client in clients:
        assert len(the_end(client)) == 1
        client.close()


def test_what_came_before_the_wrong_frame_is_kept_and_receipted(daemon):
    with daemon.connect() as client:
        frames = [encode("SEND", {"destination": "/queue/before", "receipt": str(n)}, b"%d" % n) for n in range(50)]
        client.sock.sendall(b"".join(frames) + b"NONSENSE\nreceipt:1\n\n\0" + frames[0])
        assert [client.frame()[1]["receipt-id"] for _ in range(50)] == [str(number) for number in range(50)]
        command, headers, _ = client.frame()
        assert (command, headers["message"][:15]) == ("ERROR", "unknown command")
        assert client.eof() == b""
    with daemon.connect() as client:
        assert drain(client, "/queue/before") == list(range(50))


# ---------------------------------------------------------------- slices


def test_a_thousand_frames_in_one_segment(daemon):
    with daemon.connect() as client:
        frames = [encode("SEND", {"destination": "/queue/many", "receipt": str(n)}, b"%d" % n) for n in range(1000)]
        client.sock.sendall(b"".join(frames))
        assert [client.frame()[1]["receipt-id"] for _ in range(1000)] == [str(number) for number in range(1000)]
        assert drain(client, "/queue/many") == list(range(1000))


def test_one_byte_per_segment(daemon):
    data = encode("SEND", {"destination": "/queue/slow", "receipt": "1", "content-length": "4"}, b"\0\n\0\n")
    connect = encode("CONNECT", {"accept-version": "1.2", "host": "/"})
    with daemon.connect(connect=False) as client:
        for byte in connect + data * 3:
            client.sock.send(bytes((byte,)))
        assert [client.frame()[0] for _ in range(4)] == ["CONNECTED", "RECEIPT", "RECEIPT", "RECEIPT"]


def test_a_slow_frame_that_moves_is_no_stuck_frame(daemon):
    # The whole takes longer than limits.frame_timeout; every part is a step.
    with daemon.connect() as client:
        client.sock.sendall(b"SEND\ndestination:/queue/steps\nreceipt:1\ncontent-length:200000\n\n")
        for _ in range(20):
            client.sock.sendall(b"x" * 10_000)
            assert client.quiet(0.08)
        client.sock.sendall(b"\0")
        assert client.frame()[0] == "RECEIPT"


# ---------------------------------------------------------------- clients that do not read


def for_ever(sock: socket.socket, data: bytes) -> None:
    """Send `data` again and again."""
    while True:
        sock.sendall(data)


def test_a_flood_of_receipted_sends_by_one_that_never_reads(daemon):
    with daemon.connect() as flooder:
        frame = encode("SEND", {"destination": "/queue/flood", "receipt": "r" * 200}, b"x" * 10)
        # It is not read once its receipts pile up, and given up when they do not move (limits.stall_timeout).
        flooder.sock.settimeout(PATIENCE)
        with pytest.raises(ConnectionError):
            for_ever(flooder.sock, frame * 100)


def test_a_flood_whose_receipts_are_read_late_loses_none(tmp_path):
    # The last frame is whole when all receipts before it were read here: later than the limits of this file may allow.
    with Daemon(tmp_path, "create: true\nlimits: {output: 2MiB}\n") as daemon, daemon.connect() as flooder:
        frame = encode("SEND", {"destination": "/queue/late", "receipt": "r" * 200}, b"x" * 10)
        sent = 0
        flooder.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while sent < 64 * MIB:
                sent += flooder.sock.send(frame[sent % len(frame) :])
        flooder.sock.settimeout(PATIENCE)
        rest = -sent % len(frame)
        count = (sent + rest) // len(frame)
        for _ in range(count - 1 if rest else count):
            assert flooder.frame()[1]["receipt-id"] == "r" * 200
        if rest:
            flooder.sock.sendall(frame[-rest:])
            assert flooder.frame()[0] == "RECEIPT"
        put(flooder, "/queue/late")


def test_a_subscriber_that_never_reads_holds_little_and_delays_nobody(daemon):
    count, size = 400, 64 << 10
    with daemon.connect() as producer:
        fill(producer, "/queue/big", count, size)
    stuck = daemon.connect()
    stuck.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    stuck.send("SUBSCRIBE", {"destination": "/queue/big", "id": "0", "ack": "client", "prefetch-count": "1000"})
    stuck.quiet(PATIENCE)
    with daemon.connect() as consumer:
        taken = drain(consumer, "/queue/big")
        assert taken == sorted(taken)
        assert len(taken) >= count // 2, "one that does not read got most of the queue"
        # limits.stall_timeout gives it up: what it held comes back.
        consumer.sock.settimeout(PATIENCE)
        back = []
        while len(taken) + len(back) <= count:
            command, headers, body = consumer.frame()
            assert (command, headers["redelivered"]) == ("MESSAGE", "true")
            back.append(int(body))
            consumer.send("ACK", {"id": headers["ack"]})
        assert back == sorted(back)
        assert sorted(taken + back) == list(range(count + 1))
    stuck.close()


def test_a_topic_subscriber_that_does_not_read_is_cut_off(daemon):
    count, size = 300, 64 << 10
    with daemon.connect() as stuck, daemon.connect() as good, daemon.connect() as producer:
        for client in (stuck, good):
            client.send("SUBSCRIBE", {"destination": "/topic/fat", "id": "0", "receipt": "sub"})
            assert client.frame()[0] == "RECEIPT"
        for number in range(count):
            put(producer, "/topic/fat", b"%*d" % (size, number))
            assert int(good.frame()[2]) == number
        # What was underway comes, in order; then the reason; and not one message more.
        numbers = []
        while (got := stuck.frame())[0] == "MESSAGE":
            numbers.append(int(got[2]))
        assert numbers == list(range(len(numbers)))
        assert len(numbers) < count
        assert got[0] == "ERROR"
        assert "limits.output" in got[1]["message"]
        assert stuck.eof() == b""


def test_ack_auto_with_a_slow_reader_of_a_hundred_thousand(daemon):
    count = 100_000
    with daemon.connect() as producer:
        fill(producer, "/queue/auto", count)
    before = resident(daemon)
    with daemon.connect() as reader:
        reader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        reader.send("SUBSCRIBE", {"destination": "/queue/auto", "id": "0", "ack": "auto"})
        numbers = 0
        data = b""
        while numbers <= count:
            data += reader.sock.recv(4096)
            *whole, data = data.split(b"\0")
            for each in whole:
                assert int(each[-100:]) == numbers
                numbers += 1
        assert resident(daemon) - before < GROWTH
        # All of them are settled: nothing is left.
        assert drain(reader, "/queue/auto2") == []
    with daemon.connect() as client:
        assert drain(client, "/queue/auto") == []


def test_what_an_auto_reader_did_not_take_goes_back(daemon):
    count = 2000
    with daemon.connect() as producer:
        fill(producer, "/queue/dies", count, 1000)
    reader = daemon.connect()
    reader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    reader.send("SUBSCRIBE", {"destination": "/queue/dies", "id": "0", "ack": "auto"})
    assert int(reader.frame()[2]) == 0
    reset(reader)
    with daemon.connect() as client:
        rest = drain(client, "/queue/dies")
        # In order to the end; what is missing is a beginning that the kernel had taken.
        assert rest == list(range(rest[0], count + 1))
        assert 0 < rest[0] < count


# ---------------------------------------------------------------- crowds


def test_a_crowd_over_the_limit_is_refused_and_disturbs_nobody(daemon):
    crowd = [daemon.connect(connect=False) for _ in range(150)]
    refused = 0
    for client in crowd:
        errors = the_end(client)  # those within the limit say nothing, and are ended by connect_timeout
        assert len(errors) <= 1
        refused += any("too many connections" in error for error in errors)
        client.close()
    assert refused >= 50
    with daemon.connect() as client:
        put(client, "/topic/alive")


def test_a_thousand_connections_come_and_go(daemon):
    for number in range(1000):
        client = Client(daemon.address, connect=number % 4 != 0)
        if number % 4 == 1:
            client.send("SUBSCRIBE", {"destination": "/queue/crowd", "id": "0", "ack": "client"})
        elif number % 4 == 2:
            client.sock.sendall(SEND + b"\nhalf")
        if number % 3:
            client.close()
        else:
            reset(client)


def test_resets_in_the_middle_of_a_frame(daemon):
    with daemon.connect() as good:
        for number in range(100):
            client = Client(daemon.address)
            whole = encode("SEND", {"destination": "/queue/reset", "receipt": "1"}, b"%d" % number)
            client.sock.sendall(whole)
            assert client.frame()[0] == "RECEIPT"
            client.sock.sendall(whole[: -1 - number % 40])
            reset(client)
        # Each was receipted, and no half frame became a message.
        assert drain(good, "/queue/reset") == list(range(100))


def test_disconnect_with_receipts_owed_gives_them_all_then_ends(daemon):
    with daemon.connect() as client:
        frames = [encode("SEND", {"destination": "/queue/bye", "receipt": str(n)}, b"%d" % n) for n in range(100)]
        after = encode("SEND", {"destination": "/queue/bye"}, b"999")
        client.sock.sendall(b"".join(frames) + encode("DISCONNECT", {"receipt": "bye"}) + after)
        assert [client.frame()[1]["receipt-id"] for _ in range(101)] == [*map(str, range(100)), "bye"]
        assert client.eof() == b""
    with daemon.connect() as client:
        assert drain(client, "/queue/bye") == list(range(100))
