"""The tables of a node file while they are being made, with all that is to be said of them."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from nodekit import Secret
from nodekit_infernet._reading import Read
from nodekit_infernet._shapes import is_table


class Reference(msgspec.Struct, frozen=True):
    """What stands for a secret in a node file that is written."""

    variable: str
    origin: str
    """Its key path in ``config.json``."""


class Draft:
    """Key paths are those of the tables (``runners[0].containers[1].env``) unless they are said to be of the JSON."""

    def __init__(self, read: Read) -> None:
        self.read = read
        self.tables: dict[str, Any] = {}
        self.notices: list[str] = []
        self.origins: dict[str, str] = {}
        self.comments: dict[str, list[str]] = {}
        """Lines that belong in front of a key or table; those of ``""`` in front of all."""
        self.references: dict[str, Reference] = {}
        """Of the secrets among the tables."""

    def origin(self, where: str, origin: str) -> None:
        """What is there comes from that key of the JSON."""
        self.origins[where] = origin

    def comment(self, where: str, text: str) -> None:
        self.comments.setdefault(where, []).append(text)

    def notice(self, where: str, text: str) -> None:
        """A comment that is also told where the JSON itself is served."""
        self.comment(where, text)
        self.notices.append(text)

    def secret(self, where: str, origin: str, variable: str) -> None:
        """What is there is secret; `variable` is the environment variable that is to hold it."""
        taken = {reference.variable: reference.origin for reference in self.references.values()}
        name, number = variable, 2
        while taken.get(name, origin) != origin:
            name, number = f"{variable}_{number}", number + 1
        self.references[where] = Reference(name, origin)
        self.origin(where, origin)
        self.comment(
            where, f"{origin}: set the environment variable {name} to what it was, or name a file that holds it"
        )

    def given(self, key: str) -> bool:
        """Whether a key of the JSON stands there."""
        return key in self.read.given


def is_offered(kind: str, name: str) -> bool:
    """Whether an installed package has such a store or plugin."""
    return any((f"nodekit.{kind}s", name) == found for found in _entry_points())


def _entry_points() -> Iterator[tuple[str, str]]:
    """Groups and names. Each distribution is read by itself: one that is broken hides no other's."""
    from importlib.metadata import distributions  # half of what this package would bring in, were it at the top

    for distribution in distributions():
        with suppress(Exception):
            yield from ((entry.group, entry.name) for entry in distribution.entry_points)


def said(struct: msgspec.Struct) -> dict[str, Any]:
    """The settings of a Struct that have a value, as plain ones; secrets stay what they are."""
    return {name: plain(value) for name, value in msgspec.structs.asdict(struct).items() if value is not None}


def plain(value: Any) -> Any:
    """What a table can hold: dicts and lists in place of other mappings and of tuples."""
    if isinstance(value, msgspec.Struct):
        return said(value)
    if isinstance(value, tuple):
        return list(value)  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    return value


def without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """For comments. Of URLs only where they lead to is left: providers' have keys in their paths."""
    return {
        key: without_secrets(value) if is_table(value) else _without_keys(value)
        for key, value in settings.items()
        if not isinstance(value, Secret)
    }


def _without_keys(value: Any) -> Any:
    if not isinstance(value, str) or "://" not in value:
        return value
    try:
        parts = urlsplit(value)
    except ValueError:
        return "…"
    rest = "/…" if parts.path.strip("/") or parts.query or parts.fragment else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{rest}"
