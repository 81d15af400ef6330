"""Random histories, all of one number: what is done, by which policy, on what kind of disk, with what fault.

`History` is a `World` that does more: transactions, purges, dead letters, NACKs, kills in the middle, helpers that are
late, and one fault of the disk. The same number makes the same history in every run. Called by: `simulate`, the tests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from random import Random
from typing import Any
from zlib import crc32

from model import DIRECTORY, Model, State, Violation, World, compare, files_of, read_everything
from reader import read_store
from simdisk import SimDisk

from radiator.errors import Refused, StoreFailed
from radiator.message import Delivery, Message
from radiator.store.base import Reason, StoreQueue
from radiator.store.file.engine import INDEX_FROM, FileStore
from radiator.store.file.format import Names
from radiator.store.file.fsio import Fsio
from radiator.store.file.record import BLOCK
from radiator.store.file.snapshot import restore, snapshot
from radiator.store.file.spares import SPARES
from radiator.store.file.syncer import Done, InlineJobs, InlineSyncer

POLICIES = ("always", "interval", "never")
SPARE_BYTES = 32768
"""What a spare has where a segment has so many or fewer: a whole one."""


class LateSyncer(InlineSyncer):
    """Works when it is asked for the result, and lets that wait."""

    def __init__(self, fsio: Fsio, rng: Random) -> None:
        super().__init__(fsio)
        self._rng = rng
        self._waiting: tuple[int, Any, int, bool] | None = None

    def submit(self, fd: int, buffer: Any, offset: int, sync: bool) -> None:
        self.busy = True
        self._waiting = (fd, buffer, offset, sync)

    def result(self) -> tuple[int, int] | None:
        if self._waiting is None or self._rng.random() < 0.4:
            return None
        work, self._waiting = self._waiting, None
        self.busy = False
        super().submit(*work)
        return super().result()


class LateJobs(InlineJobs):
    """Runs a job when it collects, and lets that wait; one job a time, in their order."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._rng = rng
        self._waiting: deque[tuple[Callable[[], Any], Done]] = deque()

    def run(self, function: Callable[[], Any], done: Done, *, urgent: bool = False) -> None:
        self._waiting.append((function, done))

    def collect(self) -> None:
        if self._waiting and self._rng.random() < 0.6:
            super().run(*self._waiting.popleft())
        super().collect()


def stamped(number: int, body: bytes) -> Message:
    """A message of which every field follows from its body."""
    odd = crc32(body)
    block = b"destination:/queue/%d\nnumber:%d\n" % (odd % 7, odd) * (1 + odd % 3)
    return Message(10 + odd % 3, bool(odd & 8), block, body, number, number * (odd % 2), 0, odd % 10)


def is_genuine(message: Message) -> bool:
    """Every byte and field is as it was sent."""
    want = stamped(int(message.body.partition(b":")[0]), message.body)
    fields = ("version", "plain", "block", "body", "arrival_ms", "expires_ms", "not_before_ms", "priority")
    return all(getattr(message, field) == getattr(want, field) for field in fields)


