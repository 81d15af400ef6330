"""Damaged messages: how they leave their queues, and what is kept of them for the operator.

    found damaged ▸ reported ▸ (a job) a note in quarantine/NNNNNNNN.keep, durable ▸ settled, reason `damaged`
    nothing else lives in its segment ▸ `reclaim.remove` moves that to quarantine/NNNNNNNN.seg instead of unlinking it

The note comes first: whatever is lost in a crash, a segment with a damaged message in it is never unlinked. It must
never let a damaged message out, nor write before the store writes by itself (a recovery changes nothing).
Called by: `engine` (what a delivery found), `reclaim` (what a copy found), `scrub` (what it found in the log), `log`
(when the notes are written).

A note is UTF-8 text, a line for each message: queue number, id, offset in the segment, queue name and reason, separated
by tabs; the line about damage that is no message's has - for number, id and name. It stays when the segment has come to
quarantine/.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from radiator.store.file.copying import NO_LINKS
from radiator.store.file.format import Names, replace_file
from radiator.store.file.fsio import Fsio
from radiator.store.file.ledger import FileQueue, Ledger
from radiator.store.file.recovery import Report
from radiator.store.file.segment import where

__all__ = ["Quarantine", "note_path"]

T = TypeVar("T")

_NOTE_NAME = re.compile(r"([0-9]{8,10})\.keep")
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


def note_path(names: Names, number: int) -> str:
    """Where the note about segment `number` is, if there is one."""
    return os.path.join(names.quarantine, f"{number:08d}.keep")


class Outcome(NamedTuple):
    """What became of a job: whose messages it was about, and the segments whose notes could not be written."""

    settled: list[tuple[FileQueue, int]]
    unwritten: set[int]


class Quarantine:
    """The damaged messages of one store. `settle(queue, id)` is called for each when its note is durable.

    `wanted` is true while there are notes to write: then `job` gives the function that does it away from the loop, and
    `written` takes its outcome. After a full disk it is false until `retry`.
    """

    __slots__ = (
        "_aside",
        "_fsio",
        "_full",
        "_ledger",
        "_lines",
        "_names",
        "_report",
        "_settle",
        "_unwritten",
        "_waiting",
    )

    def __init__(
        self, fsio: Fsio, names: Names, ledger: Ledger, report: Report, settle: Callable[[FileQueue, int], None]
    ) -> None:
        self._fsio = fsio
        self._names = names
        self._ledger = ledger
        self._report = report
        self._settle = settle
        self._aside: set[tuple[int, int]] = set()
        self._lines: dict[int, list[str]] = {}
        self._unwritten: set[int] = set()
        self._waiting: list[tuple[FileQueue, int]] = []
        self._full = False

    def load(self) -> None:
        """At a start: which segments were noted before, and what the recovery found. Writes nothing; OSError."""
        try:
            found = self._fsio.list_directory(self._names.quarantine)
        except FileNotFoundError:
            found = []
        for name in found:
            match = _NOTE_NAME.fullmatch(name)
            segment = None if match is None else self._ledger.segments.get(int(match[1]))
            if segment is not None:
                segment.damaged = True
                path = os.path.join(self._names.quarantine, name)
                fd = self._fsio.open(path)
                try:
                    text = bytes(self._fsio.read(fd, 0, self._fsio.size(fd))).decode(errors="replace")
                finally:
                    self._fsio.close(fd)
                # By LF only: a name may hold what else ends a line for `splitlines`.
                self._lines[segment.number] = [line for line in text.split("\n") if line]
        for queue, id, address in self._ledger.spoilt:
            self._note(queue, id, address, "found at the start")
        self._ledger.spoilt.clear()

    def aside(self, queue: FileQueue, id: int, address: int, why: str) -> None:
        """The live message `id` is damaged: it stays in its queue, never delivered, until its note is durable."""
        if (queue.number, id) in self._aside:
            return
        self._aside.add((queue.number, id))
        number = address >> 32
        self._ledger.segments[number].damaged = True
        self._report(
            "message is damaged and was set aside",
            queue=queue.name,
            id=id,
            place=where(address),
            path=self._names.segment(number),
            reason=why,
        )
        self._note(queue, id, address, why)
        self._waiting.append((queue, id))

    def keep(self, number: int, offset: int, why: str) -> None:
        """Segment `number` is damaged at `offset`, in no message: it is never unlinked, whatever lives in it or not."""
        self._ledger.segments[number].damaged = True
        self._write_down(number, f"-\t-\t{offset}\t-\t{why}")

    def _note(self, queue: FileQueue, id: int, address: int, why: str) -> None:
        self._write_down(address >> 32, f"{queue.number}\t{id}\t{address & 0xFFFFFFFF}\t{queue.name}\t{why}")

    def _write_down(self, number: int, line: str) -> None:
        line = line.replace("\n", " ")
        lines = self._lines.setdefault(number, [])
        if line not in lines:
            lines.append(line)
            self._unwritten.add(number)

    @property
    def wanted(self) -> bool:
        """There are notes to write."""
        return bool(self._unwritten or self._waiting) and not self._full

    def noted(self, number: int) -> bool:
        """Whatever is to be kept of segment `number` is written down."""
        return number not in self._unwritten

    def retry(self) -> None:
        """Try again what a full disk prevented."""
        self._full = False

    def job(self) -> Callable[[], Outcome]:
        """The function that writes the notes, for a thread; its outcome belongs to `written`. OSError: final."""
        fsio, names = self._fsio, self._names
        notes = {number: "".join(f"{line}\n" for line in self._lines[number]) for number in sorted(self._unwritten)}
        settled, self._waiting = self._waiting, []
        self._unwritten = set()

        def write() -> Outcome:
            try:
                _write(fsio, names, notes)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                return Outcome(settled, set(notes))
            return Outcome(settled, set())

        return write

    def written(self, outcome: Outcome) -> None:
        """The notes are durable: only now may the messages be dead. On a full disk they wait."""
        if outcome.unwritten:
            self._full = True
            self._unwritten |= outcome.unwritten
            self._waiting = outcome.settled + self._waiting
            return
        for queue, id in outcome.settled:
            if not queue.dropped:
                self._settle(queue, id)

    def first(self, function: Callable[[], T]) -> Callable[[], T]:
        """`function`, after the notes about what the recovery found: the next opening batch calls those dead.

        A full disk must not keep `function` from happening. The segments stay then until the notes can be written, and
        each has a name in quarantine/ already, which takes no inode: a crash before the note unlinks no evidence.
        """
        if not self._unwritten:
            return function
        notes = {number: "".join(f"{line}\n" for line in self._lines[number]) for number in sorted(self._unwritten)}
        fsio, names = self._fsio, self._names

        def both() -> T:
            # They still count as unwritten, whatever becomes of this: `job` writes them once more, as they are by then.
            try:
                _write(fsio, names, notes)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                _hold(fsio, names, notes)
            return function()

        return both


def _write(fsio: Fsio, names: Names, notes: dict[int, str]) -> None:
    fsio.make_directory(names.quarantine)
    for number, text in notes.items():
        replace_file(fsio, note_path(names, number), text.encode())


def _hold(fsio: Fsio, names: Names, numbers: Iterable[int]) -> None:
    """Give segments their names in quarantine/ before their time, as far as the disk has room for names."""
    try:
        for number in numbers:
            source = names.segment(number)
            with contextlib.suppress(FileExistsError):
                fsio.link(source, os.path.join(names.quarantine, os.path.basename(source)))
        fsio.sync_directory(names.quarantine)
    except OSError as error:
        # Nothing more can be done; the segment stays in the log as long as this run lasts.
        if error.errno not in _FULL | NO_LINKS and not isinstance(error, FileNotFoundError):
            raise
