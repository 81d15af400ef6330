"""A short round of the SIGKILL loop; the long one is `killloop.py`."""

from __future__ import annotations

import pytest
from killloop import KillLoop


@pytest.mark.parametrize("fsync", ["always", "50ms", "never"])
def test_killed_again_and_again_nothing_receipted_is_lost(tmp_path, fsync):
    loop = KillLoop(tmp_path, fsync, seed=1)
    for _ in range(2):
        loop.cycle()
    loop.check()
    assert loop.books.receipts
    assert loop.there
