"""The records of plugins in the store of a node."""

from collections.abc import Iterator, Sequence
from typing import Any

from nodekit.errors import NodekitError, Problem
from nodekit.interfaces.storage import PluginStorage
from nodekit.node.names import name_problem


def storage_of(store: object, namespace: Any) -> PluginStorage:
    """Return the records of a namespace. Raise `NodekitError` if the store keeps none, or for a wrong name."""
    problem = name_problem(namespace) if isinstance(namespace, str) else "expected a text"
    if problem:
        raise NodekitError(f"the namespace {namespace!r} is not valid: {problem}")
    if (storage := getattr(store, "storage", None)) is None:
        raise NodekitError(f"the store {type(store).__name__} keeps no records of plugins; sqlite and memory do")
    records: PluginStorage = storage(namespace)
    return records


def storage_problems(store: object, plugins: Sequence[object]) -> Iterator[Problem]:
    """Check the namespaces that plugins declare (`KeepsRecords`)."""
    owners: dict[Any, str] = {}
    for number, plugin in enumerate(plugins):
        namespace = getattr(plugin, "storage_namespace", None)
        if namespace is None:
            continue
        place, name = f"plugins[{number}]", type(plugin).__name__
        try:
            storage_of(store, namespace)
        except NodekitError as error:
            yield Problem(place, f"{name} keeps records in the store: {error}")
            continue
        if (owner := owners.setdefault(namespace, place)) != place:
            yield Problem(place, f"{name} keeps records in the namespace {namespace!r}, which belongs to {owner}")
