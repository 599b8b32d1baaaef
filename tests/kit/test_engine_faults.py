"""The suite of engines that fail, on the small one that the kit has, in a process of its own."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from chance import each_run

from nodekit import SharedStore
from nodekit.testing import EngineFaultContract, SharedServer
from nodekit.testing.shared_store.remote import SharedServerStore


class Control:
    """The handles on the engine. Each of its calls waits for the process, and so runs in a thread."""

    def __init__(self, server: SharedServer) -> None:
        self._server = server

    @property
    def address(self) -> tuple[str, int]:
        return self._server.address

    async def kill(self) -> None:
        await anyio.to_thread.run_sync(self._server.kill)

    async def start(self) -> None:
        await anyio.to_thread.run_sync(self._server.start)

    async def read_only(self, on: bool, /) -> None:
        await anyio.to_thread.run_sync(partial(self._server.read_only, on))


class TestSharedServerStore(EngineFaultContract):
    """Its jobs are in a file, its sessions and claims in the memory of the engine."""

    backends = each_run(("asyncio",), ("asyncio", "trio"))

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[Control]:
        with SharedServer(tmp_path / "jobs.db", lease_seconds=self.lease_seconds) as server:
            yield Control(server)

    @pytest.fixture
    def open_at(self) -> Callable[[str, int], SharedStore]:
        return SharedServerStore
