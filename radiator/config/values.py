"""The words of the settings: sizes, times, addresses and fsync policies, read from text and written as text.

It must never know where a text came from: a wrong one is a ValueError that says what is right, and whoever reads the
file or the command line adds the place. Called by: the loader, the command line.
"""

from __future__ import annotations

import re

from radiator.config.schema import Address, Fsync

__all__ = [
    "format_size",
    "format_time",
    "parse_address",
    "parse_fsync",
    "parse_size",
    "parse_time",
]

SIZES = {
    "": 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
"""Bytes in each unit of a size."""

TIMES_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
"""Milliseconds in each unit of a time."""

MAX_FSYNC_INTERVAL_MS = 3_600_000

_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,18}) ?([A-Za-z]*)", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_IPV6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9._-]+)?", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)


def parse_size(text: str) -> int:
    """The bytes of `64MiB`, `4kB` or a plain number."""
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None or match[2] not in SIZES:
        raise ValueError(f"{text!r} is not a size: write 64MiB, 4KiB, 1GiB, 10MB or a number of bytes")
    return int(match[1]) * SIZES[match[2]]


def parse_time_ms(text: str) -> int:
    """The milliseconds of `50ms`, `10s`, `1m` or `1h`; a number alone has no meaning."""
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None or match[2] not in TIMES_MS:
        raise ValueError(f"{text!r} is not a time: write 50ms, 10s, 1m or 1h")
    return int(match[1]) * TIMES_MS[match[2]]


def parse_time(text: str) -> float:
    """The seconds of `50ms`, `10s`, `1m` or `1h`."""
    return parse_time_ms(text) / 1000


def parse_fsync(text: str) -> Fsync:
    """The policy of `always`, `never` or a time such as `50ms`."""
    if text == "always":
        return Fsync("always")
    if text == "never":
        return Fsync("never")
    try:
        interval_ms = parse_time_ms(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an fsync policy: write always, never or a time such as 50ms") from None
    if not 1 <= interval_ms <= MAX_FSYNC_INTERVAL_MS:
        raise ValueError(f"fsync every {text} is out of range: from 1ms to 1h, or always")
    return Fsync("interval", interval_ms)


def parse_address(text: str) -> Address:
    """The address of `HOST:PORT`; an IPv6 address stands in brackets, port 0 is any free one."""
    host, colon, port = text.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT with a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        if not _IPV6.fullmatch(host[1:-1]):
            raise ValueError(f"{host!r} is not an IPv6 address in brackets, such as [::1]")
        return Address(host[1:-1], int(port))
    if ":" in host:
        raise ValueError(f"{text!r} has an IPv6 address without brackets: write [{host}]:{port}")
    if not _HOST.fullmatch(host):
        raise ValueError(f"{text!r} has no host: write 127.0.0.1:{port}, or 0.0.0.0:{port} for every interface")
    return Address(host, int(port))


def format_size(size: int) -> str:
    """`size` bytes in the largest binary unit that divides them, such as `64MiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % SIZES[unit] == 0:
            return f"{size // SIZES[unit]}{unit}"
    return str(size)


def format_time(seconds: float) -> str:
    """`seconds` as whole seconds where they are, else as milliseconds."""
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{seconds * 1000:.0f}ms"
