"""How fast a queue's index is: both twins in one process, and the gates between them.

Run by `pytest bench/bench_index.py`. A gate compares ratios of the same run, best of several interleaved rounds, and
never an absolute time: the compiled twin must be at least twice as fast as the pure one, and the pure one must keep up
with a fixed control loop, so that nobody wins the first gate by slowing it. `test_memory` prints bytes of resident
memory per waiting message, for each twin in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from kernel_gates import GATE, load_twin, ratio

MODULES = {"pure": "radiator.store.file.index_pure", "compiled": "radiator._speedups.index"}
MESSAGES = 2000
WINDOW = 20
CONTROL_GATE = 8.0
"""How many times as long as its control loop, a dict and a deque, the pure twin may take; measured here: 4.7."""

MEMORY = """
import importlib, os, sys
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
queue = importlib.import_module(sys.argv[1]).QueueIndex()
before = resident()
for id in range(1, 1_000_001):
    queue.put(id, id * 256, 200)
print((resident() - before) / 1_000_000)
"""


@pytest.fixture(params=MODULES)
def twin(request: pytest.FixtureRequest) -> Any:
    return load_twin(MODULES, request.param)


def stream(queue: Any) -> Any:
    """A queue's life behind a backlog: messages come, are claimed a window at a time, one of them returns, all go."""
    first = queue.next
    for id in range(first, first + MESSAGES):
        queue.put(id, id << 8, 200)
    claimed = queue.claim(WINDOW, 1 << 20)
    while claimed:
        queue.release([claimed[-1][0]], True)
        for id, _, _, _ in claimed[:-1]:
            queue.settle(id)
        claimed = queue.claim(WINDOW, 1 << 20) if len(claimed) > 1 else queue.settle(claimed[0][0]) and []
    return queue


def control() -> int:
    """The least that Python code can do: a dict of places, and a deque of what is ready."""
    from collections import deque

    places: dict[int, tuple[int, int, int]] = {}
    ready: deque[int] = deque()
    for id in range(1, MESSAGES + 1):
        places[id] = (id << 8, 200, 0)
        ready.append(id)
    while ready:
        claimed = [(id, *places[id]) for id in [ready.popleft() for _ in range(min(WINDOW, len(ready)))]]
        if len(claimed) > 1:
            ready.appendleft(claimed.pop()[0])
        for id, _, _, _ in claimed:
            del places[id]
    return len(places)


def test_stream(benchmark: Any, twin: Any) -> None:
    benchmark.extra_info["messages"] = MESSAGES
    queue = benchmark(lambda: stream(twin.QueueIndex()))
    assert (queue.floor, queue.live) == (MESSAGES + 1, 0)


def test_lone_messages(benchmark: Any, twin: Any) -> None:
    queue = twin.QueueIndex()

    def message() -> Any:
        queue.put(queue.next, 8, 8)
        return queue.settle(queue.claim(1, 100)[0][0])

    assert benchmark(message) == (8, 8)


def test_rebuild_with_holes(benchmark: Any, twin: Any) -> None:
    def rebuild() -> int:
        queue = twin.QueueIndex(1, 100_000)
        for first in range(2, 100_000, 100):
            queue.kill(first, first + 60)
        return len(queue.dead_ranges())

    assert benchmark(rebuild) == 1000


def test_the_compiled_twin_is_twice_as_fast() -> None:
    pure, compiled = load_twin(MODULES, "pure"), load_twin(MODULES, "compiled")
    assert ratio(lambda: stream(pure.QueueIndex()), lambda: stream(compiled.QueueIndex())) >= GATE


def test_the_pure_twin_keeps_up_with_its_control() -> None:
    pure = load_twin(MODULES, "pure")
    assert control() == 0
    assert ratio(lambda: stream(pure.QueueIndex()), control) <= CONTROL_GATE


def test_memory(twin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY, twin.__name__], capture_output=True, text=True, check=True)
    with capsys.disabled():
        sys.stdout.write(f"\n{twin.__name__}: {float(done.stdout):.2f} bytes per waiting message\n")
    assert float(done.stdout) <= 20


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__]))
