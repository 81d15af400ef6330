"""At `limits.queues` an idle queue that a client made goes, the longest unused first; what is needed never does."""

from __future__ import annotations

import pytest
from broker_fakes import SlowStore, World, world

from radiator.broker.idle import MOST_UNSETTLED
from radiator.config.schema import Destination
from radiator.errors import Refused, StoreBusy

LIMIT = r"limits\.queues is 3"
BOTH = pytest.mark.parametrize("persistent", [False, True])


def house(*destinations: Destination, persistent: bool = False, limit: int = 3, disk: SlowStore | None = None) -> World:
    return world(*destinations, disk=disk, persistent=persistent, limit_queues=limit)


def names(w: World) -> set[str]:
    there = {queue.name for queue in w.broker.queues.values()}
    assert there == {name for name, target in w.broker.targets.items() if target in w.broker.queues.values()}
    assert there == {queue.name for store in (w.memory, w.disk) for queue in store.queues()}
    return there


def done(w: World) -> None:
    """Everything that is on its way arrives."""
    while w.disk.batch:
        w.disk.complete()


def use(w: World, name: str) -> None:
    """A message goes in and out, and its consumer leaves."""
    c = w.connect()
    c.send(name, "x")
    c.subscribe(name)
    done(w)
    assert c.got() == ["x"]
    c.ack("x")
    done(w)
    c.client.close()


@BOTH
def test_the_longest_unused_goes(persistent):
    w = house(persistent=persistent)
    for name in ("/queue/1", "/queue/2", "/queue/3", "/queue/1"):
        use(w, name)
    numbers = {queue.number for queue in w.broker.queues}
    c = w.connect()
    c.send("/queue/4", "1")
    assert names(w) == {"/queue/1", "/queue/3", "/queue/4"}
    c.subscribe("/queue/5")
    assert names(w) == {"/queue/1", "/queue/4", "/queue/5"}
    c.send("/queue/2", "again")
    done(w)
    assert names(w) == {"/queue/2", "/queue/4", "/queue/5"}
    assert w.ready("/queue/2") == ["again"]
    assert not numbers & {queue.number for queue in w.broker.queues}, "no number is used twice"


@BOTH
@pytest.mark.parametrize("use", ["send", "subscribe"])
def test_with_all_in_use_a_new_name_is_refused(persistent, use):
    w = house(Destination("/queue/configured", "queue", persistent=persistent), persistent=persistent)
    c = w.connect()
    c.send("/queue/full", "1")
    done(w)
    c.subscribe("/queue/consumed")
    for _ in range(3):
        with pytest.raises(Refused, match=LIMIT):
            c.send("/queue/new", "1") if use == "send" else c.subscribe("/queue/new")
    assert names(w) == {"/queue/configured", "/queue/full", "/queue/consumed"}
    c.client.unsubscribe("/queue/consumed")
    c.send("/queue/new", "1") if use == "send" else c.subscribe("/queue/new")
    assert names(w) == {"/queue/configured", "/queue/full", "/queue/new"}


def test_what_the_configuration_names_stays():
    w = house(
        Destination("/queue/a", "queue", persistent=False, dead_letter="/queue/a.dead"),
        Destination("/fanout/f", "fanout", queues=("/queue/f",)),
    )
    assert len(names(w)) == 3
    use(w, "/queue/a")
    c = w.connect()
    c.subscribe("/queue/f")
    c.client.unsubscribe("/queue/f")
    with pytest.raises(Refused, match=LIMIT):
        c.send("/queue/new", "1")


def test_a_queue_that_left_the_configuration_stays():
    disk = SlowStore()
    house(Destination("/old/queue", "queue", persistent=True), disk=disk).connect().send("/old/queue", "1")
    disk.complete()
    w = house(disk=disk, limit=1)
    c = w.connect()
    c.subscribe("/old/queue")
    assert c.got() == ["1"]
    c.ack("1")
    done(w)
    c.client.close()
    with pytest.raises(Refused, match=r"limits\.queues is 1"):
        w.connect().send("/queue/new", "1")


def test_what_is_not_allowed_takes_nothing_away():
    w = house(Destination("/queue/mail.*", "queue", persistent=False, is_pattern=True), limit=1)
    w.broker.catalogue.create = False
    use(w, "/queue/mail.1")
    c = w.connect()
    with pytest.raises(Refused, match="unknown destination"):
        c.send("/queue/other", "1")
    assert names(w) == {"/queue/mail.1"}
    c.send("/queue/mail.2", "1")
    assert names(w) == {"/queue/mail.2"}


def test_what_was_sent_and_is_not_durable_yet_keeps_its_queue():
    w = house(persistent=True, limit=1)
    c = w.connect()
    c.send("/queue/1", "1")
    with pytest.raises(Refused, match=r"limits\.queues is 1"):
        c.send("/queue/2", "1")
    w.disk.complete()
    assert w.ready("/queue/1") == ["1"]


