"""Headers that control the handling of a job, as their RFCs define them."""

from typing import Any

import pytest

from nodekit import Budget
from nodekit_asgi import Limits
from nodekit_asgi.http.headers import dictionary, idempotency_key, preferences, urgency, wait_seconds
from nodekit_asgi.http.messages import HttpError, Request


def request(*headers: tuple[str, str], **limits: Any) -> Request:
    async def receive() -> dict[str, Any]:
        raise NotImplementedError

    lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return Request({"method": "POST", "path": "/", "headers": lines}, receive, Limits(**limits), Budget(1 << 30))


def prefer(*lines: str, **limits: Any) -> int | None:
    return wait_seconds(request(*(("Prefer", line) for line in lines), **limits))


def priority(*lines: str) -> int:
    return urgency(request(*(("Priority", line) for line in lines)))


# -- Prefer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "wait=7",
        "Wait=7",
        'wait="7"',
        r'wait="\7"',
        "wait = 7",
        "wait\t=\t7",
        "respond-async, wait=7",
        'respond-async;a=";,",wait=7',
        "wait=7, wait=9",
        "wait=7; strict",
        'wait=7;strict="a, b";',
        "wait=7 ; a = b ;; c",
        ", ,wait=7,",
        "wait=007",
        "wait=" + "0" * 4000 + "7",
        'foo="wait=1", wait=7',
        r'foo="\", wait=1", wait=7',
        "handling=lenient, return=minimal, wait=7",
        "(oops, wait=7",
        "wait=1=2, wait=7",
        "foo=bar baz, wait=7",
    ],
)
def test_a_wait_is_found_among_all_that_a_client_may_prefer(line: str) -> None:
    assert prefer(line) == 7


@pytest.mark.parametrize(
    "line",
    [
        "", "wait", "wait=", 'wait=""', "wait=-1", "wait=1.5", "wait=x", "wait=1 2", "waiting=7", "wait=7;(", "wait:7",
        "wait=\u00b2", "wait=+1", 'foo="bar, wait=7', 'wait="7', "x;wait=7", "=7", "wait=7 foo",
        "wait=x, wait=7", "wait, wait=7",
    ],
)  # fmt: skip
def test_what_is_no_wait_is_ignored_and_of_several_the_first_counts(line: str) -> None:
    assert prefer(line) is None


def test_preferences_may_stand_in_several_headers_and_a_broken_one_spoils_no_other() -> None:
    assert prefer("respond-async", 'x="', "wait=7", "wait=8") == 7
    assert preferences([b'a="1\\"2", B=c;d', b"e"]) == {"a": '1"2', "b": "c", "e": ""}


def test_a_wait_is_cut_to_what_the_node_allows() -> None:
    assert prefer("wait=61") == 60
    assert prefer("wait=3", max_wait_seconds=2) == 2
    assert prefer("wait=3", max_wait_seconds=0) == 0
    assert prefer("wait=" + "9" * 4000) == 60
    assert prefer("wait=0") == 0


# -- Priority -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "u=1",
        "u=1, i",
        "i,u=1",
        "u=7,u=1",
        "u=01",
        " u=1 ",
        "u=1;x;y=2;  z=?0",
        'a="b, u=7",  u=1',
        r'a="\"u=7", u=1',
        "a=(1 tok;p=1  :YQ==: ),u=1",
        "a=(),b=( ),u=1",
        "a=-1.25, b=tok/en:x, c=:YQ==:, *d, u=1, i=?1",
        "u=1\t,\ti",
    ],
)
def test_an_urgency_is_found_in_a_dictionary_of_structured_fields(line: str) -> None:
    assert priority(line) == 1


@pytest.mark.parametrize(
    "line",
    [
        "", "i", "u", "u=8", "u=-1", "u=1.0", 'u="1"', "u=a", "u=(1)", "u=?1", "u=:AQ==:", "u=1,u=9", "U=1", "v=1",
        # malformed: ignored as a whole
        "u=1,", ",u=1", "u=1,,i", "u= 1", "u =1", "u=1;", "u=1; =2", "u=1 i", "u=1, I", "u=1, a=\"", "u=1, a=(1",
        "u=1, a=(1,2)", "u=1, a=?2", "u=1, a=1.", "u=1, a=1.2345", "u=1234567890123456", "u=1, a=\"\\x\"",
        "u=1, \u00e9", "u=1, a=@1", "u=+1", "u=1 ;a", "u=1, a=(1 2)x", "u=1, a=:Y*:", "\tu=1",
    ],
)  # fmt: skip
def test_an_urgency_that_is_none_or_stands_in_a_malformed_header_is_ignored(line: str) -> None:
    assert priority(line) == 3


def test_a_priority_may_stand_in_several_headers_and_the_last_counts() -> None:
    assert priority("u=5", "", "i", "u=2") == 2
    assert priority("u=5", "u=2,") == 3
    assert dictionary("a, b=1;c, d=(1 2);e") == {"a": None, "b": "1", "d": "(1 2)"}


@pytest.mark.parametrize(
    "piece",
    ['"', '\\"', '"\\', "a;", ";  ", "a=( ", "( ", "a=(1 ", "a ,", "a=1.1;", "a;b=", " ", "u=1,", 'a="\\"', "="],
)
def test_a_long_header_takes_no_longer_than_its_length(piece: str) -> None:
    """A slower algorithm would run into the time limit of the test."""
    for text in (piece * (60_000 // len(piece)), "a=" + piece * (60_000 // len(piece)) + "\x00"):
        preferences([text.encode()])
        dictionary(text)


def test_headers_that_go_on_and_on_are_not_looked_at() -> None:
    assert prefer("wait=7, x=" + "x" * 4000) == 7
    assert prefer("wait=7", "x=" + "x" * 4096) is None
    assert priority("u=1", "x;" * 2048) == 3
    assert priority("u=1, x=" + "x" * 4000) == 1


# -- Idempotency-Key ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["x", "x" * 255, '"quoted"', "!~", "a,b;c"])
def test_a_key_is_taken_as_it_is(key: str) -> None:
    assert idempotency_key(request(("Idempotency-Key", key))) == key
    assert idempotency_key(request()) is None


@pytest.mark.parametrize("keys", [[""], ["x" * 256], ["a b"], ["\u00e9"], ["a\x7f"], ["a\n"], ["a", "a"]])
def test_what_is_no_key_names_the_header(keys: list[str]) -> None:
    with pytest.raises(HttpError, match="Idempotency-Key"):
        idempotency_key(request(*(("Idempotency-Key", key) for key in keys)))
