"""A server that is reached by TLS: its certificate is verified."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import NoRedis, RedisServer
from stores import secret, store_on

from nodekit import StoreFailed
from nodekit.testing import make_job

pytestmark = pytest.mark.anyio


def make_certificate(folder: Path) -> Path:
    """Make a certificate for the address of servers of tests, which is its own authority; its key is beside it."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=redis"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return certificate


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_certificate(tmp_path)


@pytest.fixture
def tls_server(certificate: Path, redis_server: RedisServer) -> Iterator[RedisServer]:
    """Run a server with TLS at `tls_port`. A server that was built without it says so when it starts."""
    key, port = certificate.with_name("key.pem"), redis_server.free_port()
    files = f"tls-cert-file {certificate}", f"tls-key-file {key}", "tls-auth-clients no"
    server = RedisServer(f"tls-port {port}", *files)
    server.tls_port = port
    try:
        server.__enter__()
    except NoRedis as reason:
        if "TLS" not in str(reason):
            raise
        pytest.skip("this server was built without TLS")
    yield server
    server.__exit__()


async def test_the_certificate_of_the_server_is_verified(tls_server: RedisServer, certificate: Path) -> None:
    url = f"rediss://127.0.0.1:{tls_server.tls_port}/0"
    async with store_on(tls_server, url=secret(f"{url}?ssl_ca_certs={certificate}")) as store:
        await store.add([job := make_job()])
        assert await store.get([job.id]) == [job]
    with pytest.raises(StoreFailed, match=r"(?i)certificate verify failed"):
        async with store_on(tls_server, url=secret(url)):
            pass
