"""The contract: heart-beats run on a timer of their own; any byte counts as life; 2x grace at least."""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import median

import pytest
from contract_peer import house_of
from daemon import BUSY, PATIENCE


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with house_of(tmp_path_factory.mktemp("beats")) as house:
        yield house


@pytest.mark.parametrize("version", ["1.1", "1.2"])
@pytest.mark.parametrize("asked", [None, "0,0"])
def test_nobody_beats_who_was_not_asked(house, version, asked):
    with house.connect(version=version, **({"heart-beat": asked} if asked else {})) as client:
        assert client.connected["heart-beat"] == "0,0"
        assert client.quiet(0.4)
        client.put("/topic/a", "x")


def beats(client, seconds):
    """When single line feeds come, for so long; frames in between are dropped."""
    times = [time.monotonic()]
    end = times[0] + seconds
    while time.monotonic() < end:
        data = client.sock.recv(1 << 16)
        assert data
        times.append(time.monotonic())
    return times


@pytest.mark.parametrize("wanted", [100, 300])
def test_the_server_beats_at_least_as_often_as_it_agreed(house, wanted):
    with house.connect(heart_beat=f"0,{wanted}") as client:
        agreed = max(wanted, int(client.connected["heart-beat"].split(",")[0]))
        assert agreed > 0
        times = beats(client, 1.2)
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert median(gaps) < agreed / 1000 + 0.15  # the machine may be busy for a moment


def test_the_server_beats_while_others_keep_it_busy(house):
    with house.connect(heart_beat="0,200") as client, house.connect() as busy:
        times = [time.monotonic()]
        while len(times) < 6:
            assert time.monotonic() - times[-1] < PATIENCE
            busy.put("/queue/busy", "x" * 1000)
            if not client.quiet(0):
                client.sock.recv(1 << 16)
                times.append(time.monotonic())
        assert median(later - earlier for earlier, later in pairwise(times)) < 0.6


def test_silence_is_an_error_after_twice_the_interval_and_not_before(house):
    started = time.monotonic()
    with house.connect(heart_beat="300,0") as client:
        wanted = int(client.connected["heart-beat"].split(",")[1])
        interval = max(300, wanted) / 1000
        client.error("heart-beat")
        assert 2 * interval <= time.monotonic() - started < 2 * interval + 2 + BUSY


def test_any_byte_counts_as_life(house):
    """Line feeds, whole frames and pieces of frames keep a connection for longer than its silence would last."""
    with house.connect(heart_beat="2000,0") as client:
        frame = b"SEND\ndestination:/topic/a\nreceipt:r\n\nx\0"
        pieces = [b"\n", b"\r\n", frame[:10], frame[10:20], frame[20:]]
        started = time.monotonic()
        for piece in pieces:
            client.sock.sendall(piece)
            if piece is not pieces[-1]:
                assert client.quiet(1.5)
        assert client.frame()[0] == "RECEIPT"
        assert time.monotonic() - started > 4.5


def test_a_consumer_of_much_that_only_beats_lives(house):
    with house.connect(heart_beat="1000,0") as client, house.connect() as producer:
        client.subscribe("/queue/a", ack="auto")
        for number in range(8):
            client.sock.sendall(b"\n")
            producer.put("/queue/a", str(number))
            client.message(str(number))
            client.quiet(0.5)


@pytest.mark.parametrize("value", ["1", "a,b", "-1,0", "1,2,3", ""])
def test_a_heart_beat_that_is_none_is_an_error(house, value):
    with house.connect(connect=False) as client:
        client.send("CONNECT", {"accept-version": "1.2", "host": "/", "heart-beat": value})
        client.error("heart-beat")
