"""Promises for requests on any route: errors, browsers, connections, waiting, keys and headers."""

import re
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus

from nodekit import StoreFailed, Transport
from nodekit.testing.contracts.backends import NOT_APPLICABLE
from nodekit.testing.contracts.transports.http_api import UNKNOWN, HttpApi, HttpBase, asked
from nodekit.testing.contracts.transports.http_client import HttpAnswer
from nodekit.testing.contracts.transports.listening import unix_path
from nodekit.testing.contracts.transports.serving import Limiting

READS = {"GET", "HEAD"}
ALLOWED: list[tuple[str, str, set[str]]] = [
    ("POST", "/info", {*READS, "OPTIONS"}),
    ("DELETE", "/health", {*READS, "OPTIONS"}),
    ("PUT", "/api/jobs", {*READS, "POST", "OPTIONS"}),
    ("GET", "/api/jobs/batch", {"POST", "OPTIONS"}),
    ("GET", "/api/jobs/stream", {"POST", "OPTIONS"}),
    ("DELETE", "/api/jobs/batch", {"POST", "OPTIONS"}),
    ("GET", "/api/status", {"PUT", "OPTIONS"}),
    ("PATCH", "/resources", {*READS, "OPTIONS"}),
]
"""Methods that a path does not allow, and the methods that it allows."""
TELLTALE = ("Traceback", "RuntimeError", ".py", "a secret inside")
FOREIGN_ORIGINS = ("https://evil.example", "null", "http://localhost:1", "file://", "garbage", "http://[")
FOREIGN_HOSTS = ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "[::2]")
LOOPBACK_HOSTS = ("localhost", "127.0.0.1:1", "127.8.8.8", "[::1]:4000", "LOCALHOST:80")
GOOD_KEYS = ("x", "x" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "!~,;=\\")
BAD_KEYS = ("", "a b", "x" * 256, "\xe9")
BAD_WAITS = ("", "-1", "x", "nan", "inf", "1e", "e3", "%2B1", "1_0", "0x1", ".5", "1.", "%C2%B2", "1%0A", "+1")


