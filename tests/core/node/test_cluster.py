"""Nodes on one store, as each of them sees the others: what they announce, and what is wrong between them."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import msgspec
import pytest
from components import Function, Gate, SwitchRunner, request, until, until_is
from http_api import asgi_call
from msgspec.structs import replace

from nodekit import (
    REMEMBERED_SECONDS,
    AnnouncedContainer,
    Announcement,
    ClaimLost,
    Container,
    ContainerFailed,
    Held,
    Job,
    Node,
    NodeLimits,
    Refusal,
    Retry,
    Sequence,
    Step,
    StoreFailed,
    Unavailable,
    __version__,
)
from nodekit.node import cluster, cluster_page
from nodekit.testing import SEQUENCE, Faults, SharedMemory, make_job, make_node
from nodekit.testing.builders.components import make_table
from nodekit.testing.shared_store.engine import Engine
from nodekit.testing.shared_store.server import Server
from nodekit.testing.shared_store.store import SharedMemoryStore
from nodekit.testing.simulation import ENGINE, Size
from nodekit.testing.simulation import Cluster as SimulatedCluster
from nodekit_asgi.app import AsgiApp
from nodekit_function import FunctionRunner

pytestmark = pytest.mark.anyio

LEASE_SECONDS = 1.0
LOOPBACK = {"client": ("127.0.0.1", 1), "headers": [(b"host", b"127.0.0.1")]}


@pytest.fixture
def shared() -> Iterator[SharedMemory]:
    with SharedMemory(LEASE_SECONDS) as shared:
        yield shared


@pytest.fixture
async def front(shared: SharedMemory) -> AsyncIterator[Node]:
    """Run a node with the container ``near``."""
    async with make_node(store=shared.store(), runners=[only(near=_same)], name="front") as node:
        yield node


def only(**functions: Function) -> FunctionRunner:
    """Make a runner with these containers alone."""
    runner = FunctionRunner()
    for id, function in functions.items():
        runner.add(Container(id=id, description=f"has {id}"), function)
    return runner


class Listens:
    """A transport, as far as others hear of it."""

    async def serve(self, node: Node, *, task_status: Any) -> None:
        task_status.started(["http://back:4000"])
        await anyio.sleep_forever()


async def _same(data: Any) -> Any:
    return data


def a_node(shared: SharedMemory, name: str, *containers: str, **settings: Any) -> Node:
    runner = only(**dict.fromkeys(containers, _same))
    return make_node(store=shared.store(), runners=[runner], name=name, **settings)


async def live(node: Node) -> dict[str, Announcement]:
    return {one.announcement.name: one.announcement for one in await node.members() if one.live}


async def sees(node: Node, *containers: str) -> None:
    await until(lambda: set(node.running()) == set(containers))


async def test_a_node_announces_what_it_is_and_what_it_does(shared: SharedMemory, front: Node) -> None:
    gate = Gate()
    runner = only(gate=gate)
    async with make_node(store=shared.store(), runners=[runner], name="back", transports=[Listens()]) as back:
        await back.submit(request("gate"))
        await until(lambda: gate.running)
        await until_is(lambda: _in_flight(front, "back"), 1)
        said = (await live(front))["back"]
        assert (said.version, said.pipelines, said.running) == (__version__, ("sequence",), ("gate",))
        assert said.urls == ("http://back:4000",)
        assert said.containers["gate"].description == "has gate"
        assert abs(said.skew_seconds) < 5
        assert len({one.incarnation for one in (await live(front)).values()}) == 2
        gate.opened.set()


async def _in_flight(node: Node, name: str) -> int | None:
    said = (await live(node)).get(name)
    return said and said.in_flight


async def test_a_node_whose_store_is_its_own_announces_nothing_and_shows_no_page() -> None:
    async with make_node() as node:
        assert await node.members() == ()
        assert "cluster" not in node.mounts
        assert node.containers == node.own_containers
        assert set(node.running()) == set(node.running(here=True)) == {"echo", "fail", "slow"}


async def test_a_node_sees_the_containers_of_others_beside_its_own(shared: SharedMemory, front: Node) -> None:
    async with a_node(shared, "back", "near", "far") as back:
        await sees(front, "near", "far")
        assert set(front.containers) == {"near", "far"}
        assert front.containers["near"] is front.own_containers["near"]
        assert type(front.containers["far"]) is AnnouncedContainer
        assert set(front.own_containers) == set(front.running(here=True)) == {"near"}
        assert set(await back.resources()) == set()
        with pytest.raises(TypeError):
            front.containers["other"] = Container(id="other")  # type: ignore[index]


async def test_of_a_container_that_several_nodes_had_the_facts_of_the_live_node_count(
    shared: SharedMemory, front: Node
) -> None:
    def far(name: str, **fields: Any) -> Announcement:
        containers = {"far": AnnouncedContainer(id="far", description=name)}
        return Announcement(name=name, incarnation=name, containers=containers, pipelines=SEQUENCE, **fields)

    assert set(front.containers) == {"near"}
    async with shared.store() as store:
        await store.announce(far("live", running=("far",)))
        async with shared.store() as later:
            await later.announce(far("gone"))
            await until_is(lambda: _names(front), {"front", "live", "gone"})
        await until(lambda: "far" in front.containers)
        await until_is(lambda: _names(front), {"front", "live"})
        await sees(front, "near", "far")
        assert front.containers["far"].description == "live"
        assert set(front.containers) == {"near", "far"}
        more = {"far": AnnouncedContainer(id="far", description="anew"), "more": AnnouncedContainer(id="more")}
        await store.announce(replace(far("live", running=("far",)), containers=more))
        await until(lambda: set(front.containers) == {"near", "far", "more"})
        assert front.containers["far"].description == "anew"
    await sees(front, "near")


async def test_a_stream_is_sent_only_to_nodes_that_run_all_its_containers_and_know_its_pipeline(
    shared: SharedMemory, front: Node
) -> None:
    containers = {id: AnnouncedContainer(id=id) for id in ("far", "more")}
    async with AsyncExitStack() as stack:
        for name, running, pipelines in (
            ("down", ("far",), SEQUENCE),
            ("simple", ("far", "more"), ("other",)),
            ("able", ("far", "more"), SEQUENCE),
        ):
            store = await stack.enter_async_context(shared.store())
            await store.announce(
                Announcement(name=name, incarnation=name, containers=containers, running=running, pipelines=pipelines)
            )
        await until_is(lambda: _names(front), {"front", "down", "simple", "able"})
        await sees(front, "near", "far", "more")
        with pytest.raises(Unavailable, match=r"ask a node that has all its containers: able$"):
            async with front.stream(request("far", "more")):
                pass


async def test_a_node_announces_itself_every_third_of_its_lease() -> None:
    faults = Faults()
    with SharedMemory(lease_seconds=0.6) as shared:
        async with make_node(store=faults.around(shared.store()), runners=[only(near=_same)]):
            await until(lambda: faults.count("announce") >= 1)
            before = faults.count("announce")
            await anyio.sleep(1.5)  # seven and a half thirds of a lease
            assert 2 <= faults.count("announce") - before <= 8
            assert faults.count("now") <= faults.count("announce") + 2  # no question of the time for each job


class NotedCluster(SimulatedCluster):
    """Nodes that start together, and the times at which they announce themselves."""

    size = Size(nodes=20, jobs=0, lease_seconds=15)

    async def announced_at(self) -> list[float]:
        times: list[float] = []

        class NotingEngine(Engine):
            async def announce(self, number: int, announcement: Announcement) -> None:
                times.append(self.clock.monotonic())

        machine = self.machine(ENGINE)
        engine = NotingEngine(make_table(), self.size.lease_seconds, clock=machine.clock, random=machine.random)

        async def serve() -> None:
            async with engine.store, anyio.create_task_group() as tasks:
                tasks.start_soon(engine.watch)
                await machine.listen(Server(engine, tasks).serve)

        machine.start(serve)
        for name in self.nodes:
            self.start(name)
        await anyio.sleep(10 * self.size.lease_seconds)
        return times


def test_nodes_that_were_started_together_soon_announce_themselves_at_different_times() -> None:
    cluster = NotedCluster(1, faults=(), trace=False)
    times = cluster.world.run(cluster.announced_at)
    began, ended = Counter(int(at * 10) for at in times[:40]), Counter(int(at * 10) for at in times[-100:])
    assert max(began.values()) >= 10, "they did start together"
    assert max(ended.values()) <= 5


async def test_what_changes_is_announced_at_once() -> None:
    with SharedMemory(lease_seconds=600) as shared:  # a third of this is longer than the test waits
        switch = SwitchRunner(Container(id="switch"))
        async with a_node(shared, "front", "near") as front, make_node(store=shared.store(), runners=[switch]) as back:
            await until_is(lambda: _running(front, back.name), ("switch",))
            switch.switch()
            await until_is(lambda: _running(front, back.name), ())
            switch.switch("switch")
            await until_is(lambda: _running(front, back.name), ("switch",))


async def _running(node: Node, name: str) -> tuple[str, ...] | None:
    said = (await live(node)).get(name)
    return said and said.running


async def test_a_node_that_drains_announces_that_nothing_runs_there(shared: SharedMemory, front: Node) -> None:
    gate = Gate()
    limits = NodeLimits(drain_seconds=60)
    async with make_node(store=shared.store(), runners=[only(far=gate)], name="back", limits=limits) as back:
        await sees(front, "near", "far")
        await back.submit(request("far"))
        await until(lambda: gate.running)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(back.drain)
            await sees(front, "near")
            assert "back" in await live(front)
            gate.opened.set()


@pytest.mark.parametrize(("pipeline", "elsewhere"), [("sequence", True), ("mine", False)])
async def test_a_node_that_drains_hands_a_job_over_between_two_steps_if_another_one_can_go_on(
    shared: SharedMemory, pipeline: str, elsewhere: bool
) -> None:
    gate, near, far = Gate(), Counter[str](), Counter[str]()

    def noted(counts: Counter[str]) -> Function:
        async def note(data: Any) -> Any:
            counts["note"] += 1
            return data

        return note

    async with make_node(store=shared.store(), runners=[only(note=noted(far))], name="front") as front:
        runner = only(gate=gate, note=noted(near))
        limits = NodeLimits(drain_seconds=60)
        settings: dict[str, Any] = {"name": "back", "limits": limits, "pipelines": {"mine": Sequence()}}
        async with make_node(store=shared.store(), runners=[runner], **settings) as back:
            job = await back.submit(replace(request("gate", "note"), pipeline=pipeline))
            await until(lambda: gate.running)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(back.drain)
                await until_is(lambda: _running(front, "back"), ())
                gate.opened.set()
                assert [one.status for one in await front.wait([job.id])] == ["success"]
    assert (near.total(), far.total()) == ((0, 1) if elsewhere else (1, 0))


async def test_containers_of_a_node_that_is_gone_are_forgotten_after_ten_minutes(
    shared: SharedMemory, front: Node
) -> None:
    async with a_node(shared, "back", "far"):
        await sees(front, "near", "far")
    await sees(front, "near")
    accepted = await front.submit(request("far"))
    later = shared.engine.time
    shared.engine.time = lambda: later() + REMEMBERED_SECONDS + 1  # type: ignore[method-assign]
    await until(lambda: set(front.containers) == {"near"})
    with pytest.raises(Refusal, match="Container not supported"):
        await front.submit(request("far"))
    async with a_node(shared, "back", "far"):
        assert [job.status for job in await front.wait([accepted.id])] == ["success"]


async def test_an_engine_that_has_forgotten_a_node_does_not_make_others_refuse_its_containers(
    shared: SharedMemory, front: Node
) -> None:
    async with a_node(shared, "back", "far"):
        await sees(front, "near", "far")
    shared.engine.members.clear()  # as a restart does
    await until_is(lambda: _names(front), {"front"})
    await sees(front, "near")
    accepted = await front.submit(request("far"))
    async with a_node(shared, "back", "far"):
        assert [job.status for job in await front.wait([accepted.id])] == ["success"]
    shared.engine.members.clear()
    later = shared.engine.time
    shared.engine.time = lambda: later() + REMEMBERED_SECONDS + 1  # type: ignore[method-assign]
    await until(lambda: set(front.containers) == {"near"})


async def test_a_request_for_something_unknown_looks_at_the_other_nodes_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with SharedMemory(lease_seconds=600) as shared:
        faults = Faults()
        async with make_node(store=faults.around(shared.store()), runners=[only(near=_same)]) as node:
            await until_is(lambda: _names(node), {"node"})
            before = faults.count("nodes")
            with pytest.raises(Refusal):
                await node.submit(request("far"))
            for _ in range(50):  # a hostile client
                with pytest.raises(Refusal):
                    await node.submit(request("far"))
            assert faults.count("nodes") - before <= 2
            async with a_node(shared, "back", "far"):
                await until_is(lambda: _names(node), {"node", "back"})
                monkeypatch.setattr(cluster, "LOOK_SECONDS", 0)
                assert (await node.submit(request("far"))).due == "far"


async def _names(node: Node) -> set[str]:
    return set(await live(node))


class _Secretive(Container, frozen=True, kw_only=True):
    """A container of a runner with a setting that is nobody else's business."""

    secret: str


