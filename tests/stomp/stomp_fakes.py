"""A broker that only takes note, and one end of a conversation with a session: no routing, no store, no socket."""

from __future__ import annotations

from stomp_seal import sealed

from radiator.config.schema import Limits
from radiator.errors import StoreBusy
from radiator.message import Delivery, Message
from radiator.stomp.frame_pure import Frame, Parser
from radiator.stomp.grammar import SERVER_COMMANDS
from radiator.stomp.session import Session

WALL_MS = 1_700_000_000_000


class FakeQueue:
    def __init__(self, number):
        self.number = number


class FakeSubscription:
    def __init__(self, id, destination, ack, prefetch, wire_id):
        self.id, self.destination, self.ack, self.prefetch, self.wire_id = id, destination, ack, prefetch, wire_id


class FakeClient:
    """Takes note of every call; raises what `raises` says, for the named method; `busy` is a store without room."""

    def __init__(self, broker, peer):
        self.broker, self.peer = broker, peer
        self.calls = []
        self.last_unit = 0
        self.busy = False
        self.raises = {}
        self.held = {}
        self.subscriptions = {}
        self.closed = False
        self.acks = 1000

    def _call(self, name, *args):
        if name in self.raises:
            raise self.raises[name]
        self.calls.append((name, *args))

    def next_ack(self):
        self.acks += 1
        return self.acks

    def send(self, destination, message, transaction=None):
        if self.busy:
            raise StoreBusy("no room")
        self._call("send", destination, message.body, transaction)
        self.broker.messages.append(message)
        if self.broker.slow:
            self.broker.appended += 1
            self.last_unit = self.broker.appended

    def subscribe(self, id, destination, ack, prefetch, wire_id):
        self._call("subscribe", id, destination, ack, prefetch, wire_id)
        self.subscriptions[id or destination] = FakeSubscription(id, destination, ack, prefetch, wire_id)

    def unsubscribe(self, id, destination):
        self._call("unsubscribe", id, destination)

    def settle(self, delivery, *, positive, requeue=True, transaction=None):
        self._call("settle", (delivery.queue.number, delivery.id), positive, requeue, transaction)

    def find_ack(self, ack):
        return self.held.get(ack)

    def find_message(self, queue, id, subscription_id):
        self._call("find_message", queue, id, subscription_id)
        return self.held.get((queue, id))

    def begin(self, name):
        self._call("begin", name)

    def commit(self, name):
        if self.busy:
            raise StoreBusy("no room")
        self._call("commit", name)

    def abort(self, name):
        self._call("abort", name)

    def taken(self, deliveries):
        self._call("taken", *[delivery.id for delivery in deliveries])

    def untaken(self, deliveries):
        self._call("untaken", *[delivery.id for delivery in deliveries])

    def output_drained(self):
        self._call("output_drained")

    def receipt_mark(self):
        return (self.last_unit, None)

    def close(self):
        self.closed = True

    def deliver(self, subscription, id, block, body, *, queue=7, ack=0, deliveries=0, version=12, plain=True):
        """Let the broker hand a message to the session, as dispatch would."""
        delivery = Delivery(FakeQueue(queue), id, deliveries, Message(version, plain, block, body))
        delivery.ack = ack
        self.held[ack] = self.held[queue, id] = delivery
        self.peer.deliver(self.subscriptions[subscription], delivery)
        return delivery


class FakeBroker:
    """`slow`: every SEND waits for `commit(number)` as on a disk."""

    def __init__(self):
        self.committed = 0
        self.appended = 0
        self.slow = False
        self.messages = []
        self.clients = []

    def client(self, peer):
        client = FakeClient(self, peer)
        self.clients.append(client)
        return client

    def wall_ms(self):
        return WALL_MS

    def reached(self, mark):
        return self.committed >= mark[0]

    def commit(self, number):
        self.committed = number
        for client in self.clients:
            client.peer.release_receipts(number)


class Talk:
    """A client's end of one session. Time stands still unless `now` is set; all output is taken at once."""

    def __init__(self, broker=None, *, limits=None, version=None, heart_beat=None, **changes):
        self.broker = broker or FakeBroker()
        self.now = 100.0
        self.woken = 0
        self.session = Session(
            self.broker,
            limits or Limits(**changes),
            session_id="session-1",
            server="radiator/0.1",
            wake=self._wake,
        )
        self.client = self.session.client
        self.parser = Parser(max_frame=1 << 24, max_headers=100, max_header_line=1 << 16, commands=SERVER_COMMANDS)
        self.session.tick(self.now)
        self.hello = None
        if version:
            lines = [f"accept-version:{version}", "host:here"]
            if heart_beat:
                lines.append(f"heart-beat:{heart_beat}")
            self.tell("\n".join(["CONNECT", *lines, "", "\0"]))
            (self.hello,) = self.frames()
            assert self.hello.command == "CONNECTED"
            self.parser.version = {"1.0": 10, "1.1": 11, "1.2": 12}[version]

    def _wake(self, session):
        assert session is self.session or not hasattr(self, "session")
        self.woken += 1

    def tell(self, data):
        """The client's bytes arrive, in one piece."""
        with sealed():
            self.session.receive_data(data.encode() if isinstance(data, str) else data, self.now)

    def wire(self):
        """All bytes that the session wants to send; they count as sent."""
        parts = []
        while self.session.output_bytes:
            data = bytes(self.session.data_to_send())
            assert data
            parts.append(data)
            self.session.sent(len(data), self.now)
        assert not self.session.data_to_send()
        return b"".join(parts)

    def frames(self) -> list[Frame]:
        """All frames that the session wants to send; heart-beats in between are skipped."""
        self.parser.receive_data(self.wire())
        frames = []
        while (frame := self.parser.next_frame()) is not None:
            frames.append(frame)
        assert not self.parser.mid_frame
        return frames

    def ask(self, data):
        self.tell(data)
        return self.frames()

    def error(self, data=None):
        """The one ERROR that ends the conversation after `data`."""
        if data is not None:
            self.tell(data)
        (frame,) = self.frames()
        assert frame.command == "ERROR"
        assert self.session.closing
        assert self.session.ending
        return frame

    def tick(self, now):
        self.now = now
        with sealed():
            return self.session.tick(now)
