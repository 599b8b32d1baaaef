"""Keys under which the coordinator keeps facts."""

from eth_abi.abi import encode

from nodekit_chain.protocol.address import Address
from nodekit_chain.protocol.keccak import keccak256


def node_key(subscription_id: int, interval: int, node: Address) -> bytes:
    """Return the key of a node's result for an interval: whether it has delivered, and its proof."""
    return keccak256(encode(["uint32", "uint32", "address"], [subscription_id, interval, node]))


def delegated_key(owner: Address, nonce: int) -> bytes:
    """Return the key of a delegated subscription: the id that it was given."""
    return keccak256(encode(["address", "uint32"], [owner, nonce]))
