"""Promises of a guard: a plugin that may refuse requests by `nodekit_admit` or `nodekit_limit`."""

import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import msgspec
import pytest
from msgspec.structs import replace

from nodekit import Identity, Job, JobRequest, Node, Refusal, Unavailable, encode_payload
from nodekit.testing.builders.jobs import make_request
from nodekit.testing.contracts.failure_messages import shown, shown_objection
from nodekit.testing.contracts.plugins.hostile import hostile_requests
from nodekit.testing.contracts.plugins.plugin import PluginContract, call_hook
from nodekit.testing.leaks.detectors import unblocked_loop


class GuardContract(PluginContract):
    """Suite of a guard. Define the fixture `guard`, and the requests that it accepts (`welcome`) and refuses
    (`unwelcome`)."""

    kept_bytes: int = 4 << 20
    """Maximum number of bytes that it may retain of 20 MB of requests."""

    @pytest.fixture
    def guard(self) -> Any:
        raise NotImplementedError("define a fixture `guard` that gives a new instance of your guard")

    @pytest.fixture
    def plugin(self, guard: Any) -> Any:
        return guard

    def welcome(self) -> Sequence[JobRequest]:
        """Return requests that the guard accepts one by one; build them with `make_request`."""
        return []

    def unwelcome(self) -> Sequence[JobRequest]:
        """Return requests that the guard refuses."""
        return []

    async def ask(self, guard: Any, request: JobRequest, node: Node) -> Exception | None:
        """Ask the guard as a node does, and return its objection. Return None if it has none."""
        assert hasattr(guard, "nodekit_admit") or hasattr(guard, "nodekit_limit"), "it has no hook of a guard"
        try:
            if hasattr(guard, "nodekit_limit"):
                identity = Identity(client=request.client, group=request.in_group, address=request.address)
                call_hook(guard.nodekit_limit, identity=identity, node=node)
            if hasattr(guard, "nodekit_admit"):
                await call_hook(guard.nodekit_admit, request=request, node=node)
        except Exception as objection:
            return objection
        return None

    def asked(self) -> Sequence[JobRequest]:
        """Return requests for tests in which the answer does not matter."""
        return [*self.welcome(), *self.unwelcome()] or [make_request(self.containers()[0].id)]

    async def test_who_is_welcome_is_let_in(self, guard: Any) -> None:
        if not (requests := self.welcome()):
            pytest.skip("return from `welcome` requests that it lets in")
        async with self.running(guard) as node:
            for request, answer in zip(requests, await node.submit_many(requests), strict=True):
                assert isinstance(answer, Job), f"{shown(request)} is not let in: {answer!r}"

    async def test_who_is_unwelcome_is_refused_with_a_reason(self, guard: Any) -> None:
        requests = self._unwelcome()
        async with self.running(guard) as node:
            for request, answer in zip(requests, await node.submit_many(requests), strict=True):
                assert isinstance(answer, Refusal | Unavailable), f"{shown(request)} is let in"
                shown_objection(answer)

    async def test_nothing_of_a_refused_request_is_kept(self, guard: Any) -> None:
        requests = self._unwelcome()
        async with self.running(guard) as node:
            answers = await node.submit_many(requests)
            assert await node.find() == [job.id for job in answers if isinstance(job, Job)]

    async def test_who_is_refused_alone_is_refused_among_many(self, guard: Any) -> None:
        let_in: list[JobRequest] = []

        async def come(request: JobRequest, refused: bool, node: Node) -> None:
            if await self.ask(guard, request, node) is None and refused:
                let_in.append(request)

        requests = self._unwelcome()
        async with self.running(guard) as node:
            alone = [(request, await self.ask(guard, request, node) is not None) for request in requests]
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    for request, refused in [*alone, *((request, False) for request in self.welcome())]:
                        tasks.start_soon(come, request, refused, node)
        assert not let_in, f"{shown(let_in[0])} is let in while others ask"

    @pytest.mark.parametrize("pause", [0.0, 0.001, 0.05])
    async def test_one_that_was_cancelled_while_it_was_asked_can_be_asked_again(self, guard: Any, pause: float) -> None:
        async with self.running(guard) as node:
            before = [await self.ask(guard, request, node) for request in self.asked()]
            for request in self.asked():
                with anyio.move_on_after(pause):
                    await self.ask(guard, request, node)
            after = [await self.ask(guard, request, node) for request in self.asked()]
        for request, was, now in zip(self.asked(), before, after, strict=True):
            assert (now is None) == (was is None), (
                f"it then answers differently for {shown(request)}: before {was!r}, now {now!r}"
            )

    async def test_whatever_a_client_sends_it_is_let_in_or_refused(self, guard: Any) -> None:
        async with self.running(guard) as node:
            for request in self._hostile():
                objection = await self.ask(guard, request, node)
                if isinstance(objection, Refusal | Unavailable):
                    shown_objection(objection)
                elif objection is not None:
                    raise AssertionError(
                        f"it raised {objection!r} for {shown(request)}; a guard objects by Refusal or Unavailable"
                    ) from objection

    async def test_asking_changes_nothing_of_the_request_or_the_node(self, guard: Any) -> None:
        async with self.running(guard) as node:
            containers = repr(dict(node.containers))
            for request in [*self.asked(), *self._hostile()]:
                before = msgspec.json.encode(request)
                await self.ask(guard, request, node)
                assert msgspec.json.encode(request) == before, f"it changed {shown(request)}"
                assert repr(dict(node.containers)) == containers, "it changed the node's containers"

    async def test_it_holds_on_to_nothing_that_it_was_asked_about(self, guard: Any) -> None:
        async with self.running(guard) as node:
            requests = self.asked()
            tracemalloc.start()
            try:
                for number in range(200):
                    await self.ask(guard, _large(requests[number % len(requests)], number), node)
                held, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert held < self.kept_bytes, f"it keeps {held >> 20} MB of the requests that it was asked about"

    async def test_asking_does_not_block_the_event_loop(self, guard: Any) -> None:
        async with self.running(guard) as node, unblocked_loop():
            for request in self.asked():
                await self.ask(guard, request, node)
                await anyio.lowlevel.checkpoint()

    def _hostile(self) -> Iterator[JobRequest]:
        ids = [container.id for container in self.containers()]
        yield from hostile_requests(*ids[:2])
        for request in [*self.welcome(), *self.unwelcome()]:
            for odd in hostile_requests(*request.containers):
                yield replace(request, data=odd.data)

    def _unwelcome(self) -> Sequence[JobRequest]:
        if not (requests := self.unwelcome()):
            pytest.skip("return from `unwelcome` requests that it refuses")
        return requests


def _large(request: JobRequest, number: int) -> JobRequest:
    return replace(request, data=encode_payload({"number": number, "text": "x" * 100_000}))
