"""The settings: each declared once, with its default, its bounds and its words, as frozen dataclasses.

It must never read a file, know YAML or import anything of radiator: whoever is configured may import it. The loader
validates files against it, the command line prints it, and the page `docs/configuration.rst` is compared with it.
Called by: everybody who has settings; `Config()` alone is what `radiator` without a file runs with.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal

__all__ = [
    "MEMORY_MAX_BYTES",
    "MEMORY_MAX_MESSAGES",
    "Address",
    "Config",
    "Defaults",
    "Destination",
    "Disk",
    "Fsync",
    "Limits",
    "Setting",
    "setting_of",
    "settings_of",
]

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

MEMORY_MAX_MESSAGES = 100_000
"""How many messages a memory queue holds where nothing else is said."""

MEMORY_MAX_BYTES = 64 * MIB
"""How many bytes of messages a memory queue holds where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the loader, the command line and the docs need to know of one key.

    `kind` is one of size (bytes), time (seconds), count, flag, choice, text, address, fsync, name, names, section.
    `minimum` and `maximum` are inclusive, in the unit of the kind. `types` names the destination types that may have
    the key (empty: all); `memory_only` that a queue has it only where it is not persistent. `key` is the name in the
    file where that differs from the field's.
    """

    kind: str
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    memory_only: bool = False
    key: str = ""


def _setting(kind: str, doc: str, *, default: Any = MISSING, factory: Any = MISSING, **more: Any) -> Any:
    """A dataclass field that carries its `Setting`."""
    metadata = {"setting": Setting(kind, doc, **more)}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def setting_of(item: Field[Any]) -> Setting:
    """The `Setting` of a dataclass field of this module."""
    found: Setting = item.metadata["setting"]
    return found


def settings_of(section: type) -> dict[str, Field[Any]]:
    """The keys that a section may have in the file, in order, each with the dataclass field that it sets."""
    return {setting_of(item).key or item.name: item for item in fields(section) if "setting" in item.metadata}


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or to connect: a host name or address (IPv6 without brackets) and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Fsync:
    """When a RECEIPT may leave: after the sync, or after the write with a sync now and then, or with none.

    `mode` is always, interval or never; `interval_ms` is the time between syncs, 0 in the other two.
    """

    mode: Literal["always", "interval", "never"] = "always"
    interval_ms: int = 0

    def __str__(self) -> str:
        return f"{self.interval_ms}ms" if self.mode == "interval" else self.mode


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may cost. Sizes in bytes, times in seconds; a limit itself is still allowed, one more is not."""

    frame: int = _setting(
        "size", "largest frame accepted, from the command to the NUL", default=4 * MIB, minimum=64, maximum=GIB
    )
    headers: int = _setting("count", "header lines in a frame", default=64, minimum=1, maximum=65536)
    header_line: int = _setting("size", "length of one header line", default=8 * KIB, minimum=16, maximum=16 * MIB)
    connections: int = _setting("count", "connections at a time", default=10000, minimum=1, maximum=1_000_000)
    subscriptions: int = _setting("count", "subscriptions of a connection", default=256, minimum=1, maximum=1_000_000)
    output: int = _setting(
        "size",
        "unsent output after which a topic's subscriber is disconnected (or, with slow: drop, misses messages)",
        default=8 * MIB,
        minimum=1,
        maximum=4 * GIB,
    )
    connect_timeout: float = _setting(
        "time", "from the connection to its CONNECT frame", default=10.0, minimum=0.01, maximum=86400
    )
    transaction: int = _setting(
        "size", "bytes that a transaction holds until its end", default=16 * MIB, minimum=1, maximum=GIB
    )
    transactions: int = _setting("count", "open transactions of a connection", default=16, minimum=1, maximum=65536)
    queues: int = _setting(
        "count", "queues, configured or made by clients", default=10000, minimum=1, maximum=1_000_000
    )
    frame_timeout: float = _setting(
        "time", "how long a frame may stay half received", default=30.0, minimum=0.01, maximum=86400
    )
    stall_timeout: float = _setting(
        "time", "how long output may wait without a byte taken by the client", default=60.0, minimum=0.01, maximum=86400
    )


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk under the data directory."""

    stop_free: int = _setting(
        "size",
        "free space below which persistent SENDs get an ERROR, while consumers drain",
        default=256 * MIB,
        minimum=0,
        maximum=1 << 50,
    )


@dataclass(frozen=True, slots=True)
class Defaults:
    """Settings of queues that clients make by first use and no pattern matches."""

    persistent: bool = _setting("flag", "are queues made by clients persistent?", default=True)


@dataclass(frozen=True, slots=True)
class Destination:
    """One destination as configured, or a pattern for those that clients make.

    `max_messages` and `max_bytes` are None on a persistent queue and always numbers on a memory queue. `persistent` is
    False for a topic and for a fanout (its queues say it for themselves).
    """

    name: str
    type: str = _setting("choice", "what it is; the one key that must be there", choices=("queue", "fanout", "topic"))
    persistent: bool = _setting("flag", "are its messages kept on disk?", default=True, types=("queue",))
    max_messages: int | None = _setting(
        "count",
        f"most messages held; {MEMORY_MAX_MESSAGES} where not given",
        default=None,
        minimum=1,
        maximum=1_000_000_000,
        types=("queue",),
        memory_only=True,
    )
    max_bytes: int | None = _setting(
        "size",
        "most bytes of messages held; 64MiB where not given",
        default=None,
        minimum=1,
        maximum=1 << 50,
        types=("queue",),
        memory_only=True,
    )
    overflow: str = _setting(
        "choice",
        "what a SEND to a full queue does: get an ERROR, or push out the oldest message that nobody holds",
        default="reject",
        choices=("reject", "drop-oldest"),
        types=("queue",),
        memory_only=True,
    )
    max_deliveries: int | None = _setting(
        "count",
        "deliveries of a message before it is dead-lettered (dropped where there is no dead_letter)",
        default=None,
        minimum=1,
        maximum=65535,
        types=("queue",),
    )
    dead_letter: str | None = _setting(
        "name", "queue for messages given up; declared thereby", default=None, types=("queue",)
    )
    queues: tuple[str, ...] = _setting(
        "names", "queues that get a copy of each message; declared thereby", default=(), types=("fanout",)
    )
    slow: str = _setting(
        "choice",
        "what happens to a subscriber whose output passes limits.output",
        default="disconnect",
        choices=("disconnect", "drop"),
        types=("topic",),
    )
    is_pattern: bool = False

    def __post_init__(self) -> None:
        if self.type != "queue":
            object.__setattr__(self, "persistent", False)
        elif not self.persistent:
            if self.max_messages is None:
                object.__setattr__(self, "max_messages", MEMORY_MAX_MESSAGES)
            if self.max_bytes is None:
                object.__setattr__(self, "max_bytes", MEMORY_MAX_BYTES)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be configured. `destinations` are in the order of the file, declared names after them."""

    listen_stomp: tuple[Address, ...] = _setting(
        "address",
        "address of the STOMP listener, or a list of them; port 0 takes any free one",
        default=(Address("127.0.0.1", 61613),),
        key="stomp",
    )
    data_dir: str = _setting("text", "directory of the store, made where there is none", default="./radiator-data")
    fsync: Fsync = _setting("fsync", "when a receipt may leave: always, a time such as 50ms, never", default=Fsync())
    create: bool = _setting(
        "flag", "may clients make queues and topics by first use? false in a file that does not say", default=True
    )
    max_prefetch: int = _setting(
        "count", "most un-ACKed messages that a client may ask for", default=1000, minimum=1, maximum=1_000_000
    )
    limits: Limits = _setting("section", "what one peer may cost", factory=Limits)
    disk: Disk = _setting("section", "the disk under the data directory", factory=Disk)
    defaults: Defaults = _setting("section", "queues made by clients that no pattern matches", factory=Defaults)
    destinations: tuple[Destination, ...] = _setting("section", "destinations and patterns by name", default=())
