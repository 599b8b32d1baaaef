"""Payloads are checked once, at the entrance, and then carried unchanged."""

import json
import tracemalloc
from typing import Any

import anyio
import msgspec
import pytest
from chance import given
from hypothesis import strategies as st

from nodekit import MAX_DEPTH, InvalidPayload, JobRequest, decode_payload, encode_payload, parse_json
from nodekit.model.payload import _CHUNK_BYTES

RAW = msgspec.json.Decoder(msgspec.Raw)


def parse(body: bytes, **settings: int) -> bytes:
    async def main() -> bytes:
        return bytes(await parse_json(body, RAW, **settings))

    return anyio.run(main)


def refused(body: bytes, **settings: int) -> str:
    with pytest.raises(InvalidPayload) as raised:
        parse(body, **settings)
    return str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b'"text"',
        b" [1, 2 ] ",
        b"1%s" % (b"0" * 77),
        b"-0.0",
        b"1E400",
        b'{"a": 1, "a": 2}',
        '"é \\u00e9 \\ud83d\\ude00 😀"'.encode(),
        b'"[[[[ \\" {{{"',
    ],
)
def test_json_passes_as_it_is(body: bytes) -> None:
    assert parse(body).strip() == body.strip()


@pytest.mark.parametrize("body", [b"", b" ", b"\n\t"])
def test_an_empty_body_is_called_empty(body: bytes) -> None:
    assert refused(body) == "empty"


@pytest.mark.parametrize(
    ("body", "position"),
    [(b'"\xff"', 1), (b'{"a": "\xc3("}', 7), (b'"\xed\xa0\x80"', 1), (b'"\xc0\xaf"', 1), (b'"cut \xe2\x82', 5)],
)
def test_invalid_utf8_is_refused_with_its_place(body: bytes, position: int) -> None:
    assert refused(body) == f"not UTF-8: invalid byte at position {position}"


@pytest.mark.parametrize(
    "body",
    [
        b"NaN",
        b"[NaN]",
        b'{"a": Infinity}',
        b"[-Infinity]",
        b"[1,]",
        b'{"a":1,}',
        b"{'a':1}",
        b"[01]",
        b"[1.]",
        b"[.5]",
        b"[+1]",
        b"[0x1]",
        b"[1e]",
        b'["\x01"]',
        b'["\\x"]',
        b'["\\u12"]',
        b"[1] 2",
        b"tru",
        b'"open',
        b"[1",
        b"]",
        b"[}",
        b"\xef\xbb\xbf1",
        b'["\\ud800 and more text"]',
        b'["\\udc00 and more text"]',
        b'["\\ud800\\u0041 and more"]',
    ],
)
def test_what_is_not_strict_json_is_refused(body: bytes) -> None:
    assert refused(body).startswith("not JSON: ")
    nested = b'{"containers": ["echo"], "data": ' + body + b"}"

    async def main() -> JobRequest:
        return await parse_json(nested, msgspec.json.Decoder(JobRequest))

    with pytest.raises((InvalidPayload, msgspec.ValidationError)):
        anyio.run(main)


NAMED = {
    b'{"a":NaN}': "NaN is no number in JSON (byte 5); use null",
    b'{"a": "NaN", "b": -Infinity}': "-Infinity is no number in JSON (byte 18); use null",
    b"[1, nan]": "nan is no number in JSON (byte 4); use null",
    b" nan ": "nan is no number in JSON (byte 1); use null",
    b'{"a": NaN': "NaN is no number in JSON (byte 6); use null",
    b"[info]": "invalid character (byte 1)",
    b'"\\ud800"': "\\ud800 is half of a surrogate pair (byte 1)",
    b'{"\\uD800":1}': "\\uD800 is half of a surrogate pair (byte 2)",
    b'"\\udc00 and more"': "\\udc00 is half of a surrogate pair (byte 1)",
    b'"\\ud83d\\ude00\\udc00"': "\\udc00 is half of a surrogate pair (byte 13)",
    b'"\\ud83d\\ud83d\\ude00"': "\\ud83d is half of a surrogate pair (byte 1)",
    b'"\\ud83d\\ude00\\ud800 and more"': "\\ud800 is half of a surrogate pair (byte 13)",
    b'"\\\\ud800': "a number or text is cut short",
    b'"\\ud83d\\ude00': "a number or text is cut short",
    b'"open': "a number or text is cut short",
    b"\xef\xbb\xbf1": "it begins with the byte order mark of UTF-8; send it without the mark",
}


