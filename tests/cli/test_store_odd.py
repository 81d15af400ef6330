"""The commands `radiator store …` where a store, a place or a stream is not what it should be: a line, a code, no harm.

A directory, a pipe or a link stands where a file should; an output is closed or full; work was cut short.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from daemon import PATIENCE
from stores import command, contents, lines, log_files, make, put

from radiator.cli.commands import run
from radiator.errors import StoreDamaged, StoreError
from radiator.store.file import copying, snapshot
from radiator.store.file.fsio import RealFsio

Output = pytest.CaptureFixture[str]
Harm = Callable[[Path], None]

READ_ONLY = (["check"], ["check", "--deep"], ["dump"], ["stats"], ["repair"])


def to_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def ids(data: Path, capsys: Output) -> list[str]:
    capsys.readouterr()
    assert run(["store", "dump", "--data-dir", str(data)]) == 0
    return [line["message_id"] for line in lines(capsys.readouterr().out)]


@pytest.mark.parametrize("harm", [to_directory, to_pipe, to_nowhere, to_itself])
@pytest.mark.parametrize("which", ["FORMAT", "watermark", "oldest", "newest"])
def test_what_is_no_file_is_damage_and_is_moved_away(which: str, harm: Harm, data: Path, capsys: Output) -> None:
    whole = ids(data, capsys)
    segments = log_files(data)
    path = {"oldest": segments[0], "newest": segments[-1]}.get(which, data / which)
    harm(path)
    before = contents(data)
    for arguments in READ_ONLY:
        assert run(["store", *arguments, "--data-dir", str(data)]) == 65, arguments
        told = capsys.readouterr()
        assert str(path) in told.out + told.err
        assert harm is not to_nowhere or "leads to nothing" in told.out + told.err
    assert contents(data) == before
    assert run(["store", "repair", "--yes", "--json", "--data-dir", str(data)]) == 0
    named = lines(capsys.readouterr().out)
    assert os.path.lexists(data / "quarantine" / path.name)
    assert run(["store", "check", "--deep", "--data-dir", str(data)]) == 0
    lost = set(whole) - set(ids(data, capsys))
    assert bool(lost) == (which in ("oldest", "newest"))
    for message in lost:
        number, id = map(int, message.split("-"))
        assert any(
            number == entry["number"] and entry["first"] <= id and (entry["last"] is None or id <= entry["last"])
            for entry in named
        )
    make(data).close()


def to_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("x")


def to_pipe_from_directory(path: Path) -> None:
    shutil.rmtree(path)
    os.mkfifo(path)


def to_nowhere_from_directory(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to("/nowhere/at/all")


@pytest.mark.parametrize("harm", [to_directory, to_pipe, to_nowhere, to_itself])
def test_a_spare_that_is_no_file_is_moved_away(harm: Harm, data: Path, capsys: Output) -> None:
    """A broker does not start beside one; to have none is fine, since a start makes new ones."""
    whole = ids(data, capsys)
    spare = data / "log" / "spare-1"
    spare.touch()
    harm(spare)
    with pytest.raises(StoreError, match="spare-1"):
        make(data)
    before = contents(data)
    assert run(["store", "check", "--data-dir", str(data)]) == 65
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"damage: {spare}: it cannot be used as a spare")
    assert told[0].endswith("`radiator store repair` moves it to quarantine/, and a broker makes another one")
    assert sum(line.startswith("damage") for line in told) == 1
    assert told[-1].startswith("DAMAGED: a broker does not start on this store: ")
    assert run(["store", "repair", "--data-dir", str(data)]) == 65
    told = capsys.readouterr().out.splitlines()
    steps = [line for line in told if line.startswith("to do: ")]
    assert steps == [f"to do: move {spare}, which cannot be used, to {data}/quarantine"]
    assert contents(data) == before
    assert run(["store", "repair", "--yes", "--data-dir", str(data)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"repaired: what could not be used is in {data}/quarantine"
    assert os.path.lexists(data / "quarantine" / "spare-1")
    assert contents(data / "log") == {path: text for path, text in before.items() if "/log/" in path}
    assert run(["store", "check", "--deep", "--data-dir", str(data)]) == 0
    assert ids(data, capsys) == whole
    make(data).close()


@pytest.mark.parametrize("harm", [to_directory, to_pipe, to_nowhere, to_itself])
@pytest.mark.parametrize(
    ("which", "refused"),
    [
        ("index", False),
        ("index.tmp", False),
        ("FORMAT.tmp", False),
        ("log/00000099.seg.tmp", False),
        ("quarantine/00000001.keep.tmp", False),
        ("quarantine/{newest}.seg", False),
        ("quarantine/{newest}.keep", True),
    ],
)
def test_what_stands_in_the_place_of_a_file_is_moved_away(
    which: str, refused: bool, harm: Harm, data: Path, capsys: Output
) -> None:
    """Whether a start is refused beside it, or what a broker does later would fail."""
    whole = ids(data, capsys)
    place = data / which.format(newest=log_files(data)[-1].stem)
    place.touch()
    harm(place)
    before = contents(data)
    assert run(["store", "check", "--data-dir", str(data)]) == 65
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"damage: {place}: it ")
    assert sum(str(place) in line for line in told[:-1]) == 1
    assert sum(line.startswith("damage") for line in told) == 1
    if refused:
        assert told[-1].startswith(f"DAMAGED: a broker does not start on this store: {place}: ")
        with pytest.raises(StoreError, match=place.name):
            make(data)
    else:
        assert told[-1].startswith("DAMAGED: the log is whole, and a broker starts on this store, but not all")
    assert run(["store", "repair", "--data-dir", str(data)]) == 65
    steps = [line for line in capsys.readouterr().out.splitlines() if line.startswith("to do: ")]
    assert steps == [f"to do: move {place}, which cannot be used, to {data}/quarantine"]
    assert contents(data) == before
    assert run(["store", "repair", "--yes", "--data-dir", str(data)]) == 0
    assert not os.path.lexists(place)
    assert [path.name for path in (data / "quarantine").iterdir() if path.name.startswith(place.name)]
    assert contents(data) == before
    assert run(["store", "check", "--deep", "--data-dir", str(data)]) == 0
    assert ids(data, capsys) == whole
    make(data).close()


@pytest.mark.parametrize("harm", [to_directory, to_nowhere])
@pytest.mark.parametrize("which", ["spare-1", "00000001.seg.tmp", "00000099.seg"])
def test_what_is_on_another_disk_than_quarantine_is_renamed_in_its_directory(
    which: str, harm: Harm, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """As where log/ is a link to a directory of another file system; `.aside` of an earlier repair is kept."""
    whole = ids(data, capsys)
    place = data / "log" / which
    place.touch()
    harm(place)
    earlier = data / "log" / f"{which}.aside"
    earlier.write_text("earlier")
    rename = os.rename

    def inside(source: str, target: str) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source, None, target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", inside)
    assert run(["store", "repair", "--yes", "--data-dir", str(data)]) == 0
    aside = data / "log" / f"{which}.aside.1"
    assert (os.path.lexists(place), os.path.lexists(aside), earlier.read_text()) == (False, True, "earlier")
    capsys.readouterr()
    assert run(["store", "check", "--deep", "--data-dir", str(data)]) == 0
    told = capsys.readouterr().out
    for path in (earlier, aside):
        assert f"note: {path}: kept from an earlier damage" in told
    assert ids(data, capsys) == whole
    make(data).close()


def test_a_watermark_that_says_nothing_is_a_note(data: Path, capsys: Output) -> None:
    place = data / "watermark"
    place.write_bytes(b"x" * 1024)
    assert run(["store", "check", "--data-dir", str(data)]) == 0
    assert f"note: {place}: nothing in it verifies or is of this store" in capsys.readouterr().out
    place.write_bytes(b"")  # as a new store has it
    assert run(["store", "check", "--data-dir", str(data)]) == 0
    assert str(place) not in capsys.readouterr().out


def test_what_stands_in_the_way_of_a_repair_goes_first(data: Path, capsys: Output) -> None:
    segments = log_files(data)
    segments[0].unlink()
    (data / "FORMAT").unlink()
    (data / "FORMAT.tmp").mkdir()
    (data / "log" / f"{int(segments[-1].stem) + 1:08d}.seg.tmp").mkdir()
    assert run(["store", "repair", "--yes", "--data-dir", str(data)]) == 0
    assert run(["store", "check", "--deep", "--data-dir", str(data)]) == 0
    make(data).close()


def test_a_file_that_did_not_come_to_its_end_is_a_note(data: Path, capsys: Output) -> None:
    places = [data / "index.tmp", data / "log" / "00000099.seg.tmp", data / "quarantine" / "00000001.keep.tmp"]
    for place in places:
        place.write_bytes(b"begun")
    (data / "theirs.tmp").mkdir()
    assert run(["store", "check", "--data-dir", str(data)]) == 0
    told = capsys.readouterr().out
    for place in places:
        assert f"note: {place}: left by what did not come to its end; no part of the store, to be removed" in told
    assert "theirs" not in told
    assert run(["store", "repair", "--yes", "--data-dir", str(data)]) == 0
    assert all(place.read_bytes() == b"begun" for place in places)


@pytest.mark.parametrize("arguments", [["check"], ["dump"], ["stats"], ["repair"], ["repair", "--yes"]])
def test_a_log_on_a_disk_that_is_not_there(arguments: list[str], data: Path, capsys: Output) -> None:
    """Nothing is made of what is left: the disk may come back."""
    (data / "log").rename(data.parent / "log")
    (data / "log").symlink_to("/nowhere/at/all")
    before = contents(data)
    assert run(["store", *arguments, "--data-dir", str(data)]) == 65
    told = capsys.readouterr()
    assert f"{data}/log" in told.out + told.err
    assert "leads to nothing" in told.out + told.err
    assert contents(data) == before


@pytest.mark.parametrize("arguments", [*READ_ONLY, ["repair", "--yes"]])
def test_a_store_on_a_disk_that_is_not_there(arguments: list[str], tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "data").symlink_to("/nowhere/at/all")
    assert run(["store", *arguments, "--data-dir", f"{tmp_path}/data"]) == 74
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"radiator: {tmp_path}/data: this is a symbolic link that leads to nothing"


def test_a_spare_and_a_segment_at_once(data: Path, capsys: Output) -> None:
    (data / "log" / "spare-2").unlink(missing_ok=True)
    (data / "log" / "spare-2").mkdir()
    log_files(data)[0].unlink()
    assert run(["store", "repair", "--yes", "--data-dir", str(data)]) == 0
    assert "says what is left" in capsys.readouterr().out
    assert run(["store", "check", "--deep", "--data-dir", str(data)]) == 0
    make(data).close()


@pytest.mark.parametrize(
    ("which", "harm"),
    [
        ("lock", to_directory),
        ("lock", to_pipe),
        ("lock", to_nowhere),
        ("lock", to_itself),
        ("quarantine", to_file),
        ("quarantine", to_pipe_from_directory),
        ("quarantine", to_nowhere_from_directory),
    ],
)
def test_a_place_that_is_of_the_wrong_kind_is_for_the_operator(
    which: str, harm: Harm, data: Path, capsys: Output
) -> None:
    whole = ids(data, capsys)
    place = data / which
    harm(place)
    with pytest.raises(StoreError, match=which):
        make(data)
    before = contents(data)
    assert run(["store", "check", "--data-dir", str(data)]) == 65
    told = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("damage") for line in told) == 1
    assert told[0].startswith(f"damage: {place}: ")
    assert told[0].endswith("move it away by hand while no broker runs; a broker makes it anew")
    assert told[-1].startswith(f"DAMAGED: a broker does not start on this store: {place}: ")
    for options in ([], ["--yes"]):
        assert run(["store", "repair", *options, "--data-dir", str(data)]) == 65
        told = capsys.readouterr()
        assert told.out == ""
        (line,) = told.err.splitlines()
        assert line.startswith(f"radiator: {place}: ")
        assert line.endswith("move it away by hand while no broker runs; a broker makes it anew")
    assert contents(data) == before
    place.rename(data.parent / "aside")
    assert run(["store", "check", "--data-dir", str(data)]) == 0
    assert run(["store", "repair", "--data-dir", str(data)]) == 0
    assert ids(data, capsys) == whole
    make(data).close()


def test_files_with_each_others_names(data: Path, capsys: Output) -> None:
    whole = ids(data, capsys)
    first, second = log_files(data)[:2]
    aside = first.with_suffix(".aside")
    for source, target in ((first, aside), (second, first), (aside, second)):
        source.rename(target)
    assert run(["store", "check", "--data-dir", str(data)]) == 65
    assert f"it is segment {int(second.stem)}: it is read as that one" in capsys.readouterr().out
    assert run(["store", "repair", "--yes", "--data-dir", str(data)]) == 0
    assert ids(data, capsys) == whole
    make(data).close()


def test_a_lost_end_is_told_in_words_and_to_programs(data: Path, capsys: Output) -> None:
    number = int(ids(data, capsys)[0].split("-")[0])
    log_files(data)[-1].unlink()
    assert run(["store", "repair", "--data-dir", str(data)]) == 65
    told = capsys.readouterr().out
    assert f"unknown: /queue/a: message {number}-" in told
    assert "may be delivered again" in told
    assert run(["store", "repair", "--json", "--data-dir", str(data)]) == 65
    entry = lines(capsys.readouterr().out)[-1]
    assert (entry["queue"], entry["number"], entry["last"], entry["why"]) == ("/queue/a", number, None, "unknown")
    assert f"{number}-{entry['first'] - 1}" in told or entry["first"] > 1


def test_a_newest_segment_that_was_cut_is_mentioned(tmp_path: Path, capsys: Output) -> None:
    """After an unclean end nothing tells it from a tail that was never synced, but that the file was larger."""
    directory, copy = tmp_path / "data", tmp_path / "copy"
    store = make(directory)
    for number in range(3):
        put(store, "/queue/a", b"%d" % number + b"x" * 5000)
    shutil.copytree(directory, copy)
    store.close()
    (copy / "watermark").unlink()
    for harmed in (False, True):
        assert run(["store", "check", "--data-dir", str(copy)]) == 0
        assert ("and no clean stop cut it" in capsys.readouterr().out) == harmed
        os.truncate(log_files(copy)[-1], 16384)
    assert run(["store", "check", "--data-dir", str(directory)]) == 0
    assert "clean stop" not in capsys.readouterr().out


def test_a_hopeless_store_gets_no_plan(data: Path, capsys: Output) -> None:
    for path in log_files(data):
        path.write_bytes(path.read_bytes()[:4096] + bytes(8192))
    before = contents(data)
    for options in ([], ["--yes"]):
        assert run(["store", "repair", *options, "--data-dir", str(data)]) == 65
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.count("\n") == 1
        assert "`radiator store dump` shows what is readable" in told.err
    assert contents(data) == before


# ---------------------------------------------------------------------- places


def test_nothing_is_written_into_what_is_copied(data: Path, tmp_path: Path, capsys: Output) -> None:
    before = contents(data)
    for inside in ("sub", "quarantine", "log/deep"):
        assert run(["store", "snapshot", str(data / inside), "--data-dir", str(data)]) == 74
        assert "is inside the store" in capsys.readouterr().err
    assert contents(data) == before
    saved = tmp_path / "saved"
    assert run(["store", "snapshot", str(saved), "--data-dir", str(data)]) == 0
    before = contents(saved)
    assert run(["store", "restore", str(saved), "--data-dir", str(saved / "sub")]) == 74
    assert "is inside the snapshot" in capsys.readouterr().err
    assert contents(saved) == before


@pytest.mark.parametrize(("name", "code"), [("absent", 74), ("file", 74), ("empty", 65)])
def test_where_there_is_no_snapshot(name: str, code: int, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    target = tmp_path / "target"
    assert run(["store", "restore", str(tmp_path / name), "--data-dir", str(target)]) == code
    told = capsys.readouterr()
    assert told.err.startswith(f"radiator: {tmp_path / name}")
    assert told.err.count("\n") == 1
    assert not target.exists()


def test_a_store_without_format_gives_no_snapshot_and_is_damaged(data: Path, tmp_path: Path, capsys: Output) -> None:
    (data / "FORMAT").unlink()
    assert run(["store", "snapshot", str(tmp_path / "saved"), "--data-dir", str(data)]) == 65
    assert str(data / "FORMAT") in capsys.readouterr().err
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("which", ["newest", "oldest", "log"])
def test_what_a_store_lacks_is_named_by_a_snapshot(which: str, data: Path, tmp_path: Path, capsys: Output) -> None:
    segments = log_files(data)
    gone = {"newest": segments[-1:], "oldest": segments[:1]}.get(which, segments)
    for path in gone:
        path.unlink()
    if which == "log":
        shutil.rmtree(data / "log")
    assert run(["store", "snapshot", str(tmp_path / "saved"), "--data-dir", str(data)]) == 65
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert (gone[0].name if which != "log" else f"{data / 'log'} holds no segment") in line
    assert not list((tmp_path / "saved").glob("[Fm]*"))
    assert run(["store", "restore", str(tmp_path / "saved"), "--data-dir", str(tmp_path / "restored")]) in (65, 74)
    assert not (tmp_path / "restored").exists()


class Cut(BaseException):
    """The end of a process, at that moment."""


@pytest.mark.parametrize("what", ["snapshot", "restore"])
def test_what_was_cut_short_can_be_run_again(
    what: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    saved, restored = tmp_path / "saved", tmp_path / "restored"
    if what == "restore":
        assert run(["store", "snapshot", str(saved), "--data-dir", str(data)]) == 0
    arguments = ["snapshot", str(saved)] if what == "snapshot" else ["restore", str(saved)]
    target, place = (saved, data) if what == "snapshot" else (restored, restored)
    for moment in ("copy_open", "write_watermark", "would_start", "encode_format"):

        def cut(*_: object, **__: object) -> None:
            raise Cut

        for module in (snapshot, copying):
            if hasattr(module, moment):
                monkeypatch.setattr(module, moment, cut)
        with pytest.raises(Cut):
            run(["store", *arguments, "--data-dir", str(place)])
        monkeypatch.undo()
        assert (target / "incomplete.tmp").exists()
        with pytest.raises(Exception, match="FORMAT"):
            make(target)
    assert run(["store", *arguments, "--data-dir", str(place)]) == 0
    assert not (target / "incomplete.tmp").exists()
    whole = ids(data, capsys)
    assert ids(target, capsys) == whole
    assert run(["store", *arguments, "--data-dir", str(place)]) == 74


def unfinished_restore(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """What a restore leaves that ended when all but the newest segment was there; and its snapshot."""
    saved, restored = tmp_path / "saved", tmp_path / "restored"
    assert run(["store", "snapshot", str(saved), "--data-dir", str(data)]) == 0

    def cut(*_: object, **__: object) -> None:
        raise Cut

    monkeypatch.setattr(snapshot, "copy_file", cut)
    with pytest.raises(Cut):
        run(["store", "restore", str(saved), "--data-dir", str(restored)])
    monkeypatch.undo()
    return restored, saved


def test_an_unfinished_restore_is_run_again_and_not_repaired(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """A store made of the part that is there would lack messages, and nothing would say so."""
    whole = ids(data, capsys)
    restored, saved = unfinished_restore(data, tmp_path, monkeypatch)
    assert log_files(restored)
    before = contents(restored)
    capsys.readouterr()
    for arguments in (["repair"], ["repair", "--yes"], ["snapshot", str(tmp_path / "third")]):
        assert run(["store", *arguments, "--data-dir", str(restored)]) == 65
        told = capsys.readouterr()
        assert told.out == ""
        (line,) = told.err.splitlines()
        assert line.startswith(f"radiator: {restored}: a restore or a snapshot into it has not come to its end")
        assert "run it again" in line
    assert run(["store", "check", "--data-dir", str(restored)]) == 65
    told = capsys.readouterr()
    finding, _, verdict = told.out.splitlines()
    assert finding.startswith(f"damage: {restored}: a restore or a snapshot into it has not come to its end")
    assert verdict.startswith("UNFINISHED: no broker starts on this directory, and there is nothing to repair")
    assert run(["store", "check", "--json", "--data-dir", str(restored)]) == 65
    assert json.loads(capsys.readouterr().out)["kind"] == "unfinished"
    assert run(["store", "dump", "--data-dir", str(restored)]) == 65  # whoever lost the snapshot can still read
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert told.out
    with pytest.raises(StoreDamaged, match="has not come to its end"):
        make(restored)
    assert contents(restored) == before
    assert run(["store", "restore", str(saved), "--data-dir", str(restored)]) == 0
    assert ids(restored, capsys) == whole


def test_a_restore_that_just_began(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "incomplete.tmp").touch()
    for name in ("check", "dump", "stats", "repair"):
        assert run(["store", name, "--data-dir", str(tmp_path)]) == 65
        told = capsys.readouterr()
        assert "has not come to its end" in told.out + told.err
    assert [path.name for path in tmp_path.iterdir()] == ["incomplete.tmp"]


def test_a_marker_beside_format_means_nothing(data: Path, tmp_path: Path, capsys: Output) -> None:
    """Where a restore was killed between its last two steps."""
    marker = data / "incomplete.tmp"
    marker.touch()
    for arguments in (*READ_ONLY, ["repair", "--yes"], ["snapshot", str(tmp_path / "saved")]):
        assert run(["store", *arguments, "--data-dir", str(data)]) == 0, arguments
        told = capsys.readouterr()
        assert "come to its end" not in told.out + told.err
    assert run(["store", "restore", str(tmp_path / "saved"), "--data-dir", str(data)]) == 74
    make(data).close()
    assert not marker.exists()
    marker.mkdir()  # nobody's marker, and no reason for anything
    assert run(["store", "check", "--data-dir", str(data)]) == 0
    make(data).close()


def test_two_at_once(data: Path, tmp_path: Path, capsys: Output) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    lock = RealFsio().lock(str(saved / "incomplete.tmp"))
    assert run(["store", "snapshot", str(saved), "--data-dir", str(data)]) == 69
    assert "another radiator makes" in capsys.readouterr().err
    RealFsio().close(lock)
    assert run(["store", "snapshot", str(saved), "--data-dir", str(data)]) == 0


# ---------------------------------------------------------------------- room


class Full(RealFsio):
    """A disk with room for so many bytes more; it knows no links."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return super().write(fd, data, offset)

    def link(self, source: str, target: str) -> None:
        raise OSError(18, "Invalid cross-device link")


