"""Fixtures that start real servers. Without PostgreSQL their tests are skipped; with CI=true they fail."""

from collections.abc import Iterator

import pytest
from pgbouncer_server import PgBouncer
from postgres_server import Database, NoPostgres, PostgresServer
from postgres_stores import unavailable
from scale import counting_server


@pytest.fixture
def anyio_backend() -> str:
    """Use asyncio, which nodes run on."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server for all tests of this process; it runs at the start of each of them that takes `database`."""
    server = PostgresServer()
    try:
        server.__enter__()
    except NoPostgres as reason:
        unavailable(reason)
    try:
        yield server
    finally:
        server.__exit__()


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    """A database of its own for a test. The test may kill and freeze the server, which is repaired in the end."""
    with postgres_server.database() as database:
        yield database


@pytest.fixture
def pooler(database: Database) -> Iterator[PgBouncer]:
    """PgBouncer in transaction mode before the `database` of the test."""
    try:
        pooler = PgBouncer(database).__enter__()
    except NoPostgres as reason:
        unavailable(reason)
    try:
        yield pooler
    finally:
        pooler.__exit__()


@pytest.fixture(scope="session")
def counting() -> Iterator[PostgresServer]:
    """A server that counts statements and the pages that they look at."""
    try:
        with counting_server() as server:
            yield server
    except NoPostgres as reason:
        unavailable(reason)
