"""Runners that leave something, or block. `tests/kit/test_caught.py` runs the suite on them."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from nodekit import Container, ContainerFailed, ContainerOutput, Step
from nodekit.testing import ContainerRunnerContract
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

        for id, function in {"echo": echo, "fail": fail, "slow": slow}.items():
            self.add(Container(id=id), function)


class LeavesWhatWasGivenUp(Sound):
    """A call that was given up goes on."""

    async def run(self, step: Step) -> ContainerOutput:
        return await asyncio.shield(asyncio.create_task(super().run(step), name=f"call of {step.container}"))


class LeavesADescriptor(Sound):
    """A connection that failed is not closed."""

    async def run(self, step: Step) -> ContainerOutput:
        connection = os.open(__file__, os.O_RDONLY)
        output = await super().run(step)
        os.close(connection)
        return output


class LeavesAThread(Sound):
    async def __aenter__(self) -> "LeavesAThread":
        threading.Thread(target=time.sleep, args=(4,), name="looks after containers").start()
        return self


class BlocksTheLoop(Sound):
    """It talks to its containers without `await`."""

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


def suite(broken: Callable[[], FunctionRunner]) -> type[ContainerRunnerContract]:
    class Suite(ContainerRunnerContract):
        backends = ("asyncio",)
        opaque = False
        timeout_seconds = 5.0
        prompt_seconds = 1.0

        @pytest.fixture
        def runner(self) -> FunctionRunner:
            return broken()

    return Suite


TestSound = suite(Sound)
TestLeavesWhatWasGivenUp = suite(LeavesWhatWasGivenUp)
TestLeavesADescriptor = suite(LeavesADescriptor)
TestLeavesAThread = suite(LeavesAThread)
TestBlocksTheLoop = suite(BlocksTheLoop)
TestRaisesWhatItLikes = suite(RaisesWhatItLikes)
TestMixesUpItsCalls = suite(MixesUpItsCalls)
