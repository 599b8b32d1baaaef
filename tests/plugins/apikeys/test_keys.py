"""Texts and names of keys, and the rates and failures that are counted."""

from ipaddress import ip_address, ip_network

import pytest
from chance import given
from hypothesis import strategies as st

from nodekit import Connection, TooManyRequests
from nodekit_apikeys._failures import FREE_FAILURES, MAX_ADDRESSES, Failures
from nodekit_apikeys._key import is_name
from nodekit_apikeys._operations import SCOPES, needed
from nodekit_apikeys._rates import Rates
from nodekit_apikeys._text import digest_of, new_id, new_text, parse


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_key_is_recognised_and_shows_its_id() -> None:
    id = new_id()
    text = new_text(id)
    assert text.startswith(f"nk_{id}_")
    presented = parse(text)
    assert presented is not None
    assert (presented.id, presented.digest) == (id, digest_of(text))
    assert text.rpartition("_")[2] not in presented.digest


def test_a_key_with_one_changed_character_is_none() -> None:
    text = new_text(new_id())
    for at, old in enumerate(text):
        assert parse(text[:at] + ("x" if old != "x" else "y") + text[at + 1 :]) is None


@given(st.text())
def test_any_other_text_is_no_key(text: str) -> None:
    assert parse(text) is None
    assert parse(f"nk_{text}") is None


def test_keys_differ() -> None:
    assert len({new_text("0" * 12) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "text",
    [
        *("unix", "UNIX", "local", "Local", "10.0.0.1", "0", "1.2", "16909060", "::1", "fe80::1%eth0", "10.0.0.0/8"),
        *("name:x", "", ".", "a.", "-a", "a b", "alice\n", "älice", "a" * 65, "a\x00", "::ffff:1.2.3.4", "abcd::"),
    ],
)
def test_a_name_of_a_caller_without_a_key_is_no_name_of_a_key(text: str) -> None:
    assert not is_name(text)


@pytest.mark.parametrize("text", ["a", "alice", "alice@example.org", "team-1", "A_b.c", "a" * 64, "10.0.0.1x", "beef"])
def test_names_are_plain_words(text: str) -> None:
    assert is_name(text)


@given(st.text() | st.ip_addresses().map(str))
def test_no_name_parses_as_an_address(text: str) -> None:
    if is_name(text):
        for parse_it in (ip_address, ip_network):
            with pytest.raises(ValueError, match=r".+"):
                parse_it(text)


def test_an_operation_that_is_not_known_is_for_operators_alone() -> None:
    def scopes(operation: str, transport: str = "http") -> set[str]:
        return {*needed(Connection(transport=transport, client="a", operation=operation))}

    for operation in ("GET /api/new", "PATCH /api/jobs", "GET /-/store/", "POST /-/metrics/", "PUT /api/status"):
        assert scopes(operation) == {"operate"}
    assert scopes("", "carrier-pigeon") == {"operate"}
    assert [operation for operation in SCOPES if operation.startswith("GET /-/")] == ["GET /-/metrics/"]


def test_a_caller_has_its_requests_at_once_and_then_evenly(clock: Clock) -> None:
    rates = Rates(clock.monotonic)
    for _ in range(60):
        rates.take("alice", 60)
    with pytest.raises(TooManyRequests, match="at most 60 in a minute") as refused:
        rates.take("alice", 60)
    assert refused.value.retry_after_seconds == 1
    rates.take("bob", 60)
    clock.advance(1)
    rates.take("alice", 60)
    with pytest.raises(TooManyRequests):
        rates.take("alice", 60)


def test_an_address_waits_longer_the_more_often_it_fails_and_others_do_not(clock: Clock) -> None:
    failures = Failures(1.0, clock.monotonic)
    waits = [failures.count("203.0.113.7", "no key") for _ in range(FREE_FAILURES + 20)]
    assert waits[:FREE_FAILURES] == [0.0] * FREE_FAILURES
    assert waits[FREE_FAILURES:] == sorted(waits[FREE_FAILURES:])
    assert (waits[FREE_FAILURES] > 0, waits[-1]) == (True, 1.0)
    assert failures.count("203.0.113.8", "no key") == 0.0
    clock.advance(61)
    assert failures.count("203.0.113.7", "no key") == 0.0


def test_one_network_of_ipv6_is_one_address(clock: Clock) -> None:
    failures = Failures(1.0, clock.monotonic)
    waits = [failures.count(f"2001:db8::{number:x}", "no key") for number in range(1, FREE_FAILURES + 2)]
    assert waits[-1] > 0


def test_failures_of_very_many_addresses_fill_neither_the_memory_nor_the_log(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    failures = Failures(1.0, clock.monotonic)
    for number in range(MAX_ADDRESSES + 100):
        failures.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "no key")
    assert len(failures._counts) == MAX_ADDRESSES
    assert len(caplog.records) == 5
    clock.advance(11)
    failures.count("203.0.113.7", "no key")
    assert "more failures are not shown" in caplog.text
    assert len(caplog.records) == 7


def test_a_text_of_a_caller_does_not_command_the_terminal(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    Failures(1.0, clock.monotonic).count("name:\x1b[2J", "no key")
    assert "\x1b" not in caplog.text
