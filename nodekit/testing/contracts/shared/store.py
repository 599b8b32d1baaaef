"""Promises of a `SharedStore`."""

from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import anyio
from msgspec.structs import replace

from nodekit import (
    Announcement,
    Container,
    JobId,
    JobStatus,
    Node,
    SharedStore,
    StoreFailed,
)
from nodekit.testing.builders.jobs import SEQUENCE
from nodekit.testing.contracts.shared.base import Open
from nodekit.testing.contracts.shared.counting import CountingRunner
from nodekit.testing.contracts.shared.jobs import SharedJobs
from nodekit.testing.contracts.shared.leases import Leases
from nodekit.testing.contracts.shared.nodes import SharedNodes
from nodekit.testing.contracts.stores.store import JobStoreContract
from nodekit.testing.faults.injection import Faults


def _plain(announced: Announcement) -> Announcement:
    """Return the announcement in one of its forms, so that two can be compared."""
    return replace(
        announced,
        containers=dict(announced.containers),
        running=tuple(sorted(announced.running)),
        pipelines=tuple(sorted(announced.pipelines)),
    )


class _Secretive(Container, frozen=True, kw_only=True):
    """A runner's container with a private field."""

    secret: str


class SharedStoreContract(SharedJobs, Leases, SharedNodes, JobStoreContract):
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

    def announcement(self, node: str, *ids: str, running: tuple[str, ...] = (), **fields: Any) -> Announcement:
        """Make a node's announcement of these containers. The incarnation has the node's name unless it is given."""
        rules = {"external": False, "allowed_ips": ["10.0.0.0/8"]}
        containers = {id: Container(id=id, image=f"{id}:1", concurrency=2, rules=rules) for id in ids}
        fields = {"incarnation": node, "pipelines": SEQUENCE, "version": "1.2.3", **fields}
        return Announcement(name=node, containers=containers, running=running, **fields)

    async def known(self, store: SharedStore) -> Mapping[str, Announcement]:
        """Return what the live nodes that a store knows have announced, by incarnation."""
        return {m.announcement.incarnation: _plain(m.announcement) for m in await store.nodes() if m.live}

    async def knows(self, store: SharedStore, *announced: Announcement) -> None:
        """Wait until a store knows exactly these live nodes."""
        expected = {one.incarnation: _plain(one) for one in announced}
        await self.eventually(lambda: self.known(store), expected)

    async def gone(self, store: SharedStore) -> Mapping[str, Announcement]:
        """Return what the nodes that are gone had announced last, by incarnation."""
        return {m.announcement.incarnation: _plain(m.announcement) for m in await store.nodes() if not m.live}

    async def test_what_a_node_announces_is_known_to_all(self, stores: list[SharedStore]) -> None:
        one, other, _ = stores
        for store in stores:
            assert await store.nodes() == []
        state = {"in_flight": 3, "urls": ("http://a:4000",), "skew_seconds": -0.25, "takeovers": 2, "poison": 1}
        a = self.announcement("a", "echo", "reverse", running=("echo",), **state)
        b = self.announcement("b", "echo", pipelines=("dag", "sequence"))
        await one.announce(a)
        await other.announce(b)
        for store in stores:
            await self.knows(store, a, b)

    async def test_what_a_node_announces_anew_replaces_what_it_had_announced(self, stores: list[SharedStore]) -> None:
        one, other, third = stores
        await one.announce(self.announcement("a", "echo", "reverse", running=("echo",)))
        await other.announce(b := self.announcement("b", "echo"))
        await one.announce(a := self.announcement("a", "other", running=("other",)))
        for store in stores:
            await self.knows(store, a, b)
        await other.announce(b := self.announcement("b"))
        await self.knows(third, a, b)

    async def test_of_a_container_its_own_fields_travel_and_no_secrets(self, stores: list[SharedStore]) -> None:
        container = _Secretive(id="echo", description="says it again", secret="s3cret")  # noqa: S106
        announced = Announcement(name="a", incarnation="a", containers={"echo": container}, running=("echo",))
        await stores[0].announce(announced)
        plain = Container(id="echo", description="says it again")
        for store in stores:
            await self.knows(store, replace(announced, containers={"echo": plain}))
            [member] = await store.nodes()
            assert type(member.announcement.containers["echo"]) is Container

    async def test_an_announcement_stays_as_long_as_its_node_lives(self, stores: list[SharedStore]) -> None:
        one, other, _ = stores
        await one.announce(a := self.announcement("a", "echo"))
        await self.knows(other, a)
        [before] = await other.nodes()
        await anyio.sleep(3 * self.lease_seconds)
        for store in stores:
            assert await self.known(store) == {"a": _plain(a)}
        [after] = await other.nodes()
        assert after.seen_at > before.seen_at

    async def test_a_node_that_has_left_is_gone_at_once_and_remembered(
        self, open_store: Open, store: SharedStore
    ) -> None:
        await store.announce(a := self.announcement("a", "echo"))
        async with open_store() as leaving:
            await leaving.announce(b := self.announcement("b", "reverse"))
            await self.knows(store, a, b)
        await self.knows(store, a)
        assert await self.gone(store) == {"b": _plain(b)}
        async with open_store() as later:  # for a node that starts only now, too
            assert await self.gone(later) == {"b": _plain(b)}

    async def test_a_node_that_dies_is_gone_after_its_lease_and_remembered(
        self, open_store: Open, store: SharedStore
    ) -> None:
        await store.announce(a := self.announcement("a", "echo"))
        async with self.another(open_store) as there:
            await there.call(there.store.announce, b := self.announcement("b", "reverse"))
            await self.knows(store, a, b)
            await there.stand_still()
            await self.knows(store, a)
            assert await self.gone(store) == {"b": _plain(b)}
            [seen_at] = [member.seen_at for member in await store.nodes() if not member.live]
            assert seen_at <= await store.now() - self.lease_seconds / 2

    async def test_a_node_that_starts_again_is_another_incarnation(self, open_store: Open, store: SharedStore) -> None:
        async with self.another(open_store) as there:
            await there.call(there.store.announce, first := self.announcement("a", "echo", incarnation="first"))
            await there.stand_still()
            await store.announce(second := self.announcement("a", "reverse", incarnation="second"))
            await self.knows(store, second)
            assert await self.gone(store) == {"first": _plain(first)}
            await anyio.sleep(2 * self.lease_seconds)
            await self.knows(store, second)
        await self.knows(store, second)

    # -- nodes ------------------------------------------------------------------------------------

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
