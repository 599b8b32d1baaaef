"""The lease: one node of a cluster at a time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import pytest

from nodekit import Node, PluginStorage, Record
from nodekit.testing import SharedMemory
from nodekit_chain.work.lease import KEY, Lease
from nodekit_function import FunctionRunner
from nodekit_memory import MemoryStore

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def time(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Node, Node]]:
    with SharedMemory() as engine:
        one, other = (Node(store=engine.store(), runners=[FunctionRunner()], name=name) for name in ("one", "other"))
        async with one, other:
            yield one, other


async def test_one_node_of_a_cluster_has_the_lease() -> None:
    async with two_nodes() as (one, other):
        first = Lease(one, one.storage("chain"), 60.0)
        second = Lease(other, other.storage("chain"), 60.0)
        assert await first.take()
        assert not await second.take()
        assert (first.held, second.held) == (True, False)
        assert await first.take()
        await first.leave()
        assert not first.held
        assert await second.take()
        assert not await first.take()


async def test_a_lease_that_runs_out_is_free() -> None:
    async with two_nodes() as (one, other):
        first = Lease(one, one.storage("chain"), 0.001)
        second = Lease(other, other.storage("chain"), 60.0)
        assert await first.take()
        while first.held:
            pass
        assert await second.take()


async def test_a_lease_that_another_node_takes_at_the_same_time_is_lost_whatever_the_clock_says() -> None:
    async with two_nodes() as (one, other):
        storage = one.storage("chain")
        first = Lease(one, storage, 60.0)
        second = Lease(other, other.storage("chain"), 60.0)
        assert await first.take()
        read = await storage.get(KEY)
        await storage.delete(KEY)  # it has run out, on the clock of the other node
        assert await second.take()

        async def read_before(key: str) -> Record | None:
            return read

        first._storage = cast(PluginStorage, SimpleNamespace(get=read_before, put=storage.put))
        assert not await first.take()
        assert not first.held


async def test_a_node_alone_need_not_wait_for_its_earlier_life() -> None:
    clock = Clock()
    async with Node(store=MemoryStore(), runners=[FunctionRunner()], clock=clock) as node:
        assert await Lease(node, node.storage("chain"), 60.0).take()
        assert await Lease(node, node.storage("chain"), 60.0).take()
