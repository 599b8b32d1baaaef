"""Delegated subscriptions are checked against the real chain before they are accepted."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from delegation import Owner, requested
from local_chain import CHAIN_ID, Contracts
from msgspec.structs import replace
from rpc_proxy import RpcProxy

from nodekit import Container, Identity, Node, Refusal, Unavailable
from nodekit.testing import make_node
from nodekit_chain.delegated.acceptance import Acceptance
from nodekit_chain.payments.container_rules import ChainRules
from nodekit_chain.payments.policy import PaymentPolicy
from nodekit_chain.protocol.address import ZERO_ADDRESS
from nodekit_chain.protocol.calls import Function
from nodekit_chain.protocol.contracts import Consumer, Verifier
from nodekit_chain.protocol.delegated import Domain
from nodekit_chain.protocol.subscription import CANCELLED_AT, Subscription
from nodekit_chain.rpc.endpoints import Endpoints
from nodekit_chain.watching.pipelines import PipelineTable
from nodekit_chain.work.ledger import Ledger
from nodekit_chain.work.records import State, Work
from nodekit_function import FunctionRunner
from nodekit_guardian import Guardian

pytestmark = pytest.mark.anyio

ALICE = Identity(client="alice")
WALLET = "0x" + "77" * 20


class Kept:
    """A place for records, in the storage of a node."""

    def __init__(self, node: Node) -> None:
        self.ledger = Ledger(node.storage("chain"))

    async def accept(self, work: Work) -> bool:
        return await self.ledger.create(work) is not None

    async def accepted(self, key: str) -> Work | None:
        entry = await self.ledger.get(key)
        return None if entry is None else entry.work


RULES: Mapping[str, Mapping[str, Any]] = {
    "free": {},
    "inner": {"external": False},
    "proof": {"generates_proofs": True},
    "paid": {"accepted_payments": {"0x" + "00" * 20: 100}},
    "closed": {"allowed_delegate_addresses": ("0x" + "11" * 20,)},
    "chain only": {"allowed_addresses": ("0x" + "11" * 20,)},
}


class Reading:
    """Stands for the plugin as the reader of the containers' rules."""

    container_rules = ChainRules

    def nodekit_problems(self) -> list[str]:
        return []


class Desk:
    """The acceptance of a node, and the owner who asks it."""

    def __init__(self, contracts: Contracts, node: Node, rpc: Endpoints) -> None:
        self.contracts, self.owner, self.kept = contracts, Owner(contracts), Kept(node)
        factory, fee = contracts.factory.address, contracts.fee.address
        policy = PaymentPolicy(node, rpc, factory=factory, fee=fee, paid_to=WALLET, escrow=None)
        pipelines = PipelineTable([("free", "inner", "free", "free")])
        domain = Domain(CHAIN_ID, contracts.coordinator.address)
        self.acceptance = Acceptance(node, rpc, self.kept, policy, pipelines, domain, margin_seconds=30)

    async def ask(self, subscription: Subscription, **signing: Any) -> Work:
        return await self.acceptance.accept(requested(self.owner.signed(subscription, **signing)), ALICE)

    async def refusal(self, subscription: Subscription, **signing: Any) -> tuple[str, Mapping[str, Any]]:
        """Return reason and params of the refusal, after which nothing is kept."""
        before = [entry.work.key async for entry in self.kept.ledger.all()]
        with pytest.raises(Refusal) as refused:
            await self.ask(subscription, **signing)
        assert [entry.work.key async for entry in self.kept.ledger.all()] == before
        return refused.value.reason, refused.value.params


@pytest.fixture
async def desk(contracts: Contracts) -> AsyncIterator[Desk]:
    runner = FunctionRunner()
    for id, rules in RULES.items():
        runner.add(Container(id=id, rules=rules), _never)
    async with (
        make_node(runners=[runner], plugins=[Guardian(), Reading()]) as node,
        Endpoints([contracts.chain.url]) as rpc,
    ):
        yield Desk(contracts, node, rpc)


async def _never(data: Any) -> Any:
    raise NotImplementedError


async def test_a_subscription_of_its_owner_is_kept_with_its_data(desk: Desk) -> None:
    subscription = desk.owner.subscription(["free"], period=60, frequency=3)
    work = await desk.ask(subscription, nonce=7, data={"a": [1, 2**70]})
    kept = await desk.kept.accepted(work.key)
    assert kept == work
    assert (work.subscription, work.containers, work.id) == (subscription, ("free",), 0)
    assert work.delegation is not None
    assert (work.delegation.nonce, bytes(work.delegation.data)) == (7, b'{"a": [1, 1180591620717411303424]}')


