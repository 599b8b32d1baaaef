"""Questions to the chain, as the watch asks them: JSON-RPC, many in one request."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from nodekit import NodekitError
from nodekit_chain.protocol.address import Address
from nodekit_chain.protocol.calls import UnreadableReply


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
        super().__init__(text)


class Rpc(Protocol):
    """The endpoints of a chain."""

    async def batch(self, questions: Sequence[Question]) -> "list[Any | Refused]":
        """Ask all in one request. Return the results in their order, a `Refused` for each error among them.

        Raise another `NodekitError` if no endpoint answers.
        """
        ...


def call(to: Address, data: bytes, block: "int | str" = "latest", sender: Address | None = None) -> Question:
    """Return the question for the result of a call, in a block or in the newest one."""
    message = {"to": to, "data": f"0x{data.hex()}"} | ({"from": sender} if sender else {})
    return Question("eth_call", (message, hex(block) if isinstance(block, int) else block))


def result_bytes(reply: Any) -> bytes:
    """Return the bytes of a result. Raise the `Refused` that it is, or `UnreadableReply`."""
    if isinstance(reply, Refused):
        raise reply
    if not isinstance(reply, str) or not reply.startswith("0x"):
        raise UnreadableReply(f"expected bytes in hexadecimal digits, received {str(reply)[:100]}")
    try:
        return bytes.fromhex(reply[2:])
    except ValueError as error:
        raise UnreadableReply(f"expected bytes in hexadecimal digits, received {reply[:100]}") from error


def result(reply: Any) -> Any:
    """Return a result. Raise the `Refused` that it is."""
    if isinstance(reply, Refused):
        raise reply
    return reply
