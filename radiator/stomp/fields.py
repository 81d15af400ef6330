"""What the headers of a client's frames say: each reader gives a value or raises ProtocolError, nothing else.

It must never know a connection's state or call the broker. Called by: `stomp.session`, with `Frame.headers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from radiator.errors import ProtocolError

__all__ = [
    "ack_mode",
    "choose_version",
    "heart_beat",
    "message_id",
    "number",
    "prefetch",
    "requeue",
    "required",
]

Headers = Mapping[str, str]

VERSIONS: Final = {"1.0": 10, "1.1": 11, "1.2": 12}
ACK_MODES: Final = frozenset(("auto", "client", "client-individual"))
PREFETCH_HEADERS: Final = ("prefetch-count", "activemq.prefetchSize")

MAX_HEART_BEAT_MS: Final = 24 * 60 * 60 * 1000
"""A day: whoever promises a beat more rarely than that, or wants one, gets this interval."""

MAX_DIGITS: Final = 19
"""No number of ours is longer (64 bits); longer ones are not converted at all."""


def required(command: str, headers: Headers, name: str) -> str:
    """The value of header `name`, which must be there and not empty."""
    value = headers.get(name)
    if not value:
        raise ProtocolError(f"{command} needs the header {name}")
    return value


def number(text: str) -> int | None:
    """A decimal number without sign that fits 64 bits, or None."""
    if len(text) <= MAX_DIGITS and text.isascii() and text.isdigit():
        return int(text)
    return None


def choose_version(headers: Headers) -> int | None:
    """The highest version that both sides speak as 10, 11 or 12; None where there is none.

    A CONNECT without `accept-version` is one of STOMP 1.0 (1.2, Protocol Negotiation).
    """
    accepted = headers.get("accept-version")
    if accepted is None:
        return 10
    return max((VERSIONS.get(word.strip(), 0) for word in accepted.split(",")), default=0) or None


def heart_beat(headers: Headers) -> tuple[int, int]:
    """The client's `heart-beat` in milliseconds: what it can send, what it wants to get; 0 for none, a day at most."""
    text = headers.get("heart-beat")
    if text is None:
        return 0, 0
    can, comma, wants = text.partition(",")
    can_ms, wants_ms = number(can.strip()), number(wants.strip())
    if not comma or can_ms is None or wants_ms is None:
        raise ProtocolError("CONNECT needs two numbers of milliseconds in the header heart-beat, such as 0,0")
    return min(can_ms, MAX_HEART_BEAT_MS), min(wants_ms, MAX_HEART_BEAT_MS)


def ack_mode(headers: Headers) -> str:
    """The `ack` of a SUBSCRIBE: auto where it is not given."""
    mode = headers.get("ack", "auto")
    if mode not in ACK_MODES:
        raise ProtocolError("SUBSCRIBE needs auto, client or client-individual in the header ack")
    return mode


def prefetch(headers: Headers) -> int | None:
    """The window that a SUBSCRIBE asks for, None where it does not; `prefetch-count` wins."""
    for name in PREFETCH_HEADERS:
        text = headers.get(name)
        if text is None:
            continue
        if not (text.isascii() and text.isdigit() and text.strip("0")):
            raise ProtocolError(f"SUBSCRIBE needs a positive number in the header {name}")
        return int(text[-MAX_DIGITS:]) if len(text.lstrip("0")) <= MAX_DIGITS else 10**MAX_DIGITS
    return None


def message_id(text: str) -> tuple[int, int] | None:
    """Queue number and id out of a `message-id`; None where this broker cannot have given it."""
    queue_text, _, id_text = text.partition("-")
    queue, id = number(queue_text), number(id_text)
    return None if queue is None or id is None else (queue, id)


def requeue(headers: Headers) -> bool:
    """The `requeue` of a NACK: true where it is not given."""
    text = headers.get("requeue", "true")
    if text not in ("true", "false"):
        raise ProtocolError("NACK needs true or false in the header requeue")
    return text == "true"
