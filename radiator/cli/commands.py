"""The command line as a whole: which commands there are, the default one, and what exit code each end has.

It must never let a traceback be the answer to a mistake of the operator. Exit codes are those of sysexits.h.
Called by: `radiator.cli.main`.
"""

from __future__ import annotations

import difflib
import os
import platform
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version as version_of

import click

from radiator import __version__
from radiator._speedups import TWIN
from radiator.cli.check_config import check_config
from radiator.cli.receive import receive
from radiator.cli.send import send
from radiator.cli.serve import serve
from radiator.cli.store import store
from radiator.cli.terminal import printable
from radiator.errors import RadiatorError

__all__ = ["radiator", "run"]

EX_USAGE = 64
EX_IOERR = 74
EX_INTERRUPTED = 128 + signal.SIGINT

_OWN_OPTIONS = frozenset(("--help", "-h", "--version"))


def _print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(
            f"radiator {__version__} ({TWIN}), Python {platform.python_version()}, gevent {version_of('gevent')}"
        )
        context.exit(0)


def _output_closed() -> int:
    """Whoever read our output has gone: nothing to say, and Python must not try to flush it again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EX_IOERR


def _output_failed() -> bool:
    """Is it our output that cannot be written? Then Python must not try to flush it again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        _output_closed()
        return True
    return False


def _tell(text: str) -> None:
    with suppress(OSError):
        click.echo(printable(f"radiator: {text}"), err=True)


class _DefaultGroup(click.Group):
    """A group whose commands may be left out: then the arguments are those of `serve`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `serve` in front of arguments that start with one of its options."""
        if not args or (args[0].startswith("-") and args[0] not in _OWN_OPTIONS):
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; click itself would end with 1 where the reader of our output has gone."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return _output_closed()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that `args` name, or a usage error with the nearest one."""
        if args[0] not in self.commands:
            near = difflib.get_close_matches(args[0], self.commands, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands, then the options of `serve`, which are valid here too."""
        super().format_options(ctx, formatter)
        records = [record for item in serve.params if (record := item.get_help_record(ctx)) is not None]
        with formatter.section("Options of serve, also valid without the word"):
            formatter.write_dl(records)


@click.group(cls=_DefaultGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show version, twin, Python and gevent.",
)
def radiator() -> None:
    """A STOMP message broker with the confidence of a database.

    Without a command it serves: STOMP on 127.0.0.1:61613, data in ./radiator-data.
    """


for _command in (serve, check_config, send, receive, store):
    radiator.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (those of the process where None); the exit code."""
    try:
        code = radiator.main(args=arguments, prog_name="radiator", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        code = EX_INTERRUPTED
    except click.ClickException as error:
        with suppress(OSError):  # where nobody reads it, the exit code says enough; so below
            error.show()
        code = EX_USAGE if isinstance(error, click.UsageError) else EX_IOERR
    except RadiatorError as error:
        _tell(str(error))
        code = error.exit_code
    except BrokenPipeError:
        code = _output_closed()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ("standard output: " if _output_failed() else "")
        _tell(f"{where}{error.strerror or error}")
        code = EX_IOERR
    return int(code or 0)
