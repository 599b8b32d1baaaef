"""Clients of several cells, as the page divides them with HAProxy: each finds its jobs again, whenever it asks."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from engine import debian
from engine.fixtures import or_unavailable
from http_api import Api, free_port
from paths import ROOT
from served import serve

from cluster.balanced import NAMES, haproxy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(200)]

PAGE = ROOT / "docs" / "how-to" / "watch-a-cluster.md"
DEFAULTS = "defaults\n mode http\n timeout connect 2s\n timeout client 90s\n timeout server 90s\n"
NODE = """
[store]
use = "memory"
[[runners]]
use = "function"
[[runners.containers]]
id = "echo"
call = "{name}.py:echo"
[[transports]]
use = "asgi"
bind = "127.0.0.1:{port}"
trusted_proxies = ["127.0.0.1"]
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def cells(tmp_path: Path) -> AsyncIterator[str]:
    """Run two cells of one node, and HAProxy before them. Give its URL."""
    with or_unavailable(debian.Missing):
        debian.need("haproxy")
    blocks = re.findall(r"^```haproxy\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(DEFAULTS + "".join(blocks))
    port, *ports = (free_port() for _ in range(3))
    files = [tmp_path / f"{name}.toml" for name in NAMES[:2]]
    for file, number in zip(files, ports, strict=True):
        file.write_text(NODE.format(port=number, name=file.stem))
        file.with_suffix(".py").write_text(f"async def echo(data):\n    return {file.stem!r}\n")
    async with serve(files[0]), serve(files[1]):
        with haproxy(port, ports, configuration) as url:
            await answered(url)
            yield url


async def answered(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        with anyio.fail_after(60):
            while True:
                try:
                    if (await Api(url, session).get("/health")).status == 200:
                        return
                except aiohttp.ClientError:
                    pass
                await anyio.sleep(0.05)


@pytest.mark.parametrize("by", ["address", "key"])
async def test_a_client_always_reaches_the_cell_that_has_its_jobs(cells: str, by: str) -> None:
    seen = set[str]()
    for number in range(2, 14):
        address = f"127.0.0.{number}" if by == "address" else "127.0.0.1"
        headers = {"Authorization": f"Bearer key-{number}"} if by == "key" else {}
        ids, found = list[str](), list[Any]()
        for _ in range(3):  # each time over another connection
            connector = aiohttp.TCPConnector(local_addr=(address, 0))
            async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
                ids.append(await Api(cells, session).submit("echo"))
                found = await Api(cells, session).results(*ids)
        assert len(found) == len(ids)
        [cell] = {job["result"]["output"] for job in found}
        seen.add(cell)
    assert seen == {"red", "green"}
