"""Turns of the event loop."""

import anyio
import pytest

from nodekit.concurrency.loop import let_others_run

pytestmark = pytest.mark.anyio


async def test_others_run_whenever_a_task_lets_them() -> None:
    turns: list[str] = []

    async def take(name: str) -> None:
        for _ in range(3):
            turns.append(name)
            await let_others_run()

    async with anyio.create_task_group() as tasks:
        for name in ("one", "two"):
            tasks.start_soon(take, name)
    assert [set(turns[at : at + 2]) for at in (0, 2, 4)] == [{"one", "two"}] * 3


async def test_a_task_that_lets_others_run_is_cancelled_there() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        for _ in range(100):
            await let_others_run()
    assert scope.cancelled_caught
