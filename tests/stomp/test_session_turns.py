"""A turn that has made its copies: the frames that would make more wait for the next, everything else goes on."""

from __future__ import annotations

import pytest
from stomp_fakes import Talk
from stomp_house import House
from test_dialogues import ack, bodies, send, subscribe

from radiator.broker import broker as broker_module
from radiator.errors import StoreBusy, TurnSpent

BURST = "".join(send("/topic/t", str(number), str(number)) for number in range(6))


@pytest.fixture(autouse=True)
def few_copies(monkeypatch):
    monkeypatch.setattr(broker_module, "TURN_COPIES", 4)


@pytest.fixture
def house():
    """Two subscribers to /topic/t: two messages a turn."""
    made = House()
    made.listeners = [made.talk(), made.talk()]
    for listener in made.listeners:
        listener.ask(subscribe("/topic/t", ack="auto"))
    return made


def next_turn(house, *talks):
    """What the server does where a turn begins."""
    house.broker.begin_turn()
    for talk in talks:
        talk.session.resume(talk.now)


def receipts(frames):
    return [frame.headers["receipt-id"] for frame in frames if frame.command == "RECEIPT"]


def test_a_burst_goes_over_as_many_turns_as_it_needs(house):
    sender = house.talk()
    assert receipts(sender.ask(BURST)) == ["0", "1"]
    assert sender.session.blocked
    assert sender.session.postponed
    assert not sender.session.wants_read
    assert bodies(house.listeners[0].frames()) == ["0", "1"]
    next_turn(house, sender)
    assert receipts(sender.frames()) == ["2", "3"]
    assert sender.session.blocked
    next_turn(house, sender)
    assert receipts(sender.frames()) == ["4", "5"]
    assert not sender.session.blocked
    assert sender.session.wants_read
    for listener, left in zip(house.listeners, (["2", "3", "4", "5"], ["0", "1", "2", "3", "4", "5"]), strict=True):
        assert bodies(listener.frames()) == left


def test_a_burst_is_the_same_in_however_many_pieces(house):
    sender = house.talk()
    got = []
    for byte in BURST:
        sender.tell(byte)
        next_turn(house, sender)
        got += receipts(sender.frames())
    assert got == list("012345")
    assert bodies(house.listeners[0].frames()) == list("012345")


def test_a_client_of_queues_does_not_notice(house):
    sender, other = house.talk(), house.talk()
    sender.tell(BURST)
    (receipt, message) = sorted(
        other.ask(send("/queue/one", "x", "r") + subscribe("/queue/one")), key=lambda frame: frame.command, reverse=True
    )
    assert (receipt.headers["receipt-id"], message.body) == ("r", b"x")
    assert receipts(other.ask(ack(message, more="receipt:a\n"))) == ["a"]
    assert not other.session.blocked


def test_one_that_comes_late_keeps_its_bytes(house):
    sender, late = house.talk(), house.talk()
    sender.tell(BURST)
    assert late.ask(send("/topic/t", "late", "l")) == []
    assert late.session.postponed
    assert not late.session.wants_read
    next_turn(house, late, sender)
    assert receipts(late.frames()) == ["l"]
    assert receipts(sender.frames()) == ["0", "1", "2"]
    assert bodies(house.listeners[0].frames()) == ["0", "1", "late", "2"]


def test_a_disconnect_behind_a_burst_is_its_end(house):
    sender = house.talk()
    sender.ask(BURST + "DISCONNECT\nreceipt:end\n\n\0")
    got = []
    for _ in range(2):
        assert not sender.session.closing
        next_turn(house, sender)
        got += receipts(sender.frames())
    assert got == ["2", "3", "4", "5", "end"]
    assert sender.session.closing


def test_drain_acts_on_all_that_was_read(house):
    sender = house.talk()
    sender.ask(BURST)
    sender.session.drain(sender.now)
    next_turn(house, sender)
    assert not sender.session.closing
    next_turn(house, sender)
    assert receipts(sender.frames()) == ["2", "3", "4", "5"]
    assert sender.session.closing


def test_no_clock_runs_against_a_client_that_waits_for_its_turn(house):
    sender = house.talk(heart_beat="1000,0")
    sender.ask(BURST)
    for _ in range(100):
        sender.tick(sender.now + 1)
    assert not sender.session.ending
    next_turn(house, sender)
    next_turn(house, sender)
    assert receipts(sender.frames()) == ["2", "3", "4", "5"]


def test_what_it_waits_for_is_said_anew_each_time():
    talk = Talk(version="1.2")
    talk.client.raises["send"] = TurnSpent()
    talk.tell(send("/topic/t", "1"))
    assert (talk.session.blocked, talk.session.postponed) == (True, True)
    talk.client.raises["send"] = StoreBusy()
    talk.session.resume(talk.now)
    assert (talk.session.blocked, talk.session.postponed) == (True, False)
    talk.client.raises["send"] = TurnSpent()
    talk.session.resume(talk.now)
    assert (talk.session.blocked, talk.session.postponed) == (True, True)
    talk.client.raises.clear()
    talk.session.resume(talk.now)
    assert not talk.session.blocked
    assert [message.body for message in talk.broker.messages] == [b"1"]
