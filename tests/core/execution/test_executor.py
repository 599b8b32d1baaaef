"""The executor: order and number of running steps, and faults of components and plugins."""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from components import Gate, SpiedStore, SwitchRunner, echo, functions, make_node, request, settle_down, until
from msgspec.structs import replace

from nodekit import (
    ClaimLost,
    Container,
    ContainerError,
    ContainerFailed,
    ContainerInput,
    ContainerOutput,
    EmbeddedStore,
    Job,
    JobAccepted,
    JobFinished,
    JobRequest,
    JobStatus,
    Location,
    Node,
    Outcome,
    Refusal,
    Sequence,
    Step,
    StepFinished,
    StoreFailed,
    encode_payload,
    last_output,
)
from nodekit.execution.job_runs import LONGEST_PAUSE_SECONDS
from nodekit.testing import VirtualClock
from nodekit_function import FunctionRunner
from nodekit_memory import MemoryStore, MemoryTable
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio


def error_of(job: Job) -> str:
    assert isinstance(job.result, ContainerError), job.result
    return job.result.error


# -- concurrency --------------------------------------------------------------------------------------


async def test_the_node_runs_as_many_jobs_at_once_as_it_may_and_no_more() -> None:
    gate = Gate()
    async with make_node(functions(gate=gate), concurrency=3) as node:
        jobs = [await node.submit(request("gate")) for _ in range(10)]
        await until(lambda: gate.running == 3)
        await settle_down()
        assert gate.running == 3
        gate.opened.set()
        await node.wait([job.id for job in jobs])
    assert (gate.most, gate.calls) == (3, 10)


async def test_a_container_that_limits_itself_does_not_hold_up_others() -> None:
    narrow, wide = Gate(), Gate()
    runner = functions({"narrow": {"concurrency": 2}}, narrow=narrow, wide=wide)
    async with make_node(runner, concurrency=8) as node:
        jobs = [await node.submit(request("narrow")) for _ in range(10)]
        jobs += [await node.submit(request("wide")) for _ in range(10)]
        await until(lambda: narrow.running == 2 and wide.running == 6)
        await settle_down()
        assert (narrow.running, wide.running) == (2, 6)
        narrow.opened.set()
        wide.opened.set()
        done = await node.wait([job.id for job in jobs])
    assert {job.status for job in done} == {JobStatus.SUCCESS}
    assert narrow.most == 2
    assert wide.most <= 8


async def test_limits_of_containers_hold_for_later_steps_too() -> None:
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()

    def limited(name: str) -> Any:
        async def call(data: Any) -> Any:
            running[name] += 1
            running["all"] += 1
            for key in (name, "all"):
                most[key] = max(most[key], running[key])
            await anyio.sleep(0.001)
            running[name] -= 1
            running["all"] -= 1
            return data

        return call

    runner = functions({"one": {"concurrency": 1}, "two": {"concurrency": 2}}, one=limited("one"), two=limited("two"))
    async with make_node(runner, concurrency=4) as node:
        kinds = [("one", "two"), ("two", "one", "two"), ("two", "two"), ("one", "one")]
        jobs = [await node.submit(request(*kinds[n % 4], client=f"c{n % 3}")) for n in range(40)]
        done = await node.wait([job.id for job in jobs])
    assert {job.status for job in done} == {JobStatus.SUCCESS}
    assert most["one"] == 1
    assert most["two"] == 2
    assert most["all"] <= 3  # these containers have no more slots


# -- containers that are not running ------------------------------------------------------------------


async def test_a_job_waits_for_a_container_that_is_down_and_goes_on_when_it_comes_back() -> None:
    runner = SwitchRunner(Container(id="a"), Container(id="b"), up=["a"])
    async with make_node(runner, functions()) as node:
        job = await node.submit(request("a", "b"))
        await until(lambda: runner.steps)
        await settle_down()
        (waiting,) = await node.fetch([job.id])
        assert waiting.status is JobStatus.RUNNING
        assert [step.container for step in runner.steps] == ["a"]
        (other,) = await node.wait([(await node.submit(request("echo"))).id])  # and nobody else waits with it
        assert other.status is JobStatus.SUCCESS
        runner.switch("a", "b")
        (done,) = await node.wait([job.id])
    assert done.status is JobStatus.SUCCESS
    assert [step.container for step in runner.steps] == ["a", "b"]


