"""What real stomp.py clients do with a broker: `stomp_scenarios.py SCENARIO PORT VERSION NAME`, exit 0 where all held.

`NAME` is the last part of the names of queues and topics: runs with other names do not meet.

It runs in a process of its own: stomp.py starts threads, and another version of it may stand first on the path. It must
never import radiator. Called by: `test_stomp_py`.
"""

from __future__ import annotations

import queue
import sys
import time
from typing import NamedTuple

import stomp

PATIENCE = 60.0
COUNT = 1000

CONNECTIONS = {"1.0": stomp.StompConnection10, "1.1": stomp.StompConnection11, "1.2": stomp.StompConnection12}


class Run(NamedTuple):
    """Where and how a scenario runs."""

    port: int
    version: str
    name: str


class Listener(stomp.ConnectionListener):
    """Puts what comes into queues that the scenario takes from."""

    def __init__(self):
        self.messages = queue.Queue()
        self.receipts = queue.Queue()
        self.errors = queue.Queue()
        self.lost = queue.Queue()
        self.beats = queue.Queue()

    def on_message(self, frame):
        self.messages.put(frame)

    def on_receipt(self, frame):
        self.receipts.put(frame.headers["receipt-id"])

    def on_error(self, frame):
        self.errors.put(frame)

    def on_disconnected(self):
        self.lost.put(True)

    def on_heartbeat(self):
        self.beats.put(True)

    def on_heartbeat_timeout(self):
        self.errors.put("heartbeat timeout")


class Peer:
    """One connection of `version` and what it got."""

    def __init__(self, run, **options):
        self.version = run.version
        self.queue = f"/queue/{run.name}"
        self.topic = f"/topic/{run.name}"
        self.got = Listener()
        self.connection = CONNECTIONS[run.version]([("127.0.0.1", run.port)], reconnect_attempts_max=1, **options)
        self.connection.set_listener("it", self.got)
        self.connection.connect(wait=True)

    def send(self, body, destination=None, **headers):
        self.connection.send(destination or self.queue, body, **headers)

    def subscribe(self, destination=None, ack="client-individual", receipt="sub", **headers):
        self.connection.subscribe(destination or self.queue, id="7", ack=ack, headers={"receipt": receipt, **headers})
        self.receipt(receipt)

    def message(self):
        frame = self.got.messages.get(timeout=PATIENCE)
        assert frame.headers.get("subscription") == "7", frame.headers
        return frame

    def receipt(self, *expected):
        for each in expected:
            came = self.got.receipts.get(timeout=PATIENCE)
            assert came == each, (came, each)

    def ack(self, frame, **more):
        self._settle(self.connection.ack, frame, more)

    def nack(self, frame, **more):
        self._settle(self.connection.nack, frame, more)

    def _settle(self, method, frame, more):
        if self.version == "1.2":
            method(frame.headers["ack"], **more)
        elif self.version == "1.1":
            method(frame.headers["message-id"], frame.headers["subscription"], **more)
        else:
            method(frame.headers["message-id"], **more)

    def close(self):
        assert self.got.errors.empty(), self.got.errors.get()
        self.connection.disconnect(receipt="bye")
        self.got.lost.get(timeout=PATIENCE)
        receipts = []
        while not self.got.receipts.empty():
            receipts.append(self.got.receipts.get())
        assert receipts[-1:] == ["bye"], receipts


def ordered(run):
    """A thousand with receipts; each is received and ACKed, all in order."""
    producer, consumer = Peer(run), Peer(run)
    consumer.subscribe()
    for number in range(COUNT):
        producer.send(f"message {number}", receipt=f"r-{number}", number=str(number))
    producer.receipt(*(f"r-{number}" for number in range(COUNT)))
    for number in range(COUNT):
        frame = consumer.message()
        assert frame.body == f"message {number}", (frame.body, number)
        assert frame.headers["number"] == str(number)
        assert frame.headers["destination"] == producer.queue
        assert "redelivered" not in frame.headers
        consumer.ack(frame, receipt=f"a-{number}")
    consumer.receipt(*(f"a-{number}" for number in range(COUNT)))
    producer.close()
    consumer.close()
    assert consumer.got.messages.empty()


def backlog(run):
    """The same with a window and a backlog, cumulative ACKs, after which nothing is left."""
    producer, consumer = Peer(run), Peer(run)
    for number in range(COUNT):
        producer.send(f"message {number}", receipt=str(number))
    producer.receipt(*map(str, range(COUNT)))
    consumer.subscribe(ack="client", **{"prefetch-count": "100"})
    for number in range(COUNT):
        frame = consumer.message()
        assert frame.body == f"message {number}", (frame.body, number)
        if number % 50 == 49:
            consumer.ack(frame)
    consumer.close()
    again = Peer(run)
    again.subscribe()
    producer.send("the next")
    assert again.message().body == "the next"
    again.close()
    producer.close()


