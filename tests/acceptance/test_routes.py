"""What each route answers."""

import asyncio
import json
from typing import Any
from urllib.parse import urljoin
from uuid import UUID

import pytest
from aiohttp import web
from http_api import Api, api_functions, free_port, serving
from parts import Gate, SwitchRunner, functions, until

from nodekit import Container, Node, __version__
from nodekit_remote import RemoteConfig, RemoteContainer, RemoteRunner

pytestmark = pytest.mark.anyio


# -- /info and /health --------------------------------------------------------------------------------


async def test_info_tells_the_containers_that_can_be_called_and_what_is_pending(api: Api) -> None:
    await api.submit("gate")
    answer = await api.get("/info")
    assert answer.status == 200
    assert answer.json["version"] == __version__
    assert answer.json["pending"] == {"offchain": 1, "onchain": 0}
    assert answer.json["chain"] == {"enabled": False, "address": ""}
    containers = {container["id"]: container for container in answer.json["containers"]}
    assert containers["echo"] == {"id": "echo", "external": True, "image": "images/echo:1", "description": "an echo"}
    assert containers["inner"] == {"id": "inner", "external": False, "image": "", "description": ""}
    assert set(answer.json) == {"version", "containers", "pending", "chain"}


async def test_info_leaves_out_what_cannot_be_called_and_health_says_why(server: str) -> None:
    runner = SwitchRunner(Container(id="up"), Container(id="down"), up=["up"])
    async with serving(server, runners=[runner]) as api:
        assert [container["id"] for container in (await api.get("/info")).json["containers"]] == ["up"]
        health = await api.get("/health")
        assert (health.status, health.json) == (200, {"status": "healthy", "reasons": ["container down is down"]})
        runner.switch()
        health = await api.get("/health")
        assert (health.status, health.json["status"]) == (503, "unhealthy")
        assert health.json["reasons"]


async def test_a_healthy_node_has_nothing_more_to_say(api: Api) -> None:
    answer = await api.get("/health")
    assert (answer.status, answer.json) == (200, {"status": "healthy"})


# -- POST /api/jobs -----------------------------------------------------------------------------------


async def test_a_job_is_accepted_read_at_once_and_ends_in_success(api: Api) -> None:
    answer = await api.post("/api/jobs", {"containers": ["echo", "inner"], "data": {"n": [1, 2]}})
    assert answer.status == 200
    assert set(answer.json) == {"id"}
    id = answer.json["id"]
    assert UUID(id).version == 7
    (first,) = (await api.get(f"/api/jobs?id={id}")).json
    assert first["status"] in ("running", "success")
    (job,) = await api.results(id)
    assert job == {"id": id, "status": "success", "result": {"container": "inner", "output": {"n": [1, 2]}}}


async def test_a_running_job_has_no_result_and_shows_its_finished_steps_when_asked(api: Api) -> None:
    id = await api.submit("echo", "gate", n=1)
    assert api.gate is not None
    await until(lambda: api.gate and api.gate.running)
    assert (await api.get(f"/api/jobs?id={id}")).json == [{"id": id, "status": "running", "result": None}]
    (shown,) = (await api.get(f"/api/jobs?id={id}&intermediate=true")).json
    assert shown["intermediate_results"] == [{"container": "echo", "output": {"n": 1}}]


async def test_a_cancelled_job_is_failed_and_says_so(api: Api) -> None:
    id = await api.submit("gate")
    assert isinstance(api.node, Node)
    await api.node.cancel(id)
    (job,) = await api.results(id)
    assert job == {"id": id, "status": "failed", "result": {"container": "gate", "error": "cancelled"}}


@pytest.mark.parametrize(
    ("body", "error", "params"),
    [
        ({"containers": [], "data": {}}, "No containers specified", None),
        ({"containers": ["echo", "nope"], "data": {}}, "Container not supported", {"container": "nope"}),
        ({"containers": ["inner"], "data": {}}, "First container must be external", {"first_container": "inner"}),
        (
            {"containers": ["echo", "echo"], "data": {}, "requires_proof": True},
            "Container does not generate proof",
            {"container": "echo"},
        ),
        (
            {"containers": ["echo", "far"], "data": {}},
            "Container not allowed for address",
            {"container": "far", "address": "127.0.0.1"},
        ),
        ({"containers": ["echo"], "data": {}, "pipeline": "x"}, "Pipeline not supported", {"pipeline": "x"}),
        ({"signature": {}, "subscription": {}}, "Chain not enabled", None),
        ({"signature": {}, "subscription": {}, "containers": ["echo"], "data": {}}, "Chain not enabled", None),
    ],
)
async def test_refusals_are_verbatim(api: Api, body: Any, error: str, params: Any) -> None:
    answer = await api.post("/api/jobs", body)
    assert answer.status == 400
    assert answer.error == error
    assert (answer.json.get("params") or None) == params
    assert (await api.get("/api/jobs")).json == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{}", "containers"),
        ('{"data": {}}', "containers"),
        ('{"containers": ["echo"]}', "data"),
        ('{"containers": "echo", "data": {}}', "containers"),
        ('{"containers": null, "data": {}}', "containers"),
        ('{"containers": [1], "data": {}}', "containers"),
        ('{"containers": [null], "data": {}}', "containers"),
        ('{"containers": {}, "data": {}}', "containers"),
        ('{"containers": ["echo"], "data": []}', "data"),
        ('{"containers": ["echo"], "data": "x"}', "data"),
        ('{"containers": ["echo"], "data": null}', "data"),
        ('{"containers": ["echo"], "data": 1}', "data"),
        ('{"containers": ["echo"], "data": {}, "requires_proof": "yes"}', "requires_proof"),
        ('{"containers": ["echo"], "data": {}, "requires_proof": 1}', "requires_proof"),
        ('{"containers": ["echo"], "data": {}, "pipeline": 1}', "pipeline"),
        ("[]", "the body"),
        ("null", "the body"),
        ('"text"', "the body"),
        ("7", "the body"),
    ],
)
async def test_a_malformed_request_names_its_field(api: Api, body: str, field: str) -> None:
    answer = await api.post("/api/jobs", body)
    assert answer.status == 400
    assert field in answer.error
    assert "msgspec" not in answer.error
    assert "$" not in answer.error


