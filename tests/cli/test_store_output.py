"""What `radiator store …` prints, in every locale: JSON lines are UTF-8, and what people read is never an error."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from daemon import PATIENCE
from stores import command, lines, log_files, make, put

NAME = "/queue/\u00fc\u20ac\u2028\x85\x9b2J\U0001f4a1"
"""It has everything that a client may put into a name: letters, what ends a line for some, what rules a terminal."""
BODY = "a\u2028b\x0bc\x0cd\x1ce\x85f\r\n\x1b[2J\x00\x7f\u00fc\U0001f4a1"
BLOCK = (
    f"destination:{NAME}\nplain:1\n\u00fc:\u20ac\u2028\x85\nescaped:a\\nb\\c\\\\\n".encode()
    + b'control:\x01\x1b\x0b\x1e\x7f\nhalf:\xed\xa0\x80\xff\nquote:"\\\\\n'
)
HEADERS = {
    "destination": NAME,
    "plain": "1",
    "\u00fc": "\u20ac\u2028\x85",
    "escaped": "a\nb:\\",
    "control": "\x01\x1b\x0b\x1e\x7f",
    "half": "\ufffd\ufffd\ufffd\ufffd",
    "quote": '"\\',
}

UTF_8 = {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "", "PYTHONUTF8": "1", "PYTHONCOERCECLOCALE": ""}
ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = {
    "C": {**UTF_8, "LC_ALL": "C", "PYTHONUTF8": ""},
    "ASCII": ASCII,
    "ascii": {**UTF_8, "PYTHONIOENCODING": "ascii"},
    "latin-1": {**UTF_8, "PYTHONIOENCODING": "latin-1"},
    "strict": {**UTF_8, "PYTHONIOENCODING": "utf-8:strict"},
}


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A store whose names, headers and bodies are hard to print, and one of its messages is damaged."""
    directory = tmp_path / "data"
    store = make(directory)
    put(store, NAME, BODY.encode(), b"\xed\xa0\x80", block=BLOCK)
    put(store, NAME, b"x" * 200, block=BLOCK)
    store.close()
    (path,) = log_files(directory)
    broken = bytearray(path.read_bytes())
    broken[broken.index(b"x" * 100) + 50] ^= 1
    path.write_bytes(broken)
    (directory / "quarantine" / f"{path.stem}.keep").write_text(f"1\t1\t4096\t{NAME}\tspoilt\n", "utf-8")
    return directory


def told(env: dict[str, str], *arguments: Any, code: int = 65) -> tuple[bytes, bytes]:
    with command(*arguments, env=env, text=False) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, b"Traceback" in err) == (code, False), err.decode()
    return out, err


@pytest.mark.parametrize("env", LOCALES.values(), ids=LOCALES)
@pytest.mark.parametrize(
    "arguments",
    [
        ["dump", "--bodies"],
        ["dump", "--records"],
        ["check", "--deep", "--json"],
        ["stats", "--json"],
        ["repair", "--json"],
    ],
    ids=" ".join,
)
def test_json_is_the_same_in_every_locale(arguments: list[str], env: dict[str, str], odd: Path) -> None:
    out, _ = told(env, *arguments, "--data-dir", odd)
    assert lines(out) == lines(told(UTF_8, *arguments, "--data-dir", odd)[0])
    assert NAME.encode() in out


def test_a_dump_says_what_is_there(odd: Path) -> None:
    out, err = told(ASCII, "dump", "--bodies", "--data-dir", odd)
    first, second, third = lines(out)
    assert (first["queue"], first["headers"], first["body"]) == (NAME, HEADERS, BODY)
    assert second["body_base64"] == "7aCA"
    assert "body" not in third
    assert third["error"].encode() in err


@pytest.mark.parametrize("env", LOCALES.values(), ids=LOCALES)
@pytest.mark.parametrize("arguments", [["check", "--deep"], ["stats"], ["repair"]], ids=" ".join)
def test_what_people_read_is_escaped_where_it_must_be(arguments: list[str], env: dict[str, str], odd: Path) -> None:
    out, _ = told(env, *arguments, "--data-dir", odd)
    shown = NAME.replace("\u2028", "\\u2028").replace("\x85", "\\x85").replace("\x9b", "\\x9b")
    encoding = {"ASCII": "ascii"}.get(next(name for name in LOCALES if LOCALES[name] is env), env["PYTHONIOENCODING"])
    encoding = encoding.partition(":")[0] or "utf-8"
    assert shown.encode(encoding, "backslashreplace") in out
    out.decode(encoding)


@pytest.mark.parametrize("env", LOCALES.values(), ids=LOCALES)
def test_a_path_that_is_not_text(env: dict[str, str], odd: Path) -> None:
    path = os.fsencode(odd) + b"\xff\xc3\xbc"
    os.rename(odd, path)
    out, _ = told(env, "check", "--deep", "--json", "--data-dir", path)
    assert {os.fsencode(os.path.dirname(line["path"])) for line in lines(out)} >= {path + b"/log"}
    for arguments in (["check"], ["stats"], ["dump"], ["repair"]):
        told(env, *arguments, "--data-dir", path)
    _, err = told(env, "check", "--data-dir", path + b"/none\x1b", code=74)
    assert b"\x1b" not in err
    assert err.count(b"\n") == 1


def test_a_note_in_quarantine_has_a_line_for_each_message(odd: Path) -> None:
    found = lines(told(UTF_8, "check", "--json", "--data-dir", odd)[0])
    assert [(each["queue"], each["what"]) for each in found if each["kind"] == "set-aside"] == [
        (NAME, "a damaged message was set aside: spoilt")
    ]


@pytest.mark.parametrize("arguments", [["dump"], ["dump", "--records"], ["dump", "--bodies", "--dead"]], ids=" ".join)
def test_a_reader_that_has_seen_enough(arguments: list[str], tmp_path: Path) -> None:
    """As `head -n 1`: more is to come than a pipe holds when it leaves."""
    directory = tmp_path / "data"
    store = make(directory)
    for _ in range(40):
        put(store, "/queue/a", *[b"x"] * 100, block=b"k:" + b"v" * 80 + b"\n")
    store.close()
    with command(*arguments, "--data-dir", str(directory), text=False) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 74


@pytest.mark.parametrize(
    ("arguments", "code"), [(["dump"], 74), (["repair", "--json"], 74), (["dump", "--nonsense"], 64)], ids=str
)
@pytest.mark.parametrize("both", [False, True])
def test_a_reader_of_the_errors_that_has_gone(both: bool, arguments: list[str], code: int, odd: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as gone:
        out = gone if both else subprocess.DEVNULL
        with command(*arguments, "--data-dir", str(odd), stdout=out, stderr=gone) as process:
            assert process.wait(PATIENCE) == code
