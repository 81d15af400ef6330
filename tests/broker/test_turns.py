"""A turn makes a bounded number of copies for topics and fanouts; what is left follows in the next, in order."""

from __future__ import annotations

import pytest
from broker_fakes import world

from radiator.broker import broker as broker_module
from radiator.config.schema import Destination
from radiator.errors import TurnSpent

COPIES = 6
FANOUT = (Destination("/fanout/f", "fanout", queues=("/queue/1", "/queue/2", "/queue/3")),)


@pytest.fixture(autouse=True)
def few_copies(monkeypatch):
    monkeypatch.setattr(broker_module, "TURN_COPIES", COPIES)


def crowd(*destinations: Destination, size: int = 2):
    """A world whose /topic/t has `size` subscribers, a sender, and how often the broker asked for a turn."""
    w = world(*destinations)
    wakes: list[None] = []
    w.broker.wake = lambda: wakes.append(None)
    listeners = [w.connect() for _ in range(size)]
    for listener in listeners:
        listener.subscribe("/topic/t", ack="auto")
    return w, w.connect(), listeners, wakes


def heard(listener) -> list[str]:
    return [body for body, _ in listener.peer.published]


def test_a_topic_takes_as_much_as_a_turn_has_and_no_more():
    w, p, (a, b), _ = crowd()
    p.send("/topic/t", "1", "2")
    assert not w.broker.turn_is_spent
    p.send("/topic/t", "3")
    assert w.broker.turn_is_spent
    with pytest.raises(TurnSpent):
        p.send("/topic/t", "4")
    assert heard(a) == heard(b) == ["1", "2", "3"]
    w.broker.begin_turn()
    p.send("/topic/t", "4")
    assert heard(a) == heard(b) == ["1", "2", "3", "4"]


def test_one_message_is_never_too_much():
    w, p, listeners, _ = crowd(size=COPIES + 1)
    p.send("/topic/t", "1")
    with pytest.raises(TurnSpent):
        p.send("/topic/t", "2")
    w.broker.begin_turn()
    p.send("/topic/t", "2")
    assert [heard(listener) for listener in listeners] == [["1", "2"]] * (COPIES + 1)


def test_in_a_spent_turn_everything_else_goes_on():
    _, p, _, _ = crowd(size=COPIES)
    p.send("/topic/t", "1")
    p.send("/queue/a", "1")
    p.send("/topic/nobody", "1")
    p.client.begin("t")
    p.send("/topic/t", "2", transaction="t")
    p.subscribe("/queue/a")
    assert p.got() == ["1"]
    p.ack("1")
    with pytest.raises(TurnSpent):
        p.client.commit("t")
    assert p.client.transactions, "nothing happened"


def test_a_fanout_counts_its_queues():
    w, p, _, _ = crowd(*FANOUT)
    p.send("/fanout/f", "1", "2")
    with pytest.raises(TurnSpent):
        p.send("/fanout/f", "3")
    w.disk.complete()
    assert w.ready("/queue/1") == ["1", "2"]
    p.client.begin("t")
    p.send("/fanout/f", "4", transaction="t")
    with pytest.raises(TurnSpent):
        p.client.commit("t")
    w.broker.begin_turn()
    p.send("/fanout/f", "3")
    p.client.commit("t")
    assert w.broker.turn_is_spent
    w.disk.complete()
    assert w.ready("/queue/3") == ["1", "2", "3", "4"]


def test_one_commit_is_published_over_as_many_turns_as_it_needs():
    w, p, (a, _), wakes = crowd()
    p.client.begin("t")
    p.send("/topic/t", *map(str, range(8)), transaction="t")
    p.client.commit("t")
    assert heard(a) == ["0", "1", "2"]
    assert wakes
    with pytest.raises(TurnSpent):
        p.send("/topic/t", "8")
    wakes.clear()
    w.broker.begin_turn()
    assert heard(a) == ["0", "1", "2", "3", "4", "5"]
    assert wakes
    with pytest.raises(TurnSpent):
        p.send("/topic/t", "8")
    wakes.clear()
    w.broker.begin_turn()
    assert heard(a) == list(map(str, range(8)))
    assert not wakes
    assert not w.broker.deferred_topics
    p.send("/topic/t", "8")
    assert heard(a) == list(map(str, range(9)))


def test_what_waited_for_the_disk_is_published_in_turns_too():
    w, p, (a, _), wakes = crowd(*FANOUT)
    p.client.begin("t")
    p.send("/fanout/f", "on disk", transaction="t")
    p.send("/topic/t", *map(str, range(5)), transaction="t")
    p.client.commit("t")
    p.send("/topic/t", "5")
    assert heard(a) == []
    w.broker.begin_turn()
    wakes.clear()
    w.disk.complete()
    assert heard(a) == ["0", "1", "2"]
    assert p.peer.released == [1], "a receipt speaks for the disk"
    assert wakes
    w.broker.begin_turn()
    assert heard(a) == ["0", "1", "2", "3", "4", "5"]
