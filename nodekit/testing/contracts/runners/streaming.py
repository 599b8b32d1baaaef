"""Promises of a `StreamingRunner`."""

import tracemalloc
from collections.abc import AsyncIterator

import anyio
import msgspec
import pytest

from nodekit import ContainerFailed, ContainerId, Location, Step, StreamingRunner
from nodekit.testing.builders.jobs import make_step
from nodekit.testing.contracts.bounds import Pieces, within
from nodekit.testing.contracts.runners.runner import ContainerRunnerContract


class StreamingRunnerContract(ContainerRunnerContract):
    """Suite of a runner that streams, in addition to `ContainerRunnerContract`. The runner has two more containers."""

    endless: ContainerId = "endless"
    """Container that gives endless pieces, as fast as they are read."""
    broken: ContainerId = "broken"
    """Container that gives a piece and then fails."""
    buffered_bytes: int = 8 << 20
    """Maximum number of bytes that are read of a container ahead of the reader."""

    def step(self, container: ContainerId, data: object = None) -> Step:
        return make_step(container, data, destination=Location.STREAM)

    async def streamed(self, runner: StreamingRunner, step: Step) -> bytes:
        with within(self.timeout_seconds, f"the stream of {step.container!r} ends"):
            async with runner.stream(step) as pieces:
                came = Pieces()
                async for piece in pieces:
                    await came.take(piece)
                return came.whole

    async def begun(self, runner: StreamingRunner) -> None:
        """Read a piece of `endless`, and leave the stream."""
        with anyio.fail_after(self.timeout_seconds):
            async with runner.stream(self.step(self.endless)) as pieces:
                await self._gives_a_piece(pieces)

    async def _gives_a_piece(self, pieces: AsyncIterator[bytes]) -> None:
        """Read a piece of `endless`."""
        with within(self.timeout_seconds, f"the container {self.endless!r} gives a piece"):
            assert await anext(aiter(pieces))

    async def test_what_a_container_answers_is_streamed_too(self, runner: StreamingRunner) -> None:
        data = {"text": "grüße", "large": "x" * 300_000}
        async with runner:
            assert msgspec.json.decode(await self.streamed(runner, self.step(self.echo, data))) == data

    async def test_a_stream_that_fails_says_why(self, runner: StreamingRunner) -> None:
        async with runner:
            with pytest.raises(ContainerFailed) as raised:
                await self.streamed(runner, self.step(self.fail))
            assert raised.value.text.strip()
            assert await self.streamed(runner, self.step(self.echo, {"after": 1}))

    async def test_pieces_come_before_the_end_and_leaving_gives_up_the_call_at_once(
        self, runner: StreamingRunner
    ) -> None:
        async with runner:
            for _ in range(3):
                await self.begun(runner)
            assert (await self.outcome(runner, make_step(self.echo, {"a": 1}))).value == {"a": 1}

    async def test_a_container_that_fails_in_mid_stream_is_no_end(self, runner: StreamingRunner) -> None:
        came = Pieces()

        async def read() -> None:
            async with runner.stream(self.step(self.broken)) as stream:
                async for piece in stream:
                    await came.take(piece)

        async with runner:
            with pytest.raises(ContainerFailed) as raised, anyio.fail_after(self.timeout_seconds):
                await read()
        assert raised.value.text.strip()
        assert came.whole, "nothing came before it failed"

    async def test_no_more_is_read_than_is_asked_for(self, runner: StreamingRunner) -> None:
        async with runner, runner.stream(self.step(self.endless)) as pieces:
            await self._gives_a_piece(pieces)
            tracemalloc.start()
            try:
                await anyio.sleep(0.3)
                read, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert read < self.buffered_bytes, "a slow reader does not slow the container down"

    async def test_streams_go_on_beside_each_other(self, runner: StreamingRunner) -> None:
        async with runner, runner.stream(self.step(self.endless)) as pieces:
            await self._gives_a_piece(pieces)
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(self.begun, runner)
            await self._gives_a_piece(pieces)

    @pytest.mark.parametrize("pause", [0.0, 0.01, 0.2])
    async def test_cancelling_a_stream_gives_it_up_at_once(self, runner: StreamingRunner, pause: float) -> None:
        async with runner:
            for container in (self.slow, self.endless):
                with anyio.fail_after(pause + self.prompt_seconds), anyio.move_on_after(pause):
                    async with runner.stream(self.step(container)) as pieces:
                        async for _ in pieces:
                            await anyio.lowlevel.checkpoint()
                    raise AssertionError(f"{container} came to an end")
            assert await self.streamed(runner, self.step(self.echo, {"a": 1}))

    async def test_exit_leaves_nothing_behind_of_streams_that_were_left(self, runner: StreamingRunner) -> None:
        async with runner:
            await self.begun(runner)
        assert self.nothing_is_left(runner)
