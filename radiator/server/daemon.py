"""The daemon: builds store, broker and listeners from a configuration, runs until a signal or a failure, and ends.

    bind ─▶ open the store (recovery) ─▶ broker ─▶ listen ─▶ run ──signal──▶ drain ─▶ close the store ─▶ 0
     69       65, 69, 74                   78        69        └─failure─▶ 74 (disk), 70 (a bug): nothing is closed

It must never acknowledge anything after a failure: such an end counts as a crash, and the next start recovers. A first
SIGTERM, SIGINT or SIGHUP drains; another SIGTERM or SIGINT, and any of them during the start, ends the process at once.
A SIGHUP that was ignored when the process began stays so. No signal is left to the system's default action where the
process is the first of a container: there the kernel drops it. Called by: `cli`.
"""

from __future__ import annotations

import gc
import os
import platform
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import gevent  # type: ignore[import-untyped]  # it ships no stubs
from gevent.hub import Waiter  # type: ignore[import-untyped]  # it ships no stubs

from radiator import __version__
from radiator._speedups import COMPILED, TWIN
from radiator.broker.broker import Broker
from radiator.config.schema import Config
from radiator.errors import RadiatorError
from radiator.server.connection import Connection
from radiator.server.listener import Listener
from radiator.server.logs import Log
from radiator.server.progress import StartProgress
from radiator.server.turn import Turn
from radiator.stomp.frame import escape
from radiator.stomp.session import Session
from radiator.store.file.descriptors import RESERVED_DESCRIPTORS, allow_descriptors, count_segments
from radiator.store.file.engine import FileStore
from radiator.store.file.format import Names
from radiator.store.file.fsio import RealFsio
from radiator.store.file.syncer import Jobs, SyncWorker, ThreadSyncer
from radiator.store.memory import MemoryStore

__all__ = ["connections_for", "serve"]

DRAIN_SECONDS = 6.0
"""For clients to take what they are owed after the first signal; the store's last sync has the rest of the 10 s."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HANGUP = signal.SIGHUP
"""Comes more than once where a terminal is closed, from the system and from the shell: a second one is no hurry."""
_FIRST_PROCESS = 1
_INTERNAL_ERROR = 70


def serve(config: Config, *, log_format: str = "text", log_level: str = "info") -> int:
    """Run a broker with `config` until it is told to stop; the process's exit code (docs/command-line.rst)."""
    log = Log(log_format, log_level)

    def interrupted(number: int, _: object) -> None:
        # Nothing was promised yet, and reading the log changes nothing: no need to close anything.
        log.warning("interrupted before the start was complete", signal=signal.Signals(number).name)
        log.close()
        os._exit(128 + number)

    signals = _SIGNALS if signal.getsignal(_HANGUP) is signal.SIG_IGN else (*_SIGNALS, _HANGUP)
    for each in signals:
        signal.signal(each, interrupted)
    try:
        return _Daemon(config, log, signals).run()
    except RadiatorError as error:
        log.error("cannot start", error=str(error))
        return error.exit_code
    finally:
        log.close()


