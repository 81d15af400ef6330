"""Receipts leave in order, behind what they promise; an ERROR stands in the same line, but not for ever."""

from stomp_fakes import FakeBroker, Talk

from radiator.errors import Refused, StoreBusy
from radiator.stomp.output import OUTPUT_MARK

SEND = "SEND\ndestination:/queue/a\nreceipt:{}\n\n\0"


def slow_talk(**changes):
    broker = FakeBroker()
    broker.slow = True
    return Talk(broker, version="1.2", **changes)


def ids(frames):
    return [frame.headers["receipt-id"] for frame in frames]


def test_a_receipt_waits_for_its_batch():
    talk = slow_talk()
    assert talk.ask(SEND.format(1)) == []
    talk.broker.commit(0)
    assert talk.frames() == []
    talk.broker.commit(1)
    assert ids(talk.frames()) == ["1"]


def test_receipts_of_one_batch_leave_together_and_no_others():
    talk = slow_talk()
    talk.tell("".join(SEND.format(n) for n in range(1, 6)))
    woken = talk.woken
    talk.broker.commit(3)
    assert talk.woken == woken + 1
    assert ids(talk.frames()) == ["1", "2", "3"]
    talk.broker.commit(5)
    assert ids(talk.frames()) == ["4", "5"]


def test_a_receipt_of_nothing_durable_stands_behind_what_came_before():
    talk = slow_talk()
    talk.tell(SEND.format(1) + "BEGIN\ntransaction:t\nreceipt:2\n\n\0")
    assert talk.frames() == []
    talk.broker.commit(1)
    assert ids(talk.frames()) == ["1", "2"]


def test_a_receipt_covers_the_sends_without_one_before_it():
    talk = slow_talk()
    talk.tell("SEND\ndestination:/queue/a\n\n\0BEGIN\ntransaction:t\nreceipt:2\n\n\0")
    assert talk.frames() == []
    talk.broker.commit(1)
    assert ids(talk.frames()) == ["2"]


def test_disconnect_waits_for_all_receipts():
    talk = slow_talk()
    talk.tell(SEND.format(1) + "DISCONNECT\nreceipt:2\n\n\0")
    assert talk.frames() == []
    assert talk.session.ending
    assert not talk.session.closing
    talk.tick(talk.now + 30)
    assert not talk.session.closing
    woken = talk.woken
    talk.broker.commit(1)
    assert talk.woken > woken
    assert talk.session.closing
    assert ids(talk.frames()) == ["1", "2"]


def test_an_error_stands_behind_the_receipts_owed():
    talk = slow_talk()
    talk.tell(SEND.format(1) + "SUBSCRIBE\nreceipt:2\n\n\0")
    assert talk.frames() == []
    assert talk.session.deadline <= talk.now
    talk.broker.commit(1)
    receipt, error = talk.frames()
    assert (receipt.command, error.command) == ("RECEIPT", "ERROR")
    assert ids([receipt, error]) == ["1", "2"]
    assert talk.session.closing


def test_an_error_waits_one_second_at_most():
    talk = slow_talk()
    talk.tell(SEND.format(1) + "SUBSCRIBE\nreceipt:2\n\n\0")
    assert talk.tick(100.0) == 101.0
    talk.tick(100.99)
    assert talk.frames() == []
    talk.tick(101.0)
    assert ids([talk.error()]) == ["2"]
    talk.broker.commit(1)
    assert talk.frames() == []


def test_an_error_from_the_broker_stands_in_the_same_line():
    talk = slow_talk()
    talk.tell(SEND.format(1))
    woken = talk.woken
    talk.session.fail("too slow")
    assert talk.woken > woken
    assert talk.frames() == []
    talk.broker.commit(1)
    assert [frame.command for frame in talk.frames()] == ["RECEIPT", "ERROR"]


def test_only_the_first_error_is_told():
    talk = Talk(version="1.2")
    talk.session.fail("first")
    talk.session.fail("second")
    assert talk.error().headers["message"] == "first"


def test_a_broker_that_fails_a_client_in_the_middle_of_its_frames_ends_them():
    talk = Talk(version="1.2")
    send = talk.client.send

    def fail(*args):
        send(*args)
        talk.session.fail("too slow")

    talk.client.send = fail
    talk.error("SEND\ndestination:/queue/a\n\n\0" * 3)
    assert len(talk.broker.messages) == 1


def test_drain_gives_the_receipts_owed_then_closes():
    talk = slow_talk()
    talk.tell(SEND.format(1) + "SEND\ndestination:/que")
    talk.session.drain(talk.now)
    talk.tell("ue/b\n\n\0")
    assert not talk.session.closing
    talk.broker.commit(1)
    assert ids(talk.frames()) == ["1"]
    assert talk.session.closing
    assert len(talk.broker.messages) == 1


def test_drain_of_an_idle_connection_closes_it():
    talk = Talk(version="1.2")
    talk.session.drain(talk.now)
    assert talk.session.closing
    assert talk.frames() == []


