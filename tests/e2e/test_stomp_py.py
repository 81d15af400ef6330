"""Real clients: stomp.py, the version installed here and version 8, each in a process of its own.

RADIATOR_STOMP8 names a directory that holds version 8 (`pip install --target DIRECTORY 'stomp.py<9'`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemon import Daemon

SCRIPT = Path(__file__).with_name("stomp_scenarios.py")
STOMP8 = "RADIATOR_STOMP8"
SCENARIOS = [
    (scenario, version)
    for scenario in ("ordered", "backlog", "redelivery", "transactions", "topics", "bytes_and_headers", "unknown")
    for version in ("1.0", "1.1", "1.2")
] + [("heart_beats", "1.1"), ("heart_beats", "1.2")]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """One broker for all: what clients before them did must not matter to any."""
    with Daemon(tmp_path_factory.mktemp("stomp_py"), log_level="info") as daemon:
        yield daemon
        assert daemon.terminate() == 0
        assert not [line for line in daemon.log if " error " in line]


@pytest.fixture(params=["installed", "8"])
def environment(request):
    """The environment in which `import stomp` finds the release that is meant."""
    place = ""
    if request.param == "8":
        place = os.environ.get(STOMP8, "")
        if not place:
            pytest.skip(f"{STOMP8} does not name a directory with stomp.py 8")
    else:
        pytest.importorskip("stomp", reason="stomp.py is not installed")
    return {**os.environ, "PYTHONPATH": place}


@pytest.mark.parametrize(("scenario", "version"), SCENARIOS)
def test_a_real_client(daemon, request, scenario, version, environment):
    name = request.node.callspec.id
    done = subprocess.run(
        [sys.executable, str(SCRIPT), scenario, str(daemon.address[1]), version, name],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr + "\n".join(daemon.log)


def test_version_8_is_version_8(environment, request):
    done = subprocess.run(
        [sys.executable, "-c", "import stomp; print(stomp.__version__)"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    if environment["PYTHONPATH"]:
        assert done.stdout.startswith("8."), done.stdout
    else:
        assert int(done.stdout.partition(".")[0]) >= 8, done.stdout
