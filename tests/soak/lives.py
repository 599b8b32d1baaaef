"""The lives of one node: it is started, killed, and started again, on the same file."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

from components import until
from http_api import free_port
from served import Served, started
from shapes import marked

from soak.plan import HERE, Plan

PATIENCE_SECONDS = 120
"""Time that a start, or an end, may take on a machine that is very busy."""


class Far:
    """A container that is not the node's: it may be killed, stopped and started again, at the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, str(HERE / "worker.py"), str(self.port)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def restart(self) -> None:
        self.end()
        self.process = self._start()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class Lives:
    """The node. Clients wait for `listening` and call `url`."""

    def __init__(self, plan: Plan, folder: Path, far: Far) -> None:
        self._plan, self._folder, self._far = plan, folder, far
        self._stack = AsyncExitStack()
        self._mark = ""
        self.listening = asyncio.Event()
        self.is_last = False
        """True in the life that is judged."""
        self.served: Served
        self.url = ""
        self.wrong: list[str] = []

    async def start(self) -> None:
        self._mark = uuid4().hex
        file = self._plan.write(self._folder, self._far.port, self._mark)
        env = {**os.environ, "SOAK_PLANT": self._plan.plant}
        self.served = await self._stack.enter_async_context(started("serve", file, folder=self._folder, env=env))
        await until(lambda: self.served.url or self.served.process.poll() is not None, seconds=PATIENCE_SECONDS)
        if not self.served.url:
            raise RuntimeError(f"the node did not start: {self.served.log[-2000:]}")
        self.url = self.served.url
        self.listening.set()

    async def restart(self, number: signal.Signals) -> None:
        """End the node by a signal, and start it again at once, as a service manager does."""
        await self.end(number)
        await self.start()

    async def end(self, number: signal.Signals) -> None:
        """End the node. Nothing that it has started may outlive it by much."""
        self.listening.clear()
        self.served.signal(number)
        code = await self.served.ended()
        expected = 0 if number == signal.SIGTERM else -number
        if code != expected:
            self.wrong.append(f"the node ended with {code} after {number.name}")
        try:
            await until(lambda: not marked(self._mark), seconds=PATIENCE_SECONDS)
        except TimeoutError:
            self.wrong.append(f"left after {number.name}: {marked(self._mark)}")
        if "Traceback" in (log := self.served.log):
            self.wrong.append(f"a traceback in its log: {log[log.index('Traceback') :].splitlines()[:30]}")

    def check(self) -> None:
        """Raise `RuntimeError` if the node has ended by itself."""
        if self.listening.is_set() and (code := self.served.process.poll()) is not None:
            raise RuntimeError(f"the node ended with {code} by itself: {self.served.log[-2000:]}")

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Lives"]:
        try:
            await self.start()
            yield self
        finally:
            await self._stack.aclose()
