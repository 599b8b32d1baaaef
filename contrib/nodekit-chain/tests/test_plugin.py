"""The plugin as a whole, on a real chain: on-chain and delegated subscriptions, `/info`, `/health`, and its key."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from chain_node import ChainNode, Gate
from delegation import Owner, requested
from eth_abi.abi import decode
from local_chain import ConsumerContract, Contracts

from nodekit import Identity, Unavailable
from nodekit_chain.protocol.address import ZERO_ADDRESS
from nodekit_chain.work.records import State
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio

ALICE = Identity(client="alice")


async def echo(data: Any) -> Any:
    return {"said": data}


async def test_a_subscription_on_the_chain_is_served(contracts: Contracts) -> None:
    consumer = contracts.consumer(b"\x12\x34")
    id = consumer.subscribe(["echo"])
    async with ChainNode(contracts, {"echo": echo}).running() as chain:
        [record] = await chain.until_final()
        assert chain.node.chain_address == chain.address
    assert record.state is State.DONE
    [received] = consumer.received(id)
    assert decode(["string"], received["output"]) == ("{'said': '1234'}",)
    assert received["node"] == chain.address


async def test_a_delegated_subscription_is_created_and_served(contracts: Contracts) -> None:
    owner = Owner(contracts)
    async with ChainNode(contracts, {"echo": echo}).running() as chain:
        body = owner.signed(owner.subscription(["echo"]), nonce=9, data={"n": 2**70})
        await chain.node.subscribe(requested(body), ALICE)
        [record] = await chain.until_final()
    assert (record.state, record.id) == (State.DONE, 1)
    [received] = owner.consumer.received(1)
    assert decode(["string"], received["output"]) == ("{'said': {'n': 1180591620717411303424}}",)
    assert len(contracts.chain.transactions_of(chain.address)) == 1


async def test_the_jobs_of_all_subscriptions_are_pending_for_the_chain(contracts: Contracts) -> None:
    owner, go = Owner(contracts), anyio.Event()

    async def slow(data: Any) -> Any:
        await go.wait()
        return {"said": data}

    contracts.consumer(b"\x01").subscribe(["slow"])
    async with ChainNode(contracts, {"slow": slow}).running() as chain:
        await chain.node.subscribe(requested(owner.signed(owner.subscription(["slow"]))), ALICE)
        await chain.until(lambda records: [one.state for one in records] == [State.RUNNING] * 2)
        pending = await chain.node.pending()
        assert (pending.offchain, pending.onchain) == (0, 2)
        go.set()
        await chain.until_final(2)
        assert (await chain.node.pending()).total == 0


# -- payment --------------------------------------------------------------------------------------


def paying(contracts: Contracts, consumer: ConsumerContract, wei: int) -> str:
    """Make a wallet that pays for a consumer's subscriptions."""
    wallet = contracts.wallet(contracts.chain.owner, wei)
    wallet.send("approve", consumer.address, ZERO_ADDRESS, wei)
    return wallet.address


async def test_a_subscription_pays_the_nodes_wallet_in_ether(contracts: Contracts) -> None:
    consumer = contracts.consumer()
    node = ChainNode(contracts, {"echo": echo}, rules={"echo": {"accepted_payments": {ZERO_ADDRESS: 1000}}})
    own = contracts.wallet(node.address).address
    node = node.again(wallet={"payment_address": own})
    cheap = consumer.subscribe(["echo"], amount=999, wallet=paying(contracts, consumer, 10_000))
    paid = consumer.subscribe(["echo"], amount=1000, wallet=paying(contracts, consumer, 10_000))
    async with node.running():
        records = {record.id: record for record in await node.until_final(2)}
    assert records[paid].state is State.DONE
    assert (records[cheap].state, "Payment too low" in records[cheap].reason) == (State.FAILED, True)
    assert contracts.chain.balance(own) == 900  # the protocol has taken its tenth
    assert consumer.received(cheap) == []