def test_of_a_container_its_own_fields_are_announced_and_no_secrets() -> None:
    settings: dict[str, Any] = {"rules": {"external": False}, "queue_timeout_seconds": 5, "retry": Retry(attempts=9)}
    container = _Secretive(id="a", secret="s3cret", **settings)
    announced = AnnouncedContainer.of(container)
    assert (announced.id, announced.rules, announced.queue_timeout_seconds) == ("a", {"external": False}, 5)
    assert not {b"s3cret", b"retry"} & {*msgspec.json.encode(announced).split(b'"')}


def test_facts_that_a_later_version_announces_are_ignored() -> None:
    later = b'{"name":"a","incarnation":"1","more":1,"containers":{"c":{"id":"c","rules":{},"gpu":{"memory":1}}}}'
    announced = msgspec.json.decode(later, type=Announcement)
    assert announced.containers == {"c": AnnouncedContainer(id="c")}


async def test_a_container_that_another_node_has_just_started_is_no_reason_to_fail(shared: SharedMemory) -> None:
    with SharedMemory(lease_seconds=600) as shared:
        down, up = (SwitchRunner(Container(id="c", when_down="fail"), up=[]) for _ in range(2))
        async with (
            make_node(store=shared.store(), runners=[down], name="a") as a,
            make_node(store=shared.store(), runners=[up], name="b") as b,
        ):
            await until_is(lambda: _names(a), {"a", "b"})
            up.switch("c")
            await until_is(lambda: _running(a, "b"), ("c",))
            await anyio.sleep(cluster.LOOK_SECONDS)
            answers = await b.submit_many([request("c") for _ in range(10)])
            jobs = await a.wait([answer.id for answer in answers if isinstance(answer, Job)])
            assert [job.status for job in jobs] == ["success"] * 10


