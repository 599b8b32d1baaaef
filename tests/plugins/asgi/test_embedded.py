"""A node in an application that uvicorn serves, under uvicorn's own signals."""

import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import anyio
import anyio.to_thread
import pytest
from components import until
from http_api import free_port

pytestmark = pytest.mark.anyio

APPLICATION = """
import sys

import anyio
import uvicorn

from nodekit import Node, NodeLimits
from nodekit.testing import make_function_runner
from nodekit_asgi import AsgiApp
from nodekit_memory import MemoryStore


async def long(data):
    await anyio.sleep(600)


node = Node(
    store=MemoryStore(),
    runners=[make_function_runner(functions={"long": long})],
    limits=NodeLimits(drain_seconds=0.5),
)


class Server(uvicorn.Server):
    async def shutdown(self, sockets=None):
        await node.drain()
        await super().shutdown(sockets)


async def serve():
    async with node:
        await Server(uvicorn.Config(AsgiApp(node), host="127.0.0.1", port=int(sys.argv[1]))).serve()


anyio.run(serve)
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_followers_of_a_long_job_do_not_hold_up_its_end(tmp_path: Path) -> None:
    program, port = tmp_path / "application.py", free_port()
    program.write_text(APPLICATION)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, program, str(port)], stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session:
            await until(lambda: process.poll() is not None or b"running on" in (tmp_path / "log").read_bytes())
            async with session.post(f"{url}/api/jobs", json={"containers": ["long"], "data": {}}) as reply:
                id = (await reply.json())["id"]
            async with session.get(f"{url}/api/jobs/{id}/events") as events:
                assert await events.content.readline()
                process.send_signal(signal.SIGTERM)
                with anyio.fail_after(60):
                    await events.read()
                    code = await anyio.to_thread.run_sync(lambda: process.wait(60))
        assert code in (0, -signal.SIGTERM), (tmp_path / "log").read_text()
        assert "Traceback" not in (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
