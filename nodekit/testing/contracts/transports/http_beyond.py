"""Extensions of the API beyond the document. Each can be switched off."""

import re
from typing import Any

import anyio
import pytest

from nodekit import Transport
from nodekit.testing.contracts.transports.http_api import UNKNOWN, HttpApi, HttpContract, asked
from nodekit.testing.contracts.transports.http_client import HttpAnswer

GOOD_KEYS = ("x", "x" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "!~,;=\\")
BAD_KEYS = ("", "a b", "x" * 256, "\xe9")
BAD_WAITS = ("", "-1", "x", "nan", "inf", "1e", "e3", "%2B1", "1_0", "0x1", ".5", "1.", "%C2%B2", "1%0A", "+1")


class BeyondContract(HttpContract):
    waits: bool = True
    """True if clients can wait: ``Prefer: wait=N``, and ``wait=N`` of `GET /api/jobs`."""
    idempotency_keys: bool = True
    """True if ``Idempotency-Key`` makes repeated requests safe."""
    priorities: bool = True
    """True if ``Priority`` is read."""
    request_ids: bool = True
    """True if the ``X-Request-ID`` of a request is sent back."""

    def skip_without(self, capability: str) -> None:
        if not getattr(self, capability):
            pytest.skip(f"{capability} = False")

    # -- waiting ----------------------------------------------------------------------------------

    async def test_a_job_that_finishes_while_its_client_waits_is_the_reply(self, transport: Transport) -> None:
        self.skip_without("waits")
        async with self.api(transport) as api:
            for container in ("echo", "fail"):
                answer = await api.post("/api/jobs", asked(container), ("Prefer", "wait=30"))
                assert (answer.status, answer.header("Preference-Applied")) == (200, "wait=30")
                assert (await api.get(f"/api/jobs?id={answer.json['id']}")).json == [answer.json]
            refused = await api.post("/api/jobs", asked("nope"), ("Prefer", "wait=30"))
            assert (refused.status, refused.error) == (400, "Container not supported")

    async def test_a_job_that_takes_longer_than_its_client_waits_is_accepted(self, transport: Transport) -> None:
        self.skip_without("waits")
        async with self.api(transport) as api:
            for seconds in (0, 1):
                answer = await api.post("/api/jobs", asked("gate"), ("Prefer", f"wait={seconds}"))
                assert (answer.status, set(answer.json)) == (202, {"id"})
                assert answer.header("Preference-Applied") == f"wait={seconds}"
            for nonsense in ("wait", "wait=soon", "wait=-1", "respond-async", '"'):
                answer = await api.post("/api/jobs", asked("gate"), ("Prefer", nonsense))
                assert (answer.status, answer.header("Preference-Applied")) == (200, None), nonsense

    async def test_asking_can_wait_until_all_jobs_are_finished(self, transport: Transport) -> None:
        self.skip_without("waits")
        answers: list[HttpAnswer] = []

        async def ask(query: str) -> None:
            answers.append(await api.get(f"/api/jobs?{query}&wait=15"))

        async with self.api(transport) as api:
            gate, echo = await api.submit("gate"), await api.submit("echo")
            (job,) = (await api.get(f"/api/jobs?id={gate}&wait=0.1")).json
            assert job["status"] == "running"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, f"id={gate}&id={echo}&id={UNKNOWN}")
                await api.results(echo)
                await anyio.sleep(self.quiet_seconds)
                assert answers == []
                api.served.runner.opened.set()
            found = [(job["id"], job["status"]) for job in answers[0].json]
            assert found == [(gate, "success"), (echo, "success")]
            for text in BAD_WAITS:
                wrong = await api.get(f"/api/jobs?id={gate}&wait={text}")
                assert (wrong.status, "wait" in wrong.error) == (400, True), text

    # -- Idempotency-Key --------------------------------------------------------------------------

    async def keyed(self, api: HttpApi, body: Any, key: str = "k") -> HttpAnswer:
        return await api.post("/api/jobs", body, ("Idempotency-Key", key))

    async def test_a_request_that_is_repeated_with_its_key_is_the_same_job(self, transport: Transport) -> None:
        self.skip_without("idempotency_keys")
        answers: list[HttpAnswer] = []

        async def ask() -> None:
            answers.append(await self.keyed(api, asked("gate")))

        async with self.api(transport, max_pending=1) as api:
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(ask)
            taken = [answer for answer in answers if answer.status == 200]
            assert len({answer.json["id"] for answer in taken}) == 1
            assert {answer.status for answer in answers} <= {200, 503}
            again = await self.keyed(api, asked("gate"))
            assert (again.status, again.json) == (200, taken[0].json), "also while the node is full"
            assert (await self.keyed(api, asked("gate"), "other")).status == 503
            assert (await self.keyed(api, asked("echo"))).status == 422
            assert len(api.served.table.jobs) == 1
            api.served.runner.opened.set()
            await api.results(again.json["id"])
            assert (await self.keyed(api, asked("gate"))).json == again.json, "also when the job is finished"
            assert api.served.runner.calls == ["gate"]
            assert (await self.keyed(api, asked("gate"), "other")).json != again.json

    async def test_a_key_is_for_one_body_of_one_client(self, transport: Transport) -> None:
        self.skip_without("idempotency_keys")
        async with self.api(transport) as api:
            refused = await self.keyed(api, asked("nope"))
            assert refused.status == 400
            first = await self.keyed(api, b'{"containers":["echo"],"data":{}}')
            assert first.status == 200, "a refusal is not kept"
            for body in (asked("gate"), b'{"containers":["echo"],"data":{} }'):
                answer = await self.keyed(api, body)
                assert (answer.status, bool(answer.error)) == (422, True), body
            if len(self.clients) > 1:
                theirs = await self.keyed(api.of(self.clients[1]), asked("echo"))
                assert (theirs.status, theirs.json != first.json) == (200, True)

    async def test_a_key_is_taken_as_it_is(self, transport: Transport) -> None:
        self.skip_without("idempotency_keys")
        async with self.api(transport) as api:
            for key in GOOD_KEYS:
                assert (await self.keyed(api, asked("echo"), key)).status == 200, key
                assert (await self.keyed(api, asked("gate"), key)).status == 422, key
                assert (await self.keyed(api, asked("gate"), key[:-1] + "'")).status == 200, key

    async def test_a_key_that_is_none_or_would_not_be_kept_is_400(self, transport: Transport) -> None:
        self.skip_without("idempotency_keys")
        async with self.api(transport) as api:
            for key in BAD_KEYS:
                answer = await self.keyed(api, asked(), key)
                assert (answer.status, "Idempotency-Key" in answer.error) == (400, True), key
            twice = await api.post("/api/jobs", asked(), ("Idempotency-Key", "a"), ("Idempotency-Key", "a"))
            assert (twice.status, "Idempotency-Key" in twice.error) == (400, True)
            for path, body in (("/api/jobs/batch", [asked()]), ("/api/jobs/stream", asked())):
                answer = await api.post(path, body, ("Idempotency-Key", "k"))
                assert (answer.status, "Idempotency-Key" in answer.error) == (400, True), path
            assert api.served.table.jobs == {}

    # -- headers ----------------------------------------------------------------------------------

    async def test_an_urgency_is_that_of_the_job_or_of_all_jobs_of_a_batch(self, transport: Transport) -> None:
        self.skip_without("priorities")
        async with self.api(transport) as api:
            for text, expected in (("u=0", 0), ("i, u=7;x", 7), ("i", 3), ("u=5, broken,", 3), ("u=8", 3)):
                one = await api.post("/api/jobs", asked(), ("Priority", text))
                batch = await api.post("/api/jobs/batch", [asked(), asked()], ("Priority", text))
                ids = [item["id"] for item in (one.json, *batch.json)]
                assert [api.served.table.jobs[id].request.priority for id in ids] == [expected] * 3, text
            for headers, expected in (((), 3), ((("Priority", "u=1"), ("Priority", "i, u=2")), 2)):
                one = await api.post("/api/jobs", asked(), *headers)
                assert api.served.table.jobs[one.json["id"]].request.priority == expected, headers

    async def test_request_ids_come_back_or_are_made(self, transport: Transport) -> None:
        self.skip_without("request_ids")
        async with self.api(transport) as api:
            for path in ("/info", "/nope"):
                assert (await api.get(path, ("X-Request-ID", "mine-7"))).header("X-Request-ID") == "mine-7"
            made = [(await api.get("/info")).header("X-Request-ID") for _ in range(2)]
            assert made[0] != made[1]
            for odd in ("x" * 129, "a b", "\xe9"):
                given = (await api.get("/info", ("X-Request-ID", odd))).header("X-Request-ID")
                assert given != odd
                assert re.fullmatch(r"[\x21-\x7e]{1,128}", given or ""), odd
            api.served.table.fails_to_get = RuntimeError("a fault")
            fault = await api.get(f"/api/jobs?id={UNKNOWN}", ("X-Request-ID", "mine-8"))
            assert (fault.params["request_id"], fault.header("X-Request-ID")) == ("mine-8", "mine-8")
