"""The configuration file: every key, every bound and one beyond, and every mistake with its place."""

from __future__ import annotations

import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radiator.config.loader import load_config, parse_config
from radiator.config.schema import (
    Address,
    Config,
    Defaults,
    Destination,
    Disk,
    Fsync,
    Limits,
    setting_of,
    settings_of,
)
from radiator.config.values import format_size, format_time
from radiator.errors import ConfigError

EXAMPLE = """\
listen:
  stomp: 127.0.0.1:61613          # one, or a list
data_dir: /var/lib/radiator
fsync: always                     # always | 50ms | never
create: true                      # may clients create destinations?
max_prefetch: 1000
limits: {frame: 4MiB, headers: 64, header_line: 8KiB, connections: 10000, subscriptions: 256, output: 8MiB,
         connect_timeout: 10s, transaction: 16MiB, transactions: 16, queues: 10000,
         frame_timeout: 30s, stall_timeout: 60s}   # half a frame; an output that does not move
disk: {stop_free: 256MiB}
defaults: {persistent: true}      # for queues made by clients
destinations:
  /queue/orders: {type: queue, persistent: true, max_deliveries: 5, dead_letter: /queue/orders.dead}
  /queue/thumbnails: {type: queue, persistent: false, max_messages: 100000, overflow: reject}   # reject | drop-oldest
  /fanout/signup: {type: fanout, queues: [/queue/mail, /queue/crm]}
  /topic/chat: {type: topic}
"""


def read(text: str) -> Config:
    return parse_config(textwrap.dedent(text).encode(), "radiator.yaml")


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


def by_name(config: Config) -> dict[str, Destination]:
    return {item.name: item for item in config.destinations}


def test_the_example_of_the_design() -> None:
    config = read(EXAMPLE)
    assert config == Config(
        listen_stomp=(Address("127.0.0.1", 61613),),
        data_dir="/var/lib/radiator",
        destinations=(
            Destination("/queue/orders", "queue", max_deliveries=5, dead_letter="/queue/orders.dead"),
            Destination("/queue/thumbnails", "queue", persistent=False, max_messages=100000, max_bytes=64 << 20),
            Destination("/fanout/signup", "fanout", queues=("/queue/mail", "/queue/crm")),
            Destination("/topic/chat", "topic"),
            Destination("/queue/orders.dead", "queue"),
            Destination("/queue/mail", "queue"),
            Destination("/queue/crm", "queue"),
        ),
    )


def test_defaults_are_those_of_the_design() -> None:
    config = read(EXAMPLE)
    assert (config.limits, config.disk, config.defaults) == (Limits(), Disk(), Defaults())
    assert (config.fsync, config.max_prefetch, config.create) == (Fsync("always", 0), 1000, True)
    assert Config().data_dir == "./radiator-data"


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~\n", "{}\n"])
def test_a_file_that_says_nothing_forbids_creation(text: str) -> None:
    assert Config().create is True
    assert read(text) == Config(create=False)


def test_byte_order_mark_and_crlf() -> None:
    assert parse_config(b"\xef\xbb\xbfcreate: true\r\nmax_prefetch: 7\r\n", "f") == Config(create=True, max_prefetch=7)


def write(kind: str, value: Any) -> str:
    return {"size": format_size, "time": format_time}.get(kind, str)(value)


BOUNDED = [
    (section, key, item)
    for section, owner in (("", Config), ("limits", Limits), ("disk", Disk))
    for key, item in settings_of(owner).items()
    if setting_of(item).maximum is not None
]


@pytest.mark.parametrize(("section", "key", "item"), BOUNDED, ids=[f"{section}.{key}" for section, key, _ in BOUNDED])
def test_every_bound_and_one_beyond(section: str, key: str, item: Any) -> None:
    setting = setting_of(item)
    step = 0.001 if setting.kind == "time" else 1
    assert setting.minimum is not None
    assert setting.maximum is not None

    def line(value: float) -> str:
        text = f"{key}: {write(setting.kind, value)}\n"
        return f"{section}:\n  {text}" if section else text

    for value in (setting.minimum, setting.maximum):
        config = read(line(value))
        assert getattr(getattr(config, section) if section else config, item.name) == value
    beyond = [setting.maximum + step] + ([setting.minimum - step] if setting.minimum else [])
    for value in beyond:
        assert "is out of range: from " in refused(line(value))


