"""Promises of a `SharedStore`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

import anyio

from nodekit import (
    Announcement,
    Container,
    ContainerId,
    Job,
    JobId,
    JobStatus,
    Node,
    NodeLimits,
    SharedStore,
    StoreFailed,
)
from nodekit.testing.builders.jobs import make_request
from nodekit.testing.contracts.shared.base import Open
from nodekit.testing.contracts.shared.counting import CountingRunner
from nodekit.testing.contracts.shared.jobs import SharedJobs
from nodekit.testing.contracts.shared.leases import Leases
from nodekit.testing.contracts.stores.store import JobStoreContract
from nodekit.testing.faults.injection import Faults


class _Secretive(Container, frozen=True, kw_only=True):
    """A runner's container with a private field."""

    secret: str


class SharedStoreContract(SharedJobs, Leases, JobStoreContract):
    """Suite of a store on which several nodes work. Define the fixture `open_store`.

    The fixture gives a function. The function returns a store that is not entered yet, always on the same data. The
    data are empty when a test begins. The suite opens several stores at once, some of them in an event loop of their
    own. They hold a claim, or an announcement, for `lease_seconds` without renewing it::

        class TestMyStore(SharedStoreContract):
            lease_seconds = 0.5

            @pytest.fixture
            def open_store(self, tmp_path):
                return lambda: MyStore(tmp_path, lease_seconds=self.lease_seconds)

    `hold` simulates a node that dies or is paused. A single store also keeps all promises of `JobStoreContract`.
    """

    # -- announcements ----------------------------------------------------------------------------

    def announcement(self, *ids: str, running: tuple[str, ...] = ()) -> Announcement:
        """Make a node's announcement of these containers."""
        rules = {"external": False, "allowed_ips": ["10.0.0.0/8"]}
        containers = {id: Container(id=id, image=f"{id}:1", concurrency=2, rules=rules) for id in ids}
        return Announcement(containers, frozenset(running))

    async def known(self, store: SharedStore) -> Mapping[str, tuple[Mapping[str, Container], frozenset[str]]]:
        """Return the announcements that a store knows, by node."""
        nodes = await store.nodes()
        return {name: (dict(node.containers), frozenset(node.running)) for name, node in nodes.items()}

    async def knows(self, store: SharedStore, **announced: Announcement) -> None:
        """Wait until a store knows exactly these nodes."""
        expected = {name: (dict(node.containers), frozenset(node.running)) for name, node in announced.items()}
        await self.eventually(lambda: self.known(store), expected)

    async def test_what_a_node_announces_is_known_to_all(self, stores: list[SharedStore]) -> None:
        one, other, _ = stores
        for store in stores:
            assert await store.nodes() == {}
        a, b = self.announcement("echo", "reverse", running=("echo",)), self.announcement("echo")
        await one.announce("a", a)
        await other.announce("b", b)
        for store in stores:
            await self.knows(store, a=a, b=b)

    async def test_what_a_node_announces_anew_replaces_what_it_had_announced(self, stores: list[SharedStore]) -> None:
        one, other, third = stores
        await one.announce("a", self.announcement("echo", "reverse", running=("echo",)))
        await other.announce("b", b := self.announcement("echo"))
        await one.announce("a", a := self.announcement("other", running=("other",)))
        for store in stores:
            await self.knows(store, a=a, b=b)
        await third.announce("b", b := self.announcement())
        await self.knows(one, a=a, b=b)

    async def test_of_a_container_its_own_fields_travel_and_no_secrets(self, stores: list[SharedStore]) -> None:
        container = _Secretive(id="echo", description="says it again", secret="s3cret")  # noqa: S106
        await stores[0].announce("a", Announcement({"echo": container}, ["echo"]))
        plain = Announcement({"echo": Container(id="echo", description="says it again")}, ["echo"])
        for store in stores:
            await self.knows(store, a=plain)

    async def test_an_announcement_stays_as_long_as_its_node_lives(self, stores: list[SharedStore]) -> None:
        await stores[0].announce("a", a := self.announcement("echo"))
        await self.knows(stores[1], a=a)
        await anyio.sleep(3 * self.lease_seconds)
        for store in stores:
            assert await self.known(store) == {"a": (a.containers, frozenset())}

    async def test_an_announcement_is_gone_when_its_node_has_left(self, open_store: Open, store: SharedStore) -> None:
        await store.announce("a", a := self.announcement("echo"))
        async with open_store() as leaving:
            await leaving.announce("b", b := self.announcement("reverse"))
            await self.knows(store, a=a, b=b)
        await self.knows(store, a=a)

    async def test_an_announcement_lapses_when_its_node_dies(self, open_store: Open, store: SharedStore) -> None:
        await store.announce("a", a := self.announcement("echo"))
        async with self.another(open_store) as there:
            await there.call(there.store.announce, "b", b := self.announcement("reverse"))
            await self.knows(store, a=a, b=b)
            await there.stand_still()
            await self.knows(store, a=a)

    async def test_a_node_that_comes_again_under_its_name_stays_known(
        self, open_store: Open, store: SharedStore
    ) -> None:
        async with self.another(open_store) as there:
            await there.call(there.store.announce, "a", self.announcement("echo"))
            await there.stand_still()
            await store.announce("a", again := self.announcement("reverse"))
            await self.knows(store, a=again)
            await anyio.sleep(2 * self.lease_seconds)
            await self.knows(store, a=again)
        await self.knows(store, a=again)

    # -- nodes ------------------------------------------------------------------------------------

    def node(self, store: SharedStore, runner: CountingRunner) -> Node:
        """Make a node that drains for no time when it is left."""
        return Node(store=store, runners=[runner], name=runner.name, limits=NodeLimits(drain_seconds=0))

    async def submitted(self, node: Node, count: int, *containers: ContainerId) -> list[JobId]:
        requests = [make_request(*containers, data={"number": n}, client=f"client {n % 3}") for n in range(count)]
        answers = await node.submit_many(requests)
        return [answer.id for answer in answers if isinstance(answer, Job)]

    async def finished(self, node: Node, ids: Sequence[JobId]) -> list[Job]:
        """Wait until the jobs are finished, assert that all succeeded and each step ran once, and return them."""
        with anyio.fail_after(self.timeout_seconds + self.lease_seconds):
            jobs = await node.wait(ids)
        assert sorted(job.id for job in jobs) == sorted(ids)
        for job in jobs:
            assert job.status is JobStatus.SUCCESS
            assert [step.container for step in job.steps] == list(job.request.containers)
            whole = [[one for one in step.attempts if one.kind != "interrupted"] for step in job.steps]
            assert all(len(attempts) == 1 for attempts in whole)
            assert all(step.result is not None for step in job.steps)
            assert job.result is not None
        return jobs

    async def called(self, runner: CountingRunner, count: int, index: int) -> None:
        """Wait until `count` jobs are in the step with this index."""

        async def jobs() -> int:
            return sum(at == index for _, at in list(runner.calls))

        await self.eventually(jobs, count)

    async def test_nodes_on_one_store_finish_all_jobs_and_run_each_step_once(self, open_store: Open) -> None:
        runners = [CountingRunner(name) for name in "abc"]
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(self.node(open_store(), runner)) for runner in runners]
            ids: list[JobId] = []
            for node in nodes:
                ids += await self.submitted(node, 10, "echo", "reverse")
            assert len(ids) == 30
            for node in nodes:
                await self.finished(node, ids)
            assert (await nodes[0].pending()).total == 0
        calls = sum((runner.calls for runner in runners), Counter[tuple[JobId, int]]())
        assert calls == {(id, index): 1 for id in ids for index in (0, 1)}

    async def test_the_jobs_of_a_node_that_dies_in_the_middle_are_finished_by_the_others(
        self, open_store: Open
    ) -> None:
        dying, living = CountingRunner("dying", held=["reverse"]), CountingRunner("living")
        async with self.place(open_store()) as there:
            node = await there.enter(self.node(there.store, dying))
            ids = await there.call(self.submitted, node, 6, "echo", "reverse")
            await self.called(dying, 6, index=1)
            await there.stand_still()
            async with self.node(open_store(), living) as other:
                jobs = await self.finished(other, ids)
                there.go_on()
                await there.call(dying.open)
                ids_after = await there.call(self.submitted, node, 6, "echo")
                await self.finished(other, ids_after)
                assert await other.fetch(ids) == jobs
        assert living.calls.keys() >= {(id, 1) for id in ids}
        assert not any((id, 0) in living.calls for id in ids)
        instances = [[attempt.instance for step in job.steps for attempt in step.attempts] for job in jobs]
        assert instances == [["dying", "living"]] * 6

    async def test_the_jobs_of_a_node_that_leaves_are_finished_by_the_others(self, open_store: Open) -> None:
        leaving, staying = CountingRunner("leaving", held=["reverse"]), CountingRunner("staying")
        async with self.node(open_store(), leaving) as node:
            ids = await self.submitted(node, 6, "echo", "reverse")
            await self.called(leaving, 6, index=1)
        assert leaving.aborted == 6
        async with self.node(open_store(), staying) as other:
            await self.finished(other, ids)
        assert staying.calls == {(id, 1): 1 for id in ids}

    async def test_a_job_that_is_cancelled_through_another_node_is_aborted_where_it_runs(
        self, open_store: Open
    ) -> None:
        runner = CountingRunner("running", held=["echo"])
        async with self.node(open_store(), runner) as node:
            [id] = await self.submitted(node, 1, "echo")
            await self.called(runner, 1, index=0)
            async with self.node(open_store(), CountingRunner("other")) as other:
                cancelled = await other.cancel(id)
                assert cancelled is not None
                assert cancelled.status is JobStatus.CANCELLED
                with anyio.fail_after(self.timeout_seconds):
                    assert await node.wait([id]) == [cancelled]
                await self.eventually(lambda: self._aborted(runner), 1)
                assert await other.fetch([id]) == [cancelled]

    async def _aborted(self, runner: CountingRunner) -> int:
        return runner.aborted

    async def test_nodes_whose_store_fails_now_and_then_finish_all_jobs(self, open_store: Open) -> None:
        runners = [CountingRunner(name) for name in "ab"]
        async with AsyncExitStack() as stack:
            nodes: list[Node] = []
            for runner in runners:
                faults = Faults()
                failures = [faults.before("save", 1, 4), faults.after("save", 2, 5)]
                for when in failures:
                    when.fail(StoreFailed("the engine does not answer"))
                node = self.node(faults.around(open_store()), runner)
                nodes.append(await stack.enter_async_context(node))
            ids = [id for node in nodes for id in await self.submitted(node, 10, "echo", "reverse")]
            await self.finished(nodes[0], ids)
        calls = sum((runner.calls for runner in runners), Counter[tuple[JobId, int]]())
        assert calls == {(id, index): 1 for id in ids for index in (0, 1)}
