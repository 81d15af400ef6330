"""The guard around every call on a session: no socket, file, clock or greenlet while it runs (the contract)."""

from __future__ import annotations

import sys
from contextlib import contextmanager

FORBIDDEN = frozenset(
    ("_io", "_socket", "_thread", "_time", "gevent", "greenlet", "io", "nt", "posix", "select", "socket", "time")
)


class Unsealed(AssertionError):
    """A session called what it must never call."""


@contextmanager
def sealed():
    """Raise Unsealed when anything within calls a function of a forbidden module."""
    seen = []

    def profile(frame, event, called):
        where = frame.f_globals.get("__name__", "")
        if event == "call" and where.split(".")[0] == "gevent":
            seen.append(f"{where}.{frame.f_code.co_name}")
        # A collection of garbage may come at any moment, and Hypothesis measures how long each takes.
        if event != "c_call" or where.startswith("hypothesis"):
            return
        home = getattr(called, "__module__", None) or type(getattr(called, "__self__", None)).__module__
        if home.split(".")[0] in FORBIDDEN:
            seen.append(f"{home}.{called.__name__}")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)
    if seen:
        raise Unsealed(f"called from within a session: {', '.join(seen)}")