def test_defaults_lie_within_their_bounds() -> None:
    for owner in (Config, Limits, Disk):
        values = owner()
        for item in settings_of(owner).values():
            setting = setting_of(item)
            if setting.minimum is not None and setting.maximum is not None:
                assert setting.minimum <= getattr(values, item.name) <= setting.maximum


def test_every_field_of_the_schema_is_a_setting() -> None:
    for owner in (Config, Limits, Disk, Defaults):
        assert [item.name for item in fields(owner)] == [item.name for item in settings_of(owner).values()]
    assert {item.name for item in fields(Destination)} - set(settings_of(Destination)) == {"name", "is_pattern"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("crate: true\n", "1:1: unknown key 'crate' in the file (did you mean 'create'?)"),
        ("limits:\n  frames: 1MiB\n", "2:3: unknown key 'frames' in limits (did you mean 'frame'?)"),
        ("listen: {stmp: a:1}\n", "1:10: unknown key 'stmp' in listen (did you mean 'stomp'?)"),
        ("listen: {websocket: a:1}\n", "1:10: unknown key 'websocket' in listen"),
        ("disk: {x: 1}\n", "1:8: unknown key 'x' in disk"),
        ("defaults: {persist: true}\n", "1:12: unknown key 'persist' in defaults (did you mean 'persistent'?)"),
        ("listen_stomp: a:1\n", "1:1: unknown key 'listen_stomp' in the file"),
        ("destinations:\n  /queue/a:\n    type: queue\n    dead-letter: /queue/b\n",
         "4:5: unknown key 'dead-letter' in /queue/a (did you mean 'dead_letter'?)"),
        ("create: true\nfsync: never\ncreate: false\n", "3:1: 'create' stands twice: it is in line 1 already"),
        ("destinations:\n  /queue/a: {type: queue}\n  /queue/a: {type: topic}\n",
         "3:3: '/queue/a' stands twice: it is in line 2 already"),
        ("create: yes\n", "1:9: create: must be true or false, not 'yes'"),
        ("create: 'true'\n", "1:9: create: must be true or false, not 'true'"),
        ("create: 1\n", "1:9: create: must be true or false, not '1'"),
        ("create: [true]\n", "1:9: create: must be true or false, not a list"),
        ("create:\n", "1:1: create: must be true or false, not nothing"),
        ("max_prefetch: many\n", "1:15: max_prefetch: must be a whole number, not 'many'"),
        ("max_prefetch: 1.5\n", "1:15: max_prefetch: must be a whole number, not '1.5'"),
        ("max_prefetch: '7'\n", "1:15: max_prefetch: must be a whole number, not '7'"),
        ("max_prefetch: -1\n", "1:15: max_prefetch: must be a whole number, not '-1'"),
        ("max_prefetch: 0x10\n", "1:15: max_prefetch: must be a whole number, not '0x10'"),
        ("max_prefetch: 10000000000000000000000\n", "1:15: max_prefetch: must be a whole number"),
        ("fsync: often\n", "1:8: fsync: 'often' is not an fsync policy: write always, never or a time such as 50ms"),
        ("fsync: 50\n", "1:8: fsync: '50' is not an fsync policy"),
        ("limits: {frame: 4M}\n", "1:17: limits.frame: '4M' is not a size: write 64MiB"),
        ("limits: {frame_timeout: 30}\n", "1:25: limits.frame_timeout: '30' is not a time: write 50ms"),
        ("limits: 3\n", "1:9: limits must be a mapping of keys to values, not '3'"),
        ("limits:\n", "1:1: limits must be a mapping of keys to values, not nothing"),
        ("- a\n- b\n", "1:1: the file must be a mapping of keys to values, not a list"),
        ("hello\n", "1:1: the file must be a mapping of keys to values, not 'hello'"),
        ("3: 4\n", "1:1: a key must be text, not '3': quote it if it is meant so"),
        ("? [a]\n: 1\n", "1:3: a key must be text, not a list"),
        ("data_dir: ''\n", "1:11: data_dir: must not be empty"),
        ('data_dir: "a\\0b"\n', "1:11: data_dir: must not contain NUL"),
        ("data_dir: {a: b}\n", "1:11: data_dir: must be text, not a mapping"),
        ("listen: {stomp: nowhere}\n", "1:17: listen.stomp: 'nowhere' is not HOST:PORT"),
        ("listen: {stomp: []}\n", "1:17: listen.stomp: at least one address is needed"),
        ("listen:\n  stomp:\n    - a:1\n    - b:x\n", "4:7: listen.stomp: 'b:x' is not HOST:PORT"),
        ("listen: {stomp: ['a:1', 'a:1']}\n", "1:25: listen.stomp: a:1 stands twice"),
        ("listen:\n  stomp: [::1]:61613\n", '(an IPv6 address is quoted: "[::1]:61613")'),
        ("a: [1\n", "2:1: expected"),
        ("a: 'x\n", "2:1: found unexpected end of stream"),
        ("a: b: c\n", "1:5: mapping values are not allowed here"),
        ("create: *nobody\n", "1:9: found undefined alias 'nobody'"),
        ("create: true\n---\ncreate: true\n", "2:1: but found another document"),
        ("create: true\nfsync: \x01\n", "2:8: special characters are not allowed"),
        ("[" * 600, "1:1: nested too deeply"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(text: str, error: str) -> None:
    found = refused(text)
    assert error in found
    assert all(line.startswith("radiator.yaml:") for line in found.splitlines())


def test_all_mistakes_are_told_at_once_in_order() -> None:
    lines = refused("fsync: often\nlimits: {frame: 1}\ncrate: 1\ncreate: 2\n").splitlines()
    assert [line.split(":")[1] for line in lines] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ("/queue/a: {}", "2:3: /queue/a: type is missing: queue, fanout or topic"),
        ("/queue/a: {persistent: true}", "2:3: /queue/a: type is missing"),
        ("/queue/a:", "must be a mapping of keys to values, not nothing"),
        ("/queue/a: {type: que}", "/queue/a: type: must be queue, fanout or topic, not 'que' (did you mean 'queue'?)"),
        ("/queue/a: {type: queue, persistent: false, overflow: drop}", "must be reject or drop-oldest, not 'drop'"),
        ("/queue/a: {type: queue, overflow: reject}", "2:27: /queue/a: overflow is for memory queues (pers"),
        ("/queue/a: {type: queue, max_messages: 5}", "max_messages is for memory queues"),
        ("/queue/a: {type: queue, max_bytes: 5MiB}", "max_bytes is for memory queues"),
        ("/queue/a: {type: queue, slow: drop}", "/queue/a: a queue has no slow"),
        ("/queue/a: {type: queue, queues: [/queue/b]}", "/queue/a: a queue has no queues"),
        ("/topic/a: {type: topic, persistent: false}", "/topic/a: a topic has no persistent"),
        ("/topic/a: {type: topic, max_deliveries: 3}", "/topic/a: a topic has no max_deliveries"),
        ("/topic/a: {type: topic, slow: wait}", "slow: must be disconnect or drop, not 'wait'"),
        ("/fanout/a: {type: fanout, queues: [/queue/b], dead_letter: /queue/c}", "a fanout has no dead_letter"),
        ("/fanout/a: {type: fanout}", "2:3: /fanout/a: a fanout needs queues"),
        ("/fanout/a: {type: fanout, queues: []}", "2:3: /fanout/a: a fanout needs queues"),
        ("/fanout/a: {type: fanout, queues: /queue/b}", "queues: must be a list of names, not '/queue/b'"),
        ("/fanout/a: {type: fanout, queues: [/queue/b, /queue/b]}", "2:29: /fanout/a: /queue/b stands twice in queues"),
        ("/fanout/a: {type: fanout, queues: [/queue/*]}", "'/queue/*' is a pattern, and one queue must be named here"),
        ("/fanout/a: {type: fanout, queues: [~]}", "must be the name of a queue, not nothing"),
        ("/fanout/a.*: {type: fanout, queues: [/queue/b]}", "a fanout cannot be a pattern"),
        ("/fanout/a: {type: fanout, queues: [/fanout/a]}", "/fanout/a is a fanout, queues takes queues only"),
        ("/fanout/a: {type: fanout, queues: [/topic/b]}\n  /topic/b: {type: topic}", "/topic/b is a topic, queues"),
        ("/queue/a: {type: queue, dead_letter: /topic/b}\n  /topic/b: {type: topic}", "/topic/b is a topic"),
        ("/queue/a: {type: queue, dead_letter: /queue/a}", "circle: /queue/a -> /queue/a"),
        ("/queue/a: {type: queue, dead_letter: /queue/b}\n  /queue/b: {type: queue, dead_letter: /queue/a}",
         "3:27: /queue/b: dead letters go in a circle: /queue/b -> /queue/a -> /queue/b"),
        ("/queue/a: {type: queue, dead_letter: /queue/b}\n  /queue/b: {type: queue, persistent: false}",
         "2:27: /queue/a: /queue/b is in memory: the dead_letter of a persistent queue must be persistent"),
        ("/queue/a: {type: queue, dead_letter: /queue/b}\n  /queue/*: {type: queue, persistent: false}",
         "/queue/b is in memory: the dead_letter of a persistent queue must be persistent"),
        ("/queue/a: {type: queue, dead_letter: ''}", "a destination needs a name"),
        ("/queue/a: {type: queue, max_deliveries: 0}", "max_deliveries: 0 is out of range: from 1 to 65535"),
        ("/queue/a: {type: queue, max_deliveries: 65536}", "max_deliveries: 65536 is out of range: from 1 to 65535"),
        ("/queue/a: {type: queue, persistent: false, max_messages: 0}", "max_messages: 0 is out of range"),
        ("/queue/a: {type: queue, persistent: false, max_bytes: 0}", "max_bytes: 0 is out of range: from 1 to"),
        ("'': {type: queue}", "a destination needs a name"),
        ("' /queue/a': {type: queue}", "has blanks at its ends or control characters"),
        ('"/queue/a\\nb": {type: queue}', "has blanks at its ends or control characters"),
        ("/temp-queue/a: {type: queue}", "private reply queues are not there yet"),
        ("/queue/**: {type: queue}", "a * matches any run of characters but /"),
        ("[/queue/a]: {type: queue}", "a key must be text, not a list"),
        ("/queue/" + "a" * 994 + ": {type: queue}", "the name has 1001 bytes, 1000 are allowed"),
    ],
)  # fmt: skip
def test_a_wrong_destination(entries: str, error: str) -> None:
    assert error in refused(f"destinations:\n  {entries}\n")


