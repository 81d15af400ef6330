"""What the benchmarks of the kernels share: either twin of a kernel, and the ratio of the times that two calls take."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["GATE", "load_twin", "ratio"]

GATE = 2.0
"""How many times as fast as the pure twin the compiled one must be."""

_ROUNDS = 15


def load_twin(modules: dict[str, str], which: str) -> Any:
    """The module of one twin, `modules[which]`; skips where the compiled one is not built and nobody requires it."""
    try:
        return importlib.import_module(modules[which])
    except ImportError:
        if which == "compiled" and os.environ.get("RADIATOR_SPEEDUPS") != "require":
            pytest.skip("the compiled twin is not built")
        raise


def ratio(slow: Callable[[], object], fast: Callable[[], object]) -> float:
    """How many times as long `slow` takes: best of interleaved rounds, so that a busy machine hits both.

    In processor time: on a busy machine the longer call has less of a chance that nothing comes between.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        for call, taken in zip((slow, fast), times, strict=True):
            start = time.thread_time()
            call()
            taken.append(time.thread_time() - start)
    return min(times[0]) / min(times[1])
