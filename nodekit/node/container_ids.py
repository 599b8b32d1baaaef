"""Ids of containers: unique within a node, and printable."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nodekit.errors import Problem
from nodekit.interfaces.component_calls import named, said
from nodekit.interfaces.runner import ContainerRunner
from nodekit.model.container import Container, ContainerId


def id_problem(id: object) -> str | None:
    """Return the reason why this is not a valid container id, or None if it is one."""
    if not isinstance(id, str) or not id:
        return f"expected a text that is not empty, got {id!r:.100}"
    if not id.isprintable() or id != id.strip():
        return f"expected characters that can be printed, and no spaces around them, got {id!r:.100}"
    return None


def containers_of(runners: Sequence[ContainerRunner]) -> tuple[list[tuple[str, Container]], list[Problem]]:
    """Return the containers of all runners, each with its runner, and the problems of their ids."""
    found: list[tuple[str, Container]] = []
    problems: list[Problem] = []
    owners: dict[ContainerId, str] = {}
    for here, runner in named("runners", runners):
        try:
            containers: Any = runner.containers
        except Exception as error:
            problems.append(Problem(here, f"its containers cannot be read: {said(error)}"))
            continue
        if not isinstance(containers, Mapping):
            cure = "expected a mapping of ids: {container.id: container}"
            problems.append(Problem(here, f"its containers are a {type(containers).__name__}; {cure}"))
            continue
        items: list[tuple[Any, Any]] = list(containers.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        for key, container in items:
            problems += (Problem(here, text) for text in _problems(key, container, owners))
            if isinstance(container, Container):
                found.append((here, container))
            owners.setdefault(key, here)
    return found, problems


def _problems(key: Any, container: Any, owners: Mapping[ContainerId, str]) -> Iterator[str]:
    if not isinstance(container, Container):
        yield f"has a {type(container).__name__} under the key {key!r}; expected a Container or a subclass"
        return
    if text := id_problem(container.id):
        yield f"id of a container: {text}"
    elif key != container.id:
        yield f"has the container {container.id!r} under the key {key!r}; the key must be the id of the container"
    if key in owners:
        yield f"container {key!r} belongs to {owners[key]} already; an id belongs to one runner"
