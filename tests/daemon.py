"""A real daemon in a subprocess, and raw sockets to it, for the tests that want the whole.

with Daemon(tmp_path) as daemon, daemon.connect() as client:
    client.send("SEND", {"destination": "/queue/a", "receipt": "1"}, b"body")
    assert client.frame() == ("RECEIPT", {"receipt-id": "1"}, b"")
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import radiator

__all__ = ["BUSY", "PATIENCE", "Client", "Daemon", "default_hangup", "encode", "ignored_hangup"]

PATIENCE = 60.0
"""Seconds after which a test gives up on something that should come; no test takes so long where all is well."""

BUSY = 5.0
"""Seconds that a busy machine may add to a time that is measured."""

_PACKAGE = str(Path(radiator.__file__).parents[1])
"""The daemon runs the package that the tests imported, whatever its working directory is."""

_START = """
import sys
from radiator.cli import main
sys.argv[0] = "radiator"
main()
"""


def default_hangup() -> None:
    """For `preexec_fn`: SIGHUP as a shell's child has it, though the tests themselves may run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def ignored_hangup() -> None:
    """For `preexec_fn`: SIGHUP as nohup leaves it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def encode(command: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    """A frame as the tests send it: no escapes, nothing added."""
    lines = "".join(f"{key}:{value}\n" for key, value in (headers or {}).items())
    return f"{command}\n{lines}\n".encode() + body + b"\0"


class Client:
    """A raw socket that can send frames and take them apart."""

    def __init__(self, address: tuple[str, int], *, connect: bool = True, version: str = "1.2", **headers: str) -> None:
        self.sock = socket.create_connection(address, timeout=PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._input = b""
        if connect:
            fields = {"accept-version": version, "host": "/", **{k.replace("_", "-"): v for k, v in headers.items()}}
            self.send("CONNECT", fields)
            command, self.connected, body = self.frame()
            assert command == "CONNECTED", (command, self.connected, body)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def send(self, command: str, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.sock.sendall(encode(command, headers, body))

    def frame(self) -> tuple[str, dict[str, str], bytes]:
        """The next frame; ConnectionError at the end of the stream, TimeoutError where none comes."""
        while True:
            self._input = self._input.lstrip(b"\n")
            head, separator, rest = self._input.partition(b"\n\n")
            if separator:
                command, *lines = head.decode().split("\n")
                headers: dict[str, str] = {}
                for line in lines:
                    key, _, value = line.partition(":")
                    headers.setdefault(key, value)
                length = int(headers["content-length"]) if "content-length" in headers else rest.find(b"\0")
                if 0 <= length < len(rest):
                    assert rest[length] == 0
                    self._input = rest[length + 1 :]
                    return command, headers, rest[:length]
            self._more()

    def eof(self) -> bytes:
        """Everything up to the end of the stream."""
        with contextlib.suppress(ConnectionError):
            while True:
                self._more()
        data, self._input = self._input, b""
        return data

    def quiet(self, seconds: float) -> bool:
        """True where nothing comes within `seconds`; nothing is taken from the stream."""
        return not self._input.lstrip(b"\n") and not select.select([self.sock], [], [], seconds)[0]

    def _more(self) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            raise ConnectionError("end of stream")
        self._input += data


class Daemon:
    """One daemon on a free port with its data under `directory`; `config` is YAML after the first lines of ours."""

    def __init__(
        self,
        directory: Path,
        config: str = "create: true\n",
        *,
        listen: str = "127.0.0.1:0",
        log_format: str = "text",
        log_level: str = "debug",
        env: dict[str, str] | None = None,
        wait: bool = True,
        preexec_fn: object = None,
        prelude: str = "",
        data_dir: Path | None = None,
    ) -> None:
        self.data_dir = data_dir or directory / "data"
        path = directory / "radiator.yaml"
        path.write_text(f"listen:\n  stomp: {listen}\ndata_dir: {self.data_dir}\n{config}", "utf-8")
        self.log: list[str] = []
        self.addresses: list[tuple[str, int]] = []
        self._said = threading.Condition()
        self._closed = False
        self._clients: list[Client] = []
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                prelude + _START,
                "-c",
                str(path),
                "--log-format",
                log_format,
                "--log-level",
                log_level,
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": _PACKAGE, **(env or {})},
            preexec_fn=preexec_fn,  # type: ignore[arg-type]  # a callable or None
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if wait:
            count = listen.count(",") + 1
            self.wait_for(lambda: len(self.addresses) == count, "no listening line")

    @property
    def address(self) -> tuple[str, int]:
        return self.addresses[0]

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        if self.process.poll() is None:
            self.kill()
        self._reader.join(PATIENCE)

    def connect(self, **how: object) -> Client:
        """A client that has shaken hands (`connect=False`: one that has not)."""
        client = Client(self.address, **how)  # type: ignore[arg-type]  # the keywords of Client
        self._clients.append(client)
        return client

    def wait_for(self, condition, what: str) -> None:
        """Until `condition()` holds, which is looked at after every line of the log."""
        with self._said:
            done = self._said.wait_for(lambda: condition() or self._closed, PATIENCE)
        assert done, f"{what}:\n" + "\n".join(self.log)
        assert condition(), f"{what}:\n" + "\n".join(self.log)

    def wait_for_line(self, text: str) -> str:
        """The first line of the log that contains `text`, once it is there."""
        self.wait_for(lambda: any(text in line for line in self.log), f"no line {text!r}")
        return next(line for line in self.log if text in line)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.wait()

    def wait(self) -> int:
        """The exit code; the log is complete afterwards."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                with self._said:
                    self.log.append(line.rstrip("\n"))
                    found = re.search(r"listening stomp (\S+):(\d+)", line)
                    if found:
                        self.addresses.append((found[1].strip("[]"), int(found[2])))
                    self._said.notify_all()
        with self._said:
            self._closed = True
            self._said.notify_all()
