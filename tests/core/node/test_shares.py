"""Shares: one client has at most three quarters of a node, and streams half of its slots."""

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from components import Gate, SwitchRunner, functions, make_node, request, settle_down, until
from msgspec.structs import replace

from nodekit import ClientLimits, Container, Job, JobStream, Node, TooManyJobs, Unavailable

pytestmark = pytest.mark.anyio


def idle(**settings: Any) -> Node:
    """Make a node that accepts jobs and runs none."""
    return make_node(SwitchRunner(Container(id="x"), up=[]), drain_seconds=0, **settings)


def answers(found: list[Any]) -> list[str]:
    return [type(answer).__name__ for answer in found]


async def until_running(gate: Gate, number: int) -> None:
    """Wait until so many jobs run, and no more of them begin."""
    await until(lambda: gate.running == number)
    await settle_down()
    assert gate.running == number


# -- unfinished jobs ------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "share"), [(1, 1), (2, 1), (3, 2), (4, 3), (10, 7), (100, 75)])
async def test_batches_of_one_client_fill_three_quarters_of_a_node(most: int, share: int) -> None:
    async with idle(max_pending=most) as node:
        found = [answer for _ in range(10) for answer in await node.submit_many([request("x")] * most)]
        assert answers(found).count("Job") == share
        assert (await node.pending()).total == share
        if most > 1:
            others = await node.submit_many([request("x", client="bob")] * most)
            assert answers(others).count("Job") == most - share if most < 4 else most // 4


async def test_who_has_its_share_is_told_so_and_a_node_without_room_tells_everybody() -> None:
    async with idle(max_pending=4) as node:
        [*_, mine] = await node.submit_many([request("x")] * 4)
        assert type(mine) is TooManyJobs
        assert (str(mine), mine.retry_after_seconds) == ("you have 3 unfinished jobs; wait until some are finished", 1)
        await node.submit(request("x", client="bob"))
        for client in ("alice", "bob", "carol"):
            with pytest.raises(Unavailable, match="the node holds 4 unfinished jobs") as raised:
                await node.submit(request("x", client=client))
            assert not isinstance(raised.value, TooManyJobs)


@pytest.mark.parametrize(
    "settings", [{"each_client": ClientLimits(max_pending=4)}, {"clients": {"alice": ClientLimits(max_pending=9)}}]
)
async def test_a_limit_that_says_otherwise_gives_one_client_everything(settings: dict[str, Any]) -> None:
    async with idle(max_pending=4, **settings) as node:
        assert answers(await node.submit_many([request("x")] * 5)) == ["Job"] * 4 + ["Unavailable"]


async def test_addresses_of_one_network_have_one_share_and_the_programs_own_jobs_have_none() -> None:
    async with idle(max_pending=8) as node:
        many = [request("x", client=f"2001:db8::{number:x}") for number in range(1, 9)]
        assert answers(await node.submit_many(many)).count("Job") == 6
    async with idle(max_pending=8) as node:
        assert answers(await node.submit_many([request("x", client="local")] * 9)) == ["Job"] * 8 + ["Unavailable"]


async def test_a_job_that_ends_makes_room_in_the_share() -> None:
    async with idle(max_pending=4) as node:
        first, *_, last = await node.submit_many([request("x")] * 4)
        assert isinstance(first, Job)
        assert isinstance(last, TooManyJobs)
        await node.cancel(first.id, client="alice")
        assert isinstance(await node.submit(request("x")), Job)
        with pytest.raises(TooManyJobs):
            await node.submit(request("x"))


# -- slots ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "share"), [(1, 1), (2, 1), (4, 3), (8, 6)])
async def test_one_client_holds_three_quarters_of_the_slots_and_another_begins_at_once(slots: int, share: int) -> None:
    gate = Gate()
    async with make_node(functions(gate=gate), concurrency=slots, drain_seconds=0) as node:
        await node.submit_many([request("gate")] * 20)
        await until_running(gate, share)
        await node.submit_many([request("gate", client="bob")] * 20)
        await until_running(gate, slots)
        assert gate.calls == slots


async def test_a_slot_that_its_client_gives_back_is_its_again() -> None:
    gates = {f"g{number}": Gate() for number in range(6)}
    async with make_node(functions(**gates), concurrency=4, drain_seconds=0) as node:
        ids = [(await node.submit(request(name))).id for name in gates]
        await until(lambda: sum(gate.running for gate in gates.values()) == 3)
        for done, name in enumerate(gates):
            gates[name].opened.set()
            await until(lambda done=done: sum(gate.calls for gate in gates.values()) == min(6, done + 4))
        await node.wait(ids)


@pytest.mark.parametrize(
    ("settings", "running"),
    [
        ({"each_client": ClientLimits(concurrency=8)}, 8),
        ({"each_client": ClientLimits(concurrency=2)}, 2),
        ({"clients": {"alice": ClientLimits(concurrency=7)}}, 7),
        ({"clients": {"alice": ClientLimits(concurrency=100)}}, 8),
        ({"each_client": ClientLimits(concurrency=2), "clients": {"alice": ClientLimits(max_pending=100)}}, 2),
        ({"clients": {"bob": ClientLimits(concurrency=1)}}, 6),
    ],
)
async def test_a_clients_own_number_of_slots_goes_before_its_share(settings: dict[str, Any], running: int) -> None:
    gate = Gate()
    async with make_node(functions(gate=gate), concurrency=8, drain_seconds=0, **settings) as node:
        await node.submit_many([request("gate")] * 20)
        await until_running(gate, running)


