"""Registration of plugins: mistakes are reported when a node is composed, together with the cure."""

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import anyio
import pluggy
import pytest
from components import Gate, SpiedStore, SwitchRunner, Told, functions, make_node, request, until
from msgspec.structs import replace

from nodekit import (
    ClaimLost,
    ClientLimits,
    CompositionError,
    Container,
    Identity,
    Job,
    JobRequest,
    JobStatus,
    Mount,
    NodekitError,
    Refusal,
    RequestRefused,
    StoreCall,
    StoreFailed,
    TooManyJobs,
    TooManyRequests,
    Unavailable,
)
from nodekit.testing import Faults
from nodekit_guardian import Guardian


def problem_of(*plugins: object) -> str:
    """Return the only problem of composing a node of these plugins, which acquires nothing."""
    runner, store = SwitchRunner(Container(id="a")), SpiedStore()
    with pytest.raises(CompositionError) as failed:
        make_node(runner, store=store, plugins=plugins)
    assert (runner.life, store.life) == ([], [])
    (problem,) = failed.value.problems
    return str(problem)


class Misspelt:
    async def nodekit_admitt(self, request: JobRequest) -> None: ...


class WrongArgument:
    async def nodekit_admit(self, job: Any) -> None: ...


class PlainAdmit:
    def nodekit_admit(self, request: JobRequest) -> None: ...


marked = pluggy.HookimplMarker("nodekit")(tryfirst=True)


class AsyncObserve:
    async def nodekit_observe(self, event: Any) -> None: ...


async def a_lifespan(self: Any, node: Any) -> None: ...


async def a_generator(self: Any, node: Any) -> AsyncIterator[None]:
    yield


async def an_admission(self: Any, request: JobRequest) -> None: ...


def having(name: str, **members: Any) -> object:
    """Make a plugin of a class of this name."""
    return type(name, (), members)()


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (Misspelt(), ["Misspelt.nodekit_admitt", "did you mean nodekit_admit?"]),
        (WrongArgument(), ["WrongArgument.nodekit_admit", "'job'", "request, node"]),
        (
            having("Many", nodekit_observe=lambda self, event, node, more: None),
            ["Many.nodekit_observe", "'more'", "node"],
        ),
        (having("Splat", nodekit_observe=lambda self, *all: None), ["Splat.nodekit_observe", "'all'"]),
        (having("Keyword", nodekit_observe=lambda self, *, event: None), ["Keyword.nodekit_observe", "'event'"]),
        (having("Default", nodekit_observe=lambda self, event=None: None), ["Default.nodekit_observe", "default"]),
        (
            having("Partial", nodekit_admit=staticmethod(functools.partial(an_admission))),
            ["must be a function or a method"],
        ),
        (having("Number", nodekit_limit=5), ["Number.nodekit_limit: must be a function or a method"]),
        (PlainAdmit(), ["PlainAdmit.nodekit_admit", "async def nodekit_admit"]),
        (AsyncObserve(), ["AsyncObserve.nodekit_observe", "plain function"]),
        (having("Lifespan", nodekit_lifespan=a_lifespan), ["Lifespan.nodekit_lifespan", "@asynccontextmanager"]),
        (having("Bare", nodekit_lifespan=a_generator), ["Bare.nodekit_lifespan", "@asynccontextmanager"]),
        (
            having("Generator", nodekit_lifespan=lambda self, node: (yield)),
            ["a plain function"],
        ),
        (having("Marked", nodekit_admit=marked(an_admission)), ["Marked.nodekit_admit", "marker"]),
        (having("NoHook"), ["NoHook", "implements no hook", "nodekit_admit"]),
        (PlainAdmit, ["PlainAdmit", "is a class", "PlainAdmit()"]),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__) if not isinstance(value, list) else "",
)
def test_a_mistake_in_a_plugin_is_one_clear_problem(plugin: object, words: list[str]) -> None:
    problem = problem_of(plugin)
    for word in words:
        assert word in problem


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(CompositionError) as failed:
        make_node(plugins=[Misspelt(), WrongArgument(), Guardian(), AsyncObserve()])
    assert [problem.where for problem in failed.value.problems] == ["plugins[0]", "plugins[1]", "plugins[3]"]


