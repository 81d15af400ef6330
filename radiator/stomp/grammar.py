"""The words of STOMP as tables: commands, versions, escapes, and the headers that the broker sets itself.

It holds constants only and must never parse, decide or import anything of radiator. The compiled frame twin repeats
what it needs of this (a kernel imports no policy); a parity test compares the two.
Called by: `stomp.frame_pure`, `stomp.session`, the command line's client, tests.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BLOCK_COMMANDS",
    "BODY_COMMANDS",
    "CLIENT_COMMANDS",
    "CONNECT_COMMANDS",
    "ESCAPES",
    "HIDDEN_HEADERS",
    "HIDDEN_PREFIX",
    "KNOWN_HEADERS",
    "SERVER_COMMANDS",
    "VERSIONS",
]

VERSIONS: Final[dict[str, int]] = {"1.0": 10, "1.1": 11, "1.2": 12}
"""What `accept-version` may name, and the number that stands for it everywhere inside; 0 is "not negotiated yet"."""

CLIENT_COMMANDS: Final = frozenset(
    ("CONNECT", "STOMP", "SEND", "SUBSCRIBE", "UNSUBSCRIBE", "ACK", "NACK", "BEGIN", "COMMIT", "ABORT", "DISCONNECT")
)
SERVER_COMMANDS: Final = frozenset(("CONNECTED", "MESSAGE", "RECEIPT", "ERROR"))

BODY_COMMANDS: Final = frozenset(("SEND", "MESSAGE", "ERROR"))
"""STOMP 1.1 and 1.2, "Body": only these frames may have one."""

BLOCK_COMMANDS: Final = frozenset(("SEND", "MESSAGE"))
"""Frames whose header lines are kept in wire form."""

CONNECT_COMMANDS: Final = frozenset(("CONNECT", "STOMP", "CONNECTED"))
"""STOMP 1.2, "Value Encoding": their headers are never escaped, so that 1.0 reads them."""

ESCAPES: Final[dict[int, dict[bytes, bytes]]] = {
    0: {},
    10: {},
    11: {b"n": b"\n", b"c": b":", b"\\": b"\\"},
    12: {b"r": b"\r", b"n": b"\n", b"c": b":", b"\\": b"\\"},
}
"""Per version: the byte after a backslash, and what the two stand for. Any other pair is an error in 1.1 and 1.2."""

HIDDEN_HEADERS: Final = frozenset(
    (
        "receipt",
        "transaction",
        "content-length",
        "message-id",
        "subscription",
        "ack",
        "redelivered",
        "delivery-count",
    )
)
"""Headers of a SEND that never travel on: they belong to the hop, or the broker sets them and nobody may forge them."""

HIDDEN_PREFIX: Final = "dead-letter-"
"""Any header whose name begins so is hidden too."""

KNOWN_HEADERS: Final = HIDDEN_HEADERS | frozenset(
    (
        "accept-version",
        "activemq.prefetchSize",
        "content-type",
        "destination",
        "expires",
        "heart-beat",
        "host",
        "id",
        "login",
        "message",
        "passcode",
        "persistent",
        "prefetch-count",
        "priority",
        "receipt-id",
        "requeue",
        "selector",
        "server",
        "session",
        "version",
    )
)
"""Names whose `str` exists once for all frames."""
