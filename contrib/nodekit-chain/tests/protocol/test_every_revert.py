"""Each reason for which a delivery is refused, provoked on the contracts; and payments of deliveries."""

from collections.abc import Callable

import pytest
from local_chain import CHAIN_ID, ETHER, CallFailed, Contract, Contracts
from msgspec.structs import replace

from nodekit_chain.account.key import AccountKey
from nodekit_chain.protocol.address import ZERO_ADDRESS
from nodekit_chain.protocol.contracts import Coordinator
from nodekit_chain.protocol.delegated import DelegatedRequest, Domain, Signature
from nodekit_chain.protocol.reverts import REMEDIES, Remedy, revert_of
from nodekit_chain.protocol.subscription import Subscription, containers_hash

NOBODY = "0x" + "12" * 20
SIGNER = AccountKey(b"\x42" * 32)
PROVOKED: dict[str, Callable[["Bench"], None]] = {}


class Bench:
    """A consumer, its wallet with an ether, the wallet of a node, and the coordinator, by calls of a node."""

    def __init__(self, contracts: Contracts) -> None:
        self.contracts, self.chain = contracts, contracts.chain
        self.node = contracts.chain.rpc("eth_accounts")[1]
        self.consumer = contracts.consumer()
        self.consumer.send("setSigner", SIGNER.address)
        self.wallet = contracts.wallet(self.chain.owner, ETHER)
        self.node_wallet = contracts.wallet(self.node, ETHER)
        self.allow(self.wallet, self.consumer.address, ETHER)

    def allow(self, wallet: Contract, spender: str, amount: int, token: str = ZERO_ADDRESS) -> None:
        owner = wallet.call("owner")
        wallet.send("approve", spender, token, amount, sender=owner)

    def paid(self, **fields: object) -> int:
        given = {"wallet": self.wallet.address, "amount": ETHER, **fields}
        return self.consumer.subscribe(["a"], **given)  # type: ignore[arg-type]

    def deliver(self, id: int, interval: int = 1, *, wallet: str = "", by: str = "") -> None:
        arguments = (id, interval, b"in", b"out", b"proof", wallet or self.node_wallet.address)
        self.try_(Coordinator.deliver_compute.encode(*arguments), by=by)

    def try_(self, data: bytes, *, to: str = "", by: str = "") -> None:
        """Simulate a call as a node does, and send it if the simulation succeeds."""
        sender = by or self.node
        call = {"from": sender, "to": to or self.contracts.coordinator.address, "data": "0x" + data.hex()}
        self.chain.rpc("eth_call", call | {"gas": hex(15_000_000)}, "latest")
        self.chain.send(data, call["to"], sender=sender)

    def create_delegated(self, change: Callable[[DelegatedRequest], DelegatedRequest], v: int | None = None) -> None:
        now = self.chain.timestamp
        sub = Subscription(self.consumer.address, now, 0, 1, 1, containers_hash(["a"]))
        request = DelegatedRequest(1, now + 100, sub)
        made = SIGNER.sign(request.digest(Domain(CHAIN_ID, self.contracts.coordinator.address)))
        signature = Signature(v or made.parity + 27, made.r, made.s)
        asked = change(request)
        fields = (asked.nonce, asked.expiry, asked.subscription.row, *signature.row)
        self.try_(self.contracts.coordinator.data("createSubscriptionDelegatee", *fields))


@pytest.fixture
def bench(contracts: Contracts) -> Bench:
    return Bench(contracts)


def provokes(name: str) -> Callable[[Callable[[Bench], None]], None]:
    def take(function: Callable[[Bench], None]) -> None:
        PROVOKED[name] = function

    return take


@provokes("SubscriptionNotFound")
def _(bench: Bench) -> None:
    bench.deliver(7)


@provokes("SubscriptionNotActive")
def _(bench: Bench) -> None:
    bench.deliver(bench.consumer.subscribe(["a"], period=60, frequency=2))


@provokes("IntervalMismatch")
def _(bench: Bench) -> None:
    id = bench.consumer.subscribe(["a"], period=60, frequency=2)
    bench.chain.mine(seconds=60 + 61)
    bench.deliver(id, 1)


