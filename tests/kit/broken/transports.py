"""Transports that break a promise each, of no kind in particular. `tests/kit/test_caught.py` runs the suite on them."""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import msgspec
import pytest
from anyio.abc import SocketListener, SocketStream, TaskStatus
from http_api import free_port
from lines_suite import LinesSuite
from lines_transport import LinesTransport

from nodekit import JobRequest, Node, Refusal, Unavailable, encode_payload


class Sound(LinesTransport):
    """Speaks JSON in lines."""

    def close(self) -> None:
        """Remove what was left."""


class IgnoresCancellation(Sound):
    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        try:
            await super().serve(node, task_status=task_status)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(3)


class SaysTooEarly(Sound):
    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        self.port = free_port()
        task_status.started([f"lines://127.0.0.1:{self.port}"])
        await super().serve(node, task_status=anyio.TASK_STATUS_IGNORED)


class SaysNothing(Sound):
    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        task_status.started(())
        await super().serve(node, task_status=anyio.TASK_STATUS_IGNORED)


class FailsWithoutAnAddress(Sound):
    async def listen(self) -> SocketListener:
        return (await anyio.create_tcp_listener(local_host=self.host, local_port=self.port)).listeners[0]


class StartsWithoutListening(Sound):
    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        try:
            await super().serve(node, task_status=task_status)
        except Exception:
            task_status.started([f"lines://{self.host}:{self.port}"])
            await anyio.sleep_forever()


class KeepsItsPort(Sound):
    kept = -1

    async def listen(self) -> SocketListener:
        listener = await super().listen()
        self.kept = os.dup(listener.extra(anyio.abc.SocketAttribute.raw_socket).fileno())
        return listener

    def close(self) -> None:
        os.close(self.kept)


class LeaksATask(Sound):
    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        self.task = asyncio.create_task(asyncio.sleep(60))
        return await super().answer(line, node, client)


class BlocksTheLoop(Sound):
    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        time.sleep(0.7)
        return await super().answer(line, node, client)


class ServesOneClientAtATime(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.turn = anyio.Lock()

    async def answer_all(self, client: SocketStream, node: Node) -> None:
        async with self.turn:
            await super().answer_all(client, node)


class AnswersOneRequestAtATime(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.turn = anyio.Lock()

    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        async with self.turn:
            return await super().answer(line, node, client)


class MixesReplies(Sound):
    last: Any = None

    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        self.last = await super().answer(line, node, client)
        await anyio.sleep(0.001)
        return self.last


class SharesTheFirstNode(Sound):
    nodes: list[Node] = []  # noqa: RUF012

    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        self.nodes.append(node)
        return await super().answer(line, self.nodes[0], client)

    def close(self) -> None:
        self.nodes.clear()


class EndsWithAClient(Sound):
    async def answer_all(self, client: SocketStream, node: Node) -> None:
        async with client:
            while line := await client.receive():
                await client.send(msgspec.json.encode(await self.answer(line, node, "127.0.0.1")) + b"\n")


class StopsReadingWhileItDrains(Sound):
    async def asked(self, request: dict[str, Any], node: Node, client: str) -> Any:
        if not (await node.health()).healthy:
            raise Unavailable("draining", retry_after_seconds=1)
        return await super().asked(request, node, client)


class AnswersBeforeItKeeps(Sound):
    """Answers before the job is kept."""

    async def asked(self, request: dict[str, Any], node: Node, client: str) -> Any:
        if "submit" in request:
            with anyio.move_on_after(0.02):
                return await super().asked(request, node, client)
            return {"id": "soon"}
        return await super().asked(request, node, client)


class TakesAllForOneClient(Sound):
    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        return await super().answer(line, node, "anybody")


class AsksNoLimit(Sound):
    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        try:
            return await self.asked(msgspec.json.decode(line), node, client)
        except Refusal as refusal:
            return {"refused": refusal.reason, "params": refusal.params}


class ForgetsParams(Sound):
    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        told = await super().answer(line, node, client)
        return {**told, "params": {}} if "params" in told else told


class SaysNotWhenToComeBack(Sound):
    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        told = await super().answer(line, node, client)
        return {**told, "seconds": 0} if "seconds" in told else told


class EndsWithAFault(Sound):
    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        told = await super().answer(line, node, client)
        if "error" in told:
            raise RuntimeError(told["error"])
        return told


class ForgetsData(Sound):
    async def asked(self, request: dict[str, Any], node: Node, client: str) -> Any:
        if "submit" in request:
            asked = JobRequest(containers=tuple(request["submit"]), data=encode_payload({"n": 1}), client=client)
            return {"id": (await node.submit(asked)).id}
        return await super().asked(request, node, client)


class Suite(LinesSuite):
    subject: type[Sound]

    @pytest.fixture
    def transport(self) -> Iterator[Sound]:
        transport = self.subject()
        yield transport
        transport.close()


HURRIED = {"timeout_seconds": 1.0, "stop_seconds": 1.0}
