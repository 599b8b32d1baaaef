"""One call of a container through its runner, within the time limits. Every end of a call is a result."""

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import lru_cache, partial
from typing import Any, TypeAlias, cast

import anyio
import msgspec
from msgspec.structs import replace

from nodekit.concurrency.time_limit import TimeLimits
from nodekit.errors import ContainerFailed
from nodekit.execution.job_stream import StreamRecord
from nodekit.execution.transitions import job_timeout_text
from nodekit.foreign_text import printable_lines
from nodekit.interfaces.runner import ContainerRunner, NamingRunner, StreamingRunner
from nodekit.interfaces.step_call import PiecesChange, SingleCall, StepCall
from nodekit.model.clock import NodeClock
from nodekit.model.container import Container, ContainerError, ContainerId, ContainerOutput, ContainerResult, Step
from nodekit.model.job import Attempt, Job

logger = logging.getLogger("nodekit.executor")

Send: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Send a piece of a stream; return when the next piece may follow."""

Around: TypeAlias = Callable[[Step, Job, StepCall], Awaitable[ContainerOutput]]
"""Runs an attempt of a step, as plugins want it run. The given call calls the container."""

LONGEST_TEXT = 2000
"""Maximum number of characters kept of an error. It may hold what a client sent, and every attempt stores its own."""
LONGEST_LOGGED = 200
"""Maximum number of characters of an error in a line of the log; the history has more of it."""


class Called(msgspec.Struct, frozen=True):
    """The outcome of one call.

    - `retry_after`: Seconds that the container asked to be left alone.
    """

    result: ContainerResult
    attempt: Attempt
    retry_after: float | None = None


class Calls:
    """Finds the runner of a container and calls it."""

    def __init__(self, runners: Sequence[ContainerRunner], around: Around | None, clock: NodeClock) -> None:
        """`around` runs each attempt through the plugins; None: there are none."""
        self._around = around
        self._now = clock.now
        self._limits = TimeLimits()
        self._runners = {id: runner for runner in runners for id in runner.containers}
        self._naming: Mapping[ContainerId, Callable[[ContainerId], str]] = {
            id: cast("NamingRunner", runner).instance
            for id, runner in self._runners.items()
            if hasattr(runner, "instance")
        }
        self.containers: Mapping[ContainerId, Container] = {
            id: container for runner in runners for id, container in runner.containers.items()
        }

    def instance(self, id: ContainerId) -> str:
        """Return the name of the instance that a call would reach now, if its runner knows it."""
        if (name := self._naming.get(id)) is None:
            return ""
        try:
            return _storable_name(name(id))
        except Exception:
            logger.exception("the runner of container %r cannot name its instance", id)
            return ""

    def runs(self, id: ContainerId) -> bool:
        """Return True if the container runs right now."""
        return id in self._runners[id].running()

    async def call(
        self, step: Step, job: Job, seconds_left: float, *, instance: str = "", send: Send | None = None
    ) -> Called:
        """Run a step of a job once, for as long as the job has time.

        `instance` is the one that a failure names, as the method of this name returned it. With `send`, the output is
        passed on piece by piece as it arrives.
        """
        started_at = self._now()
        try:
            output = await self._run(step, job, seconds_left, send)
            answered = output.instance
            if answered != instance and (answered := _storable(answered)) != output.instance:
                output = replace(output, instance=answered)
            return Called(output, Attempt(started_at=started_at, finished_at=self._now(), instance=answered))
        except ContainerFailed as failure:
            _log_failure(step, failure)
            return self._failure(step, started_at, instance, failure)
        except anyio.get_cancelled_exc_class():
            if anyio.current_effective_deadline() == -math.inf:
                raise
            logger.exception(
                "job %s: the runner's call of container %r was cancelled, and not by the node",
                step.job_id,
                step.container,
            )
            cancelled = ContainerFailed("internal", "the runner's own work was cancelled")
            return self._failure(step, started_at, instance, cancelled)
        except Exception:
            logger.exception("job %s: the runner of container %r failed", step.job_id, step.container)
            return self._failure(step, started_at, instance, ContainerFailed("internal", "internal error of the node"))

    def _failure(self, step: Step, started_at: float, instance: str, failure: ContainerFailed) -> Called:
        text = _storable(failure.text)
        error = ContainerError(container=step.container, error=text, kind=failure.kind, status=failure.status)
        attempt = Attempt(
            started_at=started_at,
            finished_at=self._now(),
            instance=instance,
            kind=error.kind,
            failure=error.error,
            status=error.status,
        )
        return Called(error, attempt, failure.retry_after)

    async def _run(self, step: Step, job: Job, seconds_left: float, send: Send | None) -> ContainerOutput:
        seconds = self.containers[step.container].timeout_seconds
        runner = self._runners[step.container]
        with self._limits.limit(min(seconds, seconds_left)):
            if self._around is None:
                return await _call(runner, send, step)
            call = cast(StepCall, partial(_call, runner, send))
            return await _through(self._around, step, job, call, send)
        if seconds_left < seconds:
            raise ContainerFailed("job_timeout", job_timeout_text(job))
        raise ContainerFailed("timeout", f"no reply within {seconds:g} s")


def _call(
    runner: ContainerRunner, send: Send | None, step: Step, *, pieces: PiecesChange | None = None
) -> Coroutine[Any, Any, ContainerOutput]:
    if step.container not in runner.running():
        raise ContainerFailed("connection", "the container is not running")
    return runner.run(step) if send is None else _stream(runner, step, send, pieces)


async def _through(around: Around, step: Step, job: Job, call: StepCall, send: Send | None) -> ContainerOutput:
    """Run an attempt through the plugins. What they answer instead of a stream is sent in one piece."""
    single = SingleCall(step, call)
    output = await around(step, job, single)
    if send is not None and not single.called:
        await send(bytes(output.output))
    return output


async def _stream(runner: ContainerRunner, step: Step, send: Send, change: PiecesChange | None) -> ContainerOutput:
    record = StreamRecord()
    async with AsyncExitStack() as stack:
        if hasattr(runner, "stream"):
            pieces = await stack.enter_async_context(cast(StreamingRunner, runner).stream(step))
            instance = ""
        else:
            output = await runner.run(step)
            pieces, instance = _one_piece(output), output.instance
        changed = pieces if change is None else change(pieces)
        if isinstance(changed, AsyncGenerator):
            await stack.enter_async_context(aclosing(cast("AsyncGenerator[bytes, None]", changed)))
        async for piece in changed:
            if piece:
                record.add(piece)
                await send(piece)
    instance = str(getattr(pieces, "instance", instance))
    return ContainerOutput(container=step.container, output=record.output(), instance=instance)


async def _one_piece(output: ContainerOutput) -> AsyncGenerator[bytes, None]:
    yield bytes(output.output)


def _log_failure(step: Step, failure: ContainerFailed) -> None:
    """Log why an attempt failed. Steps are counted from 1, as in the history that clients and commands show."""
    kind = failure.kind if failure.status is None else f"{failure.kind} {failure.status}"
    text = failure.text if len(failure.text) <= LONGEST_LOGGED else f"{failure.text[:LONGEST_LOGGED]}…"
    told = "job %s: step %d, attempt %d, failed in container %r: %s: %s"
    logger.info(
        *(told, step.job_id, step.index + 1, step.attempt, step.container, kind, text.replace("\n", " ")),
        extra={"kind": failure.kind} | ({} if failure.status is None else {"status": failure.status}),
    )


def _storable(text: str) -> str:
    """Shorten a text, and escape what UTF-8 cannot hold or what commands terminals.

    An error that cannot be stored would be retried for ever.
    """
    shown = printable_lines(text[: LONGEST_TEXT + 1])
    return shown if len(shown) <= LONGEST_TEXT else f"{shown[:LONGEST_TEXT]}…"


_storable_name = lru_cache(256)(_storable)
"""The same for names of instances, which are few."""
