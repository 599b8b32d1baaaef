"""What the document names beyond itself of single jobs: histories, events, retries; each may be switched off."""

import json
from typing import Any
from urllib.parse import urlencode

import anyio
import msgspec

from nodekit import Transport
from nodekit.testing.transports._http_api import UNKNOWN, HttpApi
from nodekit.testing.transports._http_beyond import BeyondContract

FILTERS_THAT_MAKE_NO_SENSE = (
    "status=done",
    "status=cancelled",
    "status=failed&pending=false",
    "container=echo",
    "error=",
)


class SentEvent(msgspec.Struct, frozen=True):
    """A server-sent event."""

    name: str
    id: str
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


def sent_events(text: str) -> list[SentEvent]:
    """The events of a stream, comments left out."""
    found: list[SentEvent] = []
    fields: dict[str, list[str]] = {}
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        name, _, value = line.partition(":")
        if name:
            fields.setdefault(name, []).append(value.removeprefix(" "))
        elif not line and "data" in fields:
            found.append(SentEvent(fields["event"][-1], fields["id"][-1], "\n".join(fields["data"])))
            fields = {}
    return found


class JobsContract(BeyondContract):
    histories: bool = True
    """Whether there is `GET /api/jobs/{id}`."""
    events: bool = True
    """Whether there is `GET /api/jobs/{id}/events`."""
    retries: bool = True
    """Whether there is `POST /api/jobs/{id}/retry`."""
    filters: bool = True
    """Whether lists choose by ``status``, ``container`` and ``error``."""
    described: bool = True
    """Whether there is `GET /openapi.json`, and a page at `GET /docs`."""

    # -- histories --------------------------------------------------------------------------------

    async def test_a_history_tells_steps_and_times_and_no_outputs(self, transport: Transport) -> None:
        self.skip_without("histories")
        async with self.api(transport) as api:
            good, bad = await api.submit("echo", "proof", text="a large one"), await api.submit("echo", "fail")
            await api.results(good, bad)
            answer = await api.get(f"/api/jobs/{good}")
            assert b"large" not in answer.body
            told, failed = answer.json, (await api.get(f"/api/jobs/{bad}")).json
            assert (told["id"], told["status"], told["state"], told["priority"]) == (good, "success", "success", 3)
            assert (told["pipeline"], told["containers"]) == ("sequence", ["echo", "proof"])
            starts = [attempt["started_at"] for step in told["steps"] for attempt in step["attempts"]]
            assert [step["container"] for step in told["steps"]] == ["echo", "proof"]
            assert sorted(starts) == starts
            assert told["accepted_at"] <= starts[0] <= starts[1] <= told["finished_at"]
            assert told["steps"][0]["attempts"][0]["instance"] == "told"
            assert (failed["failure"]["container"], failed["failure"]["error"]) == ("fail", "as it was told")
            assert failed["steps"][1]["attempts"][0]["error"] == "as it was told"

    async def test_the_history_of_an_unfinished_job_tells_what_is_due(self, transport: Transport) -> None:
        self.skip_without("histories")
        async with self.api(transport) as api:
            id = await api.submit("echo", "gate")
            await self.until(lambda: "gate" in api.served.runner.calls)
            told = (await api.get(f"/api/jobs/{id}")).json
            assert (told["status"], told["state"], told["due"], "finished_at" in told) == (
                *("running", "running", "gate"),
                False,
            )

    # -- events -----------------------------------------------------------------------------------

    async def events_of(self, api: HttpApi, id: str, last: str | None = None) -> list[SentEvent]:
        headers = [] if last is None else [("Last-Event-ID", last)]
        answer = await api.get(f"/api/jobs/{id}/events", *headers)
        assert (answer.status, answer.header("Content-Type")) == (200, "text/event-stream")
        return sent_events(answer.body.decode())

    async def test_events_tell_a_job_from_its_start_to_its_end(self, transport: Transport) -> None:
        self.skip_without("events")
        async with self.api(transport) as api:
            id = await api.submit("echo", "fail", n=1)
            await api.results(id)
            told = await self.events_of(api, id)
            assert [event.name for event in told] == ["accepted", "step", "step", "finished"]
            assert [event.json for event in told] == [
                {"id": id},
                {"container": "echo", "output": {"n": 1}},
                {"container": "fail", "error": "as it was told"},
                *(await api.get(f"/api/jobs?id={id}")).json,
            ]
            for number, event in enumerate(told[:-1]):
                assert await self.events_of(api, id, event.id) == told[number + 1 :]
            for foreign in ("", "1", f"{UNKNOWN}:1", f"{id}:99"):
                assert await self.events_of(api, id, foreign) == told, foreign
            seen_all = await api.get(f"/api/jobs/{id}/events", ("Last-Event-ID", told[-1].id))
            assert (seen_all.status, seen_all.body) == (204, b"")

    async def test_events_come_as_they_happen(self, transport: Transport) -> None:
        self.skip_without("events")
        async with self.api(transport) as api:
            id = await api.submit("echo", "gate")
            async with api.begun("GET", f"/api/jobs/{id}/events") as (head, connection):
                assert head.status == 200
                text = ""
                with anyio.fail_after(self.timeout_seconds):
                    while len(sent_events(text)) < 2:
                        text += (await connection.piece()).decode()
                    assert (await api.job(id))["status"] == "running"
                    api.served.runner.opened.set()
                    while piece := await connection.piece():
                        text += piece.decode()
            assert [event.name for event in sent_events(text)] == ["accepted", "step", "step", "finished"]

    # -- retries ----------------------------------------------------------------------------------

    async def test_another_try_goes_on_where_it_failed_or_begins_anew(self, transport: Transport) -> None:
        self.skip_without("retries")
        async with self.api(transport) as api:
            old = await api.submit("echo", "fail", "echo", n=1)
            await api.results(old)
            api.served.runner.mended = True
            for body, calls in ((b"", 4), ({"from": "failed"}, 6), ({"from": "start"}, 9)):
                answer = await api.post(f"/api/jobs/{old}/retry", body)
                assert (answer.status, set(answer.json)) == (200, {"id"}), body
                (job,) = await api.results(answer.json["id"])
                assert (job["status"], job["result"]["output"]) == ("success", {"n": 1})
                assert len(job["intermediate_results"]) == 2
                assert len(api.served.runner.calls) == calls, body
            assert (await api.job(old))["status"] == "failed"

    async def test_what_has_not_failed_or_is_nobodys_is_not_tried_again(self, transport: Transport) -> None:
        self.skip_without("retries")
        async with self.api(transport) as api:
            done, running, failed = await api.submit(), await api.submit("gate"), await api.submit("fail")
            await api.results(done, failed)
            for id, body, status in (
                *((done, b"", 409), (running, b"", 409), (UNKNOWN, b"", 404), ("x", b"", 404)),
                *((failed, {"from": "x"}, 400), (failed, b"[", 400)),
            ):
                answer = await api.post(f"/api/jobs/{id}/retry", body)
                assert (answer.status, bool(answer.error)) == (status, True), (id, body)

    # -- lists ------------------------------------------------------------------------------------

    async def test_lists_choose_by_status_container_and_error(self, transport: Transport) -> None:
        self.skip_without("filters")
        async with self.api(transport) as api:
            good, bad, cancelled = await api.submit(), await api.submit("echo", "fail"), await api.submit("gate")
            await api.call("DELETE", f"/api/jobs/{cancelled}")
            await api.results(good, bad, cancelled)
            running = await api.submit("gate")
            for query, expected in (
                ({"status": "running"}, [running]),
                ({"status": "success"}, [good]),
                ({"status": "failed"}, [bad, cancelled]),
                ({"status": "failed", "container": "fail"}, [bad]),
                ({"status": "failed", "container": "echo"}, []),
                ({"status": "failed", "error": "it was"}, [bad]),
                ({"status": "failed", "error": "IT WAS"}, []),
                ({"status": "failed", "container": "gate", "error": "cancelled"}, [cancelled]),
                ({"status": "failed", "after": bad}, [cancelled]),
            ):
                assert await api.listed(urlencode(query)) == expected, query
            for wrong in FILTERS_THAT_MAKE_NO_SENSE:
                answer = await api.get(f"/api/jobs?{wrong}")
                assert (answer.status, bool(answer.error)) == (400, True), wrong

    # -- whose jobs, and what there is ------------------------------------------------------------

    async def test_another_client_is_told_nothing_and_tries_nothing_again(self, transport: Transport) -> None:
        self.skip_without_clients()
        async with self.api(transport) as api:
            id, other = await api.submit("fail"), api.of(self.clients[1])
            await api.results(id)
            for has, method, path in (
                (self.histories, "GET", f"/api/jobs/{id}"),
                (self.events, "GET", f"/api/jobs/{id}/events"),
                (self.retries, "POST", f"/api/jobs/{id}/retry"),
            ):
                assert not has or (await other.call(method, path)).status == 404, path
            assert not self.filters or await other.listed("status=failed") == []
            assert len(api.served.table.jobs) == 1

    async def test_the_api_is_described_for_programs_and_people(self, transport: Transport) -> None:
        self.skip_without("described")
        async with self.api(transport) as api:
            document = (await api.get("/openapi.json")).json
            assert document["openapi"].startswith("3.1")
            described = {"/info", "/health", "/api/jobs", "/api/jobs/batch", "/api/jobs/stream", "/resources"}
            assert described <= set(document["paths"])
            page = await api.get("/docs")
            assert page.status == 200
            assert (page.header("Content-Type") or "").startswith("text/html")
