"""Schemas of the wire's Structs, made by msgspec, under the names that readers see."""

from collections.abc import Callable, Collection, Mapping
from inspect import cleandoc
from typing import Any, TypeAlias, cast

import msgspec

from nodekit_asgi.wire.jobs import WireError, WireOutput, WireRequest, WireResult

Struct: TypeAlias = type[msgspec.Struct]

REF = "#/components/schemas/"

_NAMES = {
    "WireError": "ContainerError",
    "WireErrorReply": "Error",
    "WireHistory": "JobHistory",
    "WireJob": "JobResult",
    "WireOutput": "ContainerOutput",
    "WireRequest": "JobRequest",
    "WireResult": "ContainerResult",
}
"""Names that readers see. For other Structs it is the name without `Wire`."""

_EITHER: dict[Struct, tuple[Struct, ...]] = {WireResult: (WireOutput, WireError)}
"""Structs that are always one of several; msgspec makes no schema for unions of Structs without tags."""

_REQUIRED = {WireRequest: ["containers", "data"]}
"""Required fields that have defaults in the Struct only so that the node's own error says what is missing."""


def reference(struct: Struct) -> dict[str, Any]:
    return {"$ref": REF + _name(struct.__name__)}


def schemas(used: Collection[Struct]) -> dict[str, Any]:
    """Return the schemas of these Structs and of all Structs in them, by name."""
    wanted = {*used, *(one for many in _EITHER.values() for one in many)}
    _, found = msgspec.json.schema_components(sorted(wanted, key=_name_of), ref_template=REF + "{name}")
    for struct, options in _EITHER.items():
        text = found[struct.__name__]["description"]
        found[struct.__name__] = {"description": text, "anyOf": [reference(option) for option in options]}
    for struct, fields in _REQUIRED.items():
        found[struct.__name__]["required"] = fields
    return {_name(name): _shown(_name(name), schema) for name, schema in sorted(found.items())}


def _shown(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {**_renamed(schema), "title": name, "description": cleandoc(schema["description"])}


def _name_of(struct: Struct) -> str:
    return struct.__name__


def _name(name: str) -> str:
    return _NAMES.get(name, name.removeprefix("Wire"))


def through(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of a mapping or list with each item changed, and any other value unchanged."""
    if isinstance(value, Mapping):
        return {key: change(item) for key, item in cast("Mapping[str, Any]", value).items()}
    return [change(item) for item in cast("list[Any]", value)] if isinstance(value, (list, tuple)) else value


def _renamed(value: Any) -> Any:
    """Return the value with msgspec's references renamed to the names that readers see."""
    if isinstance(value, str) and value.startswith(REF):
        return REF + _name(value.removeprefix(REF))
    return through(value, _renamed)
