"""A real broker over two engines in memory, one of them as slow as a disk, and many conversations with it."""

from __future__ import annotations

from stomp_fakes import WALL_MS, Talk
from stomp_seal import sealed

from radiator.broker.broker import Broker
from radiator.config.schema import Config, Destination
from radiator.stomp.frame import escape
from radiator.store.memory import Bounds, MemoryQueue, MemoryStore

DESTINATIONS = (
    Destination("/queue/memory", "queue", persistent=False),
    Destination("/queue/small", "queue", persistent=False, max_messages=2),
    Destination("/queue/strict", "queue", max_deliveries=2, dead_letter="/queue/strict.dead"),
    Destination("/queue/strict.dead", "queue"),
    Destination("/queue/one", "queue"),
    Destination("/queue/two", "queue"),
    Destination("/fanout/both", "fanout", queues=("/queue/one", "/queue/two")),
    Destination("/topic/chat", "topic"),
)


class SlowStore(MemoryStore):
    """Stands for the file store: what is appended happens when `complete` says that the disk is done."""

    def __init__(self, slow):
        super().__init__()
        self.slow = slow
        self.waiting = []
        self.room = True
        self.next_number = 0
        self._next_number = 1

    def declare(self, name) -> MemoryQueue:
        queue = super().declare(name)
        queue.bounds = Bounds(1 << 30, 1 << 40)
        return queue

    def has_room(self):
        return self.room

    def append(self, unit):
        self.next_number += 1
        self.waiting.append(unit)
        return self.next_number

    def complete(self):
        units, self.waiting = self.waiting, []
        for unit in units:
            super().append(unit)
        if units:
            self.committed = self.next_number
            self.durable(self.committed)


class House:
    """The broker; `talk` opens a conversation, `turn` is the end of a turn."""

    def __init__(self, *, slow=False, **changes):
        changes.setdefault("destinations", DESTINATIONS)
        self.store = SlowStore(slow)
        self.reports = []
        self.broker = Broker(
            Config(**changes),
            self.store,
            MemoryStore(),
            wall_ms=lambda: WALL_MS,
            escape=escape,
            report=lambda event, **fields: self.reports.append((event, fields)),
        )

    def talk(self, version="1.2", **more) -> HouseTalk:
        return HouseTalk(self, version, **more)

    def turn(self):
        with sealed():
            self.broker.dispatch()
        if not self.store.slow:
            self.disk()

    def disk(self):
        """The disk is done with everything, and with what follows from it."""
        with sealed():
            while self.store.waiting:
                self.store.complete()
                self.broker.dispatch()


class HouseTalk(Talk):
    """One conversation in a house: `ask` waits for the end of the turn."""

    def __init__(self, house, version, **more):
        self.house = house
        super().__init__(house.broker, version=version, limits=house.broker.config.limits, **more)

    def frames(self):
        frames = super().frames()
        self.house.turn()
        while self.session.output_bytes:
            frames += super().frames()
            self.house.turn()
        return frames
