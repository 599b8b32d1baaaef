"""Metadata of installed distributions. Each one is read separately: broken metadata of one harms no other.

Nothing is imported. `importlib.metadata.entry_points` would do, but it fails as a whole if one file is broken. Reading
takes tens of milliseconds, so a composition or a command does it once (`read_once`).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint, PackageMetadata

OWN_DISTRIBUTION = "nodekit-compute"
_PREFIX = "nodekit."
"""Prefix of the entry point groups that nodekit reads."""


class Unreadable(NamedTuple):
    """A distribution whose entry points cannot be read."""

    where: str
    """Name of the distribution, or else its folder."""
    reason: str


class _Reading:
    """The metadata read so far."""

    def __init__(self) -> None:
        self.entries: list[EntryPoint | Unreadable] | None = None
        self.metadata: dict[int, tuple[Distribution, PackageMetadata]] = {}
        """Metadata by `id`, since distributions may not be hashable. Each is kept, so that its id stays its own."""


_reading: ContextVar[_Reading | None] = ContextVar("nodekit_reading", default=None)


@contextmanager
def read_once() -> Iterator[None]:
    """Cache what is read inside the block, nested blocks included, and forget it at the end.

    The cache must not live longer: the next composition of the process may find other packages on `sys.path`.
    """
    if _reading.get() is not None:
        yield
        return
    token = _reading.set(_Reading())
    try:
        yield
    finally:
        _reading.reset(token)


def entry_points(group: str) -> "list[EntryPoint]":
    """Return the entry points of a group, from every readable distribution."""
    return [entry for entry in _readable() if not isinstance(entry, Unreadable) and entry.group == group]


def unreadable() -> list[Unreadable]:
    """Return the distributions that may have providers but cannot be read."""
    return [entry for entry in _readable() if isinstance(entry, Unreadable)]


def owner(entry: "EntryPoint") -> str:
    """Return the name and version of the entry point's distribution."""
    return f"{_called(entry.dist)} {version_of(entry.dist) or '(no version)'}" if entry.dist else entry.value


def name_of(distribution: "Distribution | None") -> str | None:
    """Return the name as the distribution writes it, or None if its metadata has none."""
    return said_by(distribution, "Name")


def version_of(distribution: "Distribution | None") -> str | None:
    """Return the version, or None if the metadata has none."""
    return said_by(distribution, "Version")


def said_by(distribution: "Distribution | None", field: str) -> str | None:
    """Return a field of the distribution's metadata, or None."""
    try:
        metadata = _metadata(distribution) if distribution else None
        return (metadata[field] or None) if metadata and field in metadata else None
    except Exception:  # missing metadata raises different errors in different versions of Python
        return None


def fault(entry: "EntryPoint") -> str | None:
    """Return the reason why the entry point cannot be used, as far as metadata shows it, or None."""
    if entry.dist and name_of(entry.dist) is None:
        return "its metadata has no name; reinstall or remove it"
    if not entry.pattern.match(entry.value):
        return f"its entry point {entry.value!r} does not name an object of a module; update or uninstall it"
    return None


def normalised(name: str) -> str:
    """Return a distribution's name in the form used for comparison (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _metadata(distribution: "Distribution") -> "PackageMetadata":
    reading = _reading.get() or _Reading()
    if id(distribution) not in reading.metadata:
        reading.metadata[id(distribution)] = distribution, distribution.metadata
    return reading.metadata[id(distribution)][1]


def _readable() -> "list[EntryPoint | Unreadable]":
    reading = _reading.get() or _Reading()
    if reading.entries is None:
        reading.entries = list(_read())
    return reading.entries


def _read() -> "Iterator[EntryPoint | Unreadable]":
    """Yield the entry points of nodekit's groups. Of distributions with one name, the first one is imported."""
    from importlib.metadata import distributions  # at the top it would be a third of the time of `import nodekit`

    seen: set[str] = set()
    for distribution in distributions():
        try:
            entries = [entry for entry in distribution.entry_points if entry.group.startswith(_PREFIX)]
        except Exception as error:
            if _mentions_us(distribution, error) and _called(distribution) not in seen:
                seen.add(_called(distribution))
                yield Unreadable(_called(distribution), f"its entry points cannot be read: {error}")
            continue
        if not entries:
            continue
        name = name_of(distribution)
        key = normalised(name) if name else str(_folder(distribution))
        if key not in seen and (name is None or _is_first(distribution, name)):
            seen.add(key)
            yield from entries


def _is_first(distribution: "Distribution", name: str) -> bool:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import distribution as first

    try:
        return _folder(first(name)) == _folder(distribution)
    except PackageNotFoundError:  # its folder has another name
        return True


def _mentions_us(distribution: "Distribution", error: Exception) -> bool:
    if isinstance(error, UnicodeDecodeError):
        return _PREFIX.encode() in error.object
    return _PREFIX in (distribution.read_text("entry_points.txt") or "")


def _called(distribution: "Distribution") -> str:
    """Return the distribution's name, or else its location."""
    return name_of(distribution) or f"the distribution in {_folder(distribution)}"


def _folder(distribution: "Distribution") -> Path:
    """Return the folder of the distribution's metadata, if it has one."""
    return Path(str(getattr(distribution, "_path", distribution.locate_file("")))).absolute()
