"""The worker of the peer: it runs the steps of a job in the container. `arq worker.Settings`."""

import os
from typing import Any, ClassVar

import aiohttp
from arq.connections import RedisSettings

URL = f"http://127.0.0.1:{os.environ['CONTAINER_PORT']}/service_output"


async def startup(context: dict[str, Any]) -> None:
    context["session"] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


async def shutdown(context: dict[str, Any]) -> None:
    await context["session"].close()


async def run(context: dict[str, Any], containers: list[str], data: dict[str, Any]) -> dict[str, Any]:
    for _ in containers:
        async with context["session"].post(URL, json={"source": 1, "destination": 0, "data": data}) as response:
            response.raise_for_status()
            data = await response.json()
    return data


class Settings:
    """The settings of arq that suit many short jobs: it looks for new ones often and runs as many at once as a node."""

    functions: ClassVar = [run]
    on_startup, on_shutdown = startup, shutdown
    redis_settings = RedisSettings(port=int(os.environ["REDIS_PORT"]))
    max_jobs = 64
    poll_delay = 0.01
    keep_result = 3600
