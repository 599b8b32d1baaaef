"""All providers, formats, commands and checks of installed packages. Only metadata is read; nothing is imported."""

import importlib.machinery
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from typing import Any, get_args

import click
import msgspec

from nodekit.config.distributions import entry_points, fault, name_of, owner, unreadable, version_of
from nodekit.config.formats import Format
from nodekit.config.providers import Kind, Provider

GROUPS = {**{kind: f"nodekit.{kind}s" for kind in (*get_args(Kind), "format", "command")}, "check": "nodekit.doctor"}
"""Entry-point groups by kind. The kind ``check`` is a check of `nodekit doctor`."""
PROVIDERS: tuple[Kind, ...] = get_args(Kind)


class Listed(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry point of a package.

    - `broken`: The reason why it cannot be used, as far as metadata shows it; empty if there is none.
    """

    kind: str
    name: str
    distribution: str | None
    version: str | None
    points_to: str
    broken: str = ""


class Catalogue(msgspec.Struct, frozen=True):
    """All entry points, and the distributions that cannot be read.

    - `unreadable`: The distributions that cannot be read, each with the reason.
    """

    entries: Sequence[Listed]
    unreadable: Sequence[str]


def catalogue() -> Catalogue:
    """List all entry points, by kind, then by name."""
    listed = [_listed(kind, entry, clash) for kind, entry, clash in _with_clashes()]
    return Catalogue(listed, [f"{where}: {reason}; reinstall or remove it" for where, reason in unreadable()])


def entries_of(kind: str) -> list[EntryPoint]:
    """Return the entry points of a kind, by name."""
    return sorted(entry_points(GROUPS[kind]), key=lambda entry: (entry.name, owner(entry)))


def expected(kind: str) -> type[Any]:
    """Return the type of the object that an entry point of the kind must point to."""
    if kind in PROVIDERS:
        return Provider
    return {"format": Format, "command": click.Command}.get(kind, object)


def what_is_broken(kind: str, entry: EntryPoint) -> str:
    """Say why it cannot be used, as far as metadata shows it; clashes are not considered. Empty if it seems to work."""
    return fault(entry) or _missing_module(entry) or ""


def _with_clashes() -> Iterator[tuple[str, EntryPoint, str]]:
    for kind in GROUPS:
        found = entries_of(kind)
        count = Counter(entry.name for entry in found)
        for entry in found:
            several = count[entry.name] > 1 and kind != "check"
            others = [owner(other) for other in found if other.name == entry.name and other is not entry]
            clash = f"{', '.join(others)} provides that name too; uninstall all but one"
            yield kind, entry, clash if several else ""


def _listed(kind: str, entry: EntryPoint, clash: str) -> Listed:
    broken = clash or what_is_broken(kind, entry)
    return Listed(kind, entry.name, name_of(entry.dist), version_of(entry.dist), entry.value, broken)


def _missing_module(entry: EntryPoint) -> str | None:
    """Look for the module without importing its packages, which `importlib.util.find_spec` would do."""
    path: Sequence[str] | None = None
    parts = entry.module.split(".")
    for number in range(1, len(parts) + 1):
        spec = _spec(".".join(parts[:number]), path)
        if spec is None:
            return f"its module {entry.module} does not exist; reinstall or uninstall {name_of(entry.dist)}"
        try:
            path = list(spec.submodule_search_locations or ())
        except KeyError:  # a namespace package inside another knows its place only after the outer one is imported
            return None
    return None


def _spec(name: str, path: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        if spec := finder.find_spec(name, path):
            return spec
    return None
