"""Random sequences of operations, compared with a model, on an engine whose clock leaps with the test's."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
import psycopg
import pytest
from hypothesis import Phase
from leap import LEAP
from postgres_server import Database, PostgresServer

from nodekit import JobStore, Secret
from nodekit.testing.store_model import JobStoreModelContract
from nodekit_postgres import PostgresConfig, PostgresStore

CLEAR = """
    TRUNCATE nodekit.jobs, nodekit.records, nodekit.live, nodekit.rotations, nodekit.counts, nodekit.totals,
        nodekit.sessions, nodekit.members, nodekit.plugin_records
"""


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer) -> Iterator[Database]:
    with postgres_server.database() as database:
        yield database


class Entered(PostgresStore):
    """A store that counts how many are entered: the model's time stands still while none is."""

    number = 0

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        Entered.number += 1
        return self

    async def __aexit__(self, *error: Any) -> None:
        Entered.number -= 1
        await super().__aexit__(*error)


class TestPostgresStoreByItsModel(JobStoreModelContract):
    max_examples = 12
    steps = 30
    timeout_seconds = 10.0
    derandomize = True
    phases = (Phase.explicit, Phase.generate)  # to shrink a failure takes minutes: add Phase.shrink to look into one

    @pytest.fixture(autouse=True)
    def _engine(self, place: Database) -> Iterator[None]:
        self.url = place.url
        anyio.run(self._prepare)
        with psycopg.connect(self.url, autocommit=True) as self.connection:
            self.connection.execute(LEAP)
            yield

    async def _prepare(self) -> None:
        async with self._store():
            pass

    def _store(self) -> PostgresStore:
        long = 1e9  # leaps of the clock end no lease
        return Entered(PostgresConfig(url=Secret(self.url), lease_seconds=long, call_seconds=60.0, look_seconds=0.02))

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Callable[[], JobStore]]:
        self.connection.execute(CLEAR)
        self.connection.execute("UPDATE nodekit.leap SET seconds = 0")
        yield self._store

    async def _sequence(self, steps: list[bytes], clock: Any) -> None:
        leap = clock.leap

        def both(seconds: float) -> None:
            leap(seconds)
            if Entered.number:
                self.connection.execute("UPDATE nodekit.leap SET seconds = seconds + %s", [seconds])

        clock.leap = both
        await super()._sequence(steps, clock)
