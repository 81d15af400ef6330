"""The index kernel in use: the compiled twin or the pure one, as `radiator._speedups` decides.

It must hold no code of its own. Called by: the file engine, which keeps one index for each queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from radiator._speedups import COMPILED

if TYPE_CHECKING or not COMPILED:
    from radiator.store.file.index_pure import CHUNK, IN_FLIGHT, READY, QueueIndex
else:
    from radiator._speedups.index import CHUNK, IN_FLIGHT, READY, QueueIndex

__all__ = ["CHUNK", "IN_FLIGHT", "READY", "QueueIndex"]
