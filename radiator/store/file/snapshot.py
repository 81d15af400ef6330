"""A copy of a store that is consistent, taken while a daemon writes it; and a store made of such a copy.

It must never write into the store it copies, nor call anything complete before it was read back and synced.
Called by: the commands `store snapshot` and `store restore`.

    both      begin with a locked marker and end with its removal: what is beside one may be made again
              what is linked is synced: it may have been copied here a moment ago
    snapshot  the watermark's segment or a newer one is there ▸ the newest segment's opening batch ▸ the older ones it
              lists are linked ▸ the newest is copied up to the last batch that verifies ▸ still the newest? else again
              ▸ watermark ▸ recovery reads it ▸ FORMAT ▸ manifest
    restore   manifest ▸ older segments linked or copied, the newest copied ▸ watermark ▸ recovery reads it ▸ spares
              ▸ every message is verified ▸ FORMAT, last

Why this is consistent: a log is one sequence of batches, and what is copied is a prefix of it. Whatever had a receipt
when the snapshot began had been written before, under every policy, so it is in that prefix. An older segment that is
listed and gone was unlinked after the settlements that emptied it were synced: they stand before the end of the copy.

Where recovery refuses, nothing is made. Damage that lets a broker start is named, and copied as it is.

The manifest is ASCII, one `name value` a line; the last line is the CRC-32 of all before it:

    radiator-snapshot 1
    store 000102030405060708090a0b0c0d0e0f
    taken 1767225600000                     milliseconds since the epoch
    end 30064775168                         address where the log ends
    segment 6 67108864                      number and end, for each segment
    crc32 89abcdef
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from zlib import crc32

from radiator.errors import CorruptRecord, StoreDamaged, StoreFailed, StoreLocked
from radiator.store.base import Progress
from radiator.store.file.copying import copy_file, copy_open, link_or_copy
from radiator.store.file.format import (
    MARKER,
    DirectoryLock,
    Format,
    Names,
    check_finished,
    encode_format,
    read_format,
    replace_file,
)
from radiator.store.file.fsio import Fsio, naming
from radiator.store.file.inspect import would_start
from radiator.store.file.record import OPENING, SEGMENT
from radiator.store.file.salvage import SegmentFile
from radiator.store.file.segment import OPENING_OFFSET, SEGMENT_BYTES, address_of
from radiator.store.file.spares import make_spares
from radiator.store.file.survey import look, require_store
from radiator.store.file.views import Finding, no_progress
from radiator.store.file.watermark import Watermark, read_watermark, write_watermark

__all__ = ["Manifest", "read_manifest", "restore", "snapshot"]

_TRIES = 50
_SAME_TRIES = 3
_MANIFEST = re.compile(
    rb"radiator-snapshot ([0-9]{1,9})\nstore ([0-9a-f]{32})\ntaken ([0-9]{1,20})\nend ([0-9]{1,20})\n"
    rb"((?:segment [0-9]{1,10} [0-9]{1,10}\n)+)crc32 ([0-9a-f]{8})\n"
)
_VERSION = 1


class Manifest(NamedTuple):
    """What a snapshot holds: `segments` are (number, end), ascending.

    Of what was just made, `linked` says how many of them are links, and `damage` what in it cannot be read: a broker
    starts on it all the same, and sets such messages aside.
    """

    store_id: bytes
    taken_ms: int
    end: int
    segments: tuple[tuple[int, int], ...]
    linked: int = 0
    damage: tuple[Finding, ...] = ()


class _Again(Exception):
    """The daemon changed what was being copied."""


def _manifest_path(directory: str) -> str:
    return os.path.join(directory, "manifest")


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of the manifest."""
    lines = [
        f"radiator-snapshot {_VERSION}",
        f"store {manifest.store_id.hex()}",
        f"taken {manifest.taken_ms}",
        f"end {manifest.end}",
        *(f"segment {number} {end}" for number, end in manifest.segments),
    ]
    text = "".join(f"{line}\n" for line in lines).encode()
    return text + b"crc32 %08x\n" % crc32(text)


def read_manifest(fsio: Fsio, directory: str) -> Manifest:
    """What a snapshot says it holds. StoreDamaged where it is not complete."""
    path = _manifest_path(directory)
    try:
        fd = fsio.open(path)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreDamaged(f"{path} is missing: this is no snapshot, or one that did not come to its end") from None
    try:
        with naming(path):
            data = bytes(fsio.read(fd, 0, fsio.size(fd)))
    finally:
        fsio.close(fd)
    match = _MANIFEST.fullmatch(data)
    if match is None or int(match[6], 16) != crc32(data[: match.start(6) - len(b"crc32 ")]):
        raise StoreDamaged(f"{path} is damaged: take another snapshot")
    if int(match[1]) != _VERSION:
        raise StoreDamaged(f"{path} has version {int(match[1])}: this radiator reads {_VERSION}; use a newer one")
    pairs = (line.split()[1:] for line in match[5].splitlines())
    segments = tuple((int(number), int(end)) for number, end in pairs)
    return Manifest(bytes.fromhex(match[2].decode()), int(match[3]), int(match[4]), segments)