async def test_nodes_whose_pipelines_disagree_do_not_hand_a_job_to_and_fro(shared: SharedMemory) -> None:
    class Chooses(Sequence):
        def __init__(self, container: str) -> None:
            self._container = container

        def next_step(self, job: Job) -> Step | None:
            step = super().next_step(job)
            return step and replace(step, container=self._container)

    faults = Faults()
    async with AsyncExitStack() as stack:
        for name, own, chosen in (("a", "x", "y"), ("b", "y", "x")):
            store = faults.around(shared.store()) if name == "a" else shared.store()
            pipelines = {"mine": Chooses(chosen)}
            runner = only(**{own: _same})
            node = make_node(store=store, runners=[runner], name=name, pipelines=pipelines)
            await stack.enter_async_context(node)
        await until_is(lambda: _names(node), {"a", "b"})
        await sees(node, "x", "y")
        await node.submit(replace(request("x", "y"), pipeline="mine"))
        await until(lambda: faults.count("release") >= 1)
        await anyio.sleep(0.3)
        assert faults.count("release") == 1


async def test_a_look_at_the_other_nodes_that_fails_is_not_the_request_s_fault(shared: SharedMemory) -> None:
    faults = Faults()
    async with make_node(store=faults.around(shared.store()), runners=[only(near=_same)]) as node:
        await anyio.sleep(cluster.LOOK_SECONDS)
        faults.before("nodes").fail(StoreFailed("no answer"))
        with pytest.raises(Refusal, match="Container not supported"):
            await node.submit(request("far"))


