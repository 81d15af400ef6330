"""The rules over destinations: what a name may be, who may refer to whom, and what is declared by being referred to.

It must never read a file: a broken rule is told to `Problem`, with the destination and the key it was found at, and
whoever read the file adds the place. Called by: the loader (`complete`), check-config (`warnings`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from radiator.config.schema import Config, Destination

__all__ = ["check_name", "complete", "matches", "warnings"]

Problem = Callable[[str, str, str], None]
"""Told the name of a destination, the key (empty: the name itself) and what is wrong there."""

MAX_NAME_BYTES = 1000

LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|::1")


def check_name(name: str, *, pattern: bool) -> None:
    """ValueError where `name` cannot name a destination; `pattern` allows a `*`."""
    if not name:
        raise ValueError("a destination needs a name")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"the name has {len(name.encode())} bytes, {MAX_NAME_BYTES} are allowed")
    if name != name.strip() or any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise ValueError(f"{name!r} has blanks at its ends or control characters, which STOMP 1.0 cannot say")
    if name.startswith("/temp-queue/"):
        raise ValueError(f"{name!r}: private reply queues are not there yet")
    if "*" in name and not pattern:
        raise ValueError(f"{name!r} is a pattern, and one queue must be named here")
    if "**" in name:
        raise ValueError(f"{name!r}: a * matches any run of characters but /, ** means nothing more")


def matches(pattern: str, name: str) -> bool:
    """Does `pattern`, in which `*` stands for any run of characters but `/`, match the whole of `name`?

    No `*` takes a /, so the slashes of both stand for each other one by one, and what is between them is compared
    piece by piece, without ever going back: patterns meet names that a client has chosen.
    """
    ours, theirs = pattern.split("/"), name.split("/")
    return len(ours) == len(theirs) and all(map(_matches_piece, ours, theirs))


def _matches_piece(pattern: str, piece: str) -> bool:
    """The same where neither has a /, so that `*` takes anything.

    The first and the last literal are bound to the ends. Each one between them is taken where it is found first: that
    leaves the most for those behind it, so where this fails no other choice succeeds.
    """
    first, *between = pattern.split("*")
    if not between:
        return piece == first
    last = between.pop()
    end = len(piece) - len(last)
    place = len(first)
    if place > end or not piece.startswith(first) or not piece.endswith(last):
        return False
    for literal in between:
        found = piece.find(literal, place, end)
        if found < 0:
            return False
        place = found + len(literal)
    return True


def complete(destinations: Sequence[Destination], problem: Problem) -> tuple[Destination, ...]:
    """`destinations` and, after them, the queues that they declare by naming them; broken rules go to `problem`.

    A queue declared thereby is persistent, with the settings of the first pattern for queues that matches it. As a
    dead letter it takes no `max_deliveries` and no `dead_letter` from the pattern, and without a pattern it is in
    memory where all that name it are.
    """
    known = {destination.name: destination for destination in destinations if not destination.is_pattern}
    patterns = [destination for destination in destinations if destination.is_pattern and destination.type == "queue"]
    declared: list[Destination] = []
    waiting = list(destinations)
    # Persistent ones first: of all that name a dead letter, the most careful decides what it is.
    waiting.sort(key=lambda destination: not destination.persistent)
    while waiting:
        parent = waiting.pop(0)
        if parent.type == "fanout":
            _check_fanout(parent, problem)
        for key, name in _references(parent):
            target = known.get(name)
            if target is None:
                target = _declared(name, parent, key, patterns)
                known[name] = target
                declared.append(target)
                waiting.append(target)
            _check_reference(parent, key, target, problem)
    for destination in (*destinations, *declared):
        _check_circle(destination, known, problem)
    return (*destinations, *declared)


def _references(parent: Destination) -> list[tuple[str, str]]:
    """The key and the name of each queue that `parent` refers to."""
    if parent.dead_letter is not None:
        return [("dead_letter", parent.dead_letter)]
    return [("queues", name) for name in parent.queues]


def _declared(name: str, parent: Destination, key: str, patterns: Sequence[Destination]) -> Destination:
    """The queue `name`, which the file does not describe, as `parent` declares it by `key`."""
    found = next((pattern for pattern in patterns if matches(pattern.name, name)), None)
    if found is None:
        return Destination(name, "queue", persistent=key == "queues" or parent.persistent)
    if key == "dead_letter":
        return replace(found, name=name, is_pattern=False, max_deliveries=None, dead_letter=None)
    return replace(found, name=name, is_pattern=False)


def _check_fanout(fanout: Destination, problem: Problem) -> None:
    if fanout.is_pattern:
        problem(fanout.name, "", "a fanout cannot be a pattern: write one entry for each")
    if not fanout.queues:
        problem(fanout.name, "", "a fanout needs queues: the list of those that get a copy")
    for name in {name for name in fanout.queues if fanout.queues.count(name) > 1}:
        problem(fanout.name, "queues", f"{name} stands twice in queues")


def _check_reference(parent: Destination, key: str, target: Destination, problem: Problem) -> None:
    if target.type != "queue":
        problem(parent.name, key, f"{target.name} is a {target.type}, {key} takes queues only")
    elif key == "dead_letter" and parent.persistent and not target.persistent:
        problem(
            parent.name,
            key,
            f"{target.name} is in memory: the dead_letter of a persistent queue must be persistent",
        )


def _check_circle(start: Destination, known: dict[str, Destination], problem: Problem) -> None:
    """Messages given up by `start` must come to rest somewhere."""
    seen = [start.name]
    name = start.dead_letter
    while name is not None and name not in seen:
        seen.append(name)
        name = known[name].dead_letter
    if name == start.name:
        problem(start.name, "dead_letter", "dead letters go in a circle: " + " -> ".join([*seen, start.name]))


def warnings(config: Config) -> list[str]:
    """What is allowed in `config` and yet likely not meant, a line each."""
    limits = config.limits
    found = [
        f"listen.stomp: {address} can be reached from other machines, and there is no authentication"
        for address in config.listen_stomp
        if not LOOPBACK.fullmatch(address.host)
    ]
    if limits.transaction < limits.frame:
        found.append("limits.transaction is less than limits.frame: the largest frames fit no transaction")
    if limits.output < limits.frame:
        found.append("limits.output is less than limits.frame: one large message can disconnect a topic's subscriber")
    if config.fsync.mode == "never":
        found.append("fsync: never: a power cut loses what the system had not written, receipted or not")
    found.extend(
        f"{item.name}: max_deliveries without dead_letter: a message is dropped after {item.max_deliveries} deliveries"
        for item in config.destinations
        if item.max_deliveries is not None and item.dead_letter is None
    )
    return found
