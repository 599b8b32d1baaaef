"""The servers that tests run on: they keep what is committed, and nothing of them is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pgbouncer_server import PgBouncer
from postgres_server import Database, PostgresServer, has_ended, waited

ABANDONED = """
import os, signal
from postgres_server import PostgresServer
server = PostgresServer().__enter__()
if {frozen}:
    server.freeze()
print(server.folder, server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_is_committed_survives_a_kill_and_the_port_stays(database: Database) -> None:
    server, port = database.server, database.server.port
    database.sql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1);")
    server.kill()
    with pytest.raises(RuntimeError, match="connection to server"):
        database.sql("SELECT 1;")
    server.start()
    assert (database.sql("SELECT n FROM kept;"), server.port) == ("1", port)
    server.stop()
    server.start()
    assert database.sql("SELECT n FROM kept;") == "1"


def test_a_frozen_server_can_be_killed_and_a_test_may_leave_one_behind(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as database:
        postgres_server.freeze()
        postgres_server.restart()
        assert database.sql("SELECT 1;") == "1"
        postgres_server.freeze()
    with postgres_server.database():
        postgres_server.kill()
    with postgres_server.database() as database:
        assert database.sql("SELECT 1;") == "1"


def test_a_role_reaches_its_own_database_by_each_address_and_no_other(database: Database) -> None:
    def connected(url: str) -> str:
        done = subprocess.run(
            ["psql", url, "-XAtc", "SELECT current_user"], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() or done.stderr.strip()

    assert connected(database.url) == connected(database.socket_url) == database.role
    assert "password authentication failed" in connected(database.url.replace(database.password, "guessed"))
    assert "permission denied" in connected(database.url.removesuffix(database.name) + "postgres")


def test_a_pooler_hands_one_connection_to_many_clients(pooler: PgBouncer) -> None:
    command = ["psql", pooler.url, "-XAtc", "SELECT pg_backend_pid()"]
    pids = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)}
    assert len(pids) == 1


@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_is_left_of_a_server_whose_tests_were_killed(postgres_server: PostgresServer, frozen: bool) -> None:
    command = [sys.executable, "-c", ABANDONED.format(frozen=frozen)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        folder, pid = process.stdout.read().split()
    assert process.returncode == -signal.SIGKILL
    assert waited(lambda: has_ended(int(pid)) and not Path(folder).exists())
