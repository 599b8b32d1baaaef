"""Faults around a node, one after the other, in an order that a seed decides."""

import asyncio
import math
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from components import until
from shapes import children

from soak.clients import GONE, Client
from soak.lives import PATIENCE_SECONDS, Far, Lives

STEADY_SECONDS = 60.0
"""Time after which a container that dies is started again at once."""


class Faults:
    """The faults: of containers, of connections, of the log, and of a client that wants everything."""

    def __init__(self, lives: Lives, far: Far, greedy: Client, folder: Path, seed: int) -> None:
        self._lives, self._far, self._greedy, self._folder = lives, far, greedy, folder
        self._random = random.Random(f"{seed}/faults")
        self.counts: Counter[str] = Counter()
        self._died_at: dict[str, float] = {}

    async def run(self, stop: asyncio.Event, pause_seconds: float) -> None:
        faults = [
            self.container_dies,
            self.container_is_killed,
            self.far_hangs,
            self.far_is_killed,
            self.log_is_rotated,
            self.queue_is_full,
            self.connections_are_left,
        ]
        deaths = [self.container_dies, self.container_is_killed]
        while not stop.is_set():
            for fault in self._random.sample(faults, len(faults)):
                await asyncio.sleep(pause_seconds * self._random.uniform(0.5, 1.5))
                await self._lives.listening.wait()
                if stop.is_set():
                    break
                if fault in deaths and not self._may_die(fault.__name__):
                    continue
                with suppress(*GONE, ProcessLookupError):
                    await fault()
                    self.counts[fault.__name__.replace("_", " ")] += 1

    def _may_die(self, word: str) -> bool:
        """Return True at most once in a while: a container that dies again and again is started later and later."""
        now = time.monotonic()
        if now < self._died_at.get(word, -math.inf) + STEADY_SECONDS:
            return False
        self._died_at[word] = now
        return True

    async def container_dies(self) -> None:
        body, expected = self._greedy.job(op="die")
        expected.may_fail = True
        await self._greedy.send({**body, "containers": ["frail"]}, expected)

    async def container_is_killed(self) -> None:
        """Kill the process of a container from outside, as the kernel does if memory is short.

        In the last life it is always the same one, so that the memory of the others can be judged.
        """
        node = self._lives.served.process.pid
        containers = [three for one in children(node) for two in children(one) for three in children(two)]
        if self._lives.is_last:
            containers = [pid for pid in containers if b"SOAK_ID=spare" in Path(f"/proc/{pid}/environ").read_bytes()]
        if containers:
            os.kill(self._random.choice(containers), signal.SIGKILL)

    async def far_hangs(self) -> None:
        self._far.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(2)
        finally:
            self._far.process.send_signal(signal.SIGCONT)

    async def far_is_killed(self) -> None:
        self._far.restart()

    async def log_is_rotated(self) -> None:
        """Move the log away, as logrotate does, and tell the node by SIGHUP."""
        log = self._folder / "node.log"
        log.replace(self._folder / "moved.log")
        self._lives.served.signal(signal.SIGHUP)
        with suppress(TimeoutError):
            await until(lambda: log.exists() or not self._lives.listening.is_set(), seconds=PATIENCE_SECONDS)
        if self._lives.listening.is_set() and not log.exists():
            self._lives.wrong.append("SIGHUP did not open the log anew")

    async def queue_is_full(self) -> None:
        """Submit as one client until it has its share."""
        for _ in range(10):
            jobs = [self._greedy.job() for _ in range(100)]
            answer = await self._greedy.api.post("/api/jobs/batch", [body for body, _ in jobs])
            if answer.status != 200:
                return
            for (_, expected), item in zip(jobs, answer.json, strict=True):
                if "id" in item:
                    self._greedy.enter(item["id"], expected)

    async def connections_are_left(self) -> None:
        """Open connections, send half a head on each, and drop them all at once."""
        opened = []
        for _ in range(40):
            with suppress(OSError):
                _, writer = await asyncio.open_connection(
                    *self._greedy.api.address, local_addr=(self._greedy.address, 0)
                )
                writer.write(b"GET /info HTTP/1.1\r\nX-Half: ")
                opened.append(writer)
        await asyncio.sleep(0.5)
        for writer in opened:
            writer.transport.abort()
