"""The component of a provider, built once for each test, in a folder of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from nodekit.cli.certify.messages import Subject
from nodekit.cli.certify.settings import CannotBeMade, settings_for
from nodekit.config.convert import plain
from nodekit.config.explain import explain
from nodekit.config.formats import read_tables
from nodekit.config.providers import NodeFile, Provider, load_only
from nodekit.config.secrets import Secret
from nodekit.errors import CompositionError, NodekitError


def load(subject: Subject) -> Provider[Any]:
    """Import the provider. Raises `NodekitError`."""
    from importlib.metadata import EntryPoint

    entry = EntryPoint(subject.name, subject.value, f"nodekit.{subject.kind}s")
    return load_only([entry], Provider, f"{subject.kind} {subject.name!r}")  # pyright: ignore[reportUnknownVariableType]


def build(subject: Subject, provider: Provider[Any], folder: Path) -> Any:
    """Build the component, with its files in `folder`. Raises `CannotBeMade`."""
    place = subject.file or folder / "node.toml"
    file = NodeFile(place, "certify")
    table = settings_for(
        provider.config,
        name=subject.name,
        kind=subject.kind,
        folder=folder,
        written=written(subject),
        given=subject.given,
        beside=file.folder,
    )
    entries = table.pop("containers", None) if subject.kind == "runner" else None
    try:
        if entries is not None:
            table["containers"] = [_container(entry, provider, file) for entry in entries]
        return provider.build(_converted(table, provider.config, file), file)
    except CompositionError as error:
        raise CannotBeMade(f"it cannot be built: {error}", _cure(subject)) from error
    except Exception as error:
        raise CannotBeMade(f"it cannot be built: {type(error).__name__}: {error}", _cure(subject)) from error


def written(subject: Subject) -> Mapping[str, Any]:
    """Return the provider's table in the node file, without `use`. Raises `CannotBeMade`."""
    if subject.file is None:
        return {}
    try:
        tables = read_tables(subject.file).tables
    except CompositionError as error:
        raise CannotBeMade(str(error), "correct the file") from error
    found: list[dict[str, Any]] = (
        [tables.get("store", {})] if subject.kind == "store" else tables.get(f"{subject.kind}s", [])
    )
    none: dict[str, Any] = {}
    mine = next((table for table in found if table.get("use") == subject.name), none)
    return {key: value for key, value in mine.items() if key != "use"}


def _container(entry: Mapping[str, Any], provider: Provider[Any], file: NodeFile) -> Any:
    """Convert a container's table, without the keys that plugins read."""
    if provider.container is None:
        raise NodekitError("its provider has no container=")
    fields = provider.container.__struct_fields__
    return _converted({key: value for key, value in entry.items() if key in fields}, provider.container, file)


def _converted(table: Mapping[str, Any], struct: type[Any], file: NodeFile) -> Any:
    def resolve(kind: type[Any], value: Any) -> Any:
        if issubclass(kind, Secret):
            return kind.resolve(value, file.folder)
        return kind(value) if issubclass(kind, Path) else value

    try:
        return msgspec.convert(plain(table, struct), struct, dec_hook=resolve)
    except msgspec.ValidationError as error:
        where, text = explain("", str(error), struct)
        raise NodekitError(f"{where.removeprefix('.')}: {text}") from error


def _cure(subject: Subject) -> str:
    return f"give what it needs: --set {subject.name}.KEY=VALUE, or a node file: --with FILE"
