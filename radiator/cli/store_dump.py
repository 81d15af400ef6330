"""The command `radiator store dump`: what a store holds, as JSON lines.

It must never write into the store, and never stop at damage: it says what it could not read, and goes on behind it.
Called by: `cli.store`.
"""

from __future__ import annotations

import base64
import sys
from contextlib import nullcontext
from typing import Any

import click

from radiator.cli.store_options import iso_time, print_json, store_names, store_options, work_bar
from radiator.cli.terminal import printable, progress_bar
from radiator.errors import ProtocolError
from radiator.message import Message
from radiator.stomp.frame import unescape
from radiator.store.file import inspect
from radiator.store.file.fsio import RealFsio
from radiator.store.file.survey import survey
from radiator.store.file.views import Finding, Survey

__all__ = ["dump"]

EX_DATAERR = 65
_SHOW_EVERY = 256


@click.command()
@click.option("--queue", metavar="NAME", help="Only the messages of this queue.")
@click.option("--bodies", is_flag=True, help="With the bodies: body, or body_base64 where it is not UTF-8.")
@click.option("--dead", is_flag=True, help="Also messages that are settled and still in the log, behind the others.")
@click.option("--records", is_flag=True, help="Everything that the log says, record by record, in its order.")
@store_options
def dump(queue: str | None, bodies: bool, dead: bool, records: bool, data_dir: str | None, file: str | None) -> int:
    """Print what a store holds as JSON lines.

    One object per message, by queue and id: queue, message_id, place in the log, arrival, deliveries, headers and the
    body's length. Damage is reported on standard error, and ends with 65 after everything readable was printed.
    """
    if records and (queue is not None or bodies or dead):
        raise click.UsageError("--records prints everything as it stands: no --queue, --bodies or --dead with it")
    with work_bar() as progress:
        found = survey(RealFsio(), store_names(data_dir, file), progress=progress)
    try:
        damage = [finding for finding in found.findings if finding.damage]
        for finding in damage:
            click.echo(printable(f"radiator: damage: {_place(finding)}: {finding.what}"), err=True)
        if queue is not None and all(view.name != queue for view in found.queues.values()):
            click.echo(printable(f"radiator: there is no queue {queue!r} in this store"), err=True)
        unreadable = _records(found) if records else _messages(found, queue, bodies, dead)
    finally:
        found.close()
    return EX_DATAERR if damage or unreadable else 0


def _place(finding: Finding) -> str:
    return finding.path if finding.offset is None else f"{finding.path} offset {finding.offset}"


def _records(found: Survey) -> int:
    for record in inspect.records(found):
        print_json(record)
    return 0


def _messages(found: Survey, queue: str | None, bodies: bool, dead: bool) -> int:
    """Print them; how many could not be read."""
    unreadable = 0
    total = None if dead else sum(view.index.live for view in found.queues.values() if queue in (None, view.name))
    # On a terminal the messages themselves show how far it is.
    with nullcontext(lambda done: None) if sys.stdout.isatty() else progress_bar("messages", total) as progress:
        for number, entry in enumerate(inspect.entries(found, queue=queue, settled=dead)):
            if not number % _SHOW_EVERY:
                progress(number)
            unreadable += _print_entry(entry, bodies)
    return unreadable


def _print_entry(entry: inspect.Entry, bodies: bool) -> bool:
    """Print one; True where it could not be read, and should be there."""
    line: dict[str, Any] = {
        "queue": entry.queue.name,
        "message_id": f"{entry.queue.number}-{entry.id}",
        "segment": entry.address >> 32,
        "offset": entry.address & 0xFFFFFFFF,
        "deliveries": entry.deliveries,
    }
    if entry.settled:
        line["settled"] = True
    if entry.message is None:
        click.echo(printable(f"radiator: damage: message {line['message_id']}: {entry.error}"), err=True)
        line["error"] = entry.error
    else:
        line |= _message(entry.message, bodies)
    print_json(line)
    return entry.message is None and not entry.settled


def _message(message: Message, bodies: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"arrival": iso_time(message.arrival_ms)}
    if message.expires_ms:
        fields["expires"] = iso_time(message.expires_ms)
    if message.not_before_ms:
        fields["not_before"] = iso_time(message.not_before_ms)
    fields["headers"] = _headers(message.block, message.version)
    fields["body_bytes"] = len(message.body)
    if bodies:
        try:
            fields["body"] = message.body.decode()
        except UnicodeDecodeError:
            fields["body_base64"] = base64.b64encode(message.body).decode()
    return fields


def _headers(block: bytes, version: int) -> dict[str, str]:
    """The headers as a client reads them: unescaped, the first of repeats."""
    headers: dict[str, str] = {}
    for line in block.split(b"\n")[:-1]:
        name, _, value = line.partition(b":")
        headers.setdefault(_text(name, version), _text(value, version))
    return headers


def _text(raw: bytes, version: int) -> str:
    try:
        return unescape(raw, version)
    except (ProtocolError, ValueError):
        return raw.decode("utf-8", "replace")
