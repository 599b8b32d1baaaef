"""Changes reach their listeners in the order in which these began to listen."""

from contextlib import AsyncExitStack

import anyio
import pytest

from nodekit import Change
from nodekit.embedded.change_feed import ChangeFeed

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]  # trio wakes tasks at random


@pytest.mark.parametrize("change", [Change("1"), None], ids=["a change", "some were missed"])
@pytest.mark.parametrize("ids", [None, ["1", "2"]], ids=["all jobs", "some jobs"])
async def test_listeners_are_woken_in_the_order_in_which_they_came(
    change: Change | None, ids: list[str] | None
) -> None:
    feed, woken = ChangeFeed(), list[int]()
    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        for number in range(50):
            changes = await stack.enter_async_context(feed.subscribe(ids))

            async def listen(number: int = number, changes: object = changes) -> None:
                await anext(changes)  # type: ignore[call-overload]
                woken.append(number)

            tasks.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        feed.publish(change)
    assert woken == list(range(50))