def test_a_name_of_1000_bytes() -> None:
    name = "/queue/" + "a" * 993
    assert [item.name for item in read(f"destinations:\n  {name}: {{type: queue}}\n").destinations] == [name]


def test_memory_queues_always_have_bounds() -> None:
    found = by_name(
        read(
            """\
            destinations:
              /queue/a: {type: queue, persistent: false}
              /queue/b: {type: queue, persistent: false, max_messages: 7, overflow: drop-oldest}
              /queue/c: {type: queue, persistent: false, max_bytes: 1KiB}
              /queue/d: {type: queue}
            """
        )
    )
    assert [(item.max_messages, item.max_bytes, item.overflow) for item in found.values()] == [
        (100_000, 64 << 20, "reject"),
        (7, 64 << 20, "drop-oldest"),
        (100_000, 1024, "reject"),
        (None, None, "reject"),
    ]


def test_patterns_keep_the_order_of_the_file() -> None:
    config = read(
        """\
        destinations:
          /queue/mail.*: {type: queue, max_deliveries: 3}
          /queue/a: {type: queue}
          "*": {type: topic, slow: drop}
        """
    )
    assert [(item.name, item.is_pattern) for item in config.destinations] == [
        ("/queue/mail.*", True),
        ("/queue/a", False),
        ("*", True),
    ]
    assert config.destinations[2].slow == "drop"


