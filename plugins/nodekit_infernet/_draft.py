"""The tables of a node file while they are being made, with their comments and notices."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from nodekit import Problem, Secret
from nodekit_infernet._reading import Read
from nodekit_infernet._shapes import is_table


class Reference(msgspec.Struct, frozen=True):
    """The environment variable that replaces a secret in a written node file.

    - `origin`: The key path of the secret in ``config.json``.
    """

    variable: str
    origin: str
    secret: Secret


class Draft:
    """The tables with their comments, notices and origins.

    Key paths are those of the tables (``runners[0].containers[1].env``), unless they are stated to be of the JSON.
    """

    def __init__(self, read: Read) -> None:
        self.read = read
        self.tables: dict[str, Any] = {}
        self.notices: list[str] = []
        self.urgent: list[str] = []
        """Notices without which nobody should start the node, and those that say why it will not start."""
        self.problems: list[Problem] = []
        """Everything that is wrong with the file, with key paths of the JSON."""
        self.origins: dict[str, str] = {}
        self.comments: dict[str, list[str]] = {}
        """Lines in front of a key or table. Those under ``""`` come before everything."""
        self.references: dict[str, Reference] = {}
        """The references for secrets in the tables, by key path."""
        self.copied: list[str] = []
        """Key paths of the JSON whose values are written as they are, although a secret may be in them."""
        self._variables: dict[str, str] = {}
        """Origins of the secrets, by variable."""

    def origin(self, where: str, origin: str) -> None:
        """Record that the value at `where` comes from the key `origin` of the JSON."""
        self.origins[where] = origin

    def comment(self, where: str, text: str) -> None:
        self.comments.setdefault(where, []).append(text)

    def notice(self, where: str, text: str) -> None:
        """Add a comment that is also shown if the JSON file itself is served."""
        self.comment(where, text)
        self.notices.append(text)

    def warn(self, where: str, text: str) -> None:
        """Add a notice that is not summed up with others when the JSON file is served."""
        self.notice(where, text)
        self.urgent.append(text)

    def secret(self, where: str, origin: str, variable: str, secret: Secret) -> None:
        """Record that the value at `where` is a secret. `variable` is the environment variable that will hold it.

        If another secret has that variable already, a number is added to its name.
        """
        name, number = variable, 2
        while self._variables.setdefault(name, origin) != origin:
            name, number = f"{variable}_{number}", number + 1
        self.references[where] = Reference(name, origin, secret)
        self.origin(where, origin)

    def copy(self, where: str, origin: str) -> None:
        """Record that the value at `where` is written as it is, although a secret may be in it."""
        self.copied.append(origin)
        self.comment(where, f"{origin}: written as it was. A secret in it belongs into a file or a variable.")

    def given(self, key: str) -> bool:
        """Return True if the JSON contains this key."""
        return key in self.read.given


def is_provided(kind: str, name: str) -> bool:
    """Return True if an installed package has a provider of this kind and name."""
    return any((f"nodekit.{kind}s", name) == found for found in _entry_points())


def _entry_points() -> Iterator[tuple[str, str]]:
    """Yield group and name of each entry point. Distributions are read one by one, so a broken one hides no other."""
    from importlib.metadata import distributions  # imported here because it is half of this package's import time

    for distribution in distributions():
        with suppress(Exception):
            yield from ((entry.group, entry.name) for entry in distribution.entry_points)


def said(struct: msgspec.Struct) -> dict[str, Any]:
    """Return the fields of a Struct that have a value, as plain values. Secrets stay as they are."""
    return {name: plain(value) for name, value in msgspec.structs.asdict(struct).items() if value is not None}


def without_empty(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without empty texts, which stand for a setting that is not given."""
    return {
        key: without_empty(value) if is_table(value) else value
        for key, value in settings.items()
        if value != "" and not (isinstance(value, Secret) and not value.reveal())
    }


def plain(value: Any) -> Any:
    """Return a value that a table can hold: Structs and other mappings become dicts, tuples become lists."""
    if isinstance(value, msgspec.Struct):
        return said(value)
    if isinstance(value, tuple):
        return list(value)  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    return value


def without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings for comments, without secrets. URLs keep only scheme and host: their paths may hold keys."""
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
