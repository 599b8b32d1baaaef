"""The suites of stores, of shared stores and of their faults, on a real PostgreSQL."""

from collections.abc import Callable, Iterator

import pytest
from postgres_server import Database, PostgresServer

from nodekit import Secret, SharedStore
from nodekit.testing import DurableJobStoreContract, SharedStoreContract
from nodekit_postgres import PostgresConfig, PostgresStore

LEASE_SECONDS = 2.0
CLEAR = """
    DO $$ BEGIN
        IF to_regclass('nodekit.jobs') IS NOT NULL THEN
            TRUNCATE nodekit.jobs, nodekit.records, nodekit.live, nodekit.rotations, nodekit.counts, nodekit.totals,
                nodekit.sessions, nodekit.members, nodekit.plugin_records;
        END IF;
    END $$;
"""


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer) -> Iterator[Database]:
    """A database for the tests of this module; each finds it empty."""
    with postgres_server.database() as database:
        yield database


def make_store(url: str, lease_seconds: float = LEASE_SECONDS) -> PostgresStore:
    config = PostgresConfig(url=Secret(url), lease_seconds=lease_seconds, look_seconds=lease_seconds / 2)
    return PostgresStore(config)


class TestPostgresStore(SharedStoreContract, DurableJobStoreContract):
    backends = ("asyncio",)
    exclusive = False
    lease_seconds = LEASE_SECONDS
    timeout_seconds = 30.0
    quiet_seconds = 0.2

    @property
    def short(self) -> float:
        return 2.0  # on a busy machine, a store needs a part of this to be opened

    @pytest.fixture
    def open_store(self, place: Database) -> Callable[[], SharedStore]:
        place.sql(CLEAR)
        url = place.socket_url  # without a password, which takes time to check
        return lambda: make_store(url)
