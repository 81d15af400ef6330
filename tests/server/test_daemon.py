"""A whole daemon in a process of its own: its start, its listeners, its limits, its signals and its end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import resource
import signal
import socket
import struct
import sys
import termios
import time

import pytest
from daemon import BUSY, PATIENCE, Client, Daemon, default_hangup, encode, ignored_hangup

from radiator.server.daemon import connections_for


def put(client, body=b"body", destination="/queue/a", receipt="1"):
    client.send("SEND", {"destination": destination, "receipt": receipt}, body)
    assert client.frame() == ("RECEIPT", {"receipt-id": receipt}, b"")


def take(client, destination="/queue/a"):
    client.send("SUBSCRIBE", {"destination": destination, "id": "0", "ack": "client-individual"})
    command, headers, body = client.frame()
    assert command == "MESSAGE", (command, headers, body)
    client.send("ACK", {"id": headers["ack"], "receipt": "acked"})
    assert client.frame()[:2] == ("RECEIPT", {"receipt-id": "acked"})
    return body


def test_the_first_lines_say_what_runs_and_where(tmp_path):
    with Daemon(tmp_path, log_level="info") as daemon:
        assert re.search(r" info radiator \S+ twin=(compiled|pure) python=\S+ gevent=\S+ pid=\d+$", daemon.log[0])
        host, port = daemon.address
        assert any(f"listening stomp {host}:{port}" in line for line in daemon.log)
        with daemon.connect() as client:
            put(client)
            assert take(client) == b"body"
        assert daemon.terminate() == 0
        assert "stopped" in daemon.log[-1]


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_listening_line_is_there_at_every_level(tmp_path, level):
    with Daemon(tmp_path, log_level=level) as daemon:
        assert sum("listening stomp " in line for line in daemon.log) == 1
        assert daemon.terminate() == 0
        if level in ("warning", "error"):
            assert len(daemon.log) == 1


def test_json_lines(tmp_path):
    with Daemon(tmp_path, log_format="json") as daemon:
        assert daemon.terminate() == 0
        read = [json.loads(line) for line in daemon.log]
        assert all({"time", "level", "event"} <= line.keys() for line in read)
        assert any(line["event"].startswith("listening stomp 127.0.0.1:") for line in read)


def test_several_addresses_and_ipv6(tmp_path):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with Daemon(tmp_path, listen='["127.0.0.1:0", "[::1]:0"]') as daemon:
        assert any("listening stomp [::1]:" in line for line in daemon.log)
        for address in daemon.addresses:
            with Client(address) as client:
                put(client)


def test_an_address_in_use_is_exit_69(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Daemon(tmp_path, listen=f"127.0.0.1:{port}", wait=False) as daemon:
            assert daemon.wait() == 69
            assert f"cannot listen on 127.0.0.1:{port}: the address is in use" in daemon.log[-1]


def test_an_address_of_another_machine_is_exit_69(tmp_path):
    with Daemon(tmp_path, listen="192.0.2.1:0", wait=False) as daemon:
        assert daemon.wait() == 69
        assert "cannot listen on 192.0.2.1:0" in daemon.log[-1]


def test_a_data_dir_in_use_is_exit_69(tmp_path):
    (tmp_path / "second").mkdir()
    with Daemon(tmp_path) as first:
        with Daemon(tmp_path / "second", data_dir=first.data_dir, wait=False) as second:
            assert second.wait() == 69
            assert str(first.data_dir) in second.log[-1]
        with first.connect() as client:
            put(client)


def test_a_data_dir_that_cannot_be_made_is_exit_74(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with Daemon(tmp_path, data_dir=tmp_path / "file" / "data", wait=False) as daemon:
        assert daemon.wait() == 74
        assert str(tmp_path / "file") in daemon.log[-1]


def test_a_directory_of_something_else_is_exit_65(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious.txt").write_text("not radiator's")
    with Daemon(tmp_path, wait=False) as daemon:
        assert daemon.wait() == 65
        assert str(tmp_path / "data") in daemon.log[-1]
    assert (tmp_path / "data" / "precious.txt").read_text() == "not radiator's"


def test_a_configuration_that_the_stored_messages_contradict_is_exit_78(tmp_path):
    with Daemon(tmp_path) as daemon:
        with daemon.connect() as client:
            put(client)
        assert daemon.terminate() == 0
    config = "destinations:\n  /queue/a: {type: topic}\n"
    with Daemon(tmp_path, config, wait=False) as daemon:
        assert daemon.wait() == 78
        assert "/queue/a" in daemon.log[-1]
    with Daemon(tmp_path) as daemon, daemon.connect() as client:
        assert take(client) == b"body"


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_it_cleanly_and_nothing_is_lost(tmp_path, number):
    with Daemon(tmp_path, preexec_fn=default_hangup) as daemon, daemon.connect() as client:
        put(client, b"kept")
        daemon.process.send_signal(number)
        assert client.eof() == b""
        client.close()
        assert daemon.wait() == 0
    with Daemon(tmp_path) as daemon, daemon.connect() as client:
        assert take(client) == b"kept"


def test_a_terminal_that_is_closed_ends_it_cleanly(tmp_path):
    ours, theirs = os.openpty()

    def in_that_terminal():
        default_hangup()
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    with Daemon(tmp_path, preexec_fn=in_that_terminal) as daemon:
        os.close(theirs)
        os.close(ours)
        assert daemon.wait() == 0
        assert any("stopping signal=SIGHUP" in line for line in daemon.log)
        assert daemon.log[-1].endswith("stopped")


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored(tmp_path):
    """As under nohup: it is to live longer than its terminal."""
    with Daemon(tmp_path, preexec_fn=ignored_hangup) as daemon, daemon.connect() as client:
        daemon.process.send_signal(signal.SIGHUP)
        put(client, b"kept")
        assert take(client) == b"kept"
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for_line("stopping signal=SIGTERM")
        daemon.process.send_signal(signal.SIGHUP)
        assert client.eof() == b""
        client.close()
        assert daemon.wait() == 0
        assert not any("SIGHUP" in line for line in daemon.log)


def test_kill_9_and_restart_keep_what_was_receipted(tmp_path):
    with Daemon(tmp_path) as daemon, daemon.connect() as client:
        for number in range(20):
            put(client, b"%d" % number)
        daemon.kill()
    with Daemon(tmp_path) as daemon, daemon.connect() as client:
        client.send("SUBSCRIBE", {"destination": "/queue/a", "id": "0", "ack": "client", "prefetch-count": "20"})
        assert [client.frame()[2] for _ in range(20)] == [b"%d" % number for number in range(20)]


def test_what_was_read_before_the_signal_gets_its_receipt(tmp_path):
    # The sync takes half a second: the signal arrives while the receipt is owed.
    with Daemon(tmp_path, env=SLOW_DISK.env, prelude=SLOW_DISK.prelude) as daemon, daemon.connect() as client:
        client.send("SEND", {"destination": "/queue/a", "receipt": "owed"}, b"kept")
        daemon.wait_for_line("sync begins")
        daemon.process.send_signal(signal.SIGTERM)
        assert client.frame() == ("RECEIPT", {"receipt-id": "owed"}, b"")
        assert client.eof() == b""
        client.close()
        assert daemon.wait() == 0
    with Daemon(tmp_path) as daemon, daemon.connect() as client:
        assert take(client) == b"kept"


def test_what_was_read_while_the_store_was_full_is_committed_after_the_signal(tmp_path):
    held, go = tmp_path / "held", tmp_path / "go"
    with Daemon(tmp_path, env=SLOW_DISK.env, prelude=held_up(held, go)) as daemon:
        client, other = daemon.connect(), daemon.connect()
        put(client)
        held.touch()
        client.send("SEND", {"destination": "/queue/a", "receipt": "disk"}, b"being written")
        daemon.wait_for_line("sync begins")
        client.sock.sendall(
            encode("SEND", {"destination": "/queue/a", "receipt": "full", "content-length": "3000000"}, b"x" * 3000000)
            + encode("SEND", {"destination": "/queue/a", "receipt": "late"}, b"late")
        )
        for number in range(100):  # a turn each: all that the other one has sent is read in less than half of them
            put(other, destination="/topic/t", receipt=str(number))
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for_line("stopping")
        assert client.quiet(0.0)
        go.touch()
        assert [client.frame()[1]["receipt-id"] for _ in range(3)] == ["disk", "full", "late"]
        assert client.eof() == b""
        client.close()
        other.close()
        assert daemon.wait() == 0
    with Daemon(tmp_path) as daemon, daemon.connect() as client:
        client.send("SUBSCRIBE", {"destination": "/queue/a", "id": "0", "ack": "client", "prefetch-count": "4"})
        assert [client.frame()[2][:5] for _ in range(4)] == [b"body", b"being", b"xxxxx", b"late"]


class SLOW_DISK:
    """The sync worker of Python, with each fdatasync half a second late and announced on stderr, with its moment."""

    env = {"RADIATOR_SPEEDUPS": "off"}  # noqa: RUF012 (never changed)
    prelude = """
