"""The pump alone, in this process: real sockets and gevent's real loop, sessions and a store that only take notes."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from math import inf

import gevent
import pytest
from daemon import PATIENCE
from gevent.hub import Waiter

from radiator.config.schema import Address
from radiator.errors import StoreFailed
from radiator.server import connection as connection_module
from radiator.server import listener as listener_module
from radiator.server.connection import Connection
from radiator.server.listener import Listener
from radiator.server.turn import RECEIVE_BYTES, Turn


class Store:
    """Takes note of the calls; `room` is what it says of itself."""

    def __init__(self, events):
        self.events = events
        self.room = True
        self.error = None

    def flush(self):
        self.events.append("flush")
        if self.error:
            raise self.error

    def has_room(self):
        return self.room

    def completed(self):
        self.events.append("completed")

    def tick(self, now):
        return None


class Broker:
    def __init__(self, events):
        self.events = events
        self.turn_is_spent = False

    def begin_turn(self):
        self.turn_is_spent = False

    def dispatch(self):
        self.events.append("dispatch")


class Log:
    def __init__(self):
        self.lines = []

    def debug(self, event, **fields):
        self.lines.append(("debug", event, fields))

    def warning(self, event, **fields):
        self.lines.append(("warning", event, fields))

    def error(self, event, **fields):
        self.lines.append(("error", event, fields))


class Session:
    """Echoes; a subclass or an attribute makes it something else."""

    def __init__(self, events, name="it", echo=True):
        self.events, self.name, self.echo = events, name, echo
        self.blocked = False
        self.postponed = False
        self.closing = False
        self.hasty = False
        self.wants_read = True
        self.deadline = inf
        self.output = b""
        self.received = b""
        self.lost = 0
        self.drained = 0
        self.connection = None

    @property
    def output_bytes(self):
        return len(self.output)

    def append(self, data):
        self.output += data
        self.connection.wake(self)

    def receive_data(self, data, now):
        data = bytes(data)
        self.events.append(("receive", self.name, len(data)))
        self.received += data
        if self.echo:
            self.append(data)

    def resume(self, now):
        self.events.append(("resume", self.name))
        self.blocked = False

    def data_to_send(self):
        return self.output[: 256 << 10]

    def sent(self, count, now):
        self.events.append(("sent", self.name, count))
        self.output = self.output[count:]

    def tick(self, now):
        return None

    def drain(self, now):
        self.drained += 1
        self.closing = True
        self.connection.wake(self)

    def connection_lost(self):
        self.lost += 1


class World:
    """A turn with its fakes, and clients at the other ends of socket pairs."""

    def __init__(self):
        self.events = []
        self.failures = []
        self.log = Log()
        self.store = Store(self.events)
        self.loop = gevent.get_hub().loop
        self.turn = Turn(self.loop, self.store, self.log, self.failures.append)
        self.broker = Broker(self.events)
        self.turn.start(self.broker, [-1])
        self.peers = []
        self.go()
        self.events.clear()

    def client(self, session):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.settimeout(PATIENCE)
        connection = Connection(self.turn, ours, session.name)
        session.connection = connection
        connection.start(session)
        self.peers.append(theirs)
        return connection, theirs

    def go(self, turns=2):
        """Let the loop poll so many times."""
        for _ in range(turns):
            waiter = Waiter()
            timer = self.loop.timer(0.0)
            timer.start(waiter.switch, None)
            waiter.get()
            timer.close()

    def go_until(self, condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "it did not come to that"
            self.go(1)

    def close(self):
        for connection in list(self.turn.connections):
            connection.close()
        self.turn.stop()
        for peer in self.peers:
            peer.close()
        assert not self.failures


@pytest.fixture
def world():
    made = World()
    yield made
    made.close()


def test_a_turn_hands_to_the_disk_then_to_consumers_then_to_the_sockets(world):
    _, client = world.client(Session(world.events))
    client.sendall(b"hello")
    world.go_until(lambda: "dispatch" in world.events)
    assert client.recv(100) == b"hello"
    assert world.events == [("receive", "it", 5), "flush", "dispatch", ("sent", "it", 5), "flush"]


def test_all_that_came_in_a_turn_joins_one_batch(world):
    clients = [world.client(Session(world.events, str(number)))[1] for number in range(10)]
    for client in clients:
        client.sendall(b"x")
    world.go_until(lambda: "dispatch" in world.events)
    assert world.events.index("flush") == 10
    assert world.events.count("dispatch") == 1


def test_a_flood_is_read_64_kib_a_turn_and_delays_nobody(world):
    flooder = Session(world.events, "flooder", echo=False)
    _, flood = world.client(flooder)
    flood.setblocking(False)
    quiet = Session(world.events, "quiet")
    _, client = world.client(quiet)
    sent = 0
    answered_after = None
    for turn in range(40):
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += flood.send(bytes(65536))
        if turn == 5:
            client.sendall(b"?")
            before = len(flooder.received)
        world.go(1)
        if answered_after is None and not quiet.output and quiet.received:
            answered_after = len(flooder.received) - before
    sizes = [event[2] for event in world.events if event[0] == "receive" and event[1] == "flooder"]
    assert max(sizes) <= RECEIVE_BYTES
    assert answered_after <= 2 * RECEIVE_BYTES
    for first, second in zip(world.events, world.events[1:], strict=False):
        assert not (first[0] == second[0] == "receive" and first[1] == second[1]), "read twice in one turn"


def test_a_client_that_does_not_read_delays_nobody_and_gets_every_byte(world):
    slow = Session(world.events, "slow", echo=False)
    _, stuck = world.client(slow)
    data = bytes(range(256)) * 16384  # 4 MiB
    slow.append(data)
    _, other = world.client(Session(world.events, "other"))
    world.go(5)
    assert 0 < slow.output_bytes < len(data)
    other.sendall(b"ping")
    world.go_until(lambda: ("sent", "other", 4) in world.events)
    assert other.recv(10) == b"ping"
    got = bytearray()

    def read():
        with contextlib.suppress(BlockingIOError):
            got.extend(stuck.recv(1 << 20))
        return len(got) == len(data)

    stuck.setblocking(False)
    world.go_until(read)
    assert got == data
    world.go_until(lambda: slow.output_bytes == 0)
    before = len(world.events)
    world.go(5)
    assert world.events[before:] == [], "the write watcher was left running"


def test_what_the_end_of_a_turn_makes_dirty_waits_until_the_sockets_were_polled(world):
    class Chatty(Session):
        def sent(self, count, now):
            super().sent(count, now)
            self.append(b"more")

    _, client = world.client(Chatty(world.events, "chatty"))
    quiet = Session(world.events, "quiet", echo=False)
    _, other = world.client(quiet)
    client.sendall(b"start")
    world.go_until(lambda: world.events.count("dispatch") > 3)
    before = world.events.count("dispatch")
    other.sendall(b"!")
    world.go_until(lambda: quiet.received)
    assert world.events.count("dispatch") - before <= 3


def test_the_end_lets_the_output_leave_then_shuts_and_discards(world):
    session = Session(world.events)
    connection, client = world.client(session)
    session.append(b"last words")
    session.closing = True
    world.go()
    assert client.recv(100) == b"last words"
    assert client.recv(100) == b""
    client.sendall(b"too late")
    world.go()
    assert session.received == b""
    assert not connection.closed
    client.shutdown(socket.SHUT_WR)
    world.go_until(lambda: connection.closed)
    assert session.lost == 1


def test_a_client_that_does_not_close_is_closed(world, monkeypatch):
    monkeypatch.setattr(connection_module, "LINGER_SECONDS", 0.1)
    session = Session(world.events)
    connection, client = world.client(session)
    session.append(b"bye")
    session.closing = True
    world.go_until(lambda: connection.closed)
    assert client.recv(100) == b"bye"
    assert session.lost == 1


def test_a_client_that_neither_reads_nor_closes_is_closed(world, monkeypatch):
    monkeypatch.setattr(connection_module, "LINGER_SECONDS", 0.1)
    session = Session(world.events)
    connection, client = world.client(session)
    client.sendall(b"x")
    session.append(bytes(8 << 20))
    session.closing = session.hasty = True
    world.go_until(lambda: connection.closed)
    assert session.output_bytes > 0
    assert session.lost == 1


def test_a_client_that_goes_on_reading_gets_all_it_is_owed(world, monkeypatch):
    monkeypatch.setattr(connection_module, "LINGER_SECONDS", 0.0)
    session = Session(world.events)
    connection, client = world.client(session)
    size = 8 << 20
    session.append(bytes(size))
    session.closing = True
    client.sendall(b"discarded")
    world.go()
    assert 0 < session.output_bytes < size
    world.turn.timers.soon(connection, world.turn.clock())
    ticks = []
    monkeypatch.setattr(session, "tick", ticks.append)
    world.go_until(lambda: ticks)
    assert not connection.closed
    got = 0

    def read():
        nonlocal got
        with contextlib.suppress(BlockingIOError):
            got += len(client.recv(1 << 20))
        return connection.closed

    client.setblocking(False)
    world.go_until(read)
    got += sum(map(len, iter(lambda: client.recv(1 << 20), b"")))
    assert got == size
    assert session.received == b""


@pytest.mark.parametrize("hasty", [True, False])
def test_the_end_of_input_is_not_looked_at_again_while_output_waits(world, hasty, monkeypatch):
    session = Session(world.events)
    connection, client = world.client(session)
    session.append(bytes(8 << 20))
    session.closing, session.hasty = True, hasty
    world.go()
    assert session.output_bytes
    ends = []
    real = Connection._end_of_input
    monkeypatch.setattr(Connection, "_end_of_input", lambda it: (ends.append(it), real(it)))
    client.shutdown(socket.SHUT_WR)
    world.go_until(lambda: ends)
    for _ in range(10):
        world.go()
    assert ends == [connection]
    assert not connection.closed


def test_an_end_of_input_gives_out_what_is_owed_then_closes(world):
    session = Session(world.events, echo=False)
    connection, client = world.client(session)
    client.shutdown(socket.SHUT_WR)
    session.append(b"receipt")
    world.go_until(lambda: connection.closed)
    assert session.drained == 1
    assert client.recv(100) == b"receipt"
    assert client.recv(100) == b""
    assert session.lost == 1


def test_a_reset_is_a_lost_connection(world):
    session = Session(world.events)
    connection, client = world.client(session)
    client.close()
    session.append(b"into the void")
    world.go_until(lambda: connection.closed)
    assert session.lost == 1


def test_an_unexpected_error_ends_that_connection_alone_and_is_logged(world):
    class Broken(Session):
        def receive_data(self, data, now):
            raise ZeroDivisionError("a bug")

    broken = Broken(world.events, "broken")
    connection, client = world.client(broken)
    _, other = world.client(Session(world.events, "other"))
    client.sendall(b"x")
    other.sendall(b"ping")
    world.go_until(lambda: connection.closed)
    world.go()
    assert client.recv(10) == b""
    assert other.recv(10) == b"ping"
    assert broken.lost == 1
    ((_, event, fields),) = [line for line in world.log.lines if line[0] == "error"]
    assert event == "internal error, connection dropped"
    assert fields["peer"] == "broken"
    assert "ZeroDivisionError" in fields["error"]
    assert "receive_data" in fields["traceback"]


@pytest.mark.parametrize("method", ["sent", "tick", "resume", "drain", "connection_lost"])
def test_an_error_in_any_call_of_a_session_ends_that_connection_alone(world, method):
    session = Session(world.events, "broken")

    def broken(*_):
        raise ZeroDivisionError("a bug")

    setattr(session, method, broken)
    connection, client = world.client(session)
    client.sendall(b"x")
    if method == "tick":
        session.deadline = 0.0
    elif method == "resume":
        session.blocked = True
    elif method in ("drain", "connection_lost"):
        client.shutdown(socket.SHUT_WR)
    world.go_until(lambda: connection.closed)
    assert any(line[0] == "error" for line in world.log.lines)


def test_a_failed_disk_ends_everything(world):
    class Unlucky(Session):
        def receive_data(self, data, now):
            raise StoreFailed("log/1: No space left on device")

    _, client = world.client(Unlucky(world.events))
    client.sendall(b"x")
    world.go_until(lambda: world.failures)
    (error,) = world.failures
    assert isinstance(error, StoreFailed)
    world.failures.clear()
    world.store.error = StoreFailed("again")
    world.turn.arm()
    world.go_until(lambda: world.failures)
    assert world.failures == [world.store.error]
    world.failures.clear()
    world.store.error = None


class Blocking(Session):
    """Finds the store full with everything it reads."""

    def receive_data(self, data, now):
        super().receive_data(data, now)
        self.blocked = True
        self.wants_read = False

    def resume(self, now):
        super().resume(now)
        self.wants_read = True


def test_blocked_sessions_wait_for_room_and_are_resumed_in_their_order(world):
    world.store.room = False
    sessions = [Blocking(world.events, name, echo=False) for name in "abc"]
    clients = []
    for session in sessions:
        _, client = world.client(session)
        client.sendall(b"1")
        world.go_until(lambda session=session: session.blocked)
        client.sendall(b"2")
        clients.append(client)
    _, consumer = world.client(Session(world.events, "consumer"))
    consumer.sendall(b"ack")
    world.go_until(lambda: ("sent", "consumer", 3) in world.events)
    assert [session.received for session in sessions] == [b"1"] * 3
    assert not [event for event in world.events if event[0] == "resume"]
    world.store.room = True
    world.turn.arm()
    world.go_until(lambda: all(session.received == b"12" for session in sessions))
    assert [event[1] for event in world.events if event[0] == "resume"][:3] == ["a", "b", "c"]


def test_room_for_one_resumes_one(world):
    world.store.room = False
    first, second = (Blocking(world.events, name, echo=False) for name in "ab")
    for session in (first, second):
        world.client(session)[1].sendall(b"1")
        world.go_until(lambda session=session: session.blocked)
    rooms = iter([True, True, False])
    world.store.has_room = lambda: next(rooms, False)
    world.turn.arm()
    world.go()
    assert [event for event in world.events if event[0] == "resume"] == [("resume", "a")]
    world.store.has_room = lambda: True
    world.turn.arm()
    world.go_until(lambda: not second.blocked)


class Publisher(Session):
    """Needs a turn of its own for every byte it reads."""

    def __init__(self, world, name):
        super().__init__(world.events, name, echo=False)
        self.broker = world.broker
        self.left = b""

    def receive_data(self, data, now):
        super().receive_data(data, now)
        self.left += bytes(data)
        self.publish()

    def resume(self, now):
        super().resume(now)
        self.publish()

    def publish(self):
        while self.left and not self.broker.turn_is_spent:
            self.events.append(("publish", self.name, self.left[:1]))
            self.left = self.left[1:]
            self.broker.turn_is_spent = True
        self.blocked = self.postponed = bool(self.left)
        self.wants_read = not self.blocked


def test_postponed_sessions_take_turns(world):
    sessions = [Publisher(world, name) for name in "abc"]
    clients = [world.client(session)[1] for session in sessions]
    for client in clients:
        client.sendall(b"123")
    world.go_until(lambda: all(session.received and not session.left for session in sessions))
    published = [event[1:] for event in world.events if event[0] == "publish"]
    names = [name for name, _ in published]
    # The one that is read first publishes once while the others are read; from then on they go round.
    first, *rest = names[1:4]
    assert sorted(names[1:4]) == ["a", "b", "c"]
    assert names == [first, first, *rest, first, *rest, *rest]
    for name in "abc":
        assert [digit for who, digit in published if who == name] == [b"1", b"2", b"3"]


def test_the_sockets_have_their_turn_between_those_of_a_postponed_session(world):
    publisher = Publisher(world, "publisher")
    world.client(publisher)[1].sendall(b"1" * 50)
    world.go_until(lambda: publisher.blocked)
    _, client = world.client(Session(world.events, "client"))
    client.sendall(b"x")
    world.go_until(lambda: ("sent", "client", 1) in world.events)
    assert publisher.left, "the client did not wait for its end"
    world.go_until(lambda: not publisher.left)


def test_what_waits_for_the_store_does_not_wait_for_those_that_are_postponed(world):
    world.store.room = False
    publisher, producer = Publisher(world, "publisher"), Blocking(world.events, "producer", echo=False)
    world.client(producer)[1].sendall(b"1")
    world.go_until(lambda: producer.blocked)
    world.client(publisher)[1].sendall(b"1" * 50)
    world.go_until(lambda: len(publisher.left) < 48)
    assert producer.blocked, "nor the other way round"
    world.store.room = True
    world.go_until(lambda: not producer.blocked)
    assert publisher.left


def test_a_postponed_session_that_is_lost_or_drained_goes(world):
    for end in ("close", "drain"):
        publisher = Publisher(world, end)
        connection, client = world.client(publisher)
        client.sendall(b"1" * 50)
        world.go_until(lambda publisher=publisher: publisher.blocked)
        getattr(connection, end)()
        client.close()
        world.go_until(lambda connection=connection: connection.closed)
        world.go(3)
        assert not world.turn.postponed


class Patient(Blocking):
    """Wants to close once it has drained and is not blocked any more, as the session of STOMP does."""

    def drain(self, now):
        if self.blocked:
            self.drained += 1
        else:
            super().drain(now)

    def resume(self, now):
        super().resume(now)
        if self.drained:
            self.closing = True
            self.connection.wake(self)


def test_the_end_of_a_blocked_client_waits_until_its_frames_are_taken(world):
    world.store.room = False
    session = Patient(world.events, echo=False)
    connection, client = world.client(session)
    client.sendall(b"1")
    world.go_until(lambda: session.blocked)
    session.wants_read = True  # the connection still sees the end
    connection._read(True)
    client.shutdown(socket.SHUT_WR)
    world.go_until(lambda: session.drained)
    world.go(5)
    assert not connection.closed
    world.store.room = True
    world.turn.arm()
    world.go_until(lambda: connection.closed)
    assert ("resume", "it") in world.events
    assert session.drained == 1


def test_a_blocked_client_that_is_drained_is_resumed_and_read_no_more(world):
    world.store.room = False
    session = Patient(world.events, echo=False)
    connection, client = world.client(session)
    client.sendall(b"1")
    world.go_until(lambda: session.blocked)
    connection.drain()
    client.sendall(b"2")
    world.go(5)
    assert not session.closing
    world.store.room = True
    world.turn.arm()
    world.go_until(lambda: session.closing)
    assert client.recv(10) == b""
    world.go(5)
    assert session.received == b"1"
    client.close()
    world.go_until(lambda: connection.closed)


def test_a_session_that_wants_no_input_is_not_read(world):
    session = Session(world.events, echo=False)
    _, client = world.client(session)
    session.wants_read = False
    client.sendall(b"1")
    world.go_until(lambda: session.received)
    client.sendall(b"2")
    world.go(5)
    assert session.received == b"1"
    session.wants_read = True
    session.append(b"now")
    world.go_until(lambda: session.received == b"12")


def listening(world, limit, count):
    """Listeners that count against one limit, and what they have accepted."""
    sessions = []

    def session_for(connection):
        sessions.append(Session(world.events, "accepted", echo=False))
        sessions[-1].connection = connection
        return sessions[-1]

    listeners = [Listener(world.turn, Address("127.0.0.1", 0), limit, session_for) for _ in range(count)]
    for listener in listeners:
        listener.listen()
    return listeners, sessions


def test_refused_connections_that_linger_count_on_no_listener(world):
    (first, second), accepted = listening(world, 2, 2)

    def dial(listener):
        peer = socket.create_connection((listener.address.host, listener.address.port), timeout=PATIENCE)
        world.peers.append(peer)
        return peer

    real = [dial(first), dial(second)]
    world.go_until(lambda: len(accepted) == 2)
    refused = [dial(first) for _ in range(3)] + [dial(second) for _ in range(3)]
    world.go_until(lambda: len(world.turn.connections) == 8)
    for peer in refused:
        world.go_until(lambda peer=peer: select.select([peer], [], [], 0)[0])
        assert b"too many connections: the limit is 2" in peer.recv(1000)
    assert len(accepted) == 2
    real.pop().close()
    world.go_until(lambda: any(session.lost for session in accepted))
    dial(second)
    world.go_until(lambda: len(accepted) == 3)
    late = dial(first)
    world.go_until(lambda: select.select([late], [], [], 0)[0])
    assert late.recv(1000).startswith(b"ERROR\n")
    assert len(accepted) == 3
    for peer in (*refused, late):
        peer.close()
    world.go_until(lambda: len(world.turn.connections) == 2)
    assert not world.turn.refused
    for listener in (first, second):
        listener.close()


def test_refusals_are_bounded_over_all_listeners(world, monkeypatch):
    monkeypatch.setattr(listener_module, "REFUSALS", 2)
    listeners, accepted = listening(world, 1, 2)
    said = []
    for listener in [listeners[0], *listeners * 2]:
        peer = socket.create_connection((listener.address.host, listener.address.port), timeout=PATIENCE)
        world.peers.append(peer)
        if not said:
            world.go_until(lambda: accepted)
            said.append(b"")
            continue
        world.go_until(lambda peer=peer: select.select([peer], [], [], 0)[0])
        said.append(peer.recv(1000)[:5])
    assert said == [b"", b"ERROR", b"ERROR", b"", b""]
    for listener in listeners:
        listener.close()


def test_deadlines_are_met(world):
    class Ticking(Session):
        ticks = 0

        def tick(self, now):
            self.ticks += 1
            self.deadline = now + 0.05 if self.ticks < 3 else inf
            return None if self.deadline == inf else self.deadline

    session = Ticking(world.events)
    world.client(session)
    world.go_until(lambda: session.ticks == 3)
    session.deadline = 0.0
    session.connection.wake(session)
    world.go_until(lambda: session.ticks == 4)
    assert session.deadline == inf


def test_a_closed_connection_costs_nothing_more(world):
    session = Session(world.events)
    connection, client = world.client(session)
    client.sendall(b"x")
    world.go_until(lambda: session.received)
    connection.close()
    connection.close()
    connection.wake(session)
    connection.drain()
    world.go(3)
    assert session.lost == 1
    assert connection.tick(0.0) is None
    assert connection not in world.turn.connections
