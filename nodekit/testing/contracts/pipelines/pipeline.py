"""Promises of a `Pipeline`."""

from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
import pytest
from msgspec.structs import replace

from nodekit import (
    ContainerError,
    ContainerId,
    ContainerOutput,
    EmbeddedStore,
    Job,
    JobRequest,
    JobStatus,
    JobTable,
    Node,
    Pipeline,
    Refusal,
)
from nodekit.testing.builders.components import make_function_runner, make_node, make_table
from nodekit.testing.contracts.pipelines.stepping import SteppingContract, stands
from nodekit.testing.contracts.pipelines.walking import Walk
from nodekit.testing.contracts.plugins.hostile import hostile_requests
from nodekit.testing.contracts.showing import shown, shown_result, told
from nodekit.testing.faults.injection import Faults, Moment, Point


class PipelineContract(SteppingContract):
    """Suite of a pipeline. Define the fixture `pipeline`.

    If your pipeline needs requests of another shape than a list of containers, override `requests`. If it reads the
    outputs of containers, override `answer`.
    """

    # -- check ------------------------------------------------------------------------------------

    def test_check_passes_requests_that_it_takes(self, pipeline: Pipeline) -> None:
        assert self._requests(), "`requests` gives none: nothing was tested"
        for request in self._requests():
            try:
                pipeline.check(request, self._offered())
            except Refusal as refusal:
                raise AssertionError(
                    f"it refuses {shown(request)}: {told(refusal)}; say in `requests` what it takes"
                ) from refusal

    def test_check_refuses_requests_that_it_does_not_take(self, pipeline: Pipeline) -> None:
        if not (requests := [replace(request, pipeline=self.name) for request in self.refused()]):
            pytest.skip("say in `refused` which requests it refuses")
        for request in requests:
            with pytest.raises(Refusal) as raised:
                pipeline.check(request, self._offered())
            told(raised.value)

    def test_check_raises_nothing_but_refusals(self, pipeline: Pipeline) -> None:
        for request in hostile_requests(*self.containers[:2], pipeline=self.name):
            for offered in (self._offered(), {}):
                objection = self._objection(pipeline, request, offered)
                if isinstance(objection, Refusal):
                    told(objection)
                elif objection is not None:
                    raise AssertionError(
                        f"check raised {objection!r} for {shown(request)}; it objects by Refusal, and by nothing else"
                    ) from objection

    def test_check_refuses_a_job_whose_containers_are_not_there(self, pipeline: Pipeline) -> None:
        for request in self._requests():
            for container in {step.container for step in self._walk(pipeline, request).steps}:
                offered = self._offered(without=[container])
                assert self._objection(pipeline, request, offered), (
                    f"{shown(request)} passes although the node has no container {container!r}, which it comes to"
                )

    def test_check_changes_nothing_of_what_it_is_given(self, pipeline: Pipeline) -> None:
        for request in [*self._requests(), *hostile_requests(*self.containers[:1], pipeline=self.name)]:
            offered = self._offered()
            before = msgspec.json.encode(request)
            self._objection(pipeline, request, offered)
            assert offered == self._offered(), "check changed the containers that it was given"
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
                assert outcome.status.finished, f"the outcome is no end: {outcome.status}"
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
