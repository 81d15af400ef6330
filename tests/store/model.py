"""What a store must be after any prefix of its history, and a history to hold against it.

`Model` is the oracle: the state after every step, each step whole. `World` drives a real `FileStore` on a `SimDisk` and
the model side by side, and remembers at every disk operation what a crash at that moment may leave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, NamedTuple

from reader import Found, MustRefuse, read_store
from simdisk import SimDisk

from radiator.errors import StoreDamaged
from radiator.message import Delivery, Message
from radiator.store.base import Reason, StoreQueue, Unit
from radiator.store.file.engine import FileStore
from radiator.store.file.ledger import FileQueue
from radiator.store.file.syncer import InlineJobs, InlineSyncer

DIRECTORY = "/data/store"
State = dict[str, dict[int, bytes]]


class Model:
    """The states after 0, 1, 2 … steps: by queue name, the body of every message by its id."""

    def __init__(self, first: State) -> None:
        self.states: list[State] = [first]
        self.numbers = [0]  # the batch that each step is in

    def step(self, number: int, change: Callable[[State], object]) -> None:
        state = {name: dict(messages) for name, messages in self.states[-1].items()}
        change(state)
        self.states.append(state)
        self.numbers.append(number)

    def committed(self, number: int) -> int:
        """How many steps are in batches up to `number`."""
        count = len(self.numbers)
        while self.numbers[count - 1] > number:
            count -= 1
        return count - 1


class Moment(NamedTuple):
    """A disk as it was, between how many and how many steps must be found on it after a crash, and what was seen."""

    disk: SimDisk
    what: str
    after_kill: int
    after_power_cut: int
    most: int
    seen: int = 0


class Violation(AssertionError):
    """The store broke a promise."""


def read_everything(store: FileStore, is_genuine: Callable[[Message], bool] = lambda message: True) -> State:
    """Claim all there is, by queue; everything is put back. A message that is not genuine is a Violation."""
    state: State = {}
    for queue in store.queues():
        found: dict[int, bytes] = {}
        ids: list[int] = []
        idle = 0
        while queue.ready and idle < 3:
            deliveries = store.claim(queue, 7, 4000)
            store.completed()
            idle = 0 if deliveries else idle + 1
            for delivery in deliveries:
                assert delivery.message is not None
                if not is_genuine(delivery.message):
                    raise Violation(f"{queue.name} has other bytes in {delivery.id} than were sent")
                ids.append(delivery.id)
                found[delivery.id] = delivery.message.body
        if ids != sorted(ids):
            raise Violation(f"{queue.name} came out of order: {ids}")
        store.release(queue, ids, delivered=False)
        state[queue.name] = found
    return state


class World:
    """One store on one disk with its model. `fsync` says which policy's promise is held against it."""

    is_genuine: Callable[[Message], bool] = staticmethod(lambda message: True)

    def __init__(self, disk: SimDisk, rng: Random, model: Model, *, fsync: str = "always", record: bool = True) -> None:
        self.disk = disk
        self.rng = rng
        self.model = model
        self.fsync = fsync
        self.moments: list[Moment] = []
        self.told = 0
        self.synced_steps = 0
        self.now = 0.0
        self.held: list[Delivery] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.count = 0
        self.seen: dict[tuple[int, int], bytes] = {}
        self.body = 0
        if record:
            disk.before = self._record
        disk.cold = lambda: self.rng.random() < 0.3
        self.start()

    def start(self) -> None:
        self.store = self.make_store()
        self.store.open(self.now, 1)
        self.model.numbers = [0] * len(self.model.numbers)
        self.told = 0
        self.store.durable = self._durable
        self.held = []

    def make_store(self) -> FileStore:
        return FileStore(
            DIRECTORY,
            fsync=self.fsync,  # type: ignore[arg-type]
            interval_ms=50 if self.fsync == "interval" else 0,
            segment_bytes=32768,
            buffer_bytes=16384,
            fsio=self.disk,
            syncer=InlineSyncer(self.disk),
            jobs=InlineJobs(),
            report=lambda event, **fields: self.events.append((event, fields)),
            entropy=self.rng.randbytes,
        )

    def _durable(self, number: int) -> None:
        if number <= self.told or number != self.store.committed:
            raise Violation(f"durable({number}) came after {self.told}, committed is {self.store.committed}")
        self.told = number

    def _record(self, what: str) -> None:
        promised = self.model.committed(self.told)
        power_cut = promised if self.fsync == "always" else self.synced_steps
        self.moments.append(
            Moment(self.disk.copy(), what, promised, power_cut, len(self.model.states) - 1, len(self.seen))
        )

    # ------------------------------------------------------------------ steps

    def turn(self) -> None:
        """The end of a turn, and what the disk did meanwhile."""
        self.store.flush()
        for _ in range(3):
            self.store.completed()

    def tick(self) -> None:
        """Time passes; under "interval" everything told before is on the disk afterwards."""
        self.turn()
        told = self.model.committed(self.told)
        self.now += 0.06
        self.store.tick(self.now)
        self.turn()
        if self.fsync == "interval":
            self.synced_steps = told

    def declare(self, name: str) -> StoreQueue:
        if name in self.model.states[-1]:
            return self.store.declare(name)
        queue = self.store.declare(name)
        self.model.step(self.store._log.number, lambda state: state.update({name: {}}))
        return queue

    def message(self, size: int) -> Message:
        """A message that was never sent before."""
        self.body += 1
        body = b"%d:" % self.body + self.rng.randbytes(self.rng.randint(0, size))
        return Message(12, True, b"destination:x\n", body)

    def unit(self, puts: list[list[StoreQueue]], settled: list[Delivery], size: int = 100) -> None:
        self.transact([(self.message(size), queues) for queues in puts], settled)

    def transact(
        self,
        puts: list[tuple[Message, list[StoreQueue]]],
        settled: list[Delivery],
        reason: Reason = Reason.ACKED,
    ) -> None:
        """One unit, and one step of the model."""
        unit = Unit()
        placed: list[tuple[str, int, bytes]] = []
        ahead: dict[StoreQueue, int] = {}
        for message, queues in puts:
            unit.put(message, queues)
            for queue in queues:
                assert isinstance(queue, FileQueue)
                id = ahead.get(queue, queue.next_id)
                ahead[queue] = id + 1
                placed.append((queue.name, id, message.body))
        for delivery in settled:
            unit.settle(delivery.queue, delivery.id, reason)
        number = self._append(unit, reason)

        def change(state: State) -> None:
            for name, id, body in placed:
                state[name][id] = body
            for delivery in settled:
                del state[delivery.queue.name][delivery.id]

        self.model.step(number, change)

    def _append(self, unit: Unit, reason: Reason) -> int:
        """Half of the units that are one operation go the way that is made for it."""
        if self.body % 2 and len(unit.puts) + len(unit.settled) == 1:
            if unit.settled and reason is Reason.ACKED:
                queue, id, _ = unit.settled[0]
                return self.store.settle(queue, id)
            if unit.puts and len(unit.puts[0][1]) == 1 and self.store.has_room():
                message, queues = unit.puts[0]
                return self.store.put(queues[0], message)
        return self.store.append(unit)

    def consumes(self, queue: StoreQueue) -> bool:
        """Does anybody take messages out of `queue`?"""
        return True

    def claim(self) -> None:
        for queue in filter(self.consumes, list(self.store.queues())):
            for delivery in self.store.claim(queue, self.rng.randint(1, 4), 2000):
                assert delivery.message is not None
                body = delivery.message.body
                told = self.model.states[self.model.committed(self.told)]
                if told.get(queue.name, {}).get(delivery.id) != body:
                    raise Violation(f"{queue.name} delivered {delivery.id}, which is not committed or another message")
                if self.seen.setdefault((queue.number, delivery.id), body) != body:
                    raise Violation(f"{queue.name} used the id {delivery.id} twice")
                self.held.append(delivery)

    def drop(self, queue: StoreQueue) -> None:
        self.held = [delivery for delivery in self.held if delivery.queue is not queue]
        number = self.store.drop(queue)
        self.model.step(number, lambda state: state.pop(queue.name))

    def stop(self) -> None:
        self.store.close()
        self.told = max(self.model.numbers)
        self.synced_steps = len(self.model.states) - 1

    def random_step(self) -> None:
        rng = self.rng
        choice = rng.random()
        queues = list(self.store.queues())
        if not queues or choice < 0.04:
            self.declare(f"/queue/{rng.randint(1, 5)}")
        elif choice < 0.40:
            self.unit([[rng.choice(queues)]], [], rng.choice((50, 200, 3000)))
        elif choice < 0.48:
            self.unit([rng.sample(queues, rng.randint(1, len(queues)))], [])
        elif choice < 0.56:
            taken, self.held = self.held[:2], self.held[2:]
            self.unit([[rng.choice(queues)] for _ in range(rng.randint(0, 5))], taken)
        elif choice < 0.70 and self.held:
            self.unit([], [self.held.pop(rng.randrange(len(self.held)))])
        elif choice < 0.74 and self.held:
            delivery = self.held.pop()
            self.store.release(delivery.queue, [delivery.id], delivered=True)
        elif choice < 0.76:
            self.drop(rng.choice(queues))
        elif choice < 0.78:
            self.stop()
            self.start()
        elif choice < 0.84:
            self.tick()
        elif choice < 0.92:
            self.claim()
        else:
            self.turn()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.random_step()
        self.turn()


