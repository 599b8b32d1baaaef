"""Routes of `asgi` beyond the promises of `HttpTransportContract`."""

import aiohttp
import pytest
from aiohttp import web
from components import SwitchRunner, make_node
from http_api import Api, serving

from nodekit_asgi import AsgiConfig, AsgiTransport
from nodekit_remote import RemoteContainer, RemoteRunner

pytestmark = pytest.mark.anyio

ECHO = {"containers": ["echo"], "data": {}}

IN_WORDS = [
    ('{"containers": ["echo"]}', "data: is missing; expected an object"),
    ('{"containers": ["echo"], "data": []}', "data: expected an object"),
    ('{"containers": [1], "data": {}}', "containers[0]: expected a string, got an integer"),
    ("[]", "the body: expected an object, got an array"),
    ("{", "the body is not JSON: a number or text is cut short"),
]

ALLOWED = [
    ("POST", "/api/jobs/x", {"GET", "DELETE"}),
    ("DELETE", "/api/jobs/batch", {"POST"}),
    ("POST", "/api/jobs/x/events", {"GET"}),
    ("GET", "/api/jobs/x/retry", {"POST"}),
    ("POST", "/resources", {"GET"}),
    ("POST", "/api/status", {"PUT"}),
]
"""Paths of the table take precedence over those with an id."""


async def test_a_malformed_request_is_told_in_words_of_its_own(api: Api) -> None:
    for path in ("/api/jobs", "/api/jobs/stream"):
        for body, error in IN_WORDS:
            answer = await api.post(path, body)
            assert (answer.status, answer.error) == (400, error), path


async def test_other_methods_are_405_and_name_the_right_ones(api: Api) -> None:
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


async def test_a_page_links_the_next_one_relative_to_itself(api: Api) -> None:
    await api.post("/api/jobs/batch", [ECHO] * 3)
    page = await api.get("/api/jobs?limit=2")
    assert page.headers["Link"].startswith("<?")


# -- payloads -----------------------------------------------------------------------------------------


async def test_digits_and_duplicate_keys_pass_through_a_remote_container_unchanged(server: str) -> None:
    data = '{"big":1234567890123456789012345678901234567890,"price":0.10000,"e":1E+2,"a":1,"a":2,"t":"\\u00e9é\\/"}'
    bodies: list[bytes] = []

    async def service_output(request: web.Request) -> web.Response:
        bodies.append(body := await request.read())
        raw = body[body.index(b'"data":') + 7 : body.rindex(b',"requires_proof"')]
        return web.Response(body=raw, content_type="application/json")

    app = web.Application()
    app.router.add_post("/service_output", service_output)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        remote = RemoteRunner(RemoteContainer(id="echo", url=f"http://127.0.0.1:{port}"))
        async with serving(server, runners=[remote]) as api:
            answer = await api.post("/api/jobs", f'{{"containers":["echo","echo"],"data":{data}}}'.encode())
            id = answer.json["id"]
            await api.results(id)
            result = await api.get(f"/api/jobs?id={id}&intermediate=true")
            batch = await api.post("/api/jobs/batch", f'[{{"containers":["echo"],"data":{data}}}]'.encode())
            await api.results(batch.json[0]["id"])
    finally:
        await runner.cleanup()
    assert len(bodies) == 3
    assert all(data.encode() in body for body in bodies)
    assert result.body.count(data.encode()) == 2


# -- other shapes of a transport ----------------------------------------------------------------------


async def test_a_node_of_no_containers_is_healthy_and_refuses(server: str) -> None:
    async with serving(server, runners=[SwitchRunner()]) as api:
        assert (await api.get("/health")).status == 200
        assert (await api.get("/info")).json["containers"] == []
        answer = await api.post("/api/jobs", {"containers": ["echo"], "data": {}})
        assert answer.error == "Container not supported"


async def test_both_servers_of_one_node_serve_the_same_jobs() -> None:
    transports = [
        AsgiTransport(config=AsgiConfig(bind="127.0.0.1:0", server=name)) for name in ("hypercorn", "uvicorn")
    ]
    async with make_node(transports=transports) as node, aiohttp.ClientSession() as session:
        first, second = (Api(url, session, node) for url in node.urls)
        id = await first.submit(n=1)
        (job,) = await second.results(id)
        assert job["status"] == "success"
