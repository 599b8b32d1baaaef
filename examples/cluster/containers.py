"""Containers of the example. Each takes its time, and adds the name of its node to the data."""

import os
from typing import Any

import anyio

NODE = os.environ.get("NODE", "?")


async def fetch(data: Any) -> Any:
    return await worked(data, 0.1)


async def detect(data: Any) -> Any:
    return await worked(data, 0.3)


async def label(data: Any) -> Any:
    return await worked(data, 0.05)


async def worked(data: Any, seconds: float) -> Any:
    await anyio.sleep(seconds)
    return {**data, "nodes": [*data.get("nodes", []), NODE]}
