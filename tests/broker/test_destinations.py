"""What names mean: configured ones, patterns, defaults, stored queues and a configuration that changed."""

from __future__ import annotations

import re
from itertools import product

import pytest
from broker_fakes import SlowStore, message, world

from radiator.broker.broker import Broker
from radiator.config.destinations import matches
from radiator.config.schema import Config, Destination
from radiator.errors import ConfigError, Refused
from radiator.store.memory import MemoryStore


def queue_of(w, name):
    return w.broker.targets[name]


def test_first_use_makes_queues_and_topics_where_allowed():
    w = world(create=True, persistent=True)
    c = w.connect()
    c.send("/queue/a", "1")
    c.subscribe("/queue/b")
    c.subscribe("/topic/t")
    c.send("/topic/u", "1")
    assert queue_of(w, "/queue/a").persistent
    assert {queue.name for queue in w.disk.queues()} == {"/queue/a", "/queue/b"}
    assert "/topic/u" not in w.broker.targets, "a topic that nobody listens to takes no memory"


@pytest.mark.parametrize(
    "name",
    ["", "x", "/queue/", "/topic/", "/fanout/f", "/temp-queue/r", "/queue", "/other/x", "/queue/a\nb", "/queue/*"],
)
@pytest.mark.parametrize("use", ["send", "subscribe"])
def test_other_names_are_refused(name, use):
    w = world(create=True)
    c = w.connect()
    with pytest.raises(Refused, match="destination") as caught:
        getattr(c, use)(name, *([b"1".decode()] if use == "send" else []))
    assert str(caught.value).isascii()
    assert "\n" not in str(caught.value)
    assert not w.broker.targets
    assert not c.client.subscriptions


def test_without_create_unknown_is_refused_but_patterns_permit():
    w = world(
        Destination("/queue/exact.1", "queue", persistent=True),
        Destination("/queue/mail.*", "queue", persistent=False, max_messages=1, is_pattern=True),
        Destination("/queue/*.1", "queue", persistent=True, is_pattern=True),
        Destination("news/*", "topic", slow="drop", is_pattern=True),
        create=False,
    )
    c = w.connect()
    with pytest.raises(Refused, match="unknown destination /queue/x"):
        c.send("/queue/x", "1")
    with pytest.raises(Refused, match=r"unknown destination /queue/mail\.a/b"):
        c.send("/queue/mail.a/b", "1")
    c.send("/queue/mail.1", "1")
    assert not queue_of(w, "/queue/mail.1").persistent, "the first pattern in file order"
    with pytest.raises(Refused, match="max_messages is 1"):
        c.send("/queue/mail.1", "2")
    c.send("/queue/b.1", "1")
    assert queue_of(w, "/queue/b.1").persistent
    c.send("/queue/mail.2", "1")
    c.subscribe("news/today")
    assert queue_of(w, "news/today").drop_slow


def test_a_configured_name_may_be_anything():
    w = world(
        Destination("orders", "queue", persistent=False),
        Destination("everybody", "fanout", queues=("orders", "/queue/mail")),
        Destination("hall", "topic"),
        create=False,
    )
    c = w.connect()
    c.send("everybody", "1")
    w.disk.complete()
    assert w.ready("orders") == ["1"]
    assert w.ready("/queue/mail") == ["1"], "a name in queues is declared thereby"
    assert queue_of(w, "/queue/mail").persistent
    c.subscribe("hall")
    c.send("hall", "2")
    assert [body for body, _ in c.peer.published] == ["2"]
    c.client.unsubscribe("hall")
    assert "hall" in w.broker.targets


def test_a_fanout_cannot_be_subscribed_to():
    w = world(Destination("/fanout/f", "fanout", queues=("/queue/a",)))
    with pytest.raises(Refused, match="is a fanout"):
        w.connect().subscribe("/fanout/f")


def test_a_dead_letter_is_declared_thereby_and_as_persistent_as_its_queue():
    w = world(
        Destination("/queue/d", "queue", persistent=True, dead_letter="/queue/d.dead"),
        Destination("/queue/m", "queue", persistent=False, dead_letter="/queue/m.dead"),
        create=False,
    )
    assert queue_of(w, "/queue/d.dead").persistent
    assert not queue_of(w, "/queue/m.dead").persistent


def test_a_configuration_that_contradicts_itself_is_refused():
    with pytest.raises(ConfigError, match="must be persistent"):
        world(
            Destination("/queue/d", "queue", persistent=True, dead_letter="/queue/x"),
            Destination("/queue/x", "queue", persistent=False),
        )


def test_the_limit_of_queues():
    w = world(Destination("/queue/c", "queue"), limit_queues=2)
    c = w.connect()
    c.send("/queue/a", "1")
    for use in (lambda: c.send("/queue/b", "1"), lambda: c.subscribe("/queue/b")):
        with pytest.raises(Refused, match=r"limits\.queues is 2"):
            use()
    c.subscribe("/topic/t")
    c.send("/queue/a", "2")
    with pytest.raises(ConfigError, match=r"limits\.queues is 1"):
        world(Destination("/queue/c", "queue"), Destination("/queue/d", "queue"), limit_queues=1)


def stored(*names: str, messages: int = 1) -> SlowStore:
    disk = SlowStore()
    w = world(disk=disk, persistent=True)
    for name in names:
        queue = w.broker.consumable(name)
        for n in range(messages):
            queue.put(message(str(n)))
    disk.complete()
    return disk