# ---------------------------------------------------------------------- snapshot


def snapshot(fsio: Fsio, names: Names, directory: str, *, wall_ms: int, progress: Progress = no_progress) -> Manifest:
    """Copy the store into `directory`, which must be absent or empty. A daemon may hold the store, or none.

    Verified is what a start reads: all but the payloads of older segments. `damage` has those of the newest one.

    StoreDamaged where the store is not whole, StoreFailed where there is none or `directory` is not empty; OSError as
    the kernel gave it.
    """
    form = _format(fsio, names)
    _segments(fsio, names, form)
    target = Names(directory)
    _check_outside(directory, names.directory, "the store")
    with _making(fsio, target, "manifest"):
        taken = _Snapshot(fsio, names, target, form, wall_ms, progress)
        manifest = _take(taken)
        _finish(fsio, target, form, manifest, progress)
        if taken.damaged:
            manifest = manifest._replace(damage=_damage(fsio, names, target, progress))
        replace_file(fsio, target.format, encode_format(form))
        replace_file(fsio, _manifest_path(directory), encode_manifest(manifest))
    return manifest


def _take(taken: _Snapshot) -> Manifest:
    """The copies, as soon as nothing changes while they are made."""
    reasons: list[str] = []
    while True:
        try:
            return taken.copy()
        except _Again as error:
            reasons.append(str(error))
        # A daemon that writes gives another reason each time; damage gives the same.
        if len(reasons) == _TRIES or reasons.count(reasons[-1]) == _SAME_TRIES:
            raise StoreDamaged(f"{taken.names.log} could not be copied: {reasons[-1]}; see `radiator store check`")


def _format(fsio: Fsio, names: Names) -> Format:
    try:
        form = read_format(fsio, names)
    except NotADirectoryError:
        form = None  # said below
    if form is None:
        require_store(fsio, names)
        check_finished(fsio, names)
        raise StoreDamaged(f"{names.format} is missing, a broken store gives no snapshot; see `radiator store check`")
    return form


def _segments(fsio: Fsio, names: Names, form: Format) -> list[int]:
    """The numbers of the store's segments, ascending. StoreDamaged where the newest is gone: the rest may look whole.

    The watermark comes first. The segment that it names was there, so that one or a newer one is still.
    """
    mark = read_watermark(fsio, names.watermark, form.store_id)
    synced = mark.address if mark is not None else 0
    try:
        numbers = names.segments(fsio)
        if numbers and numbers[-1] < synced >> 32:
            numbers = names.segments(fsio)  # one look may miss a name that goes and the one that came meanwhile
    except (FileNotFoundError, NotADirectoryError):
        numbers = []
    if not numbers:
        raise StoreDamaged(f"{names.log} holds no segment, and every store has one; see `radiator store check`")
    if numbers[-1] < synced >> 32:
        raise StoreDamaged(
            f"{names.segment(synced >> 32)} is missing: the watermark says that it was synced up to offset "
            f"{synced & 0xFFFFFFFF}; a broken store gives no snapshot, see `radiator store check`"
        )
    return numbers


def _check_outside(directory: str, origin: str, what: str) -> None:
    """StoreFailed where `directory` is in `origin`, into which nothing must be written."""
    inner, outer = os.path.realpath(directory), os.path.realpath(origin)
    if inner.startswith(os.path.join(outer, "")):
        raise StoreFailed(f"{directory} is inside {what} {origin}: name a directory outside of it")


@contextmanager
def _making(fsio: Fsio, target: Names, last: str) -> Iterator[None]:
    """Make the directories of a store in a place that must hold nothing; `last` is the file that will complete it.

    Until then a marker is there, locked: what lies beside it was left by one that was cut short, and is made again.
    """
    try:
        entries = fsio.list_directory(target.directory)
    except FileNotFoundError:
        entries = []
    except NotADirectoryError:
        raise StoreFailed(f"{target.directory} is a file: name a directory that is empty or absent") from None
    if entries and (MARKER not in entries or last in entries):
        raise StoreFailed(f"{target.directory} is not empty ({entries[0]}): name a directory that is empty or absent")
    fsio.make_directory(target.directory)
    marker = os.path.join(target.directory, MARKER)
    try:
        lock = fsio.lock(marker)
    except BlockingIOError:
        raise StoreLocked(f"another radiator makes {target.directory} at this moment: {marker} is locked") from None
    held: DirectoryLock | None = None
    try:
        if last == "FORMAT":
            held = DirectoryLock(fsio, target)  # a daemon that found nothing here must not begin a store now
        entries = fsio.list_directory(target.directory)
        if last in entries:  # another one came to its end since the first look
            if MARKER in entries:
                fsio.unlink(marker)
            raise StoreFailed(f"{target.directory} is not empty ({last}): name a directory that is empty or absent")
        if "FORMAT" in entries:
            fsio.unlink(target.format)  # of a snapshot that lacks its manifest: it must not vouch for what comes now
        fsio.sync_directory(target.directory)
        for path in (target.log, target.quarantine):
            fsio.make_directory(path)
        for name in fsio.list_directory(target.log):
            fsio.unlink(os.path.join(target.log, name))
        yield
        fsio.unlink(marker)
        fsio.sync_directory(target.directory)
        fsio.sync_directory(os.path.dirname(os.path.abspath(target.directory)))
    finally:
        if held is not None:
            held.release()
        fsio.close(lock)


