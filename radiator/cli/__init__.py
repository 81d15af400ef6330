"""What an operator types: `radiator`, with the commands serve (the default), check-config, send and receive."""

from __future__ import annotations

import io
import os
import signal
import sys

__all__ = ["main"]

EX_CONFIG = 78
EX_INTERRUPTED = 128 + signal.SIGINT


def _exit_at_once(number: int, _: object) -> None:
    os._exit(128 + number)


def _open_standard_streams() -> None:
    """Have all three, as a parent may have closed them: what is written to such an output is an error, not lost.

    A file of a store would get their numbers otherwise, and a line for an operator would end in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            fd = os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
            setattr(sys, name, open(fd, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _escape_what_the_locale_lacks() -> None:
    """Names and paths come from elsewhere: a character that a terminal cannot show is no reason to end."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """The entry point of the `radiator` script: runs the command line and ends the process with its exit code."""
    if os.getpid() == 1:
        # The first process of a container has no default actions, and the imports below take a while.
        signal.signal(signal.SIGTERM, _exit_at_once)
    _open_standard_streams()
    _escape_what_the_locale_lacks()
    try:
        # Not at the top: this import reads RADIATOR_SPEEDUPS, and a wrong value deserves a line, not a traceback.
        from radiator.cli.commands import run
    except KeyboardInterrupt:
        sys.exit(EX_INTERRUPTED)  # as in `run`
    except (ImportError, ValueError) as error:
        if "RADIATOR_SPEEDUPS" not in str(error):
            raise
        sys.stderr.write(f"radiator: {error}\n")
        sys.exit(EX_CONFIG)
    sys.exit(run())