@provokes("SubscriptionCompleted")
def _(bench: Bench) -> None:
    id = bench.consumer.subscribe(["a"], period=60, frequency=2)
    bench.chain.mine(seconds=60 * 3 + 10)
    bench.deliver(id, 3)


@provokes("IntervalCompleted")
def _(bench: Bench) -> None:
    id = bench.consumer.subscribe(["a"])
    bench.deliver(id, by=bench.chain.owner)
    bench.deliver(id)


@provokes("NodeRespondedAlready")
def _(bench: Bench) -> None:
    id = bench.consumer.subscribe(["a"], redundancy=2)
    bench.deliver(id)
    bench.deliver(id)


@provokes("InvalidWallet")
def _(bench: Bench) -> None:
    bench.deliver(bench.paid(), wallet=NOBODY)


@provokes("UnsupportedVerifierToken")
def _(bench: Bench) -> None:
    bench.deliver(bench.paid(verifier=bench.contracts.verifier().address))


@provokes("InsufficientAllowance")
def _(bench: Bench) -> None:
    bench.allow(bench.wallet, bench.consumer.address, ETHER - 1)
    bench.deliver(bench.paid())


@provokes("InsufficientFunds")
def _(bench: Bench) -> None:
    bench.wallet.send("withdraw", ZERO_ADDRESS, 1)
    bench.deliver(bench.paid())


@provokes("TransferFailed")
def _(bench: Bench) -> None:
    token = bench.contracts.token()
    token.send("mint", bench.wallet.address, 100)
    token.send("setFailing", True)
    bench.allow(bench.wallet, bench.consumer.address, 100, token.address)
    bench.deliver(bench.paid(token=token.address, amount=100))


@provokes("ETHTransferFailed")
def _(bench: Bench) -> None:
    bench.contracts.fee.send("set", 500, bench.chain.deploy("Unpayable").address)
    bench.deliver(bench.paid())


@provokes("SignatureExpired")
def _(bench: Bench) -> None:
    bench.create_delegated(lambda request: replace(request, expiry=bench.chain.timestamp))


@provokes("InvalidSignature")
def _(bench: Bench) -> None:
    bench.create_delegated(lambda request: request, v=29)


@provokes("SignerMismatch")
def _(bench: Bench) -> None:
    bench.create_delegated(lambda request: replace(request, nonce=2))


@provokes("NotSubscriptionOwner")
def _(bench: Bench) -> None:
    bench.try_(bench.contracts.coordinator.data("cancelSubscription", bench.consumer.subscribe(["a"])))


