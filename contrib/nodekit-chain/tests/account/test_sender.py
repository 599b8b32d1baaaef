"""Transactions: their hash is that of an independent library, and each nonce is used once, whatever happens."""

from collections.abc import AsyncIterator, Sequence

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from independent import Account
from local_chain import CHAIN_ID, ETHER, Contracts, LocalChain
from rpc_proxy import RpcProxy

from nodekit import PluginStorage, StoreFailed, VersionConflict, Write
from nodekit_chain.account.fees import GWEI, FeeCaps, Fees, FeesTooHigh
from nodekit_chain.account.key import AccountKey
from nodekit_chain.account.sender import AccountSender, BalanceTooLow, account_state
from nodekit_chain.account.transactions import SignedTransaction, Transaction, signed
from nodekit_chain.protocol.contracts import Coordinator
from nodekit_chain.rpc.endpoints import Endpoints
from nodekit_chain.rpc.failures import NoEndpoint
from nodekit_memory import MemoryStore

pytestmark = pytest.mark.anyio
KEY = AccountKey.parse("0x" + "42" * 32)
OTHER = "0x" + "ab" * 20
TRANSFER = Transaction(OTHER, b"", 21_000, 1)
CAPS = FeeCaps(max_fee=200 * GWEI, max_priority_fee=5 * GWEI)
GOLDEN = "0x40a148c8108f164f0dfc13aba0db361df1d3bbc77723f32007910735688b145d"


class Bench:
    """A sender with an account of its own, by way of a proxy, and what it has kept."""

    def __init__(
        self, chain: LocalChain, proxy: RpcProxy, rpc: Endpoints, storage: PluginStorage, caps: FeeCaps = CAPS
    ) -> None:
        secret, self.address = chain.new_key()
        self.chain, self.proxy, self.rpc, self.storage = chain, proxy, rpc, storage
        self.key, self.caps = AccountKey.parse(secret), caps
        self.sender = self.again()
        self.kept: list[SignedTransaction] = []

    def again(self) -> AccountSender:
        """Make the sender of a later life of the node, or of another node on the same store."""
        return AccountSender(self.storage, self.rpc, self.key, CHAIN_ID, self.caps)

    async def keep(self, made: SignedTransaction, writes: Sequence[Write]) -> None:
        if writes:
            await self.storage.batch(writes)
        self.kept.append(made)

    async def refuse(self, made: SignedTransaction, writes: Sequence[Write]) -> None:
        raise StoreFailed("the disk is full")

    async def keep_without_a_reply(self, made: SignedTransaction, writes: Sequence[Write]) -> None:
        await self.keep(made, writes)
        raise StoreFailed("the reply was lost")

    def mined(self) -> list[tuple[int, str]]:
        return [(int(one["nonce"], 16), one["hash"]) for one in self.chain.transactions_of(self.address)]


@pytest.fixture
async def bench(chain: LocalChain) -> AsyncIterator[Bench]:
    with RpcProxy(chain.url) as proxy:
        async with MemoryStore() as store, Endpoints([proxy.url], random=lambda: 0.0) as rpc:
            yield Bench(chain, proxy, rpc, store.storage("chain"))


def test_the_hash_of_a_transaction_does_not_change() -> None:
    made = signed(Transaction(OTHER, b"\x01\x02", 90_000, 5), 7, Fees(3 * GWEI, GWEI), KEY, CHAIN_ID)
    assert made.hash == GOLDEN


