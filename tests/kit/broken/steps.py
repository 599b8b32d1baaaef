"""Plugins around steps that break a promise each. `tests/kit/test_caught.py` runs the suite on them."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from nodekit import ContainerFailed, ContainerOutput, NodekitError, Step, StepCall, decode_payload, encode_payload
from nodekit.testing import StepContract


class Sound:
    async def nodekit_step(self, step: Step, call: StepCall) -> ContainerOutput:
        return await call(replace(step, headers={"x-job": step.job_id}))


class ForgetsToReturn(Sound):
    async def nodekit_step(self, step: Step, call: StepCall) -> Any:
        await call(step)


class TranslatesFailures(Sound):
    async def nodekit_step(self, step: Step, call: StepCall) -> ContainerOutput:
        try:
            return await call(step)
        except ContainerFailed as failure:
            raise NodekitError("the container failed") from failure


class ShieldsItsCall(Sound):
    async def nodekit_step(self, step: Step, call: StepCall) -> ContainerOutput:
        with anyio.move_on_after(4, shield=True):
            return await call(step)
        raise ContainerFailed("timeout", "it took too long")


class TurnsTimeoutsIntoFaults(Sound):
    async def nodekit_step(self, step: Step, call: StepCall) -> ContainerOutput:
        try:
            return await call(step)
        except anyio.get_cancelled_exc_class() as cancelled:
            raise RuntimeError("it was cut short") from cancelled


class LosesPieces(Sound):
    async def nodekit_step(self, step: Step, call: StepCall) -> ContainerOutput:
        async def lost(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async for _ in pieces:
                yield b""

        return await call(step, pieces=lost)


class KeepsTheStep(Sound):
    """Keeps the step in itself, where another one replaces it."""

    async def nodekit_step(self, step: Step, call: StepCall) -> ContainerOutput:
        self.step = step
        await anyio.sleep(0.001)
        return await call(self.step)


class ExpectsObjects(Sound):
    async def nodekit_step(self, step: Step, call: StepCall) -> ContainerOutput:
        output = await call(step)
        data = decode_payload(output.output)
        return replace(output, output=encode_payload({**data, "seen": True}))


class Suite(StepContract):
    subject: type[Sound]

    @pytest.fixture
    def plugin(self) -> Sound:
        return self.subject()


HURRIED = {"timeout_seconds": 2.0}
