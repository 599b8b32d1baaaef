"""Places of keys in a node file, for the cures of keys in the wrong place."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TypeAlias, TypeGuard, get_args

import msgspec

from nodekit.config.distributions import OWN_DISTRIBUTION, name_of, normalised
from nodekit.config.providers import Kind, Provider, load_provider, provided, table_of
from nodekit.errors import NodekitError
from nodekit.hooks.container_rules import keys_of, nearest

CONTAINERS = "[[runners.containers]]"
_RULES = f"{CONTAINERS} if "
"""Beginning of the place of rules."""
MOST_KEYS = 40
"""Number of known keys that are named for an unknown one that is like none of them."""
KINDS: tuple[Kind, ...] = get_args(Kind)

Place: TypeAlias = tuple[str, type[msgspec.Struct]]
"""A table, such as ``[node]``, and its Struct."""


class KeyPlaces:
    """The tables of one node file, with their keys."""

    def __init__(self) -> None:
        self._places: list[Place] = []
        self._others: list[Place] | None = None

    def add(self, place: str, struct: type[msgspec.Struct]) -> None:
        """Add a table with its Struct."""
        self._places.append((place, struct))

    def add_provider(self, kind: Kind, use: str, provider: Provider[msgspec.Struct]) -> None:
        """Add the table of a provider, and of its containers."""
        self._places += [place for place in _places_of(kind, use, provider) if place not in self._places]

    def cure(self, key: str, struct: type[msgspec.Struct]) -> str:
        """Return ``; it is a key of …`` and the nearest key of the Struct, or else all of its keys."""
        return self.elsewhere(key, struct, keys_of(struct)) or _all(keys_of(struct))

    def misspelt(self, key: str, known: Iterable[str]) -> str:
        """Return ``; did you mean …?`` for a key of a container that is almost one of `known`, or a rule of nodekit's
        own plugins. Empty: it is neither.
        """
        if close := nearest(key, known):
            return close
        rules = [one for place, struct in self._own() if place.startswith(_RULES) for one in keys_of(struct)]
        return "" if key in rules else nearest(key, rules)

    def elsewhere(self, key: str, struct: type[msgspec.Struct] | None, known: Iterable[str]) -> str:
        """Return ``; it is a key of …`` for a key of other tables of the file, and the nearest one of `known`.

        If there is neither, return the table of nodekit's own providers that has it.
        """
        close = nearest(key, known)
        return _said(self._places, key, struct) + close or _said(self._own(), key, struct)

    def cure_of_table(self, name: str, tables: Iterable[str]) -> str:
        """Return the cure for a name that is no table: it is a key, a provider, or almost the name of a table."""
        if name in ("container", "containers"):
            return f"; containers belong to a runner: {CONTAINERS}"
        kinds: list[Kind] = [kind for kind in KINDS if name in provided(kind)]
        written = "".join(f'; {name!r} is a {kind}: write {table_of(kind)} with use = "{name}"' for kind in kinds)
        return written or self.elsewhere(name, None, tables)

    def _own(self) -> Sequence[Place]:
        """Return the tables of the providers that nodekit itself brings. They are imported for a key nobody knows."""
        if self._others is None:
            self._others = []
            for kind in KINDS:
                for name, entries in provided(kind).items():
                    if all(normalised(name_of(entry.dist) or "") == OWN_DISTRIBUTION for entry in entries):
                        with suppress(NodekitError):  # `nodekit doctor` reports it
                            found = _places_of(kind, name, load_provider(kind, name))
                            self._others += [(_with_use(place, name), struct) for place, struct in found]
        return self._others


def _places_of(kind: Kind, use: str, provider: Provider[msgspec.Struct]) -> Iterator[Place]:
    containers = f"{CONTAINERS} of {use!r}" if kind == "runner" else CONTAINERS
    given: dict[str, object] = {table_of(kind): provider.config, containers: provider.container}
    for place, struct in given.items():
        if is_struct(struct):  # a package may give anything
            yield place, struct


def is_struct(value: object) -> TypeGuard[type[msgspec.Struct]]:
    """Return True for a class of a Struct."""
    return isinstance(value, type) and issubclass(value, msgspec.Struct)


def _with_use(place: str, name: str) -> str:
    if place == CONTAINERS:  # a rule of a plugin
        return f"{_RULES}{name!r} is in [[plugins]]"
    return place if place.startswith(CONTAINERS) else f'{place} with use = "{name}"'


def _all(known: Sequence[str]) -> str:
    if not known:
        return "; there are none here"
    return f"; known: {', '.join(known)}" if len(known) <= MOST_KEYS else ""


def _said(places: Iterable[Place], key: str, struct: type[msgspec.Struct] | None) -> str:
    found = dict.fromkeys(place for place, one in places if one is not struct and key in keys_of(one))
    return f"; it is a key of {' and of '.join(found)}" if found else ""
