"""The start and the stop of a node."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import anyio

from nodekit.errors import NodekitError, NotStarted, StoreFailed
from nodekit.execution.executor import Executor
from nodekit.interfaces.component_calls import asked
from nodekit.interfaces.runner import ContainerRunner
from nodekit.interfaces.store import JobStore
from nodekit.interfaces.transport import CheckingTransport, Transport
from nodekit.model.counting import counted
from nodekit.model.ids import JobIds
from nodekit.model.queries import JobQuery
from nodekit.node.admission import Admission
from nodekit.node.cluster import Cluster
from nodekit.node.paging import check_page
from nodekit.node.retention import Retention
from nodekit.node.waiters import Waiters

logger = logging.getLogger("nodekit.node")

COUNT_SECONDS = 1.0
FAIR_SECONDS = 15.0
"""Time that further runners have to fail, too, after one has failed to start, so that one failure names all."""


def check_addresses(transports: Sequence[Transport]) -> None:
    """Raise `NodekitError` if a transport says that its address cannot be listened on: no container starts in vain."""
    for transport in transports:
        if hasattr(transport, "check_address"):
            cast(CheckingTransport, transport).check_address()


async def open_components(
    stack: AsyncExitStack, store: JobStore, cluster: Cluster, ids: JobIds, runners: Sequence[ContainerRunner]
) -> None:
    """Enter the store and the runners; the stack leaves them."""
    await stack.enter_async_context(store)
    await cluster.begin()
    stack.push_async_callback(log_unfinished, store, "stopped with %s, to go on at the next start")
    await look_at_ids(store, ids)
    await log_unfinished(store, "the store has %s to go on with")
    for number, runner in enumerate(runners):
        try:
            await stack.enter_async_context(runner)
        except NodekitError as failure:
            raise _together([failure, *await _failures(runners[number + 1 :])]) from failure


async def _failures(runners: Sequence[ContainerRunner]) -> list[NodekitError]:
    """Return the failures of runners that are entered only to see whether they start, and left again.

    The node does not start in any case, but its operator gets to know everything that keeps it from starting.
    """
    failures: list[NodekitError] = []

    async def enter(runner: ContainerRunner) -> None:
        try:
            async with runner:
                pass
        except NodekitError as failure:
            failures.append(failure)
        except Exception:  # the failure of the first runner must not be lost in that of another one
            logger.exception("a runner failed")

    with anyio.move_on_after(FAIR_SECONDS):
        async with anyio.create_task_group() as tasks:
            for runner in runners:
                tasks.start_soon(enter, runner)
    return failures


def _together(failures: Sequence[NodekitError]) -> NodekitError:
    """Return one failure that names all."""
    if len(failures) == 1:
        return failures[0]
    first = next((failure for failure in failures if isinstance(failure, NotStarted)), None)
    if first is None:
        return NodekitError("\n".join(map(str, failures)))
    return first.beside([failure for failure in failures if failure is not first])


class Drain:
    """The end of a node's work. No job is accepted or begun any more, and running ones have some seconds to end.

    Reads and waiters are served until then. It happens once, whoever asks for it.
    """

    def __init__(
        self, executor: Executor, waiters: Waiters, admission: Admission, cluster: Cluster, seconds: float
    ) -> None:
        self._executor = executor
        self._cluster = cluster
        self._waiters = waiters
        self._admission = admission
        self._seconds = seconds
        self._turn = anyio.Lock()
        self._over = False

    async def __call__(self) -> None:
        """Return when no job is running, or when the seconds are over."""
        self._admission.open = False
        async with self._turn:
            if not self._over:
                await self._drain()
            self._over = True
            self._waiters.end()

    async def _drain(self) -> None:
        running = counted(self._executor.running, "job", "is", "are")
        logger.info("draining: %s running; at most %g s", running, self._seconds)
        self._cluster.close()
        self._executor.drain(lambda id, pipeline: bool(self._cluster.with_all([id], pipeline)))
        with anyio.move_on_after(self._seconds) as limit:
            await self._executor.drained()
        if limit.cancelled_caught:
            text = "not drained within %g s; running jobs go back to the store, and streams fail"
            logger.warning(text, self._seconds)


@asynccontextmanager
async def working(
    servers: Sequence[Callable[..., Coroutine[Any, Any, Any]]],
    runs: Iterable[Callable[[], Coroutine[Any, Any, None]]],
    executor: Executor,
    waiters: Waiters,
    admission: Admission,
    drain: Callable[[], Awaitable[None]],
    retention: Retention,
    cluster: Cluster,
    urls: list[str],
) -> AsyncIterator[None]:
    """Execute and serve, with what plugins run beside it. At the end, drain.

    Each server's addresses are added to `urls` when it is ready.
    """
    failure: Exception | None = None
    async with anyio.create_task_group() as executing, anyio.create_task_group() as serving:
        try:
            await executing.start(cluster.run)
            await executing.start(executor.run)
            waiters.open = admission.open = True
            executing.start_soon(retention.run)
            for run in runs:
                executing.start_soon(run)
            for serve in servers:
                urls += await serving.start(serve)
            cluster.announce_changed()
            yield
        except Exception as error:  # from a starting transport or the caller; it must not be raised in a group
            failure = error
        finally:
            admission.open = False
        try:
            if failure is None:
                await drain()
        finally:
            waiters.end()
        serving.cancel_scope.cancel()
        executing.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def look_at_ids(store: JobStore, ids: JobIds) -> None:
    """Make sure no new id sorts before an existing one, even if the clock went back meanwhile."""
    newest = ids.now()
    while later := await store.find(JobQuery(after=newest)):
        check_page(later, JobQuery(after=newest))
        newest = later[-1]
        ids.seen(newest)


async def log_unfinished(store: JobStore, text: str) -> None:
    """Log the number of unfinished jobs, if there are any, in a text with ``%s`` for it."""
    with anyio.move_on_after(COUNT_SECONDS, shield=True):
        try:
            if unfinished := (await asked(store.pending)).total:
                logger.info(text, counted(unfinished, "unfinished job"))
        except StoreFailed as error:
            logger.debug("the unfinished jobs cannot be counted: %s", error)
