"""Questions to a chain and their answers. Pure."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from nodekit import NodekitError, printable
from nodekit_chain.protocol.address import Address
from nodekit_chain.protocol.calls import UnreadableReply

MOST_CHARACTERS = 300
"""Characters of an endpoint's own text that a message shows."""

FAULTS = frozenset({-32603, -32601})
"""Codes for internal errors, and for methods that an endpoint has not."""
LACKS = ("header not found", "missing trie node", "unknown block")
"""Parts of the errors of endpoints that lack a block, or its state."""


class Question(msgspec.Struct, frozen=True):
    """A call of a JSON-RPC method."""

    method: str
    params: tuple[Any, ...] = ()


class Refused(NodekitError):
    """The endpoint understood a question and answers with an error.

    - `data`: Bytes with which a call was reverted; empty if there are none.
    """

    def __init__(self, text: str, *, code: int = 0, data: bytes = b"") -> None:
        self.code, self.data = code, data
        super().__init__(shown(text))

    @property
    def is_fault(self) -> bool:
        """True if the endpoint could not find an answer, which says nothing about the question."""
        text = str(self).lower()
        return not self.data and "revert" not in text and (self.code in FAULTS or any(one in text for one in LACKS))


class EndpointFault(NodekitError):
    """No endpoint could find the answer to a question, which says nothing about the question."""


class Rpc(Protocol):
    """The endpoints of a chain."""

    async def batch(self, questions: Sequence[Question]) -> list[Any | Refused]:
        """Ask all in one request. Return the results in their order, a `Refused` for each error among them.

        Raise another `NodekitError` if no endpoint answers.
        """
        ...


def call(to: Address, data: bytes, block: int | str = "latest", sender: Address | None = None) -> Question:
    """Return the question for the result of a call, in a block or in the newest one."""
    message = {"to": to, "data": f"0x{data.hex()}"} | ({"from": sender} if sender else {})
    return Question("eth_call", (message, hex(block) if isinstance(block, int) else block))


def result(reply: Any) -> Any:
    """Return a result. Raise the `Refused` that it is, or `EndpointFault`."""
    if isinstance(reply, Refused):
        raise EndpointFault(str(reply)) if reply.is_fault else reply
    return reply


def result_bytes(reply: Any) -> bytes:
    """Return the bytes of a result. Raise as `result` does, and `UnreadableReply`."""
    found = hex_bytes(result(reply))
    if found is None:
        raise UnreadableReply(f"expected bytes in hexadecimal digits, received {shown(reply)}")
    return found


def quantity(reply: Any) -> int:
    """Return the number of a result. Raise as `result` does, and `UnreadableReply`."""
    found = result(reply)
    try:
        if isinstance(found, str) and found.startswith("0x"):
            return int(found, 16)
    except ValueError:
        pass
    raise UnreadableReply(f"expected a number in hexadecimal digits, received {shown(reply)}")


def hex_bytes(value: Any) -> bytes | None:
    """Return the bytes of a text that begins with 0x; None for anything else."""
    if not isinstance(value, str) or not value.startswith("0x"):
        return None
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        return None


def shown(value: Any) -> str:
    """Return what a message shows of a foreign value."""
    return printable(str(value))[:MOST_CHARACTERS]
