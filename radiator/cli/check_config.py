"""The command `radiator check-config`: is the file right, and what does it mean?

It must never open a store, a socket or anything else that the file names. What it prints on standard output is itself
a configuration file with every setting spelled out. Called by: `cli.commands`; `render` also by the docs' tests.
"""

from __future__ import annotations

import json
import re
from dataclasses import Field
from typing import Any

import click

from radiator.cli.terminal import printable
from radiator.config.destinations import warnings
from radiator.config.loader import load_config
from radiator.config.schema import Config, Destination, setting_of, settings_of
from radiator.config.values import format_size, format_time

__all__ = ["check_config", "render"]

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9/._-]*", re.ASCII)
_WORDS = frozenset(("true", "false", "null", "yes", "no", "on", "off"))


@click.command("check-config")
@click.argument("file", metavar="FILE")
def check_config(file: str) -> int:
    """Check the configuration in FILE and print what is in effect.

    Nothing that the file names is opened. Warnings and errors go to standard error; a wrong file ends with 78.
    """
    config = load_config(file)
    click.echo(render(config), nl=False)
    for text in warnings(config):
        click.echo(printable(f"{file}: warning: {text}"), err=True)
    return 0


def render(config: Config) -> str:
    """`config` as the text of a configuration file that says everything."""
    addresses = ", ".join(_text(str(address)) for address in config.listen_stomp)
    lines = [f"listen: {{stomp: [{addresses}]}}"]
    for key, item in settings_of(Config).items():
        value = getattr(config, item.name)
        if key in ("stomp", "destinations"):
            continue
        if setting_of(item).kind == "section":
            lines.append(f"{key}:")
            lines += [f"  {name}: {_value(value, field)}" for name, field in settings_of(type(value)).items()]
        else:
            lines.append(f"{key}: {_value(config, item)}")
    if config.destinations:
        lines.append("destinations:")
        lines += [f"  {_text(item.name)}: {{{_destination(item)}}}" for item in config.destinations]
    return "\n".join(lines) + "\n"


def _destination(destination: Destination) -> str:
    """The keys that a destination of its kind has, with their values."""
    shown = []
    for key, item in settings_of(Destination).items():
        setting = setting_of(item)
        if setting.types and destination.type not in setting.types:
            continue
        if (setting.memory_only and destination.persistent) or getattr(destination, item.name) is None:
            continue
        shown.append(f"{key}: {_value(destination, item)}")
    return ", ".join(shown)


def _value(owner: Any, item: Field[Any]) -> str:
    value = getattr(owner, item.name)
    kind = setting_of(item).kind
    if kind == "size":
        return format_size(value)
    if kind == "time":
        return format_time(value)
    if kind == "flag":
        return "true" if value else "false"
    if kind == "names":
        return "[" + ", ".join(_text(name) for name in value) + "]"
    return str(value) if kind in ("count", "choice", "fsync") else _text(value)


def _text(text: str) -> str:
    """`text` as a YAML scalar: plain where that is safe, else quoted (a JSON string is one)."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text)
