"""A PostgreSQL server for tests: a process of its own in a temporary folder, which tests may kill, freeze and restart.

It needs the programs of PostgreSQL, as Debian's package `postgresql` has them, and nothing of the running system. They
refuse to run as root; root runs them as the user `postgres`.
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

HOST = "127.0.0.1"
USER = "postgres"
START_SECONDS = 60.0
DEBIAN = Path("/usr/lib/postgresql")
"""Debian's folder of versions; their programs are not in the `PATH`."""
CHOSEN = "NODEKIT_POSTGRES_BIN"
"""Variable that names another folder of the server's programs. Programs of clients need not be in it."""

SETTINGS = {
    "fsync": "off",  # what a process has written survives its end, also without it
    "listen_addresses": HOST,
    "max_connections": "200",
    "shared_buffers": "64MB",
    "unix_socket_permissions": "0777",  # the folder is for its owner alone
    "log_min_messages": "warning",
}
HBA = f"""
local all all trust
local replication all trust
host all all {HOST}/32 scram-sha-256
host replication all {HOST}/32 scram-sha-256
"""
LEASH = """
"$@" &
pid=$!
echo $pid
if ! read -r _; then
    read -r children < /proc/$pid/task/$pid/children
    kill -KILL $pid $children
    wait $pid
    rm -rf "$FOLDER"
fi
"""
"""Runs the server, and ends it and removes its folder if these tests are killed: its standard input ends with them."""


class NoPostgres(Exception):
    """There is no PostgreSQL, or it does not start. The message says why, and what to do."""


@dataclass(frozen=True)
class Database:
    """A database of a server, owned by a role that may do nothing else.

    - `url`: Its address over TCP, with the password of the role.
    - `socket_url`: Its address over the server's Unix socket.
    """

    server: "PostgresServer"
    name: str
    role: str
    password: str

    @property
    def url(self) -> str:
        return self.url_at(HOST, self.server.port)

    @property
    def socket_url(self) -> str:
        place = {"host": self.server.folder, "port": self.server.port}
        return f"postgresql://{self.role}@/{self.name}?{urlencode(place)}"

    def url_at(self, host: str, port: int, **parameters: str) -> str:
        """Return the address by way of another one, such as that of a proxy."""
        more = f"?{urlencode(parameters)}" if parameters else ""
        return f"postgresql://{self.role}:{quote(self.password)}@{host}:{port}/{self.name}{more}"

    def sql(self, text: str) -> str:
        """Run statements as the superuser."""
        return self.server.sql(text, self.name)


