"""The suite of shared stores, on the small one that the tests have."""

from collections.abc import Callable, Iterator

import anyio
import msgspec
import pytest

from nodekit import Announcement, Container, Location, SharedStore
from nodekit.testing import DurableJobStoreContract, SharedMemory, SharedStoreContract, make_job

OF_PROCESSES = {
    "test_what_a_call_has_kept_survives_a_kill",
    "test_what_was_reported_survives_kills_at_any_moment",
    "test_what_does_not_fit_on_the_disk_is_refused_as_a_whole",
}


class TestSharedMemoryStore(SharedStoreContract, DurableJobStoreContract):
    """Its engine outlives its clients, so that what they kept survives them."""

    exclusive = False
    lease_seconds = 1.0  # half of it is too short for a node on a busy machine to renew it

    @pytest.fixture(autouse=True)
    def _in_memory(self, request: pytest.FixtureRequest) -> None:
        if request.function.__name__ in OF_PROCESSES:
            pytest.skip("what it keeps is in the memory of this process")

    @pytest.fixture
    def open_store(self) -> Iterator[Callable[[], SharedStore]]:
        with SharedMemory(self.lease_seconds) as cluster:
            yield cluster.store


def test_an_announcement_can_be_sent_as_json() -> None:
    offered = Announcement(
        name="a", incarnation="1", containers={"b": Container(id="b", rules={"external": False})}, running=("b",)
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
