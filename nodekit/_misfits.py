"""What does not fit together in a composition."""

from collections.abc import Iterator, Sequence

from nodekit._rules import rule_problems
from nodekit.container import ContainerId
from nodekit.errors import Problem
from nodekit.runner import ContainerRunner
from nodekit.store import JobStore


def misfits(store: JobStore, runners: Sequence[ContainerRunner], plugins: Sequence[object]) -> Iterator[Problem]:
    """Parts that are not what they should be, containers that two runners offer, rules that nobody reads."""
    if not hasattr(store, "claim"):
        cure = "wrap a JobTable in EmbeddedStore" if hasattr(store, "unfinished") else "give the node a JobStore"
        yield Problem("store", f"{type(store).__name__} is not a JobStore; {cure}")
    seen: dict[ContainerId, str] = {}
    for number, runner in enumerate(runners):
        here = f"runners[{number}] ({type(runner).__name__})"
        for id in runner.containers:
            if id in seen:
                yield Problem(here, f"container {id!r} is offered by {seen[id]} already; an id has one runner")
            seen[id] = here
    yield from rule_problems((c for runner in runners for c in runner.containers.values()), plugins)
