"""What each client frame does: one function per command, and the table of those that a version has.

A handler reads headers, calls the broker's client, then lets the receipt take its place. It must never append a MESSAGE
or change the session before the broker has agreed: after StoreBusy or TurnSpent the same frame is handled once more.
Called by: `stomp.session`, through `HANDLERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from radiator.errors import ProtocolError
from radiator.message import Message
from radiator.stomp import fields
from radiator.stomp.frame import Frame, encode_frame, escape

if TYPE_CHECKING:
    from radiator.stomp.session import Session

__all__ = ["HANDLERS", "HEART_BEAT_MS", "VERSION_TEXTS", "Handler"]

HEART_BEAT_MS: Final = 100
"""The shortest heart-beat interval that this side can send and wants to get, in milliseconds."""

VERSION_TEXTS: Final[Mapping[int, str]] = {version: text for text, version in fields.VERSIONS.items()}


def connect(session: Session, frame: Frame) -> None:
    """CONNECT or STOMP: agree on a version and on heart-beats. Any host is accepted; a login is ignored."""
    headers = frame.headers
    version = fields.choose_version(headers)
    if version is None:
        versions = ",".join(fields.VERSIONS)
        session.refuse(f"supported protocol versions are {versions}", frame, (("version", versions),))
        return
    lines = [("version", VERSION_TEXTS[version]), ("session", session.session_id), ("server", session.server)]
    out_ms = in_ms = 0
    if version >= 11:
        # 1.2, Heart-beating: each direction runs at the slower of what one side can and the other wants, 0 is none.
        can_ms, wants_ms = fields.heart_beat(headers)
        send_ms, get_ms = (HEART_BEAT_MS if wants_ms else 0), (HEART_BEAT_MS if can_ms else 0)
        lines.append(("heart-beat", f"{send_ms},{get_ms}"))
        out_ms, in_ms = max(send_ms, wants_ms), max(get_ms, can_ms)
    session.append(encode_frame("CONNECTED", lines, b"", version))
    session.connected(version, out_ms, in_ms)


def send(session: Session, frame: Frame) -> None:
    """SEND: the hottest handler, so `fields.required` and `Session.receipt` are only called where they must be."""
    headers = frame.headers
    destination = headers.get("destination")
    if not destination:
        raise ProtocolError("SEND needs the header destination")
    message = Message(session.version, frame.plain, frame.block, frame.body, session.broker.wall_ms())
    session.client.send(destination, message, headers.get("transaction"))
    receipt = frame.receipt
    if receipt is not None:
        session.receipt(receipt)


def subscribe(session: Session, frame: Frame) -> None:
    """SUBSCRIBE: 1.0 may leave out the id, the subscription is then known by its destination."""
    headers = frame.headers
    destination = fields.required("SUBSCRIBE", headers, "destination")
    id = headers.get("id") or None
    if id is None and session.version != 10:
        raise ProtocolError("SUBSCRIBE needs the header id")
    if "selector" in headers:
        raise ProtocolError("SUBSCRIBE with a selector is not supported: it would get every message")
    wire_id = None if id is None else escape(id, session.version)
    session.client.subscribe(id, destination, fields.ack_mode(headers), fields.prefetch(headers), wire_id)
    _receipt(session, frame)


def unsubscribe(session: Session, frame: Frame) -> None:
    """UNSUBSCRIBE: by id, in 1.0 by destination where there is none."""
    headers = frame.headers
    if session.version == 10 and not headers.get("id"):
        destination = headers.get("destination")
        if not destination:
            raise ProtocolError("UNSUBSCRIBE needs the header id or destination")
        session.client.unsubscribe(None, destination)
    else:
        session.client.unsubscribe(fields.required("UNSUBSCRIBE", headers, "id"), None)
    _receipt(session, frame)


def nack(session: Session, frame: Frame) -> None:
    """NACK: back to its place, or with `requeue:false` to the dead letters."""
    settle(session, frame, False, fields.requeue(frame.headers))


def settle(session: Session, frame: Frame, positive: bool = True, requeue: bool = True) -> None:
    """ACK, and what NACK shares with it; one for a message no longer held is counted and ignored, its receipt is given.

    As hot as SEND.
    """
    headers = frame.headers
    client = session.client
    if session.version == 12:
        number = fields.number(headers.get("id") or fields.required(frame.command, headers, "id"))
        delivery = None if number is None else client.find_ack(number)
    else:
        name = fields.message_id(fields.required(frame.command, headers, "message-id"))
        if session.version == 11:
            fields.required(frame.command, headers, "subscription")
        delivery = None if name is None else client.find_message(*name, headers.get("subscription") or None)
    if delivery is None:
        session.stale_acks += 1
    else:
        client.settle(delivery, positive=positive, requeue=requeue, transaction=headers.get("transaction"))
    receipt = frame.receipt
    if receipt is not None:
        session.receipt(receipt)


def begin(session: Session, frame: Frame) -> None:
    """BEGIN: a transaction of that name."""
    session.client.begin(fields.required("BEGIN", frame.headers, "transaction"))
    _receipt(session, frame)


def commit(session: Session, frame: Frame) -> None:
    """COMMIT: all of the transaction, as one unit; its receipt carries the promise."""
    session.client.commit(fields.required("COMMIT", frame.headers, "transaction"))
    _receipt(session, frame)


def abort(session: Session, frame: Frame) -> None:
    """ABORT: none of the transaction."""
    session.client.abort(fields.required("ABORT", frame.headers, "transaction"))
    _receipt(session, frame)


def disconnect(session: Session, frame: Frame) -> None:
    """DISCONNECT: its receipt is the last that leaves."""
    _receipt(session, frame)
    session.end()


def _receipt(session: Session, frame: Frame) -> None:
    """Queue the receipt that the frame asks for, if it does."""
    if frame.receipt is not None:
        session.receipt(frame.receipt)


Handler = Callable[["Session", Frame], None]

_EVERY_VERSION: Final[Mapping[str, Handler]] = {
    "SEND": send,
    "SUBSCRIBE": subscribe,
    "UNSUBSCRIBE": unsubscribe,
    "ACK": settle,
    "BEGIN": begin,
    "COMMIT": commit,
    "ABORT": abort,
    "DISCONNECT": disconnect,
}

HANDLERS: Final[Mapping[int, Mapping[str, Handler]]] = {
    0: {"CONNECT": connect, "STOMP": connect},
    10: _EVERY_VERSION,
    11: {**_EVERY_VERSION, "NACK": nack},
    12: {**_EVERY_VERSION, "NACK": nack},
}
"""What a client may send, by the version spoken (0: nothing negotiated yet)."""
