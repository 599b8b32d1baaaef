"""Types and defaults of settings as texts, for the author of a node file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect as types

from nodekit.cli.config.field_docs import field_docs
from nodekit.cli.config.schema_types import default_of
from nodekit.config.secrets import EnvValue, Secret

_SIMPLE: dict[type[types.Type], str] = {
    types.BoolType: "true or false",
    types.IntType: "whole number",
    types.FloatType: "number",
    types.StrType: "text",
    types.AnyType: "any value",
    types.RawType: "any value",
}
_BOUNDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


class Key(msgspec.Struct, frozen=True):
    """A key of a table, described for people.

    - `default`: The default as TOML writes it, or `required`, or `none`.
    """

    name: str
    type: str
    default: str
    text: str


def keys_of(struct: type[msgspec.Struct], leave_out: tuple[str, ...] = ()) -> list[Key]:
    """List the keys of the table that a Struct describes, in its order."""
    info = types.type_info(struct)
    assert isinstance(info, types.StructType)
    docs = field_docs(struct)
    return [
        Key(field.encode_name, type_text(field.type), _default(field), docs.get(field.name) or _described(field.type))
        for field in info.fields
        if field.name not in leave_out
    ]


def _described(info: types.Type) -> str:
    """Return the text of `msgspec.Meta(description=…)`; empty if there is none."""
    more: Any = getattr(info, "extra_json_schema", None)
    return str(more.get("description", "")) if more else ""


def type_text(info: types.Type) -> str:
    """Describe a type, such as `list of text` or `whole number, at least 1`."""
    match info:
        case types.Metadata():
            return type_text(info.type)
        case types.UnionType():
            return ", or ".join(type_text(one) for one in info.types if not isinstance(one, types.NoneType))
        case types.LiteralType() | types.EnumType():
            values = info.values if isinstance(info, types.LiteralType) else [member.value for member in info.cls]
            return " or ".join(msgspec.json.encode(value).decode() for value in values)
        case types.DictType():
            return f"table of {type_text(info.value_type)}"
        case types.TupleType():
            return f"list of {', '.join(map(type_text, info.item_types))}"
        case types.StructType():
            return f"table of {', '.join(field.encode_name for field in info.fields)}"
        case types.CustomType():
            return _custom(info.cls)
        case _:
            items: types.Type | None = getattr(info, "item_type", None)
            return f"list of {type_text(items)}" if items else ", ".join([_simple(info), *_bounds(info)])


def _simple(info: types.Type) -> str:
    return _SIMPLE.get(type(info), type(info).__name__.removesuffix("Type").lower())


def _bounds(info: types.Type) -> Iterator[str]:
    for name, phrase in _BOUNDS.items():
        if (bound := getattr(info, name, None)) is not None:
            yield f"{phrase} {bound}"


def _custom(kind: type) -> str:
    if issubclass(kind, Path):
        return "path"
    if issubclass(kind, EnvValue):  # pyright: ignore[reportArgumentType] - a class at run time
        return "text or secret"
    return "secret" if issubclass(kind, Secret) else kind.__name__


def _default(field: types.Field) -> str:
    if field.required:
        return "required"
    default: Any = default_of(field)
    return "none" if default is None else msgspec.json.encode(default).decode()
