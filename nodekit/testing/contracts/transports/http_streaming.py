"""Jobs that clients read while they run: `POST /api/jobs/stream`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from nodekit import Transport
from nodekit.testing.contracts.bounds import within
from nodekit.testing.contracts.transports.http_api import HttpApi, HttpContract, asked
from nodekit.testing.contracts.transports.http_client import CutOff, HttpConnection

PATH = "/api/jobs/stream"
MOST_BUFFERED_PIECES = 512
"""Maximum number of pieces of 64 KiB that both sides of a connection buffer for a reader that stopped to read."""

WRONG: list[tuple[Any, str]] = [
    (asked() | {"containers": []}, "No containers specified"),
    (asked("nope"), "Container not supported"),
    ({"containers": ["echo"]}, "data"),
    (b"{", ""),
]
"""Bodies, and the text of the error."""


def pieces(*some: str, before: tuple[str, ...] = ()) -> dict[str, Any]:
    """Make a request for a stream of these pieces. ``…`` waits for `opened`, ``!`` fails, ``∞`` has no end."""
    return asked(*before, "pieces", data={"pieces": some})


class StreamingContract(HttpContract):
    @asynccontextmanager
    async def streaming(self, api: HttpApi, body: Any) -> AsyncIterator[tuple[str, HttpConnection]]:
        """Start a stream, and give the job's id and the connection."""
        async with api.begun("POST", PATH, body) as (head, connection):
            assert head.status == 200, await connection.piece()
            assert (head.header("Content-Type"), head.header("Content-Length")) == ("application/octet-stream", None)
            assert head.header("Transfer-Encoding") == "chunked", "only of chunks can a reader tell half from all"
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
            for body, error in WRONG:
                answer = await api.post(PATH, body)
                assert (answer.status, error in answer.error) == (400, True), body
            await api.submit("gate")
            full = await api.post(PATH, pieces("a"))
            assert (full.status, bool(full.error), full.pause_seconds >= 1) == (503, True, True)
            assert "pieces" not in api.served.runner.calls

    async def test_a_stream_that_fails_is_cut_off_and_never_looks_whole(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            async with self.streaming(api, pieces("a", "!")) as (id, connection):
                assert await connection.piece() == b"a"
                with pytest.raises(CutOff):
                    await self.rest(connection)
            (job,) = await api.results(id)
            assert (job["status"], job["result"]) == ("failed", {"container": "pieces", "error": "as it was told"})

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
            answer = await api.sent(api.request("POST", PATH, pieces("a")).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
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
