"""The containers of a simulated cluster, and the runners that call them."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import anyio
import msgspec

from nodekit import Container, ContainerFailed, ContainerId, ContainerOutput, JobId, Retry, Step
from nodekit.concurrency.signal import Signal
from nodekit.testing.simulation.workload import Script, ScriptedOutput, decode_input, encode

RETRY = Retry(attempts=3, first_delay_seconds=0.2, longest_delay_seconds=1.0)
TIMEOUT_SECONDS = 30.0


@dataclass
class Call:
    """A call of a container.

    - `node`: Name of the machine that called, with the number of its process.
    - `after`: Number of the call whose output is the input; 0: the job's data are.
    - `key`: Key of the job, as its client named it.
    - `ended_at`: Time of its end, or None.
    - `retry_after`: Seconds that the container asked for before the next attempt.
    """

    number: int
    job: JobId
    step: int
    container: ContainerId
    node: str
    began_at: float
    after: int
    key: str
    ended_at: float | None = None
    retry_after: float | None = None


class Containers:
    """All containers of all nodes. They do what a job's data say, and note who calls them."""

    def __init__(
        self, now: Callable[[], float], note: Callable[[str, str], None], slots: Mapping[ContainerId, int]
    ) -> None:
        """`slots` has the number of calls at once of the containers that are limited, on each node."""
        self._now, self._note, self.slots = now, note, slots
        self.calls: list[Call] = []
        self._earlier: Counter[tuple[JobId, int]] = Counter()
        """Number of calls so far, by job and step."""
        self.began: Callable[[Call], None] = lambda call: None
        """Called when a call begins."""
        self.ended: Callable[[Call], None] = lambda call: None
        """Called when a call ends, and its node with it or not."""
        self.kills: Callable[[str], None] = lambda machine: None
        """Called for the machine of a process that a poison job ends."""
        self._down: set[tuple[str, ContainerId]] = set()
        self._runners: list[SimulatedRunner] = []

    def runner(self, machine: str, node: str, ids: Collection[ContainerId], *, concurrency: int) -> "SimulatedRunner":
        """Return a runner for a node."""
        runner = SimulatedRunner(self, machine, node, ids, concurrency)
        self._runners.append(runner)
        return runner

    def up(self, machine: str, id: ContainerId) -> bool:
        return (machine, id) not in self._down

    def take_down(self, machine: str, id: ContainerId) -> None:
        self._down.add((machine, id))
        self._change(machine)

    def bring_up(self, machine: str, id: ContainerId) -> None:
        self._down.discard((machine, id))
        self._change(machine)

    def _change(self, machine: str) -> None:
        for runner in self._runners:
            if runner.machine == machine:
                runner.change()

    async def call(self, step: Step, machine: str, node: str) -> ContainerOutput:
        """Do what the job's script says for this step: take some seconds, fail some attempts, end the caller."""
        given = decode_input(step.input.data)
        script, after = (given, 0) if isinstance(given, Script) else (given.script, given.call)
        earlier = self._earlier[step.job_id, step.index]
        self._earlier[step.job_id, step.index] += 1
        number = len(self.calls) + 1
        call = Call(number, step.job_id, step.index, step.container, node, self._now(), after, script.key)
        self.calls.append(call)
        self._note(node, f"calls {step.container} for step {step.index} of {step.job_id[-6:]}, call {call.number}")
        self.began(call)
        try:
            if script.ends_node(step.index, earlier):
                self.kills(machine)
            await anyio.sleep(script.seconds[step.index])
            if step.index == script.wrong:
                raise ContainerFailed("status", "it fails on purpose", status=400)
            if script.fails(step.index, step.attempt):
                call.retry_after = script.pauses[step.index]
                raise ContainerFailed("status", "it is busy", status=503, retry_after=call.retry_after)
        except BaseException as error:
            text = error.text if isinstance(error, ContainerFailed) else "aborted"
            self._note(node, f"call {call.number} for {step.job_id[-6:]} ends: {text}")
            raise
        finally:
            call.ended_at = self._now()
            self.ended(call)
        output = msgspec.Raw(encode(ScriptedOutput(script, call.number, after)))
        return ContainerOutput(container=step.container, output=output, instance=node)


class SimulatedRunner:
    """A runner of some of the containers, for one life of one node."""

    in_process: Literal[True] = True

    def __init__(
        self, containers: Containers, machine: str, node: str, ids: Collection[ContainerId], concurrency: int
    ) -> None:
        self.machine, self.node = machine, node
        self.containers: Mapping[ContainerId, Container] = {
            id: Container(id=id, retry=RETRY, timeout_seconds=TIMEOUT_SECONDS, concurrency=containers.slots.get(id))
            for id in ids
        }
        self.concurrency = concurrency
        self._all, self._changed = containers, Signal()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def running(self) -> Collection[ContainerId]:
        return [id for id in self.containers if self._all.up(self.machine, id)]

    async def changed(self) -> None:
        await self._changed.wait()

    def change(self) -> None:
        self._changed.set()

    def problems(self) -> Sequence[str]:
        return ()

    async def run(self, step: Step) -> ContainerOutput:
        return await self._all.call(step, self.machine, self.node)