async def test_an_announcement_that_hangs_is_a_problem(shared: SharedMemory) -> None:
    faults = Faults()
    async with make_node(store=faults.around(shared.store()), runners=[only(near=_same)]) as node:
        faults.before("announce").hang()
        with anyio.fail_after(20):
            while "other nodes of the store cannot be reached" not in await reasons(node):
                await anyio.sleep(0.02)
        faults.lift()


async def test_a_suspect_is_none_any_more_as_soon_as_a_step_is_stored(shared: SharedMemory) -> None:
    gate = Gate()
    async with shared.store() as store:
        await store.add(jobs := [make_job("quick", "gate"), make_job("quick")])
        await lose(shared, store, "quick", len(jobs))
        async with make_node(store=shared.store(), runners=[only(quick=_same, gate=gate)], name="one") as node:
            await until(lambda: gate.running)
            [done] = await node.wait([jobs[1].id])  # while the other one runs on
            assert (done.status, gate.running) == ("success", 1)
            gate.opened.set()
            await node.wait([jobs[0].id])


async def test_a_suspect_that_is_given_back_makes_room_for_the_next(shared: SharedMemory) -> None:
    async def fails(data: Any) -> Any:
        raise ContainerFailed("status", "on purpose", status=503)

    runner = FunctionRunner()
    runner.add(Container(id="later", retry=Retry(attempts=2, first_delay_seconds=3600)), fails)
    runner.add(Container(id="quick"), _same)
    async with shared.store() as store:
        first = make_job("later")
        await store.add([first])
        await lose(shared, store, "later", 1)
        async with make_node(store=shared.store(), runners=[runner], name="one") as node:
            await until_is(lambda: _attempts(node, first.id), 1)
            await store.add([second := make_job("quick")])
            assert node._executor.suspects.welcome
            assert [job.status for job in await node.wait([second.id])] == ["success"]