async def test_a_declared_pipeline_and_short_ones_are_known_and_others_are_not(desk: Desk) -> None:
    for number, known in enumerate((["free", "inner"], ["free", "inner", "free", "free"])):
        assert (await desk.ask(desk.owner.subscription(known), nonce=number)).containers == tuple(known)
    reason, params = await desk.refusal(desk.owner.subscription(["nobody's"]))
    assert (reason, len(params["container"])) == ("Container not supported", 66)


async def test_only_the_signer_that_the_owner_names_may_ask(desk: Desk) -> None:
    subscription = desk.owner.subscription(["free"])
    other, address = desk.contracts.chain.new_key()
    reason, params = await desk.refusal(subscription, key=other)
    assert (reason, params["signer"], params["expected"]) == ("Signer mismatch", address, desk.owner.address)


@pytest.mark.parametrize("domain", [{"chain_id": 1}, {"coordinator": "0x" + "12" * 20}], ids=str)
async def test_a_signature_is_for_one_chain_and_one_coordinator(desk: Desk, domain: Any) -> None:
    reason, _ = await desk.refusal(desk.owner.subscription(["free"]), **domain)
    assert reason == "Signer mismatch"


async def test_a_signature_is_for_one_subscription(desk: Desk) -> None:
    body = desk.owner.signed(desk.owner.subscription(["free"]))
    body["subscription"]["payment_amount"] = 1
    body["subscription"]["wallet"] = desk.contracts.wallet(desk.owner.address, 1).address
    with pytest.raises(Refusal, match="Signer mismatch"):
        await desk.acceptance.accept(requested(body), ALICE)
    body["signature"]["r"] = 2**256 - 1
    with pytest.raises(Refusal, match="Invalid signature"):
        await desk.acceptance.accept(requested(body), ALICE)


async def test_an_owner_that_is_no_contract_has_no_signer(desk: Desk) -> None:
    subscription = replace(desk.owner.subscription(["free"]), owner=desk.owner.address)
    assert (await desk.refusal(subscription))[0] == "Owner has no signer"


@pytest.mark.parametrize("seconds", [-1, 0, 29])
async def test_a_signature_needs_time_for_the_work(desk: Desk, seconds: int) -> None:
    expiry = desk.contracts.chain.timestamp + seconds
    reason, params = await desk.refusal(desk.owner.subscription(["free"]), expiry=expiry)
    assert (reason, params["expiry"]) == ("Signature expired", expiry)
    await desk.ask(desk.owner.subscription(["free"]), expiry=expiry + 60)


async def test_time_is_that_of_the_chain(desk: Desk) -> None:
    subscription, expiry = desk.owner.subscription(["free"]), desk.contracts.chain.timestamp + 1000
    desk.contracts.chain.mine(1, seconds=2000)
    assert (await desk.refusal(subscription, expiry=expiry))[0] == "Signature expired"


async def test_what_can_never_be_delivered_is_refused(desk: Desk) -> None:
    make = desk.owner.subscription
    past = desk.contracts.chain.timestamp - 100
    for subscription in (
        make(["free"], frequency=0),
        make(["free"], redundancy=0),
        make(["free"], active_at=CANCELLED_AT),
        make(["free"], active_at=past, period=10, frequency=10),
    ):
        assert (await desk.refusal(subscription))[0] == "Subscription is over"
    await desk.ask(make(["free"], active_at=past, period=10, frequency=20))


async def test_one_that_begins_later_is_kept(desk: Desk) -> None:
    await desk.ask(desk.owner.subscription(["free"], active_at=desk.contracts.chain.timestamp + 1000))


async def test_repeating_a_request_changes_nothing_and_another_body_is_refused(desk: Desk) -> None:
    subscription = desk.owner.subscription(["free"])
    first = await desk.ask(subscription, data={"a": 1})
    assert await desk.ask(subscription, data={"a": 1}) == first
    assert (await desk.refusal(subscription, data={"a": 2}))[0] == "Nonce already used"
    assert (await desk.refusal(replace(subscription, redundancy=2), data={"a": 1}))[0] == "Nonce already used"


