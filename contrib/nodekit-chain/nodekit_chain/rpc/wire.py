"""JSON-RPC 2.0: requests as bytes, and bytes as answers."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from nodekit import InvalidPayload, parse_json
from nodekit_chain.rpc.failures import EndpointFailed
from nodekit_chain.rpc.questions import Question, Refused, hex_bytes, shown

_BUSY_CODES = frozenset({429, -32005, -32029})
"""Codes with which endpoints say that they have had too many requests."""
_BUSY_WORDS = ("rate limit", "too many requests", "quota", "limit exceeded", "compute units", "request limit")


class Error(msgspec.Struct):
    """The error of an answer, as endpoints write it: a code, a text, and for a revert its bytes somewhere in `data`."""

    code: Any = 0
    message: Any = ""
    data: Any = None


class _Reply(msgspec.Struct):
    id: int | None = None
    result: Any = msgspec.UNSET
    error: Error | str | None = None


_decoder = msgspec.json.Decoder(list[_Reply] | _Reply)
_encode = msgspec.json.Encoder().encode


class BatchRefused(Exception):
    """The endpoint takes no batch, or none that is so long.

    - `is_fault`: True if one of the questions may be the reason: the endpoint names a fault of its own.
    """

    def __init__(self, *, is_fault: bool) -> None:
        self.is_fault = is_fault


def encoded(questions: Sequence[Question], *, single: bool = False) -> bytes:
    """Return the body of a request; `single`: of the only question, outside a list."""
    calls = [
        {"jsonrpc": "2.0", "id": number, "method": question.method, "params": question.params}
        for number, question in enumerate(questions)
    ]
    return _encode(calls[0] if single else calls)


async def answers(body: bytes, number: int) -> list[Any | Refused]:
    """Return the answers to that many questions, in their order.

    Raise `EndpointFailed` if the body has other contents, or `BatchRefused` for one error instead of a list.
    """
    try:
        found = await parse_json(body, _decoder)
    except (InvalidPayload, msgspec.ValidationError) as error:
        raise EndpointFailed(f"its answer is no JSON-RPC: {shown(error)}") from error
    if isinstance(found, _Reply):
        _check_busy(found.error)
        if number > 1:
            raise BatchRefused(is_fault=found.error is not None and refused(found.error).is_fault)
        found = [found]
    by_id = dict(_answer(reply, number) for reply in found)
    if len(by_id) != number:
        raise EndpointFailed(f"it answers {len(by_id)} of {number} questions")
    return [by_id[id] for id in range(number)]


def _answer(reply: _Reply, number: int) -> tuple[int, Any]:
    """Return the number of a question and its answer."""
    _check_busy(reply.error)
    id = 0 if number == 1 and reply.error is not None else reply.id  # an error may come without the id
    if id is None or not 0 <= id < number:
        raise EndpointFailed(f"it answers a question that was not asked: {reply.id}")
    if reply.error is not None:
        return id, refused(reply.error)
    if reply.result is msgspec.UNSET:
        raise EndpointFailed("its answer has neither a result nor an error")
    return id, reply.result


def refused(error: Error | str) -> Refused:
    """Return the error of an answer, with the bytes of a revert where they are: in `data`, or further inside."""
    if isinstance(error, str):
        return Refused(error)
    data = error.data
    while isinstance(data, dict):
        inner = cast(dict[str, Any], data)
        data = inner.get("data", inner.get("result"))
    found = hex_bytes(data.removeprefix("Reverted ").strip()) if isinstance(data, str) else None
    code = error.code if isinstance(error.code, int) else 0
    return Refused(str(error.message or f"error {code}"), code=code, data=found or b"")


def _check_busy(error: Error | str | None) -> None:
    """Raise `EndpointFailed` for an error that is about the number of requests, not about a question."""
    if error is None:
        return
    code, message = (error.code, error.message) if isinstance(error, Error) else (0, error)
    text = str(message or "").lower()
    if code in _BUSY_CODES or any(word in text for word in _BUSY_WORDS):
        raise EndpointFailed(f"it has had too many requests: {shown(text)}")