class _Daemon:
    """One run."""

    def __init__(self, config: Config, log: Log, signals: Sequence[signal.Signals]) -> None:
        self._config = config
        self._log = log
        self._stop_signals = signals
        self._hub = gevent.get_hub()
        self._loop: Any = self._hub.loop
        self._waiter: Any = Waiter(self._hub)
        self._code: int | None = None
        self._failure: BaseException | None = None
        self._listeners: list[Listener] = []
        self._signals: dict[int, Any] = {}
        self._deadline: Any = None
        self._session_start = secrets.token_hex(4)
        self._sessions = 0
        self._server = f"radiator/{__version__}"

    def run(self) -> int:
        """From the first line to the exit code."""
        log = self._log
        log.info(
            f"radiator {__version__}",
            twin=TWIN,
            python=platform.python_version(),
            gevent=gevent.__version__,
            pid=os.getpid(),
        )
        if sys.platform != "linux":
            log.warning(f"{platform.system()} is for development: it is no place for data")
        limit = self._allow_descriptors()
        jobs = Jobs()
        syncer = _sync_worker()
        config = self._config
        self._store = store = FileStore(
            config.data_dir,
            fsync=config.fsync.mode,
            interval_ms=config.fsync.interval_ms,
            stop_free=config.disk.stop_free,
            syncer=syncer,
            jobs=jobs,
            report=log.report,
        )
        self._turn = turn = Turn(self._loop, store, log, self._fail)
        self._loop.error_handler = self
        for address in config.listen_stomp:
            self._listeners.append(Listener(turn, address, limit, self._session_for))
        store.open(time.monotonic(), _wall_ms(), StartProgress(log, time.monotonic))
        try:
            self._begin(syncer.fileno(), jobs.fileno())
        except RadiatorError:
            store.close()  # nothing failed on the disk: the next start shall find a clean stop
            raise
        turn.store_changed()
        code: int = self._waiter.get()
        return self._ended(code)

    def _begin(self, *descriptors: int) -> None:
        """Everything between an open store and the first connection."""
        log, turn = self._log, self._turn
        self._broker = broker = Broker(
            self._config, self._store, MemoryStore(), wall_ms=_wall_ms, escape=escape, report=log.warning
        )
        broker.wake = turn.arm
        turn.start(broker, list(descriptors))
        # What is there now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        for number in self._stop_signals:
            self._signals[number] = watcher = self._loop.signal(number)
            watcher.start(self._signalled, number)
        for listener in self._listeners:
            listener.listen()
        for listener in self._listeners:
            log.always(f"listening stomp {listener.address}")

    def handle_error(self, context: object, type: Any, value: BaseException | None, tb: Any) -> None:
        """What gevent's loop calls for an error that escaped a callback: none may be swallowed."""
        self._fail(value if isinstance(value, BaseException) else RuntimeError(f"{type} {value}"))

    def _ended(self, code: int) -> int:
        turn = self._turn
        for listener in self._listeners:
            listener.close()
        for connection in list(turn.connections):
            connection.close()
        turn.stop()
        if code == 0:
            try:
                self._store.close()
            except RadiatorError as error:
                self._log.error("the store could not be closed", error=str(error))
                return error.exit_code
            self._log.info("stopped")
        return code

    def _session_for(self, connection: Connection) -> Session:
        self._sessions += 1
        return Session(
            self._broker,
            self._config.limits,
            session_id=f"{self._session_start}-{self._sessions}",
            server=self._server,
            wake=connection.wake,
        )

    def _signalled(self, number: int) -> None:
        """The first signal: stop accepting and reading, send what is owed, then end."""
        if self._deadline is not None:
            return  # a hangup once more
        for each in _SIGNALS:
            watcher = self._signals.pop(each)
            watcher.stop()
            watcher.close()
            signal.signal(each, _exit_at_once if os.getpid() == _FIRST_PROCESS else signal.SIG_DFL)
        turn = self._turn
        self._log.info("stopping", signal=signal.Signals(number).name, connections=len(turn.connections))
        for listener in self._listeners:
            listener.close()
        turn.gone = self._drained
        for connection in list(turn.connections):
            connection.drain()
        self._deadline = self._loop.timer(DRAIN_SECONDS)
        self._deadline.start(self._overdue)
        turn.arm()
        self._drained()

    def _drained(self) -> None:
        if not self._turn.connections:
            self._end(0)

    def _overdue(self) -> None:
        self._log.warning("clients did not take what they are owed in time", connections=len(self._turn.connections))
        self._end(0)

    def _fail(self, error: BaseException) -> None:
        """The daemon cannot go on: say why, acknowledge nothing more."""
        if error is self._failure:
            return  # a failed store says the same to whoever asks it before the loop is left
        self._failure = error
        if isinstance(error, RadiatorError):
            self._log.error("cannot go on", error=str(error))
            self._end(error.exit_code)
        else:
            self._log.error(
                "internal error",
                error=f"{type(error).__name__}: {error}",
                traceback="".join(traceback.format_exception(error)),
            )
            self._end(_INTERNAL_ERROR)

    def _end(self, code: int) -> None:
        """Let `run` go on with `code`; the first failure wins over a clean end, and nothing over a failure."""
        if self._code is None:
            self._code = code
            # In a callback of its own: what calls us may still be in the middle of its work.
            self._loop.run_callback(self._switch)
        elif self._code == 0:
            self._code = code

    def _switch(self) -> None:
        self._waiter.switch(self._code)

    def _allow_descriptors(self) -> int:
        """See to it that files can be opened; how many connections there can be at most.

        A store that meets this limit is a store that failed: its files come first, and each segment is one.
        """
        wanted = self._config.limits.connections
        segments = count_segments(Names(self._config.data_dir))
        able = allow_descriptors(wanted + segments)
        limit = connections_for(able, wanted, segments)
        if limit < wanted:
            self._log.warning(
                "limits.connections is more than this process may open",
                connections=wanted,
                accepted=limit,
                open_files=able,
            )
        return limit


def _exit_at_once(number: int, _: object) -> None:
    """What the default action does where there is one."""
    os._exit(128 + number)


def connections_for(able: int, wanted: int, segments: int) -> int:
    """How many of the `wanted` connections a process with `able` descriptors accepts beside a store of `segments`.

    Where the reserve would leave few of them, half of what is left: a small machine has a small backlog too.
    """
    left = able - segments
    return max(1, min(wanted, max(left - RESERVED_DESCRIPTORS, left // 2)))


def _sync_worker() -> SyncWorker:
    if COMPILED:
        from radiator._speedups.syncer import NativeSyncer

        return NativeSyncer()
    return ThreadSyncer(RealFsio())


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