def snapshot(store: FileStore) -> dict[str, Any]:
    """The index and the accounts, for comparison with a rescan."""
    return {
        "queues": {q.number: (q.name, q.index.addresses()) for q in store._ledger.queues.values()},
        "live": {s.number: (s.live, s.live_bytes) for s in store._ledger.segments.values() if s.live},
    }


def files_of(disk: SimDisk) -> dict[str, bytes]:
    """Every file of the data directory that says something, by its path in it: a spare is only room."""
    prefix = f"{DIRECTORY}/"
    return {
        path.removeprefix(prefix): data
        for path, data in disk.contents().items()
        if path.startswith(prefix) and "/log/spare-" not in path
    }


def disk_with(files: Mapping[str, bytes]) -> SimDisk:
    """A disk with these files in the data directory, all of them durable."""
    disk = SimDisk()
    for folder in ("log", "quarantine"):
        disk.make_parents(f"{DIRECTORY}/{folder}")
    for path, data in files.items():
        disk.place(f"{DIRECTORY}/{path}", data)
    return disk


def compare(store: FileStore, found: Found) -> None:
    """Hold a store's index and accounts against the other reader of the format."""
    ours = {q.number: (q.name, q.index.floor, q.index.addresses()) for q in store._ledger.queues.values()}
    theirs = {
        number: (q.name, q.floor, [(id, q.live[id].address, q.live[id].length) for id in sorted(q.live)])
        for number, q in found.queues.items()
    }
    if ours != theirs:
        raise Violation(f"the index is not what a rescan says: {ours} is not {theirs}")
    live = {s.number: s.live for s in store._ledger.segments.values() if s.live}
    if live != found.segments:
        raise Violation(f"the accounts are not what a rescan says: {live} is not {found.segments}")