class HttpRequests(HttpBase):
    """Tests of `HttpTransportContract` about requests on any route."""

    waits: bool = True
    """True if clients can wait: ``Prefer: wait=N``, and ``wait=N`` of `GET /api/jobs`."""
    idempotency_keys: bool = True
    """True if ``Idempotency-Key`` makes repeated requests safe."""
    priorities: bool = True
    """True if ``Priority`` is read."""
    request_ids: bool = True
    """True if the ``X-Request-ID`` of a request is sent back."""

    # -- errors -----------------------------------------------------------------------------------

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
                assert _allowed(answer) == allow, path
                answer = await api.call("OPTIONS", path)
                assert (answer.status, answer.body, _allowed(answer)) == (204, b"", allow), path
            answer = await api.call("HEAD", "/info")
            assert (answer.status, answer.body) == (200, b"")

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

    # -- waiting ----------------------------------------------------------------------------------

    async def test_a_job_that_finishes_while_its_client_waits_is_the_reply(self, transport: Transport) -> None:
        self.skip_without("waits")
        async with self.api(transport) as api:
            for container in ("echo", "fail"):
                answer = await api.post("/api/jobs", asked(container), ("Prefer", "wait=30"))
                assert (answer.status, answer.header("Preference-Applied")) == (200, "wait=30")
                assert (await api.get(f"/api/jobs?id={answer.json['id']}")).json == [answer.json]
            refused = await api.post("/api/jobs", asked("nope"), ("Prefer", "wait=30"))
            assert (refused.status, refused.error) == (400, "Container not supported")

    async def test_a_job_that_takes_longer_than_its_client_waits_is_accepted(self, transport: Transport) -> None:
        self.skip_without("waits")
        async with self.api(transport) as api:
            for seconds in (0, 1):
                answer = await api.post("/api/jobs", asked("gate"), ("Prefer", f"wait={seconds}"))
                assert (answer.status, set(answer.json)) == (202, {"id"})
                assert answer.header("Preference-Applied") == f"wait={seconds}"
            for nonsense in ("wait", "wait=soon", "wait=-1", "respond-async", '"'):
                answer = await api.post("/api/jobs", asked("gate"), ("Prefer", nonsense))
                assert (answer.status, answer.header("Preference-Applied")) == (200, None), nonsense

    async def test_asking_can_wait_until_all_jobs_are_finished(self, transport: Transport) -> None:
        self.skip_without("waits")
        answers: list[HttpAnswer] = []

        async def ask(query: str) -> None:
            answers.append(await api.get(f"/api/jobs?{query}&wait=15"))

        async with self.api(transport) as api:
            gate, echo = await api.submit("gate"), await api.submit("echo")
            (job,) = (await api.get(f"/api/jobs?id={gate}&wait=0.1")).json
            assert job["status"] == "running"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, f"id={gate}&id={echo}&id={UNKNOWN}")
                await api.results(echo)
                await anyio.sleep(self.quiet_seconds)
                assert answers == []
                api.served.runner.opened.set()
            found = [(job["id"], job["status"]) for job in answers[0].json]
            assert found == [(gate, "success"), (echo, "success")]
            for text in BAD_WAITS:
                wrong = await api.get(f"/api/jobs?id={gate}&wait={text}")
                assert (wrong.status, "wait" in wrong.error) == (400, True), text

    # -- Idempotency-Key --------------------------------------------------------------------------

    async def keyed(self, api: HttpApi, body: Any, key: str = "k") -> HttpAnswer:
        return await api.post("/api/jobs", body, ("Idempotency-Key", key))

    async def test_a_request_that_is_repeated_with_its_key_is_the_same_job(self, transport: Transport) -> None:
        self.skip_without("idempotency_keys")
        answers: list[HttpAnswer] = []

        async def ask() -> None:
            answers.append(await self.keyed(api, asked("gate")))

        async with self.api(transport, max_pending=1) as api:
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(ask)
            taken = [answer for answer in answers if answer.status == 200]
            assert len({answer.json["id"] for answer in taken}) == 1
            assert {answer.status for answer in answers} <= {200, 503}
            again = await self.keyed(api, asked("gate"))
            assert (again.status, again.json) == (200, taken[0].json), "also while the node is full"
            assert (await self.keyed(api, asked("gate"), "other")).status == 503
            assert (await self.keyed(api, asked("echo"))).status == 422
            assert len(api.served.table.jobs) == 1
            api.served.runner.opened.set()
            await api.results(again.json["id"])
            assert (await self.keyed(api, asked("gate"))).json == again.json, "also when the job is finished"
            assert api.served.runner.calls == ["gate"]
            assert (await self.keyed(api, asked("gate"), "other")).json != again.json

    async def test_a_key_is_for_one_body_of_one_client(self, transport: Transport) -> None:
        self.skip_without("idempotency_keys")
        async with self.api(transport) as api:
            refused = await self.keyed(api, asked("nope"))
            assert refused.status == 400
            first = await self.keyed(api, b'{"containers":["echo"],"data":{}}')
            assert first.status == 200, "a refusal is not kept"
            for body in (asked("gate"), b'{"containers":["echo"],"data":{} }'):
                answer = await self.keyed(api, body)
                assert (answer.status, bool(answer.error)) == (422, True), body
            if len(self.clients) > 1:
                theirs = await self.keyed(api.of(self.clients[1]), asked("echo"))
                assert (theirs.status, theirs.json != first.json) == (200, True)

    async def test_a_key_is_taken_as_it_is(self, transport: Transport) -> None:
        self.skip_without("idempotency_keys")
        async with self.api(transport) as api:
            for key in GOOD_KEYS:
                assert (await self.keyed(api, asked("echo"), key)).status == 200, key
                assert (await self.keyed(api, asked("gate"), key)).status == 422, key
                assert (await self.keyed(api, asked("gate"), key[:-1] + "'")).status == 200, key

    async def test_a_key_that_is_none_or_would_not_be_kept_is_400(self, transport: Transport) -> None:
        self.skip_without("idempotency_keys")
        async with self.api(transport) as api:
            for key in BAD_KEYS:
                answer = await self.keyed(api, asked(), key)
                assert (answer.status, "Idempotency-Key" in answer.error) == (400, True), key
            twice = await api.post("/api/jobs", asked(), ("Idempotency-Key", "a"), ("Idempotency-Key", "a"))
            assert (twice.status, "Idempotency-Key" in twice.error) == (400, True)
            for path, body in (("/api/jobs/batch", [asked()]), ("/api/jobs/stream", asked())):
                answer = await api.post(path, body, ("Idempotency-Key", "k"))
                assert (answer.status, "Idempotency-Key" in answer.error) == (400, True), path
            assert api.served.table.jobs == {}

    # -- headers ----------------------------------------------------------------------------------

    async def test_an_urgency_is_that_of_the_job_or_of_all_jobs_of_a_batch(self, transport: Transport) -> None:
        self.skip_without("priorities")
        async with self.api(transport) as api:
            for text, expected in (("u=0", 0), ("i, u=7;x", 7), ("i", 3), ("u=5, broken,", 3), ("u=8", 3)):
                one = await api.post("/api/jobs", asked(), ("Priority", text))
                batch = await api.post("/api/jobs/batch", [asked(), asked()], ("Priority", text))
                ids = [item["id"] for item in (one.json, *batch.json)]
                assert [api.served.table.jobs[id].request.priority for id in ids] == [expected] * 3, text
            for headers, expected in (((), 3), ((("Priority", "u=1"), ("Priority", "i, u=2")), 2)):
                one = await api.post("/api/jobs", asked(), *headers)
                assert api.served.table.jobs[one.json["id"]].request.priority == expected, headers

    async def test_request_ids_come_back_or_are_made(self, transport: Transport) -> None:
        self.skip_without("request_ids")
        async with self.api(transport) as api:
            for path in ("/info", "/nope"):
                assert (await api.get(path, ("X-Request-ID", "mine-7"))).header("X-Request-ID") == "mine-7"
            made = [(await api.get("/info")).header("X-Request-ID") for _ in range(2)]
            assert made[0] != made[1]
            for odd in ("x" * 129, "a b", "\xe9"):
                given = (await api.get("/info", ("X-Request-ID", odd))).header("X-Request-ID")
                assert given != odd
                assert re.fullmatch(r"[\x21-\x7e]{1,128}", given or ""), odd
            api.served.table.fails_to_get = RuntimeError("a fault")
            fault = await api.get(f"/api/jobs?id={UNKNOWN}", ("X-Request-ID", "mine-8"))
            assert (fault.params["request_id"], fault.header("X-Request-ID")) == ("mine-8", "mine-8")


def _allowed(answer: HttpAnswer) -> set[str]:
    return {name.strip() for name in (answer.header("Allow") or "").split(",")}
