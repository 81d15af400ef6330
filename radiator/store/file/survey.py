"""Reading a store that may be broken: everything that verifies, and a list of what does not.

It must never write, never stop at damage, and never call that damage of which the system gave no look (see `damage`):
OSError is raised then. Called by: `inspect`, `repair`, `snapshot`.

    look     FORMAT, watermark, the headers of all segments (here) ▸ what the log says (`replay`) ▸ what a start needs
             beside the log ▸ what was set aside
    survey   a look; where it finds damage, as many as two that find the same need

A daemon may write, rotate and reclaim while its store is read: then a look can meet a half-written batch, or a segment
that goes. The watermark is read before the segments are listed: whatever it names was there by then.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator

from radiator.errors import CorruptRecord, StoreDamaged, StoreFailed
from radiator.store.base import Progress
from radiator.store.file.cache import index_owner
from radiator.store.file.copying import ASIDE
from radiator.store.file.damage import is_damage
from radiator.store.file.format import MARKER, UNFINISHED, Names, check_directory, read_format
from radiator.store.file.fsio import Fsio, naming
from radiator.store.file.quarantine import note_path
from radiator.store.file.record import BLOCK, SegmentHeader, decode_segment_header
from radiator.store.file.replay import Replay
from radiator.store.file.salvage import SegmentFile
from radiator.store.file.spares import SPARES
from radiator.store.file.views import Finding, SegmentView, Survey, no_progress
from radiator.store.file.watermark import newest_slot, read_slots, slots_owner

__all__ = ["look", "misplaced", "require_store", "steady", "survey"]

_MOVED = "`radiator store repair` moves it to quarantine/"
_NOTE_BYTES = 1 << 24
_ASIDE = re.compile(rf".+{re.escape(ASIDE)}(\.[0-9]+)?")

_LOOKS = 100
_PATIENCE = 5
"""So many looks may pass before it is enough that two have a part of their damage in common."""


def survey(fsio: Fsio, names: Names, *, progress: Progress = no_progress) -> Survey:
    """Read the whole store, maybe beside a daemon: a `look` that is `steady`, with the errors of both."""
    return steady(names, lambda: look(fsio, names, progress=progress))


def steady(names: Names, look: Callable[[], Survey]) -> Survey:
    """The first look that finds no damage, or that which the look before it found; the others are closed.

    StoreFailed where none of many looks is one: a daemon changes the store faster than it can be read.
    """
    before: list[Finding] = []
    for number in range(_LOOKS):
        found = look()
        damage = [finding for finding in found.findings if finding.damage]
        if not damage or damage == before or (number >= _PATIENCE and not set(damage).isdisjoint(before)):
            return found
        before = damage
        found.close()
    raise StoreFailed(
        f"{names.directory} changes faster than it can be read: no two of {_LOOKS} looks found the same, the last one "
        f"{before[0].path}: {before[0].what}; try again when its broker has less to do, or look at a snapshot"
    )


def look(
    fsio: Fsio, names: Names, *, deep: bool = False, aside: bool = True, progress: Progress = no_progress
) -> Survey:
    """Read the whole store once; `deep` verifies the payloads of older segments too.

    StoreFailed where there is no store at all; OSError where the system does not let it be read. The caller closes the
    survey.
    """
    found = Survey(fsio, names)
    try:
        _open(found, deep)
        Replay(found, deep, progress).run()
        _places(found)
        unfinished = [finding for finding in found.findings if finding.kind == "unfinished"]
        if unfinished:
            found.findings = unfinished  # what is not there yet is not lost
    except BaseException:
        found.close()
        raise
    if aside:
        _note_quarantine(found)
    return found


def require_store(fsio: Fsio, names: Names) -> None:
    """StoreFailed where there is no store, not even a broken one."""
    try:
        entries = fsio.list_directory(names.directory)
    except FileNotFoundError:
        raise StoreFailed(f"{names.directory} is not there: name the data directory of a store") from None
    except NotADirectoryError:
        raise StoreFailed(f"{names.directory} is no directory: name the data directory of a store") from None
    if "FORMAT" in entries or MARKER in entries:
        return
    if not {"log", "watermark"} & set(entries):
        raise StoreFailed(f"{names.directory} holds no store: neither FORMAT nor log/ is there")
    try:
        check_directory(fsio, names)
    except StoreDamaged:
        return
    raise StoreFailed(f"{names.directory} holds no store yet: its creation was cut short, and a broker will repeat it")


# ---------------------------------------------------------------------- what is there


def _open(found: Survey, deep: bool) -> None:
    """FORMAT, the watermark, and the headers of all segments."""
    fsio, names = found.fsio, found.names
    require_store(fsio, names)
    try:
        found.format = read_format(fsio, names)
        if found.format is None and MARKER in fsio.list_directory(names.directory):
            found.find("unfinished", names.directory, UNFINISHED)
        elif found.format is None:
            found.find("format", names.format, "FORMAT is missing")
    except StoreDamaged as error:
        found.find("format", names.format, f"{error}")
    except OSError as error:
        if not is_damage(error):
            raise
        found.odd.append(names.format)
        found.find("format", names.format, f"it cannot be read: {error.strerror or error}")
    slots = _slots(found)
    headers: dict[int, SegmentHeader | CorruptRecord] = {}
    files: dict[int, SegmentFile] = {}
    try:
        _open_segments(found, deep, files, headers)
        _identify(found, slots, headers)
        _arrange(found, files, headers)
    finally:
        for file in files.values():
            file.close()
    if not found.segments:
        found.find("log", names.log, "there is no segment, and every store has one")
    found.watermark = mark = newest_slot(found.store_id, slots)
    if mark is None and any(slots):
        what = "nothing in it verifies or is of this store: what it knew of the end of the log, nothing else may know"
        found.find("watermark", names.watermark, what, damage=False)
    if mark is not None and found.segments and mark.address >> 32 > found.newest:
        number = mark.address >> 32
        what = f"it is missing: the watermark says that it was synced up to offset {mark.address & 0xFFFFFFFF}"
        found.find("missing-segment", names.segment(number), what, segment=number)


def _identify(found: Survey, slots: bytes, headers: dict[int, SegmentHeader | CorruptRecord]) -> None:
    """Which store this is: by FORMAT; without one by the watermark or the saved index, which no other place has.

    What the segments say is enough to read them, and no more: some may have been put there by mistake.
    """
    votes = Counter(header.store_id for header in headers.values() if not isinstance(header, CorruptRecord))
    if found.format is not None and len(votes) == 1 and found.format.store_id not in votes:
        found.format = None
        found.find("format", found.names.format, "it is that of another store than all segments are of")
    if found.format is not None:
        found.store_id = found.format.store_id
        return
    owner = slots_owner(slots) or index_owner(found.fsio, found.names)
    if owner is not None and (owner in votes or not votes):
        found.store_id = owner
    else:
        found.identified = False
        found.store_id = votes.most_common(1)[0][0] if votes else bytes(16)


def _slots(found: Survey) -> bytes:
    """The watermark as it stands, for whatever store it is of."""
    path = found.names.watermark
    try:
        return read_slots(found.fsio, path)
    except OSError as error:
        if not is_damage(error):
            raise
        found.odd.append(path)
        found.find("watermark", path, f"it cannot be read: {error.strerror or error}")
        return b""


def _open_segments(
    found: Survey, deep: bool, files: dict[int, SegmentFile], headers: dict[int, SegmentHeader | CorruptRecord]
) -> None:
    """Open every file that has a segment's name, and read its header."""
    fsio, names = found.fsio, found.names
    numbers: list[int] = []
    try:
        numbers = names.segments(fsio)
    except (FileNotFoundError, NotADirectoryError):
        found.find("log", names.log, "the directory of the segments is missing")
    except OSError as error:
        if not is_damage(error):
            raise
        found.find("log", names.log, f"the directory of the segments cannot be read: {error.strerror or error}")
    for number in numbers:
        path = names.segment(number)
        try:
            file = files[number] = SegmentFile(fsio, path, number)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and number not in names.segments(fsio):
                continue  # unlinked by a running daemon between two looks
            if not is_damage(error):
                raise
            found.odd.append(path)
            found.unopened.append(number)
            found.find("segment", path, f"it cannot be opened: {error.strerror or error}", segment=number)
            continue
        if deep:
            with naming(path):
                fsio.drop_cache(file.fd)  # what the device has, not what memory remembers
        try:
            headers[number] = decode_segment_header(file.get(0, BLOCK))
        except CorruptRecord as error:
            headers[number] = error