def compare_bodies(state: State, found: Found) -> None:
    """Hold what a store delivers against the other reader."""
    for name, messages in found.bodies().items():
        if messages.keys() != state[name].keys() or any(not messages[id].endswith(b) for id, b in state[name].items()):
            raise Violation(f"{name} delivers something else than a rescan finds")


class Verdict(NamedTuple):
    """What came of a start: refused, or a state without what was set aside."""

    refused: str
    state: State
    set_aside: list[tuple[str, int]]


def judge(disk: SimDisk, **options: Any) -> Verdict:
    """Start on any disk whatever. The other reader must be of the same opinion; nothing but a refusal may be raised.

    A saved index spares a start the reading of the log. So it may start where the log's structure is damaged, and a
    delivery finds out; without it the rule holds to the letter, and what is found is the same.
    """
    files = files_of(disk)
    saved = "index" in files
    if saved:
        bare = disk.copy()
        del bare.directories[DIRECTORY]["index"]
        strict = judge(bare, **options)
    found: Found | None = None
    why = ""
    try:
        found = read_store(files)
    except MustRefuse as error:
        why = str(error)
    events: list[tuple[str, dict[str, Any]]] = []
    options.setdefault("segment_bytes", 32768)
    store = FileStore(
        DIRECTORY,
        fsio=disk,
        syncer=InlineSyncer(disk),
        jobs=InlineJobs(),
        report=lambda event, **fields: events.append((event, fields)),
        entropy=bytes,
        **options,
    )
    before = disk.contents()
    try:
        store.open(0.0, 1)
    except StoreDamaged as error:
        if found is not None:
            raise Violation(f"refused without need: {error}") from error
        if disk.contents() != before:
            raise Violation("a refusal changed something") from error
        return Verdict(str(error), {}, [])
    if "FORMAT" not in files:
        if list(store.queues()):
            raise Violation("a creation found queues")
        return Verdict("", {}, [])
    if found is None and not saved:
        raise Violation(f"the store starts where it must refuse: {why}")
    if found is not None and not saved:
        compare(store, found)
    state = read_everything(store)
    set_aside = sorted((fields["queue"], fields["id"]) for event, fields in events if "id" in fields)
    if saved and not strict.refused and (state, set_aside) != strict[1:]:
        raise Violation(f"a saved index makes {state}, without {set_aside}; the log {strict}")
    if found is None:
        return Verdict("", state, set_aside)
    compare_bodies(state, found)
    if set_aside != found.spoilt():
        raise Violation(f"set aside: {set_aside}, by a rescan: {found.spoilt()}")
    return Verdict("", state, set_aside)


def check(
    disk: SimDisk, model: Model, least: int, most: int, seed: int, fsync: str = "always", kind: type[World] = World
) -> World:
    """Start on what a crash left: a prefix of the history, whole, twice the same. The world goes on from there."""
    rng = Random(seed)
    found: list[tuple[State, dict[str, Any]]] = []
    for _ in range(2):
        world = kind(disk, rng, Model({}), fsync=fsync, record=False)
        before = files_of(disk)
        found.append((read_everything(world.store, kind.is_genuine), snapshot(world.store)))
        if world.events:
            raise Violation(f"reported without a reason: {world.events}")
        if files_of(disk) != before:
            raise Violation("the recovery wrote")
    if found[0] != found[1]:
        raise Violation("recovering twice is not recovering once")
    state = found[0][0]
    try:
        rescanned = read_store(files_of(disk))  # after the recovery: it reads what the platters have
    except MustRefuse as error:
        raise Violation(f"the store starts where it must refuse: {error}") from error
    compare(world.store, rescanned)
    compare_bodies(state, rescanned)
    if state not in model.states[least : most + 1]:
        where = [number for number, other in enumerate(model.states) if other == state]
        raise Violation(f"found steps {where or 'of no prefix'}, expected {least} to {most}")
    world.model = Model(state)
    world.body = 1_000_000 + seed
    return world
