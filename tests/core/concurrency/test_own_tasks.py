"""`OwnTasks`: changes that run to their end, whatever happens to their callers."""

import asyncio
import contextvars

import anyio
import pytest

from nodekit import StoreFailed
from nodekit.concurrency.own_tasks import OwnTasks

pytestmark = pytest.mark.anyio

number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_cancel_ends_the_caller_and_not_the_change() -> None:
    made: list[int] = []

    async def change() -> None:
        await anyio.sleep(0.01)
        made.append(1)

    async with OwnTasks() as own:
        caller = asyncio.create_task(own.run(change))
        await anyio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert made == []
    assert made == [1]


async def test_leaving_waits_for_the_change_of_a_caller_that_has_gone() -> None:
    made: list[int] = []

    async def change() -> None:
        await anyio.sleep(0.01)
        made.append(1)

    async with OwnTasks() as own:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await own.run(change)
        assert scope.cancelled_caught
    assert made == [1]
    with pytest.raises(StoreFailed, match="not open"):
        await own.run(change)


async def test_leaving_while_cancelled_waits_for_the_changes_all_the_same() -> None:
    made: list[int] = []

    async def change() -> None:
        await anyio.sleep(0.01)
        made.append(1)

    with anyio.CancelScope() as outer:
        async with OwnTasks() as own, anyio.create_task_group() as callers:
            callers.start_soon(own.run, change)
            await anyio.sleep(0)
            outer.cancel()
    assert made == [1]


async def test_the_result_the_error_and_the_context_are_the_callers() -> None:
    async def change(by: int) -> int:
        return number.get() + by

    async def fails() -> None:
        raise ValueError("no")

    async with OwnTasks() as own:
        number.set(40)
        assert await own.run(change, 2) == 42
        with pytest.raises(ValueError, match="no"):
            await own.run(fails)


async def test_a_change_inside_a_change_runs_in_the_same_task() -> None:
    tasks: list[int] = []

    async def inner() -> None:
        tasks.append(anyio.get_current_task().id)

    async with OwnTasks() as own:

        async def outer() -> None:
            tasks.append(anyio.get_current_task().id)
            await own.run(inner)

        await own.run(outer)
    assert tasks[0] == tasks[1]