def test_a_declared_queue_takes_the_settings_of_the_first_pattern() -> None:
    found = by_name(
        read(
            """\
            destinations:
              /topic/x: {type: topic}
              /fanout/f: {type: fanout, queues: [/queue/memory, /queue/plain, /other/q]}
              /queue/*em*: {type: queue, persistent: false, max_messages: 9, max_deliveries: 2, dead_letter: /queue/em}
              /queue/*: {type: queue, max_deliveries: 4}
              /other/*: {type: topic}
            """
        )
    )
    assert found["/queue/memory"] == Destination(
        "/queue/memory", "queue", False, max_messages=9, max_deliveries=2, dead_letter="/queue/em"
    )
    assert found["/queue/plain"] == Destination("/queue/plain", "queue", max_deliveries=4)
    assert found["/other/q"] == Destination("/other/q", "queue")
    assert found["/queue/em"] == Destination("/queue/em", "queue", False, max_messages=9)


def test_the_dead_letter_of_a_memory_queue_is_in_memory_unless_a_persistent_one_shares_it() -> None:
    alone = by_name(read("destinations: {/queue/a: {type: queue, persistent: false, dead_letter: /queue/d}}\n"))
    assert alone["/queue/d"].persistent is False
    shared = by_name(
        read(
            """\
            destinations:
              /queue/a: {type: queue, persistent: false, dead_letter: /queue/d}
              /queue/b: {type: queue, dead_letter: /queue/d}
            """
        )
    )
    assert shared["/queue/d"].persistent is True


