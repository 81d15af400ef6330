"""A whole daemon on a disk that is really full: a small file system, mounted by the test (root; skipped elsewhere)."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from daemon import Daemon

SIZE = 288 << 20
CONFIG = """create: true
disk: {stop_free: 8MiB}
destinations:
  /queue/memory: {type: queue, persistent: false}
  /queue/doomed: {type: queue, dead_letter: /queue/dead}
"""


@pytest.fixture(params=["tmpfs", "ext4"])
def small(request, tmp_path):
    """A directory on a file system of `SIZE` bytes."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    point = tmp_path / "small"
    point.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(point)]
    else:
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("there is no mkfs.ext4")
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount {request.param}: {done.stderr.strip()}")
    yield point
    subprocess.run(["umount", str(point)], check=True)


class Filler:
    """Another program that takes what is free, and gives it back."""

    def __init__(self, point):
        self._path = point / "filler"

    def take(self):
        with self._path.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 512):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def give(self):
        self._path.unlink()


def put(client, destination, body, receipt="1"):
    """Send; True where that was receipted, the text of the ERROR where it was not."""
    client.send("SEND", {"destination": destination, "receipt": receipt}, body)
    command, headers, _ = client.frame()
    assert command in ("RECEIPT", "ERROR")
    assert headers["receipt-id"] == receipt
    return True if command == "RECEIPT" else headers["message"]


def drain(client, count):
    """`count` messages, one receipted ACK at a time; the next message may overtake the receipt."""
    client.send("SUBSCRIBE", {"destination": "/queue/a", "id": "0", "ack": "client-individual"})
    bodies, acks, receipts = [], [], []
    while len(receipts) < count:
        command, headers, body = client.frame()
        if command == "MESSAGE":
            bodies.append(body)
            if len(acks) < count:
                acks.append(f"ack-{headers['ack']}")
                client.send("ACK", {"id": headers["ack"], "receipt": acks[-1]})
        else:
            assert command == "RECEIPT", (command, headers)
            receipts.append(headers["receipt-id"])
    assert receipts == acks
    return bodies[:count]


def test_a_full_disk_takes_acks_and_no_sends_until_there_is_room(small, tmp_path):
    filler = Filler(small)
    bodies = [b"%d:" % number + b"x" * 50_000 for number in range(60)]
    with Daemon(tmp_path, CONFIG, data_dir=small / "data") as daemon:
        with daemon.connect() as client:
            for number, body in enumerate(bodies):
                assert put(client, "/queue/a", body, str(number)) is True
            for body in (b"doomed", b"not doomed"):
                assert put(client, "/queue/doomed", body) is True
        filler.take()
        line = daemon.wait_for_line("the disk is full")
        assert "stop_free=8388608" in line
        with daemon.connect() as client:
            said = put(client, "/queue/a", b"refused")
            assert "the disk is full" in said
            assert "bytes are free, disk.stop_free is 8388608" in said
        with daemon.connect() as client:
            client.send("SUBSCRIBE", {"destination": "/topic/t", "id": "t"})
            assert put(client, "/queue/memory", b"in memory") is True
            client.send("SEND", {"destination": "/topic/t"}, b"published")
            assert client.frame()[2] == b"published"
        with daemon.connect() as client:
            assert drain(client, 20) == bodies[:20]
        daemon.kill()
    with Daemon(tmp_path, CONFIG, data_dir=small / "data") as daemon:
        assert any("the disk is full" in line for line in daemon.log)
        with daemon.connect() as client:
            assert "the disk is full" in put(client, "/queue/a", b"refused")
        with daemon.connect() as client:
            assert drain(client, 20) == bodies[20:40]
        filler.take()
        daemon.kill()
    with Daemon(tmp_path, CONFIG, data_dir=small / "data") as daemon:
        with daemon.connect() as client, daemon.connect() as burier:
            burier.send("SUBSCRIBE", {"destination": "/queue/doomed", "id": "d", "ack": "client-individual"})
            _, headers, body = burier.frame()
            assert body == b"doomed"
            # A dead letter is a put: it waits, in flight, and so does its receipt.
            burier.send("NACK", {"id": headers["ack"], "requeue": "false", "receipt": "buried"})
            assert burier.frame()[2] == b"not doomed"
            assert drain(client, 20) == bodies[40:]
            assert burier.quiet(0.0)
            filler.give()
            daemon.wait_for_line("the disk has room again")
            assert burier.frame() == ("RECEIPT", {"receipt-id": "buried"}, b"")
        with daemon.connect() as client:
            assert put(client, "/queue/a", b"taken again") is True
            assert drain(client, 1) == [b"taken again"]
        assert daemon.terminate() == 0
        assert sum("the disk is full" in line for line in daemon.log) == 1
        assert sum("the disk has room again" in line for line in daemon.log) == 1


def test_stop_free_acts_at_its_boundary(small, tmp_path):
    """One MiB under it is refused, one over it is taken; the file system is far from full."""
    with Daemon(tmp_path, CONFIG, data_dir=small / "data") as daemon:
        with daemon.connect() as client:
            assert put(client, "/queue/a", b"first") is True
        assert daemon.terminate() == 0
    found = os.statvfs(small)
    free = found.f_bavail * found.f_frsize - (66 << 20) >> 20  # what is left beside the next segment
    for stop_free, taken in ((free - 1, True), (free + 1 + 66, False)):
        config = CONFIG.replace("8MiB", f"{stop_free}MiB")
        with Daemon(tmp_path, config, data_dir=small / "data") as daemon, daemon.connect() as client:
            said = put(client, "/queue/a", b"second")
            assert said is True if taken else f"disk.stop_free is {stop_free << 20}" in said
