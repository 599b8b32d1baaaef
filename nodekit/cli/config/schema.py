"""The JSON Schema of a node file, for the packages that are installed."""

from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import msgspec

from nodekit.cli.config.field_docs import summary
from nodekit.cli.config.schema_types import Schema, struct_schema
from nodekit.cli.plugins.catalogue import PROVIDERS
from nodekit.config.compose import NodeSettings
from nodekit.config.log_settings import LogSettings
from nodekit.config.providers import Kind, Provider, load_provider, provided
from nodekit.errors import NodekitError

DRAFT = "http://json-schema.org/draft-07/schema#"
NAMED_ELSEWHERE: Schema = {
    "title": "named by the environment",
    "properties": {"use": {"type": "string", "pattern": r"\$\{"}},
    "required": ["use"],
}
"""The table of a component whose name is `${NAME}`: its keys are not known."""

_TABLES: dict[Kind, str] = {
    "runner": "Runners, which call containers.",
    "transport": "Transports, which receive requests.",
    "pipeline": "Pipelines, which choose the next step of a job, besides `sequence`.",
    "plugin": "Plugins, which object, limit or observe. They are called in this order.",
}


class NodeSchema:
    """The schema of all installed providers. One that cannot be imported is left out, with a note."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._providers = {kind: dict(self._loaded(kind)) for kind in PROVIDERS}
        self._rules = self._properties_of_rules()

    def document(self) -> Schema:
        """Return the whole schema."""
        properties: Schema = {
            "node": struct_schema(NodeSettings) | {"description": "The node itself, and its limits."},
            "log": struct_schema(LogSettings),
            "store": {"description": "The store, which keeps the jobs."} | self._one_of("store"),
        }
        for kind, text in _TABLES.items():
            some = self._one_of(kind)
            properties[f"{kind}s"] = {"description": text, "type": "array"} | (
                {"items": some} if some else {"maxItems": 0}
            )
        return {
            "$schema": DRAFT,
            "title": "Node file of nodekit",
            "description": "A compute node: its store, its runners, and how clients reach it.",
            "type": "object",
            "properties": properties,
            "required": ["store"],
            "additionalProperties": False,
        }

    def _loaded(self, kind: Kind) -> Iterator[tuple[str, tuple[Schema, Schema]]]:
        for name in sorted(provided(kind)):
            try:
                with redirect_stdout(StringIO()):  # a package that prints is not part of the schema
                    provider = load_provider(kind, name)
                schema = _provider_schema(provider, kind, name)
                rules = _rules(provider) if kind == "plugin" else {}
                msgspec.json.encode([schema, rules])  # what plugins add to it may be anything
            except NodekitError as error:
                self.notes.append(f"left out: {error}")
            except Exception as error:
                self.notes.append(f"left out: {kind} {name!r} has settings of unknown types: {error}")
            else:
                yield name, (schema, rules)

    def _properties_of_rules(self) -> Schema:
        """Return the schemas of the container keys that plugins read."""
        found: Schema = {}
        for name, (_, rules) in self._providers["plugin"].items():
            for key, schema in rules.items():
                text = _sentence(schema.get("description", ""))
                text += f"For the plugin `{name}`, which the node file must name."
                found[key] = schema | {"description": text}
        return found

    def _one_of(self, kind: Kind) -> Schema:
        schemas = [schema for schema, _ in self._providers[kind].values()]
        if kind == "runner":
            schemas = [self._with_rules(schema) for schema in schemas]
        return {"oneOf": [*schemas, NAMED_ELSEWHERE]} if schemas else {}

    def _with_rules(self, schema: Schema) -> Schema:
        containers = schema["properties"].get("containers")
        if containers is None:
            return schema
        entry = containers["items"]
        entry = entry | {"properties": entry["properties"] | self._rules}
        return schema | {"properties": schema["properties"] | {"containers": containers | {"items": entry}}}


def _sentence(text: str) -> str:
    """Add a full stop and a space, unless the text is empty, so that another sentence may follow."""
    text = text.strip()
    return f"{text}{'' if text.endswith(('.', '!', '?', '…')) else '.'} " if text else ""


def _rules(provider: Provider[Any]) -> Schema:
    """Return the schemas of the keys that a plugin reads from containers."""
    rules: Schema = struct_schema(provider.container)["properties"] if provider.container else {}
    return rules


def _provider_schema(provider: Provider[Any], kind: Kind, name: str) -> Schema:
    """Return the schema of a component's table: its settings, and `use`."""
    table = struct_schema(provider.config)
    use = {"enum": [name], "description": summary(provider.config) or f"The {kind} `{name}`."}
    properties = {"use": use} | table["properties"]
    if kind == "runner" and provider.container:
        entry = struct_schema(provider.container)
        entry["properties"].pop("rules", None)
        properties["containers"] = {"type": "array", "items": entry, "description": "The containers that it calls."}
    required = ["use", *table.get("required", ())]
    return table | {"properties": properties, "required": required, "title": f"{kind} {name}"}
