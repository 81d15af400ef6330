"""Loading one twin of a kernel by its own module's name, so that both live in one process.

Called by: the kernels' `conftest.py` and the tests that replay one history on both twins.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest


def load_twin(pure: str, compiled: str, which: str) -> ModuleType:
    """The module of one twin; skips the test where it is the compiled one, not built and not required."""
    name = pure if which == "pure" else compiled
    try:
        return importlib.import_module(name)
    except ImportError:
        if which == "compiled" and os.environ.get("RADIATOR_SPEEDUPS") != "require":
            pytest.skip(f"{name} is not built")
        raise
