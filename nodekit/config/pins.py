"""The table ``[packages]`` of a node file: which distributions may be imported for it, and in which versions.

With the table, whatever is not on the list is refused before it is imported. nodekit itself need not be on it.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nodekit.config.distributions import OWN_DISTRIBUTION, name_of, normalised, version_of
from nodekit.errors import Problem
from nodekit.hooks.container_rules import nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from packaging.specifiers import SpecifierSet

TABLE = "packages"
ANY = "*"


class Pins:
    """What the table says: distribution → versions. None in place of it means that there is no table."""

    def __init__(self, versions: "Mapping[str, SpecifierSet | None]") -> None:
        self._versions = versions
        """By normalised name; None: any."""

    def objection(self, entry: "EntryPoint", called: str) -> Problem | None:
        """Why what is `called` so may not be imported; None: it may."""
        name, version = name_of(entry.dist), version_of(entry.dist)
        if name is None:
            return Problem(TABLE, f"{called} is of a distribution without a name, which no list can have; reinstall it")
        if normalised(name) in self._versions:
            return self._misfit(name, version)
        if normalised(name) == OWN_DISTRIBUTION:
            return None
        pin = f'{name} = "=={version}"' if version else f'{name} = "{ANY}"'
        text = f"is not listed, and {called} is of it; add {pin} under [{TABLE}], or use another"
        return Problem(f"{TABLE}.{name}", f"{text}{nearest(normalised(name), self._versions)}")

    def allows(self, entry: "EntryPoint") -> bool:
        """Whether it may be imported."""
        return self.objection(entry, "it") is None

    def own(self) -> Problem | None:
        """Whether this nodekit is one that the list does not want."""
        version = _installed_version(OWN_DISTRIBUTION)
        listed = OWN_DISTRIBUTION in self._versions and version is not None
        return self._misfit(OWN_DISTRIBUTION, version) if listed else None

    def absent(self) -> list[str]:
        """Names on the list that are not installed. They harm nobody: what is listed is allowed, not asked for."""
        return self._absent

    @cached_property
    def _absent(self) -> list[str]:
        return sorted(name for name in self._versions if _installed_version(name) is None)

    def _misfit(self, name: str, version: str | None) -> Problem | None:
        wanted = self._versions[normalised(name)]
        if wanted is None or (version and _fits(wanted, version)):
            return None
        have = f"the installed version is {version}" if version else "the installed one says no version"
        text = f"expected {wanted}, and {have}; pip install '{name}{wanted}', or change what is listed"
        return Problem(f"{TABLE}.{name}", text)


def read_pins(tables: Mapping[str, Any]) -> tuple[Pins | None, Sequence[Problem]]:
    """What the tables of a node file allow, and what is wrong with that; what is wrong allows nothing."""
    if TABLE not in tables:
        return None, ()
    table = tables[TABLE]
    if not isinstance(table, dict):
        return Pins({}), [Problem(TABLE, f"expected a table: [{TABLE}]")]
    versions: dict[str, SpecifierSet | None] = {}
    problems = list(_read(table, versions))  # pyright: ignore[reportUnknownArgumentType]
    return Pins(versions), problems


def _read(table: Mapping[str, Any], versions: "dict[str, SpecifierSet | None]") -> Iterator[Problem]:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # only who has such a table needs it

    for name, wanted in table.items():
        where = f"{TABLE}.{name}"
        if normalised(name) in versions:
            yield Problem(where, "is listed twice: - and _ and . are the same in such names; remove one")
            continue
        try:
            versions[normalised(name)] = None if wanted == ANY else SpecifierSet(_text(wanted) or "nothing")
        except InvalidSpecifier:
            yield Problem(where, f'expected versions such as ">=1.2,<2", or "{ANY}" for any, got {wanted!r}')


def _text(wanted: Any) -> str:
    """Without what SpecifierSet makes nothing of; of what is no text, nothing."""
    return wanted.strip(" \t,") if isinstance(wanted, str) else ""


def _fits(wanted: "SpecifierSet", version: str) -> bool:
    from packaging.version import InvalidVersion

    try:
        return wanted.contains(version, prereleases=True)  # one that is installed was wanted by somebody
    except InvalidVersion:
        return False


def _installed_version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return version_of(distribution(name)) or ""
    except PackageNotFoundError:
        return None
