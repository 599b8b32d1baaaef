"""The runner `function` keeps the promises of runners; results of functions become outputs, exceptions failures."""

import functools
import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from nodekit import CompositionError, Container, ContainerFailed, NodeFile
from nodekit.testing import StreamingRunnerContract, make_step
from nodekit_function import FunctionConfig, FunctionContainer, FunctionRunner, from_config

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def runner() -> FunctionRunner:
    runner = FunctionRunner()

    @runner.container("echo", concurrency=3)
    async def echo(data: Any) -> Any:
        """Gives back what it got.

        And so on.
        """
        await anyio.lowlevel.checkpoint()
        return data

    @runner.container("fail")
    async def fail(data: Any) -> Any:
        raise KeyError("no such key")

    @runner.container("slow", description="Takes its time")
    async def slow(data: Any) -> Any:
        await anyio.sleep(1000)

    @runner.container("endless")
    async def endless(data: Any) -> AsyncGenerator[str, None]:
        while True:
            await anyio.lowlevel.checkpoint()
            yield "x" * 1000

    @runner.container("broken")
    async def broken(data: Any) -> AsyncGenerator[bytes, None]:
        yield b"half"
        raise ValueError("on purpose")

    return runner


class TestFunctionRunner(StreamingRunnerContract):
    opaque = False

    @pytest.fixture
    def runner(self, runner: FunctionRunner) -> FunctionRunner:
        return runner


def test_a_container_is_described_by_its_function(runner: FunctionRunner) -> None:
    assert runner.containers["echo"] == Container(id="echo", description="Gives back what it got.", concurrency=3)
    assert runner.containers["slow"].description == "Takes its time"


def test_two_functions_of_one_name_are_refused(runner: FunctionRunner) -> None:
    async def other(data: Any) -> Any: ...

    with pytest.raises(CompositionError, match="'echo' has a function already"):
        runner.add(Container(id="echo"), other)


async def test_an_exception_fails_the_step_like_an_http_500(runner: FunctionRunner) -> None:
    with pytest.raises(ContainerFailed) as raised:
        await runner.run(make_step("fail"))
    assert (raised.value.kind, raised.value.status) == ("status", 500)
    assert raised.value.text == "KeyError: 'no such key'"


async def test_a_function_may_say_how_it_failed(runner: FunctionRunner) -> None:
    @runner.container("says")
    async def says(data: Any) -> Any:
        raise ContainerFailed("too_large", "the picture is too large", retry_after=3)

    with pytest.raises(ContainerFailed) as raised:
        await runner.run(make_step("says"))
    failed = raised.value
    assert (failed.kind, failed.text, failed.retry_after) == ("too_large", "the picture is too large", 3)


@pytest.mark.parametrize("value", [object(), {1j: 2}, "\ud800"], ids=["object", "complex key", "lone surrogate"])
async def test_an_output_that_json_cannot_hold_fails_the_step(runner: FunctionRunner, value: Any) -> None:
    @runner.container("odd")
    async def odd(data: Any) -> Any:
        return value

    with pytest.raises(ContainerFailed) as raised:
        await runner.run(make_step("odd"))
    assert raised.value.kind == "not_json"
    assert raised.value.text.startswith("the output is not JSON: ")
    assert value != "\ud800" or raised.value.text.endswith(r"a text has \ud800, half of a surrogate pair")


async def test_large_integers_pass(runner: FunctionRunner) -> None:
    value = 2**255
    assert (await runner.run(make_step("echo", {"value": value}))).value == {"value": value}


async def test_data_that_python_cannot_hold_is_a_failure_and_no_crash(runner: FunctionRunner) -> None:
    with pytest.raises(ContainerFailed):
        await runner.run(make_step("echo", msgspec.Raw(b'{"n": 1e999}')))


