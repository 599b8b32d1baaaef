"""Explanations of invalid settings in terms of the node file, made from msgspec's messages."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from nodekit.hooks.container_rules import nearest

_TYPES = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}


def explain(where: str, text: str, struct: type[Any]) -> tuple[str, str]:
    """Return the key path and the cure for an error of msgspec, such as ``Expected `int`, got `str` - at `$.port```."""
    text, _, place = text.partition(" - at `$")
    if unknown := re.search(r"unknown field `(\w+)`", text):
        return f"{where}{place.rstrip('`')}.{unknown[1]}", f"unknown key{nearest(unknown[1], set(_keys(struct)))}"
    if value := re.search(r"[Ii]nvalid enum value (.+)$", text):
        known = set(_values(struct, place))
        cure = nearest(value[1].strip("'"), known) or f"; known: {', '.join(sorted(known))}"
        return where + place.rstrip("`"), f"unknown value {value[1]}{cure}"
    if missing := re.search(r"missing required field `(\w+)`", text):
        return f"{where}{place.rstrip('`')}.{missing[1]}", "is missing"
    if own := re.match(r"([a-z_]+): ", text):  # a Struct's own check names its field
        return f"{where}{place.rstrip('`')}.{own[1]}", text[own.end() :]
    text = re.sub(r"`([a-z]+)(?: \| ([a-z]+))*`", lambda found: _type_names(found[0]), text)
    return where + place.rstrip("`"), text[:1].lower() + text[1:]


def _type_names(types: str) -> str:
    return " or ".join(_TYPES.get(name, name) for name in types.strip("`").split(" | ") if name != "null")


def _keys(struct: type[Any]) -> Iterator[str]:
    """Yield the keys of the tables inside the table."""
    for info in _below(msgspec.inspect.type_info(struct)):
        if isinstance(info, msgspec.inspect.StructType) and info.cls is not struct:
            yield from (field.name for field in info.fields)


def _values(struct: type[Any], place: str) -> Iterator[str]:
    """Yield the texts that the key at a place of msgspec, or keys below it, may have as values."""
    key = re.match(r"\.(\w+)", place)
    fields = getattr(msgspec.inspect.type_info(struct), "fields", ())
    types = [field.type for field in fields if key and field.encode_name == key[1]]
    for info in _below(types[0] if types else msgspec.inspect.type_info(struct)):
        if isinstance(info, msgspec.inspect.LiteralType):
            yield from map(str, info.values)


def _below(info: Any, seen: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Yield a type and all types it is made of. A recursive type is yielded once."""
    if any(info is one for one in seen):
        return
    yield info
    parts = getattr(info, "types", getattr(info, "item_types", ()))
    singles = [getattr(info, name, None) for name in ("item_type", "value_type", "type")]
    fields = [field.type for field in getattr(info, "fields", ())]
    for part in (*parts, *filter(None, singles), *fields):
        yield from _below(part, (*seen, info))
