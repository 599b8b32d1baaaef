"""Requests that last longer than the key of their caller, over both servers."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from http_api import Api, both_servers, serving
from keys import add_key, bearer
from msgspec.structs import replace

from nodekit import Identity, JobRequest, Mount
from nodekit_apikeys import ApiKeys
from nodekit_apikeys._file import changing

pytestmark = pytest.mark.anyio

GATE = {"containers": ["gate"], "data": {}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Page:
    """A page that never ends, and one that never begins."""

    def nodekit_routes(self) -> list[Mount]:
        async def page(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"].endswith("/begun"):
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            await anyio.sleep_forever()

        return [Mount("lasting", page)]


def end(path: Path, name: str, kind: str) -> None:
    with changing(path) as change:
        match kind:
            case "revoked":
                change.keys[name] = replace(change.keys[name], revoked=time.time())
            case "expired":
                change.keys[name] = replace(change.keys[name], expires=time.time())
            case "another scope":
                change.keys[name] = replace(change.keys[name], scopes=("metrics",))
            case "removed":
                del change.keys[name]
        change.save()


async def wait(api: Api, id: str, headers: dict[str, str]) -> Any:
    return (await api.get(f"/api/jobs?id={id}&wait=50", headers=headers)).status


async def submit_and_wait(api: Api, id: str, headers: dict[str, str]) -> Any:
    return (await api.post("/api/jobs", GATE, headers={**headers, "Prefer": "wait=50"})).status


async def follow(api: Api, id: str, headers: dict[str, str]) -> Any:
    return await to_its_end(api, "GET", f"/api/jobs/{id}/events", headers)


async def stream(api: Api, id: str, headers: dict[str, str]) -> Any:
    return await to_its_end(api, "POST", "/api/jobs/stream", headers, b'{"containers": ["gate"], "data": {}}')


async def page(api: Api, id: str, headers: dict[str, str]) -> Any:
    return (await api.get("/-/lasting/", headers=headers)).status


async def begun_page(api: Api, id: str, headers: dict[str, str]) -> Any:
    return await to_its_end(api, "GET", "/-/lasting/begun", headers)


async def to_its_end(api: Api, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Any:
    """Return ``cut`` if a reply begins and then breaks off."""
    async with api.session.request(method, api.url + path, headers=headers, data=body) as response:
        assert response.status == 200, await response.read()
        try:
            await response.read()
        except aiohttp.ClientPayloadError:
            return "cut"
        return "whole"


Ask = Callable[[Api, str, dict[str, str]], Coroutine[Any, Any, Any]]


@both_servers
@pytest.mark.parametrize(
    ("ask", "ending"),
    [(wait, 401), (submit_and_wait, 401), (follow, "cut"), (stream, "cut"), (page, 401), (begun_page, "cut")],
)
async def test_a_request_that_lasts_ends_when_its_key_is_revoked(
    tmp_path: Path, server: str, ask: Ask, ending: Any
) -> None:
    path = tmp_path / "keys"
    name = "ops" if ask in (page, begun_page) else "alice"
    scopes = ("operate",) if name == "ops" else ("submit", "read", "cancel")
    text, other = add_key(path, name, scopes=scopes), add_key(path, "bob")
    async with serving(server, plugins=[ApiKeys(path), Page()]) as api:
        own, its = [
            (await api.node.submit(JobRequest.of("gate", data={}, client=client))).id for client in (name, "bob")
        ]
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(ask(api, own, bearer(text)))
            stays = tasks.create_task(wait(api, its, bearer(other)))
            await asyncio.sleep(0.6)  # longer than a look at the caller: it stays as long as its key is valid
            assert not asked.done(), asked.result()
            end(path, name, "revoked")
            assert await asked == ending
            assert not stays.done()
            api.gate.opened.set()
            assert await stays == 200


@pytest.mark.parametrize("kind", ["expired", "another scope", "removed"])
async def test_a_wait_ends_however_the_right_to_it_ends(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "keys"
    text = add_key(path, "alice")
    async with serving("hypercorn", plugins=[ApiKeys(path)]) as api:
        job = await api.node.submit(JobRequest.of("gate", data={}, client="alice"))
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            waits = tasks.create_task(wait(api, job.id, bearer(text)))
            await asyncio.sleep(0.2)
            end(path, "alice", kind)
            assert await waits == (403 if kind == "another scope" else 401)


async def test_a_body_that_outlasts_its_key_brings_no_job(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    text = add_key(path, "alice")
    async with serving("hypercorn", plugins=[ApiKeys(path)]) as api, api.raw() as slow:
        lines = ("POST /api/jobs HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {text}", "Content-Length: 36")
        await slow.send("\r\n".join([*lines, "", ""]).encode())
        await slow.send(b'{"containers": ["echo"],')
        await asyncio.sleep(0.2)
        end(path, "alice", "revoked")
        async with asyncio.timeout(60):
            while (await api.get("/info", headers=bearer(text))).status != 401:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        await slow.send(b' "data": {}}')
        assert (await slow.answer()).status == 401
        assert await api.node.find() == []


async def test_a_plugin_that_fails_later_ends_the_wait() -> None:
    class Breaks:
        asked = 0

        async def nodekit_identify(self) -> Identity:
            self.asked += 1
            if self.asked > 1:
                raise RuntimeError("on purpose")
            return Identity(client="alice")

    async with serving("hypercorn", plugins=[Breaks()]) as api:
        job = await api.node.submit(JobRequest.of("gate", data={}, client="alice"))
        async with asyncio.timeout(60):
            assert await wait(api, job.id, {}) == 401


async def test_a_wait_ends_when_its_caller_is_another_one() -> None:
    class Changes:
        client = "alice"

        async def nodekit_identify(self) -> Identity:
            return Identity(client=self.client)

    changes = Changes()
    async with serving("hypercorn", plugins=[changes]) as api:
        job = await api.node.submit(JobRequest.of("gate", data={}, client="alice"))
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            waits = tasks.create_task(wait(api, job.id, {}))
            await asyncio.sleep(0.2)
            changes.client = "bob"
            assert await waits == 401


async def test_a_wait_for_the_job_of_another_ends_when_its_caller_is_no_operator_any_more(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    text = add_key(path, "ops", scopes=("operate",))
    async with serving("hypercorn", plugins=[ApiKeys(path)]) as api:
        job = await api.node.submit(JobRequest.of("gate", data={}, client="alice"))
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            waits = tasks.create_task(wait(api, job.id, bearer(text)))
            await asyncio.sleep(0.2)
            with changing(path) as change:
                change.keys["ops"] = replace(change.keys["ops"], scopes=("read",))
                change.save()
            assert await waits == 401


async def test_wrong_keys_wait_and_a_valid_one_from_the_same_address_does_not(tmp_path: Path) -> None:
    text = add_key(tmp_path / "keys", "alice")
    apikeys = ApiKeys(tmp_path / "keys", slow_down_seconds=10)
    async with serving("hypercorn", plugins=[apikeys]) as api, aiohttp.ClientSession() as session:
        for _ in range(20):  # the next answer takes ten seconds
            apikeys._failures.count("127.0.0.1", "no key")
        guessing = Api(api.url, session)
        slow = [asyncio.create_task(guessing.get("/info", headers=bearer("nk_wrong"))) for _ in range(5)]
        assert (await api.get("/info", headers=bearer(text))).status == 200
        assert (await api.get("/info")).status == 401  # without a key there is nothing to guess
        assert not any(task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
