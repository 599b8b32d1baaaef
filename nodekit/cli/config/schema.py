"""The JSON Schema of a node file, for the packages that are installed."""

from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import msgspec

from nodekit.cli.config.field_docs import summary
from nodekit.cli.config.schema_types import Schema, struct_schema
from nodekit.cli.plugins.catalogue import GROUPS, OFFERS
from nodekit.config.compose import LogSettings, NodeSettings
from nodekit.config.distributions import entry_points, name_of, version_of
from nodekit.config.pins import ANY, TABLE, Pins
from nodekit.config.providers import Kind, Offer, load_offer, offered
from nodekit.errors import CompositionError, NodekitError

DRAFT = "http://json-schema.org/draft-07/schema#"

_TABLES: dict[Kind, str] = {
    "runner": "What calls containers.",
    "transport": "What brings requests.",
    "pipeline": "Rules that say which container of a job is next, beside `sequence`.",
    "plugin": "What objects, limits or is told, asked in this order.",
}


class NodeSchema:
    """A schema made of the providers that `pins` allow. Each is imported; one that fails is left out, with a note."""

    def __init__(self, pins: Pins | None = None) -> None:
        self.notes: list[str] = []
        self._offers = {kind: dict(self._loaded(kind, pins)) for kind in OFFERS}
        self._rules = self._properties_of_rules()

    def document(self) -> Schema:
        """Return the whole schema."""
        properties: Schema = {
            "node": struct_schema(NodeSettings) | {"description": "The node itself, and what it takes on."},
            "log": struct_schema(LogSettings),
            TABLE: _packages(),
            "store": {"description": "What keeps the jobs."} | self._one_of("store"),
        }
        for kind, text in _TABLES.items():
            some = self._one_of(kind)
            properties[f"{kind}s"] = {"description": text, "type": "array"} | (
                {"items": some} if some else {"maxItems": 0}
            )
        return {
            "$schema": DRAFT,
            "title": "Node file of nodekit",
            "description": "A compute node: what it keeps jobs in, what it runs, how it is reached.",
            "type": "object",
            "properties": properties,
            "required": ["store"],
            "additionalProperties": False,
        }

    def _loaded(self, kind: Kind, pins: Pins | None) -> Iterator[tuple[str, tuple[Schema, Schema]]]:
        for name in sorted(offered(kind)):
            try:
                with redirect_stdout(StringIO()):  # prints of a package must not get into the schema
                    offer = load_offer(kind, name, pins)
                part = _part(offer, kind, name)
                rules = _rules(offer) if kind == "plugin" else {}
                msgspec.json.encode([part, rules])  # plugins may have added anything to it
            except CompositionError:  # the pins do not allow it
                continue
            except NodekitError as error:
                self.notes.append(f"left out: {error}")
            except Exception as error:
                self.notes.append(f"left out: {kind} {name!r} has settings of unknown types: {error}")
            else:
                yield name, (part, rules)

    def _properties_of_rules(self) -> Schema:
        """Return the schemas of the container keys that plugins read."""
        found: Schema = {}
        for name, (_, rules) in self._offers["plugin"].items():
            for key, schema in rules.items():
                text = _sentence(schema.get("description", ""))
                text += f"For the plugin `{name}`, which the node file must name."
                found[key] = schema | {"description": text}
        return found

    def _one_of(self, kind: Kind) -> Schema:
        parts = [schema for schema, _ in self._offers[kind].values()]
        if kind == "runner":
            parts = [self._with_rules(schema) for schema in parts]
        return {"oneOf": parts} if parts else {}

    def _with_rules(self, part: Schema) -> Schema:
        containers = part["properties"].get("containers")
        if containers is None:
            return part
        entry = containers["items"]
        entry = entry | {"properties": entry["properties"] | self._rules}
        return part | {"properties": part["properties"] | {"containers": containers | {"items": entry}}}


def _sentence(text: str) -> str:
    """Add a full stop and a space, unless the text is empty, so that another sentence may follow."""
    text = text.strip()
    return f"{text}{'' if text.endswith(('.', '!', '?', '…')) else '.'} " if text else ""


def _rules(offer: Offer[Any]) -> Schema:
    """Return the schemas of the keys that a plugin reads from containers."""
    rules: Schema = struct_schema(offer.container)["properties"] if offer.container else {}
    return rules


def _part(offer: Offer[Any], kind: Kind, name: str) -> Schema:
    """Return the schema of a component's table: its settings, and `use`."""
    table = struct_schema(offer.config)
    use = {"enum": [name], "description": summary(offer.config) or f"The {kind} `{name}`."}
    properties = {"use": use} | table["properties"]
    if kind == "runner" and offer.container:
        entry = struct_schema(offer.container)
        entry["properties"].pop("rules", None)
        properties["containers"] = {"type": "array", "items": entry, "description": "What it calls."}
    required = ["use", *table.get("required", ())]
    return table | {"properties": properties, "required": required, "title": f"{kind} {name}"}


def _packages() -> Schema:
    entries = [entry for group in GROUPS.values() for entry in entry_points(group)]
    versions = {name: version_of(entry.dist) for entry in entries if (name := name_of(entry.dist))}
    return {
        "type": "object",
        "description": "The distributions that may be imported for this node, with their versions; others are refused.",
        "properties": {
            name: {"type": "string", "minLength": 1, "description": f"Installed: {version}.", "default": ANY}
            for name, version in sorted(versions.items())
        },
        "additionalProperties": {"type": "string", "minLength": 1},
    }