async def test_the_number_of_a_client_is_that_of_its_network() -> None:
    gate = Gate()
    clients = {"2001:db8::1": ClientLimits(concurrency=2)}
    async with make_node(functions(gate=gate), concurrency=8, drain_seconds=0, clients=clients) as node:
        await node.submit_many([request("gate", client=f"2001:db8::{number}") for number in range(1, 9)])
        await until_running(gate, 2)


async def test_the_programs_own_jobs_have_all_slots() -> None:
    gate = Gate()
    async with make_node(functions(gate=gate), concurrency=4, drain_seconds=0) as node:
        await node.submit_many([request("gate", client="local")] * 9)
        await until_running(gate, 4)


async def test_clients_with_small_shares_fill_a_node_together_and_each_job_runs() -> None:
    gate = Gate()
    limits = ClientLimits(concurrency=1)
    async with make_node(functions(gate=gate), concurrency=5, drain_seconds=0, each_client=limits) as node:
        jobs = await node.submit_many([request("gate", client=client) for client in "aaabbbcccddd"])
        await until_running(gate, 4)
        gate.opened.set()
        found = await node.wait([job.id for job in jobs if isinstance(job, Job)])
        assert all(job.status.finished for job in found)
        assert gate.most <= 5


# -- streams --------------------------------------------------------------------------------------


class Letters:
    """A streaming function that never ends, and counts its calls."""

    def __init__(self) -> None:
        self.running = 0

    async def __call__(self, data: Any) -> AsyncGenerator[str, None]:
        self.running += 1
        try:
            yield "x"
            await anyio.sleep_forever()
        finally:
            self.running -= 1


async def reading(node: Node, client: str, tasks: Any, container: str = "letters", streams: int = 20) -> None:
    """Open streams, take the first piece of each that gets a slot, and read no more."""

    async def read() -> None:
        async with node.stream(request(container, client=client)) as stream:
            await _first(stream)
            await anyio.sleep_forever()

    for _ in range(streams):
        tasks.start_soon(read)


async def _first(stream: JobStream) -> bytes:
    return await anext(stream)


@pytest.mark.parametrize(
    ("settings", "mine", "all_of_them"),
    [({}, 3, 4), ({"max_streams": 2}, 1, 2), ({"max_streams": 100}, 6, 8), ({"concurrency": 1}, 1, 1)],
)
async def test_unread_streams_hold_half_of_the_slots_and_one_clients_three_quarters_of_these(
    settings: dict[str, Any], mine: int, all_of_them: int
) -> None:
    letters, gate = Letters(), Gate()

    async def stream(data: Any) -> AsyncGenerator[str, None]:
        async for piece in letters(data):
            yield piece

    limits = {"concurrency": 8, "drain_seconds": 0} | settings
    async with make_node(functions(letters=stream, gate=gate), **limits) as node, anyio.create_task_group() as tasks:
        await reading(node, "alice", tasks)
        await until(lambda: letters.running == mine)
        await settle_down()
        assert letters.running == mine
        await reading(node, "bob", tasks)
        await until(lambda: letters.running == all_of_them)
        await node.submit_many([request("gate", client="carol")] * 20)
        await until(
            lambda: gate.running == min(limits["concurrency"] - all_of_them, max(1, limits["concurrency"] * 3 // 4))
        )
        tasks.cancel_scope.cancel()


async def test_streams_hold_half_of_the_slots_of_a_container() -> None:
    letters = Letters()

    async def stream(data: Any) -> AsyncGenerator[str, None]:
        async for piece in letters(data):
            yield piece

    runner = functions({"letters": {"concurrency": 4}}, letters=stream)
    async with make_node(runner, drain_seconds=0) as node, anyio.create_task_group() as tasks:
        await reading(node, "alice", tasks)
        await until(lambda: letters.running == 2)
        await settle_down()
        assert letters.running == 2
        job = await node.submit(replace(request("letters", client="bob")))
        await until(lambda: letters.running == 3)
        assert not (await node.fetch([job.id]))[0].status.finished
        tasks.cancel_scope.cancel()


async def test_clients_take_turns_with_their_streams() -> None:
    begun: list[str] = []

    async def name(data: Any) -> AsyncGenerator[str, None]:
        begun.append(data["name"])
        yield "x"
        await anyio.sleep_forever()

    async with make_node(functions(name=name), concurrency=2, drain_seconds=0) as node:
        gate = anyio.Event()

        async def read(client: str) -> None:
            async with node.stream(request("name", client=client, name=client)) as stream:
                await _first(stream)
                await gate.wait()

        async with anyio.create_task_group() as tasks:
            for client in "aaaab":
                tasks.start_soon(read, client)
                await settle_down()
            await until(lambda: begun == ["a"])
            gate.set()
            await until(lambda: len(begun) == 5)
        assert "b" in begun[:3]
