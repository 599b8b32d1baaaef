"""Turns of streams: a slot of the node and one of a container at once, to one container after another."""

import asyncio

import anyio
import pytest

from nodekit import ClientLimits, Container, NodeLimits
from nodekit.execution.held_slots import HeldSlots
from nodekit.execution.slots import Slots
from nodekit.execution.stream_slots import StreamSlots
from nodekit.model.limits import SlotShares

pytestmark = pytest.mark.anyio


class Bench:
    """Stream slots that are all free at first: `of` for the node, and `of` for each of the containers `a` and `b`."""

    def __init__(self, of: int, each: int | None = None, *, asks: bool = True) -> None:
        self.slots = Slots({id: Container(id=id, concurrency=each) for id in "ab"}, of)
        self.slots.set_running({"a", "b"})
        self.asked = 0
        self.asks = asks
        limits = NodeLimits(concurrency=of, max_streams=of, each_client=ClientLimits(concurrency=of))
        self.held = HeldSlots(SlotShares(limits))
        self.turns = StreamSlots(self.slots, self.held, self.ask)
        self.had: list[str] = []

    def ask(self) -> None:
        self.asked += 1
        if self.asks:
            self.turns.grant()

    async def take(self, id: str) -> None:
        await self.turns.take(id, "alice")
        self.had.append(id)

    def give_back(self, id: str | None) -> bool:
        self.turns.give_back(id, "alice")
        return self.turns.grant()


async def test_what_is_free_is_had_at_once_and_is_free_again_once_it_is_given_back() -> None:
    bench = Bench(of=2, each=1)
    await bench.take("a")
    assert (bench.asked, bench.slots.free, bench.slots.open) == (1, 1, {"b"})
    bench.turns.give_back("a", "alice")
    assert (bench.slots.free, bench.slots.open) == (2, {"a", "b"})
    bench.slots.free -= 1
    assert bench.held.take_stream("alice")
    bench.turns.give_back(None, "alice")
    assert (bench.slots.free, bench.slots.open) == (2, {"a", "b"})


@pytest.mark.parametrize(("of", "each"), [(1, None), (9, 1)])
async def test_who_finds_no_slot_of_the_node_or_the_container_waits_for_one(of: int, each: int | None) -> None:
    bench = Bench(of, each)
    await bench.take("a")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.take, "a")
        await anyio.wait_all_tasks_blocked()
        assert not bench.turns.grant()
        assert bench.had == ["a"]
        assert bench.give_back("a")
    assert bench.had == ["a", "a"]
    assert bench.slots.free == of - 1
    assert not bench.give_back("a")


async def test_containers_take_turns_and_each_serves_who_came_first() -> None:
    bench = Bench(of=1)
    await bench.take("a")
    async with anyio.create_task_group() as tasks:
        for id in "aaabb":
            tasks.start_soon(bench.take, id)
            await anyio.wait_all_tasks_blocked()
        for _ in range(5):
            assert bench.give_back(bench.had[-1])
            await anyio.wait_all_tasks_blocked()
    assert "".join(bench.had) == "aababa"


async def test_all_that_is_free_is_given_out_at_once() -> None:
    bench = Bench(of=3, asks=False)
    async with anyio.create_task_group() as tasks:
        for id in "aaab":
            tasks.start_soon(bench.take, id)
        await anyio.wait_all_tasks_blocked()
        assert bench.had == []
        assert bench.turns.grant()
        await anyio.wait_all_tasks_blocked()
        assert bench.slots.free == 0
        assert len(bench.had) == 3
        bench.give_back(bench.had[0])


async def test_one_that_gives_up_waiting_takes_nothing_and_others_go_on() -> None:
    bench = Bench(of=1)
    await bench.take("a")
    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(0.01):
            await bench.take("a")
        tasks.start_soon(bench.take, "a")
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.01):
            await bench.take("b")
        assert bench.give_back("a")
    assert bench.had == ["a", "a"]
    assert not bench.give_back("a")
    assert bench.slots.free == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_that_is_ended_right_after_it_got_its_turn_gives_it_back() -> None:
    bench = Bench(of=1, each=1, asks=False)
    waiting = asyncio.ensure_future(bench.take("a"))
    await anyio.wait_all_tasks_blocked()
    assert bench.turns.grant()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (bench.had, bench.slots.free, bench.slots.open) == ([], 1, {"a", "b"})


async def test_one_whose_asking_fails_waits_no_longer() -> None:
    bench = Bench(of=1)

    def ask() -> None:
        raise RuntimeError("a fault of ours")

    turns = StreamSlots(bench.slots, bench.held, ask)
    with pytest.raises(RuntimeError):
        await turns.take("a", "alice")
    assert not turns.grant()
    assert bench.slots.free == 1
