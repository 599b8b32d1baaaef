"""The containers of a cluster, in the process of the drill: they write down who calls them for which step."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Call:
    """A call of a container.

    - `key`: The job and the number of the step, as its `Idempotency-Key` has them.
    - `node`: Name of the node that called.
    - `began_at`, `ended_at`: Unix times. The end is missing if the caller did not wait for it.
    """

    job: str
    step: int
    node: str
    container: str
    began_at: float
    ended_at: float | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.job, self.step


@dataclass
class Containers:
    """Containers that append their name to a path. Each node calls them at a URL of its own."""

    calls: list[Call] = field(default_factory=list)
    port: int = 0

    def url(self, node: str) -> str:
        return f"http://127.0.0.1:{self.port}/{node}"

    async def answer(self, request: web.Request) -> web.Response:
        job, _, step = request.headers["Idempotency-Key"].partition(":")
        node, container = request.match_info["node"], request.match_info["container"]
        call = Call(job, int(step), node, container, time.time())
        self.calls.append(call)
        data = (await request.json())["data"]
        await asyncio.sleep(data["seconds"])
        call.ended_at = time.time()
        return web.json_response({**data, "path": [*data["path"], container]})


@asynccontextmanager
async def containers() -> AsyncIterator[Containers]:
    """Serve containers on a free port."""
    found = Containers()
    app = web.Application()
    app.router.add_post("/{node}/{container}/service_output", found.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    found.port = runner.addresses[0][1]
    try:
        yield found
    finally:
        await runner.cleanup()