def test_a_full_store_stops_the_frames_and_nothing_is_lost():
    talk = Talk(version="1.2")
    talk.client.busy = True
    assert talk.ask(SEND.format(1) + SEND.format(2)) == []
    assert talk.session.blocked
    assert not talk.session.wants_read
    talk.tell(SEND.format(3))
    talk.session.resume(talk.now)
    assert talk.session.blocked
    talk.client.busy = False
    talk.session.resume(talk.now)
    assert not talk.session.blocked
    assert talk.session.wants_read
    assert ids(talk.frames()) == ["1", "2", "3"]
    assert len(talk.broker.messages) == 3


def test_a_full_store_stops_a_commit():
    talk = Talk(version="1.2")
    talk.tell("BEGIN\ntransaction:t\n\n\0")
    talk.client.busy = True
    assert talk.ask("COMMIT\ntransaction:t\nreceipt:1\n\n\0") == []
    assert talk.session.blocked
    talk.client.busy = False
    talk.session.resume(talk.now)
    assert ids(talk.frames()) == ["1"]
    assert talk.client.calls == [("begin", "t"), ("commit", "t")]


def test_a_full_store_may_stop_any_frame():
    talk = Talk(version="1.2")
    talk.client.raises["subscribe"] = StoreBusy("no room")
    talk.tell("SUBSCRIBE\nid:1\ndestination:/queue/new\n\n\0")
    assert talk.session.blocked
    talk.client.raises.clear()
    talk.session.resume(talk.now)
    assert talk.client.calls == [("subscribe", "1", "/queue/new", "auto", None, b"1")]


def test_a_blocked_connection_may_be_lost():
    talk = Talk(version="1.2")
    talk.client.busy = True
    talk.tell(SEND.format(1))
    talk.session.connection_lost()
    assert not talk.session.blocked
    talk.client.busy = False
    talk.session.resume(talk.now)
    assert talk.broker.messages == []


def test_drain_takes_what_was_read_once_there_is_room():
    talk = Talk(version="1.2")
    talk.client.busy = True
    talk.tell(SEND.format(1) + SEND.format(2) + "SEND\ndestination:/que")
    talk.session.drain(talk.now)
    assert talk.session.blocked
    assert not talk.session.wants_read
    assert not talk.session.closing
    assert talk.tick(talk.now + 1000) is None
    talk.session.resume(talk.now)  # there was room for somebody else only
    assert talk.session.blocked
    talk.client.busy = False
    talk.session.resume(talk.now)
    assert not talk.session.blocked
    assert talk.session.closing
    assert talk.client.closed
    assert ids(talk.frames()) == ["1", "2"]
    talk.tell("ue/b\n\n\0")
    assert len(talk.broker.messages) == 2


def test_drain_of_a_blocked_connection_waits_for_the_disk_too():
    talk = slow_talk()
    talk.client.busy = True
    talk.tell(SEND.format(1))
    talk.session.drain(talk.now)
    talk.client.busy = False
    talk.session.resume(talk.now)
    assert talk.session.ending
    assert not talk.session.closing
    talk.broker.commit(1)
    assert ids(talk.frames()) == ["1"]
    assert talk.session.closing


def test_a_blocked_connection_that_drains_may_end_otherwise():
    for end in ("failed", "refused", "lost"):
        talk = Talk(version="1.2")
        talk.client.busy = True
        talk.tell(SEND.format(1) + "NONSENSE\n\n\0")
        talk.session.drain(talk.now)
        if end == "failed":
            talk.session.fail("too slow")
        elif end == "lost":
            talk.session.connection_lost()
        talk.client.busy = False
        talk.session.resume(talk.now)
        assert talk.session.closing
        frames = talk.frames()
        assert [frame.command for frame in frames] == {
            "failed": ["ERROR"],
            "refused": ["RECEIPT", "ERROR"],
            "lost": [],
        }[end]


def test_receipts_that_wait_for_the_disk_are_bounded():
    talk = slow_talk()
    long_receipt = "r" * 8000
    talk.tell(SEND.format(long_receipt) * (OUTPUT_MARK // 8000))
    assert talk.session.wants_read
    talk.tell(SEND.format(long_receipt))
    assert not talk.session.wants_read
    talk.broker.commit(talk.broker.appended)
    assert not talk.session.wants_read
    talk.wire()
    assert talk.session.wants_read


def test_nothing_is_given_after_the_connection_is_lost():
    talk = slow_talk()
    talk.tell(SEND.format(1))
    talk.session.connection_lost()
    assert talk.client.closed
    talk.broker.commit(1)
    assert talk.frames() == []
    assert talk.tick(1000.0) is None
    assert talk.frames() == []


def test_an_error_without_a_frame_has_no_receipt_id():
    talk = Talk(version="1.2")
    talk.client.raises["begin"] = Refused("no")
    talk.tell("BEGIN\ntransaction:t\n\n\0")
    assert "receipt-id" not in talk.error().headers
