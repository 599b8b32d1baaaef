"""`POST /api/jobs/{id}/retry`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from components import Gate
from http_api import Api, api_functions, post, serving

from nodekit import Container, JobRequest, JobStore
from nodekit_function import FunctionRunner
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio


class Flaky:
    """Containers `count`, which adds one, and `flaky`, which fails until it is repaired."""

    def __init__(self) -> None:
        self.counted = self.failed = 0
        self.mended = False

    async def count(self, data: Any) -> Any:
        self.counted += 1
        return {"n": data["n"] + 1}

    async def flaky(self, data: Any) -> Any:
        if self.mended:
            return data
        self.failed += 1
        raise ValueError("not mended")

    def runner(self) -> FunctionRunner:
        runner = api_functions(Gate())
        runner.add(Container(id="count"), self.count)
        runner.add(Container(id="flaky"), self.flaky)
        return runner


@asynccontextmanager
async def with_a_failed_job(server: str, **settings: Any) -> AsyncIterator[tuple[Api, Flaky, str]]:
    """Return a job that counted from 1 to 3 and then failed; now it would not fail any more."""
    flaky = Flaky()
    async with serving(server, runners=[flaky.runner()], **settings) as api:
        id = await api.submit("count", "count", "flaky", "count", n=1)
        (job,) = await api.results(id)
        assert (job["status"], job["result"]["container"]) == ("failed", "flaky")
        flaky.mended = True
        yield api, flaky, id


async def retry(api: Api, id: str, body: Any = b"", **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.post(f"/api/jobs/{id}/retry", body, headers=named)


async def history(api: Api, id: str) -> Any:
    return (await api.get(f"/api/jobs/{id}")).json


# -- where it goes on ---------------------------------------------------------------------------------


async def test_it_goes_on_with_the_step_that_failed_or_begins_anew_on_the_data_of_then(
    server: str, store: JobStore
) -> None:
    async with with_a_failed_job(server, node={"store": store}) as (api, flaky, id):
        for body, calls in (
            *((b"", 1), (b"{}", 1), (b'{"from": "failed"}', 1), (b'{"from": "failed", "why": "mended"}', 1)),
            (b'{"from": "start"}', 3),
        ):
            before = flaky.counted
            answer = await retry(api, id, body)
            assert (answer.status, set(answer.json)) == (200, {"id"})
            assert answer.json["id"] > id
            (job,) = await api.results(answer.json["id"], intermediate=True)
            assert (job["status"], job["result"]) == ("success", {"container": "count", "output": {"n": 4}})
            assert [step["output"]["n"] for step in job["intermediate_results"]] == [2, 3, 3]
            assert (flaky.counted - before, flaky.failed) == (calls, 1)


async def test_the_new_job_says_which_one_it_is_another_try_of_and_the_old_one_stays_as_it_was(server: str) -> None:
    async with with_a_failed_job(server) as (api, flaky, id):
        before = await history(api, id)
        flaky.mended = False
        second = (await retry(api, id)).json["id"]
        await api.results(second)
        flaky.mended = True
        third = (await retry(api, second)).json["id"]
        await api.results(third)
        assert await history(api, id) == before
        assert "retry_of" not in before
        told = [await history(api, one) for one in (second, third)]
        assert [(one["status"], one["retry_of"]) for one in told] == [("failed", id), ("success", second)]
        assert told[1]["steps"][:2] == before["steps"][:2]
        assert [len(one["attempts"]) for one in told[1]["steps"]] == [1, 1, 1, 1]
        assert (await api.get("/api/jobs")).json == [id, second, third]


async def test_what_was_kept_goes_on_after_a_restart_while_its_containers_are_there(
    server: str, tmp_path: Path
) -> None:
    path = tmp_path / "jobs.db"
    async with with_a_failed_job(server, node={"store": SqliteStore(path)}) as (_, flaky, id):
        pass
    async with serving(server, runners=[flaky.runner()], node={"store": SqliteStore(path)}) as api:
        again = (await retry(api, id.upper())).json["id"]
        (job,) = await api.results(again)
        assert (job["result"]["output"], flaky.counted) == ({"n": 4}, 3)
        assert (await history(api, again))["retry_of"] == id
    async with serving(server, node={"store": SqliteStore(path)}) as api:
        gone = await retry(api, id)
        refused = {"error": "Container not supported", "params": {"container": "count"}}
        assert (gone.status, gone.json) == (400, refused)


# -- what is not retried ------------------------------------------------------------------------------


MALFORMED = {
    "from": [f'{{"from": {value}}}' for value in ('"middle"', '"Failed"', '""', "null", "1", '["start"]')],
    "body": ["[]", "null", '"start"', "{", " ", '{"from": NaN}'],
}
"""Bodies, by what the error names."""


async def test_a_malformed_body_names_its_field(api: Api) -> None:
    id = await api.submit("fail")
    await api.results(id)
    for field, bodies in MALFORMED.items():
        for body in bodies:
            answer = await retry(api, id, body)
            assert (answer.status, field in answer.error) == (400, True), answer.body
    assert (await api.get("/api/jobs")).json == [id]


# -- it passes through all that a new request does ----------------------------------------------------


async def test_guards_are_asked_again_about_who_asks_now_and_how_urgently(server: str) -> None:
    class Guard:
        def __init__(self) -> None:
            self.asked: list[JobRequest] = []

        async def nodekit_admit(self, request: JobRequest) -> None:
            self.asked.append(request)

    async with serving(server, plugins=[guard := Guard()]) as api:
        body = {"containers": ["fail"], "data": {}}
        id = (await api.post("/api/jobs", body, headers={"Priority": "u=5"})).json["id"]
        await api.results(id)
        again = [await retry(api, id), await retry(api, id, Priority="u=1"), await retry(api, id, Priority="u=9")]
        assert [(await history(api, answer.json["id"]))["priority"] for answer in again] == [5, 1, 5]
        told = [(asked.client, asked.address, asked.priority) for asked in guard.asked]
        assert told == [("127.0.0.1", "127.0.0.1", u) for u in (5, 5, 1, 5)]


async def test_a_key_makes_retrying_safe_and_is_for_one_retry_of_one_job(server: str) -> None:
    async with with_a_failed_job(server) as (api, _, id):
        other = await api.submit("fail")
        await api.results(other)
        answers = [await retry(api, id, b"{}", Idempotency_Key="k") for _ in range(3)]
        assert [answer.status for answer in answers] == [200] * 3
        (again,) = {answer.json["id"] for answer in answers}
        for job, body in ((other, b"{}"), (id, b""), (id, b'{"from": "start"}')):
            answer = await retry(api, job, body, Idempotency_Key="k")
            assert (answer.status, "key" in answer.error) == (422, True)
        assert (await api.get("/api/jobs")).json == [id, other, again]
        assert (await retry(api, id, b"{}", Idempotency_Key="a b")).status == 400


async def test_a_client_can_wait_for_it(server: str) -> None:
    async with with_a_failed_job(server) as (api, _, id):
        answer = await retry(api, id, Prefer="wait=60")
        assert (answer.status, answer.headers["Preference-Applied"]) == (200, "wait=60")
        assert (answer.json["status"], answer.json["result"]["output"]) == ("success", {"n": 4})
        waiting = await api.submit("gate")
        await api.call("DELETE", f"/api/jobs/{waiting}")
        answer = await retry(api, waiting, Prefer="wait=0")
        assert (answer.status, set(answer.json)) == (202, {"id"})


async def test_a_body_of_unknown_length_is_read_to_its_end(api: Api) -> None:
    id = await api.submit("fail")
    await api.results(id)
    async with api.raw() as connection:
        chunks = b'6\r\n{"from\r\n' + b'b\r\n": "start"}\r\n0\r\n\r\n'
        await connection.send(post(b"", "Transfer-Encoding: chunked", path=f"/api/jobs/{id}/retry") + chunks)
        assert (await connection.answer()).status == 200
        await connection.send(post(json.dumps({"from": "x"}).encode(), path=f"/api/jobs/{id}/retry"))
        assert (await connection.answer()).status == 400