async def test_a_job_fails_at_once_where_the_container_says_so() -> None:
    runner = SwitchRunner(Container(id="a", when_down="fail"), up=[])
    async with make_node(runner) as node:
        (done,) = await node.wait([(await node.submit(request("a"))).id])
    assert (done.status, error_of(done)) == (JobStatus.FAILED, "the container is not running")
    assert runner.steps == []


async def test_a_container_that_never_came_up_is_not_called_and_its_job_can_be_cancelled() -> None:
    runner = SwitchRunner(Container(id="a"), up=[])
    async with make_node(runner) as node:
        job = await node.submit(request("a"))
        await settle_down()
        cancelled = await node.cancel(job.id)
        assert cancelled is not None
        runner.switch("a")
        await settle_down()
    assert runner.steps == []


# -- steps --------------------------------------------------------------------------------------------


async def test_a_step_that_takes_too_long_fails_and_says_how_long_it_had() -> None:
    gate = Gate()
    async with make_node(functions({"gate": {"timeout_seconds": 0.05}}, gate=gate)) as node:
        (done,) = await node.wait([(await node.submit(request("gate"))).id])
    assert (done.status, error_of(done)) == (JobStatus.FAILED, "no reply within 0.05 s")
    assert done.steps[0].attempts[0].kind == "timeout"
    assert gate.cancelled == 1


@pytest.mark.parametrize("status", ["success", "failed"])
async def test_observers_are_told_of_each_step_and_of_the_end_once_and_as_they_are_stored(status: str) -> None:
    told: list[Any] = []

    class Observer:
        def nodekit_observe(self, event: Any) -> None:
            told.append(event)

    async def last(data: Any) -> Any:
        if status == "failed":
            raise ValueError("on purpose")
        return data

    async with make_node(functions(last=last), plugins=[Observer()]) as node:
        (done,) = await node.wait([(await node.submit(request("echo", "last"))).id])
        await until(lambda: len(told) == 4)
        await settle_down()
    assert done.status == status
    assert [type(event) for event in told] == [JobAccepted, StepFinished, StepFinished, JobFinished]
    assert [event.index for event in told[1:3]] == [0, 1]
    assert told[2].job == told[3].job == done


async def test_a_failure_ends_the_job_with_its_text_and_keeps_the_steps_before_it() -> None:
    async def fail(step: Step) -> ContainerOutput:
        raise ContainerFailed("status", "HTTP status 502: oops", status=502)

    runner = SwitchRunner(Container(id="bad"), run=fail)
    async with make_node(functions(), runner) as node:
        (done,) = await node.wait([(await node.submit(request("echo", "bad", "echo"))).id])
    assert done.status is JobStatus.FAILED
    assert isinstance(done.result, ContainerError)
    assert (done.result.container, done.result.error, done.result.status) == ("bad", "HTTP status 502: oops", 502)
    assert [result.container for result in done.intermediate_results] == ["echo"]


async def test_steps_carry_what_the_container_protocol_says() -> None:
    runner = SwitchRunner(Container(id="a"))
    asked = JobRequest(
        containers=("a", "a", "a"),
        data=encode_payload({"n": 1}),
        requires_proof=True,
        origin=Location.ONCHAIN,
        destination=Location.ONCHAIN,
    )
    async with make_node(runner) as node:
        job = await node.submit(asked)
        await node.wait([job.id])
    seen = [(s.index, s.attempt, s.input.source, s.input.destination, s.input.requires_proof) for s in runner.steps]
    assert seen == [
        (0, 1, Location.ONCHAIN, Location.OFFCHAIN, True),
        (1, 1, Location.OFFCHAIN, Location.OFFCHAIN, True),
        (2, 1, Location.OFFCHAIN, Location.ONCHAIN, True),
    ]
    assert [bytes(s.input.data) for s in runner.steps] == [b'{"n":1}', b'"a"', b'"a"']
    assert [s.idempotency_key for s in runner.steps] == [f"{job.id}:{n}" for n in range(3)]


