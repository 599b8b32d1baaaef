"""Schemas of the wire's Structs, by msgspec, under the names that readers know them by."""

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
"""Of other Structs it is the name without `Wire`."""

_EITHER: dict[Struct, tuple[Struct, ...]] = {WireResult: (WireOutput, WireError)}
"""Structs that are always one of these; msgspec has no schema for unions of Structs without tags."""

_REQUIRED = {WireRequest: ["containers", "data"]}
"""Fields that a Struct has defaults for all the same, so that the node's own error says what is missing."""


def reference(struct: Struct) -> dict[str, Any]:
    return {"$ref": REF + _name(struct.__name__)}


def schemas(used: Collection[Struct]) -> dict[str, Any]:
    """The schemas of these Structs and of all that they are made of, by name."""
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
    """The same tree with each item changed."""
    if isinstance(value, Mapping):
        return {key: change(item) for key, item in cast("Mapping[str, Any]", value).items()}
    return [change(item) for item in cast("list[Any]", value)] if isinstance(value, (list, tuple)) else value


def _renamed(value: Any) -> Any:
    """With the references that msgspec made leading to the names of readers."""
    if isinstance(value, str) and value.startswith(REF):
        return REF + _name(value.removeprefix(REF))
    return through(value, _renamed)
