"""A burst for a crowded topic is spread over many turns: who uses queues is served between any two of them.

What is counted are round trips while the burst goes on, not seconds: without a bound the burst is a turn or a few.
"""

from __future__ import annotations

import select
import signal
import time

from daemon import PATIENCE, Client, Daemon, encode

from radiator.broker.broker import TURN_COPIES

CONFIG = """\
create: true
limits: {output: 512MiB}
defaults: {persistent: false}
"""
CROWDS, EACH = 8, 250
SENDERS, BURST = 3, 300
MESSAGES = SENDERS * BURST
TURNS = MESSAGES * (CROWDS * EACH + 1) // TURN_COPIES
"""That many turns at least; the sockets are polled between them."""

ROUNDS = TURNS // 6
"""A round trip needs a turn, and a moment of this process, which has a lot to read; half of `TURNS` measured here."""


def listen(client: Client, count: int) -> None:
    client.sock.sendall(
        b"".join(encode("SUBSCRIBE", {"id": str(number), "destination": "/topic/t"}) for number in range(count))
        + encode("SEND", {"destination": "/topic/nobody", "receipt": "listening"})
    )
    assert client.frame() == ("RECEIPT", {"receipt-id": "listening"}, b"")


def burst(sender: int) -> bytes:
    """Tiny SENDs, a receipt for each, and the end."""
    return b"".join(
        encode("SEND", {"destination": "/topic/t", "receipt": str(number)}, b"%d %d" % (sender, number))
        for number in range(BURST)
    ) + encode("DISCONNECT", {"receipt": "end"})


def test_a_burst_for_a_crowded_topic_does_not_stop_the_queues(tmp_path):
    with Daemon(tmp_path, CONFIG, log_level="info") as daemon:
        crowds = [daemon.connect() for _ in range(CROWDS)]
        for client in crowds:
            listen(client, EACH)
        watcher, other = daemon.connect(), daemon.connect()
        listen(watcher, 1)
        senders = [daemon.connect() for _ in range(SENDERS)]
        for number, sender in enumerate(senders):
            sender.sock.sendall(burst(number))

        frames = dict.fromkeys(crowds, 0)
        watched = b""
        rounds = 0
        other.send("SEND", {"destination": "/queue/a", "receipt": "0"})
        answer = b""
        buffer = bytearray(1 << 20)
        by_socket = {client.sock: client for client in [*crowds, watcher, other]}
        end = time.monotonic() + 3 * PATIENCE
        while watched.count(b"\0") < MESSAGES or min(frames.values()) < MESSAGES * EACH:
            assert time.monotonic() < end, (rounds, frames)
            for sock in select.select(list(by_socket), [], [], PATIENCE)[0]:
                client = by_socket[sock]
                count = sock.recv_into(buffer)
                assert count, f"a connection was closed:\n{daemon.log}"
                if client is watcher:
                    watched += buffer[:count]
                elif client is other:
                    answer += buffer[:count]
                    if answer.endswith(b"\0"):
                        assert answer == encode("RECEIPT", {"receipt-id": str(rounds)})
                        answer = b""
                        rounds += watched.count(b"\0") < MESSAGES
                        other.send("SEND", {"destination": "/queue/a", "receipt": str(rounds)})
                else:
                    frames[client] += buffer.count(b"\0", 0, count)

        assert set(frames.values()) == {MESSAGES * EACH}
        assert rounds >= ROUNDS
        bodies = [frame.rpartition(b"\n\n")[2].decode().split() for frame in watched.split(b"\0")[:-1]]
        for number, sender in enumerate(senders):
            assert [int(place) for who, place in bodies if int(who) == number] == list(range(BURST))
            for place in [*range(BURST), "end"]:
                assert sender.frame() == ("RECEIPT", {"receipt-id": str(place)}, b"")
            assert sender.eof() == b""
        assert daemon.terminate() == 0
        assert not [line for line in daemon.log if "internal error" in line]


def test_a_shutdown_in_the_middle_of_a_burst_acts_on_all_that_was_received(tmp_path):
    with Daemon(tmp_path, CONFIG, log_level="info") as daemon:
        crowd, sender = daemon.connect(), daemon.connect()
        listen(crowd, EACH)
        sender.sock.sendall(burst(0))
        assert sender.frame() == ("RECEIPT", {"receipt-id": "0"}, b"")
        daemon.process.send_signal(signal.SIGTERM)
        crowd.eof()
        assert daemon.wait() == 0
        for place in [*range(1, BURST), "end"]:
            assert sender.frame() == ("RECEIPT", {"receipt-id": str(place)}, b"")
        assert sender.eof() == b""
