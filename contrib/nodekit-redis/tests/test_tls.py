"""A server that is reached by TLS: its certificate is verified."""

import subprocess
from pathlib import Path

import anyio.to_thread
import pytest
from redis_server import RedisServer
from stores import secret, store_on

from nodekit import StoreFailed
from nodekit.testing import make_job

pytestmark = pytest.mark.anyio


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for the address of servers of tests, which is its own authority."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=redis"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return key, certificate


async def test_the_certificate_of_the_server_is_verified(redis_server: RedisServer, tmp_path: Path) -> None:
    key, certificate = await anyio.to_thread.run_sync(make_certificate, tmp_path)
    settings = {"tls-cert-file": certificate, "tls-key-file": key, "tls-auth-clients": "no"}
    for name, value in settings.items():
        reply = redis_server.call("CONFIG", "SET", name, str(value))
        if b"Unknown" in reply:
            pytest.skip("this server was built without TLS")
        assert reply == b"+OK\r\n"
    port = redis_server.free_port()
    assert redis_server.call("CONFIG", "SET", "tls-port", str(port)) == b"+OK\r\n"
    try:
        url = f"rediss://127.0.0.1:{port}/0"
        async with store_on(redis_server, url=secret(f"{url}?ssl_ca_certs={certificate}")) as store:
            await store.add([job := make_job()])
            assert await store.get([job.id]) == [job]
        with pytest.raises(StoreFailed, match=r"(?i)certificate verify failed"):
            async with store_on(redis_server, url=secret(url)):
                pass
    finally:
        redis_server.call("CONFIG", "SET", "tls-port", "0")
