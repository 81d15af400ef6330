"""What every test run says about itself: which package, which twin, how many generated examples.

It must never let a run pass that tested something else than it seems: an extension older than its source is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import radiator
from radiator._speedups import MODULES, SWITCH, TWIN

settings.register_profile(
    "radiator",
    # The machine may be busy with a disk or a build; a slow example is no failure.
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("radiator"), max_examples=5000)
settings.load_profile("radiator")

_COUNTS = re.compile(r"(\d+) passing(?: examples)?, (\d+) failing")


class _Examples:
    """Counts the examples that property tests ran."""

    def __init__(self) -> None:
        self.tests = 0
        self.examples = 0

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        yield
        statistics = getattr(item, "hypothesis_statistics", None)
        if call.when == "call" and statistics:
            self.tests += 1
            self.examples += sum(int(number) for pair in _COUNTS.findall(statistics) for number in pair)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.tests:
            terminalreporter.write_line(f"property tests: {self.tests}, with {self.examples} generated examples")


def stale_extensions(folder: Path) -> list[str]:
    """The extensions in `folder` that are older than the source beside them."""
    return [
        f"{built} is older than {source.name}"
        for source in (folder / f"{name}.pyx" for name in MODULES)
        if source.exists()
        for built in folder.glob(f"{source.stem}.*.so")
        if built.stat().st_mtime < source.stat().st_mtime
    ]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Examples(), "radiator-examples")


def pytest_sessionstart(session: pytest.Session) -> None:
    stale = stale_extensions(Path(radiator.__file__).parent / "_speedups")
    if stale and os.environ.get(SWITCH) != "off":
        raise pytest.UsageError("\n".join([*stale, "build them: python setup.py build_ext --inplace"]))


def pytest_report_header() -> list[str]:
    return [f"radiator: {Path(radiator.__file__).parent} ({radiator.__version__}, twin: {TWIN})"]
