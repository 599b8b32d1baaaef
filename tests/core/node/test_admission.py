"""Admission of requests: limits per client, priorities, idempotency keys."""

import gc
import weakref
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import anyio
import msgspec
import pytest
from components import Gate, SpiedStore, SwitchRunner, Told, functions, give_up, make_node, request, until, until_is
from msgspec.structs import replace

from nodekit import (
    ClientLimits,
    CompositionError,
    Container,
    ContainerOutput,
    EmbeddedStore,
    Job,
    JobAccepted,
    JobFinished,
    JobRequest,
    JobStatus,
    KeyReused,
    Location,
    Node,
    NodekitError,
    NotFailed,
    Outcome,
    Refusal,
    RequestRefused,
    Retry,
    Sequence,
    StoreFailed,
    TooManyJobs,
    Unavailable,
)
from nodekit.testing import Faults
from nodekit_memory import MemoryTable

pytestmark = pytest.mark.anyio


def held(**settings: Any) -> Node:
    """Run a node that accepts jobs and runs none."""
    return make_node(SwitchRunner(Container(id="x"), up=[]), **settings)


def keyed(key: str, digest: str = "one", client: str = "alice") -> JobRequest:
    return replace(request("x", client=client), idempotency_key=key, body_digest=digest)


def kinds(answers: list[Any]) -> list[str]:
    return [type(answer).__name__ for answer in answers]


# -- limits per client --------------------------------------------------------------------------------


async def test_a_client_that_holds_as_many_jobs_as_it_may_is_told_so_and_others_are_taken() -> None:
    async with held(each_client=ClientLimits(max_pending=2)) as node:
        answers = await node.submit_many([request("x")] * 3)
        assert kinds(answers) == ["Job", "Job", "TooManyJobs"]
        with pytest.raises(TooManyJobs, match="you have 2 unfinished jobs") as raised:
            await node.submit(request("x"))
        assert raised.value.retry_after_seconds >= 1
        other = await node.submit(request("x", client="bob"))
        assert isinstance(other, Job)
        await node.cancel(answers[0].id)
        assert await node.submit(request("x"))


async def test_one_client_can_have_other_limits_than_each() -> None:
    clients = {"alice": ClientLimits(max_pending=3), "bob": ClientLimits(max_priority=0)}
    async with held(each_client=ClientLimits(max_pending=1, max_priority=3), clients=clients) as node:
        for client, most in (("alice", 3), ("bob", 1), ("carol", 1)):
            answers = await node.submit_many([replace(request("x", client=client), priority=1)] * 4)
            assert kinds(answers) == ["Job"] * most + ["TooManyJobs"] * (4 - most)
            priorities = {answer.request.priority for answer in answers if isinstance(answer, Job)}
            assert priorities == ({1} if client == "bob" else {3})


async def test_a_batch_of_several_clients_crosses_each_limit_item_by_item() -> None:
    async with held(each_client=ClientLimits(max_pending=2), max_pending=3) as node:
        requests = [request("x", client=client) for client in "aaabbcc"]
        answers = await node.submit_many(requests)
        assert kinds(answers) == ["Job", "Job", "TooManyJobs", "Job", *["Unavailable"] * 3]
        assert [answers[n].retry_after_seconds for n in (2, 4)] == [1, 1]


either_limit = pytest.mark.parametrize(
    ("limits", "refused"),
    [
        ({"max_pending": 5, "clients": {"alice": ClientLimits(max_pending=5)}}, "Unavailable"),
        ({"each_client": ClientLimits(max_pending=5)}, "TooManyJobs"),
    ],
    ids=["of the node", "of a client"],
)


@either_limit
async def test_what_is_refused_takes_no_room(limits: dict[str, Any], refused: str) -> None:
    async with held(**limits) as node:
        answers = await node.submit_many([request("nowhere"), *[request("x")] * 6])
        assert kinds(answers) == ["Refusal", *["Job"] * 5, refused]