async def lose(
    shared: SharedMemory, store: SharedMemoryStore, container: str, count: int, *, suspects: bool = False
) -> None:
    """Claim jobs and lose each claim, as a node that dies does."""
    for _ in range(count):
        [claim] = await store.claim([container], SEQUENCE, 1, suspects=suspects)
        held = shared.engine.claims.pop(max(shared.engine.claims))
        assert held.claim.job == claim.job
        await store._ask(lambda held=held: shared.engine.take_back(held.claim, died=True))


async def _attempts(node: Node, id: str) -> int:
    [job] = await node.fetch([id])
    return sum(len(step.attempts) for step in job.steps)


async def test_takeovers_and_poison_are_counted(
    shared: SharedMemory, front: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async with shared.store() as store:
        (stored,) = await store.add([make_job("later")])
        await lose(shared, store, "later", 3, suspects=True)
        async with a_node(shared, "later", "later") as node:
            assert [job.status for job in await node.wait([stored.id])] == ["failed"]
            await until_is(lambda: _counts(front, "later"), (1, 1))
            assert await _counts(front, "front") == (0, 0)
    assert f"job {stored.id}: taken over; nodes that ran it lost it 3 times in a row" in caplog.messages


async def test_poison_whose_end_is_stored_late_is_counted_once(
    shared: SharedMemory, front: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = shared.engine.save

    async def lost(token: int, job: Job) -> Job:
        monkeypatch.setattr(shared.engine, "save", save)
        await shared.engine.take_back(shared.engine.claims.pop(token).claim, died=True)
        raise ClaimLost("its lease was over at this moment")

    async with shared.store() as store:
        (stored,) = await store.add([make_job("later")])
        await lose(shared, store, "later", 3, suspects=True)
        monkeypatch.setattr(shared.engine, "save", lost)
        async with a_node(shared, "later", "later") as node:
            assert [job.status for job in await node.wait([stored.id])] == ["failed"]
            await until_is(lambda: _counts(front, "later"), (2, 1))


async def _counts(node: Node, name: str) -> tuple[int, int] | None:
    said = (await live(node)).get(name)
    return said and (said.takeovers, said.poison)


# -- what is wrong --------------------------------------------------------------------------------


async def reasons(node: Node) -> str:
    return "; ".join((await node.health()).reasons)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "front"}, "another node on this store is named 'front' as well"),
        ({"version": "9.9"}, f"node 'other' runs nodekit 9.9, not {__version__}"),
        (
            {"containers": {"near": AnnouncedContainer(id="near", rules={"external": False})}},
            "container 'near' has other rules on node 'other'",
        ),
    ],
    ids=["name", "version", "rules"],
)
async def test_what_is_wrong_between_nodes_is_in_the_health_of_a_node(
    shared: SharedMemory, front: Node, change: dict[str, Any], reason: str
) -> None:
    other = Announcement(name="other", incarnation="1", version=__version__, pipelines=("sequence",))
    async with shared.store() as store:
        await store.announce(other)
        await until_is(lambda: _names(front), {"front", "other"})
        assert await reasons(front) == ""
        await store.announce(replace(other, **change))
        with anyio.fail_after(20):
            while reason not in await reasons(front):
                await anyio.sleep(0.02)
        assert (await front.health()).healthy
    with anyio.fail_after(20):
        while await reasons(front):
            await anyio.sleep(0.02)


