"""The suite of shared stores, on the small one that the tests have."""

from collections.abc import Callable, Iterator

import msgspec
import pytest
from shared_store import Cluster

from nodekit import Announcement, Container, SharedStore
from nodekit.testing import DurableJobStoreContract, SharedStoreContract

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
        with Cluster(self.lease_seconds) as cluster:
            yield cluster.store


def test_an_announcement_can_be_sent_as_json() -> None:
    offered = Announcement({"echo": Container(id="echo"), "b": Container(id="b", rules={"external": False})}, ["b"])
    assert msgspec.json.decode(msgspec.json.encode(offered), type=Announcement) == offered
