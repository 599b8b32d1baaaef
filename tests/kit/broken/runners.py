"""Runners that leave something, block, or do not stream. `tests/kit/test_caught.py` runs the suite on them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

from nodekit import Container, ContainerFailed, ContainerOutput, Step
from nodekit.testing import StreamingRunnerContract
from nodekit_function import FunctionRunner


class Sound(FunctionRunner):
    def __init__(self) -> None:
        super().__init__()

        async def echo(data: Any) -> Any:
            return data

        async def fail(data: Any) -> Any:
            raise ValueError("no")

        async def slow(data: Any) -> Any:
            await anyio.sleep(600)

        async def endless(data: Any) -> AsyncIterator[bytes]:
            while True:
                await anyio.lowlevel.checkpoint()
                yield b"x" * 10_000

        async def broken(data: Any) -> AsyncIterator[bytes]:
            yield b"half"
            raise ValueError("no more")

        functions = {"echo": echo, "fail": fail, "slow": slow, "endless": endless, "broken": broken}
        for id, function in functions.items():
            self.add(Container(id=id), function)  # type: ignore[arg-type]


class NamesAnotherInstance(Sound):
    def instance(self, container: str) -> str:
        return f"{container}-7"


class LeavesWhatWasGivenUp(Sound):
    """Continues calls that were given up."""

    async def run(self, step: Step) -> ContainerOutput:
        return await asyncio.shield(asyncio.create_task(super().run(step), name=f"call of {step.container}"))


class BlocksTheLoop(Sound):
    """Calls its containers without `await`."""

    async def run(self, step: Step) -> ContainerOutput:
        time.sleep(0.05)
        return await super().run(step)


class RaisesWhatItLikes(Sound):
    async def run(self, step: Step) -> ContainerOutput:
        try:
            return await super().run(step)
        except ContainerFailed as failed:
            raise ValueError(failed.text) from failed


class MixesUpItsCalls(Sound):
    data: Any = None

    async def run(self, step: Step) -> ContainerOutput:
        self.step = step
        await anyio.sleep(0.001)
        return await super().run(self.step)


class ReadsAhead(Sound):
    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[Any]:  # type: ignore[override]
        async with super().stream(step) as pieces, anyio.create_task_group() as tasks:
            sender, receiver = anyio.create_memory_object_stream[bytes](10_000_000)

            async def read() -> None:
                async with sender:
                    async for piece in pieces:
                        await sender.send(bytes(bytearray(piece)))

            tasks.start_soon(read)
            async with receiver:
                yield receiver
            tasks.cancel_scope.cancel()


class EndsQuietly(Sound):
    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[Any]:  # type: ignore[override]
        async def quiet(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            with suppress(ContainerFailed):
                async for piece in pieces:
                    yield piece

        async with super().stream(step) as pieces, aclosing(quiet(pieces)) as quietly:  # type: ignore[type-var]
            yield quietly


class WaitsForTheEnd(Sound):
    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[Any]:  # type: ignore[override]
        async def whole(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            yield b"".join([piece async for piece in pieces])

        async with super().stream(step) as pieces, aclosing(whole(pieces)) as at_once:  # type: ignore[type-var]
            yield at_once


class Suite(StreamingRunnerContract):
    opaque = False
    buffered_bytes = 1 << 20
    subject: type[Sound]

    @pytest.fixture
    def runner(self) -> Sound:
        return self.subject()


HURRIED = {"timeout_seconds": 1.0, "prompt_seconds": 1.0}