@pytest.mark.parametrize("garbage", [KeyError("inside"), RuntimeError(), AssertionError("x"), TimeoutError()])
async def test_a_runner_that_raises_what_it_should_not_fails_the_step_and_nothing_else(garbage: Exception) -> None:
    async def run(step: Step) -> ContainerOutput:
        raise garbage

    runner = SwitchRunner(Container(id="bad"), run=run)
    async with make_node(functions(), runner) as node:
        (done,) = await node.wait([(await node.submit(request("bad"))).id])
        (fine,) = await node.wait([(await node.submit(request("echo"))).id])
    assert (done.status, fine.status) == (JobStatus.FAILED, JobStatus.SUCCESS)
    assert "inside" not in error_of(done)
    assert len(runner.steps) == 1


@pytest.mark.parametrize("garbage", [None, {"output": 1}, "text"])
async def test_a_runner_that_returns_what_it_should_not_fails_the_step_and_nothing_else(garbage: Any) -> None:
    async def run(step: Step) -> Any:
        return garbage

    runner = SwitchRunner(Container(id="bad"), run=run)
    async with make_node(functions(), runner) as node:
        with anyio.fail_after(60):
            (done,) = await node.wait([(await node.submit(request("bad"))).id])
            (fine,) = await node.wait([(await node.submit(request("echo"))).id])
    assert (done.status, fine.status) == (JobStatus.FAILED, JobStatus.SUCCESS)
    assert len(runner.steps) == 1


async def test_outputs_that_json_cannot_hold_fail_the_step() -> None:
    async def odd(data: Any) -> Any:
        return object()

    async with make_node(functions(odd=odd)) as node:
        (done,) = await node.wait([(await node.submit(request("odd"))).id])
    assert done.status is JobStatus.FAILED
    assert error_of(done).startswith("the output is not JSON")


# -- pipelines ----------------------------------------------------------------------------------------


class Chooses:
    """Goes on with the container that the previous output names, until it names none."""

    def check(self, request: JobRequest, containers: Mapping[str, Container]) -> None:
        if not request.containers:
            raise Refusal("Name the first container, and those that may follow")

    def next_step(self, job: Job) -> Step | None:
        results = job.results
        if not results:
            container = job.request.containers[0]
        elif isinstance(results[-1], ContainerError):
            return None
        else:
            container = results[-1].value.get("next", "")
        data = last_output(job)
        if not container or data is None:
            return None
        return Step(
            job_id=job.id,
            index=len(results),
            attempt=job.attempt,
            container=container,
            input=ContainerInput(
                source=Location.OFFCHAIN, destination=Location.OFFCHAIN, data=data, requires_proof=False
            ),
        )

    def outcome(self, job: Job) -> Outcome:
        return Outcome(JobStatus.SUCCESS, job.results[0])


async def test_a_pipeline_may_choose_the_next_container_by_the_previous_output() -> None:
    async def countdown(data: Any) -> Any:
        return {"n": data["n"] - 1, "next": "countdown" if data["n"] > 1 else "bye"}

    async def bye(data: Any) -> Any:
        return {"said": "bye"}

    async with make_node(functions(countdown=countdown, bye=bye), pipelines={"chooses": Chooses()}) as node:
        asked = JobRequest(containers=("countdown", "bye"), data=encode_payload({"n": 3}), pipeline="chooses")
        (done,) = await node.wait([(await node.submit(asked)).id])
        with pytest.raises(Refusal, match="Name the first"):
            await node.submit(JobRequest(containers=(), data=encode_payload({}), pipeline="chooses"))
    assert done.status is JobStatus.SUCCESS
    assert [result.container for result in done.results] == ["countdown", "countdown", "countdown", "bye"]
    assert isinstance(done.result, ContainerOutput)
    assert done.result.value == {"n": 2, "next": "countdown"}


async def test_a_pipeline_that_names_a_container_nobody_offers_fails_the_job() -> None:
    async def lost(data: Any) -> Any:
        return {"next": "nowhere"}

    async with make_node(functions(lost=lost), pipelines={"chooses": Chooses()}) as node:
        asked = JobRequest(containers=("lost", "nowhere"), data=encode_payload({}), pipeline="chooses")
        (done,) = await node.wait([(await node.submit(asked)).id])
    assert done.status is JobStatus.FAILED
    assert isinstance(done.result, ContainerError)
    assert (done.result.container, done.result.error) == ("nowhere", "this node has no such container")


