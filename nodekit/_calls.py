"""One call of a container: through its runner, within its time limit; every end of it is a result."""

import logging
import time
from collections.abc import Mapping, Sequence

import anyio

from nodekit.container import Container, ContainerError, ContainerId, ContainerOutput, ContainerResult, Step
from nodekit.errors import ContainerFailed
from nodekit.job import Attempt
from nodekit.runner import ContainerRunner

logger = logging.getLogger("nodekit.executor")


class Calls:
    """Finds the runner of a container and calls it."""

    def __init__(self, runners: Sequence[ContainerRunner]) -> None:
        self._runners = {id: runner for runner in runners for id in runner.containers}
        self.containers: Mapping[ContainerId, Container] = {
            id: container for runner in runners for id, container in runner.containers.items()
        }

    def callable(self, id: ContainerId) -> bool:
        """Whether calling it now makes sense: it runs, or wants to fail at once when it does not."""
        return self.containers[id].when_down == "fail" or id in self._runners[id].running()

    async def call(self, step: Step) -> tuple[ContainerResult, Attempt]:
        """Run a step once."""
        started_at = time.time()
        try:
            output = await self._run(step)
            return output, Attempt(started_at=started_at, finished_at=time.time(), instance=output.instance)
        except ContainerFailed as failure:
            error = ContainerError(
                container=step.container, error=failure.text, kind=failure.kind, status=failure.status
            )
            logger.info("job %s: step %d failed in %s: %s", step.job_id, step.index, step.container, failure.kind)
        except Exception:
            logger.exception("job %s: the runner of container %s failed", step.job_id, step.container)
            error = ContainerError(container=step.container, error="internal error of the node")
        return error, Attempt(started_at=started_at, finished_at=time.time(), kind=error.kind, failure=error.error)

    async def _run(self, step: Step) -> ContainerOutput:
        runner, seconds = self._runners[step.container], self.containers[step.container].timeout_seconds
        if step.container not in runner.running():
            raise ContainerFailed("connection", "the container is not running")
        with anyio.move_on_after(seconds):
            return await runner.run(step)
        raise ContainerFailed("timeout", f"no reply within {seconds:g} s")
