"""What the commands share with the terminal: their exit codes, their parameter types and the progress bar.

It must never write to standard output: that belongs to the bodies and the settings that a command prints.
Called by: the commands.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from radiator.config.schema import Address, Fsync
from radiator.config.values import parse_address, parse_fsync

__all__ = [
    "ADDRESS",
    "BROKER_ADDRESS",
    "DESTINATION",
    "FSYNC",
    "broker_option",
    "printable",
    "progress_bar",
    "wait_option",
]

BROKER_ADDRESS = "127.0.0.1:61613"


class _Word(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """A parameter read by one of the settings' own parsers, so that file and command line take the same words."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed value; click shows the text of the error with the parameter's name."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            return self.fail(str(error), param, ctx)


def _broker_address(text: str) -> Address:
    address = parse_address(text)
    if address.port == 0:
        raise ValueError(f"{text!r}: port 0 is for listening, a broker has a real one")
    return address


def _fsync(text: str) -> Fsync:
    return parse_fsync(text)


def _destination(text: str) -> str:
    """Any name that a header can carry; the broker says which there are."""
    if not text or text != text.strip() or not text.isprintable():
        raise ValueError(f"{text!r} is no destination: it is empty, or has blanks at its ends or control characters")
    return text


ADDRESS = _Word("HOST:PORT", parse_address)
FSYNC = _Word("always|never|<N>ms", _fsync)
DESTINATION = _Word("DEST", _destination)

broker_option = click.option(
    "-a",
    "--address",
    type=_Word("HOST:PORT", _broker_address),
    default=BROKER_ADDRESS,
    metavar="HOST:PORT",
    show_default=True,
    help="Where the broker listens.",
)
"""The option `-a` of every command that is a client."""

wait_option = click.option(
    "--wait",
    type=click.FloatRange(min=0, max=1e6),
    default=3,
    metavar="S",
    show_default=True,
    help="How many seconds to wait for a broker that refuses connections, as one that is starting does.",
)
"""The option `--wait` of every command that is a client."""


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Tell the function it gives how much is done; a bar shows it on standard error where that is a terminal.

    The bar comes and goes without a trace; `total` None shows a count without an end.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda done: None
        return
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}")]
    if total is not None:
        columns += [TaskProgressColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def printable(text: str) -> str:
    """`text` for an operator's terminal, which names from clients must not rule: escapes for all but print and LF.

    So is what the encoding of standard output lacks: click would send UTF-8 to a terminal that is said to be ASCII.
    """
    shown = "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)
    encoding = sys.stdout.encoding
    return shown.encode(encoding, "backslashreplace").decode(encoding)
