"""Calls of hooks in the log: which, of whom, how long and with what outcome, and nothing that clients sent."""

import inspect
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from clocks import GivenClock
from components import give_up, make_node, request, until
from served import serve

from nodekit import Identity, JobRequest, NodekitError, Refusal, TooManyRequests, load_node
from nodekit.hooks import manager as hooks_module
from nodekit.hooks.specs import HOOKS

SECRET = "s3cret"
LINE = re.compile(r"(nodekit_\w+) of (\d+:\w+): (.+) in (\d+\.\d{3}) ms")


class Plugin:
    """Implements all hooks there are, each in some way."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    @asynccontextmanager
    async def nodekit_lifespan(self) -> AsyncIterator[None]:
        yield

    async def nodekit_admit(self, request: JobRequest) -> None:
        if self.error:
            raise self.error

    def nodekit_limit(self, identity: Identity) -> None:
        if self.error:
            raise self.error

    def nodekit_observe(self, event: Any) -> None: ...

    def nodekit_problems(self) -> list[str]:
        return []


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, logger="nodekit.hooks")

    def lines() -> list[tuple[str, str, str, float]]:
        records = [record for record in caplog.records if record.name == "nodekit.hooks"]
        assert all(record.levelno == logging.INFO for record in records)
        found = [LINE.fullmatch(record.getMessage()) for record in records]
        return [(line[1], line[2], line[3], float(line[4])) for line in found if line] if all(found) else []

    return lines


@pytest.mark.anyio
async def test_each_call_is_one_line_with_hook_plugin_and_outcome(lines: Any) -> None:
    async with make_node(plugins=[Plugin()], trace_hooks=True) as node:
        node.limit(Identity(client="alice"))
        await node.submit(request())
        await node.health()
    told = [line[:3] for line in lines()]
    assert told[:4] == [
        ("nodekit_lifespan", "0:Plugin", "ok"),
        ("nodekit_limit", "0:Plugin", "ok"),
        ("nodekit_admit", "0:Plugin", "ok"),
        ("nodekit_observe", "0:Plugin", "ok"),
    ]
    assert ("nodekit_problems", "0:Plugin", "ok") in told
    assert {hook for hook, *_ in told} == {
        name for name, _ in inspect.getmembers(Plugin) if name.startswith("nodekit_")
    }


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Refusal(SECRET, client=SECRET), "raised Refusal"),
        (TooManyRequests(SECRET, retry_after_seconds=1), "raised TooManyRequests"),
        (TypeError(SECRET), "raised TypeError"),
    ],
)
async def test_an_outcome_says_what_kind_and_no_payload(
    lines: Any, caplog: pytest.LogCaptureFixture, error: Exception, outcome: str
) -> None:
    async with make_node(plugins=[Plugin(error)], trace_hooks=True) as node:
        with pytest.raises((NodekitError, TypeError)):  # each as without tracing, see test_hooks
            await node.submit(request(client=SECRET, text=SECRET))
        with pytest.raises((NodekitError, TypeError)):
            node.limit(Identity(client=SECRET))
    told = [line[:3] for line in lines()]
    assert told.count(("nodekit_admit", "0:Plugin", outcome)) == 1
    assert told.count(("nodekit_limit", "0:Plugin", outcome)) == 1
    assert not any(SECRET in r.getMessage() or r.exc_info for r in caplog.records if r.name == "nodekit.hooks")


@pytest.mark.anyio
async def test_a_call_that_is_given_up_is_cancelled(lines: Any) -> None:
    asked = anyio.Event()

    class Slow:
        async def nodekit_admit(self) -> None:
            asked.set()
            await anyio.sleep_forever()

    async with make_node(plugins=[Slow()], trace_hooks=True) as node:
        assert await give_up(lambda: node.submit(request()), once=asked.wait)
    [(hook, plugin, outcome, _)] = lines()
    assert (hook, plugin) == ("nodekit_admit", "0:Slow")
    assert outcome in ("raised CancelledError", "raised Cancelled")  # asyncio's and trio's


@pytest.mark.anyio
async def test_the_duration_is_that_of_what_is_awaited(lines: Any) -> None:
    clock = GivenClock()

    class Slow:
        async def nodekit_admit(self) -> None:
            await anyio.lowlevel.checkpoint()
            clock.advance(0.25)

        def nodekit_observe(self) -> None:
            clock.advance(0.0005)

    async with make_node(plugins=[Slow()], trace_hooks=True, clock=clock) as node:
        await node.submit(request())
    told = {hook: milliseconds for hook, _, _, milliseconds in lines()}
    assert told == {"nodekit_admit": 250, "nodekit_observe": 0.5}


def test_every_hook_that_there_is_can_be_traced() -> None:
    """Sync or async is all that counts: there is no list of hooks to be added to."""
    for name, spec in HOOKS.items():
        traced = hooks_module.traced(name, "0:Plugin", spec, time.monotonic)
        assert inspect.iscoroutinefunction(traced) == inspect.iscoroutinefunction(spec), name


def test_a_node_file_switches_it_on_and_otherwise_the_plugins_own_functions_are_called(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[node]\ntrace_hooks = true\n[store]\nuse = "memory"\n[[plugins]]\nuse = "guardian"\n')
    on = load_node(file)._hooks._admit[0].function
    file.write_text(file.read_text().replace("trace_hooks = true", ""))
    off = load_node(file)._hooks._admit[0].function
    assert (on.__module__, off.__module__) == ("nodekit.hooks.tracing", "nodekit_guardian")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_command_logs_the_calls_of_the_node_that_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    transport = '[[transports]]\nuse = "asgi"\nbind = "127.0.0.1:0"\n'
    limit = '[[plugins]]\nuse = "ratelimit"\nrequests = 1\nperiod_seconds = 60\n'
    file.write_text(f'[store]\nuse = "memory"\n{transport}{limit}')
    async with serve(file, "--trace-hooks") as (served, api):
        for _ in range(2):
            await api.get("/info")
        await until(lambda: "nodekit_limit of 0:RateLimit: raised TooManyRequests in" in served.log)
    assert "nodekit_limit of 0:RateLimit: ok in" in served.log
    assert "127.0.0.1" not in "".join(line for line in served.log.splitlines() if "nodekit_limit" in line)