@pytest.mark.anyio
async def test_a_module_is_a_plugin_too_and_takes_the_arguments_it_wants() -> None:
    seen: list[Any] = []
    module = ModuleType("my_plugin")

    async def nodekit_admit(node: Any) -> None:
        seen.append(node.name)

    def nodekit_observe() -> None:
        seen.append("observed")

    @asynccontextmanager
    async def nodekit_lifespan() -> AsyncIterator[None]:
        seen.append("open")
        yield

    module.nodekit_admit = nodekit_admit  # type: ignore[attr-defined]
    module.nodekit_observe = nodekit_observe  # type: ignore[attr-defined]
    module.nodekit_lifespan = nodekit_lifespan  # type: ignore[attr-defined]
    async with make_node(plugins=[module], name="mine") as node:
        await node.submit(request())
        assert seen[:3] == ["open", "mine", "observed"]


@pytest.mark.anyio
async def test_plugins_are_asked_in_the_order_given_even_if_they_are_of_one_class() -> None:
    asked: list[int] = []

    class Guard:
        def __init__(self, number: int) -> None:
            self.number = number

        async def nodekit_admit(self, request: JobRequest) -> None:
            asked.append(self.number)
            if self.number == 2:
                raise Refusal("enough")

    async with make_node(plugins=[Guard(number) for number in range(5)]) as node:
        with pytest.raises(Refusal, match="enough"):
            await node.submit(request())
    assert asked == [0, 1, 2]


def test_a_plugin_that_is_given_twice_is_refused_and_so_are_equal_ones_which_pluggy_would_take_for_one() -> None:
    @dataclass
    class Silent:
        def nodekit_observe(self) -> None: ...

    plugin = Silent()
    assert "twice" in problem_of(plugin, plugin)
    assert "twice" in problem_of(plugin, Silent())


# -- what is wrong --------------------------------------------------------------------------------


class Unsayable:
    def __iter__(self) -> Any:
        raise RuntimeError("no")


class Says:
    def __init__(self, told: Any) -> None:
        self.told = told

    def nodekit_problems(self) -> Any:
        if isinstance(self.told, BaseException):
            raise self.told
        return self.told


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("told", "reasons"),
    [
        (["the disk is full", "so is the log"], ["the disk is full", "so is the log"]),
        ({"one": 1, "two": 2}.keys(), ["one", "two"]),
        ([], []),
        ("one text", ["one text"]),
        ("", []),
        (None, []),
        ([ValueError("odd")], ["odd"]),
        (["an engine said \x1b[2J\x9b"], [r"an engine said \x1b[2J\x9b"]),
    ],
    ids=repr,
)
async def test_what_plugins_say_is_wrong_is_told_and_the_node_is_healthy(told: Any, reasons: list[str]) -> None:
    async with make_node(plugins=[Says(told)]) as node:
        health = await node.health()
    assert (health.healthy, list(health.reasons)) == (True, reasons)


