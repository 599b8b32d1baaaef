"""The settings of the store."""

import re
from typing import Annotated

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict

from nodekit import CompositionError, Problem, Secret

SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,47}")


class PostgresConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A schema in a PostgreSQL database, and how nodes work with it.

    - `url`: Where the database is, as libpq has it: ``postgresql://user:password@host/name?sslmode=verify-full``, or
      ``host=… dbname=…``. It may have a password, so it is given by reference.
    - `schema`: Name of the schema with the tables. Nodes with the same database and schema share their jobs.
    - `lease_seconds`: Time after which other nodes take over the jobs of a node that is silent.
    - `connections`: Number of connections for writes and claims.
    - `read_connections`: Number of connections for reads. Two further connections renew the lease and listen.
    - `call_seconds`: Time limit of a call. None: the lease, and at least 5 s.
    - `connect_seconds`: Time limit for connecting to the database.
    - `look_seconds`: Time after which a waiting node looks for jobs although nothing was announced.
    - `listen_url`: Like `url`, for the connection that listens, which must not go through a pooler in transaction mode.
      None: `url`.
    - `migrate`: True if a node that starts creates or upgrades the tables.
    """

    url: Secret
    schema: str = "nodekit"
    lease_seconds: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 15.0
    connections: Annotated[int, msgspec.Meta(ge=1, le=100)] = 4
    read_connections: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2
    call_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    connect_seconds: Annotated[float, msgspec.Meta(ge=1)] = 5.0
    look_seconds: Annotated[float, msgspec.Meta(ge=0.05)] = 5.0
    listen_url: Secret | None = None
    migrate: bool = True

    @property
    def seconds_per_call(self) -> float:
        """Time limit of a call."""
        return max(5.0, self.lease_seconds) if self.call_seconds is None else self.call_seconds


def check_url(name: str, url: Secret | None) -> None:
    """Raise `CompositionError` for what is no URL of libpq. The message does not show it."""
    try:
        conninfo_to_dict("" if url is None else url.reveal())
    except psycopg.ProgrammingError:
        cure = "expected postgresql://user@host:port/database, or words such as host=… dbname=… user=…"
        raise CompositionError(Problem(name, f"this is no address that libpq knows; {cure}")) from None


def check_schema(name: str) -> None:
    """Raise `CompositionError` for the name of a schema that has to be quoted, or is too long."""
    if not SCHEMA.fullmatch(name) or name.startswith("pg_"):
        cure = "expected up to 48 lower-case letters, digits and _, not beginning with a digit or pg_"
        raise CompositionError(Problem("schema", f"{name!r} is no name for a schema; {cure}"))
