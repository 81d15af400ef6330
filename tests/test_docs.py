"""The pages keep their word: what they say of settings and commands is what the package has, and every example runs.

A page is one story in an empty directory: its YAML blocks with a caption become files, its console blocks run in one
shell, its Python blocks run as programs. The well-known port is replaced by a free one; nothing else is changed.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from radiator.cli.commands import radiator as command_line
from radiator.config.loader import parse_config
from radiator.config.schema import Config, Defaults, Destination, Disk, Limits, setting_of, settings_of
from radiator.config.values import format_size, format_time
from radiator.errors import ConfigError

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.rst",
    "docs/tutorial.rst",
    "docs/configuration.rst",
    "docs/operations.rst",
    "docs/disk-trouble.rst",
)
SECTIONS = {"": Config, "limits": Limits, "disk": Disk, "defaults": Defaults, "destinations": Destination}

PATIENCE_SECONDS = 60.0

pytestmark = pytest.mark.skipif(not (ROOT / "README.rst").exists(), reason="not in the source tree")


@dataclass
class Block:
    """One code block of a page."""

    language: str
    options: dict[str, str]
    text: str


def blocks(path: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    found = []
    pattern = re.compile(r"^\.\. code-block:: (\S+)\n((?: {4}:.*\n)*)\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)
    for match in pattern.finditer(path.read_text("utf-8")):
        options = dict(re.findall(r":(\w+): *(.*)", match[2]))
        found.append(Block(match[1], options, textwrap.dedent(match[3]).strip("\n") + "\n"))
    return found


def describe(section: str) -> str:
    """What `docs/configuration.rst` must say of the keys of one section."""
    lines = []
    for key, item in settings_of(SECTIONS[section]).items():
        setting = setting_of(item)
        if setting.kind == "section":
            continue
        show: Any = {"size": format_size, "time": format_time}.get(setting.kind, str)
        facts = [setting.kind] if not setting.choices else [" or ".join(setting.choices)]
        if item.default is not MISSING and item.default is not None and item.default != ():
            value = item.default[0] if setting.kind == "address" else item.default
            facts.append(f"default {show(value).lower() if setting.kind == 'flag' else show(value)}")
        if setting.minimum is not None:
            facts.append(f"from {show(setting.minimum)} to {show(setting.maximum)}")
        if setting.types:
            facts.append(f"only for a {', '.join(setting.types)}" + (" in memory" if setting.memory_only else ""))
        name = f"listen.{key}" if key == "stomp" else key
        lines.append(f"``{name}`` ({', '.join(facts)})\n    {setting.doc[0].upper()}{setting.doc[1:]}")
        lines[-1] += "" if setting.doc.endswith("?") or "? " in setting.doc else "."
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_of_settings_says_what_the_schema_says(section: str) -> None:
    assert describe(section) in (ROOT / "docs/configuration.rst").read_text("utf-8")


def test_the_page_of_commands_names_every_option() -> None:
    page = (ROOT / "docs/command-line.rst").read_text("utf-8")
    for name, command in command_line.commands.items():
        part = page.partition(f"\n{name}\n{'-' * len(name)}\n")[2]
        part = re.split(r"\n-{3,}\n", part)[0]
        assert part, f"{name} has no part of the page"
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert f"``{option}" in part or f", ``{option}" in part, f"{name} {option}"


def test_the_page_of_commands_names_every_option_of_the_store_commands() -> None:
    page = (ROOT / "docs/command-line.rst").read_text("utf-8")
    group = command_line.commands["store"]
    assert isinstance(group, click.Group)
    for name, command in group.commands.items():
        part = page.partition(f"\nstore {name}\n{'~' * len(f'store {name}')}\n")[2]
        part = re.split(r"\n[-~]{3,}\n", part)[0]
        assert part, f"store {name} has no part of the page"
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                common = option in ("--data-dir", "-c", "--config")
                assert f"``{option}" in (page if common else part), f"store {name} {option}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


class Shell:
    """One bash in an empty directory, with a `radiator` that uses a port of its own where none is said."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir()
        commands = folder / "bin"
        commands.mkdir()
        wrapper = commands / "radiator"
        wrapper.write_text(
            f"""#!/bin/sh
export PYTHONPATH={ROOT}
case "$1" in
send | receive) command=$1; shift; exec {sys.executable} -m radiator $command -a 127.0.0.1:{self.port} "$@" ;;
check-config | store) exec {sys.executable} -m radiator "$@" ;;
*) exec {sys.executable} -m radiator --listen 127.0.0.1:{self.port} "$@" ;;
esac
"""
        )
        wrapper.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "80",
        }
        self.bash = subprocess.Popen(
            ["bash", "--norc"],
            cwd=self.work,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, commands: str) -> str:
        """What the shell prints for `commands`, pasted as they are: nothing waits between them but what they say."""
        assert self.bash.stdin is not None
        assert self.bash.stdout is not None
        self.bash.stdin.write(commands.encode() + b"\nprintf '\\001'\n")
        self.bash.stdin.flush()
        output = b""
        while not output.endswith(b"\1"):
            ready, _, _ = select.select([self.bash.stdout], [], [], PATIENCE_SECONDS)
            data = os.read(self.bash.stdout.fileno(), 1 << 16) if ready else b""
            assert data, f"{commands!r} does not end; so far: {output!r}"
            output += data
        # Bash itself tells of a job that was killed; a terminal shows that later, and elsewhere.
        return re.sub(rb"bash: line \d+: +\d+ Killed .*\n", b"", output[:-1]).decode()

    def python(self, program: str) -> str:
        """What a Python program prints."""
        program = program.replace("61613", str(self.port))
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=self.work,
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close(self) -> None:
        os.killpg(self.bash.pid, signal.SIGKILL)
        self.bash.communicate()


@pytest.mark.parametrize("page", PAGES)
def test_every_example_runs(page: str, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    printed: str | None = None
    try:
        for block in blocks(ROOT / page):
            if block.language == "yaml":
                check_yaml(block)
                if "caption" in block.options:
                    (shell.work / block.options["caption"]).write_text(block.text, "utf-8")
            elif block.language == "console":
                lines = block.text.splitlines()
                commands = "\n".join(line[2:] for line in lines if line.startswith("$ "))
                expected = "".join(f"{line}\n" for line in lines if not line.startswith("$ "))
                assert shell.run(commands) == expected
            elif block.language == "python":
                printed = shell.python(block.text)
            elif block.language == "text" and printed is not None:
                assert printed == block.text
                printed = None
        assert printed is None, "a program's output is not shown"
    finally:
        shell.close()


def check_yaml(block: Block) -> None:
    """A YAML block is a whole configuration; one of the class `wrong` must be refused."""
    if block.options.get("class") == "wrong":
        with pytest.raises(ConfigError):
            parse_config(block.text.encode(), "wrong.yaml")
    else:
        parse_config(block.text.encode(), "example.yaml")


def test_the_readme_has_two_commands_of_one_line() -> None:
    text = (ROOT / "README.rst").read_text("utf-8")
    commands = re.findall(r"::\n\n((?:    .*\n)+)", text.partition("Two minutes")[0])
    assert [command.count("\n") for command in commands] == [1, 1]
    assert all(command.startswith("    python3 -m venv .venv && .venv/bin/pip install ") for command in commands)


def test_the_pages_are_all_in_the_index() -> None:
    index = (ROOT / "docs/index.rst").read_text("utf-8")
    for path in (ROOT / "docs").glob("*.rst"):
        assert path.stem == "index" or f"\n    {path.stem}\n" in index
