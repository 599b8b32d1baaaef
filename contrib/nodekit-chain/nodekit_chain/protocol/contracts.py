"""Interfaces of the contracts, by contract: what a node calls, and the events that it reads."""

from nodekit_chain.protocol.calls import Function, LogEvent
from nodekit_chain.protocol.subscription import SUBSCRIPTION_TYPE

_SIGNATURE = ("uint8", "bytes32", "bytes32")
_RESULT = ("bytes", "bytes", "bytes", "address")


class Registry:
    """The contract that knows the addresses of the others."""

    COORDINATOR = Function("COORDINATOR", (), ("address",))
    READER = Function("READER", (), ("address",))
    FEE = Function("FEE", (), ("address",))
    WALLET_FACTORY = Function("WALLET_FACTORY", (), ("address",))


class Coordinator:
    """The contract that keeps subscriptions and takes results.

    - `id`: The next id; the newest subscription is the one before.
    - `node_responded`, `proof_requests`: By `node_key`. A proof request is its expiry, the node's wallet, and the
      amount that the consumer's wallet holds back.
    - `delegate_created_ids`: By `delegated_key`; 0: none.
    """

    id = Function("id", (), ("uint32",))
    get_subscription = Function("getSubscription", ("uint32",), (SUBSCRIPTION_TYPE,))
    deliver_compute = Function("deliverCompute", ("uint32", "uint32", *_RESULT))
    deliver_compute_delegatee = Function(
        "deliverComputeDelegatee", ("uint32", "uint32", SUBSCRIPTION_TYPE, *_SIGNATURE, "uint32", *_RESULT)
    )
    node_responded = Function("nodeResponded", ("bytes32",), ("bool",))
    proof_requests = Function("proofRequests", ("bytes32",), ("uint32", "address", "uint256"))
    finalize_proof_verification = Function("finalizeProofVerification", ("uint32", "uint32", "address", "bool"))
    delegate_created_ids = Function("delegateCreatedIds", ("bytes32",), ("uint32",))

    cancelled = LogEvent("SubscriptionCancelled", ("uint32",))
    proof_verified = LogEvent("ProofVerified", ("uint32", "uint32", "address"), ("bool", "address", "bool"))


class Reader:
    """The contract that reads many subscriptions at once. Beyond the newest id, rows are zeros."""

    read_subscription_batch = Function("readSubscriptionBatch", ("uint32", "uint32"), (f"{SUBSCRIPTION_TYPE}[]",))
    read_redundancy_count_batch = Function("readRedundancyCountBatch", ("uint32[]", "uint32[]"), ("uint16[]",))


class WalletFactory:
    """The contract that makes wallets, and vouches for those that it has made."""

    is_valid_wallet = Function("isValidWallet", ("address",), ("bool",))


class Wallet:
    """A wallet from which subscriptions are paid. `approve` sets an allowance, and adds nothing to the one before."""

    owner = Function("owner", (), ("address",))
    approve = Function("approve", ("address", "address", "uint256"))
    allowance = Function("allowance", ("address", "address"), ("uint256",))


class Fee:
    """The contract that says what the protocol takes, in parts of 10 000."""

    fee = Function("FEE", (), ("uint16",))


class Consumer:
    """The contract that owns a subscription."""

    get_container_inputs = Function("getContainerInputs", ("uint32", "uint32", "uint32", "address"), ("bytes",))
    get_signer = Function("getSigner", (), ("address",))


class Verifier:
    """The contract that checks proofs, and what it charges."""

    is_supported_token = Function("isSupportedToken", ("address",), ("bool",))
    fee = Function("fee", ("address",), ("uint256",))


class Token:
    """A token (ERC-20)."""

    balance_of = Function("balanceOf", ("address",), ("uint256",))
