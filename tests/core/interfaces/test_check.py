"""Components are compared with their Protocols when a node is composed, so that no job fails on a mismatch later."""

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio
import pytest
from components import SwitchRunner, functions, make_node, request

from nodekit import (
    CompositionError,
    Container,
    ContainerRunner,
    EmbeddedStore,
    JobStore,
    JobTable,
    Pipeline,
    Sequence,
    SharedStore,
    Transport,
)
from nodekit.interfaces.check import members, optional_members, shape_problems
from nodekit.testing import Faults
from nodekit_asgi import AsgiTransport
from nodekit_function import FunctionRunner
from nodekit_memory import MemoryTable


def problems_of(**parts: Any) -> list[str]:
    settings = {"store": EmbeddedStore(MemoryTable()), "runners": [functions()], **parts}
    with pytest.raises(CompositionError) as failed:
        make_node(*settings.pop("runners"), **settings)
    return [str(problem) for problem in failed.value.problems]


class MyStore(EmbeddedStore):
    def __init__(self) -> None:
        super().__init__(MemoryTable())


class MyRunner(SwitchRunner):
    def __init__(self) -> None:
        super().__init__(Container(id="a"))


class MyTransport:
    async def serve(self, node: Any, *, task_status: Any) -> None:
        task_status.started([])
        await anyio.sleep_forever()


class MyPipeline(Sequence):
    pass


class MyTable(MemoryTable):
    pass


def given(part: Any) -> dict[str, Any]:
    match part:
        case MyStore():
            return {"store": part}
        case MyTable():
            return {"store": EmbeddedStore(part)}
        case MyRunner():
            return {"runners": [part]}
        case MyTransport():
            return {"transports": [part]}
        case _:
            return {"pipelines": {"mine": part}}


def changed(base: type, name: str, value: Any) -> Any:
    """Return a component whose class has that name and differs in one member."""
    return type(base.__name__, (base,), {name: value})()


async def takes_nothing(self: Any) -> Any: ...


async def takes_no_fields(self: Any, ids: Any, *, client: Any = None) -> Any: ...


async def needs_a_client(self: Any, ids: Any, *, client: Any, fields: Any) -> Any: ...


async def needs_more(self: Any, step: Any, more: Any) -> Any: ...


async def takes_no_delay(self: Any, claim: Any, job: Any) -> None: ...


async def bare_stream(self: Any, step: Any) -> Any:
    yield b""


async def an_async_one(self: Any, *everything: Any) -> Any: ...


def a_plain_one(self: Any, first: Any = None, *everything: Any, **more: Any) -> Any: ...


a_plain_one.__annotations__ = {}


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (
            changed(MyStore, "get", takes_no_fields),
            "store: MyStore.get does not take `fields`; write: async def get(self, ids, *, client=None, "
            "fields=JobFields.ALL)",
        ),
        (changed(MyTable, "get", takes_no_fields), "store: MyTable.get does not take `fields`; write: async def get("),
        (
            changed(MyTable, "unfinished", None),
            "store: MyTable.unfinished is not a method; write: async def unfinished",
        ),
        (
            changed(MyStore, "claim_expired", a_plain_one),
            "store: MyStore.claim_expired is not async, and its answer is",
        ),
        (changed(MyStore, "release", takes_no_delay), "store: MyStore.release does not take `delay_seconds`; write: "),
        (
            changed(MyTable, "get", needs_a_client),
            "store: MyTable.get needs `client`, which it is not always given; give it a default, or remove it",
        ),
        (changed(MyStore, "changes", an_async_one), "store: MyStore.changes is async, and nobody awaits its answer"),
        (changed(MyStore, "changes", bare_stream), "store: MyStore.changes is a generator; decorate it with @async"),
        (changed(MyStore, "ended", a_plain_one), "store: MyStore.ended is not async, and its answer is awaited; write"),
        (
            changed(MyRunner, "run", takes_nothing),
            "runners[0]: MyRunner.run does not take `step`; write: async def run(",
        ),
        (changed(MyRunner, "run", a_plain_one), "runners[0]: MyRunner.run is not async, and its answer is awaited"),
        (changed(MyRunner, "run", needs_more), "runners[0]: MyRunner.run needs `more`, which it is not always given"),
        (changed(MyRunner, "running", an_async_one), "runners[0]: MyRunner.running is async, and nobody awaits its"),
        (changed(MyRunner, "stream", bare_stream), "runners[0]: MyRunner.stream is a generator; decorate it with"),
        (
            changed(MyRunner, "resources", {"memory": 1}),
            "runners[0]: MyRunner.resources is not a method; write: async def resources(self, container, model_id) "
            "(of DescribingRunner), or give it another name",
        ),
        (changed(MyTransport, "serve", takes_nothing), "transports[0]: MyTransport.serve does not take `node`, `task_"),
        (changed(MyPipeline, "outcome", takes_nothing), "pipelines['mine']: MyPipeline.outcome is async, and nobody"),
        (
            changed(MyPipeline, "check", lambda self: None),
            "pipelines['mine']: MyPipeline.check does not take `request`",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_a_part_that_could_not_be_called_is_one_problem_with_the_cure(part: Any, problem: str) -> None:
    (told,) = problems_of(**given(part))
    assert told.startswith(problem), told


class Empty:
    pass


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"runners": [Empty()]}, "runners[0]: Empty is not a ContainerRunner: it has no `containers`; write: an"),
        ({"transports": [Empty()]}, "transports[0]: Empty is not a Transport: it has no `serve`; write: async"),
        ({"pipelines": {"a": Empty()}}, "pipelines['a']: Empty is not a Pipeline: it has no `check`; write: def"),
        ({"runners": [FunctionRunner]}, "runners[0]: is a class; give the node an instance: FunctionRunner()"),
        ({"transports": [MyTransport]}, "transports[0]: is a class; give the node an instance: MyTransport()"),
        ({"store": Empty()}, "store: Empty is not a JobStore"),
        ({"store": MemoryTable()}, "store: MemoryTable is not a JobStore; wrap a JobTable in EmbeddedStore"),
        ({"store": MyStore}, "store: the class MyStore is not a JobStore; give the node a JobStore"),
        ({"transports": MyTransport()}, "transports: expected a list; write transports=[…]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_no_such_part_at_all(parts: dict[str, Any], problem: str) -> None:
    assert any(told.startswith(problem) for told in problems_of(**parts)), problems_of(**parts)


def test_what_every_method_is_about_is_told_at_once() -> None:
    part = changed(MyRunner, "running", an_async_one)
    type(part).run = takes_nothing
    type(part).problems = None
    assert len(problems_of(runners=[part])) == 3


# -- what passes ----------------------------------------------------------------------------------


class Behind:
    """A duck-typed proxy: it has the methods that Python looks up on the class; `part` has the rest."""

    def __init__(self, part: Any) -> None:
        self._part = part

    async def __aenter__(self) -> Any:
        await self._part.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._part.__aexit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


class Handing(MyRunner):
    """Methods that return awaitables in the different ways that type checkers accept."""

    def run(self, step: Any) -> Awaitable[Any]:  # type: ignore[override]
        return super().run(step)

    def __init__(self) -> None:
        super().__init__()
        self.changed = functools.partial(super().changed)  # type: ignore[method-assign]
        self.problems = lambda: []  # type: ignore[method-assign]


class Renamed(MyRunner):
    async def run(self, the_step: Any, *, mine: int = 1) -> Any:  # type: ignore[override]
        return await super().run(the_step)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "around", [lambda part: part, Behind, Faults().around, lambda part: Faults().around(Behind(part))]
)
async def test_parts_that_stand_for_others_pass_and_work(around: Callable[[Any], Any]) -> None:
    runners = [around(functions()), around(Handing())]
    async with make_node(*runners, store=around(EmbeddedStore(around(MemoryTable())))) as node:
        jobs = [await node.submit(request(container)) for container in ("echo", "a")]
        finished = await node.wait([job.id for job in jobs])
    assert [job.status for job in finished] == ["success", "success"]


