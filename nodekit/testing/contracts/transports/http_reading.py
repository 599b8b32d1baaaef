"""Routes that read, stream and cancel jobs, and that describe the node."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urljoin
from uuid import uuid4

import anyio
import pytest

from nodekit import Transport, __version__
from nodekit.testing.contracts.bounds import within
from nodekit.testing.contracts.transports.http_api import UNKNOWN, HttpApi, HttpBase, asked
from nodekit.testing.contracts.transports.http_client import CutOff, HttpConnection

WRONG_QUERIES: list[tuple[str, str]] = [
    ("pending=yes", "pending"),
    ("pending=1", "pending"),
    ("pending=", "pending"),
    ("pending", "pending"),
    ("id=x&intermediate=2", "intermediate"),
    ("limit=0", "limit"),
    ("limit=-1", "limit"),
    ("limit=ten", "limit"),
    ("limit=1.5", "limit"),
    ("limit=", "limit"),
    ("after=x", "after"),
    ("after=", "after"),
]
"""Queries of `GET /api/jobs`, and the parameter that the error names."""
STREAM_PATH = "/api/jobs/stream"
MOST_BUFFERED_PIECES = 512
"""Maximum number of pieces of 64 KiB that both sides of a connection buffer for a reader that stopped to read."""
WRONG_STREAMS: list[tuple[Any, str]] = [
    (asked() | {"containers": []}, "No containers specified"),
    (asked("nope"), "Container not supported"),
    ({"containers": ["echo"]}, "data"),
    (b"{", ""),
]
"""Bodies, and the text of the error."""


def pieces(*some: str, before: tuple[str, ...] = ()) -> dict[str, Any]:
    """Make a request for a stream of these pieces. ``…`` waits for `opened`, ``!`` fails, ``∞`` has no end."""
    return asked(*before, "pieces", data={"pieces": some})


class HttpReading(HttpBase):
    """Tests of `HttpTransportContract` about jobs that clients read or stream, and about the node."""

    # -- GET /api/jobs?id= ------------------------------------------------------------------------

    async def test_results_come_in_the_order_asked_each_once(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            a, b, c = [await api.submit(n=n) for n in range(3)]
            await api.results(a, b, c)
            answer = await api.get(f"/api/jobs?id={c}&id={UNKNOWN}&id={a}&id={c}&id=nonsense&id={b}&id={a}")
            assert (answer.status, [job["id"] for job in answer.json]) == (200, [c, a, b])
            assert answer.json[1] == {
                "id": a,
                "status": "success",
                "result": {"container": "echo", "output": {"n": 0}},
            }, "intermediate results come only where they are asked for"

    async def test_ids_of_which_none_is_a_job_of_this_client_are_404(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            answer = await api.get(f"/api/jobs?id={UNKNOWN}&id=x&id=")
            assert (answer.status, bool(answer.error)) == (404, True)

    async def test_two_hundred_ids_are_within_limits(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            ids = await api.batch(*[asked()] * 200)
            assert [job["id"] for job in await api.results(*ids[::-1])] == ids[::-1]

    async def test_intermediate_results_are_all_finished_steps_but_the_result(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            output: dict[str, Any] = {"output": {"n": 1}}
            running = await api.submit("echo", "gate", n=1)
            await self.until(lambda: "gate" in api.served.runner.calls)
            job = await api.job(running)
            first = {"container": "echo", **output}
            assert (job["status"], job["result"], job["intermediate_results"]) == ("running", None, [first])
            plain = (await api.get(f"/api/jobs?id={running}")).json
            assert plain == [{"id": running, "status": "running", "result": None}]
            ids = [await api.submit(*names, n=1) for names in (("echo", "echo", "proof"), ("echo",), ("echo", "fail"))]
            done, alone, failed = await api.results(*ids)
            assert (done["result"], done["intermediate_results"]) == ({"container": "proof", **output}, [first] * 2)
            assert alone["intermediate_results"] == []
            error = {"container": "fail", "error": "on purpose"}
            assert (failed["status"], failed["result"], failed["intermediate_results"]) == ("failed", error, [first])

    async def test_booleans_are_true_or_false_in_any_case(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            id = await api.submit()
            for value in ("true", "True", "TRUE", "false", "fAlSe"):
                (job,) = (await api.get(f"/api/jobs?id={id}&intermediate={value}")).json
                assert ("intermediate_results" in job) == (value.lower() == "true"), value

    async def test_a_wrong_query_is_400_and_names_its_parameter(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            for query, name in WRONG_QUERIES:
                answer = await api.get(f"/api/jobs?{query}")
                assert (answer.status, name in answer.error) == (400, True), (query, answer.body)
            assert (await api.get("/api/jobs?id=%ff%fe")).status == 400

    # -- GET /api/jobs ----------------------------------------------------------------------------

    async def test_lists_are_oldest_first_and_choose_by_pending(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            done = await api.batch(asked(), asked("fail"), asked())
            await api.results(*done)
            running = await api.submit("gate")
            assert await api.listed() == [*done, running]
            assert await api.listed("pending=true") == [running]
            assert await api.listed("pending=FALSE") == done
            assert (await api.get(f"/api/jobs?id={running}&pending=false")).json[0]["id"] == running

    async def test_pages_lead_through_all_by_link_or_by_after(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            ids = await api.batch(*[asked()] * 25)
            await api.results(*ids)
            found: list[str] = []
            path: str | None = "/api/jobs?limit=10&pending=false"
            while path is not None:
                assert len(found) < 100, "the links lead in a circle"
                page = await api.get(path)
                assert len(page.json) <= 10
                found += page.json
                link, _, relation = (page.header("Link") or "").partition(";")
                assert relation.strip() in ("", 'rel="next"')
                path = urljoin(path, link.strip(" <>")).removeprefix(api.url) if link else None
            assert found == ids
            assert await api.listed(f"after={ids[20]}") == ids[21:]
            assert await api.listed(f"after={ids[20]}&limit=2") == ids[21:23]
            assert await api.listed(f"after={UNKNOWN}&limit=3") == ids[:3]
            await api.served.table.delete([ids[20]])
            assert await api.listed(f"after={ids[20]}") == ids[21:]

    async def test_a_list_without_a_limit_is_whole(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            ids = [id for _ in range(2) for id in await api.batch(*[asked()] * 900)]
            assert await api.listed() == ids

    # -- other clients' jobs ----------------------------------------------------------------------

    async def test_another_client_neither_reads_nor_cancels(self, transport: Transport) -> None:
        self.skip_without_clients()
        async with self.api(transport) as api:
            other, id = api.of(self.clients[1]), await api.submit("gate")
            for method, path in (("GET", f"/api/jobs?id={id}"), ("DELETE", f"/api/jobs/{id}")):
                answer = await other.call(method, path)
                assert (answer.status, bool(answer.error)) == (404, True), path
            assert await other.listed() == []
            theirs = await other.submit()
            both = await other.get(f"/api/jobs?id={id}&id={theirs}")
            assert [job["id"] for job in both.json] == [theirs]
            assert await api.listed() == [id]
            assert (await api.job(id))["status"] == "running"

    # -- DELETE /api/jobs/{id} --------------------------------------------------------------------

    async def test_a_running_job_is_cancelled_and_its_step_aborted(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            id = await api.submit("echo", "gate", "echo")
            await self.until(lambda: "gate" in api.served.runner.calls)
            answer = await api.call("DELETE", f"/api/jobs/{id}")
            cancelled = {"id": id, "status": "failed", "result": {"container": "gate", "error": "cancelled"}}
            assert (answer.status, answer.json) == (200, cancelled)
            await self.until(lambda: api.served.runner.given_up == ["gate"])
            again = await api.call("DELETE", f"/api/jobs/{id}")
            assert (again.json, (await api.get(f"/api/jobs?id={id}")).json) == (cancelled, [cancelled])
            assert (await api.get("/info")).json["pending"]["offchain"] == 0

    async def test_a_finished_job_is_returned_as_it_is(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            for container in ("echo", "fail"):
                id = await api.submit(container, n=1)
                await api.results(id)
                finished = (await api.get(f"/api/jobs?id={id}")).json
                assert [(await api.call("DELETE", f"/api/jobs/{id}")).json for _ in range(2)] == finished * 2

    async def test_to_cancel_what_is_no_job_is_404(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            id = await api.submit("gate")
            for nothing in (
                UNKNOWN,
                str(uuid4()),
                "x",
                "%7Bid%7D",
                "%00",
                "a%20b",
                "%FF",
                f"{id}/",
                f"{id}/x",
                f"/{id}",
            ):
                answer = await api.call("DELETE", f"/api/jobs/{nothing}")
                assert (answer.status, bool(answer.error)) == (404, True), nothing
            assert (await api.job(id))["status"] == "running"

    # -- the node ---------------------------------------------------------------------------------

    async def test_info_says_what_can_be_called_and_what_is_pending(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            api.served.runner.up = {"echo", "inner", "gate"}
            await api.submit("gate")
            answer = await api.get("/info")
            assert answer.status == 200
            assert set(answer.json) == {"version", "containers", "pending", "chain"}
            assert (answer.json["version"], answer.json["chain"]) == (__version__, {"enabled": False, "address": ""})
            assert answer.json["pending"] == {"offchain": 1, "onchain": 0}
            listed = {container["id"]: container for container in answer.json["containers"]}
            assert set(listed) == {"echo", "inner", "gate"}
            assert listed["inner"] == {"id": "inner", "external": False, "image": "", "description": ""}
            echo = {"external": True, "image": "images/echo:1", "description": "gives what it is given"}
            assert listed["echo"] == {"id": "echo", **echo}

    async def test_health_says_what_is_wrong_and_whether_anything_works(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            answer = await api.get("/health")
            assert (answer.status, answer.json) == (200, {"status": "healthy"})
            api.served.runner.up = {"echo", "inner", "gate", "proof", "far", "pieces"}
            answer = await api.get("/health")
            assert (answer.status, answer.json) == (200, {"status": "healthy", "reasons": ["container fail is down"]})
            api.served.runner.up = ()
            answer = await api.get("/health")
            assert (answer.status, answer.json["status"], bool(answer.json["reasons"])) == (503, "unhealthy", True)

    async def test_resources_are_what_containers_say_of_themselves(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            for query, model in (("", None), ("?model_id=a%20model", "a model")):
                answer = await api.get(f"/resources{query}")
                assert (answer.status, answer.json) == (200, {"echo": {"model": model}})

    async def test_reports_of_what_came_of_jobs_are_taken_from_nobody_unless_said(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            id = await api.submit("gate")
            for body in ({"id": id, "status": "success", "containers": ["gate"], "data": 1}, b"{"):
                answer = await api.call("PUT", "/api/status", body)
                assert (answer.status, bool(answer.error)) == (403, True)
            assert (await api.job(id))["status"] == "running"

    # -- POST /api/jobs/stream --------------------------------------------------------------------

    @asynccontextmanager
    async def streaming(self, api: HttpApi, body: Any) -> AsyncIterator[tuple[str, HttpConnection]]:
        """Start a stream, and give the job's id and the connection."""
        async with api.begun("POST", STREAM_PATH, body) as (head, connection):
            assert head.status == 200, await connection.piece()
            assert (head.header("Content-Type"), head.header("Content-Length")) == ("application/octet-stream", None)
            assert head.header("Transfer-Encoding") == "chunked", (
                "a reader recognises a reply that was cut off only if it has chunks"
            )
            with anyio.fail_after(self.timeout_seconds):
                id = await connection.piece()
            assert id.endswith(b"\n"), "the id and a newline come first, alone"
            yield id.decode().strip(), connection

    async def rest(self, connection: HttpConnection) -> bytes:
        """Read the rest of the stream up to its proper end."""
        with within(self.timeout_seconds, "the stream ends"):
            return await connection.rest()

    async def test_the_id_comes_first_and_then_the_bytes_as_they_come(self, transport: Transport) -> None:
        async with self.api(transport) as api, self.streaming(api, pieces("a", "…", "b")) as (id, connection):
            with anyio.fail_after(self.timeout_seconds):
                assert await connection.piece() == b"a"
            assert (await api.job(id))["status"] == "running"
            api.served.runner.opened.set()
            assert await self.rest(connection) == b"b"
            job = await api.job(id)
            assert (job["status"], job["result"]) == ("success", {"container": "pieces", "output": {"output": "ab"}})

    async def test_the_id_comes_before_a_container_is_called(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            async with self.streaming(api, pieces("a", before=("echo", "gate"))) as (id, connection):
                assert (await api.job(id))["status"] == "running"
                assert "pieces" not in api.served.runner.calls
                api.served.runner.opened.set()
                assert await self.rest(connection) == b"a"
            assert [step["container"] for step in (await api.job(id))["intermediate_results"]] == ["echo", "gate"]

    async def test_errors_come_before_the_first_byte(self, transport: Transport) -> None:
        async with self.api(transport, max_pending=1) as api:
            for body, error in WRONG_STREAMS:
                answer = await api.post(STREAM_PATH, body)
                assert (answer.status, error in answer.error) == (400, True), body
            await api.submit("gate")
            full = await api.post(STREAM_PATH, pieces("a"))
            assert (full.status, bool(full.error), full.pause_seconds >= 1) == (503, True, True)
            assert "pieces" not in api.served.runner.calls

    async def test_a_stream_that_fails_is_cut_off_and_never_looks_whole(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            async with self.streaming(api, pieces("a", "!")) as (id, connection):
                assert await connection.piece() == b"a"
                with pytest.raises(CutOff):
                    await self.rest(connection)
            (job,) = await api.results(id)
            assert (job["status"], job["result"]) == ("failed", {"container": "pieces", "error": "on purpose"})

    async def test_a_job_that_is_cancelled_cuts_its_stream_off(self, transport: Transport) -> None:
        async with self.api(transport) as api, self.streaming(api, pieces("a", "…")) as (id, connection):
            assert await connection.piece() == b"a"
            assert (await api.call("DELETE", f"/api/jobs/{id}")).json["result"]["error"] == "cancelled"
            with pytest.raises(CutOff):
                await self.rest(connection)

    async def test_a_client_that_goes_away_cancels_its_stream(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            for some in (("a", "…"), ("a", "∞")):
                api.served.runner.given_up.clear()
                async with self.streaming(api, pieces(*some)) as (id, connection):
                    assert await connection.piece() == b"a"
                await self.until(lambda: api.served.runner.given_up == ["pieces"])
                (job,) = await api.results(id)
                assert job["result"] == {"container": "pieces", "error": "cancelled"}
            assert (await api.get("/info")).json["pending"]["offchain"] == 0

    async def test_a_client_that_reads_slowly_slows_the_container_down(self, transport: Transport) -> None:
        async with self.api(transport) as api, self.streaming(api, pieces("∞")):
            taken = -1
            with anyio.fail_after(self.timeout_seconds):
                while api.served.runner.given > taken:  # until all buffers on the way are full
                    taken = api.served.runner.given
                    assert taken < MOST_BUFFERED_PIECES, "the container is read, and its bytes by nobody"
                    await anyio.sleep(2 * self.quiet_seconds)

    async def test_over_http_1_0_a_stream_is_refused(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            answer = await api.sent(api.request("POST", STREAM_PATH, pieces("a")).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
            assert (answer.status, bool(answer.error)) == (505, True)
            assert api.served.table.jobs == {}

    async def test_other_requests_are_answered_beside_open_streams(self, transport: Transport) -> None:
        async def read() -> None:
            async with self.streaming(api, pieces("a", "…", "b")) as (_, connection):
                assert await self.rest(connection) == b"ab"

        async with self.api(transport) as api, anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(read)
            await self.until(lambda: len(api.served.runner.calls) == 20)
            assert (await api.get("/health")).status == 200
            api.served.runner.opened.set()
