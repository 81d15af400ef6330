"""The configuration file: YAML in, a `Config` out, and every mistake with its file, line, column and a hint.

It must never open what the file names (a store, a socket), nor keep a setting that the schema does not declare. It
works on the parser's nodes, not on constructed values: a node knows where it stands, and `never` stays a word. Only
this module imports ruamel.yaml. Called by: the command line.
"""

from __future__ import annotations

import difflib
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from radiator.config.destinations import check_name, complete
from radiator.config.schema import (
    Address,
    Config,
    Defaults,
    Destination,
    Disk,
    Limits,
    Setting,
    setting_of,
    settings_of,
)
from radiator.config.values import format_size, format_time, parse_address, parse_fsync, parse_size, parse_time
from radiator.errors import ConfigError

__all__ = ["load_config", "parse_config"]

MAX_FILE_BYTES = 16 << 20
"""A configuration is written by people; more than this is the wrong file."""

_TAG = "tag:yaml.org,2002:"
_SECTIONS = {"limits": Limits, "disk": Disk, "defaults": Defaults}


def load_config(path: str) -> Config:
    """The configuration in the file at `path`.

    Raises ConfigError, with a line for each mistake, where the file is missing, unreadable or wrong.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: more than {format_size(MAX_FILE_BYTES)}: not a configuration")
    return parse_config(data, path)


def parse_config(data: bytes, path: str) -> Config:
    """The configuration in `data`; `path` is what errors call it. Raises ConfigError like `load_config`."""
    reader = _Reader(path)
    config = reader.config(_compose(data, path))
    if reader.problems:
        raise ConfigError("\n".join(text for _, text in sorted(reader.problems)))
    return config


def _compose(data: bytes, path: str) -> Node | None:
    """The node at the top of the YAML document in `data`; None where it is empty."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _place(data[: error.start].decode("utf-8-sig"))
        raise ConfigError(f"{path}:{line}:{column}: the file is not UTF-8") from error
    try:
        with warnings.catch_warnings():
            # YAML 1.2.2, 3.2.2.2: an anchor need not be unique, an alias means the last one before it.
            warnings.simplefilter("ignore", ReusedAnchorWarning)
            node: Node | None = YAML(typ="rt", pure=True).compose(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        lines = text.splitlines()
        hint = ""
        if line <= len(lines) and "[" in lines[line - 1] and "]:" in lines[line - 1]:
            hint = ' (an IPv6 address is quoted: "[::1]:61613")'
        raise ConfigError(f"{path}:{line}:{column}: {error.problem or error.context}{hint}") from error
    except YAMLError as error:
        line, column = _place(text[: getattr(error, "position", 0)])
        reason = getattr(error, "reason", "not YAML")
        raise ConfigError(f"{path}:{line}:{column}: {reason}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}:1:1: nested too deeply") from error
    return node


def _place(before: str) -> tuple[int, int]:
    """Line and column, from 1, of what follows `before`."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _nearest(word: str, words: Iterable[str]) -> str:
    """` (did you mean …?)`, where one of `words` is like `word`."""
    near = difflib.get_close_matches(word, list(words), 1, 0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _kind(node: Node) -> str:
    """What a node is, for people."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    return "nothing" if node.tag == _TAG + "null" else repr(node.value)


class _Reader:
    """One pass over the nodes of one file, which collects the problems and goes on."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.problems: list[tuple[tuple[int, int], str]] = []
        self._readers: dict[str, Callable[[Node, Setting, str], Any]] = {
            "size": self._size,
            "time": self._time,
            "count": self._count,
            "flag": self._flag,
            "choice": self._choice,
            "text": self._text,
            "address": self._addresses,
            "fsync": self._fsync,
            "name": self._name,
            "names": self._names,
        }

    def config(self, top: Node | None) -> Config:
        """The configuration under the node `top`, as far as it is right."""
        values: dict[str, Any] = {"create": False}
        if top is None or top.tag == _TAG + "null":
            return Config(**values)
        keys = {item.name: item for item in settings_of(Config).values() if item.name != "listen_stomp"}
        for key, (_, node) in self._mapping(top, ("listen", *keys), "the file").items():
            if key == "listen":
                listen = {"stomp": settings_of(Config)["stomp"]}
                values |= self._fields(node, listen, "listen")
            elif key in _SECTIONS:
                section = _SECTIONS[key]
                values[key] = section(**self._fields(node, settings_of(section), key))
            elif key == "destinations":
                values[key] = self._destinations(node)
            else:
                values |= self._field(node, keys[key], key)
        config = Config(**values)
        queues = sum(item.type == "queue" and not item.is_pattern for item in config.destinations)
        if queues > config.limits.queues:
            self._problem(top, f"{queues} queues are configured, limits.queues is {config.limits.queues}")
        return config

    def _problem(self, node: Node, text: str) -> None:
        place = (node.start_mark.line + 1, node.start_mark.column + 1)
        entry = (place, f"{self.path}:{place[0]}:{place[1]}: {text}")
        if entry not in self.problems:
            self.problems.append(entry)

    def _mapping(self, node: Node, allowed: Sequence[str] | None, what: str) -> dict[str, tuple[Node, Node]]:
        """The keys of a mapping, each once, with their key and value nodes; `allowed` None takes any."""
        found: dict[str, tuple[Node, Node]] = {}
        if not isinstance(node, MappingNode):
            self._problem(node, f"{what} must be a mapping of keys to values, not {_kind(node)}")
            return found
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode) or key_node.tag != _TAG + "str":
                self._problem(key_node, f"a key must be text, not {_kind(key_node)}: quote it if it is meant so")
            elif allowed is not None and key_node.value not in allowed:
                self._problem(key_node, f"unknown key {key_node.value!r} in {what}{_nearest(key_node.value, allowed)}")
            elif key_node.value in found:
                line = found[key_node.value][0].start_mark.line + 1
                self._problem(key_node, f"{key_node.value!r} stands twice: it is in line {line} already")
            else:
                if value_node.tag == _TAG + "null" and not value_node.value:
                    value_node.start_mark = key_node.start_mark  # what is not there stands where its key does
                found[key_node.value] = (key_node, value_node)
        return found

    def _fields(self, node: Node, keys: dict[str, Field[Any]], what: str) -> dict[str, Any]:
        """The values of one section, by the names of the dataclass fields they set."""
        values: dict[str, Any] = {}
        for key, (_, value_node) in self._mapping(node, list(keys), what).items():
            values |= self._field(value_node, keys[key], f"{what}.{key}")
        return values

    def _field(self, node: Node, item: Field[Any], what: str) -> dict[str, Any]:
        """The value of one setting under the name of its field; nothing where it is wrong, which is reported."""
        setting = setting_of(item)
        before = len(self.problems)
        try:
            value = self._readers[setting.kind](node, setting, what)
        except ValueError as error:
            self._problem(node, f"{what}: {error}")
        return {item.name: value} if len(self.problems) == before else {}

    def _scalar(self, node: Node, wanted: str) -> str:
        """The text of a scalar that is there."""
        if not isinstance(node, ScalarNode) or node.tag == _TAG + "null":
            raise ValueError(f"must be {wanted}, not {_kind(node)}")
        return str(node.value)

    def _size(self, node: Node, setting: Setting, what: str) -> int:
        size = parse_size(self._scalar(node, "a size such as 64MiB"))
        self._bounds(size, setting, format_size)
        return size

    def _time(self, node: Node, setting: Setting, what: str) -> float:
        seconds = parse_time(self._scalar(node, "a time such as 10s"))
        self._bounds(seconds, setting, format_time)
        return seconds

    def _count(self, node: Node, setting: Setting, what: str) -> int:
        text = self._scalar(node, "a whole number")
        if node.tag != _TAG + "int" or not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise ValueError(f"must be a whole number, not {text!r}")
        self._bounds(int(text), setting, str)
        return int(text)

    def _bounds(self, value: float, setting: Setting, show: Callable[[Any], str]) -> None:
        low, high = setting.minimum, setting.maximum
        if low is not None and high is not None and not low <= value <= high:
            raise ValueError(f"{show(value)} is out of range: from {show(low)} to {show(high)}")

    def _flag(self, node: Node, setting: Setting, what: str) -> bool:
        text = self._scalar(node, "true or false")
        if node.tag != _TAG + "bool" or text.lower() not in ("true", "false"):
            raise ValueError(f"must be true or false, not {text!r}")
        return text.lower() == "true"

    def _choice(self, node: Node, setting: Setting, what: str) -> str:
        words = " or ".join((", ".join(setting.choices[:-1]), setting.choices[-1]))
        text = self._scalar(node, words)
        if text not in setting.choices:
            raise ValueError(f"must be {words}, not {text!r}{_nearest(text, setting.choices)}")
        return text

    def _text(self, node: Node, setting: Setting, what: str) -> str:
        text = self._scalar(node, "text")
        if not text or "\0" in text:
            raise ValueError("must not be empty" if not text else "must not contain NUL")
        return text

    def _fsync(self, node: Node, setting: Setting, what: str) -> Any:
        return parse_fsync(self._scalar(node, "always, never or a time such as 50ms"))

    def _addresses(self, node: Node, setting: Setting, what: str) -> tuple[Address, ...]:
        nodes = node.value if isinstance(node, SequenceNode) else [node]
        if not nodes:
            raise ValueError("at least one address is needed")
        addresses: list[Address] = []
        for item in nodes:
            try:
                address = parse_address(self._scalar(item, "HOST:PORT"))
            except ValueError as error:
                self._problem(item, f"{what}: {error}")
                continue
            if address.port and address in addresses:
                self._problem(item, f"{what}: {address} stands twice")
            addresses.append(address)
        return tuple(addresses)

    def _name(self, node: Node, setting: Setting, what: str) -> str:
        name = self._scalar(node, "the name of a queue")
        check_name(name, pattern=False)
        return name

    def _names(self, node: Node, setting: Setting, what: str) -> tuple[str, ...]:
        if not isinstance(node, SequenceNode):
            raise ValueError(f"must be a list of names, not {_kind(node)}")
        names = []
        for item in node.value:
            try:
                names.append(self._name(item, setting, what))
            except ValueError as error:
                self._problem(item, f"{what}: {error}")
        return tuple(names)

    def _destinations(self, node: Node) -> tuple[Destination, ...]:
        """All destinations, with those that are declared by reference behind them."""
        if node.tag == _TAG + "null":
            return ()
        nodes: dict[tuple[str, str], Node] = {}
        found: list[Destination] = []
        before = len(self.problems)
        for name, (name_node, value_node) in self._mapping(node, None, "destinations").items():
            nodes[name, ""] = name_node
            try:
                check_name(name, pattern=True)
            except ValueError as error:
                self._problem(name_node, str(error))
                continue
            destination = self._destination(name, name_node, value_node, nodes)
            if destination is not None:
                found.append(destination)
        if len(self.problems) > before:
            return ()  # the rules over all would only repeat what is wrong with one

        def problem(name: str, key: str, text: str) -> None:
            self._problem(nodes.get((name, key)) or nodes.get((name, ""), node), f"{name}: {text}")

        return complete(found, problem)

    def _destination(
        self, name: str, name_node: Node, node: Node, nodes: dict[tuple[str, str], Node]
    ) -> Destination | None:
        """One entry; None where its type or a key of it is wrong. Fills `nodes` with where each key stands."""
        keys = settings_of(Destination)
        before = len(self.problems)
        entries = self._mapping(node, list(keys), name)
        values: dict[str, Any] = {}
        for key, (key_node, value_node) in entries.items():
            nodes[name, key] = key_node
            values |= self._field(value_node, keys[key], f"{name}: {key}")
        if "type" not in entries and len(self.problems) == before:
            self._problem(name_node, f"{name}: type is missing: queue, fanout or topic")
        if len(self.problems) > before:
            return None
        destination = Destination(name, **values)
        for key, (key_node, _) in entries.items():
            setting = setting_of(keys[key])
            if setting.types and destination.type not in setting.types:
                self._problem(key_node, f"{name}: a {destination.type} has no {key}")
            elif setting.memory_only and destination.persistent:
                self._problem(key_node, f"{name}: {key} is for memory queues (persistent: false)")
        return replace(destination, is_pattern="*" in name) if len(self.problems) == before else None
