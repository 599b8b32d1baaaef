"""Promises of a `Pipeline`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import anyio
import msgspec
import pytest
from msgspec.structs import replace

from nodekit import (
    Container,
    ContainerError,
    ContainerId,
    ContainerOutput,
    ContainerResult,
    EmbeddedStore,
    Job,
    JobRequest,
    JobStatus,
    JobTable,
    Location,
    Node,
    Outcome,
    Pipeline,
    Refusal,
    Step,
    decode_payload,
    encode_payload,
)
from nodekit.testing.builders.components import make_function_runner, make_node, make_table
from nodekit.testing.builders.jobs import make_attempt, make_job, make_request
from nodekit.testing.clock import VirtualClock
from nodekit.testing.contracts.backends import Contract
from nodekit.testing.contracts.failure_messages import shown, shown_objection, shown_result, shown_step
from nodekit.testing.contracts.pipelines.walking import Walk, walk
from nodekit.testing.contracts.plugins.hostile import HOSTILE_PAYLOADS, hostile_requests
from nodekit.testing.faults.injection import Faults, Moment, Point


class PipelineContract(Contract):
    """Suite of a pipeline. Define the fixture `pipeline`.

    If your pipeline needs requests of another shape than a list of containers, override `requests`. If it reads the
    outputs of containers, override `answer`.
    """

    containers: tuple[ContainerId, ...] = ("echo", "reverse", "other")
    """Containers that the node has."""
    max_steps: int = 100
    """Maximum number of steps of a job."""
    timeout_seconds: float = 20.0
    """Time limit for a job in a node."""
    name: str = "tested"
    """Name by which requests choose the pipeline. `requests` and `refused` need not set it."""

    @pytest.fixture
    def pipeline(self) -> Pipeline:
        raise NotImplementedError("define a fixture `pipeline` that gives your pipeline")

    def requests(self) -> Sequence[JobRequest]:
        """Return requests that the pipeline accepts, from `make_request`. By default for the first of `containers`, for
        two, …"""
        return [make_request(*self.containers[:n], data={"text": "grüße"}) for n in range(1, len(self.containers) + 1)]

    def refused(self) -> Sequence[JobRequest]:
        """Return requests that the pipeline refuses."""
        return []

    def answer(self, container: ContainerId, data: Any) -> Any:
        """Return the output of a container for its data; raise to let the step fail. By default, return the data."""
        return data

    # -- which step is due ------------------------------------------------------------------------

    def test_the_same_job_always_gets_the_same_answer(self, pipeline: Pipeline) -> None:
        for each in self._walks(pipeline):
            for job in each.jobs:
                first = self._said(pipeline, job)
                for _ in range(20):
                    assert self._said(pipeline, job) == first, (
                        f"it answers differently when it is asked again: {stands(job)}"
                    )

    def test_a_job_goes_on_after_a_restart(self, pipeline: Pipeline) -> None:
        """A job from a store that the pipeline has never seen gets the same answer as its copy."""
        for each in self._walks(pipeline):
            for job in reversed(each.jobs):
                said = self._said(pipeline, job)
                again = self._said(pipeline, _copied(replace(job, id=make_job().id)), job.id)
                assert again == said, f"it remembers something that is not in the job: {stands(job)}"

    def test_it_reads_no_output_but_the_last_one_unless_it_says_so(self, pipeline: Pipeline) -> None:
        """A job that runs has no others. A pipeline that needs them has `needs_all_outputs`."""
        if getattr(pipeline, "needs_all_outputs", False):
            return
        for each in self._walks(pipeline):
            for job in each.jobs:
                again = self._said(pipeline, job.without_earlier_outputs())
                text = f"it reads outputs before the last one, so it needs `needs_all_outputs = True`: {stands(job)}"
                assert again == self._said(pipeline, job), text

    async def test_the_answer_does_not_depend_on_the_time(self, pipeline: Pipeline) -> None:
        walks = self._walks(pipeline)
        before = [[self._said(pipeline, job) for job in each.jobs] for each in walks]
        with VirtualClock() as clock:
            for seconds in (0.75, 86_400 * 400):
                await clock.advance(seconds)
                now = [[self._said(pipeline, job) for job in each.jobs] for each in walks]
                assert now == before, "its answer depends on the time"

    def test_asking_changes_nothing_of_the_job(self, pipeline: Pipeline) -> None:
        for request in self._requests():
            new = _copied(replace(make_job(), request=request, due=None))
            for job in self._walk(pipeline, request).jobs:
                asked = _copied(replace(job, request=_copied(new).request))
                before = msgspec.json.encode(asked)
                self._said(pipeline, asked)
                assert msgspec.json.encode(asked) == before, f"asking changed the job: {stands(job)}"

    def test_steps_say_which_job_and_which_step_they_are(self, pipeline: Pipeline) -> None:
        for each in self._walks(pipeline):
            for job, step in zip(each.jobs, each.steps, strict=False):
                assert step.job_id == job.id, "Step.job_id is that of another job"
                assert step.index == len(job.results), f"Step.index counts results: it is {len(job.results)} here"
                assert step.attempt == job.attempt, f"Step.attempt is `job.attempt`, {job.attempt} here"

    def test_a_step_stays_due_while_its_attempts_fail(self, pipeline: Pipeline) -> None:
        for each in self._walks(pipeline):
            for job, step in zip(each.jobs, each.steps, strict=False):
                failure = make_attempt(kind="connection", failure="refused")
                tried = replace(job, due=step.container).with_failure(step.container, failure)
                again = pipeline.next_step(tried)
                assert again == replace(step, attempt=2), (
                    f"the attempt failed and the step stays due; it returned {shown_step(again)}"
                )

    def test_steps_are_in_containers_that_are_there(self, pipeline: Pipeline) -> None:
        for each in self._walks(pipeline):
            strange = {step.container for step in each.steps} - set(self.containers)
            assert not strange, f"it names containers that the node does not have: {sorted(strange)}"

    def test_steps_are_in_containers_that_the_request_names(self, pipeline: Pipeline) -> None:
        """Guards have checked only those containers. A node fails a job that goes to another one."""
        for each in [*self._walks(pipeline), *self._failing_walks(pipeline), *self._hostile_walks(pipeline)]:
            named = set(each.job.request.containers)
            strange = {step.container for step in each.steps if step.container in self.containers} - named
            assert not strange, f"it goes to {sorted(strange)}, which {shown(each.job.request)} does not name"

    def test_a_stream_is_refused_or_is_of_the_last_step(self, pipeline: Pipeline) -> None:
        """A reader's output cannot be taken back, so nothing can follow it."""
        for request in self._requests():
            streaming = replace(request, destination=Location.STREAM)
            if isinstance(self._objection(pipeline, streaming, self._node_containers()), Refusal):
                continue
            each = self._walk(pipeline, streaming)
            streams = [step.input.destination is Location.STREAM for step in each.steps]
            those = [number for number, one in enumerate(streams, 1) if one]
            assert not each.ended or those == [len(streams)][: len(streams)], (
                f"exactly the last step of a job with the destination STREAM has it, or `check` refuses the request; "
                f"of {shown(streaming)} these have it: {those} of {len(streams)}"
            )

    # -- check ------------------------------------------------------------------------------------

    def test_check_passes_requests_that_it_takes(self, pipeline: Pipeline) -> None:
        assert self._requests(), "`requests` returned no requests, so nothing was tested"
        for request in self._requests():
            try:
                pipeline.check(request, self._node_containers())
            except Refusal as refusal:
                raise AssertionError(
                    f"it refuses {shown(request)}: {shown_objection(refusal)}; return from `requests` what it accepts"
                ) from refusal

    def test_check_refuses_requests_that_it_does_not_take(self, pipeline: Pipeline) -> None:
        if not (requests := [replace(request, pipeline=self.name) for request in self.refused()]):
            pytest.skip("return from `refused` requests that it refuses")
        for request in requests:
            with pytest.raises(Refusal) as raised:
                pipeline.check(request, self._node_containers())
            shown_objection(raised.value)

    def test_check_raises_nothing_but_refusals(self, pipeline: Pipeline) -> None:
        for request in hostile_requests(*self.containers[:2], pipeline=self.name):
            for containers in (self._node_containers(), {}):
                objection = self._objection(pipeline, request, containers)
                if isinstance(objection, Refusal):
                    shown_objection(objection)
                elif objection is not None:
                    raise AssertionError(
                        f"check raised {objection!r} for {shown(request)}; it objects by Refusal, and by nothing else"
                    ) from objection

    def test_check_refuses_a_job_whose_containers_are_not_there(self, pipeline: Pipeline) -> None:
        for request in self._requests():
            for container in {step.container for step in self._walk(pipeline, request).steps}:
                containers = self._node_containers(without=[container])
                assert self._objection(pipeline, request, containers), (
                    f"{shown(request)} passes although the node has no container {container!r}, which the job needs"
                )

    def test_check_changes_nothing_of_what_it_is_given(self, pipeline: Pipeline) -> None:
        for request in [*self._requests(), *hostile_requests(*self.containers[:1], pipeline=self.name)]:
            containers = self._node_containers()
            before = msgspec.json.encode(request)
            self._objection(pipeline, request, containers)
            assert containers == self._node_containers(), "check changed the containers that it was given"
            assert msgspec.json.encode(request) == before, "check changed the request"

    # -- how it ends ------------------------------------------------------------------------------

    def test_each_job_comes_to_an_end(self, pipeline: Pipeline) -> None:
        for each in [*self._walks(pipeline), *self._failing_walks(pipeline), *self._hostile_walks(pipeline)]:
            assert each.ended or each.error, (
                f"a job did not end within {self.max_steps} steps: {shown(each.job.request)}"
            )

    def test_whatever_containers_answer_it_knows_what_follows(self, pipeline: Pipeline) -> None:
        for each in [*self._failing_walks(pipeline), *self._hostile_walks(pipeline)]:
            answered = shown_result(each.job.results[-1]) if each.job.results else "nothing"
            assert each.error is None, f"it raised {each.error!r}; the last container answered {answered}"
            if each.ended:
                self._said(pipeline, each.job)

    def test_an_outcome_is_an_end_and_has_a_result(self, pipeline: Pipeline) -> None:
        for each in [*self._walks(pipeline), *self._failing_walks(pipeline)]:
            if each.ended:
                outcome = pipeline.outcome(each.job)
                assert outcome.status.finished, f"the status of the outcome is not final: {outcome.status}"
                result = each.job.finished(outcome, 1.0).result
                expected = ContainerOutput if outcome.status is JobStatus.SUCCESS else ContainerError
                assert isinstance(result, expected), (
                    f"a job that ended with {outcome.status} has {type(result).__name__} as its result, where clients "
                    f"read a {expected.__name__}: {stands(each.job)}"
                )

    # -- in a node --------------------------------------------------------------------------------

    async def test_a_node_takes_jobs_to_their_end(self, pipeline: Pipeline) -> None:
        for each in self._ending_walks(pipeline):
            async with self._node(pipeline, make_table(), Faults()) as node:
                job = await self._finished(node, [(await node.submit(each.job.request)).id])
            self._same(pipeline, job, each)

    @pytest.mark.parametrize("moment", ["before", "after"])
    async def test_no_stored_step_is_called_again_after_a_crash(self, pipeline: Pipeline, moment: Moment) -> None:
        for each in self._ending_walks(pipeline):
            for number in range(1, min(len(each.steps), 5) + 1):
                table, ids, faults = make_table(), list[str](), Faults()

                async def submit(node: Node, ids: list[str] = ids, request: JobRequest = each.job.request) -> None:
                    ids.append((await node.submit(request)).id)
                    await node.wait(ids)

                faults.at(Point(moment, "save", number)).crash()
                await faults.run(self._node(pipeline, table, faults), submit)
                [stored] = await table.get(ids)
                again = Faults()
                async with self._node(pipeline, table, again) as node:
                    job = await self._finished(node, ids)
                self._same(pipeline, job, each)
                called = [call.args[0].container for call in again.calls if call.method == "run"]
                due = [step.container for step in each.steps[len(stored.results) :]]
                assert called == due, f"steps {due} were due after the crash, and steps {called} were called"

    def _node(self, pipeline: Pipeline, table: JobTable, faults: Faults) -> Node:
        def function(id: ContainerId) -> Any:
            async def call(data: Any) -> Any:
                return self.answer(id, data)

            return call

        runner = make_function_runner(functions={id: function(id) for id in self.containers})
        store = EmbeddedStore(faults.around(table))
        return make_node(store=store, runners=[faults.around(runner)], pipelines={self.name: pipeline})

    async def _finished(self, node: Node, ids: Sequence[str]) -> Job:
        with anyio.fail_after(self.timeout_seconds):
            [job] = await node.wait(ids)
        return job

    def _same(self, pipeline: Pipeline, job: Job, expected: Walk) -> None:
        assert [step.container for step in job.steps] == [step.container for step in expected.steps]
        assert job.status is pipeline.outcome(expected.job).status, job.error

    # -- asking -----------------------------------------------------------------------------------

    def _requests(self) -> Sequence[JobRequest]:
        return [replace(request, pipeline=self.name) for request in self.requests()]

    def _node_containers(self, without: Collection[ContainerId] = ()) -> dict[ContainerId, Container]:
        return {id: Container(id=id) for id in self.containers if id not in without}

    def _objection(
        self, pipeline: Pipeline, request: JobRequest, containers: Mapping[ContainerId, Container]
    ) -> Exception | None:
        try:
            pipeline.check(request, containers)
        except Exception as error:
            return error
        return None

    def _said(self, pipeline: Pipeline, job: Job, id: str | None = None) -> Step | Outcome:
        """Return the pipeline's answer about a job; `id` replaces the job's id in it."""
        try:
            step = pipeline.next_step(job)
            return pipeline.outcome(job) if step is None else replace(step, job_id=id or step.job_id)
        except Exception as error:
            raise AssertionError(f"it raised {error!r} when it was asked about {stands(job)}") from error

    def _answered(self, step: Step) -> ContainerResult:
        try:
            output = encode_payload(self.answer(step.container, decode_payload(step.input.data)))
        except Exception as error:
            return ContainerError(container=step.container, error=str(error) or repr(error), kind="status")
        return ContainerOutput(container=step.container, output=output, instance="one")

    def _walk(self, pipeline: Pipeline, request: JobRequest, failing: Collection[int] = (), odd: Any = None) -> Walk:
        """Take a job through the pipeline. Steps with a number in `failing` fail; `odd` is the output of each other
        step."""

        def answer(step: Step, number: int) -> ContainerResult:
            if number in failing:
                return ContainerError(container=step.container, error="it failed", kind="status")
            if odd is not None:
                return ContainerOutput(container=step.container, output=odd, instance="one")
            return self._answered(step)

        return walk(pipeline, replace(make_job(), request=request, due=None), answer, self.max_steps)

    def _walks(self, pipeline: Pipeline) -> list[Walk]:
        walks = [self._walk(pipeline, request) for request in self._requests()]
        for each in walks:
            assert each.error is None, f"it raised {each.error!r} when it was asked about {stands(each.job)}"
        return walks

    def _failing_walks(self, pipeline: Pipeline) -> list[Walk]:
        """Return walks in which one of the first steps fails, or each step from there on."""
        failing = [steps for number in range(4) for steps in ([number], range(number, self.max_steps + 1))]
        return [self._walk(pipeline, request, failing=steps) for request in self._requests() for steps in failing]

    def _hostile_walks(self, pipeline: Pipeline) -> list[Walk]:
        return [self._walk(pipeline, request, odd=odd) for request in self._requests() for odd in HOSTILE_PAYLOADS]

    def _ending_walks(self, pipeline: Pipeline) -> list[Walk]:
        walks = self._walks(pipeline)
        if not all(each.ended for each in walks):
            pytest.skip("a job does not end, as another test reports")
        return walks


def _copied(job: Job) -> Job:
    """Return the job as a store would load it."""
    return msgspec.json.decode(msgspec.json.encode(job), type=Job)


def stands(job: Job) -> str:
    """Describe the state of a job in a line."""
    return f"a job of {list(job.request.containers)[:5]} with {len(job.results)} results"