def test_what_is_reserved_until_another_engine_is_durable_keeps_its_queue():
    w = house(Destination("/queue/disk", "queue", persistent=True), limit=2)
    c = w.connect()
    c.client.begin("t")
    c.send("/queue/disk", "1", transaction="t")
    c.send("/queue/memory", "2", transaction="t")
    c.client.commit("t")
    with pytest.raises(Refused, match=r"limits\.queues is 2"):
        c.send("/queue/2", "1")
    w.disk.complete()
    assert w.ready("/queue/memory") == ["2"]


@BOTH
def test_an_acknowledgement_that_is_under_way_keeps_its_queue(persistent):
    w = house(persistent=persistent, limit=1)
    c = w.connect()
    c.send("/queue/1", "1")
    c.subscribe("/queue/1")
    done(w)
    assert c.got() == ["1"]
    c.client.begin("t")
    c.ack("1", transaction="t")
    c.client.unsubscribe("/queue/1")
    for _ in range(2):
        with pytest.raises(Refused):
            c.send("/queue/2", "1")
    c.client.commit("t")
    if persistent:
        with pytest.raises(Refused):
            c.send("/queue/2", "1")
    done(w)
    c.send("/queue/2", "1")
    assert names(w) == {"/queue/2"}


@BOTH
@pytest.mark.parametrize("end", ["commit", "abort", "close"])
def test_a_send_in_an_open_transaction_keeps_its_queue(persistent, end):
    w = house(persistent=persistent, limit=1)
    c, other = w.connect(), w.connect()
    c.client.begin("t")
    c.send("/queue/1", "1", "2", transaction="t")
    for _ in range(2):
        with pytest.raises(Refused):
            other.send("/queue/2", "1")
    if end == "commit":
        c.client.commit("t")
        done(w)
        assert w.ready("/queue/1") == ["1", "2"]
        with pytest.raises(Refused):
            other.send("/queue/2", "1")
        return
    c.client.abort("t") if end == "abort" else c.client.close()
    other.send("/queue/2", "1")
    assert names(w) == {"/queue/2"}


def test_dead_letters_on_their_way_keep_their_queue():
    w = house(
        Destination("/queue/d*", "queue", persistent=True, dead_letter="/queue/dead", is_pattern=True),
        limit=2,
    )
    c = w.connect()
    c.send("/queue/d1", "1")
    c.subscribe("/queue/d1")
    done(w)
    assert c.got() == ["1"]
    w.disk.cold.add(b"1")
    c.nack("1", requeue=False)
    c.client.close()
    w.broker.dispatch()
    other = w.connect()
    with pytest.raises(Refused):
        other.send("/queue/d2", "1")
    w.disk.warm()
    w.broker.dispatch()
    done(w)
    assert w.ready("/queue/dead") == ["1"]
    other.send("/queue/d2", "1")


def test_a_restart_knows_what_clients_made():
    w = house(persistent=True)
    use(w, "/queue/1")
    use(w, "/queue/2")
    w.connect().send("/queue/3", "kept")
    done(w)
    again = house(persistent=True, disk=w.disk)
    c = again.connect()
    c.send("/queue/4", "1")
    c.send("/queue/5", "1")
    assert names(again) == {"/queue/3", "/queue/4", "/queue/5"}
    with pytest.raises(Refused, match=LIMIT):
        c.send("/queue/6", "1")


def test_a_full_store_makes_creators_wait_and_drops_nothing():
    w = house(persistent=True, limit=1)
    use(w, "/queue/1")
    c = w.connect()
    w.disk.room = False
    for attempt in (lambda: c.send("/queue/2", "1"), lambda: c.subscribe("/queue/2")):
        with pytest.raises(StoreBusy):
            attempt()
    assert names(w) == {"/queue/1"}
    w.disk.room = True
    c.send("/queue/2", "1")
    assert names(w) == {"/queue/2"}


def test_a_refusal_looks_at_no_queue_twice():
    w = house(limit=1000)
    c = w.connect()
    for number in range(1000):
        c.send(f"/queue/{number}", "1")
    with pytest.raises(Refused):
        c.send("/queue/new", "1")
    assert not w.broker.idle._listed


def test_a_search_has_an_end_and_the_next_one_goes_on():
    count = MOST_UNSETTLED + 2
    w = house(limit=count)
    c = w.connect()
    c.client.begin("t")
    for number in range(count - 1):
        c.send(f"/queue/{number}", "1", transaction="t")
    use(w, "/queue/idle")
    with pytest.raises(Refused):
        c.send("/queue/new", "1")
    c.send("/queue/new", "1")
    assert "/queue/idle" not in names(w)


def test_totals_remember_what_is_gone():
    w = house(limit=1)
    use(w, "/queue/1")
    use(w, "/queue/2")
    stats = w.broker.stats()
    assert set(stats["queues"]) == {"/queue/2"}
    totals = stats["totals"]
    assert (totals["put"], totals["delivered"], totals["acked"], totals["ready"]) == (2, 2, 2, 0)
