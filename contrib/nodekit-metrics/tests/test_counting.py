"""Tests that the metrics agree with the events in a node."""

import time
from collections.abc import Callable
from typing import Any

import anyio
import msgspec
import pytest

from nodekit import (
    Attempt,
    ClientLimits,
    Container,
    ContainerOutput,
    Job,
    JobFinished,
    JobRequest,
    JobStatus,
    KeyReused,
    Node,
    NodekitError,
    NodeLimits,
    NotFailed,
    Outcome,
    Refusal,
    RequestRefused,
    Retry,
    StepFinished,
    StoreCall,
    StoreFailed,
    TooManyJobs,
    TooManyRequests,
    Unavailable,
    encode_payload,
)
from nodekit.testing import Faults, make_attempt, make_job, make_request, with_output
from nodekit_function import FunctionRunner
from nodekit_memory import MemoryStore
from nodekit_metrics import Metrics, MetricsConfig

pytestmark = pytest.mark.anyio

SECONDS = 30.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def echo(data: Any) -> Any:
    return data


async def fail(data: Any) -> Any:
    raise ValueError("on purpose")


async def wait(data: Any) -> Any:
    await anyio.sleep_forever()


def make_node(metrics: Metrics, *, store: Any = None, plugins: Any = (), **limits: Any) -> Node:
    runner = FunctionRunner()
    runner.add(Container(id="echo"), echo)
    runner.add(Container(id="fail"), fail)
    runner.add(Container(id="wait"), wait)
    runner.add(Container(id="again", retry=Retry(attempts=3, statuses=(500,), first_delay_seconds=0)), fail)
    bounds = NodeLimits(**{"drain_seconds": 0, **limits})
    return Node(store=store or MemoryStore(), runners=[runner], plugins=[metrics, *plugins], limits=bounds)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"nodekit_{name}", labels)


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(SECONDS):
        while not condition():
            await anyio.sleep(0.005)


async def run(node: Node, *containers: str) -> Job:
    job = await node.submit(make_request(*containers))
    (done,) = await node.wait([job.id])
    return done


def series(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of a metric's series that are not 0, by label values in the order of the labels' names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == f"nodekit_{name}" and sample.value
    }


async def test_jobs_are_counted_by_their_outcome_and_the_container_they_ended_in() -> None:
    metrics = Metrics()
    async with make_node(metrics) as node:
        await run(node, "echo")
        await run(node, "echo", "echo")
        await run(node, "echo", "fail", "echo")
        job = await node.submit(make_request("echo", "wait"))
        await until(lambda: series(metrics, "step_seconds_count").get(("echo", "success")) == 5)
        await node.cancel(job.id)
    assert series(metrics, "jobs_total") == {
        ("echo", "success"): 2,
        ("fail", "failed"): 1,
        ("wait", "cancelled"): 1,
    }
    assert series(metrics, "jobs_accepted_total") == {("offchain",): 4}
    assert series(metrics, "job_seconds_count") == {("success",): 2, ("failed",): 1, ("cancelled",): 1}


async def test_steps_their_waits_and_their_attempts_are_counted() -> None:
    metrics = Metrics()
    async with make_node(metrics) as node:
        await run(node, "echo", "echo", "fail")
        await run(node, "again")
    assert series(metrics, "step_seconds_count") == {
        ("echo", "success"): 2,
        ("fail", "failed"): 1,
        ("again", "failed"): 1,
    }
    assert series(metrics, "queue_seconds_count") == {("echo",): 2, ("fail",): 1, ("again",): 1}
    assert series(metrics, "attempts_total") == {
        ("echo", "output"): 2,
        ("fail", "status"): 1,
        ("again", "status"): 3,
    }


async def test_what_happened_before_anything_did_is_0_so_that_a_first_failure_is_a_change() -> None:
    metrics = Metrics()
    async with make_node(metrics):
        assert value(metrics, "jobs_total", container="fail", outcome="failed") == 0
        assert value(metrics, "store_call_failures_total", method="save") == 0


def at(job: Job, *ends: tuple[float, float]) -> Job:
    """Return the job with a step for each pair of start and end."""
    for start, end in ends:
        attempt = Attempt(started_at=start, finished_at=end)
        output = ContainerOutput(container="echo", output=encode_payload({}))
        job = job.with_result(output, attempt)
    return job


async def test_durations_are_between_the_times_that_jobs_have() -> None:
    metrics = Metrics()
    node = make_node(metrics)
    job = at(msgspec.structs.replace(make_job("echo", "echo"), accepted_at=100.0), (103.0, 105.0), (112.0, 112.5))
    for index in (0, 1):
        metrics.nodekit_observe(StepFinished(job, index), node)
    metrics.nodekit_observe(JobFinished(job.finished(Outcome(JobStatus.SUCCESS), 113.0)), node)
    assert value(metrics, "step_seconds_sum", container="echo", outcome="success") == 2.5
    assert value(metrics, "queue_seconds_sum", container="echo") == 3.0 + 7.0
    assert value(metrics, "job_seconds_sum", outcome="success") == 13.0


