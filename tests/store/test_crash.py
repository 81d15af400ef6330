"""Random histories on a disk that loses power at every operation, and again while the store recovers and goes on."""

from __future__ import annotations

from random import Random

import pytest
from model import Model, World, check, snapshot
from simdisk import SimDisk


def history(seed: int, fsync: str, steps: int = 60, **faults: object) -> World:
    """One history with a moment at every disk operation."""
    disk = SimDisk()
    disk.make_parents("/data")
    for name, value in faults.items():
        setattr(disk, name, value)
    if seed % 3 == 0:
        disk.short_writes = Random(seed)
    world = World(disk, Random(seed), Model({}), fsync=fsync)
    world.run(steps)
    return world


def crash_everywhere(world: World, seed: int, *, stride: int = 1) -> int:
    """Crash at every `stride`-th operation, with and without a power cut; sometimes again in the life after it."""
    rng = Random(seed)
    crashes = 0
    for place, moment in enumerate(world.moments[:: max(1, stride)]):
        cut = check(
            moment.disk.power_cut(rng), world.model, moment.after_power_cut, moment.most, seed + place, world.fsync
        )
        check(moment.disk.survive(), world.model, moment.after_kill, moment.most, seed + place, world.fsync)
        crashes += 2
        if place % 8 == seed % 8:
            cut.disk.before = cut._record
            cut.run(12)
            for again in cut.moments:
                check(
                    again.disk.power_cut(rng), cut.model, again.after_power_cut, again.most, seed + place, world.fsync
                )
                crashes += 1
    return crashes


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
@pytest.mark.parametrize("seed", range(3))
def test_a_crash_at_every_operation_leaves_a_prefix(seed: int, fsync: str) -> None:
    world = history(seed, fsync)
    assert crash_everywhere(world, seed) > 100


@pytest.mark.parametrize("seed", range(10, 16))
def test_index_and_accounts_equal_a_rescan(seed: int) -> None:
    world = history(seed, "always", 150)
    again = check(world.disk.survive(), world.model, world.model.committed(world.told), len(world.model.states), seed)
    assert snapshot(again.store) == snapshot(world.store)


def test_a_history_rotates_and_unlinks() -> None:
    world = history(1, "always", 300)
    names = sorted(path for path in world.disk.contents() if path.endswith(".seg"))
    newest = int(names[-1][-12:-4])
    assert newest > 5
    assert len(names) < newest
