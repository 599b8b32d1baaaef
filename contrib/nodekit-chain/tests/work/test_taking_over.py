"""A node that takes over from one that stood still: what was begun goes on, and what arrives late changes nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from delegation import Owner, work
from local_chain import Contracts, LocalChain
from msgspec.structs import replace
from serving import FAST, Serving

from nodekit import JobRequest, PluginStorage, Write
from nodekit.testing import SharedMemory
from nodekit_chain.watching.watcher import WatchSettings
from nodekit_chain.work.records import State
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio


async def echo(data: Any) -> Any:
    return {"said": data}


async def until(so: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not so():
            await anyio.sleep(0.01)


async def until_watching(serving: Serving) -> None:
    """Wait until a node leads, and has looked at all jobs that it knew."""
    await until(lambda: serving.engine.view is not None and not serving.engine._look_at_all)


class LateStorage:
    """Records, and one write of a record in a state that arrives only when it is let `go`."""

    def __init__(self, storage: PluginStorage, state: State) -> None:
        self._storage, self._part = storage, f'"state":"{state}"'.encode()
        self.under_way, self.go, self.arrived = anyio.Event(), anyio.Event(), anyio.Event()
        self.get, self.scan, self.put, self.delete = storage.get, storage.scan, storage.put, storage.delete

    async def batch(self, writes: Sequence[Write]) -> list[int]:
        if self.under_way.is_set() or self._part not in (writes[0].value or b""):
            return await self._storage.batch(writes)
        self.under_way.set()
        try:
            with anyio.CancelScope(shield=True):  # it is on its way, whatever becomes of the node
                await self.go.wait()
                versions = await self._storage.batch(writes)
        finally:
            self.arrived.set()
        return versions


@pytest.mark.parametrize("state", [State.RUNNING, State.OUTPUT, State.SIGNED, State.MINED])
async def test_a_write_that_arrives_after_another_node_took_over_changes_nothing(
    contracts: Contracts, chain: LocalChain, state: State
) -> None:
    consumer, key = contracts.consumer(b"\x01"), chain.new_key()[0]
    settings = replace(FAST, lease_seconds=0.5)
    with SharedMemory() as engine:
        first = Serving(contracts, {"echo": echo}, store=engine.store(), key=key, work=settings, name="first")
        second = Serving(contracts, {"echo": echo}, store=engine.store(), key=key, work=settings, name="second")
        late = LateStorage(first.node.storage("chain"), state)
        first.engine._context.ledger._storage = late
        take = first.engine._lease.take

        async def take_late() -> bool:
            if late.under_way.is_set():
                await late.go.wait()
            return await take()

        first.engine._lease.take = take_late  # type: ignore[method-assign]
        async with first.running():
            await until_watching(first)
            async with second.running():
                id = consumer.subscribe(["echo"])
                await first.until(lambda _: late.under_way.is_set())
                [record] = await second.until_final()
                late.go.set()
                await late.arrived.wait()
                await second.until(lambda records: records == [record])
                assert (first.engine.leads, second.engine.leads) == (False, True)
    assert record.state is State.DONE
    assert len(consumer.received(id)) == len(second.transactions()) == 1


async def test_a_job_that_had_ended_when_its_record_was_found_is_delivered(contracts: Contracts) -> None:
    """The node that watched before goes on until it knows that it does not any more."""
    owner = Owner(contracts)
    async with Serving(contracts, {"echo": echo}).running() as serving:
        await until_watching(serving)
        job = await serving.node.submit(JobRequest.of("echo", data={}))
        await serving.node.wait([job.id])
        await serving.ledger.create(work(owner, owner.subscription(["echo"])).begun(1, 0.0).running(job.id, 0.0))
        [record] = await serving.until_final()
    assert (record.state, record.job) == (State.DONE, job.id)
    assert len(owner.consumer.received()) == 1


async def test_a_node_whose_lease_has_run_out_begins_nothing(
    contracts: Contracts, caplog: pytest.LogCaptureFixture
) -> None:
    consumer, asked = contracts.consumer(b"\x01"), anyio.Event()

    async def take() -> bool:
        asked.set()
        await anyio.sleep_forever()
        return False

    async with Serving(contracts, {"echo": echo}).running() as serving:
        await until_watching(serving)
        lease = serving.engine._lease
        assert lease._held is not None
        lease._held, lease.take = replace(lease._held, until=0.0), take  # type: ignore[method-assign]
        consumer.subscribe(["echo"])
        await until(lambda: "another node may work on the chain" in caplog.text)
        await asked.wait()
        assert await serving.records() == []


async def test_a_node_that_is_behind_the_one_before_goes_on_with_its_work(
    contracts: Contracts, chain: LocalChain, tmp_path: Path
) -> None:
    started = anyio.Event()

    async def slow(data: Any) -> Any:
        started.set()
        await anyio.sleep_forever()

    consumer, key = contracts.consumer(b"\x01"), chain.new_key()[0]
    id = consumer.subscribe(["echo"])
    async with Serving(contracts, {"echo": slow}, key=key, store=SqliteStore(tmp_path / "jobs.db")).running() as before:
        await started.wait()
        [begun] = await before.until(lambda records: records[0].state is State.RUNNING)
    trail = chain.height - begun.read_at + 1
    watch = WatchSettings(trail_head_blocks=trail, starting_sub_id=0, batch_size=500, sleep_seconds=0.0)
    again = Serving(contracts, {"echo": echo}, key=key, store=SqliteStore(tmp_path / "jobs.db"), watch=watch)
    async with again.running():
        await until(lambda: again.engine.view is not None)
        [record] = await again.until_final()
    assert (record.state, record.attempts, record.job) == (State.DONE, 0, begun.job)
    assert len(consumer.received(id)) == 1
