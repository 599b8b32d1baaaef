"""TLS to the server, with verification, and addresses by reference."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest
from postgres_server import HOST, Database, PostgresServer, user

from nodekit import JobStatus, Secret, StoreFailed, load_node
from nodekit.testing import make_job, make_request
from nodekit_postgres import PostgresConfig, PostgresStore

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")]
NAME = "localhost"


class Authority:
    """A certificate authority of its own, in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.certificate, self._key, self._folder = folder / f"{name}.crt", folder / f"{name}.key", folder
        self._openssl(
            *("req", "-x509", "-new", "-subj", f"/CN={name}", "-days", "2"),
            *("-keyout", self._key, "-out", self.certificate),
        )

    def issue(self, host: str) -> tuple[Path, Path]:
        """Return the files of a certificate for a host and of its key."""
        certificate, key, request = (self._folder / f"{host}.{kind}" for kind in ("crt", "key", "csr"))
        self._openssl("req", "-new", "-subj", f"/CN={host}", "-keyout", key, "-out", request)
        extensions = self._folder / "extensions"
        extensions.write_text(f"subjectAltName=DNS:{host}\n")
        self._run(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial"),
            *("-extfile", extensions, "-out", certificate, "-days", "2"),
        )
        return certificate, key

    def _openssl(self, *arguments: object) -> None:
        self._run(*arguments, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

    def _run(self, *arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def folder(postgres_server: PostgresServer) -> Iterator[Path]:
    """A folder for certificates that the server can read. The fixture of the server skips where there is none."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder, "authority")


@pytest.fixture(scope="module")
def secure(folder: Path, authority: Authority) -> Iterator[Database]:
    """A database of a server that takes TLS alone over TCP."""
    certificate, key = authority.issue(NAME)
    for path in (folder, key):
        os.chown(path, user().get("user", -1), user().get("group", -1))
    files = {"ssl_cert_file": str(certificate), "ssl_key_file": str(key)}
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer({"ssl": "on", **files}))
        rules = server.data / "pg_hba.conf"
        rules.write_text(rules.read_text().replace("\nhost ", "\nhostssl "))
        server.sql("SELECT pg_reload_conf();")
        yield stack.enter_context(server.database())


def url_of(database: Database, authority: Authority, name: str = NAME, **parameters: str) -> str:
    given = {"sslmode": "verify-full", "sslrootcert": str(authority.certificate), **parameters}
    return database.url_at(name, database.server.port, **given)


def make_store(url: str) -> PostgresStore:
    return PostgresStore(PostgresConfig(url=Secret(url), lease_seconds=5))


async def test_a_store_speaks_tls_with_a_server_that_proves_who_it_is(secure: Database, authority: Authority) -> None:
    async with make_store(url_of(secure, authority)) as store:
        [job] = await store.add([make_job()])
        assert await store.get([job.id]) == [job]
        query = "SELECT bool_and(ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
        encrypted, number = secure.sql(f"{query} WHERE usename = '{secure.role}'").split("|")
        assert (encrypted, int(number) >= 2) == ("t", True)  # the connection that listens, too


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"sslrootcert": "other"}, "certificate verify failed"),
        ({"name": HOST}, "does not match host name"),
        ({"sslmode": "disable"}, "no encryption"),
    ],
)
async def test_a_connection_that_is_not_safe_is_refused(
    secure: Database, authority: Authority, folder: Path, parameters: dict[str, str], said: str
) -> None:
    if "sslrootcert" in parameters:
        parameters = {"sslrootcert": str(Authority(folder, "other").certificate)}
    url = url_of(secure, authority, **parameters)
    with pytest.raises(StoreFailed, match=said) as raised:
        async with make_store(url):
            pass
    assert secure.password not in str(raised.value)


@pytest.mark.parametrize("reference", ['{ env = "NODE_DATABASE" }', '{ file = "url" }', '"${NODE_DATABASE}"'])
async def test_a_node_file_names_the_address_by_reference(
    secure: Database, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    url = url_of(secure, authority)
    monkeypatch.setenv("NODE_DATABASE", url)
    (tmp_path / "url").write_text(url)
    lines = ["[store]", 'use = "postgres"', f"url = {reference}", "[[runners]]", 'use = "function"']
    lines += ["[[runners.containers]]", 'id = "echo"', 'call = "echoing.py:echo"']
    (tmp_path / "node.toml").write_text("\n".join(lines))
    (tmp_path / "echoing.py").write_text("async def echo(data):\n    return data\n")
    async with load_node(tmp_path / "node.toml") as node:
        job = await node.submit(make_request("echo"))
        with anyio.fail_after(60):
            [ended] = await node.wait([job.id])
    assert ended.status is JobStatus.SUCCESS