@pytest.mark.anyio
@pytest.mark.parametrize("told", [RuntimeError("oops"), 7, SystemExit(1), asyncio.CancelledError(), Unsayable()])
async def test_a_plugin_that_cannot_say_what_is_wrong_is_a_reason_and_hides_no_other(
    told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_node(plugins=[Says(["before"]), Says(told), Says(["after"])]) as node:
        health = await node.health()
    failed = "plugins[1] (Says) failed to say what is wrong; the log has it"
    assert (health.healthy, list(health.reasons)) == (True, ["before", failed, "after"])
    assert "failed in nodekit_problems" in caplog.text


@pytest.mark.anyio
async def test_problems_are_asked_of_the_node() -> None:
    class Asks:
        def nodekit_problems(self, node: Any) -> list[str]:
            return [f"{node.name} has no friends"]

    assert "mine has no friends" in (await make_node(plugins=[Asks()], name="mine").health()).reasons


# -- parts ----------------------------------------------------------------------------------------


def part(name: str, asked: list[str], base: type) -> Any:
    """Make an observer that extends `base`: the class of a component, or `object`."""

    def observe(self: object) -> None:
        asked.append(name)

    return type(name, (base,), {"nodekit_observe": observe})


class Silence:
    async def serve(self, node: Any, *, task_status: Any) -> None:
        task_status.started([])
        await anyio.sleep_forever()


@pytest.mark.anyio
async def test_parts_are_plugins_too_after_those_given_and_each_counts_once() -> None:
    asked: list[str] = []
    store, plugin = part("store", asked, SpiedStore)(), part("plugin", asked, object)()
    runner = part("runner", asked, SwitchRunner)(Container(id="a"))
    transport, both = part("transport", asked, Silence)(), part("both", asked, Silence)()
    async with make_node(
        runner, SwitchRunner(Container(id="b")), store=store, transports=[transport, both], plugins=[both, plugin]
    ) as node:
        await node.submit(request("a"))
        await until(lambda: asked.count("transport") == 4)  # accepted, step started and finished, job finished
    assert asked == ["both", "plugin", "store", "runner", "transport"] * 4


@pytest.mark.anyio
async def test_a_part_that_is_two_parts_is_one_plugin() -> None:
    class StoreAndTransport(SpiedStore, Silence):
        def nodekit_problems(self) -> list[str]:
            return ["it is both"]

    part = StoreAndTransport()
    async with make_node(store=part, transports=[part]) as node:
        assert list((await node.health()).reasons) == ["it is both"]


def test_a_mistake_in_a_hook_of_a_part_is_a_problem_too() -> None:
    class Misspells(SwitchRunner):
        def nodekit_problem(self) -> list[str]:
            return []

    with pytest.raises(CompositionError, match=r"Misspells\.nodekit_problem: .* did you mean nodekit_problems\?"):
        make_node(Misspells(Container(id="a")))


@pytest.mark.anyio
async def test_a_part_with_faults_around_it_keeps_its_hooks() -> None:
    class Says(SwitchRunner):
        def nodekit_problems(self) -> list[str]:
            return ["said through"]

    async with make_node(Faults().around(Says(Container(id="a")))) as node:
        assert list((await node.health()).reasons) == ["said through"]


class Limiting:
    """Admits every client but one, and records who asked."""

    def __init__(self, refused: str, error: Exception) -> None:
        self.refused, self.error = refused, error
        self.asked: list[str] = []

    def nodekit_limit(self, identity: Identity, node: Any) -> None:
        assert node.name == "node"
        self.asked.append(identity.client)
        if identity.client == self.refused:
            raise self.error


def test_the_first_plugin_that_limits_a_client_wins_and_observers_are_told() -> None:
    told, first = Told(), Limiting("a", TooManyRequests("slower", retry_after_seconds=3))
    second = Limiting("b", Unavailable("closed", retry_after_seconds=4))
    node = make_node(plugins=[first, second, told])
    node.limit(Identity(client="c"))
    with pytest.raises(TooManyRequests, match="slower"):
        node.limit(Identity(client="a"))
    with pytest.raises(Unavailable, match="closed"):
        node.limit(Identity(client="b"))
    assert (first.asked, second.asked) == (["c", "a", "b"], ["c", "b"])
    assert [(event.client, event.objection) for event in told.events] == [("a", first.error), ("b", second.error)]
    assert {*told.kinds} == {RequestRefused}


def test_a_limit_that_breaks_lets_nobody_through(caplog: pytest.LogCaptureFixture) -> None:
    node = make_node(plugins=[Limiting("a", KeyError("a"))])
    with pytest.raises(NodekitError, match="plugin Limiting failed to decide"):
        node.limit(Identity(client="a"))
    assert "Limiting failed in nodekit_limit" in caplog.text
    make_node().limit(Identity(client="a"))  # nobody objects where no plugin limits


class Plans:
    """Knows the limits of one client, and fails or answers nonsense if it is told to."""

    def __init__(self, client: str, answer: Any) -> None:
        self.client, self.answer = client, answer

    def nodekit_client_limits(self, client: str, group: str, node: Any) -> Any:
        assert node.name == "node"
        assert group == client
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if client == self.client else None


@pytest.mark.anyio
async def test_limits_that_a_plugin_knows_come_before_those_of_the_node() -> None:
    plans = [
        Plans("a", ClientLimits(max_pending=2)),
        Plans("a", ClientLimits(max_pending=9)),
        Plans("b", ClientLimits()),
    ]
    limits = {"each_client": ClientLimits(max_pending=3, max_priority=2), "clients": {"b": ClientLimits(max_pending=1)}}
    gate = Gate()
    async with make_node(functions(gate=gate), plugins=plans, **limits) as node:
        for client, most in (("a", 2), ("b", 1), ("c", 3)):
            answers = await node.submit_many([replace(request("gate", client=client), priority=0) for _ in range(5)])
            jobs = [answer for answer in answers if isinstance(answer, Job)]
            assert (client, len(jobs), {job.request.priority for job in jobs}) == (client, most, {2})
            assert {type(answer) for answer in answers[most:]} == {TooManyJobs}
        gate.opened.set()


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [KeyError("a"), {"max_pending": 1}])
async def test_limits_that_cannot_be_told_let_no_job_in(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with make_node(plugins=[Plans("a", answer)]) as node:
        with pytest.raises(Refusal, match="Admission failed"):
            await node.submit(request(client="a"))
    assert "Plans failed in nodekit_client_limits" in caplog.text


# -- pages ----------------------------------------------------------------------------------------


async def page(scope: Any, receive: Any, send: Any) -> None: ...


class Routes:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def nodekit_routes(self, node: Any) -> Any:
        assert (node.name, list(node.containers)) == ("node", ["a"])
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_what_plugins_mount_is_known_by_name() -> None:
    first, second = Mount("one", page), Mount("two-2", page, public=True)
    runner = SwitchRunner(Container(id="a"))
    node = make_node(runner, plugins=[Routes([first]), Routes([]), Routes((second,))])
    assert node.mounts == {"one": first, "two-2": second}
    assert make_node().mounts == {}
    problem = problem_of(Routes([first]), Routes([first]))
    assert problem.startswith("plugins[1]: Routes.nodekit_routes: ")
    assert "'one' is mounted by plugins[0] (Routes) already" in problem


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ValueError("no page"), ["failed", "no page"]),
        (None, ["NoneType", "return a list"]),
        (Mount("one", page), ["[Mount(…)]"]),
        ("one", ["str", "return a list"]),
        ([page], ["function", "expected Mount"]),
        ([Mount("One", page)], ["'One'", "lower-case"]),
        ([Mount("", page)], ["''", "lower-case"]),
        ([Mount("a/b", page)], ["'a/b'", "lower-case"]),
        ([Mount("a\n", page)], ["lower-case"]),
        ([Mount("-a", page)], ["'-a'", "lower-case"]),
        ([Mount(7, page)], ["7", "lower-case"]),  # type: ignore[arg-type]
        ([Mount("one", page), Mount("one", page)], ["'one'", "by plugins[0] (Routes) already"]),
        ([Mount("one", "page")], ["'one'", "ASGI"]),  # type: ignore[arg-type]
        ([Mount("one", page, "no")], ["'one'", "True or False"]),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_cannot_be_mounted_is_one_clear_problem(answer: Any, words: list[str]) -> None:
    problem = problem_of(Routes(answer))
    assert problem.startswith("plugins[0]: Routes.nodekit_routes: ")
    for word in words:
        assert word in problem


