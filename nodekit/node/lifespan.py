"""The start and the stop of a node."""

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio

from nodekit.errors import StoreFailed
from nodekit.execution.executor import Executor
from nodekit.interfaces.component_calls import asked
from nodekit.interfaces.runner import ContainerRunner
from nodekit.interfaces.store import JobStore
from nodekit.model.ids import JobIds
from nodekit.model.queries import JobQuery
from nodekit.node.admission import Admission
from nodekit.node.paging import check_page
from nodekit.node.waiters import Waiters

logger = logging.getLogger("nodekit.node")

COUNT_SECONDS = 1.0


async def open_components(
    stack: AsyncExitStack, store: JobStore, ids: JobIds, runners: Sequence[ContainerRunner]
) -> None:
    """Enter the store and the runners; the stack leaves them."""
    await stack.enter_async_context(store)
    stack.push_async_callback(log_unfinished, store, "stopped: %d jobs are unfinished")
    await look_at_ids(store, ids)
    await log_unfinished(store, "the store has %d unfinished jobs, which continue")
    for runner in runners:
        await stack.enter_async_context(runner)


@asynccontextmanager
async def working(
    servers: Sequence[Callable[..., Coroutine[Any, Any, Any]]],
    executor: Executor,
    waiters: Waiters,
    admission: Admission,
    drain_seconds: float,
    urls: list[str],
) -> AsyncIterator[None]:
    """Execute and serve. At the end, drain: reads and waiters are served until the last job is done.

    Each server's addresses are added to `urls` when it is ready.
    """
    failure: Exception | None = None
    async with anyio.create_task_group() as executing, anyio.create_task_group() as serving:
        try:
            await executing.start(executor.run)
            await executing.start(waiters.run)
            admission.open = True
            for serve in servers:
                urls += await serving.start(serve)
            yield
        except Exception as error:  # from a starting transport or the caller; it must not be raised in a group
            failure = error
        finally:
            admission.open = False
        if failure is None:
            await _drain(executor, drain_seconds)
        serving.cancel_scope.cancel()
        executing.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _drain(executor: Executor, seconds: float) -> None:
    logger.info("draining: %d jobs are running; at most %g s", executor.running, seconds)
    executor.drain()
    with anyio.move_on_after(seconds) as limit:
        await executor.drained()
    if limit.cancelled_caught:
        logger.warning("not drained within %g s; running jobs go back to the store, and streams fail", seconds)


async def look_at_ids(store: JobStore, ids: JobIds) -> None:
    """Make sure no new id sorts before an existing one, even if the clock went back meanwhile."""
    newest = ids.now()
    while later := await store.find(JobQuery(after=newest)):
        check_page(later, newest)
        newest = later[-1]
        ids.seen(newest)


async def log_unfinished(store: JobStore, text: str) -> None:
    """Log the number of unfinished jobs, if there are any."""
    with anyio.move_on_after(COUNT_SECONDS, shield=True):
        try:
            if unfinished := (await asked(store.pending)).total:
                logger.info(text, unfinished)
        except StoreFailed as error:
            logger.debug("the unfinished jobs cannot be counted: %s", error)
