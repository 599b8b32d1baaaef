"""The suite of shared stores, on the kit's own in one process."""

from collections.abc import Callable, Collection, Iterator

import anyio
import msgspec
import pytest
from msgspec.structs import replace

from nodekit import AnnouncedContainer, Announcement, Claim, ClaimRoom, ContainerId, Location, SharedStore
from nodekit.testing import DurableJobStoreContract, SharedMemory, SharedStoreContract, make_job
from nodekit.testing.shared_store.store import SharedMemoryStore

OF_PROCESSES = {
    "test_what_a_call_has_kept_survives_a_kill",
    "test_what_was_reported_survives_kills_at_any_moment",
    "test_what_does_not_fit_on_the_disk_is_refused_as_a_whole",
}


class EarlierStore(SharedMemoryStore):
    """A store as it might have been a release ago: it told nothing of pipelines, and asked for all suspects."""

    async def claim(
        self,
        containers: Collection[ContainerId],
        pipelines: Collection[str] | None,
        limit: int,
        *,
        suspects: bool = True,
        room: ClaimRoom | None = None,
    ) -> list[Claim]:
        return await super().claim(containers, pipelines, limit)

    async def announce(self, announcement: Announcement) -> None:
        await super().announce(replace(announcement, pipelines=()))


class TestSharedMemoryStore(SharedStoreContract, DurableJobStoreContract):
    """Its engine outlives its clients, so that what they kept survives them."""

    exclusive = False
    lease_seconds = 1.0  # half of it is too short for a node on a busy machine to renew it

    @pytest.fixture(autouse=True)
    def _in_memory(self, request: pytest.FixtureRequest) -> None:
        if request.function.__name__ in OF_PROCESSES:
            pytest.skip("what it keeps is in the memory of this process")

    @pytest.fixture
    def open_store(self, shared: SharedMemory) -> Callable[[], SharedStore]:
        return shared.store

    @pytest.fixture
    def shared(self) -> Iterator[SharedMemory]:
        with SharedMemory(self.lease_seconds) as shared:
            yield shared

    @pytest.fixture
    def open_other_version(self, shared: SharedMemory) -> Callable[[], SharedStore]:
        return lambda: EarlierStore(shared.engine, shared.portal)


def test_an_announcement_can_be_sent_as_json() -> None:
    offered = Announcement(
        name="a",
        incarnation="1",
        containers={"b": AnnouncedContainer(id="b", rules={"external": False})},
        running=("b",),
    )
    assert msgspec.json.decode(msgspec.json.encode(offered), type=Announcement) == offered


@pytest.mark.anyio
async def test_a_stream_that_is_added_in_a_session_that_has_lapsed_is_lost_at_once() -> None:
    with SharedMemory(lease_seconds=30) as cluster:
        async with cluster.store() as store:
            await store._ask(lambda: cluster.engine.end(store._session, died=True))
            claim = await store.add_claimed(make_job(destination=Location.STREAM))
            with anyio.fail_after(20), claim.scope:
                await anyio.sleep_forever()
            (job,) = await store.get([claim.job.id])
            assert (job.error and job.error.kind) == "interrupted"


@pytest.mark.anyio
async def test_a_store_that_is_left_by_a_cancellation_ends_its_session() -> None:
    with SharedMemory(lease_seconds=30) as shared:
        async with anyio.create_task_group() as tasks:

            async def stay() -> None:
                async with shared.store():
                    await anyio.sleep_forever()

            tasks.start_soon(stay)
            while not shared.engine.sessions:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        assert shared.engine.sessions == {}
