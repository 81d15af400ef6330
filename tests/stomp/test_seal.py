"""The guard itself: it would see what it forbids."""

import socket
import time

import gevent
import pytest
from stomp_fakes import Talk
from stomp_seal import Unsealed, sealed


def test_the_guard_sees_a_clock():
    with pytest.raises(Unsealed, match="time"), sealed():
        time.monotonic()


def test_the_guard_sees_a_file(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(Unsealed, match="open"), sealed():
        path.write_text("x")


def test_the_guard_sees_a_socket():
    one, other = socket.socketpair()
    with one, other, pytest.raises(Unsealed, match="send"), sealed():
        one.send(b"x")


def test_the_guard_sees_a_switch():
    with pytest.raises(Unsealed, match=r"gevent|greenlet"), sealed():
        gevent.sleep(0)


def test_a_session_that_looks_at_the_clock_is_seen():
    talk = Talk(version="1.2")
    talk.broker.wall_ms = time.time_ns
    with pytest.raises(Unsealed):
        talk.tell("SEND\ndestination:/queue/a\n\n\0")
