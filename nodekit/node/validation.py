"""Checks that the components of a composition fit together."""

import inspect
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from nodekit.embedded.store import EmbeddedStore
from nodekit.errors import Problem
from nodekit.hooks.container_rules import rule_problems
from nodekit.interfaces.check import shape_problems
from nodekit.interfaces.pipeline import BUILT_IN, Pipeline
from nodekit.interfaces.runner import ContainerRunner
from nodekit.interfaces.shared_store import SharedStore, is_shared
from nodekit.interfaces.store import JobStore, JobTable
from nodekit.interfaces.transport import Transport
from nodekit.model.container import Container
from nodekit.node.container_ids import containers_of
from nodekit.node.plugin_storage import storage_problems

_CHECKED = ("timeout_seconds", "queue_timeout_seconds", "concurrency", "when_down", "retry")


def misfits(
    store: JobStore,
    runners: Sequence[ContainerRunner],
    transports: Sequence[Transport],
    pipelines: Mapping[str, Pipeline],
    plugins: Sequence[object],
) -> Iterator[Problem]:
    """Yield components of the wrong kind, containers with one id in two runners, and rules that no plugin reads."""
    if wrong := list(_wrong_kinds(runners, transports, pipelines, plugins)):
        yield from wrong
        return
    if BUILT_IN in pipelines:
        yield Problem(f"pipelines[{BUILT_IN!r}]", "is built into every node; give yours another name")
    components = list(_components(store, runners, transports, pipelines))
    yield from _store_problems(store)
    yield from storage_problems(store, plugins)
    for component in components:
        yield from shape_problems(*component)
    if any(inspect.isclass(runner) or not _has_containers(runner) for runner in runners):
        return
    containers, wrong = containers_of(runners)
    yield from wrong
    for _, container in containers:
        yield from _container_problems(container)
    yield from rule_problems(containers, plugins)


def _has_containers(runner: object) -> bool:
    missing = object()
    return inspect.getattr_static(runner, "containers", missing) is not missing or hasattr(runner, "containers")


def placed_components(
    store: JobStore, runners: Sequence[ContainerRunner], transports: Sequence[Transport]
) -> Sequence[tuple[str, object]]:
    """Return the components that may implement hooks, each with its place."""
    numbered = [(f"runners[{number}]", runner) for number, runner in enumerate(runners)]
    return (
        ("store", store),
        *numbered,
        *((f"transports[{number}]", component) for number, component in enumerate(transports)),
    )


def _container_problems(container: Container) -> Iterator[Problem]:
    """Check a container as a node file would: Structs made in Python do not check themselves."""
    try:
        own = {name: getattr(container, name) for name in _CHECKED}
        msgspec.convert(msgspec.to_builtins({"id": container.id, **own}), Container)
    except (msgspec.ValidationError, TypeError) as error:
        yield Problem(f"container {container.id!r}", str(error))


def _wrong_kinds(runners: object, transports: object, pipelines: object, plugins: object) -> Iterator[Problem]:
    for name, value in (("runners", runners), ("transports", transports), ("plugins", plugins)):
        if not isinstance(value, Sequence):
            yield Problem(name, f"expected a list; write {name}=[…]")
    if not isinstance(pipelines, Mapping):
        yield Problem("pipelines", "expected a mapping of names; write pipelines={'name': …}")


def _store_problems(store: object) -> Iterator[Problem]:
    """Report an object that is no store as such. This says more than a list of the methods it lacks."""
    if inspect.isclass(store) or not hasattr(store, "claim"):
        cure = "wrap a JobTable in EmbeddedStore" if hasattr(store, "unfinished") else "give the node a JobStore"
        yield Problem("store", f"{_class_of(store)} is not a JobStore; {cure}")


def _class_of(component: object) -> str:
    return f"the class {component.__name__}" if inspect.isclass(component) else type(component).__name__


def _components(
    store: object, runners: Sequence[object], transports: Sequence[object], pipelines: Mapping[str, object]
) -> Iterator[tuple[str, object, type]]:
    """Yield each component with its place and its Protocol."""
    if not inspect.isclass(store) and hasattr(store, "claim"):
        yield "store", store, SharedStore if is_shared(store) else JobStore
    if isinstance(store, EmbeddedStore):
        yield "store", store.table, JobTable
    yield from ((f"runners[{number}]", runner, ContainerRunner) for number, runner in enumerate(runners))
    yield from ((f"transports[{number}]", transport, Transport) for number, transport in enumerate(transports))
    yield from ((f"pipelines[{name!r}]", pipeline, Pipeline) for name, pipeline in pipelines.items())
