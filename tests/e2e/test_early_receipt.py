"""Nothing is promised before the sync has returned: a preloaded library makes syncs late and says when they end.

It stands below everything of Python, so it sees the compiled sync worker as well as the Python thread.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from daemon import PATIENCE, Daemon, encode

from radiator._speedups import COMPILED

LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static atomic_int count;

static void say(int number, const char *what, struct timespec moment, long delay) {
    char line[128];
    int length = snprintf(line, sizeof line, "sync %s %lld.%09ld %d %ld\n", what, (long long)moment.tv_sec,
                          moment.tv_nsec, number, delay);
    if (write(2, line, length) != length) abort();
}

static struct timespec now(void) {
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    return moment;
}

static int late(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int number = atomic_fetch_add(&count, 1);
    struct timespec began = now();
    long delay = 0;
    const char *path = getenv("RADIATOR_TEST_DELAY");
    FILE *file = path ? fopen(path, "re") : NULL;
    if (file) {
        if (fscanf(file, "%ld", &delay) != 1) abort();
        fclose(file);
    }
    say(number, "began", began, delay);
    usleep((useconds_t)delay * 1000);
    int result = real(fd);
    say(number, "ended", now(), delay);
    return result;
}

int fdatasync(int fd) { return late("fdatasync", fd); }
int fsync(int fd) { return late("fsync", fd); }
"""
"""Says on stderr when a sync begins and when it ends ("sync began SECONDS NUMBER DELAY", of the monotonic clock), and
makes it late by the milliseconds in the file that RADIATOR_TEST_DELAY names, where there is one. The file is read after
the moment was taken: a sync that began behind a change of the file follows it."""

DELAY = 2.0
HANG = 10 * PATIENCE
"""The delay of a sync that does not end while the test runs: whatever waits for it fails."""
SUBSCRIBE = {"id": "0", "ack": "client-individual"}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is tried on Linux only")


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The path of the built library."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler here: the library that delays syncs cannot be built")
    target = tmp_path_factory.mktemp("slow_sync") / "slow_sync.so"
    source = target.with_suffix(".c")
    source.write_text(LIBRARY)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(target), str(source), "-ldl"], check=True)
    return target


@pytest.fixture(params=["require", "off"], ids=["compiled", "pure"])
def house(request, tmp_path, library):
    """Start a daemon whose syncs can be made late, with either sync worker."""
    if request.param == "require" and not COMPILED:
        pytest.skip("the compiled twin is not built")
    return House(tmp_path, request.param, library)


class House:
    def __init__(self, directory: Path, twin: str, library: Path) -> None:
        self.directory = directory
        self._delay = directory / "delay"
        self._env = {
            "RADIATOR_SPEEDUPS": twin,
            "LD_PRELOAD": str(library),
            "RADIATOR_TEST_DELAY": str(self._delay),
        }

    def daemon(self, fsync: str) -> Daemon:
        return Daemon(self.directory, f"create: true\nfsync: {fsync}\n", log_level="info", env=self._env)

    def late(self, seconds: float) -> None:
        """Delay each sync that begins from now on."""
        part = self._delay.with_suffix(".new")
        part.write_text(str(int(seconds * 1000)))
        part.rename(self._delay)


class Sync(NamedTuple):
    """What the log says of a sync so far: when it began and ended, and what it was delayed by, in seconds."""

    began: float
    ended: float | None
    delay: float


def syncs(daemon: Daemon, since: float = 0.0) -> list[Sync]:
    """Those that began at or after that moment; by the clock, as the log comes later than what it tells of."""
    found: dict[str, Sync] = {}
    for line in list(daemon.log):
        if line.startswith("sync "):
            _, what, moment, number, delay = line.split()
            if what == "began":
                found[number] = Sync(float(moment), None, int(delay) / 1000)
            else:
                found[number] = found[number]._replace(ended=float(moment))
    return [sync for sync in found.values() if sync.began >= since]


def put(client, body=b"body", destination="/queue/a"):
    client.send("SEND", {"destination": destination, "receipt": "put"}, body)
    assert client.frame() == ("RECEIPT", {"receipt-id": "put"}, b"")


def wait_for_sync(daemon, since):
    """The first sync that began at or after that moment, once the log says so."""
    daemon.wait_for(lambda: syncs(daemon, since), "no sync")
    return syncs(daemon, since)[0]


def wait_for_end(daemon, since):
    """The first end of a sync that began at or after that moment."""
    daemon.wait_for(lambda: any(sync.ended for sync in syncs(daemon, since)), "no sync ended")
    return min(sync.ended for sync in syncs(daemon, since) if sync.ended)


def until_synced(daemon, client):
    """Until a sync has ended that began behind all that was written: under an interval nothing is left to sync then."""
    while True:
        sent = time.monotonic()
        put(client, destination="/queue/c")
        answered = time.monotonic()
        sync = wait_for_sync(daemon, sent)
        daemon.wait_for(lambda: all(sync.ended for sync in syncs(daemon)), "a sync hangs")
        if sync.began >= answered:  # else it may have begun before the write
            return


