"""`nodekit_subscription`: the first plugin that takes a subscription wins, and one that fails takes none."""

from typing import Any

import pytest
from components import make_node
from msgspec import Raw

from nodekit import Identity, Refusal, RequestRefused, SubscriptionRequest, Unavailable

pytestmark = pytest.mark.anyio

REQUEST = SubscriptionRequest(signature=Raw(b"{}"), subscription=Raw(b"{}"))
ALICE = Identity(client="alice")


class Takes:
    """A plugin that answers, or raises, what it is given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[SubscriptionRequest, Identity]] = []

    async def nodekit_subscription(self, request: SubscriptionRequest, identity: Identity) -> Any:
        self.asked.append((request, identity))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Addressed(Takes):
    def __init__(self, address: str) -> None:
        super().__init__(True)
        self.chain_address = address


class Observer:
    def __init__(self) -> None:
        self.refused: list[RequestRefused] = []

    def nodekit_observe(self, event: Any) -> None:
        if isinstance(event, RequestRefused):
            self.refused.append(event)


async def test_the_first_plugin_that_takes_a_subscription_wins() -> None:
    plugins = [Takes(False), Takes(True), Takes(True)]
    async with make_node(plugins=plugins) as node:
        await node.subscribe(REQUEST, ALICE)
    assert [len(plugin.asked) for plugin in plugins] == [1, 1, 0]
    assert plugins[1].asked == [(REQUEST, ALICE)]


@pytest.mark.parametrize("plugins", [[], [Takes(False)]], ids=["no plugin", "a plugin that leaves it"])
async def test_a_subscription_that_nobody_takes_is_refused(plugins: list[Any]) -> None:
    async with make_node(plugins=plugins) as node:
        with pytest.raises(Refusal) as refused:
            await node.subscribe(REQUEST, ALICE)
    assert (refused.value.reason, refused.value.params) == ("Chain not enabled", {})


@pytest.mark.parametrize("objection", [Refusal("no", why=1), Unavailable("later", retry_after_seconds=2)])
async def test_an_objection_ends_the_question_and_is_emitted(objection: Exception) -> None:
    later, observer = Takes(True), Observer()
    async with make_node(plugins=[Takes(objection), later, observer]) as node:
        with pytest.raises(type(objection)) as raised:
            await node.subscribe(REQUEST, ALICE)
    assert raised.value is objection
    assert later.asked == []
    assert observer.refused == [RequestRefused("alice", objection)]  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [None, 1, "yes", KeyError("x")])
async def test_a_plugin_that_fails_takes_nothing(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """None is a forgotten `return True`: the client must not hear that its subscription is kept."""
    later = Takes(True)
    async with make_node(plugins=[Takes(answer), later]) as node:
        with pytest.raises(Refusal, match="Admission failed"):
            await node.subscribe(REQUEST, ALICE)
    assert later.asked == []
    assert "plugin 0:Takes failed in nodekit_subscription" in caplog.text


async def test_a_node_that_does_not_run_takes_no_subscription() -> None:
    plugin = Takes(True)
    node = make_node(plugins=[plugin])
    with pytest.raises(Unavailable, match="has not started"):
        await node.subscribe(REQUEST, ALICE)
    async with node:
        await node.drain()
        with pytest.raises(Unavailable, match="draining"):
            await node.subscribe(REQUEST, ALICE)
    assert plugin.asked == []


async def test_the_address_is_that_of_the_first_plugin_that_takes_subscriptions() -> None:
    assert make_node().chain_address is None
    assert make_node(plugins=[Observer()]).chain_address is None
    assert make_node(plugins=[Takes(True)]).chain_address == ""
    assert make_node(plugins=[Addressed("0x01"), Addressed("0x02")]).chain_address == "0x01"