import os, time
real = os.fdatasync
def slow(fd):
    os.write(2, b"sync begins %f\\n" % time.monotonic())
    time.sleep(0.5)
    real(fd)
os.fdatasync = slow
"""


def syncs(daemon):
    """When they began."""
    return [float(line.split()[-1]) for line in list(daemon.log) if line.startswith("sync begins ")]


def held_up(held, go):
    """The same, but a sync that begins while the file `held` is there ends when `go` is."""
    return f"""
import os, time
real = os.fdatasync
def hold(fd):
    if os.path.exists({str(held)!r}):
        os.write(2, b"sync begins\\n")
        while not os.path.exists({str(go)!r}):
            time.sleep(0.01)
    real(fd)
os.fdatasync = hold
"""


def test_no_receipt_and_no_delivery_before_the_sync_has_returned(tmp_path):
    held, go = tmp_path / "held", tmp_path / "go"
    with Daemon(tmp_path, env=SLOW_DISK.env, prelude=held_up(held, go)) as daemon:
        consumer, producer = daemon.connect(), daemon.connect()
        consumer.send("SUBSCRIBE", {"destination": "/queue/a", "id": "0", "ack": "client", "receipt": "sub"})
        assert consumer.frame()[0] == "RECEIPT"
        held.touch()
        producer.send("SEND", {"destination": "/queue/a", "receipt": "1"}, b"body")
        daemon.wait_for_line("sync begins")
        assert producer.quiet(0.2)
        assert consumer.quiet(0.0)
        go.touch()
        assert producer.frame()[0] == "RECEIPT"
        assert consumer.frame()[0] == "MESSAGE"
        consumer.close()
        producer.close()


def test_clients_that_do_nothing_cannot_hold_up_the_end(tmp_path):
    with Daemon(tmp_path, "create: true\nlimits: {output: 64MiB}\n") as daemon:
        idle, half, mute = daemon.connect(), daemon.connect(), daemon.connect(connect=False)
        half.sock.sendall(b"SEND\ndestination:/queue/a\n")
        stuck = daemon.connect()
        stuck.send("SUBSCRIBE", {"destination": "/topic/t", "id": "0", "receipt": "1"})
        assert stuck.frame()[0] == "RECEIPT"
        for number in range(16):
            idle.send("SEND", {"destination": "/topic/t", "receipt": str(number)}, b"x" * (1 << 20))
            assert idle.frame()[0] == "RECEIPT"
        started = time.monotonic()
        assert daemon.terminate() == 0
        assert time.monotonic() - started < 9.5 + BUSY
        for client in (idle, half, mute, stuck):
            client.close()


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_signal_ends_it_at_once(tmp_path, first):
    with Daemon(tmp_path, preexec_fn=default_hangup) as daemon:
        client = daemon.connect()  # does not close: the first signal alone would wait for it
        daemon.process.send_signal(first)
        daemon.wait_for_line("stopping")
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.process.wait(PATIENCE) == -signal.SIGINT  # the first one's end would be 0
        client.close()


@pytest.mark.parametrize("prelude", ["", "import os\nos.getpid = lambda: 1\n"], ids=["", "first process"])
@pytest.mark.parametrize("first", SIGNALS)
def test_a_hangup_does_not_hurry_it(tmp_path, first, prelude):
    """A terminal that is closed tells it to all its processes, and its shell does so too."""
    with Daemon(tmp_path, preexec_fn=default_hangup, prelude=prelude) as daemon, daemon.connect() as client:
        daemon.process.send_signal(first)
        daemon.wait_for_line("stopping")
        for _ in range(2):
            daemon.process.send_signal(signal.SIGHUP)
        assert client.eof() == b""
        client.close()
        assert daemon.wait() == 0
        assert sum("stopping" in line for line in daemon.log) == 1


FIRST_PROCESS = "import os\nos.getpid = lambda: 1\n"
"""The first process of a container: the kernel drops what it has no handler for, so there must be one."""


def test_a_second_signal_ends_the_first_process_of_a_container(tmp_path):
    with Daemon(tmp_path, prelude=FIRST_PROCESS) as daemon:
        client = daemon.connect()
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for_line("stopping")
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(PATIENCE) == 128 + signal.SIGTERM
        client.close()


def test_a_signal_that_comes_before_the_imports_ends_the_first_process_too(tmp_path):
    endless = """
