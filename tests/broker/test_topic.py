"""Topics: everybody connected now, nothing kept, slow subscribers."""

from __future__ import annotations

import pytest
from broker_fakes import message, world

from radiator.broker.topic import ENVELOPE_BYTES
from radiator.config.schema import Destination

LIMIT = 4096


def test_every_subscriber_connected_now_gets_it():
    w = world()
    p, a, b = w.connect(), w.connect(), w.connect()
    p.send("/topic/t", "too early")
    a.subscribe("/topic/t", ack="auto")
    b.subscribe("/topic/t", ack="auto")
    b.subscribe("/topic/t", ack="auto", id="twice")
    p.send("/topic/t", "1")
    a.client.unsubscribe("/topic/t")
    p.send("/topic/t", "2")
    assert [body for body, _ in a.peer.published] == ["1"]
    assert [body for body, _ in b.peer.published] == ["1", "1", "2", "2"]
    numbers = [number for _, number in b.peer.published]
    assert numbers[0] == numbers[1] < numbers[2]
    b.client.close()
    p.send("/topic/t", "3")
    assert len(b.peer.published) == 4
    assert "/topic/t" not in w.broker.targets


def slow_world(**settings):
    w = world(Destination("/topic/t", "topic", **settings), limit_output=LIMIT)
    p, slow, quick = w.connect(), w.connect(), w.connect()
    for c in (slow, quick):
        c.subscribe("/topic/t", ack="auto")
        c.subscribe("/topic/t", ack="auto", id="again")
    size = len(message("x" * 100, destination="/topic/t").block) + 100 + ENVELOPE_BYTES
    return w, p, slow, quick, size


@pytest.mark.parametrize("over", [0, 1])
def test_a_slow_subscriber_is_disconnected(over):
    w, p, slow, quick, size = slow_world()
    slow.subscribe("/queue/a")
    slow.send("/queue/a", "held")
    slow.got()
    slow.peer.output_bytes = LIMIT - size + over
    p.send("/topic/t", "x" * 100)
    assert len(quick.peer.published) == 2
    assert len(slow.peer.published) == (0 if over else 2)
    assert len(slow.peer.failed) == over
    if over:
        assert f"limits.output is {LIMIT}" in slow.peer.failed[0]
        p.send("/topic/t", "y")
        w.broker.dispatch()
        assert slow.client.closed
        assert w.ready("/queue/a") == ["held"]
        assert len(slow.peer.failed) == 1


@pytest.mark.parametrize("over", [0, 1])
def test_with_slow_drop_it_misses_messages_counted(over):
    w, p, slow, quick, size = slow_world(slow="drop")
    slow.peer.output_bytes = LIMIT - size + over
    p.send("/topic/t", "x" * 100)
    assert len(quick.peer.published) == 2
    assert len(slow.peer.published) == (0 if over else 2)
    assert slow.peer.failed == []
    assert w.broker.stats()["topics"]["/topic/t"]["dropped"] == 2 * over
    slow.peer.output_bytes = 0
    p.send("/topic/t", "y")
    assert slow.peer.published[-1][0] == "y"


def test_one_message_always_fits_an_empty_output():
    _, p, slow, _, _ = slow_world()
    p.send("/topic/t", "x" * 2 * LIMIT)
    assert len(slow.peer.published) == 2
    assert slow.peer.failed == []


def test_all_subscribers_share_what_was_translated_for_one_message():
    w = world()
    p, a, b = w.connect(), w.connect(), w.connect()
    seen = []
    for c in (a, b):
        c.peer.publish = lambda subscription, message, number, blocks: seen.append(blocks)
        c.subscribe("/topic/t", ack="auto")
    p.send("/topic/t", "1", "2")
    assert seen[0] is seen[1]
    assert seen[2] is seen[3] is not seen[0]