class Breaks(Sequence):
    """A sequence that breaks in one of its methods, from the n-th call on."""

    def __init__(self, method: str, call: int = 1) -> None:
        self.left = {method: call}

    def _count(self, method: str) -> None:
        self.left[method] = self.left.get(method, 1_000_000) - 1
        if self.left[method] <= 0:
            raise ZeroDivisionError("a bug of the pipeline")

    def check(self, request: JobRequest, containers: Mapping[str, Container]) -> None:
        self._count("check")
        super().check(request, containers)

    def next_step(self, job: Job) -> Step | None:
        self._count("next_step")
        return super().next_step(job)

    def outcome(self, job: Job) -> Outcome:
        self._count("outcome")
        return super().outcome(job)


@pytest.mark.parametrize(("method", "call"), [("next_step", 1), ("next_step", 2), ("next_step", 3), ("outcome", 1)])
async def test_a_pipeline_that_breaks_fails_its_job_only(method: str, call: int) -> None:
    async with make_node(functions(), pipelines={"breaks": Breaks(method, call)}) as node:
        asked = JobRequest(containers=("echo", "echo"), data=encode_payload({}), pipeline="breaks")
        with anyio.fail_after(60):
            (done,) = await node.wait([(await node.submit(asked)).id])
            (fine,) = await node.wait([(await node.submit(request("echo"))).id])
    assert (done.status, fine.status) == (JobStatus.FAILED, JobStatus.SUCCESS)
    assert "ZeroDivision" not in error_of(done)


async def test_a_pipeline_whose_check_breaks_refuses_its_request_only() -> None:
    async with make_node(functions(), pipelines={"breaks": Breaks("check")}) as node:
        asked = JobRequest(containers=("echo",), data=encode_payload({}), pipeline="breaks")
        first, broken, last = await node.submit_many([request("echo"), asked, request("echo")])
        assert isinstance(first, Job)
        assert isinstance(last, Job)
        assert isinstance(broken, Refusal)


# -- stores that fail ---------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [1, 3])
async def test_results_are_not_lost_while_the_store_keeps_nothing(failures: int) -> None:
    store = SpiedStore()
    calls: list[Any] = []

    async def counted(data: Any) -> Any:
        calls.append(data)
        return data

    async with make_node(functions(counted=counted), store=store) as node:
        store.failures["save"] = failures
        jobs = [await node.submit(request("counted", "counted", n=n)) for n in range(5)]
        done = await node.wait([job.id for job in jobs])
        assert (await node.health()).healthy
    assert {job.status for job in done} == {JobStatus.SUCCESS}
    assert len(calls) == 10  # a result in hand is written again, not computed again
    assert store.failures["save"] == 0