async def test_what_old_callers_send_is_taken(api: Api) -> None:
    lenient = [
        {"containers": ["echo"], "data": {}, "requires_proof": None},
        {"containers": ["echo"], "data": {}, "unknown": {"a": 1}, "more": None},
        {"containers": ["proof"], "data": {}, "requires_proof": True},
        {"containers": ["near"], "data": {}},
    ]
    ids = [(await api.post("/api/jobs", body)).json["id"] for body in lenient]
    body = json.dumps(lenient[0])
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8", "nonsense"):
        ids.append((await api.post("/api/jobs", body, headers={"Content-Type": kind})).json["id"])
    assert {job["status"] for job in await api.results(*ids)} == {"success"}


async def test_who_asks_is_not_taken_from_the_body(api: Api) -> None:
    body = {"containers": ["echo"], "data": {}, "id": "mine", "ip": "10.0.0.1", "client": "root", "address": "10.0.0.1"}
    answer = await api.post("/api/jobs", body)
    assert answer.json["id"] != "mine"
    assert (await api.get("/api/jobs")).json == [answer.json["id"]]
    refused = await api.post("/api/jobs", {**body, "containers": ["far"]})
    assert refused.json["params"]["address"] == "127.0.0.1"


async def test_past_max_pending_it_is_503_with_a_time_to_come_back(server: str) -> None:
    async with serving(server, node={"max_pending": 2}) as api:
        assert api.gate is not None
        ids = [await api.submit("gate") for _ in range(2)]
        answer = await api.post("/api/jobs", {"containers": ["gate"], "data": {}})
        assert answer.status == 503
        assert answer.error
        assert int(answer.headers["Retry-After"]) >= 1
        batch = await api.post("/api/jobs/batch", [{"containers": ["gate"], "data": {}}] * 2)
        assert (batch.status, int(batch.headers["Retry-After"]) >= 1) == (503, True)
        api.gate.opened.set()
        await api.results(*ids)
        echo = {"containers": ["echo"], "data": {}}
        some = await api.post("/api/jobs/batch", [echo, {}, echo, echo, echo])
        assert some.status == 200
        assert ["id" in item for item in some.json] == [True, False, True, False, False]
        assert all(item["error"] for item in some.json if "id" not in item)


async def test_while_draining_it_is_503_but_results_are_still_read(server: str) -> None:
    gate, port, patient = Gate(), free_port(), {"drain_seconds": 30}
    async with serving(server, runners=[api_functions(gate)], node=patient, bind=f"127.0.0.1:{port}") as api:
        id = await api.submit("gate")
        seen: list[int] = []

        async def look_in() -> None:
            assert isinstance(api.node, Node)
            await until(lambda: api.node and api.node._executor._draining)
            async with api.as_other_client("127.0.0.1") as late:
                answer = await late.post("/api/jobs", {"containers": ["echo"], "data": {}})
                assert int(answer.headers["Retry-After"]) >= 1
                seen.append(answer.status)
                seen.append((await late.get(f"/api/jobs?id={id}")).status)
                gate.opened.set()
                (job,) = await late.results(id)
                assert job["status"] == "success"

        task = asyncio.create_task(look_in())
    await task
    assert seen == [503, 200]


# -- POST /api/jobs/batch -----------------------------------------------------------------------------


