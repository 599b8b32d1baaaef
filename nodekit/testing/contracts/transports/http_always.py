"""Promises for every request on any route."""

import anyio
import pytest
from anyio.abc import TaskStatus

from nodekit import StoreFailed, Transport
from nodekit.testing.contracts.backends import NOT_APPLICABLE
from nodekit.testing.contracts.transports.http_api import UNKNOWN, HttpApi, HttpContract, asked
from nodekit.testing.contracts.transports.listening import unix_path
from nodekit.testing.contracts.transports.serving import Limiting

ALLOWED: list[tuple[str, str, set[str]]] = [
    ("POST", "/info", {"GET"}),
    ("DELETE", "/health", {"GET"}),
    ("PUT", "/api/jobs", {"GET", "POST"}),
    ("GET", "/api/jobs/batch", {"POST"}),
    ("GET", "/api/jobs/stream", {"POST"}),
    ("DELETE", "/api/jobs/batch", {"POST"}),
    ("GET", "/api/status", {"PUT"}),
    ("PATCH", "/resources", {"GET"}),
]
"""Methods that a path does not allow, and the methods that it allows."""

TELLTALE = ("Traceback", "RuntimeError", ".py", "a secret inside")
FOREIGN_ORIGINS = ("https://evil.example", "null", "http://localhost:1", "file://", "garbage", "http://[")
FOREIGN_HOSTS = ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "[::2]")
LOOPBACK_HOSTS = ("localhost", "127.0.0.1:1", "127.8.8.8", "[::1]:4000", "LOCALHOST:80")


