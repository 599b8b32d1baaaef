"""The clients of a simulated cluster: they submit, ask, wait and cancel, and note every answer."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import anyio

from nodekit import Job, JobId, JobQuery, JobRequest, Location, Node, NodekitError
from nodekit.testing.simulation.ledger import PromiseBroken
from nodekit.testing.simulation.workload import PlannedJob, Script

if TYPE_CHECKING:
    from nodekit.testing.simulation.cluster import Cluster

T = TypeVar("T")

ASK_SECONDS = 4.0
"""Time after which a client gives up a question, and asks another node. A whole cluster answers sooner."""
WAIT_SECONDS = 20.0
"""Time after which a patient client gives up a wait for the end of a job."""
PATIENT = 0.5
"""Share of the waits that are patient."""
PAUSE_SECONDS = 0.3
FOLLOW_SECONDS = 1.0
"""Time after which the reader of ends looks again although nothing changed."""


_READER = "the ends"
_STREAM_ATTEMPTS = 4


class Clients:
    """All clients, on one machine that never fails. They choose a node at random for each question."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster, self._ledger = cluster, cluster.ledger
        self._random = {key: cluster.world.chance(f"client of {key}") for key in (*cluster.jobs, _READER)}
        self._machine = cluster.world.machine("clients")
        self.unanswered = 0
        """Number of jobs that are not accepted yet, or whose end a client waits for."""

    async def run(self, jobs: Sequence[PlannedJob]) -> None:
        """Submit all jobs, and get what they give."""
        self.unanswered = len(jobs)
        async with anyio.create_task_group() as tasks:
            for planned in jobs:
                tasks.start_soon(self._live, planned)

    async def _live(self, planned: PlannedJob) -> None:
        await anyio.sleep(max(0.0, planned.at - self._cluster.world.loop.now))
        if planned.then == "stream":
            await self._read(planned)
        else:
            await self._get(planned)
        self.unanswered -= 1

    async def _get(self, planned: PlannedJob) -> None:
        job = await self._submitted(planned)
        async with anyio.create_task_group() as tasks:
            if planned.then == "cancel":
                tasks.start_soon(self._cancel, planned, job.id)
            while not await self._ended(planned, job.id):  # noqa: ASYNC110 - the clients of real nodes poll as well
                await anyio.sleep(PAUSE_SECONDS)

    async def _cancel(self, planned: PlannedJob, id: JobId) -> None:
        await anyio.sleep(self._random[planned.key].random() * 2)
        self._ledger.cancelled.add(id)
        await self._insist(planned, "cancel", lambda node: node.cancel(id, client=planned.client), id)

    async def _read(self, planned: PlannedJob) -> None:
        """Read a stream to its end. Give up after a few attempts: not every node can serve it, and nodes die."""
        for _ in range(_STREAM_ATTEMPTS):
            job = await self._ask(planned, "stream", partial(_streamed, planned.request()))
            if job is not None:
                self._ledger.streamed(job)
                break
            await anyio.sleep(PAUSE_SECONDS)

    async def _submitted(self, planned: PlannedJob) -> Job:
        while True:
            job = await self._ask(planned, "submit", lambda node: node.submit(planned.request()))
            if job is not None:
                self._ledger.accepted(planned.key, job)
                return job
            await anyio.sleep(PAUSE_SECONDS)

    async def _ended(self, planned: PlannedJob, id: JobId) -> bool:
        waits = planned.then in _HOW
        ask = partial(_HOW.get(planned.then, _fetched), id, planned.client)
        patience = WAIT_SECONDS if waits and self._random[planned.key].random() < PATIENT else ASK_SECONDS
        before = self._ledger.asked(id)
        began_at = self._cluster.world.loop.now
        jobs = await self._ask(planned, planned.then, ask, patience)
        if jobs is None:
            if self._cluster.world.loop.now >= began_at + patience:
                self._check_no_answer_was_due(planned, id, began_at)
            return False
        if not jobs:
            self._ledger.missing(id)
        for job in jobs:
            self._ledger.answered(job, before)
        if waits and jobs and not jobs[-1].status.finished:
            raise PromiseBroken(
                "a wait ends with the job", f"{planned.then} of {id} is over, and it is {jobs[-1].status}"
            )
        return any(job.status.finished for job in jobs)

    def _check_no_answer_was_due(self, planned: PlannedJob, id: JobId, began_at: float) -> None:
        """Check that the cluster was not whole, or the job had not ended, until shortly before a client gave up."""
        ended_at = self._ledger.ended_at.get(id, float("inf"))
        since = max(began_at, ended_at, self._cluster.whole_since)
        if self._cluster.world.loop.now >= since + ASK_SECONDS - 0.001:
            raise PromiseBroken(
                "a wait is answered",
                f"{planned.then} of {id} got no answer since {began_at:.3f} s; the job has ended at {ended_at:.3f} s",
            )

    async def _insist(
        self, planned: PlannedJob, what: str, ask: Callable[[Node], Awaitable[Job | None]], id: JobId
    ) -> None:
        before = self._ledger.asked(id)
        while (job := await self._ask(planned, what, ask)) is None:  # noqa: ASYNC110
            await anyio.sleep(PAUSE_SECONDS)
        self._ledger.answered(job, before)

    async def _ask(
        self, planned: PlannedJob, what: str, ask: Callable[[Node], Awaitable[T]], patience: float = ASK_SECONDS
    ) -> T | None:
        """Ask a node. Return None if there is no answer, or a refusal."""
        nodes = self._cluster.nodes
        name = nodes[self._random[planned.key].randrange(len(nodes))]
        answer: list[T] = []
        reason = f"no answer in {patience:g} s"
        with anyio.move_on_after(patience):
            try:
                answer.append(
                    await self._machine.ask(self._cluster.machine(name), lambda: ask(self._cluster.node(name)))
                )
            except (OSError, NodekitError) as error:
                reason = str(error)
        self._cluster.world.note(
            planned.client, f"{what} {planned.key} at {name}: {_said(answer[0]) if answer else reason}"
        )
        return answer[0] if answer else None

    # -- a reader of all ends -----------------------------------------------------------------------

    async def read_ends(self) -> None:
        """Read the jobs in the order in which they finish, a page after the other, until cancelled."""
        self.read: list[JobId] = []
        after: str | None = None
        planned = PlannedJob(0, "reader", (), Script(key=_READER, seconds=()), "")
        while True:
            query = JobQuery(order="finished", after=after, limit=7)

            if (jobs := await self._ask(planned, "read", partial(_page, query))) is None:
                await anyio.sleep(PAUSE_SECONDS)
            for job in jobs or []:
                self._ledger.answered(job)
                if job.request.destination is not Location.STREAM:
                    self.read.append(job.id)
                after = query.cursor(job)