@either_limit
async def test_requests_that_arrive_together_do_not_pass_a_limit_together(limits: dict[str, Any], refused: str) -> None:
    async with held(**limits) as node, anyio.create_task_group() as tasks:
        answers: list[Any] = []

        async def submit() -> None:
            answers.extend(await node.submit_many([request("x")] * 3))

        for _ in range(10):
            tasks.start_soon(submit)
        await until(lambda: len(answers) == 30)
        assert Counter(kinds(answers)) == {"Job": 5, refused: 25}
        assert (await node.pending()).total == 5


class SlowGuard:
    """Admits requests once the test lets it."""

    def __init__(self) -> None:
        self.asked = 0
        self.let = anyio.Event()

    async def nodekit_admit(self, request: JobRequest) -> None:
        self.asked += 1
        await self.let.wait()


@either_limit
async def test_requests_that_wait_for_a_guard_together_do_not_pass_a_limit_together(
    limits: dict[str, Any], refused: str
) -> None:
    guard = SlowGuard()
    answers: list[Any] = []
    async with held(plugins=[guard], **limits) as node:

        async def submit() -> None:
            answers.extend(await node.submit_many([request("x")]))

        for _ in range(3):  # the room reserved for earlier requests is free again, and no more than that
            guard.asked, guard.let = 0, anyio.Event()
            answers.clear()
            async with anyio.create_task_group() as tasks:
                for _ in range(7):
                    tasks.start_soon(submit)
                await until(lambda: guard.asked == 5 and len(answers) == 2)
                guard.let.set()
            assert sorted(kinds(answers)) == sorted(["Job"] * 5 + [refused] * 2)
            for job in answers:
                if isinstance(job, Job):
                    await node.cancel(job.id)


class Name(str):
    """A client's name with weak references, which show when nothing holds it any more."""

    __slots__ = ("__weakref__",)


async def test_of_a_client_whose_requests_came_to_nothing_nothing_is_remembered() -> None:
    async with held(each_client=ClientLimits(max_pending=5)) as node:
        client = Name("passing by")
        gone = weakref.ref(client)
        assert kinds(await node.submit_many([request("nowhere", client=client)] * 2)) == ["Refusal", "Refusal"]
        del client
        gc.collect()
        assert gone() is None


async def test_room_that_was_held_for_what_was_not_kept_is_free_again() -> None:
    store = SpiedStore()
    async with held(store=store, each_client=ClientLimits(max_pending=1), max_pending=1) as node:
        store.failures["add"] = 3
        for _ in range(3):
            with pytest.raises(Unavailable):
                await node.submit(request("x"))
        assert await node.submit(request("x"))


async def test_callers_that_give_up_do_not_make_the_node_take_more_than_it_may() -> None:
    faults = Faults()
    faults.before("add").hang()
    async with held(store=EmbeddedStore(faults.around(MemoryTable())), max_pending=5) as node:

        async def ask() -> None:
            with suppress(Unavailable):
                await node.submit(request("x", client="local"))

        for _ in range(20):
            await give_up(ask)
        faults.lift()
        await until_is(lambda: _total(node), 5)
        with pytest.raises(Unavailable):
            await node.submit(request("x"))


async def _total(node: Node) -> int:
    return (await node.pending()).total


async def test_a_client_does_not_reserve_more_of_the_node_than_it_may_have() -> None:
    class Slow(SlowGuard):
        async def nodekit_admit(self, request: JobRequest) -> None:
            if request.client == "mallory":
                await super().nodekit_admit(request)

    guard = Slow()
    async with held(max_pending=100, each_client=ClientLimits(max_pending=2), plugins=[guard]) as node:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.submit_many, [request("x", client="mallory")] * 100)
            await until(lambda: guard.asked)
            assert isinstance(await node.submit(request("x", client="bob")), Job)
            guard.let.set()


async def test_a_job_is_not_counted_twice_while_it_is_being_kept() -> None:
    answers: list[Any] = []
    async with held(each_client=ClientLimits(max_pending=100)) as node, anyio.create_task_group() as tasks:

        async def submit() -> None:
            answers.extend(await node.submit_many([request("x")]))

        for _ in range(100):
            tasks.start_soon(submit)
        await until(lambda: len(answers) == 100)
    assert set(kinds(answers)) == {"Job"}


