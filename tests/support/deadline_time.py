"""The clock of a server's deadlines, moved by a test."""

import asyncio

import anyio
import pytest
from connections import rest
from http_api import RawConnection

from nodekit_asgi.server.deadlines import Deadlines


class Time:
    """Time that passes when a test says so."""

    deadlines: Deadlines

    def pass_by(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.deadlines.check(0.25)

    async def pass_until_closed(self, connection: RawConnection) -> bytes:
        """Let time pass until the node has closed a connection; return what it sent."""
        task = asyncio.create_task(rest(connection))
        while not task.done():
            self.pass_by(1)
            await asyncio.sleep(0.005)
        return await task


def stopped(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Take over the clock of the servers that start from now on."""
    time = Time()

    async def stand_still(self: Deadlines) -> None:
        time.deadlines = self
        await anyio.sleep_forever()

    monkeypatch.setattr(Deadlines, "keep", stand_still)
    return time