async def test_a_subscription_pays_in_a_token(contracts: Contracts) -> None:
    owner, token = Owner(contracts), contracts.token()
    node = ChainNode(contracts, {"echo": echo}, rules={"echo": {"accepted_payments": {token.address: 1000}}})
    own = contracts.wallet(node.address)
    node = node.again(wallet={"payment_address": own.address})
    wallet = contracts.wallet(contracts.chain.owner)
    token.send("mint", wallet.address, 1000)
    wallet.send("approve", owner.consumer.address, token.address, 1000)
    fields = {"payment_amount": 1000, "payment_token": token.address, "wallet": wallet.address}
    async with node.running():
        await node.node.subscribe(requested(owner.signed(owner.subscription(["echo"], **fields))), ALICE)
        [record] = await node.until_final()
    assert record.state is State.DONE
    assert token.call("balanceOf", own.address) == 900


# -- proofs ---------------------------------------------------------------------------------------


async def prove(data: Any) -> Any:
    keys = ("raw_input", "processed_input", "raw_output", "processed_output")
    return {**dict.fromkeys(keys, "0a"), "proof": "abcd"}


class Proving:
    """A node whose container generates proofs. Its consumer pays 1,000 wei for each, 100 of them to a verifier."""

    def __init__(self, contracts: Contracts, wei: int = 10_000) -> None:
        self.contracts, self.consumer = contracts, contracts.consumer()
        self.verifier = contracts.verifier()
        self.verifier.send("setToken", ZERO_ADDRESS, True, 100)
        self.wallet = paying(contracts, self.consumer, 100_000)
        node = ChainNode(contracts, {"prove": prove}, rules={"prove": {"generates_proofs": True}})
        self.own = contracts.wallet(node.address, wei).address
        self.node = node.again(wallet={"payment_address": self.own})

    def subscribe(self) -> int:
        rest = {"amount": 1000, "wallet": self.wallet, "verifier": self.verifier.address}
        return self.consumer.subscribe(["prove"], **rest)

    def mode(self, name: str) -> None:
        self.verifier.send("setMode", ("wait", "accept", "reject").index(name))

    async def reserved(self) -> list[str]:
        """Return the keys of what is held back in the node's wallet, by its own books."""
        return [record.key for record in await self.node.node.storage("chain").scan("escrow/")]

    @property
    def gained(self) -> int:
        return self.contracts.chain.balance(self.own) - 10_000


@pytest.mark.parametrize(("mode", "gained"), [("accept", 800), ("reject", -1000)])
async def test_a_proof_is_judged_at_once(contracts: Contracts, mode: str, gained: int) -> None:
    """The payment is 1,000, less a tenth for the protocol and 100 for the verifier; a wrong proof costs all of it."""
    proving = Proving(contracts)
    proving.mode(mode)
    id = proving.subscribe()
    async with proving.node.running():
        [record] = await proving.node.until_final()
    assert record.state is State.DONE
    [received] = proving.consumer.received(id)
    assert received["proof"] == b"\xab\xcd"
    assert proving.gained == gained
    assert await proving.reserved() == []


async def test_four_proofs_at_once_wait_for_their_verifier_and_each_is_paid(contracts: Contracts) -> None:
    proving = Proving(contracts)
    ids = [proving.subscribe() for _ in range(4)]
    async with proving.node.running():
        await proving.node.until(lambda records: [one.state for one in records] == [State.CONFIRMED] * 4)
        assert [len(proving.consumer.received(id)) for id in ids] == [1] * 4
        assert len(await proving.reserved()) == 4
        proving.verifier.send("finalize", ids[0], 1, proving.node.address, True)
        proving.verifier.send("finalize", ids[1], 1, proving.node.address, False)
        await proving.node.until(lambda records: sum(one.final for one in records) == 2)
        contracts.chain.mine(1, seconds=8 * 86_400)  # after a week anybody may end a proof, and the node is paid
        records = await proving.node.until_final(4)
        assert await proving.reserved() == []
    reasons = {one.id: one.reason for one in records}
    assert reasons[ids[0]] == "its proof was accepted"
    assert reasons[ids[1]] == "its proof was rejected"
    assert reasons[ids[2]] == reasons[ids[3]] == "its proof was not judged in time"
    assert [one.state for one in records] == [State.DONE] * 4
    assert proving.gained == 3 * 800 - 1000
    # one sets the allowance, four deliver, two end the proofs that nobody has judged
    assert len(contracts.chain.transactions_of(proving.node.address)) == 7


