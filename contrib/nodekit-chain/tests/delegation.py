"""Delegated subscriptions of a consumer on the local chain: signed by an independent library."""

import json
from typing import Any

import msgspec
from independent import Account, encode_typed_data
from local_chain import CHAIN_ID, ConsumerContract, Contracts

from nodekit import SubscriptionRequest, encode_payload
from nodekit_chain.protocol.delegated import Signature
from nodekit_chain.protocol.subscription import Subscription, containers_hash
from nodekit_chain.work.records import Delegation, Work

TYPES = {
    "DelegateSubscription": [
        {"name": "nonce", "type": "uint32"},
        {"name": "expiry", "type": "uint32"},
        {"name": "sub", "type": "Subscription"},
    ],
    "Subscription": [
        {"name": "owner", "type": "address"},
        {"name": "activeAt", "type": "uint32"},
        {"name": "period", "type": "uint32"},
        {"name": "frequency", "type": "uint32"},
        {"name": "redundancy", "type": "uint16"},
        {"name": "containerId", "type": "bytes32"},
        {"name": "lazy", "type": "bool"},
        {"name": "verifier", "type": "address"},
        {"name": "paymentAmount", "type": "uint256"},
        {"name": "paymentToken", "type": "address"},
        {"name": "wallet", "type": "address"},
    ],
}


class Owner:
    """A consumer whose subscriptions are signed by a key of the test."""

    def __init__(self, contracts: Contracts) -> None:
        self.contracts = contracts
        self.key, self.address = contracts.chain.new_key()
        self.consumer: ConsumerContract = contracts.consumer(b"")
        self.consumer.send("setSigner", self.address)

    def subscription(self, containers: list[str], **fields: Any) -> Subscription:
        """Make a subscription; by default a callback that is active now."""
        fields = {"active_at": self.contracts.chain.timestamp, "period": 0, "frequency": 1, "redundancy": 1} | fields
        return Subscription(owner=self.consumer.address, containers=containers_hash(containers), **fields)

    def signed(
        self,
        subscription: Subscription,
        *,
        nonce: int = 0,
        expiry: int | None = None,
        data: Any = None,
        key: str = "",
        chain_id: int = CHAIN_ID,
        coordinator: str = "",
    ) -> dict[str, Any]:
        """Sign a subscription; return the body of the request."""
        expiry = self.contracts.chain.timestamp + 3600 if expiry is None else expiry
        domain = {
            "name": "InfernetCoordinator",
            "version": "1",
            "chainId": chain_id,
            "verifyingContract": coordinator or self.contracts.coordinator.address,
        }
        names = [one["name"] for one in TYPES["Subscription"]]
        message = {"nonce": nonce, "expiry": expiry, "sub": dict(zip(names, subscription.row, strict=True))}
        signed = Account.sign_message(encode_typed_data(domain, TYPES, message), key or self.key)
        return {
            "signature": {"nonce": nonce, "expiry": expiry, "v": signed.v, "r": signed.r, "s": signed.s},
            "subscription": {
                **msgspec.structs.asdict(subscription),
                "containers": f"0x{subscription.containers.hex()}",
            },
            "data": {"question": 1} if data is None else data,
        }


def requested(body: dict[str, Any]) -> SubscriptionRequest:
    """Return the request as a node hands it to its plugins."""
    return SubscriptionRequest(**{name: msgspec.Raw(json.dumps(part).encode()) for name, part in body.items()})


def work(owner: Owner, subscription: Subscription, nonce: int = 0, expiry: int | None = None) -> Work:
    """Return the record of a subscription that a node has accepted."""
    signature = owner.signed(subscription, nonce=nonce, expiry=expiry)["signature"]
    return Work(
        coordinator=owner.contracts.coordinator.address,
        subscription=subscription,
        containers=("echo",),
        delegation=Delegation(
            nonce=nonce,
            expiry=signature["expiry"],
            signature=Signature(signature["v"], signature["r"], signature["s"]),
            data=encode_payload({"asked": nonce}),
        ),
    )
