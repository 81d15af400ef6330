"""A connection's session and a file store, as small as the broker needs them in tests."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from radiator.broker.broker import Broker
from radiator.broker.client import Client
from radiator.config.schema import Config, Destination
from radiator.errors import CorruptRecord, Refused
from radiator.message import Delivery, Message
from radiator.store.base import StoreQueue, Unit
from radiator.store.memory import MemoryStore

NOW_MS = 1_700_000_000_000


def message(body: str, *, destination: str = "/queue/a", version: int = 12) -> Message:
    return Message(version, True, f"destination:{destination}\n".encode(), body.encode(), NOW_MS)


class FakePeer:
    """Keeps what the broker gives it; `output_bytes` grows by the bodies unless `drained`."""

    def __init__(self) -> None:
        self.output_bytes = 0
        self.deliveries: list[Delivery] = []
        self.bodies: list[str] = []
        self.published: list[tuple[str, int]] = []
        self.released: list[int] = []
        self.failed: list[str] = []
        self.counts_output = False

    def deliver(self, subscription: object, delivery: Delivery) -> None:
        assert delivery.subscription is subscription
        assert delivery.message is not None
        self.deliveries.append(delivery)
        self.bodies.append(delivery.message.body.decode())
        if self.counts_output:
            self.output_bytes += len(delivery.message.body)
        delivery.message = None

    def publish(self, subscription: object, message: Message, number: int, blocks: dict[int, bytes]) -> None:
        self.published.append((message.body.decode(), number))

    def release_receipts(self, committed: int) -> None:
        self.released.append(committed)

    def fail(self, text: str) -> None:
        self.failed.append(text)


class Consumer:
    """One connection: its client and its peer, with short words for what tests do."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.peer = FakePeer()
        self.client: Client = broker.client(self.peer)

    def send(self, destination: str, *bodies: str, transaction: str | None = None) -> None:
        for body in bodies:
            self.client.send(destination, message(body, destination=destination), transaction)

    def subscribe(
        self, destination: str, prefetch: int | None = None, ack: str = "client-individual", id: str = ""
    ) -> None:
        self.client.subscribe(id or destination, destination, ack, prefetch)

    def got(self) -> list[str]:
        """The bodies delivered since the last look, after a dispatch."""
        self.broker.dispatch()
        bodies, self.peer.bodies = self.peer.bodies, []
        return bodies

    def find(self, body: str) -> Delivery:
        """The held delivery of that body; the last where there were several."""
        for delivery in reversed(self.peer.deliveries):
            held = self.client.find_ack(delivery.ack) is delivery
            if held and delivery.queue.messages[delivery.id].body == body.encode():
                return delivery
        raise AssertionError(f"{body} is not held")

    def ack(self, body: str, transaction: str | None = None) -> None:
        self.client.settle(self.find(body), positive=True, transaction=transaction)

    def nack(self, body: str, *, requeue: bool = True, transaction: str | None = None) -> None:
        self.client.settle(self.find(body), positive=False, requeue=requeue, transaction=transaction)


class SlowStore(MemoryStore):
    """A file store whose disk is as slow as the test says: nothing is durable before `complete`.

    `cold` are bodies that `claim` and `read` have not in memory until `warm`, `damaged` what `read` finds damaged,
    `full` lets `check` refuse puts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._next_number = 1
        self.filling = 1
        self.batch: list[Unit] = []
        self.room = True
        self.full = False
        self.cold: set[bytes] = set()
        self.damaged: set[bytes] = set()
        self.chilled: set[StoreQueue] = set()
        self.appended = 0
        self.claims = 0

    def has_room(self) -> bool:
        return self.room

    def check(self, unit: Unit) -> None:
        if self.full and unit.puts:
            raise Refused("the disk is full")

    def append(self, unit: Unit) -> int:
        self.check(unit)
        self.appended += 1
        self.batch.append(unit)
        for _, queues in unit.puts:
            for queue in queues:
                queue.reserved_messages += 1
        return self.filling

    def complete(self) -> None:
        number, self.filling = self.filling, self.filling + 1
        batch, self.batch = self.batch, []
        for unit in batch:
            for _, queues in unit.puts:
                for queue in queues:
                    queue.reserved_messages -= 1
            self._put(unit)
            self._settle(unit)
        self.committed = number
        self.durable(number)

    def claim(self, queue: StoreQueue, count: int, max_bytes: int) -> list[Delivery]:
        self.claims += 1
        found = super().claim(queue, count, max_bytes)
        for place, delivery in enumerate(found):
            if delivery.message.body in self.cold:
                queue.returned[:0] = sorted(late.id for late in found[place:])
                self.chilled.add(queue)
                return found[:place]
        return found

    def read(self, queue: StoreQueue, id: int) -> Message | None:
        found = super().read(queue, id)
        if found.body in self.damaged:
            raise CorruptRecord(f"{queue.name}: {id}")
        if found.body in self.cold:
            self.chilled.add(queue)
            return None
        return found

    def warm(self) -> None:
        self.cold.clear()
        for queue in self.chilled:
            queue.on_ready()
        self.chilled.clear()


@dataclass
class World:
    """A broker over fakes; `reports` is what it told its operator."""

    broker: Broker
    memory: MemoryStore
    disk: SlowStore
    reports: list[tuple[str, dict]] = field(default_factory=list)

    def connect(self) -> Consumer:
        return Consumer(self.broker)

    def ready(self, name: str) -> list[str]:
        """The bodies that wait in a queue, in order, looked at from outside."""
        handle = self.broker.targets[name].handle
        ids = sorted(handle.returned) + list(handle.fresh)
        return [handle.messages[id].body.decode() for id in ids]


def escape(value: str, version: int) -> bytes:
    assert version == 12
    return value.replace("\\", "\\\\").replace(":", "\\c").encode()


def world(
    *destinations: Destination, disk: SlowStore | None = None, persistent: bool = False, **settings: object
) -> World:
    limits = {name.removeprefix("limit_"): settings.pop(name) for name in list(settings) if name.startswith("limit_")}
    config = Config(destinations=destinations, **settings)
    config = replace(
        config,
        limits=replace(config.limits, **limits),
        defaults=replace(config.defaults, persistent=persistent),
    )
    memory = MemoryStore()
    disk = disk or SlowStore()
    reports: list[tuple[str, dict]] = []
    broker = Broker(
        config,
        disk,
        memory,
        wall_ms=lambda: NOW_MS,
        escape=escape,
        report=lambda event, **fields: reports.append((event, fields)),
    )
    return World(broker, memory, disk, reports)
