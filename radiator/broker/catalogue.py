"""What a destination's name means: the configuration's exact names, its patterns in file order, then the defaults.

It must never make anything, it only says with which settings the broker would. Called by: `broker.broker`.
"""

from __future__ import annotations

from dataclasses import replace

from radiator.config.destinations import check_name, complete, matches
from radiator.config.schema import Config, Destination
from radiator.errors import ConfigError, Refused

__all__ = ["Catalogue", "shown"]


class Catalogue:
    """The settings of every destination there is or may be. ConfigError where the configuration contradicts itself."""

    __slots__ = ("create", "exact", "patterns", "persistent")

    def __init__(self, config: Config) -> None:
        destinations = complete(config.destinations, _problem)
        self.create = config.create
        self.persistent = config.defaults.persistent
        self.exact = {found.name: found for found in destinations if not found.is_pattern}
        self.patterns = [found for found in destinations if found.is_pattern]

    def find(self, name: str) -> Destination | None:
        """The settings of `name`, None where it may not be made. Linear in its length, whatever the patterns are."""
        found = self.exact.get(name)
        if found is not None:
            return found
        for settings in self.patterns:
            if matches(settings.name, name):
                return replace(settings, name=name, is_pattern=False)
        if self.create:
            if name.startswith("/queue/") and name != "/queue/":
                return Destination(name, "queue", persistent=self.persistent)
            if name.startswith("/topic/") and name != "/topic/":
                return Destination(name, "topic")
        return None

    def settings(self, name: str) -> Destination:
        """The settings of `name`. Refused where it may not be made, or is no name."""
        if name.startswith("/temp-queue/"):
            raise Refused(f"unknown destination {shown(name)}: private reply queues are not supported")
        if name not in self.exact:
            # Before anything is compared with it: what comes from a client may be long.
            try:
                check_name(name, pattern=False)
            except ValueError as error:
                raise Refused(f"bad destination: {shown(str(error))}") from error
        found = self.find(name)
        if found is None:
            raise Refused(f"unknown destination {shown(name)}")
        return found


def shown(name: str) -> str:
    """`name` as one line of ASCII of bounded length, for the text of an ERROR."""
    text = ascii(name)[1:-1]
    return text if len(text) <= 200 else text[:200] + "..."


def _problem(name: str, key: str, text: str) -> None:
    raise ConfigError(f"{name}: {key}: {text}" if key else f"{name}: {text}")