# -- the store's calls ----------------------------------------------------------------------------


class Watches:
    def __init__(self) -> None:
        self.calls: list[StoreCall] = []

    def nodekit_observe_store(self, call: StoreCall, node: Any) -> None:
        assert node.name == "node"
        self.calls.append(call)

    @property
    def methods(self) -> list[str]:
        return [call.method for call in self.calls]


@pytest.mark.anyio
async def test_the_stores_calls_are_told_but_for_those_that_wait() -> None:
    watches, store = Watches(), SpiedStore()
    async with make_node(store=store, plugins=[watches]) as node:
        watches.calls.clear()
        job = await node.submit(request())
        await node.wait([job.id])
        await node.pending()
        await node.cancel(job.id)
        async with node.changes(), node.stream(request()) as stream:
            assert [piece async for piece in stream]
    assert {"add", "add_claimed", "save", "settle", "get", "pending"} <= set(watches.methods)
    assert set(watches.methods) <= {"add", "add_claimed", "save", "release", "settle", "get", "find", "pending"}
    assert watches.methods.count("add") == 1
    assert store.calls["claim"] > 0
    assert all(0 <= call.seconds < 60 and not call.failed for call in watches.calls)


@pytest.mark.anyio
async def test_calls_that_fail_are_told_as_failed() -> None:
    watches, store = Watches(), SpiedStore()
    async with make_node(store=store, plugins=[watches]) as node:
        store.failures["add"] = 1
        with pytest.raises(Unavailable):
            await node.submit(request())
        assert [call.failed for call in watches.calls if call.method == "add"] == [True]
        store.failures["find"] = 1
        with pytest.raises(StoreFailed):
            await node.find()
        assert watches.calls[-1].failed