async def test_repeating_a_request_that_was_served_meanwhile_is_no_new_one(desk: Desk) -> None:
    body = desk.owner.signed(desk.owner.subscription(["free"], period=10, frequency=1))
    kept = await desk.acceptance.accept(requested(body), ALICE)
    desk.contracts.chain.mine(seconds=1000)
    assert await desk.acceptance.accept(requested(body), ALICE) == kept
    reason, _ = await desk.refusal(kept.subscription, key=desk.contracts.chain.new_key()[0])
    assert reason == "Signer mismatch"


async def test_repeating_a_request_says_that_it_was_not_served(desk: Desk) -> None:
    subscription = desk.owner.subscription(["free"])
    work = await desk.ask(subscription)
    entry = await desk.kept.ledger.get(work.key)
    assert entry is not None
    await desk.kept.ledger.change(entry, work.ended(State.FAILED, "the container failed", 1.0))
    told = await desk.refusal(subscription)
    assert told == ("Subscription was not served", {"state": "failed", "reason": "the container failed"})


async def test_a_nonce_that_the_chain_knows_is_taken_only_for_the_same_subscription(desk: Desk) -> None:
    subscription = desk.owner.subscription(["free"], redundancy=2)
    expiry = desk.contracts.chain.timestamp + 20
    signature = desk.owner.signed(subscription, nonce=3, expiry=expiry)["signature"]
    row = (3, expiry, subscription.row, signature["v"], *(signature[name].to_bytes(32) for name in "rs"))
    desk.contracts.coordinator.send("createSubscriptionDelegatee", *row)
    kept = await desk.ask(subscription, nonce=3, expiry=expiry)  # its expiry does not matter any more, since
    assert kept.id == 1  # it was created
    reason, params = await desk.refusal(replace(subscription, redundancy=3), nonce=3)
    assert (reason, params["subscription"]) == ("Nonce already used", 1)


async def test_a_stranger_may_not_ask_for_what_the_chain_or_the_node_knows_already(desk: Desk) -> None:
    subscription, stranger = desk.owner.subscription(["free"], redundancy=2), desk.contracts.chain.new_key()[0]
    signature = (signed := desk.owner.signed(subscription, nonce=3))["signature"]
    row = (3, signature["expiry"], subscription.row, signature["v"], *(signature[name].to_bytes(32) for name in "rs"))
    desk.contracts.coordinator.send("createSubscriptionDelegatee", *row)
    assert (await desk.refusal(subscription, nonce=3, key=stranger))[0] == "Signer mismatch"
    await desk.acceptance.accept(requested(signed), ALICE)
    assert (await desk.refusal(subscription, nonce=3, key=stranger))[0] == "Signer mismatch"


# -- rules of containers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("containers", "fields", "expected"),
    [
        (["inner"], {}, ("First container must be external", {"first_container": "inner"})),
        (["free"], {"verifier": WALLET}, ("Container does not generate proof", {"container": "free"})),
        (["free", "closed"], {}, ("Container not allowed for address", {"container": "closed"})),
        (["paid"], {}, ("Payment too low", {"payment_amount": "0", "least": "100"})),
        (["paid", "paid"], {"payment_amount": 199}, ("Payment too low", {"least": "200"})),
        (["paid"], {"payment_token": WALLET}, ("Payment token not accepted", {"container": "paid"})),
    ],
    ids=str,
)
async def test_the_rules_of_containers_hold(desk: Desk, containers: list[str], fields: Any, expected: Any) -> None:
    if containers == ["paid", "paid"]:
        desk.acceptance._pipelines = PipelineTable([("paid", "paid")])
    reason, params = await desk.refusal(desk.owner.subscription(containers, **fields))
    assert (reason, {**params, **expected[1]}) == (expected[0], params)


async def test_rules_for_subscriptions_on_the_chain_are_not_for_delegated_ones(desk: Desk) -> None:
    await desk.ask(desk.owner.subscription(["chain only"]))
    policy = desk.acceptance._policy
    assert "not allowed" in (await policy.objection(desk.owner.subscription(["chain only"]), ("chain only",)) or "")
    assert await policy.objection(desk.owner.subscription(["closed"]), ("closed",)) is None


# -- payment --------------------------------------------------------------------------------------