def _arrange(found: Survey, files: dict[int, SegmentFile], headers: dict[int, SegmentHeader | CorruptRecord]) -> None:
    """Give each file the number that it has, by its header where its name says another one and that place is free.

    A stranger finds no place: it is moved out of the way by a repair. `files` keeps none.
    """
    strangers = []
    renamed = []
    for number, header in headers.items():
        if isinstance(header, CorruptRecord):
            _place(found, files.pop(number), f"the header block is damaged: {header}", None)
        elif header.store_id != found.store_id:
            strangers.append((number, "the segment belongs to another store"))
        elif header.number != number:
            renamed.append((number, header))
        else:
            _place(found, files.pop(number), "", header)
    for number, header in renamed:
        if header.number in found.segments:
            strangers.append((number, f"its header says it is segment {header.number}"))
            continue
        file = files.pop(number)
        file.number = header.number
        if header.number in found.unopened:
            found.unopened.remove(header.number)
        what = f"its header says it is segment {header.number}: it is read as that one"
        _place(found, file, what, header)
    for number, what in strangers:
        file = files.pop(number)
        found.odd.append(file.path)
        found.strangers.append(number)
        found.find("stranger", file.path, what, offset=0)
        file.close()


def _place(found: Survey, file: SegmentFile, what: str, header: SegmentHeader | None) -> None:
    """Make the view of `file`; `what` is wrong with its header."""
    file.store_id = found.store_id
    segment = found.segments[file.number] = SegmentView(file.number, file)
    if what:
        segment.broken = True
        found.find("header", file.path, what, segment=file.number, offset=0)
    if header is not None:
        segment.created_ms = header.created_ms
        segment.capacity = header.capacity