def redelivery(run):
    """A NACK (a lost connection in 1.0) brings the message back with its count, before those behind it."""
    consumer = Peer(run)
    for body in ("first", "second"):
        consumer.send(body)
    consumer.subscribe()
    frame = consumer.message()
    assert frame.body == "first"
    if run.version == "1.0":
        consumer.connection.transport.disconnect_socket()
        consumer = Peer(run)
        consumer.subscribe()
    else:
        consumer.nack(frame)
    frame = consumer.message()
    assert (frame.body, frame.headers["redelivered"], frame.headers["delivery-count"]) == ("first", "true", "1")
    consumer.ack(frame)
    frame = consumer.message()
    assert frame.body == "second"
    assert "redelivered" not in frame.headers
    consumer.ack(frame)
    consumer.close()


def transactions(run):
    """SENDs and ACKs of a transaction take effect at COMMIT, and not at all after ABORT."""
    producer, consumer = Peer(run), Peer(run)
    consumer.subscribe()
    name = producer.connection.begin()
    producer.send("gone", transaction=name)
    producer.connection.abort(name)
    name = producer.connection.begin()
    for number in range(10):
        producer.send(str(number), transaction=name, receipt=f"in-{number}")
    producer.receipt(*(f"in-{number}" for number in range(10)))
    assert consumer.got.messages.empty()
    producer.connection.commit(name, receipt="committed")
    producer.receipt("committed")
    frame = consumer.message()
    assert frame.body == "0"
    name = consumer.connection.begin()
    consumer.ack(frame, transaction=name)
    consumer.connection.abort(name)
    # The place in the window was free from the ACK to the ABORT: the next message may be here.
    consumer.connection.unsubscribe(id="7", headers={"receipt": "un"})
    consumer.receipt("un")
    while not consumer.got.messages.empty():
        consumer.got.messages.get()
    consumer.subscribe(receipt="again")
    for number in range(10):
        frame = consumer.message()
        assert frame.body == str(number), (frame.body, number)
        name = consumer.connection.begin()
        consumer.ack(frame, transaction=name)
        consumer.connection.commit(name)
    producer.close()
    consumer.close()


def topics(run):
    """Every subscriber gets every message in order; one that comes later gets none of them."""
    consumers = [Peer(run) for _ in range(3)]
    for consumer in consumers:
        consumer.subscribe(consumer.topic, ack="auto")
    producer = Peer(run)
    for number in range(200):
        producer.send(str(number), producer.topic, receipt=str(number))
    producer.receipt(*map(str, range(200)))
    late = Peer(run)
    late.subscribe(late.topic, ack="auto")
    producer.send("last", producer.topic)
    for consumer in consumers:
        assert [consumer.message().body for _ in range(201)] == [*map(str, range(200)), "last"]
    assert late.message().body == "last"
    for peer in (*consumers, late, producer):
        peer.close()


def bytes_and_headers(run):
    """Bodies with NULs, text of any language, headers with colons and (from 1.1) line ends and backslashes."""
    peer = Peer(run, auto_decode=False)
    peer.subscribe()
    odd = "a:b" if run.version == "1.0" else "a:b\nc\\d"
    for body in (b"", b"\0", b"x\0y\0", bytes(range(256)) * 100, "zażółć gęślą jaźń".encode()):
        peer.send(body, odd=odd)
        frame = peer.message()
        assert frame.body == body, (frame.body[:80], body[:80])
        assert frame.headers["odd"] == odd
        assert int(frame.headers["content-length"]) == len(body)
        peer.ack(frame)
    peer.close()


def heart_beats(run):
    """Beats in both directions keep a quiet connection alive; the broker's are heard."""
    # stomp.py would give the broker half as much again as was agreed, less than a busy machine may take.
    peer = Peer(run, heartbeats=(500, 200), heart_beat_receive_scale=100)
    for _ in range(5):
        peer.got.beats.get(timeout=PATIENCE)
    # Silence for longer than the broker would bear, were it not for our beats: twice the interval and a second.
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        peer.got.beats.get(timeout=PATIENCE)
    peer.subscribe()
    peer.send("alive")
    peer.ack(peer.message())
    peer.close()


def unknown(run):
    """An unknown destination is an ERROR that names it, and the end of the connection."""
    peer = Peer(run)
    peer.send("x", "/nowhere/at/all", receipt="r")
    error = peer.got.errors.get(timeout=PATIENCE)
    assert "/nowhere/at/all" in error.headers["message"], error.headers
    assert error.headers["receipt-id"] == "r"
    peer.got.lost.get(timeout=PATIENCE)
    assert peer.got.receipts.empty()


SCENARIOS = (ordered, backlog, redelivery, transactions, topics, bytes_and_headers, heart_beats, unknown)


if __name__ == "__main__":
    scenario = {each.__name__: each for each in SCENARIOS}[sys.argv[1]]
    scenario(Run(int(sys.argv[2]), sys.argv[3], sys.argv[4]))
