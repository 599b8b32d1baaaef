"""Plugins at the door: mistakes are told when a node is composed, with the cure."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pluggy
import pytest
from parts import SpiedStore, SwitchRunner, functions, make_node, request

from nodekit import CompositionError, Container, EmbeddedStore, JobRequest, Refusal
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
