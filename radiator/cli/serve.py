"""The command `radiator serve`, which is also what `radiator` without a command does: the broker itself.

It must never do more than put the configuration together: the daemon does the rest. Called by: `cli.commands`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from radiator.cli.terminal import ADDRESS, FSYNC
from radiator.config.loader import load_config
from radiator.config.schema import Address, Config, Fsync

__all__ = ["serve"]

LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")


@click.command()
@click.option("-c", "--config", "file", metavar="FILE", help="Configuration file. Without it: defaults, create: true.")
@click.option(
    "--listen",
    type=ADDRESS,
    metavar="HOST:PORT",
    multiple=True,
    help=f"Listen for STOMP here, 0 for any free port; may be repeated. [default: {Config().listen_stomp[0]}]",
)
@click.option("--data-dir", metavar="DIR", help=f"Directory of the store. [default: {Config().data_dir}]")
@click.option(
    "--fsync", type=FSYNC, metavar="always|never|<N>ms", help=f"When a receipt may leave. [default: {Config().fsync}]"
)
@click.option(
    "--log-format", type=click.Choice(LOG_FORMATS), default="text", show_default=True, help="Form of the log."
)
@click.option(
    "--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True, help="Least level that is logged."
)
def serve(
    file: str | None,
    listen: tuple[Address, ...],
    data_dir: str | None,
    fsync: Fsync | None,
    log_format: str,
    log_level: str,
) -> int:
    """Run the broker until SIGTERM or SIGINT; this is the default command.

    Options override the configuration file. The log goes to standard error.
    """
    if data_dir == "":
        raise click.BadParameter("must not be empty", param_hint="--data-dir")
    config = Config() if file is None else load_config(file)
    given: dict[str, Any] = {"listen_stomp": listen or None, "data_dir": data_dir, "fsync": fsync}
    config = replace(config, **{name: value for name, value in given.items() if value is not None})
    # Not at the top: gevent and the engine would double the start of every other command.
    from radiator.server import daemon

    return daemon.serve(config, log_format=log_format, log_level=log_level)
