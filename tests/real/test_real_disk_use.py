"""A short day of traffic on small segments; the long one is `diskuse.py`."""

from __future__ import annotations

from diskuse import Day


def test_one_forgotten_message_does_not_pin_the_disk(tmp_path):
    day = Day(tmp_path / "data", messages=12000, segment_bytes=1 << 18, seed=1)
    day.run()
    assert day.written > 3 * day.worst.disk
    assert day.worst.disk <= day.worst.allowed