async def test_a_result_that_is_not_kept_is_written_again_after_pauses_that_double_up_to_five_seconds(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = SpiedStore()
    async with make_node(store=store) as node:
        store.failures["save"] = 8
        job = await node.submit(request())
        for calls in range(1, 9):
            await until(lambda: store.calls["save"] >= calls)  # noqa: B023 - it is over within the turn
            await clock.advance(LONGEST_PAUSE_SECONDS)
        [job] = await node.wait([job.id])
    assert job.status is JobStatus.SUCCESS
    pauses = re.findall(r"disk is full.*; trying again in (\S+) s", caplog.text)
    assert pauses == ["0.1", "0.2", "0.4", "0.8", "1.6", "3.2", "5.0", "5.0"]


async def test_a_job_that_a_node_gives_back_at_its_end_waits_for_nothing_but_a_node() -> None:
    gate, table = Gate(), MemoryTable()
    async with make_node(functions(gate=gate), store=EmbeddedStore(table), drain_seconds=0) as node:
        job = await node.submit(request("echo", "gate"))
        await until(lambda: gate.running)
    [job] = await table.get([job.id])
    assert (job.due, job.status, job.not_before, job.delay_seconds) == ("gate", JobStatus.RUNNING, None, None)
    async with make_node(functions(gate=echo), store=EmbeddedStore(table)) as node:
        with anyio.fail_after(20):
            [job] = await node.wait([job.id])
    assert job.status is JobStatus.SUCCESS


class SlowRelease(SpiedStore):
    """Releases jobs slowly, like a remote store."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = anyio.Event()
        self.released: list[str] = []

    async def release(self, claim: Any, job: Any, *, delay_seconds: float = 0) -> None:
        self.begun.set()
        await settle_down()
        await EmbeddedStore.release(self, claim, job, delay_seconds=delay_seconds)
        self.released.append(job.id)


async def test_a_job_is_given_back_whole_while_its_node_ends() -> None:
    gate, store = Gate(), SlowRelease()
    async with make_node(functions(gate=gate), store=store, drain_seconds=0) as node:
        job = await node.submit(request("gate"))
        await until(lambda: gate.running)
    assert store.released == [job.id]


async def test_a_job_whose_run_fails_in_the_executor_is_given_back_whole_while_its_node_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("a fault of ours")

    store = SlowRelease()
    async with make_node(store=store, drain_seconds=0) as node:
        monkeypatch.setattr(node._executor._runs._progress, "next_step", broken)
        job = await node.submit(request())
        await store.begun.wait()
        assert store.released == []
    assert store.released == [job.id]


async def test_a_job_that_is_somebody_elses_by_now_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Elsewhere(SpiedStore):
        async def save(self, claim: Any, job: Any) -> None:
            self._called("save")
            raise ClaimLost("another node's")

    store = Elsewhere()
    async with make_node(store=store) as node:
        await node.submit(request())
        await until(lambda: store.calls["save"])
        await until(lambda: not node.in_flight)
        assert (await node.health()).healthy
    assert (store.calls["save"], store.calls["release"]) == (1, 0)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_store_that_keeps_no_results_is_told_by_health_for_as_long_as_it_lasts() -> None:
    store = SpiedStore()
    async with make_node(store=store) as node:
        store.failures["save"] = 3
        job = await node.submit(request())
        await until(lambda: node._executor.problems)
        health = await node.health()
        assert (health.healthy, "disk is full" in health.reasons[0]) == (False, True)
        await node.wait([job.id])
        assert (await node.health()).healthy


async def test_claiming_goes_on_after_the_store_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodekit.execution.executor.LONGEST_PAUSE_SECONDS", 0.01)
    store = SpiedStore()
    async with make_node(store=store) as node:
        await settle_down()
        store.failures["claim"] = 3
        jobs = [await node.submit(request()) for _ in range(3)]
        done = await node.wait([job.id for job in jobs])
    assert {job.status for job in done} == {JobStatus.SUCCESS}


async def test_a_runner_that_cannot_say_what_runs_does_not_end_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    class Moody(SwitchRunner):
        moody = False

        def running(self) -> Any:
            if self.moody:
                raise RuntimeError("not now")
            return super().running()

    monkeypatch.setattr("nodekit.execution.executor.LONGEST_PAUSE_SECONDS", 0.05)
    runner = Moody(Container(id="x"))
    async with make_node(runner) as node:
        runner.moody = True
        runner.switch("x")
        await until(lambda: node._executor.problems)
        runner.moody = False
        runner.switch("x")
        [job] = await node.wait([(await node.submit(request("x"))).id])
    assert job.status is JobStatus.SUCCESS


async def test_a_job_whose_run_fails_in_the_executor_is_not_claimed_again_at_once(
    monkeypatch: pytest.MonkeyPatch, clock: VirtualClock
) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("a fault of ours")

    store = SpiedStore()
    async with make_node(store=store) as node:
        with monkeypatch.context() as patch:
            patch.setattr(node._executor._runs._progress, "next_step", broken)
            job = await node.submit(request())
            await until(lambda: store.calls["release"] == 1)
            await settle_down()
            assert store.calls["release"] == 1
        await clock.advance(6)
        [job] = await node.wait([job.id])
    assert job.status is JobStatus.SUCCESS


async def test_a_job_whose_container_went_down_unnoticed_is_not_claimed_again_and_again() -> None:
    store, runner = SpiedStore(), SwitchRunner(Container(id="x"))
    async with make_node(runner, store=store) as node:
        await settle_down()
        runner.up = set()  # it does not report the change
        job = await node.submit(request("x"))
        await until(lambda: store.calls["release"])
        await settle_down()
        assert store.calls["release"] == 1
        runner.switch("x")
        await node.wait([job.id])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_function_whose_own_work_was_cancelled_fails_and_others_go_on() -> None:
    async def stray(data: Any) -> Any:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with make_node(functions(stray=stray)) as node:
        [bad] = await node.wait([(await node.submit(request("stray"))).id])
        [good] = await node.wait([(await node.submit(request())).id])
    assert (bad.status, error_of(bad)) == (JobStatus.FAILED, "the runner's own work was cancelled")
    assert good.status is JobStatus.SUCCESS


async def test_an_error_that_cannot_be_stored_as_it_is_is_made_so(tmp_path: Path) -> None:
    async def odd(data: Any) -> Any:
        raise ValueError("caf\udce9" + "x" * 1_000_000)

    store = SqliteStore(tmp_path / "jobs.db")
    async with make_node(functions(odd=odd), store=store) as node:
        with anyio.fail_after(60):
            [job] = await node.wait([(await node.submit(request("odd"))).id])
    assert error_of(job).startswith("ValueError: caf?xxx")
    assert len(error_of(job)) < 3000


async def test_a_store_that_keeps_some_results_and_not_others_is_unhealthy_until_it_keeps_all() -> None:
    class Picky(SpiedStore):
        picky = True

        async def save(self, claim: Any, job: Any) -> None:
            if self.picky and job.request.client == "bob":
                raise StoreFailed("not this one")
            await super().save(claim, job)

    store = Picky()
    async with make_node(store=store) as node:
        stuck = await node.submit(request(client="bob"))
        await until(lambda: node._executor.problems)
        await node.wait([(await node.submit(request())).id])
        assert not (await node.health()).healthy
        store.picky = False
        await node.wait([stuck.id])
        assert (await node.health()).healthy


async def test_a_job_that_was_settled_while_the_store_kept_nothing_leaves_no_problem_behind() -> None:
    store = SpiedStore()
    async with make_node(store=store) as node:
        store.failures["save"] = 1_000_000
        job = await node.submit(request())
        await until(lambda: node._executor.problems)
        await node.cancel(job.id)
        await until(lambda: not node._executor.running)
        assert (await node.health()).healthy


async def test_a_job_that_cannot_be_given_back_at_once_is_given_back_later() -> None:
    store, runner = SpiedStore(), SwitchRunner(Container(id="x"))
    async with make_node(runner, store=store) as node:
        await settle_down()
        store.failures["release"] = 3
        runner.up = set()  # it does not report the change
        job = await node.submit(request("x"))
        await until(lambda: store.calls["release"])
        runner.switch("x")
        await until(lambda: store.calls["release"] > 3)
        [job] = await node.wait([job.id])
    assert job.status is JobStatus.SUCCESS


async def test_expiring_goes_on_after_the_store_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(SpiedStore):
        async def claim_expired(self, limit: int) -> Any:
            self._called("claim_expired")
            return await super().claim_expired(limit)

    monkeypatch.setattr("nodekit.execution.executor.LONGEST_PAUSE_SECONDS", 0.05)
    store = Forgetful()
    store.failures["claim_expired"] = 3
    async with make_node(SwitchRunner(Container(id="x"), up=[]), store=store, queue_timeout_seconds=0.01) as node:
        job = await node.submit(request("x"))
        await until(lambda: node._executor.problems)
        assert "waited too long" in (await node.health()).reasons[0]
        [job] = await node.wait([job.id])
        assert (await node.health()).reasons == ("no container is running", "container x is down")
    assert job.status is JobStatus.FAILED
    assert store.failures["claim_expired"] == 0


async def test_a_job_that_expires_while_the_disk_is_full_fails_once_there_is_room() -> None:
    store = SpiedStore()
    async with make_node(SwitchRunner(Container(id="x"), up=[]), store=store, queue_timeout_seconds=0.01) as node:
        store.failures["save"] = 2
        job = await node.submit(request("x"))
        [job] = await node.wait([job.id])
    assert (job.status, store.failures["save"]) == (JobStatus.FAILED, 0)


async def test_a_fault_of_one_step_is_logged_with_its_job(caplog: pytest.LogCaptureFixture) -> None:
    async def run(step: Step) -> ContainerOutput:
        raise KeyError("inside")

    with caplog.at_level(logging.ERROR):
        async with make_node(SwitchRunner(Container(id="bad"), run=run)) as node:
            job = await node.submit(request("bad", secret="never logged"))
            await node.wait([job.id])
    assert any(job.id in record.getMessage() for record in caplog.records)
    assert "never logged" not in caplog.text


async def test_an_empty_runner_is_a_node_that_refuses_everything() -> None:
    async with make_node(FunctionRunner()) as node:
        with pytest.raises(Refusal, match="Container not supported"):
            await node.submit(request("echo"))


async def test_a_pipeline_that_contradicts_itself_is_asked_once_for_each_step_and_its_job_ends() -> None:
    class Fickle(Sequence):
        asked = 0

        def next_step(self, job: Job) -> Step | None:
            self.asked += 1
            step = super().next_step(job)
            return step and replace(step, container=("echo", "other")[self.asked % 2])

    class Observer:
        def nodekit_observe(self, event: Any) -> None:
            told.append(type(event))

    told: list[type] = []
    runner = FunctionRunner()
    for id in ("echo", "other"):
        runner.container(id)(_echo)
    pipelines = {"fickle": Fickle()}
    async with Node(store=MemoryStore(), runners=[runner], pipelines=pipelines, plugins=[Observer()]) as node:
        asked = JobRequest.of("echo", "other", data={})
        job = await node.submit(replace(asked, pipeline="fickle"))
        [job] = await node.wait([job.id])
        await until(lambda: JobFinished in told)
    assert told == [JobAccepted, StepFinished, StepFinished, JobFinished]
    assert job.status is JobStatus.SUCCESS
    assert pipelines["fickle"].asked == 5  # when submitted, twice when claimed, and after each step


async def test_a_pipeline_that_says_otherwise_once_in_a_step_and_stays_with_that_is_followed() -> None:
    class Wavers(Sequence):
        """Names `other` when asked about a step for the second time, like a pipeline that was replaced meanwhile."""

        def __init__(self) -> None:
            self.asked: Counter[int] = Counter()

        def next_step(self, job: Job) -> Step | None:
            number = len(job.results)
            self.asked[number] += 1
            step = super().next_step(job)
            return step and replace(step, container="other" if self.asked[number] == 2 else "echo")

    async with make_node(functions(other=echo), pipelines={"wavers": Wavers()}) as node:
        job = await node.submit(replace(request("echo", "echo", "other"), pipeline="wavers"))
        [job] = await node.wait([job.id])
    assert job.status is JobStatus.SUCCESS
    assert [step.container for step in job.steps] == ["echo"] * 3


async def _echo(data: Any) -> Any:
    return data


# -- parts that break when they are asked ---------------------------------------------------------


class Moody(SwitchRunner):
    """Raises a given error when asked for its running instances, their changes, or its problems."""

    on_running: BaseException | None = None
    on_changed: BaseException | None = None
    on_problems: BaseException | None = None
    told: Any = ()

    def running(self) -> Any:
        if self.on_running:
            raise self.on_running
        return super().running()

    async def changed(self) -> None:
        if self.on_changed:
            raise self.on_changed
        await super().changed()

    def problems(self) -> Any:
        if self.on_problems:
            raise self.on_problems
        return self.told


odd_errors = pytest.mark.parametrize(
    "error", [RuntimeError("not now"), asyncio.CancelledError(), SystemExit(3)], ids=["error", "cancelled", "exit"]
)


async def test_a_runner_that_works_does_not_clear_the_problem_of_another_of_its_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nodekit.execution.executor.LONGEST_PAUSE_SECONDS", 0.01)
    sick, well = Moody(Container(id="sick")), Moody(Container(id="well"))
    sick.on_changed = RuntimeError("no events")
    async with make_node(well, sick) as node:
        await until(lambda: node._executor.problems)
        for _ in range(5):
            well.switch("well")
            await settle_down()
            health = await node.health()
            assert list(health.reasons) == ["runners[1] (Moody) fails to report which containers run: no events"]
        sick.on_changed = None

        def mended() -> bool:
            sick.switch("sick")
            return not node._executor.problems

        await until(mended)
        assert (await node.health()).healthy


@odd_errors
async def test_a_runner_that_cannot_say_what_runs_is_a_reason_and_holds_up_no_other(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("nodekit.execution.executor.LONGEST_PAUSE_SECONDS", 0.01)
    sick, well = Moody(Container(id="sick")), Moody(Container(id="well"))
    sick.on_running = error
    async with make_node(sick, well) as node:
        [job] = await node.wait([(await node.submit(request("well"))).id])
        health = await node.health()
        assert (job.status, set(node.running())) == (JobStatus.SUCCESS, {"well"})
        assert await node.resources() == {}
        [reason] = health.reasons
        assert reason.startswith("runners[0] (Moody) does not say what runs: ")
        assert "runners[0] (Moody) does not say what runs" in caplog.text
        sick.on_running = None
        [job] = await node.wait([(await node.submit(request("sick"))).id])  # the executor asks again by itself
        assert (job.status, (await node.health()).reasons) == (JobStatus.SUCCESS, ())


@odd_errors
async def test_a_runner_that_cannot_say_what_is_wrong_is_a_reason_and_hides_no_other(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    sick, well = Moody(Container(id="sick")), Moody(Container(id="well"))
    sick.on_problems, well.told = error, "it is warm"
    async with make_node(sick, well) as node:
        health = await node.health()
    failed = "runners[0] (Moody) failed to say what is wrong; the log has it"
    assert (health.healthy, list(health.reasons)) == (True, [failed, "it is warm"])
    assert "runners[0] (Moody) failed to say what is wrong" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("method", ["find", "pending"])
async def test_a_store_that_is_cancelled_in_itself_is_a_fault_of_the_store(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled(*asked: Any) -> Any:
        raise asyncio.CancelledError

    async with make_node(store=(store := SpiedStore())) as node:
        monkeypatch.setattr(store, method, cancelled)
        if method == "pending":
            with pytest.raises(StoreFailed, match="cancelled in itself"):
                await node.pending()
        else:
            health = await node.health()
            assert list(health.reasons) == ["the store cannot be read: it was cancelled in itself"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("method", ["claim", "claim_expired", "save", "release", "ended"])
async def test_a_store_that_is_cancelled_in_itself_does_not_end_the_executor(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodekit.execution.executor.LONGEST_PAUSE_SECONDS", 0.01)
    runner = SwitchRunner(Container(id="x"))
    async with make_node(runner, store=(store := SpiedStore())) as node:
        real, left = getattr(store, method), 2

        async def cancelled(*arguments: Any, **terms: Any) -> Any:
            nonlocal left
            if left:
                left -= 1
                raise asyncio.CancelledError
            return await real(*arguments, **terms)

        monkeypatch.setattr(store, method, cancelled)
        runner.switch()
        runner.switch("x")
        jobs = [await node.submit(request("x")) for _ in range(3)]
        with anyio.fail_after(20):
            done = await node.wait([job.id for job in jobs])
    assert {job.status for job in done} == {JobStatus.SUCCESS}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_runner_that_is_cancelled_in_itself_does_not_end_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodekit.execution.executor.LONGEST_PAUSE_SECONDS", 0.01)
    runner = Moody(Container(id="x"))
    runner.on_changed = asyncio.CancelledError()
    async with make_node(runner) as node:
        await until(lambda: node._executor.problems)
        [job] = await node.wait([(await node.submit(request("x"))).id])
    assert job.status is JobStatus.SUCCESS


async def test_a_stream_that_is_saved_does_not_hide_that_other_results_are_not() -> None:
    class Choosy(MemoryTable):
        refused = True

        async def save(self, job: Job) -> None:
            if self.refused and job.request.containers == ("echo",):
                raise StoreFailed("no space left")
            await super().save(job)

    table = Choosy()
    async with make_node(functions(other=echo), store=EmbeddedStore(table)) as node:
        job = await node.submit(request("echo"))
        await until(lambda: node._executor.problems)
        async with node.stream(request("other")) as stream:
            assert [piece async for piece in stream]
        assert list((await node.health()).reasons) == ["the store cannot keep results: no space left"]
        table.refused = False
        await node.wait([job.id])
        assert (await node.health()).healthy


@pytest.mark.parametrize("answer", [{"models": []}, "text", b"{}"])
async def test_what_says_of_itself_what_is_no_json_is_left_out(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Describing(SwitchRunner):
        async def resources(self, container: str, model_id: str | None) -> Any:
            return encode_payload(container) if container == "well" else answer

    async with make_node(Describing(Container(id="odd"), Container(id="well"))) as node:
        assert list(await node.resources()) == ["well"]
    assert "container odd: asking for its resources failed" in caplog.text