@either_limit
async def test_a_node_that_holds_more_than_it_may_by_now_takes_nothing_until_there_is_room(
    limits: dict[str, Any], refused: str
) -> None:
    table = MemoryTable()
    async with held(store=EmbeddedStore(table)) as node:
        jobs = [await node.submit(request("x")) for _ in range(7)]
    async with held(store=EmbeddedStore(table), **limits) as node:
        for job in jobs[:3]:
            assert kinds(await node.submit_many([request("x")])) == [refused]
            await node.cancel(job.id)
        assert isinstance(await node.submit(request("x")), Job)


@pytest.mark.parametrize(("drain_seconds", "after"), [(0, 1), (0.5, 1), (1.5, 2), (10**6, 3600)])
async def test_whoever_finds_a_node_closed_is_told_when_it_may_be_open_again(drain_seconds: float, after: int) -> None:
    with pytest.raises(Unavailable) as raised:
        await held(drain_seconds=drain_seconds).submit(request("x"))
    assert raised.value.retry_after_seconds == after


# -- nothing to do ------------------------------------------------------------------------------------


class Nothing(Sequence):
    """A pipeline whose jobs have succeeded before they begin."""

    def next_step(self, job: Job) -> None:
        return None


async def test_a_stream_with_nothing_to_do_gives_the_result_that_its_pipeline_has_for_it() -> None:
    class Known(Nothing):
        def outcome(self, job: Job) -> Outcome:
            return Outcome(JobStatus.SUCCESS, ContainerOutput(container="x", output=job.request.data))

    async with held(pipelines={"known": Known()}) as node:
        asked = replace(request("x", word="known"), pipeline="known")
        async with node.stream(asked) as stream:
            assert [piece async for piece in stream] == [bytes(asked.data)]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_job_that_has_nothing_to_do_is_told_as_accepted_and_finished_and_its_stream_ends(streams: bool) -> None:
    told = Told()
    async with held(pipelines={"nothing": Nothing()}, plugins=[told]) as node:
        asked = replace(request("x"), pipeline="nothing")
        if streams:
            async with node.stream(asked) as stream:
                with anyio.fail_after(5):
                    assert [piece async for piece in stream] == []
                job = stream.job
        else:
            job = await node.submit(asked)
        assert job.status is JobStatus.SUCCESS
        assert await node.fetch([job.id]) == [job]
        assert told.events == [JobAccepted(job), JobFinished(job)]
        assert await _total(node) == 0


# -- what is not taken --------------------------------------------------------------------------------


async def ask_for_a_stream(node: Node, asked: JobRequest) -> None:
    async with node.stream(asked):
        pass