async def test_a_job_that_retries_another_waits_since_it_was_accepted_itself() -> None:
    metrics = Metrics()
    node = make_node(metrics)
    old = at(msgspec.structs.replace(make_job("echo", "echo"), accepted_at=100.0), (100.0, 101.0))
    new = at(msgspec.structs.replace(old, accepted_at=500.0), (504.0, 505.0))
    metrics.nodekit_observe(StepFinished(new, 1), node)
    assert value(metrics, "queue_seconds_sum", container="echo") == 4.0


async def test_a_clock_that_goes_back_makes_no_negative_durations() -> None:
    metrics = Metrics()
    node = make_node(metrics)
    job = at(msgspec.structs.replace(make_job("echo"), accepted_at=100.0), (90.0, 80.0))
    metrics.nodekit_observe(StepFinished(job, 0), node)
    metrics.nodekit_observe(JobFinished(job.finished(Outcome(JobStatus.SUCCESS), 70.0)), node)
    for name, labels in (
        ("step_seconds_sum", {"container": "echo", "outcome": "success"}),
        ("queue_seconds_sum", {"container": "echo"}),
        ("job_seconds_sum", {"outcome": "success"}),
    ):
        assert value(metrics, name, **labels) == 0


async def test_jobs_that_waited_too_long_are_among_the_waits() -> None:
    metrics = Metrics()
    async with make_node(metrics, concurrency=1, queue_timeout_seconds=0.05) as node:
        await node.submit(make_request("wait"))
        await until(lambda: node.in_flight)
        done = await run(node, "echo")
        assert done.error is not None
        assert done.error.kind == "queue_timeout"
        await until(lambda: series(metrics, "queue_seconds_count") == {("echo",): 1})
    waited = value(metrics, "queue_seconds_sum", container="echo")
    assert waited is not None
    assert waited >= 0.04


async def test_attempts_of_a_step_that_came_to_no_end_are_counted_with_the_job() -> None:
    metrics = Metrics()
    node = make_node(metrics)
    failed = make_attempt(kind="timeout", failure="too late")
    job = make_job("again").with_failure("again", failed).finished(Outcome(JobStatus.CANCELLED), 1.0)
    metrics.nodekit_observe(JobFinished(job), node)
    assert series(metrics, "attempts_total") == {("again", "timeout"): 1}
    assert series(metrics, "step_seconds_count") == {}


# -- refusals -------------------------------------------------------------------------------------


async def test_refusals_are_counted_by_reason() -> None:
    class Closed:
        async def nodekit_admit(self, request: JobRequest) -> None:
            if request.client == "eve":
                raise Refusal("closed", hours="9 to 17")

    metrics = Metrics()
    async with make_node(metrics, plugins=[Closed()], each_client=ClientLimits(max_pending=1)) as node:
        await node.submit_many([make_request("nope"), make_request("nope"), make_request(client="eve")])
        await node.submit(make_request("wait", client="bob"))
        with pytest.raises(TooManyJobs):
            await node.submit(make_request(client="bob"))
    with pytest.raises(Unavailable):
        await node.submit(make_request())
    assert series(metrics, "refusals_total") == {
        ("Container not supported",): 2,
        ("closed",): 1,
        ("too many jobs",): 1,
        ("unavailable",): 1,
    }
    assert "eve" not in str(series(metrics, "refusals_total"))


async def test_each_kind_of_objection_has_a_word_and_texts_with_figures_are_not_told() -> None:
    metrics = Metrics()
    node = make_node(metrics)
    for objection in (
        TooManyRequests("at most 7 in 9 s", retry_after_seconds=1),
        TooManyJobs("you have 12", retry_after_seconds=1),
        Unavailable("the node holds 1000", retry_after_seconds=1),
        KeyReused(),
        NotFailed("running"),
        Refusal("x" * 101),
    ):
        metrics.nodekit_observe(RequestRefused("alice", objection), node)
    assert set(series(metrics, "refusals_total")) == {
        ("too many requests",),
        ("too many jobs",),
        ("unavailable",),
        ("idempotency key reused",),
        ("job has not failed",),
        ("other",),
    }


# -- bounds ---------------------------------------------------------------------------------------


async def test_reasons_that_guards_make_up_do_not_become_series_without_end() -> None:
    metrics = Metrics(MetricsConfig(max_reasons=3))
    node = make_node(metrics)
    for _ in range(2):
        for number in range(100):
            metrics.nodekit_observe(RequestRefused("alice", Refusal(f"reason {number}")), node)
    assert series(metrics, "refusals_total") == {
        ("reason 0",): 2,
        ("reason 1",): 2,
        ("reason 2",): 2,
        ("other",): 194,
    }


async def test_names_of_containers_that_the_node_has_not_are_other() -> None:
    metrics = Metrics()
    node = make_node(metrics)
    for number in range(100):
        job = with_output(make_job(f"made-up-{number}"))
        metrics.nodekit_observe(StepFinished(job, 0), node)
        metrics.nodekit_observe(JobFinished(job.finished(Outcome(JobStatus.SUCCESS), 1.0)), node)
    metrics.nodekit_observe(JobFinished(make_job().finished(Outcome(JobStatus.SUCCESS), 1.0)), node)
    assert series(metrics, "jobs_total") == {("other", "success"): 101}
    assert {labels[0] for labels in series(metrics, "step_seconds_count")} == {"other"}
    assert {labels[0] for labels in series(metrics, "attempts_total")} == {"other"}


async def test_no_series_names_a_client_or_a_job() -> None:
    metrics = Metrics()
    async with make_node(metrics) as node:
        job = await node.submit(make_request(client="mallory-7"))
        await node.wait([job.id])
        await node.submit_many([make_request("nope", client="mallory-7")])
    told = str([sample for metric in metrics.registry.collect() for sample in metric.samples])
    assert "mallory" not in told
    assert job.id not in told


async def test_jobs_are_counted_by_the_first_named_clients() -> None:
    metrics = Metrics(MetricsConfig(max_clients=2))
    node = make_node(metrics)
    for client in ("10.0.0.1", "::1", "unix", "name:x", "alice", "bob", "carol", "alice"):
        job = with_output(make_job("echo", client=client))
        metrics.nodekit_observe(JobFinished(job.finished(Outcome(JobStatus.SUCCESS), 1.0)), node)
    expected = {("alice", "success"): 2, ("bob", "success"): 1, ("other", "success"): 5}
    assert series(metrics, "client_jobs_total") == expected


async def test_two_nodes_in_one_process_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    async with make_node(one) as node, make_node(other):
        await run(node, "echo")
    assert series(one, "jobs_total") == {("echo", "success"): 1}
    assert series(other, "jobs_total") == {}


async def test_metrics_of_two_nodes_are_not_mixed_up() -> None:
    metrics = Metrics()
    async with make_node(metrics):
        with pytest.raises(NodekitError, match="make a Metrics for each node"):
            async with make_node(metrics):
                pass


# -- the store, the event loop --------------------------------------------------------------------


async def test_calls_of_the_store_are_measured_and_failures_counted() -> None:
    metrics, faults = Metrics(), Faults()
    async with make_node(metrics, store=faults.around(MemoryStore())) as node:
        await run(node, "echo")
        faults.before("add", 1).fail(StoreFailed("the disk is full"))
        with pytest.raises(Unavailable):
            await node.submit(make_request())
    counts = series(metrics, "store_call_seconds_count")
    assert (counts[("add",)], counts[("save",)]) == (2, 1)
    assert ("claim",) not in counts
    assert series(metrics, "store_call_failures_total") == {("add",): 1}
    metrics.nodekit_observe_store(StoreCall("add", 5.0, failed=False))
    spent = value(metrics, "store_call_seconds_sum", method="add")
    assert spent is not None
    assert spent >= 5


async def test_a_blocked_event_loop_is_told_by_how_late_it_was() -> None:
    metrics = Metrics(MetricsConfig(lag_interval_seconds=0.01, lag_buckets_seconds=(0.1,)))

    def late() -> float:
        every, soon = (value(metrics, "event_loop_lag_seconds_bucket", le=bound) for bound in ("+Inf", "0.1"))
        assert every is not None
        assert soon is not None
        return every - soon

    async with make_node(metrics):
        await until(lambda: value(metrics, "event_loop_lag_seconds_count"))
        before = late()
        time.sleep(0.3)
        await until(lambda: late() > before)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"step_buckets_seconds": ()}, "step_buckets_seconds: expected one bound or more"),
        ({"lag_buckets_seconds": (1, 1)}, "lag_buckets_seconds: .*ascending"),
        ({"store_buckets_seconds": (2, 1)}, "store_buckets_seconds: .*ascending"),
        ({"queue_buckets_seconds": (0, 1)}, "queue_buckets_seconds"),
        ({"max_reasons": 0}, "max_reasons"),
        ({"lag_interval_seconds": 0}, "lag_interval_seconds"),
        ({"pubic": True}, "pubic"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_sense_are_refused_by_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(settings, MetricsConfig)
