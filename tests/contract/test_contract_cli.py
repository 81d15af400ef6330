"""The contract, command line: what a script sees of a real process: exit codes, options, lines of the log."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from contract_peer import Peer, house_of
from daemon import PATIENCE

import radiator

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(radiator.__file__).parents[1])}
COMMAND = [sys.executable, "-m", "radiator"]


def run(*arguments: str, cwd: Path | None = None, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command, to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


class Serving:
    """`radiator` with these arguments, in a directory of its own; `lines` are those up to the last listening line."""

    def __init__(self, cwd: Path, *arguments: str, addresses: int = 1) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=cwd, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self.addresses: list[tuple[str, int]] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            _, found, tail = line.partition("listening stomp ")
            if found:
                host, _, port = tail.split('"')[0].split()[0].rpartition(":")
                self.addresses.append((host.strip("[]"), int(port)))
                if len(self.addresses) == addresses:
                    break
        assert len(self.addresses) == addresses, self.lines

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Stop it; `lines` are complete then."""
        self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=PATIENCE)
        self.lines += rest.splitlines()
        return self.process.returncode


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with house_of(tmp_path_factory.mktemp("cli"), "create: false\ndestinations: {/queue/a: {type: queue}}\n") as house:
        yield house


@pytest.fixture
def broker(house):
    return f"127.0.0.1:{house.address[1]}"


def test_without_a_file_it_serves_with_embedded_defaults(tmp_path):
    """`data in ./radiator-data, fsync: always, create: true`; port 0 is any free one."""
    with Serving(tmp_path, "--listen", "127.0.0.1:0") as serving:
        with Peer(serving.addresses[0]) as client:
            client.put("/queue/made by use", "a")
        assert serving.end(signal.SIGINT) == 0
    assert (tmp_path / "radiator-data" / "FORMAT").is_file()


def test_options_override_the_file(tmp_path):
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    file = tmp_path / "r.yaml"
    file.write_text(
        f"listen: {{stomp: ['127.0.0.1:{port}']}}\ndata_dir: {tmp_path}/wrong\nfsync: always\ncreate: true\n"
    )
    arguments = ["-c", str(file), "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--data-dir", "right"]
    with Serving(tmp_path, "serve", *arguments, "--fsync", "50ms", "--log-level", "error", addresses=2) as serving:
        for address in serving.addresses:
            with Peer(address) as client:
                client.put("/queue/a", "x")
        assert len(set(serving.addresses)) == 2
        assert serving.end() == 0
    taken.close()
    assert (tmp_path / "right" / "FORMAT").is_file()
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("level", ["debug", "error"])
def test_every_line_of_the_json_log_is_json_and_the_listening_line_is_there_at_every_level(tmp_path, level):
    with Serving(tmp_path, "--listen", "127.0.0.1:0", "--log-format", "json", "--log-level", level) as serving:
        with Peer(serving.addresses[0]) as client:
            client.put('/queue/"a"\u00e9 b', "x")
            client.send("NONS\u00c9NSE\r")
            client.error()
        with Peer(serving.addresses[0], connect=False) as client:
            client.sock.sendall(bytes(range(256)))
            client.eof()
        port = serving.addresses[0][1]
        assert serving.end() == 0
    records = [json.loads(line) for line in serving.lines]
    assert all({"time", "level", "event"} <= record.keys() for record in records)
    assert all(not isinstance(value, dict | list) for record in records for value in record.values())
    assert sum(f"listening stomp 127.0.0.1:{port}" in record["event"] for record in records) == 1
    assert (len(records) > 1) is (level == "debug")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--no-such-option"], 64),
        (["no-such-command"], 64),
        (["--fsync", "sometimes"], 64),
        (["receive", "-n", "x", "/queue/a"], 64),
        (["-c", "missing.yaml"], 78),
        (["-c", "."], 78),
        (["--data-dir", "file/below", "--listen", "127.0.0.1:0"], 74),
        (["--data-dir", "file", "--listen", "127.0.0.1:0"], 74),
        (["--data-dir", "other", "--listen", "127.0.0.1:0"], 65),
        (["receive", "-a", "127.0.0.1:1", "/queue/a"], 69),
        (["send", "-a", "BROKER", "/queue/unknown", "x"], 69),
        (["receive", "-a", "BROKER", "/queue/unknown"], 69),
        (["--listen", "BROKER"], 69),
        (["--listen", "127.0.0.1:0", "--data-dir", "LOCKED"], 69),
        (["send", "-a", "BROKER", "/queue/a", "--file", "missing"], 74),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_exit_codes_are_sysexits(arguments, code, tmp_path, house, broker):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "important.doc").write_text("not ours")
    words = {"BROKER": broker, "LOCKED": str(house.data_dir)}
    done = run(*(words.get(word, word) for word in arguments), cwd=tmp_path)
    assert done.returncode == code, done
    assert b"Traceback" not in done.stderr
    assert done.stderr.strip()
    assert (tmp_path / "other" / "important.doc").read_text() == "not ours"
    assert os.listdir(tmp_path / "other") == ["important.doc"]


def test_a_damaged_store_is_65_says_where_and_is_not_touched(tmp_path):
    with Serving(tmp_path, "--listen", "127.0.0.1:0") as serving:
        with Peer(serving.addresses[0]) as client:
            client.put("/queue/a", "x")
        assert serving.end() == 0
    path = tmp_path / "radiator-data" / "FORMAT"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    done = run("--listen", "127.0.0.1:0", cwd=tmp_path)
    assert done.returncode == 65
    assert b"FORMAT" in done.stderr
    assert path.read_bytes() == data


def test_version_names_version_twin_python_and_gevent():
    text = run("--version").stdout.decode()
    assert radiator.__version__ in text
    assert "compiled" in text or "pure" in text
    assert "Python 3." in text
    assert "gevent " in text


def test_receive_of_a_topic_ends_with_its_count(tmp_path):
    """What it acknowledges there is ignored by the broker."""
    with Serving(tmp_path, "--listen", "127.0.0.1:0", "--log-level", "error") as serving:
        address = serving.addresses[0]
        command = [*COMMAND, "receive", "-a", f"127.0.0.1:{address[1]}", "-n", "3", "/topic/t"]
        receiver = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE)
        with Peer(address) as client:
            while receiver.poll() is None:  # it hears what is published once it has subscribed
                client.put("/topic/t", "x")
        assert receiver.communicate() == (b"x\nx\nx\n", None)
        assert receiver.returncode == 0
        assert serving.end() == 0


def test_send_and_receive_as_processes(tmp_path, broker):
    """Several headers, a file, standard input; the receiver acknowledges what it printed, and no more."""
    (tmp_path / "body").write_bytes(b"from a file")
    send = ("send", "-a", broker)
    assert run(*send, "-H", "a:1", "-H", "b:x:y", "/queue/a", "argument").returncode == 0
    assert run(*send, "/queue/a", "--file", str(tmp_path / "body")).returncode == 0
    assert run(*send, "/queue/a", "-", stdin=b"standard input").returncode == 0
    done = run("receive", "-a", broker, "-n", "2", "/queue/a")
    assert (done.returncode, done.stdout) == (0, b"argument\nfrom a file\n")
    done = run("receive", "-a", broker, "--timeout", "2", "/queue/a")
    assert (done.returncode, done.stdout) == (0, b"standard input\n")
