"""The HTTP API as clients know it: submit jobs, read them and follow them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import anyio
import pytest

from nodekit import JobId, Refusal, Transport, Unavailable
from nodekit.testing.contracts.bounds import within
from nodekit.testing.contracts.transports.http_client import HttpAnswer, HttpClient, HttpConnection
from nodekit.testing.contracts.transports.listening import unix_path
from nodekit.testing.contracts.transports.served import Served
from nodekit.testing.contracts.transports.serving import TransportBase

UNKNOWN = "01900000-0000-7000-8000-000000000000"
"""An id that no job has."""


def asked(*containers: str, data: Any = None, **fields: Any) -> dict[str, Any]:
    """Make the JSON of a `JobRequest`."""
    return {"containers": containers or ["echo"], "data": {} if data is None else data, **fields}


class HttpApi(HttpClient):
    """A client of a served node."""

    def __init__(self, served: Served, url: str, *, timeout_seconds: float, source: str | None = None) -> None:
        super().__init__(url, timeout_seconds=timeout_seconds, source=source)
        self.served = served

    @property
    def address(self) -> str | None:
        """Address that the node sees for this client. None on a unix socket."""
        return (self.source or "127.0.0.1") if unix_path(self.url) is None else None

    def of(self, source: str) -> "HttpApi":
        """Return a client of the same node that calls from another address."""
        return HttpApi(self.served, self.url, timeout_seconds=self.timeout_seconds, source=source)

    async def submit(self, *containers: str, **data: Any) -> JobId:
        answer = await self.post("/api/jobs", asked(*containers, data=data))
        assert answer.status == 200, answer
        return str(answer.json["id"])

    async def batch(self, *items: Any) -> list[JobId]:
        answer = await self.post("/api/jobs/batch", items)
        assert answer.status == 200, answer
        return [item["id"] for item in answer.json]

    async def job(self, id: JobId) -> Any:
        """Fetch a job as it is now, with the results of its steps."""
        (found,) = (await self.get(f"/api/jobs?id={id}&intermediate=true")).json
        return found

    async def results(self, *ids: JobId) -> list[Any]:
        """Wait until all of these jobs are finished, and return them."""
        query = urlencode([*(("id", id) for id in ids), ("intermediate", "true")])
        with within(self.timeout_seconds, f"the node answers that {len(ids)} jobs are finished"):
            while True:
                jobs: list[Any] = (await self.get(f"/api/jobs?{query}")).json
                if all(job["status"] != "running" for job in jobs):
                    return jobs
                await anyio.sleep(0.005)

    async def listed(self, query: str = "") -> list[JobId]:
        answer = await self.get(f"/api/jobs?{query}" if query else "/api/jobs")
        assert answer.status == 200, answer
        return list(answer.json)

    @asynccontextmanager
    async def begun(
        self, method: str, path: str, body: Any = None, *headers: tuple[str, str]
    ) -> AsyncIterator[tuple[HttpAnswer, HttpConnection]]:
        """Send a request, and give the head of the reply and its connection."""
        async with self.connected() as connection:
            await connection.send(self.request(method, path, body, headers))
            with anyio.fail_after(self.timeout_seconds):
                head = await connection.head()
            yield head, connection


class HttpBase(TransportBase):
    """Base of the suite of HTTP transports: its clients speak HTTP. It has helpers and no tests."""

    beginning = b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"

    async def submit(self, url: str, *containers: str, data: Any = None, source: str | None = None) -> JobId:
        answer = await self._client(url, source).post("/api/jobs", asked(*containers, data=data))
        if answer.status in (429, 503):
            raise Unavailable(answer.error, retry_after_seconds=answer.pause_seconds)
        if answer.status == 400:
            raise Refusal(answer.error, **answer.params)
        assert answer.status == 200, answer
        return str(answer.json["id"])

    async def fetch(self, url: str, id: JobId, *, source: str | None = None) -> Any:
        answer = await self._client(url, source).get(f"/api/jobs?id={id}")
        if answer.status == 404:
            assert answer.error
            return None
        assert answer.status == 200, answer
        (job,) = answer.json
        return job

    def _client(self, url: str, source: str | None) -> HttpClient:
        return HttpClient(url, timeout_seconds=self.timeout_seconds, source=source)

    @asynccontextmanager
    async def api(
        self, *transports: Transport, plugins: Sequence[object] = (), **settings: Any
    ) -> AsyncIterator[HttpApi]:
        """Serve a node, and give a client of it."""
        async with self.serving(*transports, plugins=plugins, **settings) as served:
            yield HttpApi(served, served.url, timeout_seconds=self.timeout_seconds)

    def skip_without(self, capability: str) -> None:
        if not getattr(self, capability):
            pytest.skip(f"{capability} = False")