import sys, time
class Slow:
    def find_spec(self, name, *_):
        if name == "radiator.cli.commands":
            os.write(2, b"imports begin\\n")
            while True:
                time.sleep(1)
sys.meta_path.insert(0, Slow())
"""
    with Daemon(tmp_path, prelude=FIRST_PROCESS + endless, wait=False) as daemon:
        daemon.wait_for_line("imports begin")
        assert daemon.terminate() == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_start_ends_it_with_a_word(tmp_path, number):
    endless = """
import os, time
from radiator.store.file.engine import FileStore
def open(*_):
    os.write(2, b"recovery begins\\n")
    while True:
        time.sleep(1)
FileStore.open = open
"""
    with Daemon(tmp_path, prelude=endless, wait=False, preexec_fn=default_hangup) as daemon:
        daemon.wait_for_line("recovery begins")
        daemon.process.send_signal(number)
        assert daemon.wait() == 128 + number
        assert f"interrupted before the start was complete signal={number.name}" in daemon.log[-1]


def test_connections_over_the_limit_get_one_error_and_are_closed(tmp_path):
    with Daemon(tmp_path, "create: true\nlimits: {connections: 3}\n") as daemon:
        clients = [daemon.connect() for _ in range(3)]
        for _ in range(3):
            over = daemon.connect(connect=False)
            over.sock.sendall(encode("CONNECT", {"accept-version": "1.2", "host": "/"}))
            command, headers, _ = over.frame()
            assert command == "ERROR"
            assert headers["message"] == "too many connections: the limit is 3"
            assert over.eof() == b""
            over.close()
        put(clients[0])
        clients.pop().close()
        daemon.wait_for_line("connection closed")
        end = time.monotonic() + PATIENCE
        while True:  # the limit counts those that are open, and closing takes the daemon a moment
            again = daemon.connect(connect=False)
            again.sock.sendall(encode("CONNECT", {"accept-version": "1.2", "host": "/"}))
            if again.frame()[0] == "CONNECTED":
                break
            again.close()
            assert time.monotonic() < end
        for client in (*clients, again):
            client.close()


def test_no_descriptors_left_pauses_accepting_and_disturbs_nobody(tmp_path):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    with Daemon(tmp_path, preexec_fn=few) as daemon:
        assert any("limits.connections is more than this process may open" in line for line in daemon.log)
        first = daemon.connect()
        crowd = [daemon.connect(connect=False) for _ in range(60)]
        daemon.wait_for_line("cannot accept connections for the moment")
        put(first, destination="/topic/t")
        for client in crowd:
            client.close()
        with daemon.connect() as late:
            put(late, destination="/topic/t")
        assert sum("cannot accept" in line for line in daemon.log) < 10
        first.close()


@pytest.mark.parametrize(
    ("able", "segments", "accepted"),
    [
        (20000, 3, 10000),
        (11027, 3, 10000),
        (11026, 3, 9999),  # 1024 are kept for the segments to come
        (4096, 1000, 2072),
        (4096, 3000, 548),  # half of what is left, where that is more
        (1024, 2, 511),
        (40, 0, 20),
        (10, 100, 1),
    ],
)
def test_the_store_has_its_descriptors_before_the_connections(able, segments, accepted):
    assert connections_for(able, 10000, segments) == accepted


def test_connections_are_clamped_to_what_the_process_may_open(tmp_path):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 80))

    with Daemon(tmp_path, preexec_fn=few) as daemon:
        assert any("accepted=40 open_files=80" in line for line in daemon.log)
        clients = [daemon.connect() for _ in range(40)]
        with daemon.connect(connect=False) as over:
            over.sock.sendall(encode("CONNECT", {"accept-version": "1.2", "host": "/"}))
            assert over.frame()[1]["message"] == "too many connections: the limit is 40"
        put(clients[0])
        for client in clients:
            client.close()
        assert not any("cannot accept" in line for line in daemon.log)


def test_half_closed_clients_get_their_receipts(tmp_path):
    with Daemon(tmp_path) as daemon, daemon.connect() as client:
        client.sock.sendall(
            encode("SEND", {"destination": "/queue/a", "receipt": "1"}, b"x")
            + encode("SEND", {"destination": "/queue/a", "receipt": "2"}, b"y")
        )
        client.sock.shutdown(socket.SHUT_WR)
        assert client.frame()[1]["receipt-id"] == "1"
        assert client.frame()[1]["receipt-id"] == "2"
        assert client.eof() == b""


def test_a_lost_consumer_gives_its_message_to_the_next(tmp_path):
    with Daemon(tmp_path) as daemon:
        with daemon.connect() as producer:
            put(producer)
        holder = daemon.connect()
        holder.send("SUBSCRIBE", {"destination": "/queue/a", "id": "0", "ack": "client"})
        assert holder.frame()[0] == "MESSAGE"
        # A reset, not a clean close.
        holder.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        holder.close()
        with daemon.connect() as consumer:
            consumer.send("SUBSCRIBE", {"destination": "/queue/a", "id": "0", "ack": "client"})
            command, headers, body = consumer.frame()
            assert (command, body) == ("MESSAGE", b"body")
            assert headers["redelivered"] == "true"
            assert headers["delivery-count"] == "1"


def test_an_error_is_followed_by_the_end_within_two_seconds(tmp_path):
    with Daemon(tmp_path) as daemon, daemon.connect() as client:
        started = time.monotonic()
        client.send("NONSENSE")
        assert client.frame()[0] == "ERROR"
        assert client.eof() == b""
        # We do not close: the daemon does. A write to a closed connection is answered by a reset.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - started < PATIENCE:
                client.sock.sendall(b"\n")
                client.quiet(0.01)
        assert time.monotonic() - started < 2.1 + BUSY


def test_a_client_that_never_connects_gets_an_error_in_time(tmp_path):
    config = "create: true\nlimits: {connect_timeout: 200ms}\n"
    with Daemon(tmp_path, config) as daemon:
        started = time.monotonic()  # before the connection, which has its limit from when it is accepted
        with daemon.connect(connect=False) as client:
            assert client.frame()[0] == "ERROR"
            assert 0.2 <= time.monotonic() - started < 1.0 + BUSY
            assert client.eof() == b""


def test_heart_beats_flow_and_silence_ends_the_connection(tmp_path):
    with Daemon(tmp_path) as daemon:
        with daemon.connect(heart_beat="0,100") as listener:
            for _ in range(3):
                listener.sock.settimeout(2 + BUSY)
                assert listener.sock.recv(1) == b"\n"
        started = time.monotonic()
        with daemon.connect(heart_beat="100,0") as silent:
            assert silent.frame()[0] == "ERROR"
            assert 0.2 <= time.monotonic() - started < 3.0 + BUSY


def test_a_hundred_sends_in_one_segment_cost_at_most_two_syncs(tmp_path):
    counting = SLOW_DISK.prelude.replace("time.sleep(0.5)", "pass")
    with Daemon(tmp_path, env=SLOW_DISK.env, prelude=counting) as daemon, daemon.connect() as client:
        put(client)  # the segment is born and the queue is defined
        started = time.monotonic()
        client.sock.sendall(
            b"".join(encode("SEND", {"destination": "/queue/a", "receipt": str(n)}, b"x") for n in range(100))
        )
        assert [client.frame()[1]["receipt-id"] for _ in range(100)] == [str(number) for number in range(100)]
        answered = time.monotonic()
        client.close()  # else the end waits for it
        assert daemon.terminate() == 0
        assert 1 <= sum(started <= moment <= answered for moment in syncs(daemon)) <= 2


def test_a_failed_sync_is_no_receipt_and_exit_74(tmp_path):
    failing = """
