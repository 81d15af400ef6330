"""The command `radiator send`: put a message, or a line each, into a destination, and wait for the receipts.

It must never end with 0 before every message has its receipt. Called by: `cli.commands`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO

import click

from radiator.cli.client import Client
from radiator.cli.terminal import DESTINATION, broker_option, progress_bar, wait_option
from radiator.config.schema import Address

__all__ = ["send"]

WINDOW = 200
"""Receipts that may be outstanding with --lines: enough for the broker to fill its batches."""

OURS = frozenset(("destination", "content-length", "receipt", "transaction"))
"""Headers that the command itself sets, or that need more than one frame to make sense."""


def _header(text: str) -> tuple[str, str]:
    """`KEY:VALUE` as a header."""
    key, colon, value = text.partition(":")
    if not colon or not key or not key.isprintable():
        raise click.BadParameter(f"{text!r} is not KEY:VALUE", param_hint="-H")
    if key in OURS:
        raise click.BadParameter(f"{key!r} is set by the command itself", param_hint="-H")
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        raise click.BadParameter(f"{text!r} is not UTF-8", param_hint="-H")
    return key, value


@click.command()
@broker_option
@wait_option
@click.option("-H", "--header", "headers", multiple=True, metavar="KEY:VALUE", help="A header; may be repeated.")
@click.option("--file", "file", metavar="FILE", help="Send the content of FILE.")
@click.option("--lines", is_flag=True, help="Send each line of the input as a message of its own.")
@click.argument("destination", metavar="DEST", type=DESTINATION)
@click.argument("body", metavar="[BODY|-]", required=False)
def send(
    address: Address,
    wait: float,
    headers: tuple[str, ...],
    file: str | None,
    lines: bool,
    destination: str,
    body: str | None,
) -> int:
    """Send a message to DEST and wait for its receipt.

    The body is BODY, the content of a file, or standard input where it is "-" or nothing is given. With exit code 0
    the broker has the message, under the durability it promises for DEST.
    """
    parsed = [_header(text) for text in headers]
    if file is not None and body is not None:
        raise click.UsageError("give BODY or --file, not both")
    if lines and body not in (None, "-"):
        raise click.UsageError("--lines reads a file or standard input, not BODY")
    if file is None and body is None and sys.stdin.isatty():
        raise click.UsageError('give a BODY, --file FILE, or "-" for standard input')
    if file is not None:
        with open(file, "rb") as source:  # before connecting: a wrong name is told without a broker
            return _send(address, wait, destination, parsed, source, lines)
    if body is None or body == "-":
        return _send(address, wait, destination, parsed, sys.stdin.buffer, lines)
    data = body.encode("utf-8", "surrogateescape")
    with Client(address, wait) as client:
        _send_one(client, destination, parsed, data)
        client.disconnect()
    return 0


def _send(
    address: Address, wait: float, destination: str, headers: list[tuple[str, str]], source: BinaryIO, lines: bool
) -> int:
    """Send what `source` holds, as one message or by lines."""
    if lines:
        with Client(address, wait) as client:
            _send_lines(client, destination, headers, source)
            client.disconnect()
        return 0
    data = source.read()
    with Client(address, wait) as client:
        _send_one(client, destination, headers, data)
        client.disconnect()
    return 0


def _frame(client: Client, destination: str, headers: list[tuple[str, str]], body: bytes, receipt: int) -> bytes:
    ours = [("destination", destination), ("content-length", str(len(body))), ("receipt", str(receipt))]
    return client.encode("SEND", [*ours, *headers], body)


def _send_one(client: Client, destination: str, headers: list[tuple[str, str]], body: bytes) -> None:
    """One message; a large one shows how far it is."""
    data = _frame(client, destination, headers, body, 1)
    with progress_bar("sending", len(data)) as progress:
        client.write(data, progress)
        client.receipt()


def _lines(source: BinaryIO) -> Iterator[bytes]:
    for line in source:
        yield line.removesuffix(b"\n").removesuffix(b"\r")


def _send_lines(client: Client, destination: str, headers: list[tuple[str, str]], source: BinaryIO) -> None:
    """A message per line, with at most WINDOW of them on the way to their receipts."""
    sent = confirmed = 0
    with progress_bar("messages confirmed", None) as progress:
        for line in _lines(source):
            if sent - confirmed >= WINDOW:
                client.receipt()
                confirmed += 1
                progress(confirmed)
            sent += 1
            client.write(_frame(client, destination, headers, line, sent))
        while confirmed < sent:
            client.receipt()
            confirmed += 1
            progress(confirmed)
