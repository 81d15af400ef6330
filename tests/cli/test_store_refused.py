"""The commands `radiator store …` where the system refuses to give a file: that says nothing about what is in it.

No permission, no descriptor, no memory: a line that names the file and the reason, 74, and nothing is moved or mended.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from daemon import PATIENCE
from stores import command, contents, log_files, make, put, with_index

from radiator.cli.commands import run
from radiator.store.file.fsio import RealFsio

Output = pytest.CaptureFixture[str]
Refuse = Callable[[str, int], None]

REASONS = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
ALL = ("check", "dump", "stats", "repair", "snapshot")


@pytest.fixture
def refuse_opening(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Let the opening, or listing, of everything with a certain name fail with a certain error."""

    def refuse(name: str, reason: int) -> None:
        opening, listing = RealFsio.open, RealFsio.list_directory

        def check(path: str) -> None:
            if os.path.basename(path) == name:
                raise OSError(reason, os.strerror(reason), path)

        def open(self: RealFsio, path: str, *, write: bool = False, create: bool = False) -> int:
            check(path)
            return opening(self, path, write=write, create=create)

        def list_directory(self: RealFsio, path: str) -> list[str]:
            check(path)
            return listing(self, path)

        monkeypatch.setattr(RealFsio, "open", open)
        monkeypatch.setattr(RealFsio, "list_directory", list_directory)

    return refuse


@pytest.fixture
def refuse_reading(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Let every reading of the files with a certain name fail with a certain error."""

    def refuse(name: str, reason: int) -> None:
        reading = RealFsio.read

        def read(self: RealFsio, fd: int, offset: int, length: int) -> bytes | memoryview:
            if os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) == name:
                raise OSError(reason, os.strerror(reason))
            return reading(self, fd, offset, length)

        monkeypatch.setattr(RealFsio, "read", read)

    return refuse


def expect_refusal(command: str, directory: Path, name: str, reason: int, capsys: Output) -> None:
    before = contents(directory)
    options = {"repair": ["--yes"], "snapshot": [str(directory.parent / f"snapshot-{name}")]}.get(command, [])
    assert run(["store", command, *options, "--data-dir", str(directory)]) == 74
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("radiator: /")
    assert line.endswith(f"/{name}: {os.strerror(reason)}")
    assert "damage" not in told.out
    assert contents(directory) == before


def names_of(directory: Path) -> dict[str, str]:
    segments = log_files(directory)
    return {"oldest": segments[0].name, "newest": segments[-1].name}


@pytest.mark.parametrize("command", ALL)
@pytest.mark.parametrize("which", ["FORMAT", "watermark", "oldest", "newest", "log"])
@pytest.mark.parametrize("reason", REASONS)
def test_a_file_that_may_not_be_opened(
    reason: int,
    which: str,
    command: str,
    data: Path,
    refuse_opening: Refuse,
    capsys: Output,
) -> None:
    name = names_of(data).get(which, which)
    refuse_opening(name, reason)
    expect_refusal(command, data, name, reason, capsys)


@pytest.mark.parametrize("command", ALL)
@pytest.mark.parametrize("which", ["FORMAT", "watermark", "oldest", "newest"])
def test_a_file_that_cannot_be_read_for_now(
    which: str,
    command: str,
    data: Path,
    refuse_reading: Refuse,
    capsys: Output,
) -> None:
    name = names_of(data).get(which, which)
    refuse_reading(name, errno.ENOMEM)
    expect_refusal(command, data, name, errno.ENOMEM, capsys)


@pytest.mark.parametrize("command", ["check", "dump", "stats"])
def test_a_quarantine_that_may_not_be_listed(
    command: str,
    data: Path,
    refuse_opening: Refuse,
    capsys: Output,
) -> None:
    refuse_opening("quarantine", errno.EACCES)
    expect_refusal(command, data, "quarantine", errno.EACCES, capsys)


@pytest.mark.parametrize("refusing", ["refuse_opening", "refuse_reading"])
def test_a_note_in_quarantine(refusing: str, data: Path, request: pytest.FixtureRequest, capsys: Output) -> None:
    (data / "quarantine" / "00000001.keep").write_text("1\t2\t4096\t/queue/a\tspoilt\n")
    request.getfixturevalue(refusing)("00000001.keep", errno.EACCES)
    expect_refusal("check", data, "00000001.keep", errno.EACCES, capsys)


@pytest.mark.parametrize("refusing", ["refuse_opening", "refuse_reading"])
def test_a_saved_index(refusing: str, data: Path, request: pytest.FixtureRequest, capsys: Output) -> None:
    """A start can do without it and reads the log; a repair would forget what only the index knows."""
    with_index(data)
    lost = log_files(data)[-1]
    aside = lost.rename(data / "aside")
    request.getfixturevalue(refusing)("index", errno.EMFILE)
    expect_refusal("repair", data, "index", errno.EMFILE, capsys)
    aside.rename(lost)
    expect_refusal("check", data, "index", errno.EMFILE, capsys)
    make(data).close()


def test_a_disk_that_refuses_blocks_is_damaged(data: Path, refuse_reading: Refuse, capsys: Output) -> None:
    """The other side of the line."""
    path = log_files(data)[0]
    refuse_reading(path.name, errno.EIO)
    assert run(["store", "check", "--data-dir", str(data)]) == 65
    assert f"damage: {path} offset 0: " in capsys.readouterr().out
    assert run(["store", "repair", "--data-dir", str(data)]) == 65
    assert f"copy 0 messages out of {path.name}" in capsys.readouterr().out


# ---------------------------------------------------------------------- descriptors


FEW = 24


def many_segments(directory: Path) -> Path:
    """A store with more segments than `FEW`."""
    store = make(directory)
    for number in range(FEW * 3):
        put(store, "/queue/a", b"%d" % number + b"x" * 14000)
    store.close()
    assert len(log_files(directory)) > FEW
    return directory


@pytest.mark.parametrize("name", [*ALL, "restore"])
def test_the_limit_of_open_files_is_raised_as_far_as_may_be(name: str, tmp_path: Path) -> None:
    """As a broker raises it: who starts on a store can look into it."""
    data = many_segments(tmp_path / "data")
    arguments = {"repair": ["--yes"], "snapshot": [str(tmp_path / "saved")], "restore": [str(tmp_path / "saved")]}
    target = data
    if name == "restore":
        assert run(["store", "snapshot", str(tmp_path / "saved"), "--data-dir", str(data)]) == 0
        target = tmp_path / "restored"
    before = contents(data)

    def few() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, hard))

    with command(name, *arguments.get(name, []), "--data-dir", str(target), preexec_fn=few) as process:
        _, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, told) == (0, "")
    assert contents(data) == before


@pytest.mark.parametrize("name", ALL)
def test_too_few_descriptors_are_no_damage(name: str, tmp_path: Path) -> None:
    data = many_segments(tmp_path / "data")
    arguments = {"repair": ["--yes"], "snapshot": [str(tmp_path / "saved")]}.get(name, [])
    before = contents(data)

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW))

    with command(name, *arguments, "--data-dir", str(data), preexec_fn=few) as process:
        told, failed = process.communicate(timeout=PATIENCE)
    assert process.returncode == 74
    assert "damage" not in told
    assert failed.startswith(f"radiator: {tmp_path}/")
    assert failed.endswith(f": {os.strerror(errno.EMFILE)}\n")
    assert contents(data) == before
