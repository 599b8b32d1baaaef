"""The executor: order and number of running steps, and faults of components and plugins."""

import asyncio
import logging
import re
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from components import Gate, SpiedStore, SwitchRunner, Told, echo, functions, make_node, request, settle_down, until
from msgspec.structs import replace

from nodekit import (
    Claim,
    ClaimLost,
    Container,
    ContainerError,
    ContainerFailed,
    ContainerOutput,
    EmbeddedStore,
    Job,
    JobAccepted,
    JobFinished,
    JobStatus,
    Outcome,
    Refusal,
    Sequence,
    Step,
    StepFinished,
    StoreFailed,
)
from nodekit.execution.container_calls import LONGEST_TEXT
from nodekit.execution.job_runs import LONGEST_PAUSE_SECONDS
from nodekit.testing import Faults, VirtualClock, make_job
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
        jobs = [await node.submit(request("gate", client="local")) for _ in range(10)]
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
        jobs = [await node.submit(request("narrow", client="local")) for _ in range(10)]
        jobs += [await node.submit(request("wide", client="local")) for _ in range(10)]
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


async def test_a_slot_that_a_job_leaves_for_its_next_step_goes_to_another_job_at_once() -> None:
    narrow, wide = Gate(), Gate()
    async with make_node(functions({"narrow": {"concurrency": 1}}, narrow=narrow, wide=wide)) as node:
        first = await node.submit(request("narrow", "wide"))
        await until(lambda: narrow.running)
        second = await node.submit(request("narrow"))
        await settle_down()
        narrow.opened.set()
        with anyio.fail_after(20):
            await node.wait([second.id])
        assert wide.running
        wide.opened.set()
        await node.wait([first.id])


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


# -- steps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["success", "failed"])
async def test_observers_are_told_of_each_step_and_of_the_end_once_and_as_they_are_stored(status: str) -> None:
    class Clumsy:
        def nodekit_observe(self, event: Any) -> None:
            raise RuntimeError("it harms nobody")

    async def last(data: Any) -> Any:
        if status == "failed":
            raise ValueError("on purpose")
        return data

    told = Told()
    async with make_node(functions(last=last), plugins=[Clumsy(), told]) as node:
        (done,) = await node.wait([(await node.submit(request("echo", "last"))).id])
        await until(told.ends)
        await settle_down()
    assert done.status == status
    assert told.kinds == [JobAccepted, StepFinished, StepFinished, JobFinished]
    finished = [event for event in told.events if isinstance(event, StepFinished)]
    assert [(event.index, event.record) for event in finished] == [*enumerate(done.steps)]
    assert finished[-1].job == told.events[-1].job == done.without_earlier_outputs()


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


async def test_the_text_of_a_failure_commands_no_terminal_and_has_a_longest_length() -> None:
    async def fail(step: Step) -> ContainerOutput:
        raise ContainerFailed("status", "\x1b[2J\x9b\u202e\0\ud800\n" + "\x85" * 5000)

    runner = SwitchRunner(Container(id="bad"), run=fail)
    async with make_node(functions(), runner) as node:
        (done,) = await node.wait([(await node.submit(request("bad"))).id])
    assert isinstance(done.result, ContainerError)
    first, second = done.result.error.split("\n")
    assert first == r"\x1b[2J\x9b\u202e\x00\ud800"
    assert second.startswith(r"\x85\x85")
    assert len(done.result.error) == LONGEST_TEXT + 1