class AlwaysContract(HttpContract):
    async def test_what_is_not_there_is_404_as_json_and_paths_match_exactly(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            for path in (
                "/",
                "/nope",
                "/info/",
                "/health/",
                "/api/jobs/",
                "/api/jobs/batch/",
                "/API/jobs",
                "//info",
                "/health%2f",
            ):
                answer = await api.get(path)
                assert (answer.status, bool(answer.error)) == (404, True), path
                assert answer.header("Location") is None

    async def test_other_methods_are_405_as_json_and_name_the_right_ones(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            for method, path, allow in ALLOWED:
                answer = await api.call(method, path)
                assert (answer.status, bool(answer.error)) == (405, True), (method, path)
                assert {name.strip() for name in (answer.header("Allow") or "").split(",")} == allow, path
            answer = await api.call("HEAD", "/info")
            assert (answer.status, answer.body) == (405, b"")

    async def test_a_fault_is_500_that_shows_nothing_of_the_inside(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            api.served.table.fails_to_get = RuntimeError("a secret inside")
            answer = await api.get(f"/api/jobs?id={UNKNOWN}")
            assert (answer.status, bool(answer.error)) == (500, True)
            assert answer.params["request_id"], "what an operator finds in the log"
            assert [text for text in TELLTALE if text in answer.body.decode()] == []
            api.served.table.fails_to_get = None
            assert (await api.get("/health")).status == 200

    async def test_a_store_that_fails_is_503_and_says_when_to_come_back(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            api.served.table.fails_to_get = api.served.table.fails_to_add = StoreFailed("a secret inside")
            for answer in (await api.get(f"/api/jobs?id={UNKNOWN}"), await api.post("/api/jobs", asked())):
                assert (answer.status, bool(answer.error), answer.pause_seconds >= 1) == (503, True, True)
                assert "secret" not in answer.error

    async def test_who_asks_too_often_is_429_on_all_routes_but_health(self, transport: Transport) -> None:
        limit = Limiting()
        async with self.api(transport, plugins=[limit]) as api:
            limit.refuses = True
            for method, path in (("GET", "/info"), ("POST", "/api/jobs"), ("GET", "/nothing"), ("GET", "/api/jobs")):
                answer = await api.call(method, path, asked() if method == "POST" else None)
                assert (answer.status, answer.error, answer.pause_seconds) == (429, "too many requests", 7), path
            assert (await api.get("/health")).status == 200
            assert set(limit.asked) == {api.address or limit.asked[0]}
            assert api.served.table.jobs == {}

    async def test_while_it_drains_health_says_so_and_jobs_are_read(self, transport: Transport) -> None:
        leave = anyio.Event()

        async def run(*, task_status: TaskStatus[HttpApi]) -> None:
            async with self.api(transport, drain_seconds=60) as api:
                task_status.started(api)
                await leave.wait()

        async with anyio.create_task_group() as tasks:
            api: HttpApi = await tasks.start(run)
            id = await api.submit("gate")
            await self.until(lambda: api.served.runner.calls)
            leave.set()
            health = await self.eventually(lambda: api.get("/health"), lambda answer: answer.status != 200)
            assert (health.status, health.json["status"], bool(health.json["reasons"])) == (503, "unhealthy", True)
            assert (await api.get("/info")).json["pending"]["offchain"] == 1
            refused = await api.post("/api/jobs", asked())
            assert (refused.status, refused.pause_seconds >= 1) == (503, True)
            assert (await api.job(id))["status"] == "running"
            api.served.runner.opened.set()

    # -- browsers ---------------------------------------------------------------------------------

    async def test_pages_of_other_sites_cannot_call_the_node(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            for origin in FOREIGN_ORIGINS:
                for method, path in (("GET", "/info"), ("POST", "/api/jobs"), ("OPTIONS", "/api/jobs")):
                    body = asked() if method == "POST" else None
                    answer = await api.call(method, path, body, ("Origin", origin))
                    assert (answer.status, bool(answer.error)) == (403, True), (origin, method)
                    assert answer.header("Access-Control-Allow-Origin") is None
            assert api.served.table.jobs == {}
            assert (await api.get("/info", ("Origin", f"http://{api.host}"))).status == 200

    async def test_on_loopback_it_answers_to_names_of_loopback_only(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            over_ip = unix_path(api.url) is None
            hosts = (*((host, 403) for host in FOREIGN_HOSTS), *((host, 200) for host in LOOPBACK_HOSTS))
            for host, status in hosts if over_ip else ():
                answer = await api.get("/info", ("Host", host))
                assert answer.status == status, host
                assert status == 200 or answer.error
        if not over_ip:
            pytest.skip(f"{NOT_APPLICABLE}no browser calls a unix socket")

    # -- connections ------------------------------------------------------------------------------

    async def test_two_framings_of_one_body_are_400_and_the_end_of_the_connection(self, transport: Transport) -> None:
        body = b'{"containers":["echo"],"data":{}}'
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        async with self.api(transport) as api:
            for path, length in (("/api/jobs", len(body)), ("/api/jobs", len(chunked)), ("/health", 0), ("/nope", 5)):
                framings = [("Content-Length", str(length)), ("Transfer-Encoding", "chunked")]
                async with api.connected() as connection:
                    with anyio.fail_after(self.timeout_seconds):
                        await connection.send(api.request("POST", path, chunked, framings))
                        assert (await connection.answer()).status == 400
                        assert await connection.ended(), "what follows may be taken for another request"
            assert api.served.table.jobs == {}

    async def test_a_length_that_is_no_number_is_400(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            for length in ("-1", "+5", "0x10", "five", "1_0"):
                request = api.request("POST", "/api/jobs", b"12345", [("Content-Length", length)])
                assert (await api.sent(request)).status == 400, length

    async def test_a_body_in_chunks_is_a_body(self, transport: Transport) -> None:
        body = b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"containers":["echo"],"data":{}}') + b"0\r\n\r\n"
        async with self.api(transport) as api:
            answer = await api.sent(api.request("POST", "/api/jobs", body, [("Transfer-Encoding", "chunked")]))
            assert answer.status == 200

    async def test_a_connection_carries_one_request_after_another_in_their_order(self, transport: Transport) -> None:
        async with self.api(transport) as api, api.connected() as connection:
            with anyio.fail_after(self.timeout_seconds):
                for path, status in (("/info", 200), ("/nope", 404), ("/health", 200)):
                    await connection.send(api.request("GET", path))
                    assert (await connection.answer()).status == status, path
                requests = [api.request("GET", path) for path in ("/nope", "/info", "/nope", "/health")]
                await connection.send(b"".join(requests))
                assert [(await connection.answer()).status for _ in requests] == [404, 200, 404, 200]

    async def test_what_is_not_http_is_refused_and_harms_nobody(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            for nonsense in (b"\x16\x03\x01\x02\x00nonsense\r\n\r\n", b"\r\n\r\n\x00\r\n\r\n", b"GET\r\n\r\n"):
                assert (await api.sent(nonsense)).status == 400, nonsense
            assert (await api.get("/health")).status == 200
