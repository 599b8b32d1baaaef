"""Places of keys in a node file, for the cures of keys in the wrong place."""

from collections.abc import Iterable
from typing import get_args

import msgspec

from nodekit.config.providers import Kind, provided, table_of
from nodekit.hooks.container_rules import keys_of, nearest

CONTAINERS = "[[runners.containers]]"


class KeyPlaces:
    """The tables of one node file, with their keys."""

    def __init__(self) -> None:
        self._places: list[tuple[str, type[msgspec.Struct]]] = []

    def add(self, place: str, struct: object) -> None:
        """Add a table, such as ``[node]``, with its Struct. Objects that are no Struct are left out."""
        if isinstance(struct, type) and issubclass(struct, msgspec.Struct) and (place, struct) not in self._places:
            self._places.append((place, struct))

    def cure(self, key: str, struct: type[msgspec.Struct]) -> str:
        """Return ``; it is a key of …`` and the nearest key of the Struct; empty if neither is known."""
        return self.elsewhere(key, struct) + nearest(key, keys_of(struct))

    def elsewhere(self, key: str, struct: type[msgspec.Struct] | None = None) -> str:
        """Return ``; it is a key of …`` for a key of other tables; empty if there is none."""
        places = dict.fromkeys(place for place, one in self._places if one is not struct and key in keys_of(one))
        return f"; it is a key of {' and of '.join(places)}" if places else ""

    def cure_of_table(self, name: str, tables: Iterable[str]) -> str:
        """Return the cure for a name that is no table: it is a key, a provider, or almost the name of a table."""
        if name in ("container", "containers"):
            return f"; containers belong to a runner: {CONTAINERS}"
        kinds = [kind for kind in get_args(Kind) if name in provided(kind)]
        written = "".join(f'; {name!r} is a {kind}: write {table_of(kind)} with use = "{name}"' for kind in kinds)
        return self.elsewhere(name) + (written or nearest(name, tables))