@pytest.mark.anyio
async def test_a_claim_that_was_lost_is_an_answer_of_the_store() -> None:
    watches, faults = Watches(), Faults()
    faults.before("save", 1).fail(ClaimLost("it is another node's"))
    async with make_node(store=faults.around(SpiedStore()), plugins=[watches]) as node:
        await node.submit(request())
        await until(lambda: "save" in watches.methods)
    assert not any(call.failed for call in watches.calls)


@pytest.mark.anyio
async def test_a_plugin_that_fails_on_a_call_of_the_store_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Breaks:
        def nodekit_observe_store(self, call: StoreCall) -> None:
            raise KeyError("oops")

    watches = Watches()
    async with make_node(plugins=[Breaks(), watches]) as node:
        job = await node.submit(request())
        (done,) = await node.wait([job.id])
    assert done.status is JobStatus.SUCCESS
    assert "add" in watches.methods
    assert "Breaks failed in nodekit_observe_store" in caplog.text


@pytest.mark.anyio
async def test_a_store_that_is_watched_keeps_what_else_it_is() -> None:
    class Says(SpiedStore):
        def nodekit_problems(self) -> list[str]:
            return ["said through"]

        async def ended(self) -> Any:
            self.life.append("asked for ends")
            await anyio.sleep_forever()

    store = Says()
    node = make_node(store=store, plugins=[Watches()])
    async with node:
        assert list((await node.health()).reasons) == ["said through"]
    assert store.life == ["entered", "asked for ends", "left"]


@pytest.mark.anyio
async def test_a_node_says_how_many_jobs_run() -> None:
    gate = Gate()
    async with make_node(functions(gate=gate), concurrency=2) as node:
        assert node.in_flight == 0
        jobs = await node.submit_many([request("gate", client="local") for _ in range(3)])
        await until(lambda: gate.running == 2)
        assert node.in_flight == 2
        gate.opened.set()
        await node.wait([job.id for job in jobs if not isinstance(job, NodekitError)])
        await until(lambda: node.in_flight == 0)


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [Refusal("no"), False, True, "no"])
async def test_a_guard_that_answers_instead_of_raising_lets_nobody_in(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Forgets:
        async def nodekit_admit(self, request: JobRequest) -> Any:
            return answer

    async with make_node(plugins=[Forgets()]) as node:
        with pytest.raises(Refusal, match="Admission failed"):
            await node.submit(request())
    assert "plugin 0:Forgets failed in nodekit_admit; the request is refused" in caplog.text
    assert "return None to let the request in, or object by raising" in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [TooManyRequests("slowly", retry_after_seconds=1), False])
async def test_a_limit_that_answers_instead_of_raising_lets_nobody_through(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Forgets:
        def nodekit_limit(self, identity: Identity) -> Any:
            return answer

    async with make_node(plugins=[Forgets()]) as node:
        with pytest.raises(NodekitError, match="Forgets failed to decide"):
            node.limit(Identity(client="alice"))
    assert "return None to let the request in, or object by raising" in caplog.text