async def test_a_wallet_with_too_little_for_another_proof_delivers_it_once_one_is_judged(contracts: Contracts) -> None:
    proving = Proving(contracts, wei=1500)
    ids = [proving.subscribe() for _ in range(2)]
    async with proving.node.running():
        await proving.node.until(lambda records: State.CONFIRMED in [one.state for one in records])
        [waiting] = [one for one in await proving.node.records() if one.state is not State.CONFIRMED]
        assert waiting.state is State.OUTPUT
        [first] = [id for id in ids if id != waiting.id]
        proving.verifier.send("finalize", first, 1, proving.node.address, True)
        proving.mode("accept")
        records = await proving.node.until_final(2)
    assert [one.state for one in records] == [State.DONE] * 2


async def test_a_node_without_a_wallet_serves_what_is_free(contracts: Contracts) -> None:
    consumer = contracts.consumer()
    paid = consumer.subscribe(["echo"], amount=1, wallet=paying(contracts, consumer, 100))
    free = consumer.subscribe(["echo"])
    node = ChainNode(contracts, {"echo": echo})
    async with node.running():
        states = {one.id: one.state for one in await node.until_final(2)}
    assert states == {paid: State.FAILED, free: State.DONE}


# -- faults ---------------------------------------------------------------------------------------


async def test_a_node_whose_chain_does_not_answer_runs_and_serves_it_later(contracts: Contracts) -> None:
    owner = Owner(contracts)
    body = owner.signed(owner.subscription(["echo"]))
    gate = Gate(contracts.chain.port)
    node = ChainNode(contracts, {"echo": echo}, urls=[gate.url])
    async with gate.listening(), node.node:
        gate.open = False
        with anyio.fail_after(20):
            while not node.plugin.nodekit_problems():
                await anyio.sleep(0.01)
        with pytest.raises(Unavailable, match="the chain does not answer"):
            await node.node.subscribe(requested(body), ALICE)
        health = await node.node.health()
        assert health.healthy
        assert any("RPC endpoint" in reason for reason in health.reasons)
        assert node.node.chain_address == node.address
        gate.open = True
        await node.ready()
        await node.node.subscribe(requested(body), ALICE)
        [record] = await node.until_final()
        assert record.state is State.DONE
        assert (await node.node.health()).reasons == ()


async def test_a_wrong_registry_is_named_in_health(contracts: Contracts) -> None:
    node = ChainNode(contracts, {"echo": echo}, registry_address=contracts.coordinator.address)
    async with node.node:
        with anyio.fail_after(20):
            while not (reasons := (await node.node.health()).reasons):
                await anyio.sleep(0.01)
    assert "is no registry of this chain" in reasons[0]


async def test_an_accepted_subscription_survives_a_kill_of_the_node(contracts: Contracts, tmp_path: Path) -> None:
    """The node dies after its reply: a store that is copied at that moment is what a later life finds."""
    owner, stopped = Owner(contracts), anyio.Event()

    async def slow(data: Any) -> Any:
        stopped.set()
        await anyio.sleep_forever()

    first = ChainNode(contracts, {"echo": slow}, store=SqliteStore(tmp_path / "jobs.db"))
    async with first.running():
        await first.node.subscribe(requested(owner.signed(owner.subscription(["echo"]), data={"n": 1})), ALICE)
        contracts.chain.mine()
        await stopped.wait()
        await SqliteStore(tmp_path / "jobs.db").backup(tmp_path / "copy.db")
    later = first.again(functions={"echo": echo}, store=SqliteStore(tmp_path / "copy.db"))
    async with later.running():
        [record] = await later.until_final()
    assert (record.state, record.attempts) == (State.DONE, 0)
    assert decode(["string"], owner.consumer.received()[0]["output"]) == ("{'said': {'n': 1}}",)