class History(World):
    """One life of a store after another, on one disk. `late` says that its helpers take their time."""

    is_genuine = staticmethod(is_genuine)

    def __init__(
        self,
        disk: SimDisk,
        rng: Random,
        model: Model,
        *,
        fsync: str = "always",
        record: bool = True,
        late: bool = False,
        seen: dict[tuple[int, int], bytes] | None = None,
    ) -> None:
        self.late = late
        self.segment_bytes = rng.choice((24576, 32768))
        # A block at least: in batches that are padding for the most part, copies would take more room than they give.
        self.buffer_bytes = 4096 if self.segment_bytes == 24576 else 16384
        self.lined_up = 0  # units that went behind a batch that was closed and not yet at the disk
        self.failures = 0
        self.copied = 0  # bytes that reclaim copied
        self.mended = False  # a start came after the one fault
        self.between: tuple[int, int] | None = None  # after a kill, while nobody has looked what is left
        # How much is taken out of what is put in: small, and a backlog grows; large, and segments die.
        self.hunger = rng.choice((0.3, 0.6, 0.9))
        # One queue is forgotten: its messages pin segments, until they are copied.
        self.forgotten = rng.choice(("", "/queue/1"))
        self.fills = rng.random() < 0.3  # the disk gets full, and has room again
        self.indexed = rng.random() < 0.5  # a clean stop saves the index
        self.short = False  # this start did not find all spares whole: it takes no puts before they are
        self.refused = 0
        self.snapshots_begun = 0
        self.snapshots: dict[str, State] = {}
        super().__init__(disk, rng, model, fsync=fsync, record=record)
        if seen is not None:
            self.seen = seen

    def make_store(self) -> FileStore:
        late = self.late
        return FileStore(
            DIRECTORY,
            fsync=self.fsync,  # type: ignore[arg-type]
            interval_ms=50 if self.fsync == "interval" else 0,
            segment_bytes=self.segment_bytes,
            buffer_bytes=self.buffer_bytes,
            fsio=self.disk,
            syncer=LateSyncer(self.disk, self.rng) if late else InlineSyncer(self.disk),
            jobs=LateJobs(self.rng) if late else InlineJobs(),
            report=lambda event, **fields: self.events.append((event, fields)),
            entropy=self.rng.randbytes,
            index_from=0 if self.indexed else INDEX_FROM,
            clock=lambda: 0.0,
        )

    def consumes(self, queue: StoreQueue) -> bool:
        return queue.name != self.forgotten

    def transact(
        self, puts: list[tuple[Message, list[StoreQueue]]], settled: list[Delivery], reason: Reason = Reason.ACKED
    ) -> None:
        """On a full disk puts may be refused, with all that is in one unit with them; an ACK may not.

        Also behind a start after one, while it misses a spare.
        """
        try:
            super().transact(puts, settled, reason)
        except Refused as error:
            if not puts or not (self.fills or self.short):
                raise Violation(f"refused without a reason: {error}") from error
            self.refused += 1
            self.held += settled
        self.lined_up += bool(self.store._log.closed)

    def message(self, size: int) -> Message:
        self.body += 1
        return stamped(self.body, b"%d:" % self.body + self.rng.randbytes(self.rng.randint(0, size)))

    def start(self) -> None:
        self._count_copied()
        try:
            super().start()
        except StoreFailed as error:
            self.fail(error)
            super().start()
        files = self.disk.contents()
        found = [files.get(Names(DIRECTORY).spare(number), b"") for number in range(1, SPARES + 1)]
        self.short = any(any(data[:BLOCK]) or len(data) < SPARE_BYTES for data in found)

    def _count_copied(self) -> None:
        reclaim = getattr(getattr(self, "store", None), "_reclaim", None)
        if reclaim is not None:
            self.copied += reclaim.copied_bytes

    def fail(self, error: StoreFailed) -> None:
        """A write or a sync failed: only the one fault of this disk may do that."""
        if self.failures or (self.disk.fail_sync_at is None and self.disk.fail_write_at is None):
            raise Violation(f"the store failed without a reason: {error}") from error
        self.failures += 1

    @property
    def doubt(self) -> bool:
        """A write or a sync failed in this life: that counts as a power cut."""
        disk = self.disk
        sync_failed = disk.fail_sync_at is not None and disk.syncs >= disk.fail_sync_at
        write_failed = disk.fail_write_at is not None and disk.writes >= disk.fail_write_at
        return (sync_failed or write_failed) and not self.mended

    def _record(self, what: str) -> None:
        super()._record(what)
        if self.between is not None:
            least, most = self.between
            self.moments[-1] = self.moments[-1]._replace(after_kill=least, after_power_cut=least, most=most)
        if self.doubt:
            moment = self.moments[-1]
            self.moments[-1] = moment._replace(after_kill=moment.after_power_cut)

    # ------------------------------------------------------------------ steps

    def settle_down(self) -> None:
        """Wait for everything that is on its way."""
        log = self.store._log
        for _ in range(500):
            self.store.flush()
            self.store.completed()
            if log._flight is None and not log.waiting and not any(log.works):
                return
        raise Violation("the store does not come to rest")

    def tick(self) -> None:
        self.settle_down()
        told = self.model.committed(self.told)
        self.now += self.rng.choice((0.06, 1.1))
        self.store.tick(self.now)
        self.settle_down()
        if self.fsync == "interval":
            self.synced_steps = told

    def kill(self) -> None:
        """`kill -9` and a new start on what the kernel has."""
        most = len(self.model.states) - 1
        promised = self.model.committed(self.told)
        self.start()
        least = promised if self.fsync == "always" or not self.doubt else self.synced_steps
        self.mended = self.doubt or self.mended
        self.between = (least, most)
        cold, self.disk.cold = self.disk.cold, lambda: False
        state = read_everything(self.store, is_genuine)
        self.disk.cold = cold
        if state not in self.model.states[least : most + 1]:
            raise Violation(f"after a kill the store has no state between the steps {least} and {most}")
        self.model.step(0, lambda found: (found.clear(), found.update(state)))
        self.synced_steps = len(self.model.states) - 1  # a recovery syncs what it finds
        self.between = None

    def purge(self, queue: StoreQueue) -> None:
        self.store.completed()
        claimed = self.store.claim(queue, 1000, 1 << 20)
        if claimed:
            self.transact([], claimed, Reason.PURGED)

    def take_snapshot(self) -> None:
        """Another process copies the store while this one runs."""
        directory = f"/data/snapshot-{self.body}-{self.snapshots_begun}"  # no life takes an earlier one's
        self.snapshots_begun += 1
        least = self.model.committed(self.told)
        try:
            snapshot(self.disk, Names(DIRECTORY), directory, wall_ms=1)
        except (StoreFailed, OSError) as error:
            if self.doubt:
                self.failures, self.mended = 1, True  # the fault hit the copy, not the store
            elif not self.disk.full:
                raise Violation(f"no snapshot without a reason: {error}") from error
            return
        state = self.restored(directory)
        if state not in self.model.states[least:]:
            raise Violation("a snapshot is not what the store was")
        self.snapshots[directory] = state

    def restored(self, directory: str) -> State:
        """What is in the store that is made of a snapshot."""
        disk = self.disk.copy()
        restore(disk, directory, Names("/data/restored"), segment_bytes=self.segment_bytes)
        store = FileStore("/data/restored", fsio=disk, syncer=InlineSyncer(disk), jobs=InlineJobs())
        store.open(0.0, 1)
        return read_everything(store, is_genuine)

    def take(self, count: int) -> list[Delivery]:
        """Some of what is held, from any place."""
        self.rng.shuffle(self.held)
        taken, self.held = self.held[:count], self.held[count:]
        return taken

    def hold(self) -> None:
        """See to it that something is held, if anything is there: else few units would put and settle at once."""
        if not self.held:
            self.turn()
            self.claim()

    def random_step(self) -> None:
        rng, queues = self.rng, list(self.store.queues())
        choice = rng.random()
        if not queues or choice < 0.04:
            self.declare(f"/queue/{rng.randint(1, 4)}")
        elif choice < 0.30:
            self.unit([[rng.choice(queues)]], [], rng.choice((50, 200, 3000)))
        elif choice < 0.36:
            self.unit([rng.sample(queues, rng.randint(1, len(queues)))], [])
        elif choice < 0.41:
            self.hold()
            self.unit([[rng.choice(queues)] for _ in range(rng.randint(0, 5))], self.take(rng.randint(0, 4)), 60)
        elif choice < 0.53:
            self.claim()
        elif choice < 0.64:
            if self.held:
                self.transact([], self.take(1 if rng.random() > self.hunger else 20))
        elif choice < 0.68:
            for delivery in self.take(rng.randint(1, 3)):
                self.store.release(delivery.queue, [delivery.id], delivered=rng.random() < 0.7)
        elif choice < 0.72:
            self.hold()
            for delivery in self.take(1):
                assert delivery.message is not None
                self.transact([(delivery.message, [rng.choice(queues)])], [delivery], Reason.DEAD_LETTERED)
        elif choice < 0.74:
            queue = rng.choice(queues)
            if self.consumes(queue):
                self.purge(queue)
        elif choice < 0.76:
            self.drop(rng.choice(queues))
        elif choice < 0.78 and self.fills:
            self.disk.full = not self.disk.full
        elif choice < 0.80:
            self.stop()
            self.start()
        elif choice < 0.82:
            self.kill()
        elif choice < 0.88:
            self.tick()
        elif choice < 0.89:
            self.take_snapshot()
        else:
            self.turn()

    def run(self, steps: int) -> None:
        """That many steps. A failed write or sync ends a life, and the next one begins, as after a kill."""
        for _ in range(steps):
            try:
                self.random_step()
            except StoreFailed as error:
                self.fail(error)
                self.kill()
        try:
            self.settle_down()
        except StoreFailed as error:
            self.fail(error)
            self.kill()
        self._count_copied()

    def rescan(self) -> None:
        """The counters and the index of the running store, against the other reader; the snapshots as they were."""
        try:
            self.settle_down()
        except StoreFailed as error:
            self.fail(error)
            self.kill()
            self.settle_down()
        found = read_store(files_of(self.disk))
        state = self.model.states[-1]
        compare(self.store, found._replace(queues=_as_running(self.store, found.queues)))
        bodies = {name: set(messages) for name, messages in state.items()}
        if {name: set(messages) for name, messages in found.bodies().items()} != bodies:
            raise Violation(f"a rescan finds {found.bodies()}, the model says {bodies}")
        for directory, then in self.snapshots.items():
            if self.restored(directory) != then:
                raise Violation(f"{directory} has changed since it was taken")


