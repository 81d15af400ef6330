"""The extension list and the three-valued switch; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import os
import sys

from setuptools import Extension, setup

SWITCH = "RADIATOR_SPEEDUPS"
MODULES = ("frame", "record", "index", "syncer")

mode = os.environ.get(SWITCH, "auto")
if mode not in ("auto", "require", "off"):
    sys.exit(f"{SWITCH} is {mode!r}: it must be auto, require or off")

extensions = [
    Extension(
        f"radiator._speedups.{name}",
        [f"radiator/_speedups/{name}.pyx"],
        libraries=["z"] if name == "record" else [],
        optional=mode != "require",
    )
    for name in MODULES
]

setup(ext_modules=[] if mode == "off" else extensions)