@pytest.mark.parametrize(
    "garbage",
    [KeyError("inside"), RuntimeError(), AssertionError("x"), TimeoutError(), None, {"output": 1}, "text"],
    ids=repr,
)
async def test_a_runner_that_gives_what_it_should_not_fails_the_step_and_nothing_else(
    garbage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(step: Step) -> Any:
        if isinstance(garbage, Exception):
            raise garbage
        return garbage

    runner = SwitchRunner(Container(id="bad"), run=run)
    async with make_node(functions(), runner) as node:
        with anyio.fail_after(60):
            (done,) = await node.wait([(await node.submit(request("bad", secret="never logged"))).id])
            (fine,) = await node.wait([(await node.submit(request("echo"))).id])
    assert (done.status, fine.status) == (JobStatus.FAILED, JobStatus.SUCCESS)
    assert "inside" not in error_of(done)
    assert len(runner.steps) == 1
    assert any(record.levelno == logging.ERROR and done.id in record.getMessage() for record in caplog.records)
    assert "never logged" not in caplog.text


# -- pipelines ----------------------------------------------------------------------------------------


class Breaks(Sequence):
    """A sequence that breaks in one of its methods, from the n-th call on."""

    def __init__(self, method: str, call: int = 1) -> None:
        works, calls = getattr(self, method), count(1)

        def breaks(*asked: Any) -> Any:
            if next(calls) >= call:
                raise ZeroDivisionError("a bug of the pipeline")
            return works(*asked)

        setattr(self, method, breaks)


@pytest.mark.parametrize(("method", "call"), [("next_step", 1), ("next_step", 2), ("next_step", 3), ("outcome", 1)])
async def test_a_pipeline_that_breaks_fails_its_job_only(method: str, call: int) -> None:
    async with make_node(pipelines={"breaks": Breaks(method, call)}) as node:
        asked = replace(request("echo", "echo"), pipeline="breaks")
        with anyio.fail_after(60):
            (done,) = await node.wait([(await node.submit(asked)).id])
            (fine,) = await node.wait([(await node.submit(request("echo"))).id])
    assert (done.status, fine.status) == (JobStatus.FAILED, JobStatus.SUCCESS)
    assert "ZeroDivision" not in error_of(done)


async def test_a_pipeline_whose_check_breaks_refuses_its_request_only() -> None:
    async with make_node(pipelines={"breaks": Breaks("check")}) as node:
        answers = await node.submit_many([request(), replace(request(), pipeline="breaks"), request()])
        assert [type(answer) for answer in answers] == [Job, Refusal, Job]


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


@pytest.mark.parametrize("call", ["claim", "changes"])
@pytest.mark.parametrize(("error", "is_traced"), [(StoreFailed("no answer"), False), (KeyError("a bug"), True)])
async def test_a_store_that_says_what_has_failed_is_logged_in_one_line_and_a_bug_with_its_traceback(
    call: str, error: Exception, is_traced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()
    faults.before(call).fail(error)
    async with make_node(store=faults.around(MemoryStore()), drain_seconds=0) as node:
        job = await node.submit(request())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.wait, [job.id])
            await until(lambda: "trying again" in caplog.text)
            tasks.cancel_scope.cancel()
    [record] = [record for record in caplog.records if "trying again" in record.message][:1]
    assert str(error) in record.message
    assert bool(record.exc_info) == is_traced


@pytest.mark.parametrize("failures", [0, 1], ids=["and its store works", "and its store fails"])
async def test_a_job_that_a_node_gives_back_at_its_end_waits_for_nothing_but_a_node(failures: int) -> None:
    gate, table = Gate(), MemoryTable()
    async with make_node(functions(gate=gate), store=(store := SpiedStore(table)), drain_seconds=0) as node:
        job = await node.submit(request("echo", "gate"))
        await until(lambda: gate.running)
        store.failures["release"] = failures
    assert store.calls["release"] == 1
    [job] = await table.get([job.id])
    assert (job.due, job.status, job.not_before, job.delay_seconds) == ("gate", JobStatus.RUNNING, None, None)
    async with make_node(functions(gate=echo), store=EmbeddedStore(table)) as node:
        with anyio.fail_after(20):
            [job] = await node.wait([job.id])
    assert job.status is JobStatus.SUCCESS


async def test_what_was_not_drained_in_time_finishes_on_the_next_node() -> None:
    table, gate = MemoryTable(), Gate()
    async with make_node(functions(gate=gate), store=EmbeddedStore(table), drain_seconds=0, concurrency=2) as node:
        jobs = [await node.submit(request("echo", "gate", client="local", n=n)) for n in range(4)]
        await until(lambda: gate.running == 2)
    assert gate.cancelled == 2
    for job in await table.get([job.id for job in jobs[:2]]):  # they wait for nothing but a node
        assert (job.due, job.status, job.not_before, job.delay_seconds) == ("gate", JobStatus.RUNNING, None, None)
    calls: list[int] = []

    async def counted(data: Any) -> Any:
        calls.append(data["n"])
        return data

    gate = Gate()
    gate.opened.set()
    async with make_node(functions(gate=gate, echo=counted), store=EmbeddedStore(table)) as second:
        done = await second.wait([job.id for job in jobs])
    assert [job.status for job in done] == [JobStatus.SUCCESS] * 4
    assert sorted(calls) == [2, 3]  # the first two had their first result


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
    faults = Faults()
    lost = faults.before("save").fail(ClaimLost("another node's"))
    async with make_node(store=faults.around(SpiedStore())) as node:
        await node.submit(request())
        await until(lambda: lost.times and not node.in_flight)
        assert (await node.health()).healthy
    assert (faults.count("save"), faults.count("release")) == (1, 0)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize("containers", [["echo"], ["echo", "echo"]], ids=["with its end", "before its end"])
async def test_a_store_that_cannot_say_what_became_of_a_lost_job_does_not_end_the_node(containers: list[str]) -> None:
    class Elsewhere(SpiedStore):
        async def save(self, claim: Any, job: Job) -> None:
            self._called("save")
            if job.request.client == "bob":
                raise ClaimLost("another node's")
            await EmbeddedStore.save(self, claim, job)

    store = Elsewhere()
    async with make_node(store=store) as node:
        store.failures["get"] = 1
        await node.submit(request(*containers, client="bob"))
        await until(lambda: store.calls["save"] and not node.in_flight)
        assert store.calls["get"] == (1 if containers == ["echo"] else 0)  # an end may be stored all the same
        job = await node.submit(request())
        store.failures["get"] = 0
        await node.wait([job.id])


async def test_a_write_that_is_cut_off_while_a_node_ends_is_no_fault_of_the_store(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Remote(SpiedStore):
        async def save(self, claim: Any, job: Any) -> None:
            self._called("save")
            await anyio.sleep_forever()

    store = Remote()
    async with make_node(store=store, drain_seconds=0) as node:
        await node.submit(request())
        await until(lambda: store.calls["save"])
    assert store.calls["release"] == 1
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_claiming_goes_on_after_the_store_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodekit.execution.executor.LONGEST_PAUSE_SECONDS", 0.01)
    store = SpiedStore()
    async with make_node(store=store) as node:
        await settle_down()
        store.failures["claim"] = 3
        jobs = [await node.submit(request()) for _ in range(3)]
        done = await node.wait([job.id for job in jobs])
    assert {job.status for job in done} == {JobStatus.SUCCESS}


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


async def test_what_is_no_fault_of_a_step_ends_the_node_and_its_job_is_given_back() -> None:
    class Ends(BaseException):
        pass

    async def run(step: Step) -> ContainerOutput:
        if len(runner.steps) == 1:
            raise Ends
        return ContainerOutput(container=step.container, output=step.input.data)

    store, runner = SpiedStore(), SwitchRunner(Container(id="x"), run=run)
    with pytest.raises(BaseExceptionGroup) as raised:
        async with make_node(runner, store=store) as node:
            await node.wait([(await node.submit(request("x"))).id])
    assert raised.group_contains(Ends)
    assert store.calls["release"]


async def test_an_error_that_cannot_be_stored_as_it_is_is_made_so(tmp_path: Path) -> None:
    async def odd(data: Any) -> Any:
        raise ValueError("caf\udce9" + "x" * 1_000_000)

    store = SqliteStore(tmp_path / "jobs.db")
    async with make_node(functions(odd=odd), store=store) as node:
        with anyio.fail_after(60):
            [job] = await node.wait([(await node.submit(request("odd"))).id])
    assert error_of(job).startswith(r"ValueError: caf\udce9xxx")
    assert len(error_of(job)) < 3000


async def test_a_store_that_keeps_some_results_and_not_others_is_unhealthy_until_it_keeps_all() -> None:
    faults = Faults()
    faults.before("save", where=lambda job: job.client == "bob").fail(StoreFailed("no space left"))
    async with make_node(store=EmbeddedStore(faults.around(MemoryTable()))) as node:
        stuck = await node.submit(request(client="bob"))
        await until(lambda: node._executor.problems)
        await node.wait([(await node.submit(request())).id])
        async with node.stream(request()) as stream:
            assert [piece async for piece in stream]
        health = await node.health()
        assert (health.healthy, health.reasons) == (False, ("the store cannot keep results: no space left",))
        faults.lift()
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
    monkeypatch.setattr("nodekit.execution.executor.LONGEST_PAUSE_SECONDS", 0.05)
    faults, down = Faults(), SwitchRunner(Container(id="x"), up=[])
    failing = faults.before("claim_expired", 1, 2, 3).fail(StoreFailed("the disk is full"))
    async with make_node(down, store=faults.around(SpiedStore()), queue_timeout_seconds=0.01) as node:
        job = await node.submit(request("x"))
        await until(lambda: node._executor.problems)
        assert "waited too long" in (await node.health()).reasons[0]
        [job] = await node.wait([job.id])
        assert (await node.health()).reasons == ("no container is running", "container x is down")
    assert (job.status, failing.times) == (JobStatus.FAILED, 3)


@pytest.mark.parametrize("call", ["claim", "claim_expired"])
async def test_a_store_that_failed_and_now_waits_for_jobs_as_it_should_is_no_problem_any_more(
    call: str, clock: VirtualClock
) -> None:
    faults = Faults()
    faults.before(call, 1, 2).fail(StoreFailed("the engine has gone"))
    async with make_node(store=faults.around(SpiedStore())) as node:
        for _ in range(2):
            await until(lambda: node._executor.problems)
            await settle_down()
            assert not (await node.health()).healthy
            await clock.advance(LONGEST_PAUSE_SECONDS)
        await settle_down()
        assert not (await node.health()).healthy
        await clock.advance(LONGEST_PAUSE_SECONDS)
        await until(lambda: not node._executor.problems)
        assert (await node.health()).healthy


async def test_a_job_that_expires_while_the_disk_is_full_fails_once_there_is_room() -> None:
    store = SpiedStore()
    async with make_node(SwitchRunner(Container(id="x"), up=[]), store=store, queue_timeout_seconds=0.01) as node:
        store.failures["save"] = 2
        job = await node.submit(request("x"))
        [job] = await node.wait([job.id])
    assert (job.status, store.failures["save"]) == (JobStatus.FAILED, 0)


async def test_a_pipeline_that_contradicts_itself_is_asked_once_for_each_step_and_its_job_ends() -> None:
    class Fickle(Sequence):
        asked = 0

        def next_step(self, job: Job) -> Step | None:
            self.asked += 1
            step = super().next_step(job)
            return step and replace(step, container=("echo", "other")[self.asked % 2])

    told, fickle = Told(), Fickle()
    async with make_node(functions(other=echo), pipelines={"fickle": fickle}, plugins=[told]) as node:
        job = await node.submit(replace(request("echo", "other"), pipeline="fickle"))
        [job] = await node.wait([job.id])
        await until(told.ends)
    assert told.kinds == [JobAccepted, StepFinished, StepFinished, JobFinished]
    assert job.status is JobStatus.SUCCESS
    assert fickle.asked == 5  # when submitted, twice when claimed, and after each step


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


async def test_a_job_that_ends_right_after_it_was_claimed_calls_no_container() -> None:
    calls = list[Any]()

    async def noted(data: Any) -> Any:
        calls.append(data)
        return data

    class EndsWhatItGives(MemoryStore):
        async def claim(self, *asked: Any, **more: Any) -> list[Claim]:
            claims = await super().claim(*asked, **more)
            for claim in claims:
                await self.settle(claim.job.id, Outcome(JobStatus.CANCELLED), client=None)
            return claims

    async with make_node(functions(noted=noted), store=EndsWhatItGives()) as node:
        (job,) = await node.wait([(await node.submit(request("noted"))).id])
        await settle_down()
    assert (job.status, calls) == (JobStatus.CANCELLED, [])


async def test_a_job_that_cannot_be_given_back_after_a_fault_of_ours_is_given_back_later(clock: VirtualClock) -> None:
    faults, ours = Faults(), [RuntimeError("ours")]
    async with make_node(store=faults.around(SpiedStore())) as node:
        runs = node._executor._runs
        step = runs._step

        async def fails_once(*run: Any) -> bool:
            if ours:
                raise ours.pop()
            return await step(*run)

        runs._step = fails_once  # type: ignore[method-assign]
        faults.before("release", 1).fail(StoreFailed("no answer"))
        job = await node.submit(request())
        await until(lambda: faults.count("release") == 1)
        await clock.advance(LONGEST_PAUSE_SECONDS + 0.1)
        await until(lambda: faults.count("release") == 2)
        await clock.advance(LONGEST_PAUSE_SECONDS + 0.1)
        [done] = await node.wait([job.id])
        assert done.status is JobStatus.SUCCESS


async def test_a_job_for_which_the_pipeline_chooses_anew_waits_only_for_a_slot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate, store = Gate(), SpiedStore()
    async with make_node(functions({"b": {"concurrency": 1}}, b=gate), store=store) as node:
        await node.submit(request("b"))
        await until(lambda: gate.running)
        await store.add([stale := replace(make_job("b", "echo"), due="echo")])  # as another pipeline would have chosen
        await until(lambda: store.calls["release"])
        gate.opened.set()
        with anyio.fail_after(LONGEST_PAUSE_SECONDS - 1):
            [done] = await node.wait([stale.id])
        assert done.status is JobStatus.SUCCESS
        assert "another container elsewhere" not in caplog.text
