"""What does not fit together in a composition."""

import inspect
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from nodekit._rules import rule_problems
from nodekit.container import Container, ContainerId
from nodekit.errors import Problem
from nodekit.pipeline import Pipeline
from nodekit.runner import ContainerRunner
from nodekit.store import JobStore

_CHECKED = ("timeout_seconds", "queue_timeout_seconds", "concurrency", "when_down", "retry")


def misfits(
    store: JobStore, runners: Sequence[ContainerRunner], pipelines: Mapping[str, Pipeline], plugins: Sequence[object]
) -> Iterator[Problem]:
    """Parts that are not what they should be, containers that two runners offer, rules that nobody reads."""
    if wrong := list(_wrong_kinds(runners, pipelines, plugins)):
        yield from wrong
        return
    if not hasattr(store, "claim"):
        cure = "wrap a JobTable in EmbeddedStore" if hasattr(store, "unfinished") else "give the node a JobStore"
        yield Problem("store", f"{type(store).__name__} is not a JobStore; {cure}")
    for name, pipeline in pipelines.items():
        yield from _pipeline_problems(name, pipeline)
    seen: dict[ContainerId, str] = {}
    for number, runner in enumerate(runners):
        here = f"runners[{number}] ({type(runner).__name__})"
        for id in runner.containers:
            if id in seen:
                yield Problem(here, f"container {id!r} is offered by {seen[id]} already; an id has one runner")
            seen[id] = here
            yield from _container_problems(runner.containers[id])
    yield from rule_problems((c for runner in runners for c in runner.containers.values()), plugins)


def _container_problems(container: Container) -> Iterator[Problem]:
    """What a node file could not say either: Structs that Python makes are not checked by themselves."""
    try:
        own = {name: getattr(container, name) for name in _CHECKED}
        msgspec.convert(msgspec.to_builtins({"id": container.id, **own}), Container)
    except (msgspec.ValidationError, TypeError) as error:
        yield Problem(f"container {container.id!r}", str(error))


def _wrong_kinds(runners: object, pipelines: object, plugins: object) -> Iterator[Problem]:
    for name, value in (("runners", runners), ("plugins", plugins)):
        if not isinstance(value, Sequence):
            yield Problem(name, f"expected a list; write {name}=[…]")
    if not isinstance(pipelines, Mapping):
        yield Problem("pipelines", "expected a mapping of names; write pipelines={'name': …}")


def _pipeline_problems(name: str, pipeline: object) -> Iterator[Problem]:
    where = f"pipelines[{name!r}]"
    if inspect.isclass(pipeline):
        yield Problem(where, f"is a class; give the node an instance: {pipeline.__name__}()")
    elif missing := [method for method in ("check", "next_step", "outcome") if not hasattr(pipeline, method)]:
        yield Problem(where, f"{type(pipeline).__name__} is not a Pipeline: it has no {missing[0]}")