@pytest.mark.parametrize("ask", [Node.submit, ask_for_a_stream])
async def test_a_store_that_keeps_no_jobs_is_told_by_health_until_it_keeps_one(
    ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()
    faults.before("add").fail(StoreFailed("no space left"))
    async with make_node(store=EmbeddedStore(faults.around(MemoryTable()))) as node:
        with pytest.raises(Unavailable, match="the store cannot keep jobs right now") as raised:
            await ask(node, request())
        assert raised.value.retry_after_seconds == 5
        assert "1 job not accepted: no space left" in caplog.text
        health = await node.health()
        assert (health.healthy, health.reasons) == (False, ("the store cannot keep jobs: no space left",))
        assert (await node.pending()).total == 0
        faults.lift()
        await ask(node, request())
        assert (await node.health()).healthy


async def test_each_request_that_is_not_taken_is_told_with_its_client_and_why() -> None:
    class Guard:
        async def nodekit_admit(self, request: JobRequest) -> None:
            if request.client == "eve":
                raise Refusal("closed")
            if request.client == "frank":
                raise Unavailable("not now", retry_after_seconds=7)

    told, store = Told(), SpiedStore()
    refused: list[tuple[str, Any]] = []

    async def not_taken(client: str, call: Awaitable[Any], error: type[Exception]) -> None:
        with pytest.raises(error) as raised:
            await call
        refused.append((client, raised.value))

    async with held(plugins=[told, Guard()], store=store, each_client=ClientLimits(max_pending=1)) as node:
        first = await node.submit(keyed("k"))
        assert await node.submit(keyed("k")) == first
        asked = [keyed("k", digest="two"), request("nowhere", client="bob"), request("x", client="carol"), keyed("l")]
        reused, unknown, job, too_many = await node.submit_many(asked)
        assert kinds([reused, unknown, too_many]) == ["KeyReused", "Refusal", "TooManyJobs"]
        refused += [("alice", reused), ("bob", unknown), ("alice", too_many)]
        await not_taken("alice", ask_for_a_stream(node, request("x")), TooManyJobs)
        await not_taken("dora", ask_for_a_stream(node, request("nowhere", client="dora")), Refusal)
        await not_taken("eve", ask_for_a_stream(node, request("x", client="eve")), Refusal)
        await not_taken("eve", node.submit(request("x", client="eve")), Refusal)
        await not_taken("frank", node.submit(request("x", client="frank")), Unavailable)
        assert (refused[-1][1].reason, refused[-1][1].retry_after_seconds) == ("not now", 7)
        await not_taken("alice", node.retry(first.id), NotFailed)
        store.failures["add"] = 1
        await not_taken("bob", node.submit(request("x", client="bob")), Unavailable)
    await not_taken("late", node.submit(request("x", client="late")), Unavailable)
    await not_taken("late", ask_for_a_stream(node, request("x", client="late")), Unavailable)
    assert [event.job for event in told.events if isinstance(event, JobAccepted)] == [first, job]
    told_of = [(event.client, event.objection) for event in told.events if isinstance(event, RequestRefused)]
    assert told_of == refused


# -- priority -----------------------------------------------------------------------------------------


async def test_urgent_jobs_go_first_and_those_of_a_client_that_may_not_be_urgent_do_not() -> None:
    gate = Gate()
    order: list[str] = []

    async def note(data: Any) -> Any:
        order.append(data["name"])
        return data

    clients = {"eve": ClientLimits(max_priority=3)}
    async with make_node(functions(gate=gate, note=note), concurrency=1, clients=clients) as node:
        await node.submit(request("gate"))
        await until(lambda: gate.running)
        jobs = [
            await node.submit(replace(request("note", client=client, name=name), priority=priority))
            for name, client, priority in (("late", "bob", 7), ("mid", "bob", 3), ("eve", "eve", 0), ("now", "bob", 0))
        ]
        gate.opened.set()
        await node.wait([job.id for job in jobs])
    assert order == ["now", "mid", "eve", "late"]


# -- idempotency keys ---------------------------------------------------------------------------------


async def test_the_same_key_and_body_are_the_same_job() -> None:
    async with held() as node:
        first = await node.submit(keyed("k"))
        assert await node.submit(keyed("k")) == first
        assert await node.submit_many([keyed("k"), keyed("k")]) == [first, first]
        assert (await node.pending()).total == 1
        cancelled = await node.cancel(first.id)
        assert await node.submit(keyed("k")) == cancelled


async def test_another_body_under_the_same_key_is_refused() -> None:
    async with held() as node:
        await node.submit(keyed("k"))
        with pytest.raises(KeyReused, match="make a new key"):
            await node.submit(keyed("k", digest="two"))
        assert kinds(await node.submit_many([keyed("k", digest="two"), keyed("l")])) == ["KeyReused", "Job"]


async def test_a_key_of_another_client_is_not_known_while_the_node_is_full() -> None:
    async with held(max_pending=1) as node:
        await node.submit(keyed("k"))
        with pytest.raises(Unavailable):
            await node.submit(keyed("k", client="bob"))


async def test_a_node_that_does_not_run_says_so_to_requests_with_a_key_too() -> None:
    node = held()
    for _ in range(2):
        with pytest.raises(Unavailable, match="has not started"):
            await node.submit(keyed("k"))
        if not node._stack:
            async with node:
                pass


async def test_guards_see_the_priority_that_the_job_will_have() -> None:
    class Guard:
        priority = -1

        async def nodekit_admit(self, request: JobRequest) -> None:
            self.priority = request.priority

    guard = Guard()
    async with held(each_client=ClientLimits(max_priority=5), plugins=[guard]) as node:
        await node.submit(replace(request("x"), priority=0))
    assert guard.priority == 5


@pytest.mark.parametrize(
    ("limits", "where"),
    [
        ({"each_client": ClientLimits(max_pending=0)}, "each_client.max_pending"),
        ({"clients": {"bob": ClientLimits(max_priority=9)}}, "clients"),
        ({"max_pending": 0}, "max_pending"),
        ({"concurrency": 0}, "concurrency"),
        ({"drain_seconds": -1}, "drain_seconds"),
        ({"drain_seconds": float("nan")}, "drain_seconds"),
        ({"job_timeout_seconds": float("nan")}, "job_timeout_seconds: expected `float` > 0"),
        ({"job_timeout_seconds": 0}, "job_timeout_seconds: expected `float` > 0"),
        ({"queue_timeout_seconds": -1}, "queue_timeout_seconds: expected `float` > 0"),
        ({"max_pending": True}, "max_pending"),
        ({"concurrency": "64"}, "concurrency"),
        ({"each_client": ClientLimits(max_priority=-1)}, "each_client.max_priority"),
        ({"each_client": None}, "each_client"),
        ({"each_client": {"max_pending": 1}}, "each_client"),
        ({"clients": {"bob": {"max_pending": 1}}}, "clients"),
        ({"clients": {7: ClientLimits()}}, "clients"),
        ({"clients": [ClientLimits()]}, "clients"),
        ({"clients": {"bob": ClientLimits(max_pending="many")}}, "clients"),  # type: ignore[arg-type]
    ],
)
def test_limits_made_in_python_are_checked_as_those_of_a_node_file(limits: dict[str, Any], where: str) -> None:
    with pytest.raises(CompositionError, match=where):
        held(**limits)


@pytest.mark.parametrize(
    "settings",
    [
        {"retry": Retry(attempts=10**6)},
        {"retry": Retry(first_delay_seconds=-1)},
        {"timeout_seconds": 0},
        {"queue_timeout_seconds": -1},
        {"concurrency": 0},
    ],
)
def test_containers_made_in_python_are_checked_as_those_of_a_node_file(settings: dict[str, Any]) -> None:
    with pytest.raises(CompositionError, match="container 'x'"):
        make_node(SwitchRunner(Container(id="x", **settings)))


async def test_a_known_key_is_answered_while_the_node_is_full_and_without_asking_guards() -> None:
    class Guard:
        asked = 0

        async def nodekit_admit(self, request: JobRequest) -> None:
            self.asked += 1

    guard = Guard()
    async with held(max_pending=1, plugins=[guard]) as node:
        first = await node.submit(keyed("k"))
        with pytest.raises(Unavailable):
            await node.submit(keyed("l"))
        assert await node.submit(keyed("k")) == first
        assert guard.asked == 1


async def test_a_known_key_is_answered_while_the_node_drains() -> None:
    gate, asked = Gate(), replace(keyed("k"), containers=("gate",))
    async with anyio.create_task_group() as tasks:
        async with make_node(functions(gate=gate), drain_seconds=20) as node:
            first = await node.submit(asked)
            await until(lambda: gate.running)

            async def ask() -> None:
                await until(lambda: not node._admission.open)
                assert (await node.submit(asked)).id == first.id
                with pytest.raises(Unavailable):
                    await node.submit(keyed("l"))
                gate.opened.set()

            tasks.start_soon(ask)


async def test_a_refusal_is_not_kept_under_its_key() -> None:
    async with held() as node:
        with pytest.raises(Refusal):
            await node.submit(replace(keyed("k"), containers=("nowhere",)))
        assert (await node.submit(keyed("k"))).status is JobStatus.ACCEPTED


async def test_many_requests_with_one_key_at_once_make_one_job() -> None:
    async with held() as node, anyio.create_task_group() as tasks:
        answers: list[Any] = []

        async def submit(digest: str) -> None:
            answers.extend(await node.submit_many([keyed("k", digest)]))

        for number in range(50):
            tasks.start_soon(submit, "two" if number % 5 == 4 else "one")
        await until(lambda: len(answers) == 50)
        jobs = {answer.id: answer for answer in answers if isinstance(answer, Job)}
        assert len(jobs) == 1
        assert kinds(answers).count("KeyReused") in (10, 40)
        assert (await node.pending()).total == 1


async def test_a_request_without_a_key_costs_no_read() -> None:
    store = SpiedStore()
    async with held(store=store) as node:
        before = store.calls["find"], store.calls["get"]
        await node.submit_many([request("x")] * 10)
        assert (store.calls["find"], store.calls["get"]) == before


# -- requests that Python made --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("priority", value) for value in (-5, -1, 8, True, 1.5, "3", None)),
        *(("containers", value) for value in (["echo"], "echo", None, (7,), ("echo", None), ("\ud800",))),
        *(("data", value) for value in ({"a": 1}, b"{}", "{}", None, msgspec.Raw())),
        *(("pipeline", value) for value in (None, 7)),
        *(("client", value) for value in (None, 7, "\ud800")),
        *(("address", value) for value in (7, b"::1")),
        *(("idempotency_key", value) for value in ("", 7, b"k")),
        *(("body_digest", value) for value in (7, b"k")),
        *(("requires_proof", value) for value in (None, 1, "yes")),
        *(("origin", value) for value in (None, 1, "offchain", Location.STREAM)),
        *(("destination", value) for value in (None, 1, "offchain")),
    ],
    ids=lambda value: "empty" if isinstance(value, msgspec.Raw) else ascii(value),
)
async def test_a_request_whose_fields_are_not_what_they_say_is_refused_and_others_are_taken(
    field: str, value: Any
) -> None:
    wrong = replace(request(), **{field: value})
    async with make_node(each_client=ClientLimits(max_priority=2)) as node:
        with pytest.raises(Refusal, match=f"^{field}: "):
            await node.submit(wrong)
        if field not in ("destination", "idempotency_key", "body_digest"):  # `Node.stream` says them itself
            with pytest.raises(Refusal, match=f"^{field}: "):
                async with node.stream(wrong):
                    pass
        refused, kept = await node.submit_many([wrong, request()])
        assert kinds([refused, kept]) == ["Refusal", "Job"]
        assert await node.find() == [kept.id]


