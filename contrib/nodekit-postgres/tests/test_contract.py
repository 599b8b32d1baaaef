"""The suites of stores, of shared stores and of their faults, on a real PostgreSQL."""

from collections.abc import Callable, Iterator
from typing import Self

import pytest
from postgres_server import Database, PostgresServer

from nodekit import Secret, SharedStore
from nodekit.testing import DurableJobStoreContract, SharedStoreContract
from nodekit_postgres import PostgresConfig, PostgresStore, _schema

LEASE_SECONDS = 2.0
NEXT = """
    DO $$
    DECLARE
        name text;
    BEGIN
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'nodekit' LOOP
            EXECUTE format('ALTER TABLE nodekit.%I ADD COLUMN added integer NOT NULL DEFAULT 7', name);
        END LOOP;
        FOR name IN SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'nodekit'::regnamespace LOOP
            EXECUTE name;
        END LOOP;
        CREATE INDEX jobs_added ON nodekit.jobs (added);
    END $$;
"""
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
    # nothing is found by looking now and then
    config = PostgresConfig(url=Secret(url), lease_seconds=lease_seconds, look_seconds=600.0)
    return PostgresStore(config)


class NextStore(PostgresStore):
    """A store of a release to come: its version changes every table and replaces functions, as versions may."""

    async def __aenter__(self) -> Self:
        migrations, version, script = _schema.MIGRATIONS, _schema.VERSION, _schema._script
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_schema, "MIGRATIONS", (*migrations, ("next",)))
            patch.setattr(_schema, "VERSION", version + 1)
            patch.setattr(_schema, "_script", lambda name: NEXT if name == "next" else script(name))
            return await super().__aenter__()


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

    @pytest.fixture
    def open_other_version(self, place: Database) -> Iterator[Callable[[], SharedStore]]:
        yield lambda: NextStore(PostgresConfig(url=Secret(place.socket_url), lease_seconds=LEASE_SECONDS))
        place.sql("DROP SCHEMA nodekit CASCADE;")
