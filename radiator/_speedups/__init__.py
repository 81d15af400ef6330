"""The one policy for which twin is used: `RADIATOR_SPEEDUPS=auto|require|off`, read once, all modules or none.

`auto` (the default) takes the compiled modules where all of them import, `require` makes a missing one an ImportError,
`off` never looks. It must never import a pure twin. Called by: the modules that choose a twin (`stomp.frame`,
`store.file.record`, `store.file.index`, `store.file.syncer`) and whoever prints the choice.
"""

from __future__ import annotations

import importlib
import os

__all__ = ["COMPILED", "MODULES", "SWITCH", "TWIN"]

SWITCH = "RADIATOR_SPEEDUPS"
MODULES = ("frame", "record", "index", "syncer")


def _choose(value: str) -> bool:
    """True where the compiled modules are to be used; ImportError or ValueError as the switch demands."""
    if value not in ("auto", "require", "off"):
        raise ValueError(f"{SWITCH} is {value!r}: it must be auto, require or off")
    if value == "off":
        return False
    try:
        for name in MODULES:
            importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        if value == "require":
            raise ImportError(f"{SWITCH}=require, but the compiled modules are not all there: {error}") from error
        return False
    return True


COMPILED: bool = _choose(os.environ.get(SWITCH, "auto"))
TWIN: str = "compiled" if COMPILED else "pure"
