"""Deadlines on one timer: never early, within a slot, and nothing left behind."""

from __future__ import annotations

from radiator.server.timers import SLOT_SECONDS, Timers


class Loop:
    """gevent's loop as far as the timers use it: remembers the one timer that runs."""

    def __init__(self):
        self.running = []

    def timer(self, after):
        return Timer(self, after)


class Timer:
    def __init__(self, loop, after):
        self.loop, self.after = loop, after

    def start(self, callback, update):
        self.callback = callback
        self.loop.running.append(self)

    def stop(self):
        if self in self.loop.running:
            self.loop.running.remove(self)

    def close(self):
        pass


class Item:
    def __init__(self, *answers):
        self.slot = 0
        self.answers = list(answers)
        self.ticks = []

    def tick(self, now):
        self.ticks.append(now)
        return self.answers.pop(0) if self.answers else None


class World:
    def __init__(self):
        self.now = 1000.0
        self.loop = Loop()
        self.timers = Timers(self.loop, lambda: self.now)

    def run_until(self, end):
        while self.loop.running:
            (timer,) = self.loop.running
            if self.now + timer.after > end:
                break
            self.now += timer.after
            self.loop.running.remove(timer)
            timer.callback()
        self.now = end


def test_ticks_within_a_slot_of_its_deadline_and_never_early():
    world = World()
    items = {1000.0 + step / 7: Item() for step in range(1, 50)}
    for deadline, item in items.items():
        world.timers.at(item, deadline)
    world.run_until(1010.0)
    for deadline, item in items.items():
        (ticked,) = item.ticks
        assert deadline <= ticked + 1e-9
        assert ticked <= deadline + SLOT_SECONDS + 1e-9


def test_the_answer_is_the_next_deadline():
    world = World()
    item = Item(1002.0, 1003.0)
    world.timers.at(item, 1001.0)
    world.run_until(1010.0)
    assert [round(ticked, 1) for ticked in item.ticks] in ([1001.0, 1002.0, 1003.0], [1001.1, 1002.1, 1003.1])
    assert item.slot == 0
    assert not world.loop.running


def test_an_earlier_deadline_replaces_a_later_one():
    world = World()
    item = Item()
    world.timers.at(item, 1009.0)
    world.timers.at(item, 1001.0)
    world.run_until(1020.0)
    assert len(item.ticks) == 1
    assert item.ticks[0] < 1001.2


def test_a_later_deadline_replaces_an_earlier_one():
    world = World()
    item = Item()
    world.timers.at(item, 1001.0)
    world.timers.at(item, 1009.0)
    world.run_until(1008.0)
    assert not item.ticks
    world.run_until(1020.0)
    assert len(item.ticks) == 1


def test_none_and_remove_take_an_item_off():
    world = World()
    first, second = Item(), Item()
    world.timers.at(first, 1001.0)
    world.timers.at(second, 1001.0)
    world.timers.at(first, None)
    world.timers.remove(second)
    world.timers.remove(second)
    world.run_until(1020.0)
    assert not first.ticks
    assert not second.ticks


def test_soon_never_makes_a_deadline_later():
    world = World()
    near, far = Item(), Item()
    world.timers.at(near, 1000.01)
    world.timers.at(far, 1009.0)
    for item in (near, far):
        world.timers.soon(item, world.now)
    world.run_until(1000.0 + 3 * SLOT_SECONDS)
    assert len(near.ticks) == 1
    assert near.ticks[0] <= 1000.01 + SLOT_SECONDS + 1e-9
    assert len(far.ticks) == 1


def test_an_overdue_answer_waits_for_the_next_slot():
    world = World()
    item = Item(*[0.0] * 5)
    world.timers.at(item, 1000.1)
    world.run_until(1001.0)
    assert len(item.ticks) == 6
    assert all(later - earlier > SLOT_SECONDS / 2 for earlier, later in zip(item.ticks, item.ticks[1:], strict=False))


def test_moving_leaves_nothing_behind():
    world = World()
    item = Item()
    for step in range(10_000):
        world.timers.at(item, 1001.0 + step % 40)
    assert len(world.timers._order) <= 40
    assert sum(len(slot) for slot in world.timers._slots.values()) == 1


def test_an_item_that_removes_another_in_its_tick():
    world = World()
    second = Item()

    class First(Item):
        def tick(self, now):
            world.timers.remove(second)
            world.timers.at(second, now + 5)
            return super().tick(now)

    first = First()
    world.timers.at(first, 1001.0)
    world.timers.at(second, 1001.0)
    world.run_until(1004.0)
    assert len(first.ticks) == 1
    assert second.slot == 0 or not second.ticks


def test_close_stops_the_timer():
    world = World()
    world.timers.at(Item(), 1001.0)
    assert len(world.loop.running) == 1
    world.timers.close()
    assert not world.loop.running