@pytest.mark.parametrize("room", [(0, 0), (0, 10000), (1, 0), (1, 6000), (1, 10000)])
def test_a_full_disk_is_named_and_a_repair_gives_its_room_back(
    room: tuple[int, int], data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    path = log_files(data)[1]
    broken = bytearray(path.read_bytes())
    broken[broken.index(b"x" * 100) + 50] ^= 1
    path.write_bytes(broken)
    before = contents(data)
    size = room[0] * len(broken) + room[1]
    monkeypatch.setattr("radiator.cli.store_change.RealFsio", lambda: Full(size))
    for _ in range(2):
        assert run(["store", "repair", "--yes", "--data-dir", str(data)]) == 74
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"radiator: {data}/")
        assert line.endswith("No space left on device")
        assert contents(data) == before
    monkeypatch.undo()
    assert run(["store", "repair", "--yes", "--data-dir", str(data)]) == 0
    assert [found.name for found in (data / "quarantine").iterdir()] == [path.name]


def test_a_plan_from_a_disk_that_is_read_only(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    """As a failing disk should be mounted before anything is tried."""

    def read_only(self: RealFsio, path: str) -> int:
        raise OSError(errno.EROFS, "Read-only file system", path)

    monkeypatch.setattr(RealFsio, "lock", read_only)
    assert run(["store", "repair", "--data-dir", str(data)]) == 0
    log_files(data)[1].unlink()
    before = contents(data)
    assert run(["store", "repair", "--data-dir", str(data)]) == 65
    assert "gone: /queue/a: message" in capsys.readouterr().out
    assert run(["store", "repair", "--yes", "--data-dir", str(data)]) == 74
    assert "Read-only file system" in capsys.readouterr().err
    assert contents(data) == before


# ---------------------------------------------------------------------- streams


@pytest.mark.parametrize("arguments", [["check"], ["dump"], ["dump", "--records"], ["stats"], ["stats", "--json"]])
def test_an_output_that_is_closed_or_full(arguments: list[str], data: Path) -> None:
    options = [*arguments, "--data-dir", str(data)]
    with command(*options, preexec_fn=lambda: os.close(1)) as process:
        _, told = process.communicate(timeout=PATIENCE)
        assert (process.returncode, told.count("\n")) == (74, 1), told
    with open("/dev/full", "w") as full, command(*options, stdout=full) as process:
        _, told = process.communicate(timeout=PATIENCE)
        assert (process.returncode, told.count("\n")) == (74, 1), told
    with command(*options, preexec_fn=lambda: os.close(2)) as process:
        told, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert told
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as gone, command(*options, stdout=gone) as process:
        _, told = process.communicate(timeout=PATIENCE)
        assert (process.returncode, told) == (74, "")


def test_a_name_that_would_rule_the_terminal(tmp_path: Path, capsys: Output) -> None:
    """Whoever sends chooses the names of queues: control characters, also those of ISO 6429, are none of the output."""
    name = "/queue/\x9b2J\x1b]0;a\u202eb\u00fc"
    shown = "/queue/\\x9b2J\\x1b]0;a\\u202eb\u00fc"
    data = tmp_path / "data"
    store = make(data)
    put(store, name, b"1 x" + b"x" * 200)
    store.close()
    assert run(["store", "stats", "--data-dir", str(data)]) == 0
    assert capsys.readouterr().out.count(shown) == 3
    assert run(["store", "stats", "--json", "--data-dir", str(data)]) == 0
    assert json.loads(capsys.readouterr().out)["queues"][0]["queue"] == name
    path = log_files(data)[0]
    broken = bytearray(path.read_bytes())
    broken[broken.index(b"x" * 100) + 50] ^= 1
    path.write_bytes(broken)
    assert run(["store", "check", "--deep", "--data-dir", str(data)]) == 65
    told = capsys.readouterr().out
    assert f"[queue {shown}, message" in told
    assert all(character.isprintable() for character in told.replace("\n", ""))
    assert run(["store", "check", "--deep", "--json", "--data-dir", str(data)]) == 65
    assert name in [line.get("queue") for line in lines(capsys.readouterr().out)]
    assert run(["store", "repair", "--data-dir", str(data)]) == 65
    told = capsys.readouterr().out
    assert f"gone: {shown}: message" in told
    assert all(character.isprintable() for character in told.replace("\n", ""))
    path.unlink()
    assert run(["store", "dump", "--data-dir", str(data)]) == 65
    told = capsys.readouterr().err
    assert all(character.isprintable() for character in told.replace("\n", ""))


def test_an_interrupt_of_a_repair_leaves_a_store_to_repair(data: Path, tmp_path: Path, capsys: Output) -> None:
    """Whenever it comes: the plan is out when the work begins, so this is after the one and maybe in the other."""
    whole = set(ids(data, capsys))
    path = log_files(data)[1]
    broken = bytearray(path.read_bytes())
    broken[broken.index(b"x" * 100) + 50] ^= 1
    path.write_bytes(broken)
    for number in (signal.SIGINT, signal.SIGKILL):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(data, copy)
        with command("repair", "--yes", "--data-dir", str(copy)) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(number)
            process.communicate(timeout=PATIENCE)
        assert run(["store", "repair", "--yes", "--data-dir", str(copy)]) == 0
        assert len(whole - set(ids(copy, capsys))) == 1
        assert any(found.read_bytes() == bytes(broken) for found in (copy / "quarantine").iterdir())
