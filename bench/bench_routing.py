"""How fast messages go through the broker without sockets and without a disk: send, deliver, settle, in memory queues.

Run by `pytest bench/bench_routing.py`. The gates are ratios of one run: neither a crowd of consumers without room, nor
a ring of many with room, may make a message dear.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from radiator.broker.broker import Broker
from radiator.broker.client import Client
from radiator.config.schema import Config, Defaults
from radiator.message import Delivery, Message
from radiator.store.memory import MemoryStore

MESSAGES = 2000
ROUNDS = 7
CROWD = 5000
CROWD_GATE = 3.0
"""How many times as long a message may take beside `CROWD` consumers without room; measured here: 1.0."""
RING_GATE = 4.0
"""How many times as long a message may take in a ring of 1000 as with one consumer; measured here: 0.8."""
MESSAGE = Message(12, True, b"destination:/queue/a\ncontent-type:text/plain\n", b"x" * 100)


class Sink:
    """The session of a connection that remembers what it must acknowledge."""

    output_bytes = 0

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def deliver(self, subscription: object, delivery: Delivery) -> None:
        delivery.message = None
        self.deliveries.append(delivery)

    def publish(self, subscription: object, message: Message, number: int, blocks: dict[int, bytes]) -> None:
        """Topics are not measured."""

    def release_receipts(self, committed: int) -> None:
        """Nothing is durable here."""

    def fail(self, text: str) -> None:
        raise AssertionError(text)


def make() -> Broker:
    return Broker(
        Config(defaults=Defaults(persistent=False)),
        None,
        MemoryStore(),
        wall_ms=lambda: 0,
        escape=lambda value, version: value.encode(),
        report=lambda event, **fields: None,
    )


def connect(broker: Broker, prefetch: int | None = None) -> tuple[Client, Sink]:
    """A connection; with a `prefetch`, one that consumes /queue/a."""
    sink = Sink()
    client = broker.client(sink)
    if prefetch is not None:
        client.subscribe("s", "/queue/a", "client-individual", prefetch)
    return client, sink


def send(client: Client, count: int = MESSAGES) -> None:
    put = client.send
    for _ in range(count):
        put("/queue/a", MESSAGE)


def settle(client: Client, sink: Sink) -> None:
    for delivery in sink.deliveries:
        client.settle(delivery, positive=True)
    sink.deliveries.clear()


def timed(work: Callable[[], Any], count: int) -> float:
    """Microseconds per message."""
    started = time.thread_time()
    work()
    return (time.thread_time() - started) / count * 1e6


def one_by_one(consumers: int, crowd: int = 0) -> float:
    """Microseconds per message where each consumer holds one: delivery and settlement, a turn for each round."""
    broker = make()
    producer, _ = connect(broker)
    if crowd:
        connections = [connect(broker, 1) for _ in range(crowd)]
        send(producer, crowd)
        broker.dispatch()
        assert all(client.holds for client, _ in connections)
    connections = [connect(broker, 1) for _ in range(consumers)]
    rounds = max(1, MESSAGES // consumers)
    send(producer, rounds * consumers)

    def drain() -> None:
        for _ in range(rounds):
            broker.dispatch()
            for client, sink in connections:
                settle(client, sink)

    took = timed(drain, rounds * consumers)
    assert broker.stats()["totals"]["ready"] == 0
    return took


def test_a_crowd_without_room_costs_nothing() -> None:
    # In turns, and the best of each: what else the machine does falls on both.
    pairs = [(one_by_one(20), one_by_one(20, CROWD)) for _ in range(ROUNDS)]
    assert min(beside for _, beside in pairs) < min(alone for alone, _ in pairs) * CROWD_GATE


def test_a_large_ring_is_cheap() -> None:
    pairs = [(one_by_one(1), one_by_one(1000)) for _ in range(ROUNDS)]
    assert min(large for _, large in pairs) < min(alone for alone, _ in pairs) * RING_GATE


@pytest.mark.parametrize("phase", ["send", "deliver", "settle"])
def test_phase(benchmark: Any, phase: str) -> None:
    """1000 messages through one of the three; one consumer whose window takes them all."""

    def setup() -> tuple[tuple[Callable[[], Any]], dict[str, Any]]:
        broker = make()
        producer, _ = connect(broker)
        client, sink = connect(broker, 1000)
        broker.dispatch()
        work: dict[str, Callable[[], Any]] = {
            "send": lambda: send(producer, 1000),
            "deliver": broker.dispatch,
            "settle": lambda: settle(client, sink),
        }
        for name, before in work.items():
            if name == phase:
                break
            before()
        return (work[phase],), {}

    benchmark.pedantic(lambda work: work(), setup=setup, rounds=20, warmup_rounds=1)


@pytest.mark.parametrize("consumers", [1, 20])
def test_routing(benchmark: Any, consumers: int) -> None:
    """Send, deliver and settle `MESSAGES` messages, each consumer with a window of 10."""

    def run() -> None:
        broker = make()
        producer, _ = connect(broker)
        connections = [connect(broker, 10) for _ in range(consumers)]
        for _ in range(MESSAGES // (10 * consumers)):
            send(producer, 10 * consumers)
            broker.dispatch()
            for client, sink in connections:
                settle(client, sink)

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