def _as_running(store: FileStore, queues: dict[int, Any]) -> dict[int, Any]:
    """A rescan skips a hole of ids that a running store does not skip."""
    for number, queue in queues.items():
        ours = store._ledger.queues.get(number)
        if ours is not None:
            queue.floor = min(queue.floor, ours.index.next)
    return queues


def seen_until(life: World, count: int) -> dict[tuple[int, int], bytes]:
    """The messages that had been delivered when `count` were."""
    return dict(islice(life.seen.items(), count))


def history(seed: int, fsync: str | None = None, steps: int = 60, **faults: object) -> History:
    """The history of that number, with a moment at every operation of its disk. `faults` are the disk's."""
    rng = Random(seed)
    disk = SimDisk()
    disk.make_parents("/data")
    policy = rng.choice(POLICIES)
    late = rng.random() < 0.5
    if rng.random() < 0.3:
        disk.short_writes = Random(seed)
    fault = rng.choice(("", "", "", "failed sync, content kept", "failed sync, content dropped", "failed write"))
    if fault == "failed write":
        disk.fail_write_at = rng.randint(3, 60)
    elif fault:
        disk.fail_sync_at = rng.randint(3, 40)
        disk.drop_on_failed_sync = fault.endswith("dropped")
    for name, value in faults.items():
        setattr(disk, name, value)
    life = History(disk, rng, Model({}), fsync=fsync or policy, late=late)
    life.run(steps)
    return life