def malformed(n: int) -> Any:
    """A hundred ways in which an item of a batch can be wrong."""
    ok = {"containers": ["echo"], "data": {"n": n}}
    ways: list[Any] = [
        None, True, False, 0, 1.5, -7, "", "text", [], [[]], {}, [ok],
        {"containers": ["echo"]}, {"data": {}}, {"containers": [], "data": {}},
        {"containers": ["nope"], "data": {}}, {"containers": ["inner"], "data": {}},
        {"containers": ["far"], "data": {}}, {**ok, "requires_proof": True}, {**ok, "requires_proof": "x"},
        {**ok, "requires_proof": 3},
        {**ok, "pipeline": "nope"}, {**ok, "pipeline": []}, {**ok, "pipeline": 0.5},
        {"signature": 1, "subscription": 2}, {"containers": ["x"] * 1001, "data": {}},
    ]  # fmt: skip
    values = [None, True, 1, 2.5, "x", {}, [1], [None], [{}], [["echo"]]]
    ways += [{"containers": value, "data": {}} for value in values]
    ways += [{"containers": ["echo"], "data": value} for value in [*values[:5], *values[6:], [], "{}", 0, -1, ""]]
    ways += [{"containers": ["echo", f"unknown-{number}"], "data": {}} for number in range(100)]
    return ways[n]


async def test_a_batch_with_every_tenth_item_malformed_answers_every_item_in_order(api: Api) -> None:
    items = [
        malformed(n // 10) if n % 10 == 9 else {"containers": ["echo", "inner"], "data": {"n": n}} for n in range(1000)
    ]
    answer = await api.post("/api/jobs/batch", items)
    assert answer.status == 200
    assert len(answer.json) == 1000
    assert ["error" if "error" in item else "id" for item in answer.json] == (["id"] * 9 + ["error"]) * 100
    assert all(item["error"] for item in answer.json if "error" in item)
    ids = [item["id"] for item in answer.json if "id" in item]
    assert len(set(ids)) == 900
    assert ids == sorted(ids)
    jobs = await api.results(*ids)
    assert {job["status"] for job in jobs} == {"success"}
    assert [job["result"]["output"]["n"] for job in jobs] == [n for n in range(1000) if n % 10 != 9]
    assert (await api.get("/api/jobs?pending=false")).json == ids


async def test_a_batch_of_too_many_items_is_413(api: Api) -> None:
    answer = await api.post("/api/jobs/batch", [1] * 1001)
    assert answer.status == 413
    assert answer.error


# -- GET /api/jobs ------------------------------------------------------------------------------------


async def test_results_come_in_the_order_asked_each_once_and_unknown_ids_are_left_out(api: Api) -> None:
    first, second = await api.submit(n=1), await api.submit(n=2)
    await api.results(first, second)
    unknown = "01900000-0000-7000-8000-000000000000"
    found = await api.get(f"/api/jobs?id={second}&id={unknown}&id={first}&id={second}&id=nonsense")
    assert found.status == 200
    assert [job["id"] for job in found.json] == [second, first]


async def test_two_hundred_ids_are_within_limits(api: Api) -> None:
    items = [{"containers": ["echo"], "data": {}}] * 200
    ids = [item["id"] for item in (await api.post("/api/jobs/batch", items)).json]
    assert [job["id"] for job in await api.results(*ids)] == ids
    query = "&".join(f"id={id}" for id in [*ids, ids[0]])
    assert (await api.get(f"/api/jobs?{query}")).status == 400


async def test_pages_lead_through_all_ids_by_link_or_by_after(api: Api) -> None:
    batch = await api.post("/api/jobs/batch", [{"containers": ["echo"], "data": {}}] * 25)
    ids = [item["id"] for item in batch.json]
    await api.results(*ids)
    found, path = [], "/api/jobs?limit=10&pending=false"
    for _ in range(10):
        page = await api.get(path)
        found += page.json
        if "Link" not in page.headers:
            break
        target, _, rel = page.headers["Link"].partition(";")
        assert rel.strip() == 'rel="next"'
        assert target.startswith("<?")
        path = urljoin(path, target.strip("<>"))
    assert found == ids
    assert (await api.get(f"/api/jobs?after={ids[20]}")).json == ids[21:]
    assert (await api.get(f"/api/jobs?after={ids[20].upper()}&limit=2")).json == ids[21:23]
    assert isinstance(api.node, Node)
    await api.node._store.delete([ids[20]])
    assert (await api.get(f"/api/jobs?after={ids[20]}")).json == ids[21:]


async def test_a_long_listing_comes_in_slices_and_whole(api: Api) -> None:
    ids: list[str] = []
    for _ in range(3):
        batch = await api.post("/api/jobs/batch", [{"containers": ["echo"], "data": {}}] * 900)
        ids += [item["id"] for item in batch.json]
    answer = await api.get("/api/jobs")
    assert answer.json == ids
    assert "Content-Length" not in answer.headers


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
        remote = RemoteRunner(RemoteConfig(containers=(RemoteContainer(id="echo", url=f"http://127.0.0.1:{port}"),)))
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
    from parts import make_node

    from nodekit_asgi import AsgiConfig, AsgiTransport

    transports = [AsgiTransport(AsgiConfig(bind="127.0.0.1:0", server=name)) for name in ("hypercorn", "uvicorn")]
    import aiohttp

    async with make_node(functions(), transports=transports) as node, aiohttp.ClientSession() as session:
        first, second = (Api(url, session, node) for url in node.urls)
        id = await first.submit(n=1)
        (job,) = await second.results(id)
        assert job["status"] == "success"
