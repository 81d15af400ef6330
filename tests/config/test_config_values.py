"""Sizes, times, fsync policies and addresses: every unit, every bound and one beyond."""

from __future__ import annotations

import pytest

from radiator.config.schema import Address, Fsync
from radiator.config.values import format_size, format_time, parse_address, parse_fsync, parse_size, parse_time


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("17", 17),
        ("17B", 17),
        ("4KiB", 4096),
        ("64MiB", 64 << 20),
        ("64 MiB", 64 << 20),
        ("1GiB", 1 << 30),
        ("2TiB", 2 << 40),
        ("1kB", 1000),
        ("10MB", 10_000_000),
        ("3GB", 3_000_000_000),
        ("1TB", 10**12),
    ],
)
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MiB", "4mib", "4M", "4K", "4KB", "-1", "+1", "1.5MiB", "1e6", "4  MiB", " 4", "٤", "0x10"]
)
def test_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size: write 64MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("50ms", 0.05), ("10s", 10.0), ("1m", 60.0), ("2h", 7200.0), ("0s", 0.0)]
)
def test_time(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "s", "10 sec", "10S", "1.5s", "-1s", "1d", "50us"])
def test_not_a_time(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time: write 50ms"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "fsync"),
    [
        ("always", Fsync("always", 0)),
        ("never", Fsync("never", 0)),
        ("1ms", Fsync("interval", 1)),
        ("50ms", Fsync("interval", 50)),
        ("1h", Fsync("interval", 3_600_000)),
    ],
)
def test_fsync(text: str, fsync: Fsync) -> None:
    assert parse_fsync(text) == fsync


@pytest.mark.parametrize("text", ["", "Always", "50", "sometimes", "yes"])
def test_not_an_fsync_policy(text: str) -> None:
    with pytest.raises(ValueError, match="is not an fsync policy: write always, never or a time"):
        parse_fsync(text)


@pytest.mark.parametrize("text", ["0ms", "3600001ms"])
def test_fsync_interval_out_of_range(text: str) -> None:
    with pytest.raises(ValueError, match="from 1ms to 1h"):
        parse_fsync(text)


def test_fsync_reads_what_it_writes() -> None:
    for text in ("always", "never", "50ms"):
        assert str(parse_fsync(text)) == text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:61613", Address("127.0.0.1", 61613)),
        ("localhost:0", Address("localhost", 0)),
        ("broker-1.example.org:65535", Address("broker-1.example.org", 65535)),
        ("[::1]:61613", Address("::1", 61613)),
        ("[fe80::1%eth0]:1", Address("fe80::1%eth0", 1)),
        ("[::ffff:10.0.0.1]:2", Address("::ffff:10.0.0.1", 2)),
    ],
)
def test_address(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "is not HOST:PORT"),
        ("localhost", "is not HOST:PORT"),
        ("localhost:", "is not HOST:PORT"),
        ("localhost:http", "is not HOST:PORT"),
        ("localhost:65536", "port from 0 to 65535"),
        ("localhost:-1", "is not HOST:PORT"),
        (":61613", "for every interface"),
        ("a b:1", "has no host"),
        ("::1:61613", r"write \[::1\]:61613"),
        ("[::1]", "is not HOST:PORT"),
        ("[localhost]:1", "is not an IPv6 address"),
        ("[]:1", "is not an IPv6 address"),
    ],
)
def test_not_an_address(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        parse_address(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1, "1"), (1000, "1000"), (4096, "4KiB"), (64 << 20, "64MiB"), (1536, "1536"), (3 << 39, "1536GiB")],
)
def test_format_size(size: int, text: str) -> None:
    assert format_size(size) == text
    assert parse_size(text) == size


@pytest.mark.parametrize(("seconds", "text"), [(10.0, "10s"), (0.05, "50ms"), (1.5, "1500ms"), (86400.0, "86400s")])
def test_format_time(seconds: float, text: str) -> None:
    assert format_time(seconds) == text
    assert parse_time(text) == seconds