def test_limits_queues_counts_those_of_the_file() -> None:
    text = "limits: {queues: 2}\ndestinations:\n  /fanout/a: {type: fanout, queues: [/queue/1, /queue/2%s]}\n"
    assert len(read(text % "").destinations) == 3
    assert "3 queues are configured, limits.queues is 2" in refused(text % ", /queue/3")


def test_load_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "radiator.yaml"
    path.write_text(EXAMPLE)
    assert load_config(str(path)) == read(EXAMPLE)


def test_load_refuses_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml: No such file or directory"):
        load_config(str(tmp_path / "missing.yaml"))
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(str(tmp_path))
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"create: true\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2:6: the file is not UTF-8"):
        load_config(str(path))
    path.write_bytes(b"#" * ((16 << 20) + 1))
    with pytest.raises(ConfigError, match="more than 16MiB: not a configuration"):
        load_config(str(path))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_noise_is_a_config_or_a_config_error(data: bytes) -> None:
    try:
        assert isinstance(parse_config(data, "noise"), Config)
    except ConfigError as error:
        assert str(error).startswith("noise:")  # noqa: PT017 - either outcome is right


WORDS = st.sampled_from(
    ["create", "true", "limits", "frame", "4MiB", "destinations", "/queue/a", "type", "queue", "[", "]", "{", "}", ": ",
     ", ", "\n", "  ", "- ", "*a", "&a ", "!!int ", "'", '"', "|", "0", "listen", "stomp", "a:1", "dead_letter", "~"]
)  # fmt: skip


@given(st.lists(WORDS, max_size=30).map("".join))
def test_nearly_yaml_is_a_config_or_a_config_error(text: str) -> None:
    try:
        assert isinstance(parse_config(text.encode(), "noise"), Config)
    except ConfigError as error:
        assert str(error).startswith("noise:")  # noqa: PT017 - either outcome is right


def test_an_anchor_may_be_used_again() -> None:
    """Without a warning on the operator's terminal; an alias means the one before it."""
    text = b"limits: {frame: &a 4MiB, transaction: *a}\ncreate: &a false\n"
    config = parse_config(text, "again")
    assert (config.limits.frame, config.limits.transaction, config.create) == (4 << 20, 4 << 20, False)
