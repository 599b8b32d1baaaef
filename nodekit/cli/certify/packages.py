"""The distribution that a name means, and its providers. They are read from metadata; nothing is imported."""

import re
from collections.abc import Sequence
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution, distributions
from importlib.metadata import packages_distributions as owners
from typing import get_args

import msgspec

from nodekit.config.providers import Kind
from nodekit.errors import NodekitError
from nodekit.hooks.container_rules import nearest


class PackageUnknown(NodekitError):
    """No such distribution is installed; the message names the nearest ones."""


class Package(msgspec.Struct, frozen=True):
    """An installed distribution and its providers."""

    name: str
    version: str
    providers: tuple[tuple[Kind, EntryPoint], ...]


def find_package(name: str) -> Package:
    """Find the distribution of that name, or the one that installs an import package of that name.

    Raises `PackageUnknown`.
    """
    found = _distribution(name)
    return Package(found.name, found.version, tuple(providers_of(found)))


def providers_of(found: Distribution) -> Sequence[tuple[Kind, EntryPoint]]:
    """List the providers of a distribution, sorted by kind and name."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    entries = found.entry_points  # each access reads the file
    return [
        (kind, entry)
        for kind in kinds
        for entry in sorted(entries.select(group=f"nodekit.{kind}s"), key=lambda entry: entry.name)
    ]


def _distribution(name: str) -> Distribution:
    try:
        return distribution(normalised(name))
    except (PackageNotFoundError, ValueError):
        pass
    of_import = sorted(set(owners().get(name, ())))
    if len(of_import) == 1:
        return distribution(of_import[0])
    if of_import:
        raise PackageUnknown(f"{name!r} is installed by several distributions; name one: {', '.join(of_import)}")
    raise PackageUnknown(f"no distribution {name!r} is installed{_hint(name)}")


def _hint(name: str) -> str:
    """Suggest the nearest name. Distributions with providers come first."""
    installed = [(called, providers_of(found)) for found in distributions() if (called := found.metadata["Name"])]
    providing = sorted({called for called, providers in installed if providers})
    if theirs := [called for called, providers in installed if name in (entry.name for _, entry in providers)]:
        return f"; did you mean {theirs[0]!r}, which provides {name!r}?"
    near = nearest(normalised(name), providing) or nearest(normalised(name), {called for called, _ in installed})
    return near or f"; packages with providers: {', '.join(providing) or 'none'}"


def normalised(name: str) -> str:
    """Normalise a name as pip does to compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()
