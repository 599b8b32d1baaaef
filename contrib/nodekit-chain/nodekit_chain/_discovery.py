"""The contracts of a chain, as its registry names them."""

import msgspec

from nodekit import NodekitError
from nodekit_chain.protocol.address import ZERO_ADDRESS, Address
from nodekit_chain.protocol.calls import UnreadableReply
from nodekit_chain.protocol.contracts import Registry
from nodekit_chain.rpc.questions import Refused, Rpc, call, result_bytes


class Discovered(msgspec.Struct, frozen=True):
    """The addresses of the contracts."""

    coordinator: Address
    reader: Address
    fee: Address
    factory: Address


FUNCTIONS = (Registry.COORDINATOR, Registry.READER, Registry.FEE, Registry.WALLET_FACTORY)


class NoRegistry(NodekitError):
    """There is no registry at the address that the settings name, or it does not know all contracts."""


async def discover(rpc: Rpc, registry: Address) -> Discovered:
    """Ask a registry. Raise `NoRegistry`, and the errors of the RPC."""
    replies = await rpc.batch([call(registry, function.encode()) for function in FUNCTIONS])
    addresses: list[Address] = []
    for function, reply in zip(FUNCTIONS, replies, strict=True):
        try:
            address: Address = function.decode_one(result_bytes(reply))
        except (Refused, UnreadableReply) as error:
            cure = "correct registry_address, or rpc_url if it is of another chain"
            raise NoRegistry(f"the contract {registry} is no registry of this chain ({error}); {cure}") from error
        if address == ZERO_ADDRESS:
            raise NoRegistry(f"the registry {registry} names no {function.name}; is it the right one?")
        addresses.append(address)
    return Discovered(*addresses)
