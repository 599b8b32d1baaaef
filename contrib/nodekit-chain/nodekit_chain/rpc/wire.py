"""JSON-RPC 2.0: requests as bytes, and bytes as answers. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from nodekit_chain.rpc.failures import EndpointFailed, Failure
from nodekit_chain.rpc.questions import Question, Refused, hex_bytes, shown

_BUSY_CODES = frozenset({429, -32005, -32029})
"""Codes with which endpoints say that they have had too many requests."""
_BUSY_WORDS = ("rate limit", "too many requests", "quota", "limit exceeded", "compute units", "request limit")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class BatchRefused(Exception):
    """The endpoint takes no batch, or none that is so long."""


def encoded(questions: Sequence[Question], *, single: bool = False) -> bytes:
    """Return the body of a request; `single`: of the only question, outside a list."""
    calls = [
        {"jsonrpc": "2.0", "id": number, "method": question.method, "params": question.params}
        for number, question in enumerate(questions)
    ]
    return _encode(calls[0] if single else calls)


def answers(body: bytes, number: int) -> list[Any | Refused]:
    """Return the answers to that many questions, in their order.

    Raise `EndpointFailed` if the body has other contents, or `BatchRefused` for one error instead of a list.
    """
    try:
        found = _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise EndpointFailed(Failure.GARBAGE, f"its answer is no JSON: {shown(error)}") from error
    if isinstance(found, dict) and number > 1:
        _check_busy(found.get("error"))
        raise BatchRefused
    replies = found if isinstance(found, list) else [found]
    by_id: dict[int, Any] = {}
    for reply in replies:
        id, answer = _answer(reply, number)
        by_id[id] = answer
    if len(by_id) != number:
        raise EndpointFailed(Failure.GARBAGE, f"it answers {len(by_id)} of {number} questions")
    return [by_id[id] for id in range(number)]


def _answer(reply: Any, number: int) -> tuple[int, Any]:
    """Return the number of a question and its answer."""
    if not isinstance(reply, dict) or not ("result" in reply or "error" in reply):
        raise EndpointFailed(Failure.GARBAGE, f"its answer is no JSON-RPC: {shown(reply)}")
    error, id = reply.get("error"), reply.get("id")
    _check_busy(error)
    if number == 1 and error is not None:
        id = 0  # an error may come without the id
    if type(id) is not int or not 0 <= id < number:
        raise EndpointFailed(Failure.GARBAGE, f"it answers a question that was not asked: {shown(reply)}")
    return id, reply.get("result") if error is None else refused(error)


def refused(error: Any) -> Refused:
    """Return the error of an answer, with the bytes of a revert where they are: in `data`, or further inside."""
    if not isinstance(error, Mapping):
        return Refused(str(error))
    code, data = error.get("code"), error.get("data")
    while isinstance(data, Mapping):
        data = data.get("data", data.get("result"))
    found = hex_bytes(data.removeprefix("Reverted ").strip()) if isinstance(data, str) else None
    number = code if isinstance(code, int) else 0
    return Refused(str(error.get("message") or f"error {number}"), code=number, data=found or b"")


def _check_busy(error: Any) -> None:
    """Raise `EndpointFailed` for an error that is about the number of requests, not about a question."""
    if not isinstance(error, Mapping):
        return
    message = str(error.get("message") or "").lower()
    if error.get("code") in _BUSY_CODES or any(word in message for word in _BUSY_WORDS):
        raise EndpointFailed(Failure.BUSY, f"it has had too many requests: {shown(message)}")
