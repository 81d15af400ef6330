"""A turn of the loop: what the sockets brought is handed to the disk, to consumers and back to the sockets, at once.

    sockets readable ─▶ Connection ─▶ session ─▶ broker ─▶ store      everything of this turn joins one batch
    end of the turn     store.flush, what was postponed, broker.dispatch, one non-blocking send per dirty connection
    disk done           store.completed ─▶ receipts and messages ─▶ end of that turn

It must never block, and never run twice before the sockets had their turn: what the end of a turn makes dirty waits
for the end of the next. Called by: `connection` (`arm`, `dirty`, `wait`), `listener`, the daemon, the loop.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from radiator.server.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable

    from radiator.broker.broker import Broker
    from radiator.server.connection import Connection
    from radiator.server.logs import Log
    from radiator.store.base import Store

__all__ = ["RECEIVE_BYTES", "Turn"]

RECEIVE_BYTES = 64 << 10
"""What a connection is read at most in one turn. The buffer is shared: an idle connection owns none."""


class Turn:
    """What all connections share. `fail` gets the error after which the daemon cannot go on; it must not raise.

    `clock` gives monotonic seconds. A connection appends itself to `dirty` when it has something to send. `blocked` are
    those whose sessions wait for room in the store, `postponed` those that wait for the next turn. `refused` are those
    of `connections` over the limit of some listener: they take their ERROR and go, and count against no limit. `armed`
    says that this turn has an end.
    """

    __slots__ = (
        "_again",
        "_loop",
        "_running",
        "_store_ticks",
        "_watchers",
        "armed",
        "blocked",
        "broker",
        "buffer",
        "clock",
        "connections",
        "dirty",
        "fail",
        "gone",
        "log",
        "loop",
        "postponed",
        "refused",
        "store",
        "timers",
        "view",
    )

    def __init__(
        self,
        loop: Any,
        store: Store,
        log: Log,
        fail: Callable[[BaseException], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.loop = loop
        self.store = store
        self.broker: Broker
        self.log = log
        self.fail = fail
        self.clock = clock
        self.gone: Callable[[], None] = _nobody
        self.timers = Timers(loop, clock)
        self.buffer = bytearray(RECEIVE_BYTES)
        self.view = memoryview(self.buffer).toreadonly()
        self.connections: dict[Connection, None] = {}
        self.refused: set[Connection] = set()
        self.dirty: list[Connection] = []
        self.blocked: list[Connection] = []
        self.postponed: list[Connection] = []
        self.armed = False
        self._running = False
        self._again = loop.timer(0.0)
        self._store_ticks = _StoreTicks(self)
        self._watchers: list[Any] = []

    def start(self, broker: Broker, descriptors: list[int]) -> None:
        """Watch the descriptors that say "something is completed"; -1 among them stands for none."""
        self.broker = broker
        for descriptor in descriptors:
            if descriptor >= 0:
                watcher = self.loop.io(descriptor, 1)
                watcher.start(self._completed)
                self._watchers.append(watcher)
        self.arm()

    def stop(self) -> None:
        """Stop every watcher: nothing of the store moves by itself any more."""
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()
        self._watchers.clear()
        self._again.stop()
        self.timers.close()

    def arm(self) -> None:
        """Let this turn have an end; harmless when it has one."""
        if self.armed:
            return
        self.armed = True
        if self._running:
            # run_callback would run before the next poll: a fast reader on the other side could keep us here for ever.
            self._again.start(self._end)
        else:
            self.loop.run_callback(self._end)

    def wait(self, connection: Connection, postponed: bool) -> None:
        """Resume `connection` in the next turn where it is `postponed`, else once the store has room."""
        (self.postponed if postponed else self.blocked).append(connection)

    def store_changed(self) -> None:
        """The store may want to be called earlier than it said."""
        self.timers.soon(self._store_ticks, self.clock())

    def _completed(self) -> None:
        """The sync worker or a helper thread has a result."""
        try:
            self.store.completed()
        except Exception as error:  # noqa: BLE001 (goes to the log and ends the daemon)
            self.fail(error)
            return
        self.store_changed()
        self.arm()

    def _end(self) -> None:
        self.armed = False
        self._running = True
        try:
            store = self.store
            store.flush()
            self.broker.begin_turn()
            if self.postponed:
                self._resume_postponed()
            if self.blocked and store.has_room():
                self._resume()
            self.broker.dispatch()
            if self.dirty:
                dirty, self.dirty = self.dirty, []
                for connection in dirty:
                    connection.flush()
            store.flush()  # what dispatch and the sends settled
            if self.postponed:
                self.arm()
        except Exception as error:  # noqa: BLE001 (goes to the log and ends the daemon)
            self.fail(error)
        finally:
            self._running = False

    def _resume(self) -> None:
        """Let blocked sessions parse what they hold, in the order in which they were blocked, while there is room."""
        waiting, self.blocked = self.blocked, []
        for place, connection in enumerate(waiting):
            if not self.store.has_room():
                self.blocked.extend(waiting[place:])
                return
            connection.resume()

    def _resume_postponed(self) -> None:
        """Let postponed sessions go on, in turns: one that spends this turn as well stands behind all others."""
        waiting, self.postponed = self.postponed, []
        for place, connection in enumerate(waiting):
            if self.broker.turn_is_spent:
                self.postponed[:0] = waiting[place:]
                return
            connection.resume()


class _StoreTicks:
    """The store among the timers."""

    __slots__ = ("_turn", "slot")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.slot = 0

    def tick(self, now: float) -> float | None:
        """Do what is due in the store."""
        turn = self._turn
        try:
            deadline = turn.store.tick(now)
        except Exception as error:  # noqa: BLE001 (goes to the log and ends the daemon)
            turn.fail(error)
            return None
        turn.arm()
        return deadline


def _nobody() -> None:
    """Called when a connection is gone, while nobody waits for that."""
