"""Types of settings as JSON Schema, draft 7, which TOML tools support best.

`msgspec.json.schema` describes JSON. A node file has its own forms of paths and secrets, and no null.
The schema of a Struct stands where the Struct is used. References would hide descriptions that tools show beside a
value.
"""

import enum
from pathlib import Path
from typing import Any, TypeAlias, cast, get_origin

import msgspec
from msgspec import inspect as types

from nodekit.cli.config.field_docs import field_docs, summary
from nodekit.config.secrets import EnvValue, Secret

Schema: TypeAlias = dict[str, Any]

REFERENCE: Schema = {
    "type": "object",
    "description": 'A secret, by reference: { env = "NAME" } or { file = "path" }.',
    "properties": {
        "env": {"type": "string", "description": "The environment variable that holds it."},
        "file": {"type": "string", "description": "The file that holds it; relative to the node file."},
    },
    "additionalProperties": False,
    "minProperties": 1,
    "maxProperties": 1,
}
VARIABLE: Schema = {
    "type": "string",
    "description": "A secret with the value of an environment variable: ${NAME}.",
    "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
}
_BOUNDS = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
    "multiple_of": "multipleOf",
    "pattern": "pattern",
}
_LISTS = (types.ListType, types.SetType, types.FrozenSetType, types.VarTupleType)
_SIMPLE: dict[type[types.Type], Schema] = {
    types.BoolType: {"type": "boolean"},
    types.IntType: {"type": "integer"},
    types.FloatType: {"type": "number"},
    types.StrType: {"type": "string"},
}


def struct_schema(struct: type[msgspec.Struct]) -> Schema:
    """Return the schema of a table. It refuses unknown keys, as tables of a node file do."""
    info = types.type_info(struct)
    assert isinstance(info, types.StructType)
    return _struct(info, ()) | {"additionalProperties": False}


def schema_of(info: types.Type, inside: tuple[type, ...] = ()) -> Schema:
    """Return the schema of any type. It allows anything for types that are unknown or not possible in a node file."""
    match info:
        case types.Metadata():
            more = cast(Schema, info.extra_json_schema or {})  # pyright: ignore[reportUnknownMemberType]
            return schema_of(info.type, inside) | more
        case types.UnionType():
            return _union(info, inside)
        case types.LiteralType():
            return {"enum": list(info.values)}
        case types.EnumType():
            return {"enum": [_plain(member) for member in info.cls]}
        case types.DictType():
            return {"type": "object", "additionalProperties": schema_of(info.value_type, inside)}
        case types.TupleType():
            items = [schema_of(item, inside) for item in info.item_types]
            return {"type": "array", "items": items, "minItems": len(items), "maxItems": len(items)}
        case types.StructType():
            return {"type": "object"} if info.cls in inside else _struct(info, inside)
        case types.CustomType():
            return _custom(info.cls)
        case _:
            return _counted(info, inside)


def _counted(info: types.Type, inside: tuple[type, ...]) -> Schema:
    """Return the schema of a number, a text or a list, with its bounds."""
    if isinstance(info, _LISTS):
        schema: Schema = {"type": "array", "items": schema_of(info.item_type, inside)}
        bounds = {"min_length": "minItems", "max_length": "maxItems"}
    else:
        schema = dict(_SIMPLE.get(type(info), {}))
        bounds = _BOUNDS | {"min_length": "minLength", "max_length": "maxLength"}
    found = {keyword: getattr(info, name, None) for name, keyword in bounds.items()}
    return schema | {keyword: bound for keyword, bound in found.items() if bound is not None}


def _struct(info: types.StructType, inside: tuple[type, ...]) -> Schema:
    docs = field_docs(get_origin(info.cls) or info.cls)  # the class itself, if it is a generic one
    schema: Schema = {"type": "object", "properties": {}}
    if text := summary(info.cls):
        schema["description"] = text
    if info.tag is not None and info.tag_field is not None:
        schema["properties"][info.tag_field] = {"enum": [info.tag]}
    for field in info.fields:
        one = schema_of(field.type, (*inside, info.cls))
        if field.name in docs:
            one = one | {"description": docs[field.name]}
        if (default := default_of(field)) is not None:
            one = one | {"default": default}
        schema["properties"][field.encode_name] = one
    if required := [field.encode_name for field in info.fields if field.required]:
        schema["required"] = required
    if info.forbid_unknown_fields:
        schema["additionalProperties"] = False
    return schema


def default_of(field: types.Field) -> Any:
    """Return a field's default in plain values. Return None if it has none, it is None, or no text can express it."""
    value: Any = field.default
    try:
        if field.default_factory is not msgspec.NODEFAULT:
            value = field.default_factory()
        return None if value is msgspec.NODEFAULT or _is_secret(value) else _plain(value)
    except Exception:  # a factory of another package fails, or msgspec does not know the value
        return None


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=_plain_one)


def _plain_one(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value.value if isinstance(value, enum.Enum) else dict(value)


def _is_secret(value: Any) -> bool:
    return isinstance(value, Secret)


def _union(info: types.UnionType, inside: tuple[type, ...]) -> Schema:
    schemas = [schema_of(one, inside) for one in info.types if not isinstance(one, types.NoneType)]
    if len(schemas) > 1:
        return {"anyOf": schemas}
    (schema,) = schemas
    limitless = len(info.types) > 1 and schema.get("type") == "number"
    return schema | {"type": ["number", "null"]} if limitless else schema  # taplo reads `inf` as null


def _custom(kind: type) -> Schema:
    if issubclass(kind, Path):
        return {"type": "string"}
    if issubclass(kind, EnvValue):  # pyright: ignore[reportArgumentType] - a class at run time
        return {"anyOf": [{"type": "string"}, REFERENCE]}
    return {"anyOf": [VARIABLE, REFERENCE]} if issubclass(kind, Secret) else {}
