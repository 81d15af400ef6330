"""The command line as a whole: the default command, check-config, serve's options, versions and exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gevent
import pytest

import radiator
from radiator._speedups import TWIN
from radiator.cli.check_config import render
from radiator.cli.commands import run
from radiator.config.loader import parse_config
from radiator.config.schema import Address, Config, Fsync

Output = pytest.CaptureFixture[str]

EVERYTHING = b"""\
listen: {stomp: ["127.0.0.1:0", "[::1]:61613"]}
data_dir: "./some dir"
fsync: 50ms
create: true
max_prefetch: 7
limits: {frame: 1000000, connect_timeout: 1500ms}
defaults: {persistent: false}
destinations:
  /queue/a: {type: queue, max_deliveries: 3, dead_letter: /queue/dead}
  /queue/b: {type: queue, persistent: false, overflow: drop-oldest}
  /fanout/f: {type: fanout, queues: [/queue/b, "/queue/c: d"]}
  /topic/*: {type: topic, slow: drop}
  "true": {type: queue}
  "*": {type: queue, max_deliveries: 2}
"""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, dict[str, Any]]]:
    """Stands for the daemon: notes what it was asked to serve."""
    calls: list[tuple[Config, dict[str, Any]]] = []

    def serve(config: Config, **options: Any) -> int:
        calls.append((config, options))
        return 0

    module = ModuleType("radiator.server.daemon")
    vars(module)["serve"] = serve
    monkeypatch.setitem(sys.modules, "radiator.server.daemon", module)
    monkeypatch.setattr("radiator.server.daemon", SimpleNamespace(serve=serve), raising=False)
    return calls


def radiator_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "radiator", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("arguments", [[], ["serve"]])
def test_serving_needs_no_word_and_no_file(served: list[Any], arguments: list[str]) -> None:
    assert run(arguments) == 0
    assert served == [(Config(), {"log_format": "text", "log_level": "info"})]


@pytest.mark.parametrize("word", [[], ["serve"]])
def test_options_override_the_file(served: list[Any], word: list[str], tmp_path: Path) -> None:
    path = tmp_path / "radiator.yaml"
    path.write_bytes(EVERYTHING)
    options = ["--listen", "127.0.0.1:0", "--listen", "[::1]:7", "--data-dir", "d", "--fsync", "2s"]
    logs = ["--log-format", "json", "--log-level", "debug"]
    assert run([*word, "--config", str(path), *options, *logs]) == 0
    assert run([*word, "-c", str(path)]) == 0
    (config, given), (from_file, _) = served
    assert given == {"log_format": "json", "log_level": "debug"}
    assert config.listen_stomp == (Address("127.0.0.1", 0), Address("::1", 7))
    assert (config.data_dir, config.fsync) == ("d", Fsync("interval", 2000))
    assert config.destinations == from_file.destinations
    assert from_file == parse_config(EVERYTHING, "")


def test_the_exit_code_of_the_daemon_is_ours(monkeypatch: pytest.MonkeyPatch, served: list[Any]) -> None:
    monkeypatch.setattr(sys.modules["radiator.server.daemon"], "serve", lambda config, **options: 65, raising=False)
    monkeypatch.setattr("radiator.server.daemon", sys.modules["radiator.server.daemon"], raising=False)
    assert run([]) == 65


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["bogus"], "No such command 'bogus'."),
        (["recieve"], "No such command 'recieve'. Did you mean 'receive'?"),
        (["store", "chekc"], "No such command 'chekc'"),
        (["--bogus"], "No such option"),
        (["serve", "extra"], "unexpected extra argument"),
        (["--listen", "here"], "is not HOST:PORT"),
        (["--listen"], "requires an argument"),
        (["--fsync", "50"], "is not an fsync policy"),
        (["--fsync", "0ms"], "out of range"),
        (["--data-dir", ""], "must not be empty"),
        (["--log-format", "xml"], "'--log-format'"),
        (["--log-level", "loud"], "'--log-level'"),
        (["check-config"], "Missing argument 'FILE'"),
        (["check-config", "a", "b"], "unexpected extra argument"),
    ],
)
def test_usage_errors_end_with_64(arguments: list[str], text: str, served: list[Any], capsys: Output) -> None:
    assert run(arguments) == 64
    assert text in capsys.readouterr().err
    assert served == []


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["serve", "--help"], ["--data-dir", "x", "--help"]])
def test_help_shows_the_options_of_serve(arguments: list[str], capsys: Output) -> None:
    assert run(arguments) == 0
    text = capsys.readouterr().out
    for option in ("--config", "--listen", "--data-dir", "--fsync", "--log-format", "--log-level"):
        assert option in text


def test_help_lists_the_commands(capsys: Output) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("check-config", "receive", "send", "serve"):
        assert f"\n  {command}" in text


def test_version(capsys: Output) -> None:
    assert run(["--version"]) == 0
    python = ".".join(map(str, sys.version_info[:3]))
    assert capsys.readouterr().out == (
        f"radiator {radiator.__version__} ({TWIN}), Python {python}, gevent {gevent.__version__}\n"
    )


def test_check_config_prints_what_is_in_effect(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "radiator.yaml"
    path.write_bytes(EVERYTHING)
    assert run(["check-config", str(path)]) == 0
    printed = capsys.readouterr()
    assert parse_config(printed.out.encode(), "printed") == parse_config(EVERYTHING, "file")
    assert printed.err.splitlines() == [
        f"{path}: warning: *: max_deliveries without dead_letter: a message is dropped after 2 deliveries"
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_the_defaults_as_a_file() -> None:
    assert parse_config(render(Config()).encode(), "defaults") == Config()


def test_check_config_warns(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "radiator.yaml"
    path.write_text(
        'listen: {stomp: ["0.0.0.0:61613", "[::1]:1", "localhost:2"]}\n'
        "fsync: never\nlimits: {transaction: 1MiB, output: 2MiB}\n"
    )
    assert run(["check-config", str(path)]) == 0
    warned = capsys.readouterr().err
    assert warned.count("warning") == 4
    assert "0.0.0.0:61613 can be reached from other machines" in warned
    assert "limits.transaction is less than limits.frame" in warned
    assert "limits.output is less than limits.frame" in warned
    assert "fsync: never: a power cut loses" in warned


@pytest.mark.parametrize("command", [["check-config"], ["--config"], ["serve", "-c"]])
def test_a_wrong_file_ends_with_78(command: list[str], served: list[Any], tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "radiator.yaml"
    assert run([*command, str(path)]) == 78
    assert capsys.readouterr().err == f"radiator: {path}: No such file or directory\n"
    path.write_text("limits:\n  frames: 4MiB\n")
    assert run([*command, str(path)]) == 78
    assert f"{path}:2:3: unknown key 'frames' in limits (did you mean 'frame'?)" in capsys.readouterr().err
    assert served == []


def test_the_process_itself(tmp_path: Path) -> None:
    done = radiator_command("check-config", str(tmp_path / "missing"))
    assert (done.returncode, done.stdout) == (78, "")
    assert radiator_command("--nonsense").returncode == 64


INTERRUPTED_IMPORT = """
import sys

class Interrupted:
    def find_spec(self, name, *rest):
        if name == "radiator.cli.commands":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from radiator.cli import main
main()
"""


def test_an_interrupt_while_the_command_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(Path(radiator.__file__).parents[1])},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_a_wrong_switch_is_told_in_a_line() -> None:
    done = radiator_command("--version", RADIATOR_SPEEDUPS="maybe")
    assert done.returncode == 78
    assert done.stderr == "radiator: RADIATOR_SPEEDUPS is 'maybe': it must be auto, require or off\n"


def test_the_pure_twin_on_request() -> None:
    done = radiator_command("--version", RADIATOR_SPEEDUPS="off")
    assert (done.returncode, done.stderr) == (0, "")
    assert " (pure), " in done.stdout


def test_output_that_cannot_be_written() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "radiator", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert done.returncode == 74
    assert b"No space left on device" in done.stderr