def misplaced(fsio: Fsio, names: Names) -> Iterator[tuple[str, str, str]]:
    """Of the lock and quarantine/: kind, path and what is wrong with each that a broker does not start beside.

    No repair moves them away: it needs both itself.
    """
    advice = "move it away by hand while no broker runs; a broker makes it anew"
    try:
        fsio.close(fsio.open(names.lock))  # which leaves alone what a broker holds
    except FileNotFoundError:
        pass
    except OSError as error:
        if not is_damage(error):
            raise
        yield "lock", names.lock, f"it cannot be locked: {error.strerror or error}; {advice}"
    try:
        fsio.list_directory(names.quarantine)
    except FileNotFoundError:
        pass
    except OSError as error:
        if not is_damage(error):
            raise
        yield "quarantine", names.quarantine, f"it cannot be used as a directory: {error.strerror or error}; {advice}"


def _places(found: Survey) -> None:
    """What a broker needs or writes beside the log: nothing but files there, and nothing unfinished."""
    names = found.names
    for kind, path, what in misplaced(found.fsio, names):
        found.find(kind, path, what)
    for path in map(names.spare, range(1, SPARES + 1)):
        why = _odd(found, path, BLOCK)
        if why:
            found.find("spare", path, f"it cannot be used as a spare: {why}; {_MOVED}, and a broker makes another one")
    why = _odd(found, names.index)
    if why:
        found.find("place", names.index, f"it keeps a broker from saving its index: {why}; {_MOVED}")
    for path in _temporaries(found):
        why = _odd(found, path)
        if why:
            found.find("place", path, f"it keeps a broker from writing its file: {why}; {_MOVED}")
        elif why is not None:
            what = "left by what did not come to its end; no part of the store, to be removed while no broker runs"
            found.find("unfinished-file", path, what, damage=False)
    kept = set(_entries(found, names.quarantine))
    for number in sorted(found.segments):
        for kind, path, length, what in (
            ("kept", note_path(names, number), _NOTE_BYTES, "it cannot be read as the note about a segment"),
            ("place", _evidence_path(names, number), 0, "it keeps a broker from keeping that segment, were it damaged"),
        ):
            why = _odd(found, path, length) if os.path.basename(path) in kept else ""
            if why:
                found.find(kind, path, f"{what}: {why}; `radiator store repair` renames it")