@pytest.mark.parametrize("body", NAMED)
def test_what_is_not_strict_json_is_named_with_its_place(body: bytes) -> None:
    assert refused(body) == f"not JSON: {NAMED[body]}"
    if b"\xef" not in body:
        assert refused(b"  " + body).startswith("not JSON: ")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["{}", "1", '{"a": "é€"}'])
def test_another_encoding_is_named(text: str, encoding: str) -> None:
    expected = "it begins with the byte order mark of" if encoding in ("utf-16", "utf-32") else "it looks like"
    assert refused(text.encode(encoding)).startswith(f"not UTF-8: {expected} UTF-")


def test_a_wrong_type_is_a_validation_error_that_names_the_field() -> None:
    async def main() -> JobRequest:
        return await parse_json(b'{"containers": 1, "data": {}}', msgspec.json.Decoder(JobRequest))

    with pytest.raises(msgspec.ValidationError, match=r"\$\.containers"):
        anyio.run(main)


@pytest.mark.parametrize(("left", "right"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_nesting_is_limited_exactly(left: bytes, right: bytes) -> None:
    levels = MAX_DEPTH // (left.count(b"[") + left.count(b"{"))
    body = left * levels + b"1" + right * levels
    assert parse(body) == body
    assert refused(b"[" + body + b"]") == f"nested more than {MAX_DEPTH} deep"
    assert refused(b"[[], " + body + b"]") == f"nested more than {MAX_DEPTH} deep"


@pytest.mark.parametrize("body", [b"[" * 200_000, b"[" * 200_000 + b"]" * 200_000, b'{"a":' * 200_000])
def test_hundreds_of_thousands_of_brackets_are_refused_without_a_crash(body: bytes) -> None:
    assert refused(body) == f"nested more than {MAX_DEPTH} deep"


def test_what_is_nested_deeper_than_can_be_decoded_is_refused_where_that_is_allowed() -> None:
    assert refused(b"[" * 200_000 + b"]" * 200_000, max_depth=10**6) == "nested too deep"


def test_many_brackets_beside_each_other_and_in_strings_are_fine() -> None:
    for body in (b"[" + b"[]," * 100_000 + b"[]]", b'["' + b"[{" * 100_000 + b'"]', b'["\\"' + b"[" * 1000 + b'\\\\"]'):
        assert parse(body) == body


@pytest.mark.parametrize("shift", range(-4, 5))
@pytest.mark.parametrize("escape", [b"\\\\", b'\\"', b'\\\\\\"', b"\\u005c", b'\\\\\\\\\\"', b"\\/"])
def test_escapes_may_lie_across_the_pieces_that_a_body_is_read_in(escape: bytes, shift: int) -> None:
    string = b"[" * (_CHUNK_BYTES + shift - 2) + escape * 3 + b"[" * 300
    body = b'["' + string + b'"]'
    assert parse(body) == body
    deep = body[:-1] + b"," + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"]"
    assert "deep" in refused(deep)


def deepest(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(deepest, value), default=0) if isinstance(value, list) else 0


TEXTS = st.text(alphabet='[]{}"\\/,:a é', max_size=12)
VALUES = st.recursive(
    st.one_of(st.none(), st.integers(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=25,
)


@given(value=VALUES, limit=st.integers(1, 6), examples=150)
def test_depth_is_that_of_a_walk_over_the_decoded_value(value: Any, limit: int) -> None:
    body = json.dumps(value).encode()
    for chunk in (1, 2, 3, 7, 64):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nodekit.model.payload._CHUNK_BYTES", chunk)
            if deepest(value) > limit:
                assert "deep" in refused(body, max_depth=limit)
            else:
                assert parse(body, max_depth=limit) == body


def test_memory_stays_flat_over_a_large_body_of_brackets() -> None:
    body = b"[" + b"[]," * (4 * 1024 * 1024 // 3) + b"[]]"

    async def main() -> int:
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await parse_json(body, RAW)
            return tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()

    assert anyio.run(main) < 1024 * 1024


def test_a_large_body_leaves_the_event_loop_to_others() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            await parse_json(b"[" + b"[]," * 500_000 + b"[]]", RAW)
            tasks.cancel_scope.cancel()

    anyio.run(main)
    assert turns > 10


def test_values_become_payloads_and_come_back() -> None:
    value = {"n": 2**255, "text": "é😀", "list": [None, True, 1.5]}
    assert decode_payload(encode_payload(value)) == value


@pytest.mark.parametrize("value", [object(), {1j: 1}, "\ud800", {"deep": {"x": {1, object()}}}])
def test_values_that_json_cannot_hold_are_refused(value: Any) -> None:
    with pytest.raises(InvalidPayload):
        encode_payload(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidPayload):
        encode_payload(value)
