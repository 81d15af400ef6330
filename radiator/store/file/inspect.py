"""What an operator can ask of a store: is it whole, what is in it, what takes the space. All of it only reads.

It must never write, nor trust a look that a running daemon changed under it: what seems damaged is looked at again.
Called by: the commands `store check`, `store dump` and `store stats`; `would_start` also by `repair` and `snapshot`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

from radiator.errors import CorruptRecord, StoreDamaged
from radiator.message import Message
from radiator.store.base import Progress, Reason
from radiator.store.file.agreement import hold_index
from radiator.store.file.damage import is_damage
from radiator.store.file.format import Names
from radiator.store.file.fsio import Fsio
from radiator.store.file.record import (
    COUNTS,
    DEFINE,
    DROP,
    NEXT_QUEUE,
    PUT,
    SEGMENT,
    SETTLED,
    STATE,
    decode_message,
)
from radiator.store.file.recovery import recover
from radiator.store.file.salvage import Batch
from radiator.store.file.segment import OPENING_OFFSET, where
from radiator.store.file.survey import look, steady
from radiator.store.file.views import NEEDED, Finding, QueueView, SegmentView, Survey, no_progress

__all__ = ["Checked", "Entry", "check", "entries", "records", "stats", "would_start"]


class Checked(NamedTuple):
    """The outcome of a check. `refusal` is why a start would be refused, None where it would not.

    `damage` are the findings that count as damage; the survey has all of them. Whoever asked closes the survey.
    """

    survey: Survey
    damage: list[Finding]
    refusal: str | None


class _ReadOnly:
    """File operations that cannot change anything: syncs do nothing, everything is opened for reading."""

    def __init__(self, fsio: Fsio) -> None:
        self._fsio = fsio
        self.list_directory = fsio.list_directory
        self.close = fsio.close
        self.size = fsio.size
        self.read = fsio.read
        self.read_nowait = fsio.read_nowait

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        """Open for reading, whatever was asked."""
        return self._fsio.open(path)

    def sync(self, fd: int) -> None:
        """Nothing was written."""

    sync_data = sync
    drop_cache = sync

    def sync_directory(self, path: str) -> None:
        """Nothing was renamed."""


def would_start(fsio: Fsio, names: Names, store_id: bytes, progress: Progress = no_progress) -> str | None:
    """Why a start would refuse this store; None where it would not. By the recovery itself, which only reads here.

    OSError where the system does not let it be read.
    """

    def report(event: str, **fields: Any) -> None:
        """The survey tells it better."""

    reading = cast("Fsio", _ReadOnly(fsio))
    try:
        numbers = names.segments(fsio)
        recovered = recover(reading, names, store_id, numbers, report, progress)
    except StoreDamaged as error:
        return str(error)
    except OSError as error:
        if not is_damage(error):
            raise
        return f"{error.filename or names.log}: {error.strerror or error}"
    for segment in recovered.ledger.segments.values():
        fsio.close(segment.fd)
    return None


def check(fsio: Fsio, names: Names, *, deep: bool = False, progress: Progress = no_progress) -> Checked:
    """Hold the store against every rule. StoreFailed where there is none, OSError where it cannot be read for now.

    A daemon may be writing: so what is found counts only where it is `steady`.
    """
    refusal: str | None = None

    def checked() -> Survey:
        nonlocal refusal
        refusal = None
        found = look(fsio, names, deep=deep, progress=progress)
        try:
            damage = [finding for finding in found.findings if finding.damage]
            if found.format is not None:
                refusal = would_start(fsio, names, found.store_id, progress)
            elif damage:
                refusal = f"{damage[0].path}: {damage[0].what}"
            if refusal is not None and not damage:
                found.find("start", names.log, refusal)
            for finding in damage:
                if refusal is None and finding.kind in NEEDED:
                    refusal = f"{finding.path}: {finding.what}"
            hold_index(found)
        except BaseException:
            found.close()
            raise
        return found

    found = steady(names, checked)
    return Checked(found, [finding for finding in found.findings if finding.damage], refusal)


# ---------------------------------------------------------------------- the messages


class Entry(NamedTuple):
    """One message of one queue. `message` is None where it cannot be read; `error` then says why."""

    queue: QueueView
    id: int
    address: int
    deliveries: int
    settled: bool
    message: Message | None
    error: str


def entries(found: Survey, *, queue: str | None = None, settled: bool = False) -> Iterator[Entry]:
    """Every message by queue and id; then, with `settled`, those that are gone and still in the log, as they stand."""
    wanted = [view for _, view in sorted(found.queues.items()) if queue is None or view.name == queue]
    for view in wanted:
        for id, address, length in view.places():
            place = view.index.get(id)
            yield _entry(found, view, id, address, length, place[3] if place is not None else 0, False)
    if not settled:
        return
    for segment, batch in _batches(found):
        if segment.role == "unlisted":
            continue
        for event in batch.events:
            if event[0] != PUT:
                continue
            _, number, id, address, length, deliveries, _, _ = event
            owner = found.queues.get(number)
            if owner is None:
                owner = QueueView(number, "")
                if queue is not None:
                    continue
            elif owner not in wanted:
                continue
            place = owner.index.get(id)
            if place is None:
                yield _entry(found, owner, id, address, length, deliveries, True)


def _entry(
    found: Survey, queue: QueueView, id: int, address: int, length: int, deliveries: int, settled: bool
) -> Entry:
    try:
        message, _ = decode_message(found.message(address, length))
    except CorruptRecord as error:
        return Entry(queue, id, address, deliveries, settled, None, f"{where(address)}: {error}")
    return Entry(queue, id, address, deliveries, settled, message, "")


def _batches(found: Survey) -> Iterator[tuple[SegmentView, Batch]]:
    """Every batch of every segment, opening batches too, in the order of the log."""
    for _, segment in sorted(found.segments.items()):
        offset = OPENING_OFFSET
        while offset < segment.end:
            try:
                batch = segment.file.batch(offset, payloads=False)
            except CorruptRecord:
                batch = segment.file.salvage(offset, segment.end)
            yield segment, batch
            offset = batch.offset + batch.length


def records(found: Survey) -> Iterator[dict[str, Any]]:
    """Everything that the log says, in its order, as plain values."""
    for segment, batch in _batches(found):
        head = {"segment": segment.number, "batch": batch.offset}
        if not batch.whole:
            yield {**head, "type": "damaged-batch", "bytes": batch.length}
        for event in batch.events:
            yield {**head, **_RECORDS[event[0]](event)}


def _put(event: tuple[Any, ...]) -> dict[str, Any]:
    _, queue, id, address, length, deliveries, expires_ms, not_before_ms = event
    record = {"type": "message", "queue": queue, "id": id, "offset": address & 0xFFFFFFFF, "bytes": length}
    extra = {"deliveries": deliveries, "expires_ms": expires_ms, "not_before_ms": not_before_ms}
    return record | {name: value for name, value in extra.items() if value}


def _settled(event: tuple[Any, ...]) -> dict[str, Any]:
    _, queue, reason, first, last = event
    known = reason in Reason.__members__.values()
    word = Reason(reason).name.lower() if known else reason
    return {"type": "settled", "queue": queue, "reason": word, "first": first, "last": last}


_RECORDS: dict[int, Callable[[tuple[Any, ...]], dict[str, Any]]] = {
    PUT: _put,
    SETTLED: _settled,
    DEFINE: lambda event: {"type": "queue", "queue": event[1], "name": event[2]},
    DROP: lambda event: {"type": "drop", "queue": event[1]},
    NEXT_QUEUE: lambda event: {"type": "next-queue", "queue": event[1]},
    STATE: lambda event: {
        "type": "state",
        "queue": event[1],
        "name": event[2],
        "next": event[3],
        "floor": event[4],
        "dead": event[5],
    },
    COUNTS: lambda event: {"type": "counts", "queue": event[1], "deliveries": event[2]},
    SEGMENT: lambda event: {"type": "segment", "number": event[1], "end": event[2]},
}


# ---------------------------------------------------------------------- the space


def stats(found: Survey) -> dict[str, Any]:
    """Where the bytes are: by segment, by queue, in all. Times are milliseconds since the epoch, None for unknown."""
    oldest: dict[int, tuple[int, int, QueueView, int]] = {}
    queues = []
    for _, queue in sorted(found.queues.items()):
        total = 0
        first: int | None = None
        for id, address, length in queue.places():
            total += length
            if first is None:
                first = _arrival(found, address, length)
            number = address >> 32
            held = oldest.get(number)
            if held is None or address < held[0]:
                oldest[number] = (address, length, queue, id)
        queues.append(
            {
                "queue": queue.name,
                "number": queue.number,
                "messages": queue.index.live,
                "bytes": total,
                "oldest_ms": first,
                "next_id": queue.index.next,
            }
        )
    segments = []
    for number, segment in sorted(found.segments.items()):
        row: dict[str, Any] = {
            "segment": number,
            "role": segment.role,
            "bytes": segment.file.size,
            "end": segment.end,
            "live_messages": segment.live,
            "live_bytes": segment.live_bytes,
            "pinned_by": None,
        }
        if number in oldest:
            address, length, queue, id = oldest[number]
            arrival = _arrival(found, address, length)
            row["pinned_by"] = {"queue": queue.name, "number": queue.number, "id": id, "arrival_ms": arrival}
        segments.append(row)
    log_bytes = sum(segment.file.size for segment in found.segments.values())
    live_bytes = sum(segment.live_bytes for segment in found.segments.values())
    return {
        "directory": found.names.directory,
        "store": found.store_id.hex(),
        "segments": segments,
        "queues": queues,
        "totals": {
            "messages": found.messages,
            "segments": len(segments),
            "log_bytes": log_bytes,
            "live_bytes": live_bytes,
            "dead_bytes": log_bytes - live_bytes,
        },
    }


def _arrival(found: Survey, address: int, length: int) -> int | None:
    """When the message at `address` came; None where it cannot be read."""
    try:
        return decode_message(found.message(address, length))[0].arrival_ms
    except CorruptRecord:
        return None