import os
real, calls = os.fdatasync, [0]
def failing(fd):
    if os.path.exists({flag!r}):
        raise OSError(5, "Input/output error")
    real(fd)
os.fdatasync = failing
""".format(flag=str(tmp_path / "broken"))
    with Daemon(tmp_path, env=SLOW_DISK.env, prelude=failing) as daemon, daemon.connect() as client:
        put(client)
        (tmp_path / "broken").touch()
        client.send("SEND", {"destination": "/queue/a", "receipt": "never"}, b"x")
        assert b"RECEIPT" not in client.eof()
        assert daemon.wait() == 74
        (line,) = [line for line in daemon.log if "cannot go on" in line]
        assert str(tmp_path / "data") in line


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_connection_costs_little(tmp_path):
    def resident(daemon):
        with open(f"/proc/{daemon.process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with Daemon(tmp_path, log_level="info") as daemon:
        clients = [daemon.connect() for _ in range(50)]
        before = resident(daemon)
        clients += [daemon.connect() for _ in range(500)]
        for client in clients:
            client.send("SUBSCRIBE", {"destination": "/queue/a", "id": "0", "ack": "client", "receipt": "1"})
        for client in clients:
            assert client.frame()[0] == "RECEIPT"
        assert (resident(daemon) - before) / 500 <= 24 << 10
        for client in clients:
            client.close()