async def test_a_node_that_starts_again_after_a_crash_does_not_clash_with_itself(shared: SharedMemory) -> None:
    async with shared.store() as dead:
        await dead.announce(Announcement(name="again", incarnation="1", version=__version__))
        shared.engine.renew = _says_it_renewed  # type: ignore[method-assign]
        async with a_node(shared, "again", "near") as node:
            assert "named" not in await reasons(node)


async def _says_it_renewed(number: int) -> bool:
    return True


async def test_a_store_that_fails_to_exchange_announcements_is_a_problem_while_it_lasts(shared: SharedMemory) -> None:
    faults = Faults()
    async with make_node(store=faults.around(shared.store()), runners=[only(near=_same)]) as node:
        faults.before("announce").fail(StoreFailed("no answer"))
        with anyio.fail_after(20):
            while "other nodes of the store cannot be reached: no answer" not in await reasons(node):
                await anyio.sleep(0.02)
        job = await node.submit(request("near"))
        assert [job.status for job in await node.wait([job.id])] == ["success"]
        faults.lift()
        with anyio.fail_after(20):
            while await reasons(node):
                await anyio.sleep(0.02)


# -- over HTTP ------------------------------------------------------------------------------------


async def test_the_page_of_the_cluster_shows_nodes_queues_and_counts(shared: SharedMemory, front: Node) -> None:
    async with a_node(shared, "back", "far"):
        await sees(front, "near", "far")
    await sees(front, "near")
    for _ in range(2):
        await front.submit(request("far"))
    app = AsgiApp(front)
    status, body = await asgi_call(app, "/-/cluster/", **LOOPBACK)
    page = msgspec.json.decode(body)
    assert status == 200
    assert [(node["name"], node["live"], node["running"]) for node in page["nodes"]] == [
        ("front", True, ["near"]),
        ("back", False, []),
    ]
    assert page["nodes"][1]["containers"] == ["far"]
    assert page["nodes"][0].keys() >= {"incarnation", "version", "pipelines", "in_flight", "skew_seconds", "urls"}
    assert 0 <= page["nodes"][0]["seen_seconds_ago"] < LEASE_SECONDS
    assert (page["pending"], page["queues"]["far"]["jobs"], page["takeovers"], page["poison"]) == (2, 2, 0, 0)
    assert page["queues"]["far"]["oldest_seconds"] >= 0


@pytest.mark.parametrize(
    ("path", "asked", "status"),
    [
        ("/-/cluster/", {"client": ("203.0.113.7", 1)}, 403),
        ("/-/cluster/more", LOOPBACK, 404),
        ("/-/cluster/", {**LOOPBACK, "method": "DELETE"}, 405),
    ],
    ids=["elsewhere", "path", "method"],
)
async def test_the_page_is_for_the_nodes_own_machine_and_can_only_be_read(
    front: Node, path: str, asked: dict[str, Any], status: int
) -> None:
    answered, body = await asgi_call(AsgiApp(front), path, **asked)
    assert answered == status
    assert msgspec.json.decode(body)["error"]