def proving(bench: Bench, mode: str = "wait") -> tuple[int, Contract]:
    """Return a subscription that needs a proof, after its delivery, and its verifier."""
    verifier = bench.contracts.verifier()
    verifier.send("setToken", ZERO_ADDRESS, True, ETHER // 10)
    verifier.send("setMode", ["wait", "accept", "reject"].index(mode))
    bench.allow(bench.node_wallet, bench.node, ETHER)
    id = bench.paid(verifier=verifier.address)
    bench.deliver(id)
    return id, verifier


@provokes("UnauthorizedVerifier")
def _(bench: Bench) -> None:
    id, _ = proving(bench)
    bench.try_(Coordinator.finalize_proof_verification.encode(id, 1, bench.node, True))


@provokes("ProofRequestNotFound")
def _(bench: Bench) -> None:
    bench.try_(Coordinator.finalize_proof_verification.encode(1, 1, bench.node, True))


@provokes("NodeNotAllowed")
def _(bench: Bench) -> None:
    bench.consumer.mode("refuse")
    bench.deliver(bench.consumer.subscribe(["a"]))


@provokes("InsufficientBalance")
def _(bench: Bench) -> None:
    bench.consumer.mode("unpaid")
    bench.deliver(bench.consumer.subscribe(["a"]))


@provokes("Reentrancy")
def _(bench: Bench) -> None:
    bench.consumer.mode("reenter")
    bench.deliver(bench.consumer.subscribe(["a"]))


@pytest.mark.parametrize("name", REMEDIES)
def test_each_reason_is_provoked_and_known(name: str, bench: Bench) -> None:
    with pytest.raises(CallFailed) as caught:
        PROVOKED[name](bench)
    assert revert_of(caught.value.data).name == name


@pytest.mark.parametrize(
    ("mode", "name"),
    [("revert with reason", "not today"), ("revert empty", "reverted without a reason"), ("revert with error", "0x")],
)
def test_a_consumers_own_reason_is_shown_and_tried_again(mode: str, name: str, bench: Bench) -> None:
    bench.consumer.mode(mode)
    with pytest.raises(CallFailed) as caught:
        bench.deliver(bench.consumer.subscribe(["a"]))
    revert = revert_of(caught.value.data)
    assert revert.name.startswith(name)
    assert revert.remedy is Remedy.RETRY


def test_a_delivery_without_a_mistake_is_taken(bench: Bench) -> None:
    bench.deliver(bench.paid())
    bench.create_delegated(lambda request: request)
    assert len(bench.consumer.received()) == 1


def test_checks_are_made_in_the_order_of_the_protocol(bench: Bench) -> None:
    """A delivery with all mistakes at once is refused for the first of them, and after its repair for the next one."""
    found = []
    id = bench.consumer.subscribe(["a"], period=60, frequency=1, amount=1, wallet=NOBODY)
    bench.consumer.mode("revert with reason")

    def refused(id: int, interval: int) -> None:
        with pytest.raises(CallFailed) as caught:
            bench.deliver(id, interval, wallet=NOBODY)
        found.append(revert_of(caught.value.data).name)

    refused(9, 9)
    refused(id, 9)
    bench.chain.mine(seconds=60 + 65)
    refused(id, 9)
    refused(id, 2)
    again = bench.consumer.subscribe(["a"], amount=1, wallet=NOBODY)
    refused(again, 1)
    expected = ["SubscriptionNotFound", "SubscriptionNotActive", "IntervalMismatch", "SubscriptionCompleted"]
    assert found == [*expected, "InvalidWallet"]


# -- payments ---------------------------------------------------------------------------------------


class Balances:
    """Changes of balances since a moment, in thousandths of an ether."""

    def __init__(self, bench: Bench, **addresses: str) -> None:
        self._chain, self._addresses = bench.chain, addresses
        self._before = self._now()

    def _now(self) -> dict[str, int]:
        return {name: self._chain.balance(address) for name, address in self._addresses.items()}

    def changed(self) -> dict[str, int]:
        return {name: (now - self._before[name]) * 1000 // ETHER for name, now in self._now().items()}


def test_a_result_is_paid_at_once(bench: Bench) -> None:
    id = bench.paid()
    balances = Balances(
        bench, node=bench.node_wallet.address, consumer=bench.wallet.address, protocol=bench.contracts.fee_recipient
    )
    bench.deliver(id)
    assert balances.changed() == {"node": 900, "consumer": -1000, "protocol": 100}


@pytest.mark.parametrize(
    ("mode", "node", "consumer"), [("accept", 800, -1000), ("reject", -1000, 800), ("time out", 800, -1000)]
)
def test_a_proof_is_paid_as_it_is_judged(mode: str, node: int, consumer: int, bench: Bench) -> None:
    balances = Balances(
        bench, node=bench.node_wallet.address, consumer=bench.wallet.address, protocol=bench.contracts.fee_recipient
    )
    id, verifier = proving(bench, "wait" if mode == "time out" else mode)
    if mode == "time out":
        assert balances.changed() == {"node": 0, "consumer": -200, "protocol": 105}
        bench.chain.mine(seconds=7 * 86_400)
        bench.contracts.coordinator.send("finalizeProofVerification", id, 1, bench.node, False)
    assert balances.changed() == {"node": node, "consumer": consumer, "protocol": 105}
    assert bench.chain.balance(verifier.call("getWallet")) * 1000 // ETHER == 95


def test_a_judged_proof_restores_the_nodes_allowance(bench: Bench) -> None:
    proving(bench, "accept")
    assert bench.node_wallet.call("allowance", bench.node, ZERO_ADDRESS) == ETHER