async def _streamed(request: JobRequest, node: Node) -> Job:
    async with node.stream(request) as stream:
        assert b"".join([piece async for piece in stream])
    return stream.job


async def _fetched(id: JobId, client: str, node: Node) -> list[Job]:
    return await node.fetch([id], client=client)


async def _waited(id: JobId, client: str, node: Node) -> list[Job]:
    return await node.wait([id], client=client)


async def _followed(id: JobId, client: str, node: Node) -> list[Job]:
    return [job async for job in node.follow(id, client=client)]


async def _page(query: JobQuery, node: Node) -> list[Job]:
    """Return the next page of jobs. If it is empty, wait for a change, and look once more."""
    async with node.changes() as changes:
        if not (ids := await node.find(query)):
            with anyio.move_on_after(FOLLOW_SECONDS):
                await anext(changes)
            ids = await node.find(query)
        return await node.fetch(ids)


_HOW = {"wait": _waited, "follow": _followed, "cancel": _waited}
"""Ways to ask for a job. All others fetch it as it is."""


def _said(answer: object) -> str:
    jobs = cast("list[object]", answer) if isinstance(answer, list) else [answer]
    return ", ".join(map(_state, jobs)) or "none"


def _state(job: object) -> str:
    return f"{job.id[-6:]} {job.status}, {job.ended_steps} steps" if isinstance(job, Job) else str(job)
