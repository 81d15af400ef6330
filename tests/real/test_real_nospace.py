"""A short round of the disk that fills up; the long one is `nospace.py`."""

from __future__ import annotations

import pytest
from nospace import IMAGE_BYTES, NoSpace
from powercut import Image, why_not

REASON = why_not()


@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_a_full_disk_takes_acks_and_forgets_nothing(tmp_path):
    with Image(tmp_path, IMAGE_BYTES) as image:
        loop = NoSpace(image, tmp_path, "always", seed=3)
        loop.cycle()
    assert len(loop.refusals) >= 3
    assert loop.acks
    assert loop.there