def _evidence_path(names: Names, number: int) -> str:
    """Where segment `number` goes when it is damaged and nothing in it lives."""
    return os.path.join(names.quarantine, os.path.basename(names.segment(number)))


def _odd(found: Survey, path: str, length: int = 0) -> str | None:
    """Why what is at `path` is no file with up to `length` bytes to be read; "" where it is, None where nothing is."""
    fsio = found.fsio
    try:
        fd = fsio.open(path)
        try:
            with naming(path):
                fsio.read(fd, 0, length)
        finally:
            fsio.close(fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if not is_damage(error):
            raise
        found.odd.append(path)
        return f"{error.strerror or error}"
    return ""


def _temporaries(found: Survey) -> Iterator[str]:
    """The names of the store's own files before they are whole, wherever such a name is taken."""
    for folder, pattern in (
        (found.names.directory, r"(FORMAT|watermark|index)\.tmp"),
        (found.names.log, r"[0-9]{8,10}\.seg\.tmp"),
        (found.names.quarantine, r"[0-9]{8,10}\.keep\.tmp"),
    ):
        for name in _entries(found, folder):
            if re.fullmatch(pattern, name):
                yield os.path.join(folder, name)


def _entries(found: Survey, folder: str) -> list[str]:
    """The names in a directory that may be none: then something else tells of it."""
    try:
        return found.fsio.list_directory(folder)
    except OSError as error:
        if not is_damage(error):
            raise
        return []


def _note_quarantine(found: Survey) -> None:
    names = found.names
    noted: set[tuple[int, int]] = set()
    places = [os.path.join(names.quarantine, name) for name in _entries(found, names.quarantine)]
    for folder in (names.directory, names.log):
        places += [os.path.join(folder, name) for name in _entries(found, folder) if _ASIDE.fullmatch(name)]
    for path in places:
        if path in found.odd:
            continue
        if path.endswith(".keep"):
            noted |= _note(found, path)
        elif not path.endswith(".tmp"):
            what = "kept from an earlier damage; remove it when it is of no use any more"
            found.find("quarantine", path, what, damage=False)
    for queue in found.queues.values():
        queue.aside = [pair for pair in queue.aside if (queue.number, pair[0]) not in noted]
        if queue.aside:
            what = "set aside earlier, since they are damaged"
            found.find(
                "set-aside",
                names.directory,
                what,
                damage=False,
                queue=queue.name,
                number=queue.number,
                ids=tuple(queue.aside),
            )


def _note(found: Survey, path: str) -> set[tuple[int, int]]:
    """The messages that a note in quarantine/ names, see `quarantine`; what is damaged of it is left out."""
    noted: set[tuple[int, int]] = set()
    try:
        fd = found.fsio.open(path)
        try:
            with naming(path):
                text = bytes(found.fsio.read(fd, 0, found.fsio.size(fd))).decode("utf-8", "replace")
        finally:
            found.fsio.close(fd)
    except OSError as error:
        if not is_damage(error):
            raise
        found.find("quarantine", path, f"it cannot be read: {error.strerror or error}", damage=False)
        return noted
    for line in text.split("\n"):  # as in `Quarantine.load`
        number, id, offset, name, why = (line.split("\t", 4) + [""] * 5)[:5]
        if number == id == "-" and offset.isdecimal():
            found.find("quarantine", path, f"its segment is damaged: {why}", damage=False, offset=int(offset))
        if not (number.isdecimal() and id.isdecimal() and offset.isdecimal()):
            continue
        noted.add((int(number), int(id)))
        found.find(
            "set-aside",
            path,
            f"a damaged message was set aside: {why}",
            damage=False,
            offset=int(offset),
            queue=name,
            number=int(number),
            ids=((int(id), int(id)),),
        )
    return noted
