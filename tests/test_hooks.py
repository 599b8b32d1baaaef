"""Plugins at the door: mistakes are told when a node is composed, with the cure."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import anyio
import pluggy
import pytest
from parts import SpiedStore, SwitchRunner, functions, make_node, request, until

from nodekit import (
    CompositionError,
    Container,
    EmbeddedStore,
    JobRequest,
    NodekitError,
    Refusal,
    TooManyRequests,
    Unavailable,
)
from nodekit.testing import Faults
from nodekit_guardian import Guardian, rules
from nodekit_memory import MemoryTable


def problem_of(*plugins: object) -> str:
    """The one problem of composing a node of these plugins, which acquires nothing."""
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


class TooManyArguments:
    def nodekit_observe(self, event: Any, node: Any, more: Any) -> None: ...


class Splat:
    def nodekit_observe(self, *everything: Any) -> None: ...


class KeywordOnly:
    def nodekit_observe(self, *, event: Any) -> None: ...


class PlainAdmit:
    def nodekit_admit(self, request: JobRequest) -> None: ...


class AsyncObserve:
    async def nodekit_observe(self, event: Any) -> None: ...


class AsyncLifespan:
    async def nodekit_lifespan(self, node: Any) -> None: ...


class BareLifespan:
    async def nodekit_lifespan(self, node: Any) -> AsyncIterator[None]:
        yield


class Marked:
    @pluggy.HookimplMarker("nodekit")(tryfirst=True)
    async def nodekit_admit(self, request: JobRequest) -> None: ...


class NoHook:
    pass


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (Misspelt(), ["Misspelt.nodekit_admitt", "did you mean nodekit_admit?"]),
        (WrongArgument(), ["WrongArgument.nodekit_admit", "'job'", "request, node"]),
        (TooManyArguments(), ["TooManyArguments.nodekit_observe", "'more'", "event, node"]),
        (Splat(), ["Splat.nodekit_observe", "'everything'"]),
        (KeywordOnly(), ["KeywordOnly.nodekit_observe", "'event'"]),
        (PlainAdmit(), ["PlainAdmit.nodekit_admit", "async def nodekit_admit"]),
        (AsyncObserve(), ["AsyncObserve.nodekit_observe", "plain function"]),
        (AsyncLifespan(), ["AsyncLifespan.nodekit_lifespan", "@asynccontextmanager"]),
        (BareLifespan(), ["BareLifespan.nodekit_lifespan", "@asynccontextmanager"]),
        (Marked(), ["Marked.nodekit_admit", "marker"]),
        (NoHook(), ["NoHook", "implements no hook", "nodekit_admit"]),
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
    assert [problem.where.partition(".")[0] for problem in failed.value.problems] == [
        "Misspelt",
        "WrongArgument",
        "AsyncObserve",
    ]


def test_two_runners_of_one_container_are_one_problem() -> None:
    with pytest.raises(CompositionError) as failed:
        make_node(functions(), SwitchRunner(Container(id="echo")))
    (problem,) = failed.value.problems
    assert "'echo'" in str(problem)
    assert "FunctionRunner" in str(problem)
    assert "SwitchRunner" in str(problem)


def test_a_rule_that_no_plugin_reads_guards_nothing_and_is_refused() -> None:
    guarded = SwitchRunner(Container(id="a", rules=rules(external=False)))
    with pytest.raises(CompositionError, match="no plugin reads it"):
        make_node(guarded)
    make_node(guarded, plugins=[Guardian()])
    misspelt = SwitchRunner(Container(id="a", rules={"externl": False}))
    with pytest.raises(CompositionError, match="did you mean 'external'"):
        make_node(misspelt, plugins=[Guardian()])
    wrong = SwitchRunner(Container(id="a", rules={"external": "no"}))
    with pytest.raises(CompositionError, match="container 'a'"):
        make_node(wrong, plugins=[Guardian()])


def test_a_table_is_not_a_store_and_the_error_says_what_makes_it_one() -> None:
    with pytest.raises(CompositionError, match="EmbeddedStore"):
        make_node(store=MemoryTable())
    with pytest.raises(CompositionError, match="not a JobStore"):
        make_node(store=object())
    make_node(store=EmbeddedStore(MemoryTable()))


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


async def _admits(request: JobRequest) -> None: ...


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (type("Defaulted", (), {"nodekit_admit": lambda self, request=None: None})(), "default"),
        (type("Partial", (), {"nodekit_admit": functools.partial(_admits)})(), "must be a function or a method"),
        (type("Generator", (), {"nodekit_lifespan": lambda self, node: (yield)})(), "plain function"),
    ],
)
def test_an_implementation_that_would_never_be_called_right_is_refused(plugin: object, words: str) -> None:
    assert words in problem_of(plugin)


def test_a_plugin_that_is_given_twice_is_refused() -> None:
    class Silent:
        def nodekit_observe(self) -> None: ...

    plugin = Silent()
    assert "twice" in problem_of(plugin, plugin)


def test_plugins_that_are_equal_are_refused_as_pluggy_would_take_them_for_one() -> None:
    @dataclass
    class Silent:
        def nodekit_observe(self) -> None: ...

    assert "twice" in problem_of(Silent(), Silent())


# -- what is wrong --------------------------------------------------------------------------------


class Says:
    def __init__(self, told: Any) -> None:
        self.told = told

    def nodekit_problems(self) -> Any:
        if isinstance(self.told, Exception):
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
    ],
    ids=repr,
)
async def test_what_plugins_say_is_wrong_is_told_and_the_node_is_healthy(told: Any, reasons: list[str]) -> None:
    async with make_node(plugins=[Says(told)]) as node:
        health = await node.health()
    assert (health.healthy, list(health.reasons)) == (True, reasons)


@pytest.mark.anyio
@pytest.mark.parametrize("told", [RuntimeError("oops"), 7])
async def test_a_plugin_that_cannot_say_what_is_wrong_is_a_reason_and_hides_no_other(
    told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_node(plugins=[Says(["before"]), Says(told), Says(["after"])]) as node:
        health = await node.health()
    failed = "plugin Says failed to say what is wrong; the log has it"
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
    """Something that observes, and a part or nothing else."""

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
        await until(lambda: asked.count("transport") == 3)  # accepted, step finished, job finished
    assert asked == ["both", "plugin", "store", "runner", "transport"] * 3


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
    """Lets every client through but one, and remembers who asked."""

    def __init__(self, refused: str, error: Exception) -> None:
        self.refused, self.error = refused, error
        self.asked: list[str] = []

    def nodekit_limit(self, client: str, node: Any) -> None:
        assert node.name == "node"
        self.asked.append(client)
        if client == self.refused:
            raise self.error


def test_the_first_plugin_that_limits_a_client_wins() -> None:
    first = Limiting("a", TooManyRequests("slower", retry_after_seconds=3))
    second = Limiting("b", Unavailable("closed", retry_after_seconds=4))
    node = make_node(plugins=[first, second])
    node.limit("c")
    with pytest.raises(TooManyRequests, match="slower"):
        node.limit("a")
    with pytest.raises(Unavailable, match="closed"):
        node.limit("b")
    assert (first.asked, second.asked) == (["c", "a", "b"], ["c", "b"])


def test_a_limit_that_breaks_lets_nobody_through(caplog: pytest.LogCaptureFixture) -> None:
    node = make_node(plugins=[Limiting("a", KeyError("a"))])
    with pytest.raises(NodekitError, match="plugin Limiting failed to say"):
        node.limit("a")
    assert "Limiting failed in nodekit_limit" in caplog.text
    make_node().limit("a")  # nobody objects where no plugin limits
