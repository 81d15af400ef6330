"""Random histories over several clients and queues of both engines: the rules of delivery hold after every step."""

from __future__ import annotations

from collections import Counter

from broker_fakes import Consumer, world
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from radiator.broker.queue import OUTPUT_MARK, Queue
from radiator.config.schema import Destination

QUEUES = ("/queue/m1", "/queue/m2", "/queue/d1", "/queue/d2")
MAX_DELIVERIES = 3
places = st.integers(0, 3)
queues = st.sampled_from(QUEUES)


class Broker(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.world = world(
            Destination("/queue/m1", "queue", persistent=False),
            Destination("/queue/m2", "queue", persistent=False, max_deliveries=MAX_DELIVERIES, dead_letter="/queue/md"),
            Destination("/queue/d1", "queue", persistent=True, max_deliveries=MAX_DELIVERIES, dead_letter="/queue/dd"),
            Destination("/queue/d2", "queue", persistent=True),
            Destination("/fanout/f", "fanout", queues=("/queue/m1", "/queue/d1", "/queue/d2")),
        )
        self.consumers = [self.connect() for _ in range(4)]
        self.sent = 0
        self.expected: Counter[tuple[str, str]] = Counter()
        self.acked: Counter[tuple[str, str]] = Counter()
        self.offered: dict[Consumer, list[tuple[str, str]]] = {}

    def connect(self) -> Consumer:
        consumer = self.world.connect()
        peer = consumer.peer
        plain = peer.deliver

        def deliver(subscription, delivery):
            client = consumer.client
            queue = subscription.queue
            assert not client.closed
            assert peer.output_bytes < OUTPUT_MARK
            assert client.subscriptions[subscription.id] is subscription
            if not subscription.auto:
                assert len(client.held) <= client.window
                assert subscription.count <= subscription.prefetch
            waiting = [*queue.handle.returned, *queue.handle.fresh, *(local.id for local in queue.local)]
            assert all(delivery.id < other for other in waiting), "out of order"
            assert queue.max_deliveries is None or delivery.deliveries < queue.max_deliveries
            plain(subscription, delivery)

        peer.deliver = deliver
        return consumer

    def body(self) -> str:
        self.sent += 1
        return f"b{self.sent}"

    def held(self, consumer: Consumer, place: int):
        client = consumer.client
        held = [delivery for delivery in client.held.values() if client.find_ack(delivery.ack) is delivery]
        return held[place % len(held)] if held else None

    def note_acked(self, deliveries) -> None:
        for delivery in deliveries:
            body = delivery.queue.messages[delivery.id].body.decode()
            self.acked[delivery.queue.name, body] += 1

    @rule(place=places, name=queues)
    def send(self, place, name):
        body = self.body()
        self.consumers[place].send(name, body)
        self.expected[name, body] += 1

    @rule(place=places)
    def fan_out(self, place):
        body = self.body()
        self.consumers[place].send("/fanout/f", body)
        for name in ("/queue/m1", "/queue/d1", "/queue/d2"):
            self.expected[name, body] += 1

    @rule(place=places, name=queues)
    def offer(self, place, name):
        """SEND in a transaction."""
        consumer = self.consumers[place]
        body = self.body()
        if not consumer.client.transactions:
            consumer.client.begin("t")
        consumer.send(name, body, transaction="t")
        self.offered.setdefault(consumer, []).append((name, body))

    @rule(
        place=places,
        name=queues,
        prefetch=st.sampled_from([None, 1, 2, 5]),
        ack=st.sampled_from(["client", "client-individual", "auto"]),
        second=st.booleans(),
    )
    def subscribe(self, place, name, prefetch, ack, second):
        self.consumers[place].subscribe(name, prefetch, ack, id=f"{name}{ack}{second}")

    @rule(place=places, which=places)
    def unsubscribe(self, place, which):
        consumer = self.consumers[place]
        ids = list(consumer.client.subscriptions)
        if ids:
            consumer.client.unsubscribe(ids[which % len(ids)])

    @rule(place=places, which=places, in_transaction=st.booleans())
    def ack(self, place, which, in_transaction):
        consumer = self.consumers[place]
        delivery = self.held(consumer, which)
        if delivery is None:
            return
        if in_transaction:
            if not consumer.client.transactions:
                consumer.client.begin("t")
            consumer.client.settle(delivery, positive=True, transaction="t")
            return
        self.note_acked(consumer.client._named(delivery))
        consumer.client.settle(delivery, positive=True)

    @rule(place=places, which=places, requeue=st.booleans(), in_transaction=st.booleans())
    def nack(self, place, which, requeue, in_transaction):
        consumer = self.consumers[place]
        delivery = self.held(consumer, which)
        if delivery is None or (not requeue and delivery.subscription.queue.dead_letter is None):
            return
        if in_transaction and not consumer.client.transactions:
            consumer.client.begin("t")
        consumer.client.settle(delivery, positive=False, requeue=requeue, transaction="t" if in_transaction else None)

    @precondition(lambda self: any(consumer.client.transactions for consumer in self.consumers))
    @rule(place=places, keep=st.booleans())
    def end_transaction(self, place, keep):
        consumer = self.consumers[place]
        if not consumer.client.transactions:
            return
        offered = self.offered.pop(consumer, [])
        if keep:
            self.note_acked(consumer.client.transactions["t"].acked)
            self.expected.update(offered)
            consumer.client.commit("t")
        else:
            consumer.client.abort("t")

    @rule(place=places, taken=st.integers(0, 3))
    def lose(self, place, taken):
        """The connection goes; of what waited for its socket the kernel had taken some."""
        consumer = self.consumers[place]
        self.take(consumer, taken)
        consumer.client.untaken(self.in_output(consumer))
        consumer.client.close()
        self.offered.pop(consumer, None)
        self.consumers[place] = self.connect()

    def in_output(self, consumer: Consumer):
        return [delivery for delivery in consumer.peer.deliveries if delivery.subscription.auto]

    def take(self, consumer: Consumer, count: int) -> None:
        taken = self.in_output(consumer)[:count]
        self.note_acked(taken)
        consumer.peer.deliveries = [delivery for delivery in consumer.peer.deliveries if delivery not in taken]
        consumer.client.taken(taken)

    @rule(place=places, count=st.integers(0, 3))
    def kernel_takes(self, place, count):
        self.take(self.consumers[place], count)

    @rule(place=places, full=st.booleans())
    def output(self, place, full):
        consumer = self.consumers[place]
        consumer.peer.output_bytes = OUTPUT_MARK if full else 0
        if not full:
            consumer.client.output_drained()

    @rule()
    def complete(self):
        self.world.disk.complete()

    @invariant()
    def rules_hold(self):
        broker = self.world.broker
        broker.dispatch()
        assert not broker._dirty
        for queue in broker.queues.values():
            self.check_ring(queue)
            assert not queue.local
            if queue.handle.ready:
                for seat in queue.seats.values():
                    assert not self.has_room(seat), f"{queue.name} has a ready message beside a consumer with room"
        for consumer in self.consumers:
            client = consumer.client
            assert client.window == max((s.prefetch for s in client.queue_subscriptions if not s.auto), default=0)
            for subscription in client.queue_subscriptions:
                mine = [ack for ack, held in client.held.items() if held.subscription is subscription]
                if not subscription.auto:
                    assert subscription.count == len(mine)
                assert subscription.order is None or list(subscription.order) == sorted(mine)

    def has_room(self, seat) -> bool:
        client = seat.client
        free = len(client.held) < client.window
        return client.peer.output_bytes < OUTPUT_MARK and any(
            subscription.auto or (free and subscription.count < subscription.prefetch)
            for subscription in seat.subscriptions
        )

    def check_ring(self, queue: Queue) -> None:
        entries = Counter(seat for _, seat in queue.ring if seat.subscriptions)
        for seat in queue.seats.values():
            assert seat.subscriptions
            assert entries[seat] == seat.listed
            assert seat.listed or seat in seat.client.missed
        assert queue.stale == sum(not seat.subscriptions for _, seat in queue.ring)

    def teardown(self):
        """Nothing is lost, nothing is there twice, nobody acknowledged in vain."""
        for place in range(len(self.consumers)):
            self.lose(place, 0)
        broker = self.world.broker
        for _ in range(3):
            broker.dispatch()
            self.world.disk.complete()
        left: Counter[tuple[str, str]] = Counter()
        for queue in broker.queues.values():
            assert queue.handle.in_flight == 0
            assert queue.handle.ready == len(queue.handle.messages)
            for stored in queue.handle.messages.values():
                home = queue.name
                if home.endswith("d"):
                    home = stored.block.split(b"\n")[0].removeprefix(b"dead-letter-queue:").decode()
                left[home, stored.body.decode()] += 1
        assert left + self.acked == self.expected
        assert not broker._later
        assert not broker.waiters


TestBroker = Broker.TestCase
TestBroker.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
