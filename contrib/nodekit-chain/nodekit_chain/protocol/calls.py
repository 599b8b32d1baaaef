"""Functions and events of contracts: selectors, arguments and results."""

from collections.abc import Sequence
from typing import Any

import msgspec
from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from nodekit import NodekitError
from nodekit_chain.protocol.keccak import keccak256


class UnreadableReply(NodekitError):
    """Bytes of a contract do not have the form that its interface promises."""


class Function(msgspec.Struct, frozen=True):
    """A function of a contract.

    - `inputs`, `outputs`: ABI types, such as `uint32`.
    """

    name: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    @property
    def signature(self) -> str:
        return f"{self.name}({','.join(self.inputs)})"

    @property
    def selector(self) -> bytes:
        return selector(self.signature)

    def encode(self, *arguments: Any) -> bytes:
        """Return the data of a call. Raise an `eth_abi.exceptions.EncodingError` for an argument out of range."""
        return self.selector + encode(self.inputs, arguments)

    def decode(self, data: bytes) -> tuple[Any, ...]:
        """Return the results. Raise `UnreadableReply`, also for an address without a contract (no bytes at all)."""
        return decoded(self.outputs, data, self.name)

    def decode_one(self, data: bytes) -> Any:
        """Return the only result. Raise `UnreadableReply`."""
        (value,) = self.decode(data)
        return value


class LogEvent(msgspec.Struct, frozen=True):
    """An event of a contract.

    - `indexed`: ABI types of the indexed parameters, which come first here.
    - `data`: Types of the others.
    """

    name: str
    indexed: tuple[str, ...] = ()
    data: tuple[str, ...] = ()

    @property
    def topic(self) -> bytes:
        """The first topic of its logs."""
        return keccak256(f"{self.name}({','.join(self.indexed + self.data)})".encode())

    def decode(self, topics: Sequence[bytes], data: bytes) -> tuple[Any, ...]:
        """Return the parameters, the indexed ones first. Raise `UnreadableReply` if the log is of another event."""
        if len(topics) != 1 + len(self.indexed) or topics[0] != self.topic:
            raise UnreadableReply(f"the log is not of the event {self.name}")
        indexed = tuple(
            decoded([kind], topic, self.name)[0] for kind, topic in zip(self.indexed, topics[1:], strict=True)
        )
        return (*indexed, *decoded(self.data, data, self.name))


def selector(signature: str) -> bytes:
    """Return the 4 bytes with which calls of a function, and reverts with an error, begin."""
    return keccak256(signature.encode())[:4]


def decoded(types: Sequence[str], data: bytes, name: str) -> tuple[Any, ...]:
    """Decode values. Raise `UnreadableReply` that names the function."""
    try:
        return tuple(decode(types, data))
    except (DecodingError, OverflowError, UnicodeDecodeError) as error:
        shown = f"{len(data)} bytes" if data else "nothing; is there a contract at the address?"
        raise UnreadableReply(f"{name}: expected ({','.join(types)}), received {shown}") from error
