"""Time: heart-beats out and in, half a frame, output that does not move. `now` comes in, nothing is waited for."""

from stomp_fakes import Talk

from radiator.stomp.session import FRAME_STEP_BYTES

SEND = "SEND\ndestination:/queue/a\nreceipt:1\n\n\0"


def test_heart_beats_are_sent_twice_per_interval():
    talk = Talk(version="1.2", heart_beat="0,10000")
    assert talk.session.deadline == 105.0
    assert talk.tick(104.9) == 105.0
    assert talk.wire() == b""
    assert talk.tick(105.0) == 110.0
    assert talk.wire() == b"\n"
    assert talk.tick(110.5) == 115.5
    assert talk.wire() == b"\n"


def test_heart_beats_are_sent_though_traffic_flows():
    talk = Talk(version="1.2", heart_beat="0,10000")
    talk.now = 104.9
    talk.tell(SEND)
    assert talk.wire()
    talk.tick(105.0)
    assert talk.wire() == b"\n"


def test_heart_beats_do_not_pile_up_on_a_slow_client():
    talk = Talk(version="1.2", heart_beat="0,1000")
    for now in range(101, 120):
        talk.tick(float(now))
    assert talk.session.output_bytes == 1


def test_the_shortest_interval_is_ours():
    talk = Talk(version="1.2", heart_beat="0,1")
    assert talk.session.deadline == 100.05


def test_no_heart_beat_that_was_not_asked_for():
    for version, heart_beat in (("1.2", None), ("1.2", "0,0"), ("1.2", "5000,0"), ("1.0", None)):
        talk = Talk(version=version, heart_beat=heart_beat)
        talk.tick(105.0)
        assert talk.wire() == b""


def test_silence_ends_the_connection_at_twice_the_interval_and_a_second():
    talk = Talk(version="1.2", heart_beat="10000,0")
    assert talk.tick(100.0) == 121.0
    assert talk.tick(120.99) == 121.0
    assert not talk.session.ending
    talk.tick(121.0)
    assert "heart-beat" in talk.error().headers["message"]


def test_any_byte_is_a_sign_of_life():
    talk = Talk(version="1.2", heart_beat="10000,0")
    talk.now = 115.0
    talk.tell("\n")
    assert talk.tick(121.0) == 136.0
    talk.now = 130.0
    talk.tell("SEN")
    talk.tick(136.0)
    assert not talk.session.ending


def test_a_client_that_promised_nothing_may_be_silent():
    talk = Talk(version="1.2", heart_beat="0,0")
    assert talk.tick(1e6) is None
    assert not talk.session.ending


def test_a_blocked_client_is_not_timed_out():
    talk = Talk(version="1.2", heart_beat="1000,0")
    talk.client.busy = True
    talk.tell(SEND + "SEND\n")
    talk.tick(500.0)
    assert not talk.session.ending
    talk.client.busy = False
    talk.now = 600.0
    talk.session.resume(600.0)
    assert [frame.command for frame in talk.frames()] == ["RECEIPT"]
    assert talk.tick(600.1) == 603.0
    talk.tick(603.0)
    assert "heart-beat" in talk.error().headers["message"]


def test_a_client_that_is_not_read_is_not_timed_out():
    talk = Talk(version="1.2", heart_beat="1000,0", stall_timeout=1000.0)
    while talk.session.wants_read:
        talk.tell("SEND\ndestination:/queue/a\nreceipt:" + "r" * 8000 + "\n\n\0")
    talk.tick(500.0)
    assert not talk.session.ending
    talk.now = 600.0
    talk.tick(600.0)
    talk.wire()
    assert talk.tick(602.9) == 603.0
    assert not talk.session.ending


def test_half_a_frame_at_its_boundary():
    talk = Talk(version="1.2", frame_timeout=30.0)
    talk.tell("SEND\ndestination:/queue/a\n")
    assert talk.tick(100.0) == 130.0
    talk.tick(129.99)
    assert not talk.session.ending
    talk.tick(130.0)
    assert "limits.frame_timeout" in talk.error().headers["message"]


def test_half_a_frame_that_is_finished_in_time():
    talk = Talk(version="1.2", frame_timeout=30.0)
    talk.tell("SEND\ndestination:/queue/a\n")
    talk.now = 129.0
    talk.tell("\nbody\0")
    assert talk.tick(130.0) is None
    talk.tell("\n\n")
    assert talk.tick(1000.0) is None


def test_a_dripping_frame_is_as_good_as_a_stuck_one():
    talk = Talk(version="1.2", frame_timeout=30.0)
    talk.tell("SEND\ndestination:/queue/a\n\n")
    for now in range(101, 130):
        talk.now = float(now)
        talk.tell("x")
    talk.tick(130.0)
    assert talk.session.closing


def test_a_slow_large_frame_is_let_in():
    talk = Talk(version="1.2", frame_timeout=30.0)
    talk.tell("SEND\ndestination:/queue/a\nreceipt:1\n\n")
    for step in range(1, 11):
        talk.tick(100.0 + 29 * step)
        assert not talk.session.ending
        talk.tell("x" * FRAME_STEP_BYTES)
    talk.tell("\0")
    assert [frame.command for frame in talk.frames()] == ["RECEIPT"]


def test_each_half_frame_has_its_own_clock():
    talk = Talk(version="1.2", frame_timeout=30.0)
    talk.tell("SEND\ndestination:/queue/a\n")
    talk.now = 125.0
    talk.tell("\n\0SEND\ndest")
    talk.tick(130.0)
    assert not talk.session.ending
    talk.tick(155.0)
    assert talk.session.ending


def test_output_that_does_not_move_ends_the_connection_without_a_word():
    talk = Talk(version="1.2", stall_timeout=60.0)
    talk.tell(SEND)
    before = talk.session.output_bytes
    talk.session.data_to_send()
    talk.session.sent(3, 100.0)
    assert talk.tick(100.0) == 160.0
    assert talk.tick(159.9) == 160.0
    assert not talk.session.closing
    woken = talk.woken
    talk.tick(160.0)
    assert talk.session.closing
    assert talk.woken > woken
    assert talk.session.output_bytes == before - 3


def test_output_that_moves_a_little_is_alive():
    talk = Talk(version="1.2", stall_timeout=60.0)
    talk.tell(SEND)
    talk.session.data_to_send()
    talk.session.sent(0, 100.0)
    talk.session.sent(1, 150.0)
    talk.session.sent(0, 155.0)
    assert talk.tick(160.0) == 210.0
    talk.wire()
    assert talk.tick(300.0) is None
    assert not talk.session.closing


def test_output_that_nobody_tried_to_send_is_seen_by_the_clock_too():
    talk = Talk(version="1.2", stall_timeout=60.0)
    talk.tell(SEND)
    assert talk.tick(200.0) == 260.0
    talk.tick(260.0)
    assert talk.session.closing


def test_an_earlier_deadline_wakes_the_server():
    talk = Talk(version="1.2", frame_timeout=30.0)
    talk.tick(talk.now)
    woken = talk.woken
    talk.tell("SEND\n")
    assert talk.woken == woken + 1
    talk.now += 1
    talk.tell("destination:/queue/a\n")
    assert talk.woken == woken + 1


def test_no_interval_is_longer_than_a_day():
    talk = Talk(version="1.2", heart_beat="9999999999999,9999999999999")
    assert talk.tick(100.0) == 100.0 + 24 * 60 * 60 / 2
    talk = Talk(version="1.2", heart_beat="9999999999999,0")
    assert talk.tick(100.0) == 101.0 + 2 * 24 * 60 * 60
