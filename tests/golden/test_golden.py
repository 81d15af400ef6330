"""What earlier radiators wrote is read by this one, with both twins, to the last field."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from make import VERSION, load, make, pack

from radiator._speedups import COMPILED

HERE = Path(__file__).parent
STORES = sorted(HERE.glob("*/*.tar.gz"))


@pytest.mark.parametrize("path", STORES, ids=lambda path: f"{path.parent.name}-{path.name.partition('.')[0]}")
@pytest.mark.parametrize("twin", ["off", "require"])
def test_a_golden_store_says_what_it_said(path: Path, twin: str) -> None:
    if twin == "require" and not COMPILED and os.environ.get("RADIATOR_SPEEDUPS") != "require":
        pytest.skip("the compiled twin is not in use")
    done = subprocess.run(
        [sys.executable, str(HERE / "make.py"), "--describe", str(path)],
        env={**os.environ, "RADIATOR_SPEEDUPS": twin},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert json.loads(done.stdout) == json.loads(
        path.with_name(path.name.replace(".tar.gz", ".json")).read_text("utf-8")
    )


def test_every_version_is_kept() -> None:
    """A new version of the format comes with golden stores of its own, and keeps those before."""
    assert {path.parent.name for path in STORES} == {str(version) for version in range(1, VERSION + 1)}


def test_the_maker_makes_nothing_by_chance() -> None:
    assert pack(make(clean=True)) == pack(make(clean=True))
    assert load(STORES[0]).keys() >= {"FORMAT", "watermark"}