async def test_a_retry_is_checked_as_any_request() -> None:
    async def fail(data: Any) -> Any:
        raise ValueError("no")

    async with make_node(functions(fail=fail)) as node:
        [job] = await node.wait([(await node.submit(request("fail"))).id])
        with pytest.raises(Refusal, match=r"^priority: expected a whole number from 0 .* got 9"):
            await node.retry(job.id, priority=9)
        with pytest.raises(NodekitError, match="start: expected one of failed, start, got 'begin'"):
            await node.retry(job.id, start="begin")  # type: ignore[arg-type]


async def test_odd_but_right_requests_are_taken() -> None:
    async with make_node() as node:
        for field, value in (
            *(("client", "größe"), ("client", ""), ("address", ""), ("idempotency_key", "é")),
            *(("priority", 0), ("priority", 7), ("origin", Location.ONCHAIN), ("destination", Location.ONCHAIN)),
        ):
            assert isinstance(await node.submit(replace(request(), **{field: value})), Job)


# -- stores that fail -----------------------------------------------------------------------------------


async def test_a_key_that_cannot_be_looked_up_is_no_news_while_the_node_takes_no_work() -> None:
    store = SpiedStore()
    async with held(store=store) as node:
        store.failures["find"] = 1
        with pytest.raises(StoreFailed):
            await node.submit(keyed("k"))
        assert await _total(node) == 0
    store.failures["find"] = 1
    with pytest.raises(Unavailable):
        await node.submit(keyed("k"))


async def test_requests_that_are_refused_are_told_why_also_where_the_others_cannot_be_stored() -> None:
    store = SpiedStore()
    async with held(store=store) as node:
        store.failures["add"] = 1
        assert kinds(await node.submit_many([request("x"), request("nobody"), request("x")])) == [
            "Unavailable",
            "Refusal",
            "Unavailable",
        ]
