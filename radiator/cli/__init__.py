"""What an operator types: `radiator`, with the commands serve (the default), check-config, send and receive."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]

EX_CONFIG = 78


def _exit_at_once(number: int, _: object) -> None:
    os._exit(128 + number)


def main() -> None:
    """The entry point of the `radiator` script: runs the command line and ends the process with its exit code."""
    if os.getpid() == 1:
        # The first process of a container has no default actions, and the imports below take a while.
        signal.signal(signal.SIGTERM, _exit_at_once)
    try:
        # Not at the top: this import reads RADIATOR_SPEEDUPS, and a wrong value deserves a line, not a traceback.
        from radiator.cli.commands import run
    except (ImportError, ValueError) as error:
        if "RADIATOR_SPEEDUPS" not in str(error):
            raise
        sys.stderr.write(f"radiator: {error}\n")
        sys.exit(EX_CONFIG)
    sys.exit(run())