async def test_a_store_that_hangs_or_fails_is_503_on_the_page(
    shared: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_page, "REPORT_SECONDS", 0.2)
    for fails in (lambda when: when.hang(), lambda when: when.fail(StoreFailed("no answer"))):
        faults = Faults()
        async with make_node(store=faults.around(shared.store()), runners=[only(near=_same)]) as node:
            fails(faults.before("queues"))
            with anyio.fail_after(20):
                status, body = await asgi_call(AsgiApp(node), "/-/cluster/", **LOOPBACK)
            assert (status, msgspec.json.decode(body)["error"]) == (503, "the store cannot be read right now")
            faults.lift()


async def test_a_claim_of_this_node_without_a_call_is_no_call(shared: SharedMemory, front: Node) -> None:
    held = {"mine": Held("front", 1.0, 0, 1), "theirs": Held("back", 1.0, 0, 1)}

    async def answer(ids: Any) -> Any:
        return {id: held[id] for id in ids}

    front._cluster.store.held = answer  # type: ignore[union-attr, method-assign]
    assert await front.held(["mine", "theirs"]) == {"theirs": held["theirs"]}


async def test_finished_jobs_are_kept_as_long_as_the_engine_s_clock_says(shared: SharedMemory) -> None:
    real = shared.engine.time
    shared.engine.time = lambda: real() - 3600  # type: ignore[method-assign]
    limits = NodeLimits(drain_seconds=0, keep_finished_seconds=0.4)
    async with a_node(shared, "one", "near", limits=replace(limits, keep_finished_seconds=1800)) as node:
        job = await node.submit(request("near"))
        assert [done.status for done in await node.wait([job.id])] == ["success"]
    async with a_node(shared, "two", "near", limits=replace(limits, keep_finished_seconds=1800)) as node:
        await anyio.sleep(0.3)  # its first round
        assert len(await node.fetch([job.id])) == 1
    async with a_node(shared, "three", "near", limits=limits) as node:
        await until_is(lambda: node.fetch([job.id]), [])


async def test_info_shows_what_can_be_called_anywhere(shared: SharedMemory, front: Node) -> None:
    async with a_node(shared, "back", "far"):
        await sees(front, "near", "far")
        _, body = await asgi_call(AsgiApp(front), "/info", method="GET", **LOOPBACK)
        assert {one["id"] for one in msgspec.json.decode(body)["containers"]} == {"near", "far"}


async def test_a_stream_that_runs_elsewhere_is_503_and_names_the_nodes(shared: SharedMemory, front: Node) -> None:
    async with a_node(shared, "back", "far", transports=[Listens()]):
        await sees(front, "near", "far")
        body = b'{"containers":["far"],"data":{}}'
        status, answer = await asgi_call(AsgiApp(front), "/api/jobs/stream", body, **LOOPBACK)
        assert status == 503
        assert msgspec.json.decode(answer)["error"] == (
            "a stream runs on one node, and container 'far' does not run here; "
            "ask a node that has all its containers: back (http://back:4000)"
        )


async def test_a_history_names_the_node_that_runs_the_step(shared: SharedMemory, front: Node) -> None:
    gate = Gate()
    async with make_node(store=shared.store(), runners=[only(far=gate)], name="back"):
        await sees(front, "near", "far")
        job = await front.submit(request("near", "far", client="127.0.0.1"))
        await until(lambda: gate.running)
        _, body = await asgi_call(AsgiApp(front), f"/api/jobs/{job.id}", method="GET", **LOOPBACK)
        running = msgspec.json.decode(body)["steps"][-1]["running"]
        assert (running["node"], running["attempt"]) == ("back", 1)
        cancelled = await front.cancel(job.id)
        assert cancelled is not None
        assert [attempt.kind for attempt in cancelled.steps[-1].attempts] == ["cancelled"]
        await until(lambda: gate.cancelled)
