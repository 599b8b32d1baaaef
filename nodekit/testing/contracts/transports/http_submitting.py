"""Routes that submit jobs: `POST /api/jobs` and `POST /api/jobs/batch`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import anyio

from nodekit import ClientLimits, Identity, Refusal, SubscriptionRequest, Transport, Unavailable
from nodekit.testing.contracts.transports.http_api import HttpBase, asked

OK = b'{"containers":["echo"],"data":{}}'

REFUSED: list[tuple[Any, str, Any]] = [
    (asked() | {"containers": []}, "No containers specified", {}),
    (asked("echo", "nope"), "Container not supported", {"container": "nope"}),
    (asked("inner", "nope", requires_proof=True), "Container not supported", {"container": "nope"}),
    (asked("inner", "far", requires_proof=True), "First container must be external", {"first_container": "inner"}),
    (asked("far", requires_proof=True), "Container does not generate proof", {"container": "far"}),
    (asked("echo", "far"), "Container not allowed for address", {"container": "far", "address": "127.0.0.1"}),
    (asked(pipeline="nope"), "Pipeline not supported", {"pipeline": "nope"}),
    ({"signature": {}, "subscription": {}}, "Chain not enabled", {}),
    (asked(signature={}, subscription={}), "Chain not enabled", {}),
    (asked(signature="x", subscription={}), "Chain not enabled", {}),
]
"""Requests, and the reason and params of their refusal, in the order in which the reasons are checked."""

MALFORMED: list[tuple[str, str]] = [
    ("{}", "containers"),
    ('{"data": {}}', "containers"),
    ('{"containers": ["echo"]}', "data"),
    ('{"containers": "echo", "data": {}}', "containers"),
    ('{"containers": null, "data": {}}', "containers"),
    ('{"containers": {}, "data": {}}', "containers"),
    ('{"containers": [1], "data": {}}', "containers"),
    ('{"containers": [null], "data": {}}', "containers"),
    ('{"containers": ["echo"], "data": []}', "data"),
    ('{"containers": ["echo"], "data": "x"}', "data"),
    ('{"containers": ["echo"], "data": null}', "data"),
    ('{"containers": ["echo"], "data": 1}', "data"),
    ('{"containers": ["echo"], "data": {}, "requires_proof": "yes"}', "requires_proof"),
    ('{"containers": ["echo"], "data": {}, "requires_proof": 1}', "requires_proof"),
    ('{"containers": ["echo"], "data": {}, "pipeline": 1}', "pipeline"),
    ("[]", ""),
    ("null", ""),
    ('"text"', ""),
    ("7", ""),
]
"""Bodies, and the field that the error names."""

DEEP = 100_000
HOSTILE: Mapping[str, bytes] = {
    "nothing": b"",
    "space": b" \n\t",
    "bad UTF-8": b'{"containers":["echo"],"data":{"a":"\xff\xfe"}}',
    "bad UTF-8 in what is ignored": b'{"containers":["echo"],"data":{},"\xc3\x28":1}',
    "a surrogate in UTF-8": b'{"containers":["echo"],"data":{"a":"\xed\xa0\x80"}}',
    "UTF-16": OK.decode().encode("utf-16"),
    "NaN": b'{"containers":["echo"],"data":{"a":NaN}}',
    "NaN in what is ignored": b'{"containers":["echo"],"data":{},"x":[NaN]}',
    "Infinity": b'{"containers":["echo"],"data":{"a":-Infinity}}',
    "brackets": b"[" * DEEP,
    "brackets that close": b"[" * DEEP + b"]" * DEEP,
    "braces": b'{"a":' * DEEP,
    "brackets in data": b'{"containers":["echo"],"data":{"a":' + b"[" * DEEP + b"]" * DEEP + b"}}",
    "brackets in what is ignored": b'{"containers":["echo"],"data":{},"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "just too deep": b'{"containers":["echo"],"data":{"a":' + b"[" * 127 + b"]" * 127 + b"}}",
    "cut short": b'{"containers":["echo"],"data":{"a":1',
    "more behind": OK + b" {}",
    "a trailing comma": b'{"containers":["echo"],"data":{},}',
    "single quotes": b"{'containers':['echo'],'data':{}}",
    "a comment": b'{"containers":["echo"],"data":{/* */}}',
    "a bad escape": b'{"containers":["echo"],"data":{"a":"\\x"}}',
    "a control character": b'{"containers":["echo"],"data":{"a":"\x00"}}',
    "a leading zero": b'{"containers":["echo"],"data":{"a":01}}',
    "a form": b"containers=echo&data=%7B%7D",
}
"""Bodies that are not acceptable JSON."""

NO_NAMES: list[Any] = [None, True, 1, 2.5, "x", {}, [1], [None], [{}], [["echo"]]]
NO_OBJECTS: list[Any] = [None, True, 1, 2.5, "x", [1], [], "{}", 0]
BAD_ITEMS: list[Any] = [
    *(None, True, 1.5, -7, "text", [], [[]], {}, [asked()], {"data": {}}, {"containers": ["echo"]}),
    *(asked("nope"), asked("inner"), asked("far"), asked() | {"containers": []}, asked("echo", "nope")),
    *(asked(requires_proof=True), asked(requires_proof="x"), asked(requires_proof=3)),
    *(asked(pipeline="nope"), asked(pipeline=[]), asked(pipeline=0.5)),
    *(asked() | {"containers": value} for value in NO_NAMES),
    *(asked() | {"data": value} for value in NO_OBJECTS),
    {"signature": 1, "subscription": 2},
]
"""Items of a batch, each wrong in another way."""


HUGE = 2**256 - 1
"""The largest number of a signature. A transport that turns numbers into floats changes it."""


class Subscriptions:
    """A plugin that takes subscriptions, unless their `period` says otherwise."""

    chain_address = "0x00000000000000000000000000000000000000aa"

    def __init__(self) -> None:
        self.taken: list[tuple[Any, Any, Any, str]] = []

    async def nodekit_subscription(self, request: SubscriptionRequest, identity: Identity) -> bool:
        subscription = json.loads(bytes(request.subscription))
        if subscription.get("period") == 0:
            raise Refusal("Not for nothing", period=0)
        if subscription.get("period") == 1:
            raise Unavailable("the chain does not answer", retry_after_seconds=3)
        data = None if request.data is None else json.loads(bytes(request.data))
        self.taken.append((json.loads(bytes(request.signature)), subscription, data, identity.client))
        return True


def subscription(**fields: Any) -> dict[str, Any]:
    """Make the JSON of a delegated subscription."""
    return {"signature": {"r": HUGE}, "subscription": {"payment_amount": HUGE, **fields}, "data": {"n": 1}}


class HttpSubmitting(HttpBase):
    """Tests of `HttpTransportContract` about jobs that clients submit."""

    async def test_a_job_is_accepted_can_be_read_at_once_and_ends(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            answer = await api.post("/api/jobs", asked("echo", "gate", data={"n": [1, 2]}))
            assert (answer.status, set(answer.json)) == (200, {"id"})
            id = answer.json["id"]
            assert UUID(id).version == 7
            assert (await api.job(id))["status"] == "running"
            api.served.runner.opened.set()
            (job,) = await api.results(id)
            assert job["result"] == {"container": "gate", "output": {"n": [1, 2]}}

    async def test_each_id_is_greater_than_the_one_before(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            ids = [await api.submit() for _ in range(10)] + await api.batch(*[asked()] * 10) + [await api.submit()]
            assert ids == sorted(set(ids))
            assert await api.listed() == ids

    async def test_refusals_are_verbatim_and_in_their_order(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            refusals = [
                (body, error, params | ({"address": api.address} if "address" in params else {}))
                for body, error, params in REFUSED
            ]
            for body, error, params in refusals:
                answer = await api.post("/api/jobs", body)
                assert (answer.status, answer.error, answer.params) == (400, error, params), body
            batch = (await api.post("/api/jobs/batch", [body for body, _, _ in refusals])).json
            assert [(item["error"], item.get("params") or {}) for item in batch] == [row[1:] for row in refusals]
            assert api.served.table.jobs == {}

    async def test_subscriptions_go_to_the_plugin_that_takes_them(self, transport: Transport) -> None:
        plugin = Subscriptions()
        async with self.api(transport, plugins=[plugin]) as api:
            answer = await api.post("/api/jobs", subscription(period=7))
            assert (answer.status, answer.json) == (200, {})
            (signature, kept, data, client) = plugin.taken.pop()
            assert (signature["r"], kept, data) == (HUGE, {"payment_amount": HUGE, "period": 7}, {"n": 1})
            assert client in (api.address, "unix")
            answer = await api.post("/api/jobs", subscription(period=0))
            assert (answer.status, answer.error, answer.params) == (400, "Not for nothing", {"period": 0})
            answer = await api.post("/api/jobs", subscription(period=1))
            assert (answer.status, answer.pause_seconds) == (503, 3)
            items = [asked(), subscription(period=0), subscription(period=8), subscription(period=9), {}]
            job, refused, first, second, malformed = (await api.post("/api/jobs/batch", items)).json
            assert (set(job), first, second) == ({"id"}, {}, {})
            assert (refused["error"], set(malformed)) == ("Not for nothing", {"error"})
            assert sorted(one["period"] for _, one, _, _ in plugin.taken) == [8, 9]
            assert (await api.post("/api/jobs/stream", subscription(period=7))).status == 405
            assert (await api.get("/info")).json["chain"] == {"enabled": True, "address": plugin.chain_address}
            assert await api.listed() == [job["id"]]

    async def test_a_malformed_request_is_400_and_names_its_field(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            for body, field in MALFORMED:
                answer = await api.post("/api/jobs", body.encode())
                assert answer.status == 400, body
                assert field in answer.error, body
            assert api.served.table.jobs == {}

    async def test_what_is_no_json_is_400_also_for_a_whole_batch(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            for name, body in HOSTILE.items():
                assert (answer := await api.post("/api/jobs", body)).status == 400, name
                assert len(answer.error) < 500, name
                batch = b"[" + OK + b"," + body + b"]" if body.startswith(b"{") else body
                assert (answer := await api.post("/api/jobs/batch", batch)).status == 400, name
                assert answer.error
            assert api.served.table.jobs == {}
            assert (await api.get("/health")).status == 200

    async def test_what_old_callers_send_is_taken(self, transport: Transport) -> None:
        bodies = [asked(requires_proof=None), asked(unknown={"a": 1}, more=None), asked("proof", requires_proof=True)]
        kinds = ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8", "nonsense")
        async with self.api(transport) as api:
            ids = [(await api.post("/api/jobs", body)).json["id"] for body in bodies]
            ids += [(await api.post("/api/jobs", OK, ("Content-Type", kind))).json["id"] for kind in kinds]
            assert {job["status"] for job in await api.results(*ids)} == {"success"}

    async def test_who_asks_is_never_taken_from_a_body(self, transport: Transport) -> None:
        claims = {"id": "mine", "ip": "10.0.0.1", "client": "root", "address": "10.0.0.1"}
        async with self.api(transport) as api:
            answer = await api.post("/api/jobs", asked(**claims))
            assert answer.json["id"] != "mine"
            assert await api.listed() == [answer.json["id"]]
            refused = await api.post("/api/jobs", asked("far", **claims))
            assert refused.params["address"] == api.address

    async def test_digits_and_duplicate_keys_pass_unchanged(self, transport: Transport) -> None:
        data = b'{"big":12345678901234567890123456789,"p":0.10000,"e":1E+2,"a":1,"a":2,"t":"\\u00e9\xc3\xa9\\/"}'
        async with self.api(transport) as api:
            one = (await api.post("/api/jobs", b'{"containers":["echo","echo"],"data":' + data + b"}")).json["id"]
            (other,) = (await api.post("/api/jobs/batch", b'[{"containers":["echo"],"data":' + data + b"}]")).json
            await api.results(one, other["id"])
            answer = await api.get(f"/api/jobs?id={one}&id={other['id']}&intermediate=true")
            assert answer.body.count(data) == 3

    async def test_depth_is_counted_in_brackets_and_128_are_taken(self, transport: Transport) -> None:
        text = b'{"containers":["echo"],"data":{"a":"' + b'[{\\"' * 10_000 + b'"}}'
        deep = b'{"containers":["echo"],"data":{"a":' + b"[" * 126 + b"]" * 126 + b"}}"
        async with self.api(transport) as api:
            answers = [await api.post("/api/jobs", body) for body in (text, deep)]
            assert [answer.status for answer in answers] == [200, 200]
            id = answers[1].json["id"]
            await api.results(id)
            assert b"[" * 126 in (await api.get(f"/api/jobs?id={id}")).body

    async def test_a_body_over_the_limit_is_413_whether_it_says_its_length_or_not(self, transport: Transport) -> None:
        most = 16 << 20
        async with self.api(transport) as api:
            fits = b'{"containers":["echo"],"data":{"a":"' + b"x" * (most - 40) + b'"}}'
            assert (await api.post("/api/jobs", fits)).status == 200
            unsent = await api.sent(api.request("POST", "/api/jobs", None, [("Content-Length", str(most + 1))]))
            assert (unsent.status, bool(unsent.error)) == (413, True)
            pieces = (b"100000\r\n" + b"x" * 0x100000 + b"\r\n") * 17  # more than the limit; the body's end is not sent
            chunked = api.request("POST", "/api/jobs", pieces, [("Transfer-Encoding", "chunked")])
            assert ((await api.sent(chunked)).status, len(api.served.table.jobs)) == (413, 1)

    async def test_past_max_pending_it_is_503_and_says_when_to_come_back(self, transport: Transport) -> None:
        async with self.api(transport, max_pending=2, each_client=ClientLimits(max_pending=2)) as api:
            ids = [await api.submit("gate") for _ in range(2)]
            for answer in (
                await api.post("/api/jobs", asked()),
                await api.post("/api/jobs/batch", [asked(), asked()]),
                await api.post("/api/jobs/batch", [{}, asked()]),
            ):
                assert (answer.status, bool(answer.error)) == (503, True)
                assert answer.pause_seconds >= 1
            api.served.runner.opened.set()
            await api.results(*ids)
            some = await api.post("/api/jobs/batch", [asked(), {}, asked(), asked(), asked()])
            assert some.status == 200
            assert ["id" in item for item in some.json] == [True, False, True, False, False]
            assert all(item["error"] for item in some.json if "id" not in item)

    async def test_past_its_own_limit_a_client_is_429_and_says_when_to_come_back(self, transport: Transport) -> None:
        async with self.api(transport, each_client=ClientLimits(max_pending=2)) as api:
            ids = [await api.submit("gate") for _ in range(2)]
            for path, body in (("/api/jobs", asked()), ("/api/jobs/batch", [asked(), {}])):
                answer = await api.post(path, body)
                assert (answer.status, bool(answer.error)) == (429, True)
                assert answer.pause_seconds >= 1
            if len(self.clients) > 1:
                assert await api.of(self.clients[1]).submit()
            api.served.runner.opened.set()
            await api.results(*ids)
            some = await api.post("/api/jobs/batch", [asked(), {}, asked(), asked()])
            assert (some.status, ["id" in item for item in some.json]) == (200, [True, False, True, False])
            assert all(item["error"] for item in some.json if "id" not in item)

    async def test_the_id_of_a_job_waits_until_it_is_kept(self, transport: Transport) -> None:
        statuses: list[int] = []

        async def ask(path: str, body: Any) -> None:
            statuses.append((await api.post(path, body)).status)

        async with self.api(transport) as api:
            api.served.table.keeps = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, "/api/jobs", asked())
                tasks.start_soon(ask, "/api/jobs/batch", [asked()])
                await self.until(lambda: api.served.table.adding == 2)
                await anyio.sleep(self.quiet_seconds)
                assert statuses == []
                api.served.table.keeps.set()
            assert statuses == [200, 200]

    # -- batches ----------------------------------------------------------------------------------

    async def test_a_batch_answers_every_item_in_its_order(self, transport: Transport) -> None:
        bad = BAD_ITEMS
        items = [bad[n // 10 % len(bad)] if n % 10 == 9 else asked(data={"n": n}) for n in range(1000)]
        async with self.api(transport) as api:
            answer = await api.post("/api/jobs/batch", items)
            assert (answer.status, len(answer.json)) == (200, 1000)
            kinds = ["error" if "error" in item else "id" for item in answer.json]
            assert differing(kinds, (["id"] * 9 + ["error"]) * 100) is None
            assert all(item["error"] for item in answer.json if "error" in item)
            ids = [item["id"] for item in answer.json if "id" in item]
            assert differing(ids, sorted(set(ids))) is None
            jobs = await api.results(*ids[:100])
            numbers = [job["result"]["output"]["n"] for job in jobs]
            assert differing(numbers, [n for n in range(1000) if n % 10 != 9][:100]) is None
            assert differing(await api.listed(), ids) is None

    async def test_a_batch_of_refusals_or_of_nothing_is_200(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            answer = await api.post("/api/jobs/batch", [asked("nope"), 1])
            refused = {"error": "Container not supported", "params": {"container": "nope"}}
            assert (answer.status, answer.json[0], "error" in answer.json[1]) == (200, refused, True)
            empty = await api.post("/api/jobs/batch", [])
            assert (empty.status, empty.json) == (200, [])

    async def test_a_batch_that_is_no_list_is_400_as_a_whole(self, transport: Transport) -> None:
        async with self.api(transport) as api:
            for body in (json.dumps(asked()), "{}", "null", "7", '"x"', "", "[", "[NaN]"):
                answer = await api.post("/api/jobs/batch", body.encode())
                assert (answer.status, bool(answer.error)) == (400, True), body


def differing(found: Sequence[Any], expected: Sequence[Any]) -> str | None:
    """Describe the first difference. Return None if there is none. Pytest would take minutes to compare such long
    lists."""
    if len(found) != len(expected):
        return f"{len(found)} instead of {len(expected)}"
    pairs = enumerate(zip(found, expected, strict=True))
    return next((f"at {n}: {one!r} instead of {other!r}" for n, (one, other) in pairs if one != other), None)