@settings(deadline=None, max_examples=30)
@given(
    some.binary(max_size=300),
    some.integers(21_000, 2**40),
    some.integers(0, 2**200),
    some.integers(0, 2**60),
    some.integers(1, 2**60),
    some.integers(1, 2**50),
)
def test_bytes_and_hash_are_those_of_an_independent_library(
    data: bytes, gas: int, value: int, nonce: int, fee: int, chain_id: int
) -> None:
    made = signed(Transaction(OTHER, data, gas, value), nonce, Fees(fee, fee // 2), KEY, chain_id)
    fields = {
        "type": 2, "chainId": chain_id, "nonce": nonce, "maxFeePerGas": fee, "maxPriorityFeePerGas": fee // 2,
        "gas": gas, "to": bytes.fromhex(OTHER[2:]), "value": value, "data": data,
    }  # fmt: skip
    theirs = Account.from_key(b"\x42" * 32).sign_transaction(fields)
    assert made.raw == bytes(theirs.raw_transaction)
    assert made.hash == "0x" + bytes(theirs.hash).hex()


async def test_transactions_are_mined_in_the_order_of_their_nonces(bench: Bench) -> None:
    for _ in range(3):
        await bench.sender.send(TRANSFER, bench.keep)
    bench.chain.settle()
    assert bench.mined() == [(nonce, made.hash) for nonce, made in enumerate(bench.kept)]
    assert bench.chain.balance(OTHER) == 3


async def test_callers_at_the_same_time_get_nonces_without_a_gap(bench: Bench) -> None:
    bench.chain.automine(False)
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(bench.sender.send, TRANSFER, bench.keep)
    assert [made.nonce for made in bench.kept] == list(range(10))
    bench.chain.mine()
    assert [nonce for nonce, _ in bench.mined()] == list(range(10))


async def test_a_transaction_is_kept_before_anybody_gets_it(bench: Bench) -> None:
    bench.chain.automine(False)

    async def keep(made: SignedTransaction, writes: Sequence[Write]) -> None:
        assert bench.chain.waiting() == []
        assert bench.proxy.methods["eth_sendRawTransaction"] == 0

    made = await bench.sender.send(TRANSFER, keep)
    assert [one["hash"] for one in bench.chain.waiting()] == [made.hash]


async def test_a_transaction_that_cannot_be_kept_was_never_made(bench: Bench) -> None:
    with pytest.raises(StoreFailed, match="the disk is full"):
        await bench.sender.send(TRANSFER, bench.refuse)
    assert bench.proxy.methods["eth_sendRawTransaction"] == 0
    made = await bench.sender.send(TRANSFER, bench.keep)
    assert made.nonce == 0


async def test_a_nonce_is_not_given_again_if_the_store_has_kept_it_and_reports_a_failure(bench: Bench) -> None:
    with pytest.raises(StoreFailed, match="the reply was lost"):
        await bench.sender.send(TRANSFER, bench.keep_without_a_reply)
    assert bench.proxy.methods["eth_sendRawTransaction"] == 0
    assert (await bench.sender.send(TRANSFER, bench.keep)).nonce == 1
    await bench.sender.broadcast(bench.kept[0].raw)
    bench.chain.settle()
    assert [nonce for nonce, _ in bench.mined()] == [0, 1]


async def test_of_two_nodes_that_sign_at_the_same_time_one_keeps_its_transaction(bench: Bench) -> None:
    async def keep_after_another(made: SignedTransaction, writes: Sequence[Write]) -> None:
        await bench.again().send(TRANSFER, bench.keep)
        await bench.keep(made, writes)

    with pytest.raises(VersionConflict):
        await bench.sender.send(TRANSFER, keep_after_another)
    assert [made.nonce for made in bench.kept] == [0]
    assert (await bench.sender.send(TRANSFER, bench.keep)).nonce == 1


async def test_a_restart_goes_on_after_the_stored_transactions(bench: Bench) -> None:
    bench.proxy.mode = "lose transactions"
    first = await bench.sender.send(TRANSFER, bench.keep)
    bench.proxy.mode = "pass"
    second = await bench.again().send(TRANSFER, bench.keep)
    assert bench.mined() == []
    await bench.sender.broadcast(first.raw)
    bench.chain.settle()
    assert bench.mined() == [(0, first.hash), (1, second.hash)]


async def test_nonces_that_others_have_used_are_left_out(bench: Bench) -> None:
    bench.chain.rpc("anvil_impersonateAccount", bench.address)
    bench.chain.send(b"", OTHER, sender=bench.address)
    assert (await bench.sender.send(TRANSFER, bench.keep)).nonce == 1


async def test_a_broadcast_that_fails_loses_nothing(bench: Bench) -> None:
    async def keep(made: SignedTransaction, writes: Sequence[Write]) -> None:
        bench.proxy.mode = "status 500"

    made = await bench.sender.send(TRANSFER, keep)
    assert bench.mined() == []
    bench.proxy.mode = "pass"
    with anyio.fail_after(30):
        while not bench.mined():
            await bench.sender.broadcast(made.raw)
            await anyio.sleep(0.05)
    assert bench.mined() == [(0, made.hash)]


async def test_nothing_is_signed_without_an_endpoint(bench: Bench) -> None:
    bench.proxy.mode = "status 500"
    with pytest.raises(NoEndpoint):
        await bench.sender.send(TRANSFER, bench.keep)
    assert (bench.kept, await bench.sender.next_nonce()) == ([], 0)


async def test_a_transaction_that_is_known_or_mined_is_sent_again_in_silence(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.chain.automine(False)
    made = await bench.sender.send(TRANSFER, bench.keep)
    await bench.sender.broadcast(made.raw)
    bench.chain.mine()
    await bench.sender.broadcast(made.raw)
    assert caplog.messages == []
    assert bench.mined() == [(0, made.hash)]


async def test_a_stuck_transaction_is_replaced_under_its_nonce(bench: Bench) -> None:
    bench.chain.automine(False)
    first = await bench.sender.send(TRANSFER, bench.keep)
    second = await bench.sender.replace(TRANSFER, first, bench.keep)
    assert [one["hash"] for one in bench.chain.waiting()] == [second.hash]
    assert second.nonce == first.nonce
    bench.chain.mine()
    assert bench.mined() == [(0, second.hash)]
    assert (await bench.sender.send(TRANSFER, bench.keep)).nonce == 1


async def test_a_base_fee_that_rises_is_followed_by_a_replacement(bench: Bench) -> None:
    bench.chain.automine(False)
    first = await bench.sender.send(TRANSFER, bench.keep)
    bench.chain.next_base_fee(50 * GWEI)
    bench.chain.mine()
    assert bench.mined() == []
    second = await bench.sender.replace(TRANSFER, first, bench.keep)
    bench.chain.mine()
    assert bench.mined() == [(0, second.hash)]


async def test_fees_stay_below_their_cap(bench: Bench) -> None:
    bench.chain.next_base_fee(50 * GWEI)
    bench.chain.mine()
    caps = FeeCaps(max_fee=40 * GWEI, max_priority_fee=5 * GWEI)
    capped = Bench(bench.chain, bench.proxy, bench.rpc, bench.storage, caps)
    with pytest.raises(FeesTooHigh, match="the cap is 40"):
        await capped.sender.send(TRANSFER, capped.keep)
    assert capped.kept == []
    for _ in range(5):
        bench.chain.mine()
    made = await capped.sender.send(TRANSFER, capped.keep)
    assert made.max_fee <= 40 * GWEI


async def test_an_empty_account_is_named_with_the_cure(bench: Bench) -> None:
    bench.chain.set_balance(bench.address, 1000)
    with pytest.raises(BalanceTooLow, match=rf"the account {bench.address} has 1e-15 ether, .* send it more"):
        await bench.sender.send(TRANSFER, bench.keep)
    bench.chain.set_balance(bench.address, ETHER)
    assert (await bench.sender.send(TRANSFER, bench.keep)).nonce == 0


async def test_the_state_of_an_account_is_read_in_one_request(bench: Bench) -> None:
    await bench.sender.send(TRANSFER, bench.keep)
    bench.chain.settle()
    bench.proxy.forget_counts()
    state = await account_state(bench.rpc, bench.address)
    assert (state.nonce, bench.proxy.requests) == (1, 1)
    assert 9 * ETHER < state.balance < 10 * ETHER


async def test_a_chain_without_base_fees_is_refused(bench: Bench) -> None:
    bench.proxy.overrides["eth_getBlockByNumber"] = {"number": "0x1", "hash": "0x" + "00" * 32}
    with pytest.raises(Exception, match="only chains with EIP-1559"):
        await bench.sender.send(TRANSFER, bench.keep)


async def test_a_result_is_delivered(bench: Bench, contracts: Contracts) -> None:
    consumer = contracts.consumer()
    id = consumer.subscribe(["a"])
    data = Coordinator.deliver_compute.encode(id, 1, b"", b"out", b"", OTHER)
    await bench.sender.send(Transaction(contracts.coordinator.address, data, 500_000), bench.keep)
    bench.chain.settle()
    [received] = consumer.received(id)
    assert (received["output"], received["node"]) == (b"out", bench.address)
