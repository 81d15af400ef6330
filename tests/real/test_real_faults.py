"""A disk that fails: exit 74, one line, nothing promised that is not kept. All faults by command: `diskfaults.py`."""

from __future__ import annotations

import pytest
from diskfaults import run, why_no_strace
from powercut import why_not

REASON = why_not()
NO_STRACE = why_no_strace() if REASON is None else REASON


@pytest.mark.skipif(REASON is not None, reason=REASON or "")
@pytest.mark.parametrize("fsync", ["always", "50ms"])
@pytest.mark.parametrize("fault", ["device", "tmpfs"])
def test_a_device_that_fails_to_write(tmp_path, fault, fsync):
    outcome = run(fault, tmp_path, fsync, seed=1)
    assert outcome.receipts
    # ext4 makes itself read-only where its journal met the error first, and then that is what a write is told.
    reasons = ["Input/output error", "Read-only file system", *(["No space left"] if fault == "tmpfs" else [])]
    assert any(reason in outcome.line for reason in reasons), outcome.line


@pytest.mark.skipif(NO_STRACE is not None, reason=NO_STRACE or "")
@pytest.mark.parametrize("fault", ["fdatasync:EIO:20", "pwrite64:ENOSPC:20", "fsync:EIO:2", "rename:EIO:2"])
def test_a_system_call_that_fails(tmp_path, fault):
    outcome = run(fault, tmp_path, "always", seed=1)
    assert outcome.receipts
    assert "No space left" in outcome.line if "ENOSPC" in fault else "Input/output error" in outcome.line
