"""`GET /api/jobs/{id}`."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from http_api import Api, serving
from msgspec import UNSET
from parts import SwitchRunner, until

from nodekit import (
    Attempt,
    Container,
    ContainerFailed,
    ContainerOutput,
    Job,
    JobRequest,
    JobStatus,
    Retry,
    Step,
    encode_payload,
)
from nodekit_asgi._history import wire_history

pytestmark = pytest.mark.anyio

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def history(api: Api, id: str) -> Any:
    answer = await api.get(f"/api/jobs/{id}")
    assert answer.status == 200, answer.body
    return answer.json


def moment(text: str) -> datetime:
    assert TIME.fullmatch(text), text
    return datetime.fromisoformat(text)


async def test_a_finished_job_tells_its_steps_and_times_and_none_of_its_outputs(api: Api) -> None:
    asked = {"containers": ["echo", "inner"], "data": {"secret": "a large one"}}
    id = (await api.post("/api/jobs", asked, headers={"Priority": "u=5"})).json["id"]
    await api.results(id)
    answer = await api.get(f"/api/jobs/{id}")
    assert b"large" not in answer.body
    told = answer.json
    times = moment(told.pop("accepted_at")), moment(told.pop("finished_at"))
    steps = told.pop("steps")
    assert told == {
        "id": id,
        "status": "success",
        "state": "success",
        "pipeline": "sequence",
        "containers": ["echo", "inner"],
        "priority": 5,
    }
    assert [step["container"] for step in steps] == ["echo", "inner"]
    starts = []
    for step in steps:
        assert set(step) == {"container", "attempts"}
        (attempt,) = step["attempts"]
        assert set(attempt) == {"started_at", "duration_seconds", "instance"}
        assert 0 <= attempt["duration_seconds"] < 60
        starts.append(moment(attempt["started_at"]))
    assert sorted([*times, *starts]) == [times[0], *starts, times[1]]
    assert abs((datetime.now(UTC) - times[1]).total_seconds()) < 60


async def test_a_running_job_tells_what_is_due_and_no_end(api: Api) -> None:
    id = await api.submit("echo", "gate")
    await until(lambda: api.gate and api.gate.running)
    told = await history(api, id)
    assert (told["status"], told["state"], told["due"]) == ("running", "running", "gate")
    assert [step["container"] for step in told["steps"]] == ["echo"]
    assert {"finished_at", "not_before", "failure"} & set(told) == set()


async def test_a_job_that_nothing_has_come_of_yet_is_accepted(api: Api) -> None:
    told = await history(api, await api.submit("gate"))
    assert (told["status"], told["state"], told["due"], told["steps"]) == ("running", "accepted", "gate", [])


async def test_a_failed_job_tells_how(api: Api) -> None:
    id = await api.submit("echo", "fail", "echo")
    await api.results(id)
    told = await history(api, id)
    assert (told["status"], told["state"]) == ("failed", "failed")
    assert told["failure"] == {
        "container": "fail",
        "error": "ValueError: as it was told",
        "kind": "status",
        "status": 500,
    }
    first, failed = told["steps"]
    assert "error" not in first
    assert failed["error"] == "ValueError: as it was told"
    (attempt,) = failed["attempts"]
    assert (attempt["error"], attempt["kind"], attempt["status"]) == ("ValueError: as it was told", "status", 500)
    assert {"due", "not_before"} & set(told) == set()


async def test_a_cancelled_job_says_so(api: Api) -> None:
    id = await api.submit("gate")
    await api.call("DELETE", f"/api/jobs/{id}")
    told = await history(api, id)
    assert (told["status"], told["state"]) == ("failed", "cancelled")
    assert told["failure"] == {"container": "gate", "error": "cancelled", "kind": "cancelled"}
    moment(told["finished_at"])


async def test_a_job_that_waits_to_be_tried_again_says_until_when(server: str) -> None:
    async def fail(step: Step) -> Any:
        raise ContainerFailed("status", "busy", status=503, retry_after=1000)

    runner = SwitchRunner(Container(id="busy", retry=Retry(attempts=3)), run=fail)
    async with serving(server, runners=[runner]) as api:
        id = await api.submit("busy")
        await until(lambda: runner.steps)
        await until(lambda: api.node and not api.node._executor.running)
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


async def test_a_job_of_another_client_or_of_nobody_is_404(api: Api) -> None:
    id = await api.submit("echo")
    async with api.as_other_client() as other:
        assert (await other.get(f"/api/jobs/{id}")).status == 404
    for nothing in ("01900000-0000-7000-8000-000000000000", "x", "{id}"):
        answer = await api.get(f"/api/jobs/{nothing}")
        assert (answer.status, answer.error) == (404, "no such job")
    assert (await history(api, id.upper()))["id"] == id


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
