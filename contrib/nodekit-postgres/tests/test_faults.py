"""The suite of faults, on a PostgreSQL that is killed, cut off and made read-only."""

from collections.abc import Callable, Iterator

import anyio.to_thread
import pytest
from postgres_server import Database, PostgresServer

from nodekit import Secret, SharedStore
from nodekit.testing import EngineFaultContract
from nodekit_postgres import PostgresConfig, PostgresStore

LEASE_SECONDS = 2.0
TABLES = "jobs, records, live, rotations, counts, totals, sessions, members, plugin_records"


class Control:
    """The handles on the server of a database (`EngineControl`)."""

    def __init__(self, database: Database) -> None:
        self._database, self._server = database, database.server

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self._server.port

    async def kill(self) -> None:
        await anyio.to_thread.run_sync(self._server.kill)

    async def start(self) -> None:
        await anyio.to_thread.run_sync(self._server.start)

    async def read_only(self, on: bool) -> None:
        word = "on" if on else "off"
        text = f"SET default_transaction_read_only = off; ALTER SYSTEM SET default_transaction_read_only = {word};"
        await anyio.to_thread.run_sync(self._server.sql, f"{text} SELECT pg_reload_conf();")


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer) -> Iterator[Database]:
    with postgres_server.database() as database:
        yield database


class TestFaultsOfPostgres(EngineFaultContract):
    backends = ("asyncio",)
    lease_seconds = LEASE_SECONDS
    quiet_seconds = 0.2

    @pytest.fixture
    def engine(self, place: Database) -> Control:
        place.sql(
            f"""
            DO $$ BEGIN
                IF to_regclass('nodekit.jobs') IS NOT NULL THEN
                    TRUNCATE nodekit.{TABLES.replace(", ", ", nodekit.")};
                END IF;
            END $$;
            """
        )
        return Control(place)

    @pytest.fixture
    def open_at(self, place: Database) -> Callable[[str, int], SharedStore]:
        def open_at(host: str, port: int) -> SharedStore:
            url = Secret(place.url_at(host, port))
            config = PostgresConfig(
                url=url, lease_seconds=self.lease_seconds, call_seconds=self.lease_seconds, look_seconds=0.5
            )
            return PostgresStore(config)

        return open_at
