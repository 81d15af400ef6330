"""The record kernel in use: the compiled twin or the pure one, as `radiator._speedups` decides.

It must hold no code of its own. Called by: the file engine's log, segment, recovery and delivery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from radiator._speedups import COMPILED

if TYPE_CHECKING or not COMPILED:
    from radiator.store.file.record_pure import (
        BLOCK,
        COUNTS,
        DEFINE,
        DROP,
        FORMAT_VERSION,
        HEADER_BYTES,
        MAX_PAYLOAD,
        NEXT_QUEUE,
        OPENING,
        PLACES,
        PUT,
        RANGE_BYTES,
        SEGMENT,
        SETTLED,
        SETTLED_HEAD_BYTES,
        STATE,
        BatchHeader,
        BatchWriter,
        SegmentHeader,
        decode_batch,
        decode_batch_header,
        decode_message,
        decode_references,
        decode_segment_header,
        encode_segment_header,
        scan_batch,
    )
else:
    from radiator._speedups.record import (
        BLOCK,
        COUNTS,
        DEFINE,
        DROP,
        FORMAT_VERSION,
        HEADER_BYTES,
        MAX_PAYLOAD,
        NEXT_QUEUE,
        OPENING,
        PLACES,
        PUT,
        RANGE_BYTES,
        SEGMENT,
        SETTLED,
        SETTLED_HEAD_BYTES,
        STATE,
        BatchHeader,
        BatchWriter,
        SegmentHeader,
        decode_batch,
        decode_batch_header,
        decode_message,
        decode_references,
        decode_segment_header,
        encode_segment_header,
        scan_batch,
    )

__all__ = [
    "BLOCK",
    "COUNTS",
    "DEFINE",
    "DROP",
    "FORMAT_VERSION",
    "HEADER_BYTES",
    "MAX_PAYLOAD",
    "NEXT_QUEUE",
    "OPENING",
    "PLACES",
    "PUT",
    "RANGE_BYTES",
    "SEGMENT",
    "SETTLED",
    "SETTLED_HEAD_BYTES",
    "STATE",
    "BatchHeader",
    "BatchWriter",
    "SegmentHeader",
    "decode_batch",
    "decode_batch_header",
    "decode_message",
    "decode_references",
    "decode_segment_header",
    "encode_segment_header",
    "scan_batch",
]