def loaded(folder: Path, **calls: str) -> FunctionRunner:
    """Return the runner of a node file in this folder, with these containers."""
    containers = tuple(FunctionContainer(id=id, call=call) for id, call in calls.items())
    return from_config(FunctionConfig(containers=containers), NodeFile(folder / "node.toml", "node"))


def test_a_node_file_names_functions_of_modules_and_of_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "mine_of_a_test.py").write_text("async def double(data): return data * 2\n")
    runner = loaded(tmp_path, double="mine_of_a_test.py:double", sleep="anyio:sleep")
    assert list(runner.containers) == ["double", "sleep"]


def test_a_file_is_run_once_and_takes_no_other_modules_name(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(
        "import sys\nran = []\nassert sys.modules[__name__].ran is ran\n"
        "async def a(data): return ran\nasync def b(data): return ran\n"
    )
    (tmp_path / "sub").mkdir()
    runner = loaded(tmp_path, a="json.py:a", b="sub/../json.py:b")
    a, b = runner._functions["a"], runner._functions["b"]
    assert a.__globals__ is b.__globals__  # type: ignore[attr-defined]
    assert sys.modules["json"] is json


def test_a_file_that_fails_leaves_no_module_behind(tmp_path: Path) -> None:
    (tmp_path / "broken_of_a_test.py").write_text("raise ValueError('no')\n")
    with pytest.raises(CompositionError, match="no"):
        loaded(tmp_path, a="broken_of_a_test.py:f")
    assert not [name for name in sys.modules if "broken_of_a_test" in name]


class Awaited:
    async def __call__(self, data: Any) -> Any:
        return data


async def two(extra: Any, data: Any) -> Any:
    return [extra, data]


async def test_whatever_is_awaited_is_a_function() -> None:
    runner = FunctionRunner()
    runner.add(Container(id="object"), Awaited())
    runner.add(Container(id="partial"), functools.partial(two, 1))
    assert (await runner.run(make_step("object", 2))).value == 2
    assert (await runner.run(make_step("partial", 2))).value == [1, 2]


@pytest.mark.parametrize("function", [lambda data: data, len, Awaited, functools.partial(print, 1)])
def test_what_is_not_awaited_is_refused(function: Any) -> None:
    with pytest.raises(CompositionError, match=r"'plain'.* must be `async def`"):
        FunctionRunner().add(Container(id="plain"), function)


def test_a_plain_function_of_a_node_file_is_a_problem_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(CompositionError, match=r"^containers\[0\]: .*dumps, must be `async def`"):
        loaded(tmp_path, a="json:dumps")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("anyio", "expected package.module:function"),
        (":f", "expected package.module:function"),
        ("..x:f", "expected package.module:function"),
        ("other.py:", "expected package.module:function"),
        ("no_such_module:f", "there is no module 'no_such_module'; install it where nodekit is, or name a file"),
        ("anyio.no:f", "there is no module 'anyio.no'"),
        ("anyio:no_such", "no_such"),
        ("missing.py:f", "there is no file"),
        ("no/missing.py:f", "there is no folder"),
        ("other.py:g", "there is no 'g' in other.py; its functions: f"),
        ("imports.py:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raises.py:f", "ZeroDivisionError: division by zero"),
        ("ends.py:f", "SystemExit: 3"),
        ("broken.py:f", "invalid syntax"),
        ("anyio:__name__", "is not a function"),
    ],
)
def test_a_call_that_does_not_lead_to_a_function_is_a_problem_with_its_place(
    tmp_path: Path, call: str, text: str
) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "other.py").write_text("async def f(data): ...\n")
    (tmp_path / "imports.py").write_text("import no_such_module\n")
    (tmp_path / "raises.py").write_text("1 / 0\n")
    (tmp_path / "ends.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(CompositionError) as raised:
        loaded(tmp_path, a=call)
    [problem] = raised.value.problems
    assert problem.where == "containers[0].call"
    assert call in problem.text
    assert text in problem.text
    assert "nodekit_function_file" not in problem.text
