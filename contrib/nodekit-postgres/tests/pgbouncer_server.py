"""PgBouncer in transaction mode before a database of tests: what a pooler of a shared server is like."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from postgres_server import HOST, LEASH, Database, NoPostgres, has_ended, send, user, waited

PATHS = "/usr/local/sbin:/usr/sbin:/usr/bin:/bin"
INI = """
[databases]
{name} = host={folder} port={server_port} dbname={name} user={role}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {own}/users
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 200
ignore_startup_parameters = extra_float_digits
"""


class PgBouncer:
    """A pooler that runs while it is entered."""

    def __init__(self, database: Database, *, pool_size: int = 4) -> None:
        self._database, self._pool_size = database, pool_size
        self.pid = 0

    @property
    def url(self) -> str:
        """The address of the database by way of the pooler."""
        return self._database.url_at(HOST, self.port)

    def __enter__(self) -> Self:
        program = shutil.which("pgbouncer", path=PATHS)
        if program is None:
            raise NoPostgres("pgbouncer: not found; install it: apt-get install pgbouncer")
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="nkpb"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            with socket.socket() as place:
                place.bind((HOST, 0))
                self.port: int = place.getsockname()[1]
            self._write(folder)
            leash = subprocess.Popen(
                ["sh", "-c", LEASH, "sh", program, "-q", str(folder / "pgbouncer.ini")],
                env={"FOLDER": str(folder)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
                **user(),
            )
            stack.callback(leash.communicate, "\n")
            assert leash.stdout is not None
            self.pid = int(leash.stdout.readline())
            stack.callback(self._end)
            if not waited(lambda: self._listens() or has_ended(self.pid)) or has_ended(self.pid):
                raise NoPostgres("pgbouncer did not start")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _write(self, folder: Path) -> None:
        database = self._database
        (folder / "users").write_text(f'"{database.role}" "{database.password}"\n')
        text = INI.format(
            name=database.name,
            folder=database.server.folder,
            server_port=database.server.port,
            role=database.role,
            host=HOST,
            port=self.port,
            own=folder,
            pool_size=self._pool_size,
        )
        (folder / "pgbouncer.ini").write_text(text)
        for path in (folder / "users", folder / "pgbouncer.ini", folder):
            os.chown(path, user().get("user", -1), user().get("group", -1))

    def _listens(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex((HOST, self.port)) == 0

    def _end(self) -> None:
        send(signal.SIGKILL, [self.pid])
        waited(lambda: has_ended(self.pid))
