"""What the store commands share: how they are told where the store is, show long work, and print what they found.

It must never open a store. Called by: `cli.store`, `cli.store_dump`, `cli.store_change`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from radiator.cli.terminal import printable, progress_bar
from radiator.config.loader import load_config
from radiator.config.schema import Config
from radiator.store.file.descriptors import allow_descriptors, count_segments
from radiator.store.file.format import Names
from radiator.store.file.views import Finding

__all__ = [
    "count_text",
    "finding_text",
    "iso_time",
    "print_json",
    "ranges_text",
    "store_names",
    "store_options",
    "work_bar",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def store_options(function: _Function) -> _Function:
    """The options that say where the store is: `data_dir` and `file` for `store_names`."""

    def given(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        if value == "":
            raise click.BadParameter("must not be empty")
        return value

    for option in (
        click.option(
            "--data-dir",
            metavar="DIR",
            callback=given,
            help=f"Directory of the store. [default: {Config().data_dir}]",
        ),
        click.option("-c", "--config", "file", metavar="FILE", callback=given, help="Take data_dir from this file."),
    ):
        function = option(function)
    return function


def store_names(data_dir: str | None, file: str | None) -> Names:
    """The store that the options mean. A directory wins over a file.

    From here on as many files may be open as the system allows, as in a broker: a survey and the recovery that follows
    it hold one for each segment.
    """
    if data_dir is None:
        data_dir = Config().data_dir if file is None else load_config(file).data_dir
    names = Names(data_dir)
    allow_descriptors(2 * count_segments(names))
    return names


@contextmanager
def work_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback for the store's long work; it draws a bar for each kind of work."""
    with _Bars() as bars:
        yield bars.show


class _Bars:
    """One bar at a time, opened when the work changes its name."""

    def __init__(self) -> None:
        self._what = ""
        self._bar: Any = None
        self._tell: Callable[[int], None] = lambda done: None

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def show(self, what: str, done: int, total: int) -> None:
        """What is being done, and how far it is."""
        what = "reading the log" if what.startswith("reading segment") else what
        if what != self._what:
            self.__exit__()
            self._what = what
            self._bar = progress_bar(what, total)
            self._tell = self._bar.__enter__()
        self._tell(done)


def print_json(value: dict[str, Any]) -> None:
    """A JSON line on standard output: UTF-8, whatever the locale is.

    What is no text (a byte of a path that is not UTF-8) is the surrogate that Python makes of it, as JSON's escape.
    """
    line = json.dumps(value, ensure_ascii=False) + "\n"
    sys.stdout.buffer.write(line.encode("utf-8", "backslashreplace"))
    if sys.stdout.line_buffering:
        sys.stdout.buffer.flush()


def count_text(count: int, what: str) -> str:
    """So many of them."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def iso_time(milliseconds: int | None) -> str | None:
    """A time of the log for people and programs; None where there is none."""
    if not milliseconds:
        return None
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ranges_text(number: int | None, ranges: Iterable[tuple[int, int]], most: int = 8) -> str:
    """Ranges of the ids of queue `number` in a few words, each id as the wire names it."""
    words = [f"{number}-{first}" + (f" to {number}-{last}" if last > first else "") for first, last in ranges]
    more = f" and {len(words) - most} ranges more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def finding_text(finding: Finding) -> str:
    """A finding for people: the place, what is wrong there, and which messages that concerns."""
    place = finding.path
    if finding.offset is not None:
        place += f" offset {finding.offset}"
    about = ""
    if finding.queue is not None:
        about = f" [queue {finding.queue}"
        if finding.ids:
            about += f", message {ranges_text(finding.number, finding.ids)}"
        about += "]"
    return printable(f"{'damage' if finding.damage else 'note'}: {place}: {finding.what}{about}")
