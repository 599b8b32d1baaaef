"""Resources of containers: the node asks all of them together, and none harms another."""

import logging
from typing import Any

import anyio
import msgspec
import pytest
from components import SwitchRunner, functions, make_node, settle_down

from nodekit import Container, encode_payload
from nodekit.node.resources import AT_ONCE
from nodekit.testing import VirtualClock

pytestmark = pytest.mark.anyio


NO_JSON = {"dict": {"models": []}, "text": "text", "bytes": b"{}"}


class Describing(SwitchRunner):
    """Describes its containers as the test asks."""

    def __init__(self, *ids: str, **settings: Any) -> None:
        super().__init__(*(Container(id=id) for id in ids), **settings)
        self.asked: list[tuple[str, str | None]] = []
        self.cancelled = 0

    async def resources(self, container: str, model_id: str | None) -> msgspec.Raw | None:
        self.asked.append((container, model_id))
        if container == "broken":
            raise KeyError("inside")
        if container == "late":
            try:
                await anyio.sleep_forever()
            finally:
                self.cancelled += 1
        return None if container == "silent" else NO_JSON.get(container) or encode_payload({"is": container})


async def test_every_running_container_whose_runner_can_ask_it_is_asked() -> None:
    first, second = Describing("a", "down", up=["a"]), Describing("b", "silent")
    async with make_node(first, functions(), second) as node:
        assert await node.resources("m/1") == {id: encode_payload({"is": id}) for id in "ab"}
        await node.resources()
    assert first.asked == [("a", "m/1"), ("a", None)]
    assert sorted(second.asked[:2]) == [("b", "m/1"), ("silent", "m/1")]


async def test_no_container_is_no_answer() -> None:
    async with make_node() as node:
        assert await node.resources() == {}


async def test_one_that_breaks_or_is_late_or_gives_no_json_is_left_out_and_harms_no_other(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    runner = Describing("a", "broken", "late", *NO_JSON, "z")
    async with make_node(runner) as node, anyio.create_task_group() as tasks:
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await node.resources())

        with caplog.at_level(logging.ERROR, "nodekit.node"):
            tasks.start_soon(ask)
            await clock.advance(2.9)
            assert answers == []
            await clock.advance(0.2)
        assert [list(answer) for answer in answers] == [["a", "z"]]
    assert runner.cancelled == 1
    for id in ("broken", *NO_JSON):
        assert f"container {id!r}: asking for its resources failed" in caplog.text


async def test_however_many_ask_only_so_many_containers_are_asked_at_once() -> None:
    running = most = 0

    class Counting(Describing):
        async def resources(self, container: str, model_id: str | None) -> msgspec.Raw | None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await settle_down()
            running -= 1
            return encode_payload({})

    async with make_node(Counting(*map(str, range(10)))) as node, anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(node.resources)
    assert most == AT_ONCE
