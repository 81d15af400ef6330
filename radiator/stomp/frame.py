"""The frame kernel in use: the one place that chooses between its two twins.

It must never hold code of its own. Type checkers read the pure twin, which is the specification.
Called by: `stomp.session` and the command line's client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from radiator._speedups import COMPILED

if TYPE_CHECKING or not COMPILED:
    from radiator.stomp.frame_pure import (
        Frame,
        Parser,
        encode_frame,
        encode_message,
        encode_receipt,
        escape,
        translate_block,
        unescape,
    )
else:
    from radiator._speedups.frame import (
        Frame,
        Parser,
        encode_frame,
        encode_message,
        encode_receipt,
        escape,
        translate_block,
        unescape,
    )

__all__ = [
    "Frame",
    "Parser",
    "encode_frame",
    "encode_message",
    "encode_receipt",
    "escape",
    "translate_block",
    "unescape",
]
