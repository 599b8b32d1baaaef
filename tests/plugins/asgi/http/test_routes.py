"""Routes of `asgi` beyond the promises of `HttpTransportContract`."""

import aiohttp
import pytest
from components import SwitchRunner, make_node
from http_api import Api, serving

from nodekit import Container, StoreFailed
from nodekit.testing import Faults
from nodekit_asgi import AsgiConfig, AsgiTransport
from nodekit_memory import MemoryStore

pytestmark = pytest.mark.anyio

IN_WORDS = [
    ('{"containers": ["echo"]}', "data: is missing; expected an object"),
    ('{"containers": ["echo"], "data": []}', "data: expected an object"),
    ('{"containers": [1], "data": {}}', "containers[0]: expected a string, got an integer"),
    ("[]", "the body: expected an object, got an array"),
    ("{", "the body is not JSON: a number or text is cut short"),
    ("\ufeff{}", "the body is not JSON: it begins with the byte order mark of UTF-8; send it without the mark"),
    ('{"data": NaN}', "the body is not JSON: NaN is no number in JSON (byte 9); use null"),
]

ALLOWED = [
    ("POST", "/api/jobs/x", {"GET", "HEAD", "DELETE", "OPTIONS"}),
    ("POST", "/api/jobs/x/events", {"GET", "HEAD", "OPTIONS"}),
    ("GET", "/api/jobs/x/retry", {"POST", "OPTIONS"}),
]


async def test_a_malformed_request_is_told_in_words_of_its_own(api: Api) -> None:
    for path in ("/api/jobs", "/api/jobs/stream"):
        for body, error in IN_WORDS:
            answer = await api.post(path, body)
            assert (answer.status, answer.error) == (400, error), path


async def test_other_methods_of_a_path_with_an_id_are_405_and_name_the_right_ones(api: Api) -> None:
    for method, path, allow in ALLOWED:
        answer = await api.call(method, path)
        assert answer.status == 405, (method, path)
        assert {name.strip() for name in answer.headers["Allow"].split(",")} == allow, (method, path)


async def test_an_id_may_be_written_in_capitals_and_not_otherwise(api: Api) -> None:
    id = await api.submit("fail")
    later = await api.submit("gate")
    for method, path in (
        *(("GET", "/api/jobs?id={}"), ("GET", "/api/jobs/{}"), ("GET", "/api/jobs/{}/events")),
        *(("DELETE", "/api/jobs/{}"), ("POST", "/api/jobs/{}/retry")),
    ):
        await api.results(id)
        assert (await api.call(method, path.format(id.upper()))).status == 200, path
        for other in (id[:-1], id.replace("-", ""), f"{{{id}}}"):
            answer = await api.call(method, path.format(other))
            assert (answer.status, bool(answer.error)) == (404, True), (path, other)
    assert (await api.get(f"/api/jobs?after={id.upper()}&limit=1")).json == [later]


async def test_more_than_a_request_may_ask_for_is_refused(api: Api) -> None:
    assert (await api.post("/api/jobs/batch", [1] * 1001)).status == 413
    assert (await api.post("/api/jobs", {"containers": ["echo"] * 1001, "data": {}})).status == 400
    id = await api.submit()
    for number, status in ((200, 200), (201, 400)):
        assert (await api.get(f"/api/jobs?{'&'.join([f'id={id}'] * number)}")).status == status


# -- other shapes of a transport ----------------------------------------------------------------------


async def test_a_node_of_no_containers_is_healthy_and_refuses(server: str) -> None:
    async with serving(server, runners=[SwitchRunner()]) as api:
        assert (await api.get("/health")).status == 200
        assert (await api.get("/info")).json["containers"] == []
        answer = await api.post("/api/jobs", {"containers": ["echo"], "data": {}})
        assert answer.error == "Container not supported"


async def test_a_node_is_live_with_any_query_and_takes_get_head_and_options(api: Api) -> None:
    for path in ("/health/live", "/health/live?verbose=1&verbose", "/health?exclude=store"):
        assert (await api.get(path)).status == 200, path
    assert (await api.get("/health/live")).json == {"status": "live"}
    head = await api.call("HEAD", "/health/live")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(b'{"status":"live"}')), b"")
    options = await api.call("OPTIONS", "/health/live")
    assert (options.status, options.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")
    assert (await api.post("/health/live", {})).status == 405
    for path in ("/health/live/", "/health/ready", "/health/"):
        assert (await api.get(path)).status == 404, path


async def test_a_node_that_drains_or_cannot_work_is_live(server: str) -> None:
    faults = Faults()
    runner = SwitchRunner(Container(id="echo"))
    node = {"store": faults.around(MemoryStore()), "drain_seconds": 60}
    async with serving(server, runners=[runner], node=node) as api:
        faults.before("find").fail(StoreFailed("the disk is gone"))
        runner.up = set()
        answer = await api.get("/health")
        assert answer.status == 503
        assert {"no container is running", "the store cannot be read: the disk is gone"} <= {*answer.json["reasons"]}
        assert (await api.get("/health/live")).status == 200
        faults.lift()
        await api.node.drain()
        assert (await api.get("/health")).status == 503
        assert (await api.get("/health/live")).json == {"status": "live"}


async def test_both_servers_of_one_node_serve_the_same_jobs() -> None:
    transports = [
        AsgiTransport(config=AsgiConfig(bind="127.0.0.1:0", server=name)) for name in ("hypercorn", "uvicorn")
    ]
    async with make_node(transports=transports) as node, aiohttp.ClientSession() as session:
        first, second = (Api(url, session, node) for url in node.urls)
        id = await first.submit(n=1)
        (job,) = await second.results(id)
        assert job["status"] == "success"
