"""The exception tree: every error radiator raises on purpose.

It must never import anything of radiator, so that kernels and every layer may use it.
Called by: everybody. The command line maps the classes to exit codes (`exit_code`).
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "CorruptRecord",
    "ProtocolError",
    "RadiatorError",
    "Refused",
    "StoreBusy",
    "StoreDamaged",
    "StoreError",
    "StoreFailed",
    "StoreLocked",
    "TurnSpent",
]


class RadiatorError(Exception):
    """Root of the tree.

    `exit_code` is what a command that ends on this error returns (sysexits.h).
    """

    exit_code = 70


class ProtocolError(RadiatorError):
    """The peer sent bytes that no STOMP frame may have, or a frame out of turn.

    The text is one line of plain ASCII: it becomes the `message` header of the ERROR frame.
    """

    exit_code = 69


class Refused(RadiatorError):
    """A well-formed request that the broker does not grant: unknown destination, a limit, a full queue.

    The text is one line; it becomes the `message` header of the ERROR frame.
    """

    exit_code = 69


class StoreBusy(RadiatorError):
    """There is no room in the commit buffers at the moment: try the same call again after the next completion."""


class TurnSpent(RadiatorError):
    """This turn has handed out as many copies as one may: try the same call again in the next."""


class StoreError(RadiatorError):
    """Anything that keeps a store from opening or going on."""

    exit_code = 74


class StoreLocked(StoreError):
    """Another process holds the data directory."""

    exit_code = 69


class StoreDamaged(StoreError):
    """The data directory holds something that the rules of recovery refuse to start on."""

    exit_code = 65


class StoreFailed(StoreError):
    """A write, a sync or a rename failed: final, nothing after it is acknowledged."""

    exit_code = 74


class CorruptRecord(RadiatorError):
    """Bytes that are not the record or batch they should be: wrong checksum, length, address or type."""

    exit_code = 65


class ConfigError(RadiatorError):
    """A configuration that is missing, unreadable or wrong; the text says where and what to do."""

    exit_code = 78
