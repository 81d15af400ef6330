"""The commands `radiator store repair`, `snapshot` and `restore`: those that write, each only where its name says.

They must never change a store without the operator's yes, nor one that a broker holds. Called by: `cli.store`.
"""

from __future__ import annotations

import sys
import time

import click

from radiator.cli.store_options import count_text, finding_text, print_json, store_names, store_options, work_bar
from radiator.cli.terminal import printable
from radiator.store.file import repair as mending
from radiator.store.file import snapshot as copying
from radiator.store.file.descriptors import allow_descriptors, count_segments
from radiator.store.file.format import Names
from radiator.store.file.fsio import RealFsio

__all__ = ["repair", "restore", "snapshot"]

EX_DATAERR = 65
_SHOWN = 100


@click.command()
@click.option("--yes", is_flag=True, help="Do it. Without this nothing is changed.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print every message that is gone as a JSON object, one per line."
)
@store_options
def repair(yes: bool, as_json: bool, data_dir: str | None, file: str | None) -> int:
    """Make a broken store one that a broker starts on.

    Says what is damaged, which messages are gone and what it would do; only with --yes it does it. Everything readable
    is kept, damaged segments are moved to quarantine/, nothing is edited in place. Copy the directory first. Ends with
    0 where there is nothing to do or it was done, with 65 where something is to be done.
    """
    names = store_names(data_dir, file)
    with work_bar() as progress:

        def agree(plan: mending.Plan) -> bool:
            progress("done", 0, 0)  # takes the bar away
            _print_plan(names, plan, as_json, yes)
            return yes

        wall_ms = int(time.time() * 1000)
        repaired = mending.repair(RealFsio(), names, agree, wall_ms=wall_ms, progress=progress)
    if not repaired.plan.damage:
        _say("nothing to repair: the store is whole", as_json)
        return 0
    if not repaired.done:
        _say("nothing was changed; add --yes to do this", as_json)
        return EX_DATAERR
    if repaired.segments:
        files = ", ".join(names.segment(number) for number in repaired.segments)
        _say(f"repaired: {files} says what is left; originals are in {names.quarantine}", as_json)
    else:
        _say(f"repaired: what could not be used is in {names.quarantine}", as_json)
    return 0


def _say(text: str, as_json: bool) -> None:
    """For people; where the output belongs to a program, on standard error."""
    click.echo(printable(text), err=as_json)


def _print_plan(names: Names, plan: mending.Plan, as_json: bool, yes: bool) -> None:
    for finding in plan.damage:
        place = finding.path if finding.offset is None else f"{finding.path} offset {finding.offset}"
        _say(f"damage: {place}: {finding.what}", as_json)
    if as_json:
        for gone in plan.gone:
            print_json(gone._asdict())
        for unknown in plan.unknown:
            print_json({**unknown._asdict(), "last": None, "why": "unknown"})
        sys.stdout.flush()
    else:
        total = sum(gone.last - gone.first + 1 for gone in plan.gone)
        for gone in plan.gone[:_SHOWN]:
            last = "" if gone.first == gone.last else f" to {gone.number}-{gone.last}"
            _say(f"gone: {gone.queue}: message {gone.number}-{gone.first}{last} ({gone.why})", as_json)
        if len(plan.gone) > _SHOWN:
            click.echo(f"gone: {len(plan.gone) - _SHOWN} ranges more; --json lists all")
        click.echo(f"{count_text(total, 'message')} gone")
        for unknown in plan.unknown[:_SHOWN]:
            _say(
                f"unknown: {unknown.queue}: message {unknown.number}-{unknown.first} and later ones may have been "
                "there, and are gone: nothing that is readable tells of them",
                as_json,
            )
        if len(plan.unknown) > _SHOWN:
            click.echo(f"unknown: {len(plan.unknown) - _SHOWN} queues more; --json lists all")
    if plan.redelivered:
        _say(
            "acknowledgements, and queues that were new, may be among what cannot be read: messages that were consumed "
            "already may be delivered again",
            as_json,
        )
    for step in plan.steps:
        _say(f"{'doing' if yes else 'to do'}: {step}", as_json)


@click.command()
@click.argument("directory", metavar="DIR")
@store_options
def snapshot(directory: str, data_dir: str | None, file: str | None) -> int:
    """Save a store to DIR, also while a broker uses it.

    Everything that had a receipt when this began is in it. On the same file system the older segments are linked, not
    copied. DIR must be absent or empty; it is complete when DIR/manifest is there.

    Verified is what a broker reads at its start. Ends with 0 where all of that is whole; with 65 and the names of what
    is not where a broker would set aside messages of the newest segment (they are copied as they are), and with 65 and
    no snapshot where it would not start.
    """
    names = store_names(data_dir, file)
    with work_bar() as progress:
        wall_ms = int(time.time() * 1000)
        manifest = copying.snapshot(RealFsio(), names, directory, wall_ms=wall_ms, progress=progress)
    return _tell(f"snapshot {directory}", manifest)


@click.command()
@click.argument("source", metavar="SNAPSHOT")
@store_options
def restore(source: str, data_dir: str | None, file: str | None) -> int:
    """Make a store of SNAPSHOT in the data directory, which must be absent or empty.

    Every message is verified; the snapshot stays as it is. Messages acknowledged since it was taken will be delivered
    again. Ends with 0 where all is whole; with 65 and the names of those that are not where messages are damaged (the
    store is complete, and a broker sets them aside), and with 65 and no store where a broker would not start.
    """
    names = store_names(data_dir, file)
    allow_descriptors(2 * count_segments(Names(source)))
    with work_bar() as progress:
        manifest = copying.restore(RealFsio(), source, names, progress=progress)
    return _tell(f"store {names.directory}", manifest)


def _tell(what: str, manifest: copying.Manifest) -> int:
    """Say what was made, and name what in it is damaged; the exit code."""
    for finding in manifest.damage:
        click.echo(f"radiator: {finding_text(finding)}", err=True)
    size = sum(end for _, end in manifest.segments)
    made = (
        f"{what}: {count_text(len(manifest.segments), 'segment')} ({manifest.linked} linked), {size} bytes, "
        f"up to segment {manifest.end >> 32} offset {manifest.end & 0xFFFFFFFF}"
    )
    if not manifest.damage:
        click.echo(printable(f"{made}; verified"))
        return 0
    made += "; complete, and a broker starts on it: damaged messages in it are set aside, see above"
    click.echo(printable(made))
    return EX_DATAERR