def _finish(fsio: Fsio, target: Names, form: Format, manifest: Manifest, progress: Progress) -> None:
    """The watermark, the names on the disk, and the proof: a recovery that only reads."""
    # Not a clean stop: whoever starts on this uses no id that the original may have given away since.
    write_watermark(fsio, target.watermark, form.store_id, Watermark(1, manifest.end, clean=False), sync=True)
    fsio.sync_directory(target.log)
    fsio.sync_directory(target.directory)
    refusal = would_start(fsio, target, form.store_id, progress)
    if refusal is not None:
        raise StoreDamaged(f"the copy in {target.directory} does not verify, and is not complete: {refusal}")


def _damage(fsio: Fsio, origin: Names, target: Names, progress: Progress, *, deep: bool = False) -> tuple[Finding, ...]:
    """What is damaged in a copy that passed `_finish`; `deep` verifies the payloads of older segments too."""
    names = Names(target.directory)
    names.format = origin.format  # its own comes last
    found = look(fsio, names, deep=deep, aside=False, progress=progress)
    found.close()
    return tuple(finding for finding in found.findings if finding.damage)


def _have(fsio: Fsio, source: str, target: str, progress: Callable[[int], None]) -> bool:
    """Link a segment, or copy it, so that it is durable but for its name; was it linked?"""
    linked = link_or_copy(fsio, source, target, progress)
    if linked:
        fd = fsio.open(target)
        try:
            with naming(target):
                fsio.sync(fd)
        finally:
            fsio.close(fd)
    return linked


class _Snapshot:
    """The copying of one store, over as many tries as it takes."""

    def __init__(self, fsio: Fsio, names: Names, target: Names, form: Format, wall_ms: int, progress: Progress) -> None:
        self.fsio = fsio
        self.names = names
        self.target = target
        self.form = form
        self.wall_ms = wall_ms
        self.progress = progress
        self.have: dict[int, bool] = {}  # older segments that are there already: by link?
        self.damaged = False  # the newest segment has messages with a damaged payload, dead ones maybe

    def copy(self) -> Manifest:
        """One try."""
        names, fsio = self.names, self.fsio
        numbers = _segments(fsio, names, self.form)
        newest = numbers[-1]
        try:
            file = SegmentFile(fsio, names.segment(newest), newest, self.form.store_id)
        except FileNotFoundError:
            raise _Again(f"segment {newest} went") from None
        try:
            stated = self._opening(file)
            self._older(stated, set(numbers))
            end = self._newest(file)
        finally:
            file.close()
        if names.segments(fsio)[-1] != newest:
            fsio.unlink(self.target.segment(newest))
            raise _Again(f"segment {newest} was followed by another one while it was copied")
        segments = sorted((number, stated[number]) for number in self.have)
        linked = sum(self.have.values())
        address = address_of(newest, end)
        return Manifest(self.form.store_id, self.wall_ms, address, (*segments, (newest, end)), linked)

    def _opening(self, file: SegmentFile) -> dict[int, int]:
        """The older segments that the newest lists, with their ends."""
        try:
            batch = file.batch(OPENING_OFFSET, payloads=True)
        except CorruptRecord as error:
            raise _Again(f"{file.path} has no whole opening batch: {error}") from error
        if not batch.flags & OPENING:
            raise _Again(f"{file.path} has no opening batch")
        return {event[1]: event[2] for event in batch.events if event[0] == SEGMENT}

    def _older(self, stated: dict[int, int], present: set[int]) -> None:
        """Have the listed segments that are there, and no others."""
        fsio, names, target = self.fsio, self.names, self.target
        for number in [number for number in self.have if number not in stated]:
            fsio.unlink(target.segment(number))
            del self.have[number]
        wanted = [number for number in sorted(stated) if number in present and number not in self.have]
        total = sum(stated[number] for number in wanted)
        done = 0

        def piece(count: int) -> None:
            nonlocal done
            done += count
            self.progress("copying segments", min(done, total), total)

        for number in wanted:
            try:
                linked = _have(fsio, names.segment(number), target.segment(number), piece)
            except FileNotFoundError:
                continue  # nothing in it was alive any more
            if not linked and number not in names.segments(fsio):
                # Its blocks may have been used for something else while they were copied: that takes the name first.
                fsio.unlink(target.segment(number))
                continue
            self.have[number] = linked

    def _newest(self, file: SegmentFile) -> int:
        """Copy the newest segment up to the last batch that verifies; the offset behind it."""
        mark = read_watermark(self.fsio, self.names.watermark, self.form.store_id)
        durable = file.durable()
        if mark is not None and mark.address >> 32 == file.number:
            durable = max(durable, mark.address & 0xFFFFFFFF)
        file.forget()
        end = OPENING_OFFSET
        why = "the file ends there"
        while end < file.size:
            try:
                batch = file.batch(end, payloads=True)
            except CorruptRecord as error:
                why = str(error)
                break
            if batch.damaged and end + batch.length > durable:
                break  # it is being written at this moment
            self.damaged |= bool(batch.damaged)
            end += batch.length
        if end < durable:
            raise _Again(f"{file.path} is damaged at offset {end}: {why}")
        target = self.target.segment(file.number)
        done = 0

        def show(count: int) -> None:
            nonlocal done
            done += count
            self.progress("copying the newest segment", done, end)

        with naming(file.path):
            copied = copy_open(self.fsio, file.fd, target, end, show)  # its name may be gone by now
        if copied != end:
            raise _Again(f"{file.path} became shorter while it was copied")
        return end


