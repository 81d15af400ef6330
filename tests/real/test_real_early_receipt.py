"""Under load with late syncs no receipt and no delivery comes before its sync; `earlyreceipt.py` runs for longer."""

from __future__ import annotations

import pytest
from earlyreceipt import detect, why_no_compiler
from oracle import Broken

REASON = why_no_compiler()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

NO_SYNC = """
from radiator.server import daemon
from radiator.store.file import fsio, syncer
work = syncer._work
syncer._work = lambda fsio, fd, buffer, offset, sync: work(fsio, fd, buffer, offset, False)
daemon._sync_worker = lambda: syncer.ThreadSyncer(fsio.RealFsio())
"""


def test_nothing_is_told_before_its_sync(tmp_path):
    told, syncs = detect(tmp_path, 2.0, 30, seed=1)
    assert told > 100
    assert syncs > 5


def test_a_receipt_without_a_sync_is_seen(tmp_path):
    with pytest.raises(Broken, match="no sync"):
        detect(tmp_path, 1.0, 30, seed=1, prelude=NO_SYNC)
