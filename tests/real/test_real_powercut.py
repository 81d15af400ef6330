"""A short round of real power cuts; the long one is `powercut.py`. And it must see a sync that is left out."""

from __future__ import annotations

import pytest
from oracle import Broken
from powercut import CachedImage, Image, PowerCuts, why_not

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

LARGE = "daemon.FileStore = functools.partial(daemon.FileStore, segment_bytes=1 << 26)\n"
NO_SYNC = LARGE + "from radiator.store.file.fsio import RealFsio\nRealFsio.sync_data = lambda self, fd: None\n"


NO_XFS = why_not("xfs")
XFS = pytest.mark.skipif(NO_XFS is not None, reason=NO_XFS or "")


@pytest.mark.parametrize(
    ("fsync", "kind", "filesystem"),
    [
        ("always", Image, "ext4"),
        ("50ms", Image, "ext4"),
        ("never", Image, "ext4"),
        ("always", CachedImage, "ext4"),
        pytest.param("always", Image, "xfs", marks=XFS),
    ],
)
def test_each_policy_keeps_its_promise(tmp_path, fsync, kind, filesystem):
    with kind(tmp_path, filesystem=filesystem) as image:
        loop = PowerCuts(image, tmp_path, fsync, seed=2)
        for _ in range(2):
            loop.cycle()
        loop.check()
    assert loop.cuts >= 2
    assert loop.books.receipts
    if fsync == "always":
        assert not loop.lost


def test_a_sync_that_is_left_out_is_seen(tmp_path):
    with Image(tmp_path) as image:
        loop = PowerCuts(image, tmp_path, "always", seed=5, bug=NO_SYNC)
        loop.cycle()
        with pytest.raises(Broken, match=r"are lost|half a unit|after a receipted ACK"):
            loop.check()
