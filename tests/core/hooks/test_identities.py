"""`nodekit_identify`, and what callers of one group share."""

from typing import Any

import anyio
import pytest
from components import Gate, functions, make_node, request
from msgspec.structs import replace

from nodekit import (
    ClientLimits,
    Connection,
    Forbidden,
    Identity,
    Job,
    JobRequest,
    NodekitError,
    Refusal,
    RequestRefused,
    TooManyJobs,
    Unauthorized,
)

pytestmark = pytest.mark.anyio

CONNECTION = Connection(transport="test", client="203.0.113.7", address="203.0.113.7")


class Identifies:
    """A plugin that answers, or raises, what it is given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked = 0

    async def nodekit_identify(self, connection: Connection) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_without_a_plugin_the_client_is_the_address() -> None:
    node = make_node()
    assert not node.identifies
    assert await node.identify(CONNECTION) == Identity(client="203.0.113.7", address="203.0.113.7")


async def test_the_first_plugin_that_knows_the_caller_wins() -> None:
    alice = Identity(client="alice", group="team", operator=True)
    plugins = [Identifies(None), Identifies(alice), Identifies(Identity(client="bob"))]
    node = make_node(plugins=plugins)
    assert node.identifies
    assert await node.identify(CONNECTION) == alice
    assert [plugin.asked for plugin in plugins] == [1, 1, 0]


async def test_if_no_plugin_knows_the_caller_the_client_is_the_address() -> None:
    node = make_node(plugins=[Identifies(None)])
    assert (await node.identify(CONNECTION)).client == "203.0.113.7"


@pytest.mark.parametrize("error", [Unauthorized("a token is needed"), Forbidden("not you")])
async def test_a_plugin_may_turn_a_caller_away(error: NodekitError) -> None:
    later = Identifies(Identity(client="bob"))
    node = make_node(plugins=[Identifies(error), later])
    with pytest.raises(type(error), match=str(error)):
        await node.identify(CONNECTION)
    assert later.asked == 0


@pytest.mark.parametrize("answer", [KeyError("x"), Refusal("no"), "alice"])
async def test_a_plugin_that_fails_lets_nobody_in(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    node = make_node(plugins=[Identifies(answer), Identifies(Identity(client="bob"))])
    with pytest.raises(NodekitError, match="plugin Identifies failed to say who sends the request"):
        await node.identify(CONNECTION)
    assert "plugin 0:Identifies failed in nodekit_identify" in caplog.text


# -- groups -----------------------------------------------------------------------------------


def grouped(client: str, group: str | None = None) -> JobRequest:
    return replace(request("gate", client=client), group=group)


async def test_clients_of_a_group_share_its_limit() -> None:
    gate = Gate()
    limits = ClientLimits(max_pending=3)
    async with make_node(functions(gate=gate), each_client=limits) as node:
        requests = [
            grouped("a", "team"),
            grouped("b", "team"),
            grouped("c"),
            grouped("b", "team"),
            grouped("a", "team"),
        ]
        answers = await node.submit_many(requests)
        assert [isinstance(answer, Job) for answer in answers] == [True, True, True, True, False]
        with pytest.raises(TooManyJobs, match="you have 3 unfinished jobs"):
            await node.submit(grouped("d", "team"))
        assert (await node.pending(["team", "a", "b", "c"])).groups == {"team": 3, "c": 1}
        gate.opened.set()
        with anyio.fail_after(30):
            await node.wait([answer.id for answer in answers if isinstance(answer, Job)])
        assert (await node.submit(grouped("d", "team"))).group == "team"


async def test_a_hundred_addresses_of_one_network_are_one_group() -> None:
    async with make_node(functions(gate=Gate()), drain_seconds=0, each_client=ClientLimits(max_pending=5)) as node:
        answers = await node.submit_many([grouped(f"2001:db8::{number:x}") for number in range(1, 101)])
        assert sum(isinstance(answer, Job) for answer in answers) == 5


async def test_the_limits_of_a_client_go_before_those_of_its_group_and_of_each_client() -> None:
    limits = {"a": ClientLimits(max_priority=1), "team": ClientLimits(max_priority=4)}
    async with make_node(
        functions(gate=Gate()), drain_seconds=0, clients=limits, each_client=ClientLimits(max_priority=6)
    ) as node:
        requests = [grouped("a", "team"), grouped("b", "team"), grouped("c")]
        jobs = [await node.submit(replace(one, priority=0)) for one in requests]
        assert [job.request.priority for job in jobs] == [1, 4, 6]


async def test_a_group_takes_one_turn_for_all_of_its_clients() -> None:
    gate = Gate()
    async with make_node(functions(gate=gate), concurrency=1) as node:
        first = await node.submit(grouped("first"))
        many = [await node.submit(grouped(f"a{number}", "team")) for number in range(5)]
        other = await node.submit(grouped("other"))
        gate.opened.set()
        with anyio.fail_after(30):
            jobs = await node.wait([first.id, other.id, *(job.id for job in many)])
    began = {job.id: job.steps[0].attempts[0].started_at for job in jobs}
    assert sum(began[job.id] < began[other.id] for job in many) <= 1


# -- facts of requests ------------------------------------------------------------------------


async def test_meta_is_kept_with_the_job() -> None:
    async with make_node() as node:
        job = await node.submit(replace(request(), meta={"trace": "1-2", "ünï": "€"}))
        assert (await node.fetch([job.id]))[0].request.meta == {"trace": "1-2", "ünï": "€"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"meta": {"a": 1}}, "meta: expected texts by name, got {'a': 1}"),
        ({"meta": [("a", "b")]}, "meta: expected texts by name"),
        ({"meta": {"a": "\ud800"}}, "meta: expected texts by name"),
        ({"meta": {"a": "€" * 1400}}, "meta: 4201 bytes of names and texts; at most 4096 are kept"),
        ({"group": ""}, "group: expected a text that is not empty, or None"),
        ({"group": 7}, "group: expected a text or None, got 7"),
    ],
)
async def test_facts_that_cannot_be_kept_are_refused(fields: dict[str, Any], reason: str) -> None:
    async with make_node() as node:
        with pytest.raises(Refusal) as refused:
            await node.submit(replace(request(), **fields))
    assert refused.value.reason.startswith(reason)


async def test_a_guard_hears_that_a_request_it_let_in_came_to_nothing() -> None:
    class Counting:
        def __init__(self) -> None:
            self.lost: list[JobRequest | None] = []

        async def nodekit_admit(self, request: JobRequest) -> None:
            if request.client == "bob":
                raise Refusal("not bob")

        def nodekit_observe(self, event: Any) -> None:
            if isinstance(event, RequestRefused):
                self.lost.append(event.request)

    counting = Counting()
    async with make_node(functions(gate=Gate()), drain_seconds=0, plugins=[counting], max_pending=1) as node:
        asked = [grouped("a"), grouped("b"), grouped("bob")]
        await node.submit_many(asked)
    assert counting.lost == asked[1:]
