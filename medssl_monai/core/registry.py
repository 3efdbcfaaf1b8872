"""Named things that later code adds to: one registry a kind, with suggestions for misspelt names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from medssl_monai.core.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from name to object, filled by decorator.

    Args:
        kind: what the entries are, for messages (``"phantom"``, ``"dataset preparer"``).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files an object under ``name``; a second object of the same name is a programming error."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise KeyError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """Return the entry.

        Raises:
            ConfigError: when nothing is registered under ``name``; the message suggests the closest name.
        """
        if name not in self._entries:
            raise ConfigError(f"unknown {self.kind} {name!r}", advice=did_you_mean(name, self._entries))
        return self._entries[name]

    def names(self) -> list[str]:
        """Names in alphabetical order."""
        return sorted(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries
