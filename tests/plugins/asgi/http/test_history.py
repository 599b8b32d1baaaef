"""`GET /api/jobs/{id}`."""

import re
from datetime import datetime
from typing import Any

import pytest
from components import SwitchRunner, until
from http_api import Api, serving
from msgspec import UNSET
from msgspec.structs import replace

from nodekit import (
    Attempt,
    Container,
    ContainerFailed,
    ContainerOutput,
    Held,
    Job,
    JobRequest,
    JobStatus,
    Retry,
    Step,
    encode_payload,
)
from nodekit_asgi.wire.history import WireCall, wire_history

pytestmark = pytest.mark.anyio

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def history(api: Api, id: str) -> Any:
    answer = await api.get(f"/api/jobs/{id}")
    assert answer.status == 200, answer.body
    return answer.json


def moment(text: str) -> datetime:
    assert TIME.fullmatch(text), text
    return datetime.fromisoformat(text)


async def test_a_job_that_waits_to_be_tried_again_says_until_when(server: str) -> None:
    async def fail(step: Step) -> Any:
        raise ContainerFailed("status", "busy", status=503, retry_after=1000)

    runner = SwitchRunner(Container(id="busy", retry=Retry(attempts=3)), run=fail)
    async with serving(server, runners=[runner]) as api:
        id = await api.submit("busy")
        await until(lambda: runner.steps)
        await until(lambda: not api.node._executor.running)
        told = await history(api, id)
        assert (told["status"], told["state"], told["due"]) == ("running", "waiting", "busy")
        assert moment(told["not_before"]) > moment(told["accepted_at"])
        (step,) = told["steps"]
        assert "error" not in step
        (attempt,) = step["attempts"]
        assert (attempt["kind"], attempt["error"], attempt["status"]) == ("status", "busy", 503)
        await api.call("DELETE", f"/api/jobs/{id}")
        assert "not_before" not in await history(api, id)


async def test_every_attempt_of_a_step_is_told(server: str) -> None:
    async def third_time_lucky(step: Step) -> ContainerOutput:
        if step.attempt < 3:
            raise ContainerFailed("died", f"attempt {step.attempt} died")
        return ContainerOutput(container=step.container, output=encode_payload(1), instance="i-3")

    retry = Retry(attempts=5, first_delay_seconds=0)
    runner = SwitchRunner(Container(id="shaky", retry=retry), run=third_time_lucky)
    async with serving(server, runners=[runner]) as api:
        id = await api.submit("shaky")
        await api.results(id)
        (step,) = (await history(api, id))["steps"]
        assert [attempt.get("error") for attempt in step["attempts"]] == ["attempt 1 died", "attempt 2 died", None]
        assert step["attempts"][2]["instance"] == "i-3"
        assert "error" not in step


def test_times_have_milliseconds_and_a_pause_that_is_over_is_none() -> None:
    request = JobRequest.of("echo", data={})
    job = Job(id="x", request=request, accepted_at=1767614400.0, status=JobStatus.RUNNING, not_before=1767614401.5)
    waiting = wire_history(job, now=1767614401.0)
    assert (waiting.accepted_at, waiting.not_before) == ("2026-01-05T12:00:00.000Z", "2026-01-05T12:00:01.500Z")
    assert waiting.state == "waiting"
    due = wire_history(job, now=1767614401.5)
    assert (due.state, due.not_before) == ("running", UNSET)


def test_no_attempt_takes_less_than_no_time() -> None:
    """The clock may have been set back meanwhile."""
    attempt = Attempt(started_at=1767614400.0, finished_at=1767614399.0)
    job = Job(id="x", request=JobRequest.of("echo", data={}), accepted_at=1767614400.0)
    (step,) = wire_history(job.with_failure("echo", attempt), now=1767614400.0).steps
    assert step.attempts[0].duration_seconds == 0


def test_a_call_that_is_under_way_stands_beside_the_attempts_before_it() -> None:
    attempt = Attempt(started_at=1767614400.0, finished_at=1767614401.0, kind="timeout", failure="too slow")
    job = Job(id="x", request=JobRequest.of("echo", data={}), accepted_at=1767614400.0, due="echo")
    job = job.with_failure("echo", attempt)
    held = Held(node="n", since=1767614402.0, step=0, attempt=2)
    (step,) = wire_history(job, now=1767614403.0, held=held).steps
    assert (step.container, len(step.attempts)) == ("echo", 1)
    assert step.running == WireCall(attempt=2, started_at="2026-01-05T12:00:02.000Z", node="n")
    other = replace(held, step=1)  # the job was read when it was elsewhere
    assert wire_history(job, now=1767614403.0, held=other).steps[0].running is UNSET


async def test_a_history_has_the_facts_that_were_noted_about_a_job(api: Api) -> None:
    plain = await api.submit()
    noted = JobRequest.of("echo", data={}, client="127.0.0.1")
    job = await api.node.submit(replace(noted, meta={"tenant": "acme", "trace": "00-1"}))
    assert (await history(api, job.id))["meta"] == {"tenant": "acme", "trace": "00-1"}
    assert "meta" not in await history(api, plain)


async def test_a_call_that_is_under_way_or_was_cancelled_names_its_instance(api: Api) -> None:
    id = await api.submit("gate")
    await until(lambda: api.gate.running)
    (step,) = (await history(api, id))["steps"]
    assert step["running"]["instance"] == "function"
    await api.call("DELETE", f"/api/jobs/{id}")
    (step,) = (await history(api, id))["steps"]
    (attempt,) = step["attempts"]
    assert (attempt["kind"], attempt["instance"]) == ("cancelled", "function")
    failed = await api.submit("fail")
    await api.results(failed)
    (step,) = (await history(api, failed))["steps"]
    assert [attempt["instance"] for attempt in step["attempts"]] == ["function"]


async def test_histories_of_several_jobs_come_in_one_reply_without_their_outputs(api: Api) -> None:
    large = await api.submit("echo", "echo", text="x" * 700_000)
    good, bad, waiting = [await api.submit(*ids) for ids in (["echo"], ["echo", "fail"], ["gate"])]
    await api.results(large, good, bad)
    await until(lambda: api.gate.running)
    async with api.as_other_client() as other:
        foreign = await other.submit("echo")
    for ids in ([bad, good, waiting, bad], [waiting, large, bad, large]):  # small ones together, large ones in pieces
        query = "&".join(f"id={id}" for id in [*ids, foreign])
        answer = await api.get(f"/api/jobs?{query}&history=true")
        assert answer.status == 200
        assert answer.json == [await history(api, id) for id in dict.fromkeys(ids)]
        assert len(answer.body) < 10_000
    assert (await api.get(f"/api/jobs?id={foreign}&history=true")).status == 404
    assert (await api.get(f"/api/jobs?id={good}&history=false")).json[0]["result"]["container"] == "echo"


async def test_histories_and_intermediate_results_exclude_each_other(api: Api) -> None:
    id = await api.submit("echo")
    answer = await api.get(f"/api/jobs?id={id}&history=true&intermediate=true")
    assert (answer.status, answer.error.split(":")[0]) == (400, "history")
    assert (await api.get(f"/api/jobs?id={id}&history=maybe")).status == 400
