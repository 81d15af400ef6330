"""CONNECT: versions, heart-beats, what comes first, and what is no STOMP at all."""

import pytest
from stomp_fakes import Talk


@pytest.mark.parametrize("command", ["CONNECT", "STOMP"])
@pytest.mark.parametrize(
    ("accepted", "version"),
    [
        (None, "1.0"),
        ("1.0", "1.0"),
        ("1.1", "1.1"),
        ("1.2", "1.2"),
        ("1.0,1.1", "1.1"),
        ("1.2,1.0", "1.2"),
        ("1.0,1.1,1.2", "1.2"),
        ("1.0, 1.1 , 1.2", "1.2"),
        ("1.1,2.0", "1.1"),
        ("0.9,1.0,", "1.0"),
    ],
)
def test_the_highest_common_version_is_chosen(command, accepted, version):
    talk = Talk()
    lines = [command, "host:anything"] + ([f"accept-version:{accepted}"] if accepted else [])
    (frame,) = talk.ask("\n".join(lines) + "\n\n\0")
    assert frame.command == "CONNECTED"
    assert frame.headers["version"] == version
    assert frame.headers["session"] == "session-1"
    assert frame.headers["server"] == "radiator/0.1"
    assert frame.body == b""
    assert talk.session.version == {"1.0": 10, "1.1": 11, "1.2": 12}[version]
    assert ("heart-beat" in frame.headers) == (version != "1.0")


@pytest.mark.parametrize("accepted", ["2.0", "1.3,0.9", "", ",", "1", "1.2.0", "one"])
def test_no_common_version(accepted):
    error = Talk().error(f"CONNECT\naccept-version:{accepted}\nhost:h\nreceipt:r\n\n\0")
    assert error.headers["version"] == "1.0,1.1,1.2"
    assert error.headers["content-type"] == "text/plain"
    assert "1.0,1.1,1.2" in error.headers["message"]
    assert "receipt-id" not in error.headers  # the specs: any client frame other than CONNECT
    assert error.headers["content-length"] == str(len(error.body))


def test_the_host_may_be_missing_and_a_login_is_ignored():
    (frame,) = Talk().ask("CONNECT\naccept-version:1.2\nlogin:l\npasscode:p\n\n\0")
    assert frame.command == "CONNECTED"


def test_connect_is_read_with_line_ends_of_all_versions():
    (frame,) = Talk().ask("\r\n\nCONNECT\r\naccept-version:1.2\r\nhost:h\r\n\r\n\0")
    assert frame.headers["version"] == "1.2"


def test_connect_headers_are_not_unescaped():
    talk = Talk()
    (frame,) = talk.ask("CONNECT\naccept-version:1.2\nhost:a\\qb\n\n\0")
    assert frame.command == "CONNECTED"


def test_the_receipt_of_a_connect_is_ignored():
    assert [frame.command for frame in Talk().ask("CONNECT\nreceipt:1\n\n\0")] == ["CONNECTED"]


def test_frames_behind_connect_are_read_by_the_new_version():
    talk = Talk()
    frames = talk.ask("CONNECT\naccept-version:1.1\nhost:h\n\n\0SEND\ndestination:/queue/a\\cb\nreceipt:1\n\nhello\0")
    assert [frame.command for frame in frames] == ["CONNECTED", "RECEIPT"]
    assert talk.client.calls == [("send", "/queue/a:b", b"hello", None)]


def test_a_second_connect_is_an_error():
    error = Talk(version="1.2").error("CONNECT\naccept-version:1.2\nhost:h\n\n\0")
    assert "CONNECT" in error.headers["message"]


@pytest.mark.parametrize("command", ["SEND\ndestination:/queue/a", "SUBSCRIBE", "ACK", "DISCONNECT", "BEGIN"])
def test_nothing_comes_before_connect(command):
    talk = Talk()
    error = talk.error(f"{command}\nreceipt:77\n\n\0")
    assert "before CONNECT" in error.headers["message"]
    assert error.headers["receipt-id"] == "77"
    assert talk.client.calls == []


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"\x00\x01\x02",
        b"\xff\xfe",
        b"\n\n\x80",
        b"{}",
    ],
)
def test_what_is_no_stomp_gets_no_answer(noise):
    talk = Talk()
    talk.tell(noise)
    assert talk.session.closing
    assert talk.session.output_bytes == 0
    assert talk.woken


@pytest.mark.parametrize(
    "slices", [[b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], [b"G", b"ET / HTTP/1.1\r\n"], [b"connect\n"]]
)
def test_what_looks_like_a_command_gets_one_error(slices):
    talk = Talk()
    for data in slices:
        talk.tell(data)
    error = talk.error()
    assert "unknown command" in error.headers["message"]


@pytest.mark.parametrize("value", ["1", "1,", ",1", "a,b", "-1,0", "1,2,3", "1.5,0", "", "9" * 30 + ",0", "\u0661,0"])
def test_a_bad_heart_beat_is_an_error(value):
    error = Talk().error(f"CONNECT\naccept-version:1.2\nhost:h\nheart-beat:{value}\n\n\0")
    assert "heart-beat" in error.headers["message"]


def test_a_heart_beat_means_nothing_in_1_0():
    (frame,) = Talk().ask("CONNECT\nheart-beat:nonsense\n\n\0")
    assert frame.headers["version"] == "1.0"


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (None, "0,0"),
        ("0,0", "0,0"),
        ("10000,0", "0,100"),
        ("0,10000", "100,0"),
        ("1,1", "100,100"),
        ("5, 5", "100,100"),
    ],
)
def test_heart_beats_are_offered_where_they_are_asked_for(offer, answer):
    talk = Talk(version="1.2", heart_beat=offer)
    assert talk.hello.headers["heart-beat"] == answer


def test_connect_timeout_at_its_boundary():
    talk = Talk(connect_timeout=10.0)
    assert talk.session.deadline == 110.0
    talk.now = 105.0
    talk.tell("CONN")
    assert talk.tick(109.99) == 110.0
    assert not talk.session.closing
    talk.tick(110.0)
    assert "limits.connect_timeout" in talk.error().headers["message"]


def test_connect_in_time_ends_the_timeout():
    talk = Talk(version="1.2")
    assert talk.tick(1000.0) is None
    assert not talk.session.ending