async def test_a_payment_needs_a_wallet_that_is_valid_funded_and_allows_it(desk: Desk) -> None:
    contracts, owner = desk.contracts, desk.owner
    wallet = contracts.wallet(contracts.chain.owner, 99)
    paid = owner.subscription(["paid"], payment_amount=100)
    assert (await desk.refusal(paid))[0] == "Wallet not valid"
    assert (await desk.refusal(replace(paid, wallet=WALLET)))[0] == "Wallet not valid"
    paid = replace(paid, wallet=wallet.address)
    assert (await desk.refusal(paid))[0] == "Wallet balance too low"
    contracts.chain.send(b"", wallet.address, value=1)
    assert (await desk.refusal(paid))[0] == "Wallet allowance too low"
    wallet.send("approve", owner.consumer.address, paid.payment_token, 100)
    assert (await desk.ask(paid)).subscription == paid


async def test_tokens_pay_too(desk: Desk) -> None:
    contracts, owner = desk.contracts, desk.owner
    token, wallet = contracts.token(), contracts.wallet(contracts.chain.owner)
    paid = owner.subscription(["free"], payment_amount=2**200, payment_token=token.address, wallet=wallet.address)
    assert (await desk.refusal(paid))[0] == "Wallet balance too low"
    token.send("mint", wallet.address, 2**200)
    wallet.send("approve", owner.consumer.address, token.address, 2**200)
    await desk.ask(paid)
    assert (await desk.refusal(replace(paid, payment_token=WALLET), nonce=1))[0] == "Payment token not valid"


async def test_a_verifier_takes_the_token_and_its_fee_is_covered(desk: Desk) -> None:
    contracts, owner = desk.contracts, desk.owner
    verifier, wallet = contracts.verifier(), contracts.wallet(contracts.chain.owner, 1000)
    proven = owner.subscription(["proof"], payment_amount=1000, wallet=wallet.address, verifier=WALLET)
    wallet.send("approve", owner.consumer.address, proven.payment_token, 1000)
    assert (await desk.refusal(proven))[0] == "Verifier not valid"
    proven = replace(proven, verifier=verifier.address)
    assert (await desk.refusal(proven))[0] == "Verifier does not support token"
    verifier.send("setToken", proven.payment_token, True, 901)  # the protocol takes 100
    assert (await desk.refusal(proven))[0] == "Payment does not cover the verifier"
    verifier.send("setToken", proven.payment_token, True, 900)
    await desk.ask(proven)


async def test_a_node_without_a_wallet_takes_nothing_that_pays(desk: Desk) -> None:
    desk.acceptance._policy._paid_to = None
    await desk.ask(desk.owner.subscription(["free"]))
    paid = desk.owner.subscription(["free"], payment_amount=1)
    assert (await desk.refusal(paid, nonce=1))[0] == "Node takes no payment"


# -- faults ---------------------------------------------------------------------------------------


async def test_a_chain_that_does_not_answer_is_not_a_refusal(desk: Desk) -> None:
    async with Endpoints(["http://127.0.0.1:1"]) as nobody:
        desk.acceptance._rpc = nobody
        with pytest.raises(Unavailable, match="the chain does not answer"):
            await desk.ask(desk.owner.subscription(["free"]))


@pytest.mark.parametrize("function", [Consumer.get_signer, Verifier.fee])
async def test_an_endpoint_that_fails_at_one_question_is_not_a_refusal(desk: Desk, function: Function) -> None:
    contracts, owner = desk.contracts, desk.owner
    verifier, wallet = contracts.verifier(), contracts.wallet(contracts.chain.owner, 1000)
    wallet.send("approve", owner.consumer.address, ZERO_ADDRESS, 1000)
    verifier.send("setToken", ZERO_ADDRESS, True, 900)
    paid = owner.subscription(["proof"], payment_amount=1000, wallet=wallet.address, verifier=verifier.address)
    selector = f"0x{function.selector.hex()}"
    with RpcProxy(contracts.chain.url) as proxy:
        proxy.refuses = lambda call: call["method"] == "eth_call" and call["params"][0]["data"].startswith(selector)
        async with Endpoints([proxy.url]) as failing:
            desk.acceptance._rpc = failing
            with pytest.raises(Unavailable, match="the chain does not answer"):
                await desk.ask(paid)
            proxy.refuses = lambda call: False
            await desk.ask(paid)


async def test_data_that_no_record_holds_are_refused(desk: Desk) -> None:
    reason, params = await desk.refusal(desk.owner.subscription(["free"]), data={"a": "x" * 300_000})
    assert (reason, params["field"]) == ("Malformed subscription", "data")
