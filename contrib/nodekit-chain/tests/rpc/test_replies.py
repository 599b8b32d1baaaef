"""JSON-RPC: answers in any order, errors of every kind of endpoint, and what is no answer."""

import json
from typing import Any

import pytest

from nodekit_chain.protocol.calls import UnreadableReply
from nodekit_chain.rpc.failures import EndpointFailed, pause_seconds
from nodekit_chain.rpc.questions import EndpointFault, Question, Refused, hex_bytes, quantity, result_bytes
from nodekit_chain.rpc.wire import BatchRefused, Error, answers, encoded, refused


def test_questions_are_numbered() -> None:
    body = json.loads(encoded([Question("a", (1, "x")), Question("b")]))
    assert body == [
        {"jsonrpc": "2.0", "id": 0, "method": "a", "params": [1, "x"]},
        {"jsonrpc": "2.0", "id": 1, "method": "b", "params": []},
    ]


@pytest.mark.anyio
async def test_answers_may_come_in_any_order() -> None:
    assert await answers(b'[{"id": 1, "result": "b"}, {"id": 0, "result": null}]', 2) == [None, "b"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xff", b"1", b"[]", b"{}", b"[" * 1000, b'[{"id": 0}]', b'[{"id": 0, "result": 1}]',
        b'[{"id": 0, "result": 1}, {"id": 0, "result": 2}]', b'[{"id": 0, "result": 1}, {"id": 2, "result": 2}]',
        b'[{"id": 0, "result": 1}, {"id": true, "result": 2}]', b'[{"id": 0, "result": 1}, {"id": "1", "result": 2}]',
        b'[{"id": 0, "result": 1}, {"error": {"code": 1}}]',
    ],
)  # fmt: skip
async def test_what_is_no_answer_is_garbage(body: bytes) -> None:
    with pytest.raises((EndpointFailed, BatchRefused)) as caught:
        await answers(body, 2)
    if body != b"{}":
        assert isinstance(caught.value, EndpointFailed)
        assert "answer" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "data"),
    [
        (Error(3, "execution reverted", "0x1a00354f"), "1a00354f"),
        (Error(-32000, "reverted", {"data": "0x1a00354f"}), "1a00354f"),
        (Error(-32000, "reverted", {"result": "0x1a00354f"}), "1a00354f"),
        (Error(-32015, "VM execution error.", "Reverted 0x1a00354f"), "1a00354f"),
        (Error(-32015, "VM execution error.", "Reverted 0x"), ""),
        (Error(3, "reverted", 7), ""),
        (Error("x", None), ""),
        ("no", ""),
        (Error(), ""),
    ],
)
def test_the_bytes_of_a_revert_are_found(error: Error | str, data: str) -> None:
    assert refused(error).data.hex() == data
    assert str(refused(error))


@pytest.mark.anyio
@pytest.mark.parametrize("error", [{"code": 429}, {"code": -32005}, {"code": -1, "message": "Rate limit reached"}])
async def test_errors_about_the_number_of_requests_are_the_endpoints(error: Any) -> None:
    with pytest.raises(EndpointFailed, match="too many requests"):
        await answers(json.dumps([{"id": 0, "error": error}]).encode(), 1)


@pytest.mark.parametrize("value", [None, 1, "1", "0x", "0xg", [], "-0x1"])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(UnreadableReply, match="expected a number"):
        quantity(value)


@pytest.mark.parametrize("value", [None, 1, "00", "0x0", "0xgg"])
def test_what_is_no_bytes_is_refused(value: Any) -> None:
    assert hex_bytes(value) is None
    with pytest.raises(UnreadableReply, match="expected bytes"):
        result_bytes(value)


@pytest.mark.anyio
async def test_an_error_among_the_answers_is_raised_where_it_is_read() -> None:
    [reply] = await answers(b'{"id": null, "error": {"code": -32601, "message": "\\u001b[31mno"}}', 1)
    assert isinstance(reply, Refused)
    with pytest.raises(EndpointFault, match=r"\\x1b\[31mno"):
        quantity(reply)
    with pytest.raises(Refused, match="reverted"):
        quantity(Refused("reverted", code=3))


@pytest.mark.parametrize(
    ("failures", "asked", "least", "most"),
    [(1, 0, 0.5, 1), (3, 0, 2, 4), (99, 0, 30, 60), (1, 9, 9, 9), (1, 10**9, 600, 600)],
)
def test_pauses_have_bounds(failures: int, asked: float, least: float, most: float) -> None:
    assert pause_seconds(failures, asked, lambda: 0.0) == least
    assert pause_seconds(failures, asked, lambda: 1.0) == most
