"""A chain that was started afresh: it is named, and nothing of the old one is sent there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from delegation import Owner
from local_chain import ETHER, Contracts, LocalChain
from rpc_proxy import RpcProxy
from serving import Serving

from nodekit import Unavailable
from nodekit_chain.work.records import State, Work
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio

REASON = "this is another chain than before, or it was started afresh (block 0 was 0x"


async def echo(data: Any) -> Any:
    return {"said": data}


@pytest.fixture
def fresh(contracts: Contracts) -> Iterator[Contracts]:
    """A chain with the same id, and contracts at the same addresses."""
    with LocalChain("--timestamp", str(contracts.chain.timestamp + 1)) as chain:
        found = Contracts(chain)
        assert found.coordinator.address == contracts.coordinator.address
        yield found


async def until_named(serving: Serving) -> str:
    """Wait until `/health` names another chain; return the reason."""
    with anyio.fail_after(60):
        while not (found := [one for one in (await serving.node.health()).reasons if REASON in one]):
            await anyio.sleep(0.02)
    return found[0]


async def test_a_chain_that_is_started_afresh_under_a_node_is_left_alone_until_the_old_one_is_back(
    contracts: Contracts, chain: LocalChain, fresh: Contracts
) -> None:
    consumer, owner = contracts.consumer(b"\x01"), Owner(fresh)
    work = Work(
        coordinator=contracts.coordinator.address, subscription=owner.subscription(["echo"]), containers=("echo",)
    )
    with RpcProxy(chain.url) as proxy:
        async with Serving(contracts, {"echo": echo}, urls=[proxy.url]).running() as serving:
            fresh.chain.set_balance(serving.sender.address, ETHER)
            consumer.subscribe(["echo"])
            await serving.until_final()
            proxy.target = urlsplit(fresh.chain.url).netloc
            fresh.consumer(b"\x02").subscribe(["echo"])
            assert "give the node a new store" in await until_named(serving)
            with pytest.raises(Unavailable, match="replaced by another"):
                await serving.engine.accept(work)
            fresh.chain.mine(5)
            await until_named(serving)
            assert len(await serving.records()) == 1
            proxy.target = urlsplit(chain.url).netloc
            consumer.subscribe(["echo"])
            await serving.until_final(2)
            assert serving.engine.problems() == []
    assert fresh.chain.transactions_of(serving.sender.address) == []
    assert len(consumer.received()) == 2


async def test_a_node_that_finds_another_chain_when_it_starts_sends_nothing_and_serves_it_with_a_new_store(
    contracts: Contracts, chain: LocalChain, fresh: Contracts, tmp_path: Path
) -> None:
    key, address = chain.new_key()
    fresh.chain.set_balance(address, ETHER)
    contracts.consumer(b"\x01").subscribe(["echo"])
    chain.automine(False)
    async with Serving(
        contracts, {"echo": echo}, key=key, store=SqliteStore(tmp_path / "jobs.db")
    ).running() as serving:
        await serving.until(lambda records: [one.state for one in records] == [State.SIGNED], mining=False)
    consumer = fresh.consumer(b"\x02")
    consumer.subscribe(["echo"])
    async with Serving(fresh, {"echo": echo}, key=key, store=SqliteStore(tmp_path / "jobs.db")).running() as serving:
        await until_named(serving)
        fresh.chain.mine(5)
        await until_named(serving)
        assert fresh.chain.transactions_of(address) == []
    async with Serving(fresh, {"echo": echo}, key=key, store=SqliteStore(tmp_path / "new.db")).running() as serving:
        await serving.until_final()
    assert len(consumer.received()) == 1
