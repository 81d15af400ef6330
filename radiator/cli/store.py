"""The commands `radiator store …`: the operator's view into a data directory; here the two that judge it.

They must never write into the store they look at, and never answer a broken store with a traceback.
Called by: `cli.commands`.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from radiator.cli.store_change import repair, restore, snapshot
from radiator.cli.store_dump import dump
from radiator.cli.store_options import (
    count_text,
    finding_text,
    iso_time,
    print_json,
    store_names,
    store_options,
    work_bar,
)
from radiator.cli.terminal import printable
from radiator.config.values import format_size
from radiator.store.file import inspect
from radiator.store.file.fsio import RealFsio
from radiator.store.file.survey import survey
from radiator.store.file.views import PLACES, Finding

__all__ = ["store"]

EX_DATAERR = 65
_WIDTH = 160
"""Columns of a table that no terminal limits."""


@click.group()
def store() -> None:
    """Look into a store, save it, mend it.

    check, dump, stats and snapshot only read, and work beside a running broker. repair and restore write, and refuse a
    store that a broker holds. The store is ./radiator-data where no option says another one.
    """


@store.command()
@click.option("--deep", is_flag=True, help="Verify every byte of every message, past the page cache.")
@click.option("--json", "as_json", is_flag=True, help="Print each finding as a JSON object, one per line.")
@store_options
def check(deep: bool, as_json: bool, data_dir: str | None, file: str | None) -> int:
    """Hold a store against every rule of its format.

    Verifies FORMAT, watermark, all segments and batches, and that every message is acknowledged or there. Ends with 0
    where the store is whole, with 65 and a list of what is not where it is not. Nothing is changed.
    """
    names = store_names(data_dir, file)
    with work_bar() as progress:
        checked = inspect.check(RealFsio(), names, deep=deep, progress=progress)
    found = checked.survey
    try:
        for finding in found.findings:
            if as_json:
                print_json(_object(finding))
            else:
                click.echo(finding_text(finding))
        if not as_json:
            totals = inspect.stats(found)["totals"]
            messages, queues = count_text(totals["messages"], "message"), count_text(len(found.queues), "queue")
            segments = count_text(totals["segments"], "segment")
            total = (
                f"{names.directory}: {messages} in {queues}, {segments}, {totals['log_bytes']} bytes, "
                f"{found.batches} batches read{', all payloads' if deep else ''}"
            )
            click.echo(printable(total))
            click.echo(printable(_verdict(checked)))
    finally:
        found.close()
    return EX_DATAERR if checked.damage else 0


def _verdict(checked: inspect.Checked) -> str:
    if not checked.damage:
        return "whole: no damage was found"
    kinds = {finding.kind for finding in checked.damage}
    if kinds == {"unfinished"}:
        return "UNFINISHED: no broker starts on this directory, and there is nothing to repair; see above"
    kinds -= PLACES
    if checked.refusal is not None:
        verdict = f"a broker does not start on this store: {checked.refusal}"
        if not kinds:
            return f"DAMAGED: {verdict}"
    elif not kinds:
        return "DAMAGED: the log is whole, and a broker starts on this store, but not all that it does will succeed"
    elif kinds == {"index"}:
        return "DAMAGED: the log is whole; remove the saved index while no broker runs, then a start reads the log"
    elif kinds <= {"message", "copy"}:
        return "DAMAGED: a broker starts on this store, and sets the damaged messages aside; see above"
    else:
        verdict = "a broker starts on this store only as long as its saved index is of use; see above"
    return (
        f"DAMAGED: {verdict}\n"
        "First copy the whole directory. Then restore a snapshot, or see what `radiator store repair` would do."
    )


def _object(finding: Finding) -> dict[str, Any]:
    """A finding for programs: without what does not apply."""
    fields = {name: value for name, value in finding._asdict().items() if value is not None and value != ()}
    return fields | {"level": "damage" if fields.pop("damage") else "note"}


@store.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with everything.")
@store_options
def stats(as_json: bool, data_dir: str | None, file: str | None) -> int:
    """Show what takes the space: live and dead bytes by segment, messages by queue, what pins the oldest segment."""
    with work_bar() as progress:
        found = survey(RealFsio(), store_names(data_dir, file), progress=progress)
    try:
        told = inspect.stats(found)
        damage = [finding for finding in found.findings if finding.damage]
    finally:
        found.close()
    if as_json:
        print_json(told)
    else:
        _print_stats(told)
    for finding in damage:
        click.echo(f"radiator: {finding_text(finding)}", err=True)
    return EX_DATAERR if damage else 0


def _print_stats(told: dict[str, Any]) -> None:
    now = time.time() * 1000
    width = None if sys.stdout.isatty() else _WIDTH
    console = Console(width=width, soft_wrap=True, highlight=False, markup=False, emoji=False)
    table = Table("queue", box=SIMPLE_HEAD)
    for title in ("messages", "bytes", "oldest"):
        table.add_column(title, justify="right")
    for row in told["queues"]:
        table.add_row(printable(row["queue"]), f"{row['messages']}", f"{row['bytes']}", _age(row["oldest_ms"], now))
    _echo_table(console, table)
    table = Table("segment", box=SIMPLE_HEAD)
    for title in ("bytes", "messages", "live bytes", "live"):
        table.add_column(title, justify="right")
    table.add_column("held by its first message")
    for row in told["segments"]:
        pin = row["pinned_by"]
        table.add_row(
            f"{row['segment']:08d}",
            f"{row['bytes']}",
            f"{row['live_messages']}",
            f"{row['live_bytes']}",
            f"{100 * row['live_bytes'] // max(1, row['bytes'])} %",
            f"{printable(pin['queue'])} {pin['number']}-{pin['id']}, {_age(pin['arrival_ms'], now)}"
            if pin
            else row["role"],
        )
    _echo_table(console, table)
    totals = told["totals"]
    click.echo(
        f"{count_text(totals['messages'], 'message')}; log {totals['log_bytes']} bytes, "
        f"live {totals['live_bytes']} bytes, dead or free {totals['dead_bytes']} bytes"
    )
    pins = [row for row in told["segments"] if row["pinned_by"]]
    if pins:
        pin = pins[0]["pinned_by"]
        arrival = iso_time(pin["arrival_ms"]) or "an unknown time"
        click.echo(
            f"oldest segment {pins[0]['segment']:08d} ({format_size(pins[0]['bytes'])}) is held by message "
            f"{pin['number']}-{pin['id']} of {printable(pin['queue'])}, from {arrival}"
        )


def _echo_table(console: Console, table: Table) -> None:
    """Not printed by the console, which ends the process with 1 where whoever read the output has gone."""
    with console.capture() as shown:
        console.print(table)
    click.echo(shown.get(), nl=False)


def _age(milliseconds: int | None, now: float) -> str:
    """How long ago, in the largest unit that gives two digits."""
    if not milliseconds:
        return "-"
    seconds = max(0, int(now - milliseconds) // 1000)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


for _command in (dump, repair, snapshot, restore):
    store.add_command(_command)
