"""The log of requests and the audit log: each line says who did what, and shows no secret."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from components import until
from http_api import Api, both_servers, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api(server: str) -> AsyncIterator[Api]:
    async with serving(server, header_timeout_seconds=0.2, status_networks=("127.0.0.0/8",)) as api:
        yield api


@pytest.fixture(autouse=True)
def wanted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nodekit.access")
    caplog.set_level(logging.INFO, "nodekit.audit")


def lines(caplog: pytest.LogCaptureFixture, logger: str) -> list[Any]:
    return [record for record in caplog.records if record.name == logger]


@both_servers
async def test_a_request_is_a_line(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    answer = await api.get("/health", headers={"X-Request-ID": "r-1"})
    await until(lambda: lines(caplog, "nodekit.access"))
    (line,) = lines(caplog, "nodekit.access")
    assert line.getMessage().startswith(f'127.0.0.1 "GET /health" 200, {len(answer.body)} bytes, ')
    assert line.getMessage().endswith(" ms (request r-1)")
    assert (line.client, line.method, line.path, line.status) == ("127.0.0.1", "GET", "/health", 200)
    assert (line.bytes, line.milliseconds >= 0) == (len(answer.body), True)


@both_servers
@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/info?api_key=s3cret", "/info?..."),
        ("/info?s3cret", "/info?..."),
        ("/api/jobs?id=a%20b&token=s3cret&id=c&limit=1", "/api/jobs?id=a%20b&...&id=c&limit=1"),
        ("/api/jobs?error=s3cret&status=failed", "/api/jobs?...&status=failed"),
        ("/info?%ff=s3cret", "/info?..."),
        ("/a%0a%20b%1b%22", "/a%0A%20b%1B%22"),
        ("/" + "x" * 5000, "/" + "x" * 999 + "..."),
    ],
    ids=range(7),
)
async def test_no_secret_of_a_query_and_no_forged_line_is_logged(
    api: Api, caplog: pytest.LogCaptureFixture, target: str, shown: str
) -> None:
    async with api.raw() as raw:
        await raw.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        await raw.reader.read()
    await until(lambda: lines(caplog, "nodekit.access"))
    (line,) = lines(caplog, "nodekit.access")
    assert line.path == shown
    assert "s3cret" not in line.getMessage()


@both_servers
@pytest.mark.parametrize(("sent", "status"), [(b"BAD\r\n\r\n", 400), (b"GET / HT", 408)])
async def test_what_the_server_itself_refuses_is_a_line_too(
    api: Api, caplog: pytest.LogCaptureFixture, sent: bytes, status: int
) -> None:
    async with api.raw() as raw:
        await raw.send(sent)
        head, _, body = (await raw.reader.read()).partition(b"\r\n\r\n")
        assert str(status).encode() in head
    await until(lambda: lines(caplog, "nodekit.access"))
    (line,) = lines(caplog, "nodekit.access")
    expected = ("127.0.0.1", "-", "-", status, len(body))
    assert (line.client, line.method, line.path, line.status, line.bytes) == expected


@both_servers
async def test_a_stream_that_breaks_off_is_a_line_with_what_was_sent(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    await api.post("/api/jobs/stream", {"containers": ["nowhere"], "data": {}})
    await until(lambda: lines(caplog, "nodekit.access"))
    assert lines(caplog, "nodekit.access")[0].status == 400


@both_servers
async def test_the_audit_log_says_who_did_what_to_whose_job(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    async with api.as_other_client() as other:
        theirs = await other.submit("gate")
    report = {"id": theirs, "status": "failed", "containers": ["gate"], "data": {"error": "no"}}
    assert (await api.call("PUT", "/api/status", json=report)).status == 200
    assert (await api.call("PUT", "/api/status", json=report)).status == 409
    own = await api.submit("gate")
    assert (await api.call("DELETE", f"/api/jobs/{own}")).status == 200
    new = (await api.post(f"/api/jobs/{own}/retry", {})).json["id"]
    assert (await api.call("DELETE", f"/api/jobs/{new}")).status == 200
    assert (await api.call("DELETE", f"/api/jobs/{theirs}")).status == 404
    found = [(line.action, line.client, line.owner, line.operator) for line in lines(caplog, "nodekit.audit")]
    mine = "127.0.0.1", "127.0.0.1", False
    others = "127.0.0.1", "127.0.0.2", False
    assert found == [("report", *others)] * 2 + [("cancel", *mine), ("retry", *mine), ("cancel", *mine)]
    assert [line.job for line in lines(caplog, "nodekit.audit")] == [theirs, theirs, own, own, new]
    told = [line.getMessage() for line in lines(caplog, "nodekit.audit")]
    assert told[0].startswith(f"127.0.0.1: report of job {theirs} of client 127.0.0.2: failed (request ")
    assert "refused, it is finished" in told[1]
    assert f": retry of job {own} of client 127.0.0.1: job {new} (request " in told[3]


@both_servers
async def test_nothing_is_measured_for_a_log_that_is_off(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "nodekit.access")
    caplog.set_level(logging.WARNING, "nodekit.audit")
    await api.call("DELETE", f"/api/jobs/{await api.submit('echo')}")
    assert not lines(caplog, "nodekit.access") + lines(caplog, "nodekit.audit")