class PostgresServer:
    """A server that runs while it is entered. Its data survive `kill` and `start`, and its port stays the same."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        """`settings` are those of `postgresql.conf`, in addition to and instead of `SETTINGS`."""
        self._settings = SETTINGS | dict(settings or {})
        self._leash: subprocess.Popen[str] | None = None
        self._numbers = count(1)
        self.pid = 0
        self.environment: dict[str, str] = {}
        """Further variables of its processes, from the next `start` on."""

    def __enter__(self) -> Self:
        self._user = user()
        with ExitStack() as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="nkpg"))  # short: paths of sockets have at most 107 bytes
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            os.chown(self.folder, self._user.get("user", -1), self._user.get("group", -1))
            place = stack.enter_context(socket.socket())  # keeps the port while the server does not listen there
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind((HOST, 0))
            self.port: int = place.getsockname()[1]
            self._initialise()
            stack.callback(self._end, signal.SIGQUIT)
            self.start()
            self._begin()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _begin(self) -> None:
        self.sql("REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;")

    def _initialise(self) -> None:
        arguments = ["-D", self.data, "-U", USER, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        self._run("initdb", *arguments)
        self._configure()
        (self.data / "pg_hba.conf").write_text(HBA)

    def _configure(self) -> None:
        given = {**self._settings, "port": str(self.port), "unix_socket_directories": str(self.folder)}
        lines = [f"{name} = '{value}'\n" for name, value in given.items()]
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(lines)

    # -- its life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server, and return when clients can connect."""
        assert self._leash is None, "the server runs already"
        command = ["sh", "-c", LEASH, "sh", str(path_of("postgres")), "-D", str(self.data)]
        with (self.folder / "log").open("ab") as log:
            self._leash = subprocess.Popen(
                command,
                env={"PATH": os.defpath, "FOLDER": str(self.folder), "LC_ALL": "C.UTF-8", **self.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                text=True,
                start_new_session=True,  # a Ctrl-C at the terminal is for the tests
                **self._user,
            )
        assert self._leash.stdout is not None
        self.pid = int(self._leash.stdout.readline())
        if not waited(lambda: self._is_ready or has_ended(self.pid)) or has_ended(self.pid):
            raise NoPostgres(f"PostgreSQL did not start: {self.log()}")

    @property
    def _is_ready(self) -> bool:
        with suppress(OSError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return lines[:1] == [str(self.pid)] and [line.strip() for line in lines[7:8]] == ["ready"]
        return False

    def kill(self) -> None:
        """Kill the server and the processes of its connections (SIGKILL), as the kernel does that has no memory."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server as the system does: connections are closed, and what they do is rolled back."""
        self._end(signal.SIGINT)

    def restart(self) -> None:
        """`kill`, then `start`."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop all of its processes: connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        leash, self._leash = self._leash, None
        if leash is None:
            return
        family = self._signal(signal.SIGSTOP)  # a server that runs starts processes while others end
        if number != signal.SIGKILL:
            self.thaw()
            send(number, [self.pid])
        if number == signal.SIGKILL or not waited(lambda: all(map(has_ended, family))):
            send(signal.SIGKILL, family)
        waited(lambda: all(map(has_ended, family)))
        leash.communicate("\n")

    def _signal(self, number: signal.Signals) -> list[int]:
        """Send a signal to all of its processes; return them."""
        family = self._family()
        send(number, family)
        return family

    def _family(self) -> list[int]:
        """Return the server's process and then those that it has started; each has a session of its own."""
        with suppress(OSError):
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            return [self.pid, *map(int, children.split())]
        return []

    def log(self, lines: int = 15) -> str:
        text = (self.folder / "log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    # -- its contents -----------------------------------------------------------------------------

    def sql(self, text: str, database: str = "postgres") -> str:
        """Run statements as the superuser; return the rows, with `|` between the values. Raise RuntimeError."""
        options = ["-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.folder, "-p", self.port, "-U", USER, "-d", database]
        return self._run("psql", *options, "-f", "-", input=text).strip()

    def create(self, *, encoding: str = "UTF8") -> Database:
        """Create a database with a role of its own."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        made = Database(self, name, name, secrets.token_hex(16))
        self.sql(f"CREATE ROLE {name} LOGIN PASSWORD '{made.password}';")
        self.sql(f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0 ENCODING '{encoding}';")
        self.sql(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;")
        return made

    @contextmanager
    def database(self, *, encoding: str = "UTF8") -> Iterator[Database]:
        """Create a database with a role of its own; remove both in the end."""
        made = self.create(encoding=encoding)
        try:
            yield made
        finally:
            if self._leash is None:
                self.start()
            self.thaw()
            self.sql(f"DROP DATABASE IF EXISTS {made.name} WITH (FORCE);")
            self.sql(f"DROP ROLE IF EXISTS {made.role};")

    def _run(self, program: str, *arguments: object, **options: Any) -> str:
        command = [str(path_of(program)), *map(str, arguments)]
        environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, check=False, **self._user, **options
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


class Standby(PostgresServer):
    """A replica of a server that runs, until `promote`."""

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__()
        self._primary = primary

    def _initialise(self) -> None:
        there = ["-h", self._primary.folder, "-p", self._primary.port, "-U", USER]
        self._run("pg_basebackup", *there, "-D", self.data, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        self._configure()

    def _begin(self) -> None:
        """Return when the primary sends what it writes."""
        text = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming';"
        if not waited(lambda: self._primary.sql(text) == "1"):
            raise NoPostgres(f"the replica does not follow: {self.log()}")

    def catch_up(self) -> None:
        """Return when it has all that the primary has written so far."""
        place = self._primary.sql("SELECT pg_current_wal_insert_lsn();")
        if not waited(lambda: self.sql(f"SELECT pg_last_wal_replay_lsn() >= '{place}';") == "t"):
            raise NoPostgres(f"the replica is behind: {self.log()}")

    def fall_behind(self) -> None:
        """Follow the primary no more, as if it could not be reached."""
        self.sql("ALTER SYSTEM SET primary_conninfo = '';")
        self.sql("SELECT pg_reload_conf();")
        if not waited(lambda: self.sql("SELECT count(*) FROM pg_stat_wal_receiver;") == "0"):
            raise NoPostgres(f"the replica still follows: {self.log()}")

    def promote(self) -> None:
        """Make it a server that takes writes."""
        self.sql("SELECT pg_promote();")


def programs() -> Path:
    """Return the folder of the server's programs: the chosen one, the newest of Debian's, or that of the `PATH`."""
    if chosen := os.environ.get(CHOSEN):
        if not (Path(chosen) / "initdb").exists():
            raise NoPostgres(f"{CHOSEN}: there is no initdb in {chosen}; name the folder of PostgreSQL's programs")
        return Path(chosen)
    return installed()


def path_of(program: str) -> Path:
    """Return the path of a program. One of clients may be that of the system: it works with any server."""
    path = programs() / program
    return path if path.exists() else installed() / program


def installed() -> Path:
    """Return the folder of the programs that the system has."""
    versions = [folder for folder in DEBIAN.glob("*/bin") if (folder / "initdb").exists()]
    if versions:
        return max(versions, key=lambda folder: float(folder.parent.name))
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    raise NoPostgres("PostgreSQL: not found; install it: apt-get install postgresql")


def user() -> dict[str, Any]:
    """Return who runs the server, as `subprocess` takes it: root cannot."""
    if os.geteuid() != 0:
        return {}
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        raise NoPostgres(f"PostgreSQL refuses to run as root, and there is no user {USER!r}; add one") from None
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def waited(condition: Callable[[], bool], seconds: float = START_SECONDS) -> bool:
    """Wait for a condition; return False if it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Send a signal to those of the processes that there still are."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def has_ended(pid: int) -> bool:
    """Return True if there is no such process, or only what is left until its parent asks for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except OSError:
        return True