# ---------------------------------------------------------------------- restore


def restore(
    fsio: Fsio, source: str, names: Names, *, segment_bytes: int = SEGMENT_BYTES, progress: Progress = no_progress
) -> Manifest:
    """Make a store at `names` of the snapshot in `source`; the directory must be absent or empty.

    It gets its spares, for segments of `segment_bytes`: a disk without room for them has none for ACKs either. Every
    message is verified, since a backup may have rotted where it lay: `damage` has those that cannot be read.

    StoreDamaged where the snapshot is not complete or no broker would start on what it holds, StoreFailed where the
    directory is not empty, StoreLocked where it is the one of a running daemon.
    """
    _check_snapshot(fsio, source)
    manifest = read_manifest(fsio, source)
    origin = Names(source)
    form = read_format(fsio, origin)
    if form is None or form.store_id != manifest.store_id:
        raise StoreDamaged(f"{origin.format} is not the one of this snapshot")
    for number, end in manifest.segments:
        path = origin.segment(number)
        try:
            fd = fsio.open(path)
        except FileNotFoundError:
            raise StoreDamaged(f"{path} is missing, and the manifest lists it") from None
        try:
            if fsio.size(fd) < end:
                raise StoreDamaged(f"{path} has {fsio.size(fd)} bytes, and the manifest says {end}")
        finally:
            fsio.close(fd)
    _check_outside(names.directory, source, "the snapshot")
    _check_unlocked(fsio, names)
    with _making(fsio, names, "FORMAT"):
        linked = _fill(fsio, origin, names, manifest, progress)
        _finish(fsio, names, form, manifest, progress)
        make_spares(fsio, names, segment_bytes)
        damage = _damage(fsio, origin, names, progress, deep=True)
        # The last step: a directory without it is no store.
        replace_file(fsio, names.format, encode_format(form))
    return manifest._replace(linked=linked, damage=damage)


def _check_snapshot(fsio: Fsio, source: str) -> None:
    try:
        fsio.list_directory(source)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is not there" if isinstance(error, FileNotFoundError) else "is no directory"
        raise StoreFailed(f"{source} {what}: name a directory that `radiator store snapshot` made") from None


def _check_unlocked(fsio: Fsio, names: Names) -> None:
    """StoreLocked where a daemon is at work; what is there already is for `_making`."""
    try:
        entries = fsio.list_directory(names.directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    if "lock" in entries:
        DirectoryLock(fsio, names).release()


def _fill(fsio: Fsio, origin: Names, names: Names, manifest: Manifest, progress: Progress) -> int:
    """Have the segments of the snapshot; how many are links."""
    total = sum(end for _, end in manifest.segments)
    done = linked = 0

    def piece(count: int) -> None:
        nonlocal done
        done += count
        progress("copying segments", min(done, total), total)

    newest, newest_end = manifest.segments[-1]
    for number, end in manifest.segments[:-1]:
        before = done
        linked += _have(fsio, origin.segment(number), names.segment(number), piece)
        done = before + end
    copy_file(fsio, origin.segment(newest), names.segment(newest), newest_end, piece)
    return linked
