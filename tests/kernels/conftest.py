"""The kernels' twins as fixtures: every test that asks for one runs on the pure and on the compiled twin.

Each twin is imported by its own module's name, so both live in one process and the switch of the package plays no part.
A compiled twin that is not built is skipped, unless RADIATOR_SPEEDUPS=require says that it must be there.
"""

from __future__ import annotations

from typing import Any

import pytest
from twins import load_twin

TWINS = ("pure", "compiled")


@pytest.fixture(scope="session", params=TWINS)
def frame_twin(request: pytest.FixtureRequest) -> Any:
    """The module of one twin of the frame kernel."""
    return load_twin("radiator.stomp.frame_pure", "radiator._speedups.frame", request.param)


@pytest.fixture(scope="session", params=TWINS)
def record_twin(request: pytest.FixtureRequest) -> Any:
    """The module of one twin of the record kernel."""
    return load_twin("radiator.store.file.record_pure", "radiator._speedups.record", request.param)


@pytest.fixture(scope="session", params=TWINS)
def index_twin(request: pytest.FixtureRequest) -> Any:
    """The module of one twin of the index kernel."""
    return load_twin("radiator.store.file.index_pure", "radiator._speedups.index", request.param)
