"""What the ERROR says of a frame that the parser itself did not take: its receipt, wherever that was read."""

import pytest
from stomp_fakes import Talk

FAULTS = [
    "SEND\nreceipt:r\ndestination:/queue/a\nx:\\t\n\nbody\0",  # a bad escape
    "SEND\ndestination:/queue/a\nx:\\t\nreceipt:r\n\nbody\0",
    "SEND\nreceipt:r\nno colon\n\n\0",
    "SEND\nreceipt:r\ncontent-length:99999999\n\n",  # over limits.frame, told before the body comes
    "SEND\nreceipt:r\ncontent-length:x\n\n\0",
    "SEND\nreceipt:r\ncontent-length:1\n\nbody\0",
    "SUBSCRIBE\nid:1\nreceipt:r\n\nbody\0",  # a body where none may be
    "SEND\nreceipt:r\n" + "x:y\n" * 64 + "\n\0",  # over limits.headers
    "SEND\nreceipt:r\nx:" + "y" * 9000 + "\n\n\0",  # over limits.header_line
    "SEND\nreceipt:r\nx:\0\n\n\0",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_frame_that_cannot_be_read_is_answered_by_its_receipt(fault):
    for pieces in ([fault], fault):
        talk = Talk(version="1.2")
        for piece in pieces:
            talk.tell(piece)
        assert talk.error().headers["receipt-id"] == "r"


def test_a_body_that_outgrows_the_limit_is_answered_by_its_receipt():
    talk = Talk(version="1.1", frame=1000)
    assert talk.error("SEND\nreceipt:r\n\n" + "x" * 1000).headers["receipt-id"] == "r"


@pytest.mark.parametrize(
    ("version", "wire", "told"),
    [
        ("1.0", "a\\c:b", "a\\c:b"),
        ("1.1", "a\\cb\\n", "a:b\n"),
        ("1.1", "a\r", "a\r"),
        ("1.2", "a:b\\r\\n", "a:b\r\n"),
        ("1.2", "", ""),
    ],
)
def test_the_receipt_is_told_in_the_words_of_the_version(version, wire, told):
    error = Talk(version=version).error(f"SEND\nreceipt:{wire}\nno colon\n\n\0")
    assert error.headers["receipt-id"] == told


@pytest.mark.parametrize("value", ["\\t", "a\\", "a\rb"])
def test_a_receipt_that_cannot_be_read_is_left_out(value):
    error = Talk(version="1.2").error(f"SEND\nreceipt:{value}\n\n\0")
    assert "receipt-id" not in error.headers
    assert error.headers["message"].startswith("header line 1 has ")


@pytest.mark.parametrize(
    "fault",
    [
        "SEND\nx:\0\nreceipt:r\n\n\0",  # the fault comes first, and nothing behind it is looked at
        "SEND\nreceipt:\0",
        "NONSENSE\nreceipt:r\n\n\0",
        "ACK\nreceipt:before\nid:9\n\n\0SENT\nreceipt:r\n\n\0",
    ],
)
def test_no_receipt_is_made_up(fault):
    talk = Talk(version="1.2")
    talk.tell(fault)
    error = talk.frames()[-1]
    assert error.command == "ERROR"
    assert "receipt-id" not in error.headers


def test_a_connect_has_no_receipt():
    """1.2, Standard Headers: any client frame other than CONNECT may have one."""
    assert "receipt-id" not in Talk().error("CONNECT\nreceipt:r\nno colon\n\n\0").headers
