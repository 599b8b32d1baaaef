"""Reservations in the node's wallet: concurrent proofs share one allowance, and none locks what another needs."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import pytest
from local_chain import CHAIN_ID, Contract, Contracts

from nodekit import PluginStorage, StoreFailed, Write
from nodekit_chain.account.fees import GWEI, FeeCaps
from nodekit_chain.account.key import AccountKey
from nodekit_chain.account.sender import AccountSender
from nodekit_chain.account.transactions import empty_transfer
from nodekit_chain.payments.escrow import ENOUGH, Escrow
from nodekit_chain.protocol.address import ZERO_ADDRESS
from nodekit_chain.protocol.subscription import Subscription
from nodekit_chain.rpc.endpoints import Endpoints
from nodekit_memory import MemoryStore

pytestmark = pytest.mark.anyio


class Purse:
    """The wallet of a node, and its escrow."""

    def __init__(self, contracts: Contracts, storage: PluginStorage, rpc: Endpoints, wei: int = 100) -> None:
        self.contracts, self.chain, self.storage = contracts, contracts.chain, storage
        self.rpc = rpc
        caps = FeeCaps(max_fee=200 * GWEI, max_priority_fee=5 * GWEI)
        self.sender = AccountSender(storage, rpc, AccountKey.parse(self.chain.new_key()[0]), CHAIN_ID, caps)
        self.wallet: Contract = contracts.wallet(self.sender.address, wei)
        self.escrow = self.again()

    def again(self, wallet: str = "", max_gas_limit: int = 5_000_000) -> Escrow:
        """Make the escrow of a later life of the node, or of another node on the same store."""
        return Escrow(
            self.storage,
            self.rpc,
            self.sender,
            wallet=wallet or self.wallet.address,
            factory=self.contracts.factory.address,
            max_gas_limit=max_gas_limit,
        )

    async def reserve(self, key: str, subscription: Subscription) -> str | None:
        """Reserve a payment, and wait for the block of a transaction that this sends."""
        objection = await self.escrow.reserve(key, subscription)
        self.chain.settle()
        return objection

    @property
    def allowance(self) -> int:
        return int(self.wallet.call("allowance", self.sender.address, ZERO_ADDRESS))

    def approvals(self) -> list[dict[str, Any]]:
        return self.chain.transactions_of(self.sender.address)


@pytest.fixture
async def purse(contracts: Contracts) -> AsyncIterator[Purse]:
    async with MemoryStore() as store, Endpoints([contracts.chain.url]) as rpc:
        purse = Purse(contracts, store.storage("chain"), rpc)
        for key in ("a", "b", "c", *(f"job {number}" for number in range(4))):
            await purse.storage.put(f"open/{key}", b"")
        yield purse


def paying(amount: int, token: str = ZERO_ADDRESS) -> Subscription:
    owner = "0x" + "11" * 20
    return Subscription(owner, 1, 0, 1, 1, bytes(32), verifier=owner, payment_amount=amount, payment_token=token)


async def test_the_allowance_is_set_once_and_for_all(purse: Purse) -> None:
    assert "is being set" in (await purse.reserve("a", paying(40)) or "")
    assert purse.allowance >= ENOUGH
    for key in ("a", "b"):
        assert await purse.reserve(key, paying(40)) is None
    assert len(purse.approvals()) == 1


async def test_no_more_is_reserved_than_the_wallet_has_and_a_key_counts_once(purse: Purse) -> None:
    await purse.reserve("a", paying(60))
    assert await purse.reserve("a", paying(60)) is None
    assert "has 40 of" in (await purse.reserve("b", paying(41)) or "")
    assert await purse.reserve("c", paying(40)) is None
    await purse.escrow.release("a")
    assert await purse.reserve("b", paying(41)) is None
    await purse.escrow.release("a")  # nothing is reserved under it any more


async def test_concurrent_proofs_do_not_overwrite_each_other(purse: Purse) -> None:
    await purse.reserve("a", paying(1))
    objections: dict[str, str | None] = {}

    async def reserve(key: str) -> None:
        objections[key] = await purse.reserve(key, paying(25))

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(reserve, f"job {number}")
    assert sorted(text is None for text in objections.values()) == [False, True, True, True]
    assert len(purse.approvals()) == 1


async def test_reservations_outlive_the_node(purse: Purse) -> None:
    await purse.reserve("a", paying(60))
    later = purse.again()
    assert "has 40 of" in (await later.reserve("b", paying(50)) or "")
    await later.release("a")
    assert await purse.reserve("b", paying(50)) is None


async def test_what_a_node_left_reserved_when_it_died_at_the_end_of_a_record_is_free(purse: Purse) -> None:
    await purse.reserve("a", paying(60))
    await purse.storage.delete("open/a")
    assert await purse.again().reserve("b", paying(50)) is None
    assert [record.key for record in await purse.storage.scan("escrow/")] == ["escrow/b"]


async def test_an_allowance_that_waits_for_a_block_is_stored_before_it_is_sent_and_sent_again(purse: Purse) -> None:
    purse.chain.automine(False)
    assert "is being set" in (await purse.escrow.reserve("a", paying(1)) or "")
    first = purse.chain.waiting()

    async def next_block(escrow: Escrow) -> None:
        """Mine a block without it, and ask for two reservations."""
        purse.chain.drop_transactions()
        purse.chain.mine()
        for key in ("a", "b"):
            assert "is being set" in (await escrow.reserve(key, paying(1)) or "")

    await next_block(purse.again())
    assert [one["hash"] for one in purse.chain.waiting()] == [one["hash"] for one in first]
    for _ in range(30):  # proofs that wait in the same block do not raise what it pays
        assert await purse.escrow.reserve("a", paying(1)) is not None
    assert [one["hash"] for one in purse.chain.waiting()] == [one["hash"] for one in first]
    for _ in range(5):  # then it is replaced, under the same nonce, by one that pays more
        await next_block(purse.escrow)
    [replaced] = purse.chain.waiting()
    assert (replaced["hash"], replaced["nonce"]) != (first[0]["hash"], first[0]["nonce"])
    assert replaced["nonce"] == first[0]["nonce"]
    purse.chain.mine()
    assert await purse.escrow.reserve("a", paying(1)) is None
    assert len(purse.approvals()) == 1


async def test_an_allowance_that_was_kept_without_a_reply_of_the_store_keeps_its_nonce(purse: Purse) -> None:
    batch = purse.storage.batch

    async def keep_without_a_reply(writes: Sequence[Write]) -> list[int]:
        versions = await batch(writes)
        if any(write.key.startswith("approval/") for write in writes):
            raise StoreFailed("the reply was lost")
        return versions

    async def keep(made: object, writes: Sequence[Write]) -> None:
        await batch(writes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(purse.storage, "batch", keep_without_a_reply)
        with pytest.raises(StoreFailed, match="the reply was lost"):
            await purse.escrow.reserve("a", paying(1))
    other = await purse.sender.send(empty_transfer(purse.sender.address), keep)
    assert other.nonce == 1
    purse.chain.mine()
    assert "is being set" in (await purse.escrow.reserve("a", paying(1)) or "")
    purse.chain.settle()
    assert await purse.escrow.reserve("a", paying(1)) is None
    assert [int(one["nonce"], 16) for one in purse.approvals()] == [0, 1]


async def test_an_allowance_takes_no_more_gas_than_the_settings_allow(purse: Purse) -> None:
    objection = await purse.again(max_gas_limit=30_000).reserve("a", paying(1))
    assert "more than max_gas_limit allows (30000)" in (objection or "")
    assert purse.approvals() == []


async def test_an_allowance_that_was_taken_back_is_set_again(purse: Purse) -> None:
    await purse.reserve("a", paying(1))
    purse.chain.rpc("anvil_impersonateAccount", purse.sender.address)
    purse.wallet.send("approve", purse.sender.address, ZERO_ADDRESS, 0, sender=purse.sender.address)
    assert "is being set" in (await purse.reserve("a", paying(1)) or "")
    assert await purse.reserve("a", paying(1)) is None


async def test_tokens_are_counted_apart(purse: Purse) -> None:
    token = purse.contracts.token()
    token.send("mint", purse.wallet.address, 7)
    for key, subscription in (("a", paying(100)), ("b", paying(7, token.address))):
        await purse.reserve(key, subscription)
        assert await purse.reserve(key, subscription) is None
    assert "has 0 of" in (await purse.reserve("c", paying(1, token.address)) or "")


async def test_a_wallet_that_is_not_the_nodes_own_is_named(purse: Purse) -> None:
    foreign = purse.contracts.wallet(purse.chain.owner, 100).address
    stranger = purse.contracts.consumer().address
    for wallet, expected in ((foreign, "belongs to"), (stranger, "no wallet of this chain")):
        assert expected in (await purse.again(wallet).reserve("a", paying(1)) or "")
    assert purse.approvals() == []
