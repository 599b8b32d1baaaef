"""Run a command with a PostgreSQL of its own, in DATABASE_URL; its end is the end of the server.

python tests/cluster -- COMMAND…
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT / "contrib" / "nodekit-postgres" / "tests")

from postgres_server import NoPostgres, PostgresServer  # noqa: E402


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[0] != "--":
        print(__doc__, file=sys.stderr)
        return 2
    with PostgresServer({"fsync": "on"}) as server, server.database() as database:
        with subprocess.Popen(arguments[1:], env={**os.environ, "DATABASE_URL": database.url}) as process:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # at a terminal the command has it too, and cleans up
            signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
            return process.wait()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except NoPostgres as reason:
        sys.exit(str(reason))
