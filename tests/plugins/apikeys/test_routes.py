"""Nobody gets at the jobs of others: each route, with each scope, for own, foreign and unknown jobs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import aiohttp
import anyio
import msgspec
import pytest
from http_api import Api, serving
from keys import add_key, bearer
from msgspec.structs import replace

from nodekit import JobRequest, Mount
from nodekit_apikeys import ApiKeys
from nodekit_apikeys._file import changing
from nodekit_apikeys._key import Scope
from nodekit_apikeys._operations import SCOPES
from nodekit_asgi.api.routes import ROUTES
from nodekit_asgi.app import OPEN_TO_ALL

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


UNKNOWN = "01a20a76-cb0c-7b43-84a7-7cefcb7a85b8"
JOB = {"containers": ["echo"], "data": {}}


class Row(NamedTuple):
    """A request of a route, for a job that has failed.

    - `scope`: The scope that it needs; None: everybody may send it.
    - `known`: The status if the caller may use the job. 404 if it may not.
    """

    scope: Scope | None
    path: str
    body: Any = None
    known: int = 200
    headers: Mapping[str, str] = {}


ROWS: Mapping[tuple[str, str], Sequence[Row]] = {
    ("/info", "GET"): [Row("read", "/info")],
    ("/health", "GET"): [Row(None, "/health")],
    ("/health/live", "GET"): [Row(None, "/health/live")],
    ("/resources", "GET"): [Row("read", "/resources")],
    ("/openapi.json", "GET"): [Row(None, "/openapi.json")],
    ("/docs", "GET"): [Row(None, "/docs")],
    ("/docs/{file}", "GET"): [Row(None, "/docs/start.js")],
    ("/api/jobs", "POST"): [Row("submit", "/api/jobs", JOB)],
    ("/api/jobs/batch", "POST"): [Row("submit", "/api/jobs/batch", [JOB])],
    ("/api/jobs/stream", "POST"): [Row("submit", "/api/jobs/stream", JOB)],
    ("/api/jobs", "GET"): [
        Row("read", "/api/jobs"),
        Row("read", "/api/jobs?id={id}"),
        Row("read", "/api/jobs?id={id}&wait=1"),
        Row("read", "/api/jobs?id={id}&intermediate=true"),
        Row("read", "/api/jobs?limit=1&after={id}&status=failed&order=oldest"),
    ],
    ("/api/jobs/{id}", "GET"): [Row("read", "/api/jobs/{id}")],
    ("/api/jobs/{id}/events", "GET"): [
        Row("read", "/api/jobs/{id}/events"),
        Row("read", "/api/jobs/{id}/events", headers={"Last-Event-ID": "{id}:0"}),
    ],
    ("/api/jobs/{id}/retry", "POST"): [
        Row("submit", "/api/jobs/{id}/retry", {}),
        Row("submit", "/api/jobs/{id}/retry", {"from": "start"}, headers={"Idempotency-Key": "a"}),
    ],
    ("/api/jobs/{id}", "DELETE"): [Row("cancel", "/api/jobs/{id}")],
    ("/api/status", "PUT"): [
        Row("operate", "/api/status", {"id": "{id}", "status": "failed", "containers": ["fail"]}, known=409)
    ],
}

ALSO: Mapping[str, Sequence[Scope]] = {"/info": ["submit"], "/resources": ["submit"]}
"""Further scopes that are enough for a path."""


class Page:
    def nodekit_routes(self) -> list[Mount]:
        async def page(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"page"})

        return [Mount("metrics", page, public=True), Mount("other", page)]


@asynccontextmanager
async def with_keys(folder: Path, **config: Any) -> AsyncIterator[tuple[Api, dict[str, str]]]:
    """Serve a node with a key for each scope, each of a client of that name, and one for all of the usual ones."""
    keys = {scope: add_key(folder / "keys", scope, scopes=(scope,)) for scope in get_args(Scope)}
    keys["alice"] = add_key(folder / "keys", "alice")
    plugins = [ApiKeys(folder / "keys", slow_down_seconds=0), Page()]
    async with serving("hypercorn", plugins=plugins, **config) as api:
        yield api, keys


async def failed_job(api: Api, client: str) -> str:
    job = await api.node.submit(JobRequest.of("fail", data={"secret": client}, client=client))
    await api.node.wait([job.id])
    return str(job.id)


async def send(api: Api, method: str, row: Row, id: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    body = None if row.body is None else msgspec.json.encode(row.body).replace(b"{id}", id.encode())
    own = {name: value.replace("{id}", id) for name, value in row.headers.items()}
    answer = await api.call(method, row.path.replace("{id}", id), data=body, headers={**own, **headers})
    return answer.status, answer.body


def names_job(row: Row) -> bool:
    return "{id}" in row.path + str(row.body) and "after=" not in row.path


def test_every_route_and_every_scope_is_in_the_table() -> None:
    assert set(ROWS) == {(path, method) for path, methods in ROUTES.items() for method in methods}
    assert {path for (path, _), rows in ROWS.items() if rows[0].scope is None} == OPEN_TO_ALL
    needed = {f"{method} {path}": rows[0].scope for (path, method), rows in ROWS.items() if rows[0].scope is not None}
    assert set(needed) | {"GET /-/metrics/"} == set(SCOPES)
    assert all(scope in SCOPES[operation] for operation, scope in needed.items())


@pytest.mark.parametrize("key", [*ROWS], ids=lambda key: f"{key[1]} {key[0]}")
async def test_who_may_use_a_route_for_which_job(tmp_path: Path, key: tuple[str, str]) -> None:
    path, method = key
    async with with_keys(tmp_path) as (api, keys):
        foreign = await failed_job(api, "mallory")
        for row in ROWS[key]:
            for headers in ({}, bearer("nk_wrong"), bearer(keys["read"][:-1]), {"X-API-Key": "x"}):
                status, body = await send(api, method, row, foreign, headers)
                assert status == (200 if row.scope is None else 401), (row, headers, body)
            for scope in get_args(Scope):
                ids = {"own": await failed_job(api, scope), "foreign": foreign, "unknown": UNKNOWN}
                for whose, id in ids.items():
                    status, body = await send(api, method, row, id, bearer(keys[scope]))
                    allowed = row.scope in (None, scope) or scope == "operate" or scope in ALSO.get(path, ())
                    visible = whose == "own" or (whose == "foreign" and scope == "operate")
                    expected = 403 if not allowed else 404 if names_job(row) and not visible else row.known
                    assert status == expected, (scope, whose, row, body)
                    if whose == "foreign" and scope != "operate":
                        assert b"mallory" not in body, (scope, row, body)


async def test_pages_of_plugins_are_for_operators_and_metrics_have_a_scope(tmp_path: Path) -> None:
    async with with_keys(tmp_path) as (api, keys):
        for scope, text in keys.items():
            for path, method in (("/-/metrics/", "GET"), ("/-/other/", "GET"), ("/-/metrics/x", "POST")):
                allowed = scope == "operate" or (scope == "metrics" and (path, method) == ("/-/metrics/", "GET"))
                status = (await api.call(method, path, headers=bearer(text))).status
                assert status == (200 if allowed else 403), (scope, method, path)
        async with api.as_other_client() as other:
            proxied = {**bearer(keys["operate"]), "X-Forwarded-For": "203.0.113.7"}
            assert (await other.get("/-/other/", headers=proxied)).status == 200


async def test_what_is_not_there_is_not_forbidden(tmp_path: Path) -> None:
    async with with_keys(tmp_path) as (api, keys):
        for method, path, status in (
            ("GET", "/nothing", 404),
            ("PATCH", "/api/jobs", 405),
            ("GET", "/-/nothing/", 404),
        ):
            assert (await api.call(method, path, headers=bearer(keys["read"]))).status == status


async def test_a_key_that_may_not_read_gets_no_result_by_waiting(tmp_path: Path) -> None:
    async with with_keys(tmp_path) as (api, keys):
        for text, status in ((keys["submit"], 403), (keys["alice"], 200)):
            headers = {**bearer(text), "Prefer": "wait=10"}
            assert (await api.post("/api/jobs", JOB, headers=headers)).status == status


async def test_an_idempotency_key_finds_no_job_of_another_client(tmp_path: Path) -> None:
    async with with_keys(tmp_path) as (api, keys):
        ids = set()
        for scope in ("submit", "operate", "alice"):
            headers = {**bearer(keys[scope]), "Idempotency-Key": "one"}
            ids.add((await api.post("/api/jobs", JOB, headers=headers)).json["id"])
        assert len(ids) == 3


async def test_lists_are_of_ones_own_jobs_and_of_all_for_operators(tmp_path: Path) -> None:
    async with with_keys(tmp_path) as (api, keys):
        mine, other = await failed_job(api, "alice"), await failed_job(api, "mallory")
        operators = await failed_job(api, "operate")
        alice, operator = bearer(keys["alice"]), bearer(keys["operate"])

        async def listed(query: str, headers: dict[str, str]) -> Any:
            answer = await api.get(f"/api/jobs?{query}", headers=headers)
            return answer.json if answer.status == 200 else answer.status

        assert [await listed(query, alice) for query in ("", "client=alice", "all=false")] == [[mine]] * 3
        for query in ("all=true", "client=mallory", "client=", f"all=true&id={mine}", f"client=mallory&id={mine}"):
            assert await listed(query, alice) == 403, query
        assert await listed("", operator) == [operators]
        assert await listed("client=mallory", operator) == [other]
        assert await listed("all=true&status=failed", operator) == [mine, other, operators]
        assert await listed("all=true&client=alice", operator) == 400
        assert await listed("all=maybe", operator) == 400
        page = await api.get("/api/jobs?all=true&limit=1", headers=operator)
        follow = page.headers["Link"].partition(">")[0].removeprefix("<")
        assert (await api.get(f"/api/jobs{follow}", headers=operator)).json == [other]
        assert (await api.get(f"/api/jobs{follow}", headers=alice)).status == 403


async def test_an_operator_learns_why_a_job_failed_and_what_runs_where_since_when(tmp_path: Path) -> None:
    async with with_keys(tmp_path) as (api, keys):
        operator, alice = bearer(keys["operate"]), bearer(keys["alice"])
        id = await failed_job(api, "alice")
        history = (await api.get(f"/api/jobs/{id}", headers=operator)).json
        assert (history["client"], history["failure"]["container"]) == ("alice", "fail")
        assert "client" not in (await api.get(f"/api/jobs/{id}", headers=alice)).json
        job = await api.node.submit(JobRequest.of("gate", data={}, client="alice"))
        async with asyncio.timeout(60):
            while not (running := (await api.get(f"/api/jobs/{job.id}", headers=operator)).json["steps"]):
                await asyncio.sleep(0.01)
        assert {"node", "started_at"} <= set(running[0]["running"])
        assert (await api.get("/api/jobs?all=true&status=running", headers=operator)).json == [job.id]
        assert (await api.call("DELETE", f"/api/jobs/{job.id}", headers=operator)).json["status"] == "failed"


async def test_a_retry_by_an_operator_is_a_job_of_the_same_client(tmp_path: Path) -> None:
    async with with_keys(tmp_path) as (api, keys):
        id = await failed_job(api, "alice")
        answer = await api.post(f"/api/jobs/{id}/retry", {}, headers=bearer(keys["operate"]))
        new = answer.json["id"]
        assert (await api.get(f"/api/jobs/{new}", headers=bearer(keys["alice"]))).status == 200
        assert (await api.get(f"/api/jobs/{new}", headers=bearer(keys["read"]))).status == 404


async def test_who_used_whose_job_stands_in_the_audit_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with with_keys(tmp_path) as (api, keys):
        caplog.set_level(logging.INFO, logger="nodekit.audit")
        id, operator = await failed_job(api, "alice"), bearer(keys["operate"])
        running = (await api.node.submit(JobRequest.of("gate", data={}, client="alice"))).id
        report = {"id": running, "status": "success", "containers": ["gate"], "data": {}}
        new = (await api.post(f"/api/jobs/{id}/retry", {}, headers=operator)).json["id"]
        for method, path, body in (
            *(
                ("GET", f"/api/jobs/{id}", None),
                ("GET", f"/api/jobs?id={id}", None),
                ("DELETE", f"/api/jobs/{id}", None),
            ),
            *(("GET", f"/api/jobs/{id}/events", None), ("PUT", "/api/status", msgspec.json.encode(report))),
            *(("GET", "/api/jobs?all=true", None), ("GET", "/api/jobs?client=alice", None)),
        ):
            assert (await api.call(method, path, data=body, headers=operator)).status == 200
        lines = [record.getMessage() for record in caplog.records if record.name == "nodekit.audit"]
        assert [line.partition(" (request ")[0] for line in lines] == [
            f"operate as operator: retry of job {id} of client alice: job {new}",
            f"operate as operator: read of job {id} of client alice",
            f"operate as operator: read of job {id} of client alice",
            f"operate as operator: cancel of job {id} of client alice: failed",
            f"operate as operator: follow of job {id} of client alice",
            f"operate as operator: report of job {running} of client alice: success",
            "operate as operator: list of the jobs of all clients",
            "operate as operator: list of the jobs of client alice",
        ]
        caplog.clear()
        for path in ("/api/jobs", f"/api/jobs/{id}", f"/api/jobs?id={id}"):
            await api.get(path, headers=bearer(keys["alice"]))
        assert [record for record in caplog.records if record.name == "nodekit.audit"] == []


async def test_addresses_that_a_container_allows_still_hold_beside_keys(tmp_path: Path) -> None:
    async with with_keys(tmp_path) as (api, keys):
        for container, status in (("near", 200), ("far", 400)):
            body = {"containers": [container], "data": {}}
            assert (await api.post("/api/jobs", body, headers=bearer(keys["alice"]))).status == status


async def test_limits_of_a_key_hold_for_batches(tmp_path: Path) -> None:
    text = add_key(tmp_path / "keys", "small", max_pending=2, max_priority=5, containers=("gate",))
    async with with_keys(tmp_path) as (api, _):
        jobs = [{"containers": ["gate"], "data": {}}] * 5 + [JOB]
        answers = (await api.post("/api/jobs/batch", jobs, headers={**bearer(text), "Priority": "u=0"})).json
        accepted = [answer["id"] for answer in answers if "id" in answer]
        assert len(accepted) == 2
        assert answers[-1]["error"] in ("Container not allowed for client", answers[-2]["error"])
        assert (await api.get(f"/api/jobs/{accepted[0]}", headers=bearer(text))).json["priority"] == 5
        api.gate.opened.set()


async def test_a_large_job_of_another_does_not_show_in_the_form_of_a_reply(tmp_path: Path) -> None:
    async with with_keys(tmp_path) as (api, keys):
        own = await failed_job(api, "alice")
        large = await api.node.submit(JobRequest.of("echo", data={"text": "x" * (2 << 20)}, client="mallory"))
        await api.node.wait([large.id])
        replies = []
        for id in (UNKNOWN, large.id):
            answer = await api.get(f"/api/jobs?id={own}&id={id}", headers=bearer(keys["alice"]))
            replies.append((answer.body, {name: answer.headers[name] for name in answer.headers if name[:2] != "X-"}))
        for _, headers in replies:
            headers.pop("date", None), headers.pop("Date", None)
        assert replies[0] == replies[1]


async def test_a_job_of_another_does_not_show_in_a_wait_for_memory(tmp_path: Path) -> None:
    async with with_keys(tmp_path, node={"memory": 192 << 20}) as (api, keys):
        large = await api.node.submit(JobRequest.of("fail", data={"text": "x" * (2 << 20)}, client="mallory"))
        await api.node.wait([large.id])
        held = api.node.budget.for_request("alice")
        while held.grow_at_once(1 << 20):  # the client's share is used up
            pass
        for method, path in (
            *(("GET", ""), ("DELETE", ""), ("POST", "/retry"), ("GET", "/events")),
            *(("GET", f"?id={large.id}"), ("GET", f"?id={large.id}&id={UNKNOWN}")),
        ):
            where = f"/api/jobs{path}" if path.startswith("?") else f"/api/jobs/{large.id}{path}"
            with anyio.fail_after(5):
                answer = await api.call(method, where, headers=bearer(keys["alice"]))
            assert answer.status == 404, (method, where)


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST", "GET several"])
async def test_a_key_that_is_revoked_while_its_request_waits_for_memory_gets_nothing(
    tmp_path: Path, method: str
) -> None:
    async with with_keys(tmp_path, node={"memory": 192 << 20}) as (api, keys):
        alice, own = bearer(keys["alice"]), []
        for _ in range(2):
            own.append(await api.node.submit(JobRequest.of("fail", data={"text": "x" * 300_000}, client="alice")))
        await api.node.wait([job.id for job in own])
        held = api.node.budget.for_request("alice")
        while held.grow_at_once(1 << 10):  # the client's share is used up
            pass
        path = {"POST": f"/{own[0].id}/retry", "GET several": f"?id={own[0].id}&id={own[1].id}"}
        where = f"/api/jobs{path.get(method, f'/{own[0].id}')}"
        answers = []

        async def ask() -> None:
            answers.append((await api.call(method.split()[0], where, headers=alice)).status)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await anyio.sleep(0.5)  # longer than a caller is trusted without another look
                assert not answers
                with changing(tmp_path / "keys") as change:
                    change.keys["alice"] = replace(change.keys["alice"], revoked=1.0)
                    change.save()
                while (await api.get("/info", headers=alice)).status != 401:
                    await anyio.sleep(0.01)
                held.release()
        assert answers == [401]


async def test_a_retry_counts_in_the_group_of_the_present_key(tmp_path: Path) -> None:
    async with with_keys(tmp_path) as (api, keys):
        id = await failed_job(api, "alice")
        with changing(tmp_path / "keys") as change:
            change.keys["alice"] = replace(change.keys["alice"], group="team")
            change.save()
        groups = []
        with anyio.fail_after(60):
            while "team" not in groups:  # as soon as the node has read the file
                new = (await api.post(f"/api/jobs/{id}/retry", {}, headers=bearer(keys["alice"]))).json["id"]
                groups = [job.group for job in await api.node.fetch([new])]
        new = (await api.post(f"/api/jobs/{id}/retry", {}, headers=bearer(keys["operate"]))).json["id"]
        assert [job.group for job in await api.node.fetch([new])] == ["alice"]


async def test_a_client_that_can_set_no_header_has_its_key_in_the_url(tmp_path: Path) -> None:
    async with with_keys(tmp_path) as (api, keys), aiohttp.ClientSession() as session:
        for text, status in ((keys["alice"], 200), (keys["alice"][:-1], 401)):
            url = api.url.replace("//", f"//infernet:{text}@")
            async with session.post(f"{url}/api/jobs", json=JOB) as answer:
                assert answer.status == status


async def test_an_idempotency_key_of_an_operator_is_none_of_the_client(tmp_path: Path) -> None:
    async with with_keys(tmp_path) as (api, keys):
        id = await failed_job(api, "alice")
        retry, key = f"/api/jobs/{id}/retry", {"Idempotency-Key": "one"}
        twice = [(await api.post(retry, {}, headers={**bearer(keys["operate"]), **key})).json["id"] for _ in range(2)]
        assert len({*twice}) == 1
        assert (await api.post("/api/jobs", JOB, headers={**bearer(keys["alice"]), **key})).status == 200
