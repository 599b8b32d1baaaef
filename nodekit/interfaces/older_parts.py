"""Parts that were written before a method of their Protocol got an argument: they are called without it."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar, cast

from nodekit._deprecated import ADDED_ARGUMENTS
from nodekit.interfaces.check import members, not_taken_yet, optional_members
from nodekit.interfaces.pipeline import Pipeline
from nodekit.interfaces.runner import ContainerRunner
from nodekit.interfaces.store import JobStore
from nodekit.interfaces.transport import Transport

PartT = TypeVar("PartT")


def as_it_takes(part: PartT, protocol: type) -> PartT:
    """The part itself; or, where it does not take an argument that came later, one that drops that argument."""
    if not ADDED_ARGUMENTS:
        return part
    asked = (*members(protocol), *optional_members(protocol))
    dropped = {member.name: names for member in asked if (names := not_taken_yet(part, member))}
    return cast(PartT, _Older(part, dropped)) if dropped else part


def as_given(part: object) -> object:
    """The part of which `as_it_takes` has made this one."""
    return part.part if isinstance(part, _Older) else part


def as_they_take(
    store: JobStore,
    runners: Sequence[ContainerRunner],
    transports: Sequence[Transport],
    pipelines: Mapping[str, Pipeline],
) -> tuple[JobStore, tuple[ContainerRunner, ...], tuple[Transport, ...], Mapping[str, Pipeline]]:
    """The parts of a node, each `as_it_takes`."""
    return (
        as_it_takes(store, JobStore),
        tuple(as_it_takes(runner, ContainerRunner) for runner in runners),
        tuple(as_it_takes(transport, Transport) for transport in transports),
        {name: as_it_takes(pipeline, Pipeline) for name, pipeline in pipelines.items()},
    )


class _Older:
    """Stands for a part."""

    def __init__(self, part: Any, dropped: dict[str, list[str]]) -> None:
        self.part = part
        for name, arguments in dropped.items():
            setattr(self, name, _without(getattr(part, name), arguments))

    async def __aenter__(self) -> Any:
        return await self.part.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        left: bool | None = await self.part.__aexit__(kind, error, trace)
        return left

    def __getattr__(self, name: str) -> Any:
        return getattr(self.part, name)


def _without(method: Any, names: list[str]) -> Any:
    def called(*arguments: Any, **named: Any) -> Any:
        return method(*arguments, **{name: value for name, value in named.items() if name not in names})

    return called
