"""Run a command with a server of its own, as STORE and DATABASE_URL name it; its end is the end of the server.

python tests/cluster postgres|redis -- COMMAND…
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:1] = [str(ROOT / "contrib" / name / "tests") for name in ("nodekit-postgres", "nodekit-redis")]

from postgres_server import NoPostgres, PostgresServer  # noqa: E402
from redis_server import NoRedis, RedisServer  # noqa: E402


@contextmanager
def postgres() -> Iterator[str]:
    with PostgresServer({"fsync": "on"}) as server, server.database() as database:
        yield database.url


@contextmanager
def redis() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


SERVERS = {"postgres": postgres, "redis": redis}


def main(arguments: list[str]) -> int:
    match arguments:
        case [store, "--", *command] if store in SERVERS and command:
            pass
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    with SERVERS[store]() as url:
        with subprocess.Popen(command, env={**os.environ, "STORE": store, "DATABASE_URL": url}) as process:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # at a terminal the command has it too, and cleans up
            signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
            return process.wait()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (NoPostgres, NoRedis) as reason:
        sys.exit(str(reason))
