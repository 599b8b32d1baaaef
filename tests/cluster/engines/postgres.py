"""PostgreSQL, with the store `postgres`."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from postgres_server import HOST, Database, NoPostgres, PostgresServer

from cluster.engines import NoEngine


class PostgresEngine:
    """An `Engine` with one database."""

    remembers = True

    def __init__(self, server: PostgresServer, database: Database, folder: Path) -> None:
        self._server, self.database, self._folder = server, database, folder
        self.kill, self.start = server.kill, server.start

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self._server.port

    def store(self, host: str, port: int, lease_seconds: float) -> str:
        secret = self._folder / f"url-{port}"
        secret.write_text(self.database.url_at(host, port))
        secret.chmod(0o600)
        return f'[store]\nuse = "postgres"\nurl = {{ file = "{secret}" }}\nlease_seconds = {lease_seconds}\n'


@contextmanager
def running(folder: Path, lease_seconds: float) -> Iterator[PostgresEngine]:
    if find_spec("nodekit_postgres") is None:
        raise NoEngine("nodekit_postgres: not found; install contrib/nodekit-postgres")
    server = PostgresServer()
    try:
        server.__enter__()
    except NoPostgres as reason:
        raise NoEngine(str(reason)) from None
    try:
        with server.database() as database:
            yield PostgresEngine(server, database, folder)
    finally:
        server.__exit__()
