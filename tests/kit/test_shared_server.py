"""The suite of shared stores, on an engine that is a process of its own; and what happens when it dies."""

from collections.abc import Callable, Iterator

import pytest

from nodekit import SharedStore
from nodekit.testing import DurableJobStoreContract, SharedServer, SharedStoreContract


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    with SharedServer(tmp_path_factory.mktemp("engine") / "jobs.db") as server:
        yield server


class TestSharedServerStore(SharedStoreContract, DurableJobStoreContract):
    """The engine outlives the processes that are killed here."""

    exclusive = False
    lease_seconds = 1.0  # half of it is too short for a node on a busy machine to renew it

    @pytest.fixture
    def open_store(self, engine: SharedServer) -> Callable[[], SharedStore]:
        engine.clear()
        return engine.store