def test_a_stored_queue_that_left_the_config_can_be_consumed_not_sent_to():
    w = world(disk=stored("/queue/old"), create=False)
    assert w.reports == [("queue_unconfigured", {"queue": "/queue/old", "messages": 1})]
    c = w.connect()
    with pytest.raises(Refused, match="not configured any more"):
        c.send("/queue/old", "1")
    c.client.begin("t")
    with pytest.raises(Refused, match="not configured any more"):
        c.send("/queue/old", "1", transaction="t")
    c.subscribe("/queue/old")
    assert c.got() == ["0"]
    c.ack("0")


@pytest.mark.parametrize("settings", [(), (Destination("/queue/o*", "queue", is_pattern=True),)])
def test_a_stored_queue_that_create_or_a_pattern_covers_is_an_ordinary_one(settings):
    w = world(*settings, disk=stored("/queue/old"), create=not settings, persistent=True)
    assert w.reports == []
    w.connect().send("/queue/old", "1")


@pytest.mark.parametrize(
    "now",
    [
        Destination("/queue/old", "queue", persistent=False),
        Destination("/queue/old", "topic"),
        Destination("/queue/old", "fanout", queues=("/queue/x",)),
        Destination("/queue/o*", "queue", persistent=False, is_pattern=True),
    ],
)
def test_a_change_of_type_or_persistence_is_refused_while_messages_are_stored(now):
    with pytest.raises(ConfigError, match="1 messages of it are on disk: configure it as a persistent queue"):
        world(now, disk=stored("/queue/old"))
    empty = stored("/queue/old", messages=0)
    w = world(now, disk=empty)
    assert "/queue/old" not in {queue.name for queue in empty.queues()}
    assert w.reports == [("queue_dropped", {"queue": "/queue/old"})]


def test_without_a_file_store_persistent_queues_are_refused():
    broker = Broker(
        Config(),
        None,
        MemoryStore(),
        wall_ms=lambda: 0,
        escape=lambda value, version: value.encode(),
        report=lambda event, **fields: None,
    )
    with pytest.raises(Refused, match="no store on disk"):
        broker.create("/queue/a")
    assert broker.committed == 0


def test_memory_queues_are_bounded_by_default():
    w = world()
    w.connect().send("/queue/a", "1")
    assert queue_of(w, "/queue/a").handle.bounds == (100_000, 64 << 20, False)


def test_stats_count_what_happened():
    w = world()
    c = w.connect()
    c.subscribe("/queue/a", 2)
    c.subscribe("/topic/t")
    c.send("/queue/a", "1", "2", "3")
    c.send("/topic/t", "x")
    c.got()
    c.ack("1")
    c.nack("2")
    c.got()
    stats = w.broker.stats()
    assert stats["clients"] == 1
    assert stats["published"] == 1
    assert stats["topics"]["/topic/t"] == {"subscribers": 1, "published": 1, "dropped": 0}
    assert stats["queues"]["/queue/a"] == {
        "ready": 0,
        "in_flight": 2,
        "consumers": 1,
        "put": 3,
        "delivered": 4,
        "acked": 1,
        "returned": 1,
        "dead_lettered": 0,
        "dropped": 0,
    }
    assert stats["totals"]["put"] == 3
    c.client.close()
    assert w.broker.stats()["clients"] == 0


def test_a_stored_queue_that_left_the_config_goes_once_it_is_empty():
    disk = stored("/queue/old", "/queue/kept", messages=0)
    w = world(Destination("/queue/kept", "queue"), disk=disk, create=False)
    assert w.reports == [("queue_dropped", {"queue": "/queue/old"})]
    assert [queue.name for queue in disk.queues()] == ["/queue/kept"]
    assert "/queue/old" not in w.broker.targets
    assert world(Destination("/queue/kept", "queue"), disk=disk, create=False).reports == []


@pytest.mark.parametrize("use", ["send", "subscribe"])
def test_a_name_is_measured_before_any_pattern_sees_it(use):
    w = world(Destination("/queue/*.*", "queue", persistent=True, is_pattern=True))
    c = w.connect()
    with pytest.raises(Refused, match="the name has 8008 bytes, 1000 are allowed"):
        getattr(c, use)("/queue/" + "." * 8000 + "/", *(["1"] if use == "send" else []))


PIECES = ["", "*", "a", "b", "/", "a*", "*b", "ab", "*a*", "a*b", "/*"]


def test_a_star_is_any_run_of_characters_but_slashes():
    names = ["".join(letters) for length in range(6) for letters in product("ab/", repeat=length)]
    patterns = {"".join(pieces) for pieces in product(PIECES, repeat=3)}
    for pattern in sorted(pattern for pattern in patterns if "**" not in pattern):
        oracle = re.compile("[^/]*".join(map(re.escape, pattern.split("*"))))
        assert [name for name in names if matches(pattern, name)] == list(filter(oracle.fullmatch, names)), pattern


@pytest.mark.parametrize("end", ["", "/", "b", "\n"])
def test_no_name_makes_a_pattern_go_back(end):
    # A matcher that tries every place for every star would be at it for years.
    name = "/queue/" + "." * 900 + end
    assert matches("/queue/" + "*." * 12 + "*", name) is (end != "/")
    assert not matches("/queue/" + "*." * 12 + "*x", name)
    assert not matches("/queue/" + "*." * 12 + "*..x..*", name)