def hold(client, destination):
    """Subscribe and take one message, without an ACK; its ack number."""
    client.send("SUBSCRIBE", {"destination": destination, **SUBSCRIBE})
    command, headers, _ = client.frame()
    assert command == "MESSAGE"
    return headers["ack"]


def everything(ack):
    """One segment with a receipted ACK, a transaction with a receipted COMMIT and a receipted SEND."""
    return b"".join(
        (
            encode("ACK", {"id": ack, "receipt": "ack"}),
            encode("BEGIN", {"transaction": "t"}),
            encode("SEND", {"destination": "/queue/a", "transaction": "t"}, b"in a transaction"),
            encode("COMMIT", {"transaction": "t", "receipt": "commit"}),
            encode("SEND", {"destination": "/queue/a", "receipt": "send"}, b"alone"),
        )
    )


def test_no_receipt_and_no_delivery_before_the_sync_has_returned(house):
    with house.daemon("always") as daemon:
        client, consumer = daemon.connect(), daemon.connect()
        put(client, destination="/queue/b")
        ack = hold(client, "/queue/b")
        consumer.send("SUBSCRIBE", {"destination": "/queue/a", **SUBSCRIBE, "prefetch-count": "10", "receipt": "sub"})
        assert consumer.frame()[0] == "RECEIPT"
        put(client, destination="/queue/c")  # behind the batch that defined /queue/a: nothing is in flight now
        house.late(DELAY)
        sent = time.monotonic()
        client.sock.sendall(everything(ack))
        wait_for_sync(daemon, sent)
        answers = [client.frame()[1]["receipt-id"]]
        first_receipt = time.monotonic()
        command, _, body = consumer.frame()
        first_message = time.monotonic()
        answers += [client.frame()[1]["receipt-id"] for _ in range(2)]
        assert answers == ["ack", "commit", "send"]
        assert (command, body) == ("MESSAGE", b"in a transaction")
        house.late(0)
        ended = wait_for_end(daemon, sent)
        assert ended - sent >= 0.99 * DELAY  # a clock that is being set right may run a little slower than its timers
        assert first_receipt >= ended
        assert first_message >= ended
        daemon.kill()


@pytest.mark.parametrize("fsync", ["100ms", "never"])
def test_the_other_policies_answer_while_the_sync_hangs(house, fsync):
    # This is the detector's own test too: under these policies it must see a receipt before the end of a sync.
    with house.daemon(fsync) as daemon:
        client, consumer = daemon.connect(), daemon.connect()
        put(client, destination="/queue/b")
        ack = hold(client, "/queue/b")
        consumer.send("SUBSCRIBE", {"destination": "/queue/a", **SUBSCRIBE, "prefetch-count": "10", "receipt": "sub"})
        assert consumer.frame()[0] == "RECEIPT"
        put(client, destination="/queue/c")  # behind the batch that defined /queue/a
        if fsync != "never":
            until_synced(daemon, client)  # the sync that hangs must begin behind what is sent now
        # What is dead since the start goes after a sync in every policy: that one must not be taken for the late one.
        daemon.wait_for(lambda: all(sync.ended for sync in syncs(daemon)), "a sync hangs")
        house.late(HANG)
        sent = time.monotonic()
        client.sock.sendall(everything(ack))
        assert [client.frame()[1]["receipt-id"] for _ in range(3)] == ["ack", "commit", "send"]
        assert consumer.frame()[2] == b"in a transaction"
        if fsync != "never":
            assert wait_for_sync(daemon, sent).delay == HANG
        assert not any(sync.ended for sync in syncs(daemon, sent))
        daemon.kill()


def test_the_interval_answers_what_comes_during_a_sync(house):
    # the contract: under an interval the RECEIPT is sent after the write; no sync is in its way.
    with house.daemon("100ms") as daemon, daemon.connect() as client:
        put(client)
        until_synced(daemon, client)  # a sync that began in time would be taken for the late one
        house.late(HANG)
        sent = time.monotonic()
        put(client)
        sync = wait_for_sync(daemon, sent)
        put(client)
        daemon.kill()
        assert (sync.delay, sync.ended) == (HANG, None)


def test_the_interval_syncs_while_nothing_happens(house):
    with house.daemon("100ms") as daemon, daemon.connect() as client:
        put(client)
        sent = time.monotonic()
        put(client)
        assert wait_for_end(daemon, sent) - sent < 10.0  # a hundred intervals, for a machine that is busy


def test_a_hundred_sends_in_one_segment_cost_at_most_two_syncs(house):
    with house.daemon("always") as daemon, daemon.connect() as client:
        put(client)  # the segment is born and the queue defined
        sent = time.monotonic()
        frames = [encode("SEND", {"destination": "/queue/a", "receipt": str(n)}, b"x") for n in range(100)]
        client.sock.sendall(b"".join(frames))
        assert [client.frame()[1]["receipt-id"] for _ in range(100)] == [str(number) for number in range(100)]
        answered = time.monotonic()
        client.close()
        assert daemon.terminate() == 0
        assert 1 <= sum(sync.began <= answered for sync in syncs(daemon, sent)) <= 2
