"""Interfaces of the contracts, by contract: what a node calls, and the events that it reads."""

from nodekit_chain.protocol.calls import Function, LogEvent
from nodekit_chain.protocol.subscription import SUBSCRIPTION_TYPE

_SIGNATURE = ("uint8", "bytes32", "bytes32")
_RESULT = ("bytes", "bytes", "bytes", "address")


class Registry:
    """The contract that knows the addresses of the others."""

    COORDINATOR = Function("COORDINATOR", (), ("address",))
    READER = Function("READER", (), ("address",))
    INBOX = Function("INBOX", (), ("address",))
    FEE = Function("FEE", (), ("address",))
    WALLET_FACTORY = Function("WALLET_FACTORY", (), ("address",))


class Coordinator:
    """The contract that keeps subscriptions and takes results.

    - `id`: The next id; the newest subscription is the one before.
    - `redundancy_count`: By `interval_key`.
    - `node_responded`, `proof_requests`: By `node_key`. A proof request is its expiry, the node's wallet, and the
      amount that the consumer's wallet holds back.
    - `delegate_created_ids`: By `delegated_key`; 0: none.
    """

    id = Function("id", (), ("uint32",))
    get_subscription = Function("getSubscription", ("uint32",), (SUBSCRIPTION_TYPE,))
    create_subscription = Function(
        "createSubscription",
        ("string", "uint32", "uint32", "uint16", "bool", "address", "uint256", "address", "address"),
        ("uint32",),
    )
    cancel_subscription = Function("cancelSubscription", ("uint32",))
    deliver_compute = Function("deliverCompute", ("uint32", "uint32", *_RESULT))
    create_subscription_delegatee = Function(
        "createSubscriptionDelegatee", ("uint32", "uint32", SUBSCRIPTION_TYPE, *_SIGNATURE), ("uint32",)
    )
    deliver_compute_delegatee = Function(
        "deliverComputeDelegatee", ("uint32", "uint32", SUBSCRIPTION_TYPE, *_SIGNATURE, "uint32", *_RESULT)
    )
    redundancy_count = Function("redundancyCount", ("bytes32",), ("uint16",))
    node_responded = Function("nodeResponded", ("bytes32",), ("bool",))
    proof_requests = Function("proofRequests", ("bytes32",), ("uint32", "address", "uint256"))
    finalize_proof_verification = Function("finalizeProofVerification", ("uint32", "uint32", "address", "bool"))
    delegate_created_ids = Function("delegateCreatedIds", ("bytes32",), ("uint32",))
    max_subscriber_nonce = Function("maxSubscriberNonce", ("address",), ("uint32",))

    created = LogEvent("SubscriptionCreated", ("uint32",))
    cancelled = LogEvent("SubscriptionCancelled", ("uint32",))
    fulfilled = LogEvent("SubscriptionFulfilled", ("uint32", "address"))
    proof_verified = LogEvent("ProofVerified", ("uint32", "uint32", "address"), ("bool", "address", "bool"))


class Reader:
    """The contract that reads many subscriptions at once. Beyond the newest id, rows are zeros."""

    read_subscription_batch = Function("readSubscriptionBatch", ("uint32", "uint32"), (f"{SUBSCRIPTION_TYPE}[]",))
    read_redundancy_count_batch = Function("readRedundancyCountBatch", ("uint32[]", "uint32[]"), ("uint16[]",))


class Inbox:
    """The contract that keeps the results of lazy subscriptions, by container hash, node and index."""

    read = Function(
        "read",
        ("bytes32", "address", "uint256"),
        ("uint32", "uint32", "uint32", "bytes", "bytes", "bytes"),
    )
    new_item = LogEvent("NewInboxItem", ("bytes32", "address"), ("uint256",))


class WalletFactory:
    """The contract that makes wallets, and vouches for those that it has made."""

    create_wallet = Function("createWallet", ("address",), ("address",))
    is_valid_wallet = Function("isValidWallet", ("address",), ("bool",))


class Wallet:
    """A wallet from which subscriptions are paid. `approve` sets an allowance, and adds nothing to the one before."""

    owner = Function("owner", (), ("address",))
    approve = Function("approve", ("address", "address", "uint256"))
    allowance = Function("allowance", ("address", "address"), ("uint256",))
    withdraw = Function("withdraw", ("address", "uint256"))


class Fee:
    """The contract that says what the protocol takes, in parts of 10 000, and who receives it."""

    fee = Function("FEE", (), ("uint16",))
    recipient = Function("FEE_RECIPIENT", (), ("address",))


class Consumer:
    """The contract that owns a subscription."""

    get_container_inputs = Function("getContainerInputs", ("uint32", "uint32", "uint32", "address"), ("bytes",))
    get_signer = Function("getSigner", (), ("address",))


class Verifier:
    """The contract that checks proofs, and what it charges."""

    get_wallet = Function("getWallet", (), ("address",))
    is_supported_token = Function("isSupportedToken", ("address",), ("bool",))
    fee = Function("fee", ("address",), ("uint256",))


class Token:
    """A token (ERC-20)."""

    balance_of = Function("balanceOf", ("address",), ("uint256",))
