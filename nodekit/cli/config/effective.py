"""The effective configuration: the settings of a node file, and the defaults of all others."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard, cast

import msgspec
from msgspec import inspect as types

from nodekit.cli.config.schema_types import default_of
from nodekit.config.compose import NodeSettings
from nodekit.config.log_settings import LogSettings
from nodekit.config.providers import Kind, load_provider
from nodekit.config.secrets import Secret
from nodekit.config.variables import expanded, is_reference

HIDDEN = "(hidden)"
"""The text shown in place of a secret."""

_LISTS: dict[str, Kind] = {"runners": "runner", "transports": "transport", "pipelines": "pipeline", "plugins": "plugin"}


class Setting(NamedTuple):
    """A key of a table."""

    key: str
    value: Any
    """A plain value, a `Table`, a list of tables, or None if there is no value."""
    given: bool
    """True if the file sets it; False for a default."""


class Table(NamedTuple):
    """A table: first the settings of the file, in its order, then the defaults."""

    settings: tuple[Setting, ...]

    def plain(self) -> dict[str, Any]:
        """Return the table as plain values; None where there is no value."""
        return {setting.key: _unwrapped(setting.value) for setting in self.settings}

    def defaults(self, above: str = "") -> Iterator[str]:
        """Yield the key paths of the settings that the file does not set."""
        for key, value, given in self.settings:
            path = f"{above}{key}"
            if isinstance(value, Table):
                yield from value.defaults(f"{path}.") if value.settings or given else [path]
            elif _are_tables(value):
                for number, one in enumerate(value):
                    yield from one.defaults(f"{path}[{number}].")
            elif not given:
                yield path


def effective(tables: Mapping[str, Any], node_name: str) -> Table:
    """Return the tables of a node file that composes, with every default; `node_name` is the name of its node."""
    rules = _rules(tables)
    node = {"name": node_name} if "name" not in tables.get("node", {}) else {}
    settings = [Setting("node", _table(NodeSettings, tables.get("node", {}), node), "node" in tables)]
    for key, value in tables.items():
        if key == "log":
            settings.append(Setting(key, _table(LogSettings, value), True))
        elif key == "store":
            settings.append(Setting(key, _provider_table("store", value, {}), True))
        elif key in _LISTS:
            settings.append(Setting(key, [_provider_table(_LISTS[key], one, rules) for one in value], True))
    return Table(tuple(settings))


def _rules(tables: Mapping[str, Any]) -> dict[str, types.Field]:
    providers = [load_provider("plugin", expanded(table["use"])) for table in tables.get("plugins", ())]
    return {field.name: field for provider in providers if provider.container for field in _fields(provider.container)}


def _provider_table(kind: Kind, table: Mapping[str, Any], rules: Mapping[str, types.Field]) -> Table:
    provider = load_provider(kind, expanded(table["use"]))
    own = {key: value for key, value in table.items() if key != "containers" or kind != "runner"}
    settings = _table(provider.config, own, leave_out=("containers",) if kind == "runner" else ()).settings
    if kind == "runner" and provider.container and "containers" in table:
        fields = {field.name: field for field in _fields(provider.container) if field.name != "rules"}
        fields.update(rules)
        entries = [_filled(fields, entry, True, {}) for entry in table["containers"]]
        settings = (*settings, Setting("containers", entries, True))
    return Table(settings)


def _table(
    struct: type[msgspec.Struct],
    given: Mapping[str, Any],
    more_defaults: Mapping[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
) -> Table:
    fields = {field.name: field for field in _fields(struct) if field.name not in leave_out}
    return _filled(fields, given, True, more_defaults or {})


def _filled(
    fields: Mapping[str, types.Field], given: Mapping[str, Any], in_file: bool, more_defaults: Mapping[str, Any]
) -> Table:
    said = [
        Setting(key, shown(fields[key].type if key in fields else None, key, value, in_file), in_file)
        for key, value in given.items()
    ]
    defaults = [
        Setting(name, shown(field.type, name, more_defaults.get(name, default_of(field)), False), False)
        for name, field in fields.items()
        if name not in given and not field.required
    ]
    return Table((*said, *defaults))


def shown(info: types.Type | None, key: str, value: Any, given: bool) -> Any:
    """Return a value as it may be shown: secrets hidden, tables filled with their defaults."""
    if isinstance(info, types.Metadata):
        extra = cast("dict[str, Any]", info.extra or {})  # pyright: ignore[reportUnknownMemberType]
        marked = extra.get("secret") is True
        return _hidden(value) if marked and value is not None else shown(info.type, key, value, given)
    if isinstance(info, types.UnionType):
        return shown(_fitting(info, value), key, value, given)
    if isinstance(value, Secret):
        return HIDDEN
    if isinstance(value, str) and isinstance(info, types.CustomType) and issubclass(info.cls, Secret):
        return _hidden(value)
    if isinstance(info, types.StructType) and is_table(value):
        return _filled({field.encode_name: field for field in info.fields}, value, given, {})
    if is_table(value):
        if isinstance(info, types.CustomType):  # a secret, by reference
            return value
        inner = info.value_type if isinstance(info, types.DictType) else None
        if key == "env":  # credentials are often among the variables of a program
            value = {name: _hidden(one) if isinstance(one, str) else one for name, one in value.items()}
        settings = (Setting(name, shown(inner, f"{key}.{name}", one, given), given) for name, one in value.items())
        return Table(tuple(settings))
    if isinstance(info, types.TupleType) and is_list(value):
        return [shown(item, key, one, given) for item, one in zip(info.item_types, value, strict=True)]
    if is_list(value):
        item: types.Type | None = getattr(info, "item_type", None)
        return [shown(item, key, one, given) for one in value]
    return value


def _hidden(value: Any) -> str:
    """Return what is shown in place of a secret: a text of references, which shows no value, or a mark."""
    return value if isinstance(value, str) and is_reference(value) else HIDDEN


def _fitting(info: types.UnionType, value: Any) -> types.Type | None:
    """Return the type of a union that fits the value best: for tables and lists, one that has items."""
    for one in info.types if is_table(value) else ():
        if isinstance(one, types.StructType) and one.tag_field and value.get(one.tag_field) == one.tag:
            return one
    parted = (types.StructType, types.DictType) if is_table(value) else ()
    listed = ("item_type",) if is_list(value) else ()
    marked = [one for one in info.types if isinstance(one, types.Metadata | types.CustomType)]
    fits = [one for one in info.types if isinstance(one, parted) or any(hasattr(one, name) for name in listed)]
    return next(iter([*fits, *marked]), None)


def _fields(struct: type[msgspec.Struct]) -> tuple[types.Field, ...]:
    info = types.type_info(struct)
    assert isinstance(info, types.StructType)
    return info.fields


def _unwrapped(value: Any) -> Any:
    if isinstance(value, Table):
        return value.plain()
    return [_unwrapped(one) for one in value] if is_list(value) else value


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Return True for an array of TOML."""
    return isinstance(value, list | tuple) and not isinstance(value, Table)


def is_table(value: Any) -> TypeGuard[dict[str, Any]]:
    """Return True for a plain table of TOML."""
    return isinstance(value, dict)


def _are_tables(value: Any) -> TypeGuard[list[Table]]:
    return is_list(value) and any(isinstance(one, Table) for one in value)