def test_names_of_arguments_that_are_passed_by_place_are_the_parts_own() -> None:
    make_node(Renamed())


@pytest.mark.parametrize(
    ("part", "protocol"),
    [
        (EmbeddedStore(MemoryTable()), JobStore),
        (MemoryTable(), JobTable),
        (FunctionRunner(), ContainerRunner),
        (Sequence(), Pipeline),
        (AsgiTransport(), Transport),
    ],
    ids=lambda value: value.__name__ if inspect.isclass(value) else "",
)
def test_our_own_parts_pass(part: Any, protocol: type) -> None:
    assert list(shape_problems("part", part, protocol)) == []


def test_a_store_that_announces_must_be_a_shared_store_as_a_whole() -> None:
    async def announce(self: Any, announcement: Any) -> None: ...

    lacking = ("lease_seconds", "nodes", "now", "held")
    found = problems_of(store=changed(MyStore, "announce", announce))
    assert {text for text in found if "MyStore is not a SharedStore: it has no" in text} == set(found)
    assert sorted(name for name in lacking for text in found if f"it has no `{name}`" in text) == sorted(lacking)


# -- where it comes from --------------------------------------------------------------------------


def test_what_is_asked_for_is_what_the_protocol_says() -> None:
    expected = {name for name in vars(JobTable) if not name.startswith("_") or name in ("__aenter__", "__aexit__")}
    assert {member.name for member in members(JobTable)} == expected
    assert {member.name for member in members(SharedStore)} > {member.name for member in members(JobStore)}
    assert {member.name for member in optional_members(JobStore)} == {
        "archive",
        "backup",
        "check",
        "disk",
        "ended",
        "facts",
        "full",
        "migrate",
        "page",
        "stored_bytes",
        "view",
        "compact",
        "storage",
        "verify",
    }
    assert optional_members(SharedStore) == optional_members(JobStore)


def test_a_method_that_a_protocol_gains_is_asked_for_at_once() -> None:
    class Wider(Transport, Protocol):
        async def brand_new(self, node: Any) -> None: ...

    (problem,) = shape_problems("transports[0]", MyTransport(), Wider)
    assert "it has no `brand_new`; write: async def brand_new(self, node)" in str(problem)


@pytest.mark.anyio
async def test_nothing_is_looked_at_after_composition() -> None:
    node = make_node()
    called: list[str] = []

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_globals.get("__name__") in (
            "nodekit.interfaces.check",
            "nodekit.interfaces.older_parts",
        ):
            called.append(frame.f_code.co_qualname)

    sys.setprofile(profile)
    try:
        async with node:
            job = await node.submit(request())
            await node.wait([job.id])
    finally:
        sys.setprofile(None)
    assert called == []


def unmarked(function: Any) -> Any:
    """Wrap a function without any sign of the wrapped one."""

    def passed_on(*arguments: Any, **named: Any):  # type: ignore[no-untyped-def]
        return function(*arguments, **named)

    return passed_on


def test_what_may_well_be_awaited_is_no_problem() -> None:
    class Decorated:
        @unmarked
        async def serve(self, node: Any, *, task_status: Any) -> None: ...

    class Compiled:
        serve = staticmethod(print)  # a routine that is no function of Python's

    for part in (Decorated(), Compiled()):
        assert not [problem for problem in shape_problems("here", part, Transport) if "not async" in problem.text]
