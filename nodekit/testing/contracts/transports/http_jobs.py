"""Extensions for single jobs beyond the document: histories, events, retries. Each can be switched off."""

import json
import re
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import msgspec

from nodekit import Transport
from nodekit.testing.contracts.bounds import within
from nodekit.testing.contracts.transports.http_api import UNKNOWN, HttpApi, HttpBase

ORDERS_THAT_MAKE_NO_SENSE = [
    ("order=", "order"),
    ("order=Newest", "order"),
    ("order=random", "order"),
    ("order=newest&order=oldest", "order"),
    ("order=newest&after=7", "after"),
    ("order=finished&after=00000000-0000-7000-8000-000000000000", "after"),
    ("order=finished&after=-1", "after"),
]
FILTERS_THAT_MAKE_NO_SENSE = [
    ("status=done", "status"),
    ("status=Failed", "status"),
    ("status=cancelled", "status"),
    ("status=", "status"),
    ("status", "status"),
    ("status=failed&status=success", "status"),
    ("status=failed&pending=false", "pending"),
    ("status=running&pending=true", "pending"),
    ("container=echo", "container"),
    ("status=success&container=echo", "container"),
    ("status=running&error=x", "error"),
    ("error=", "error"),
    ("pending=false&error=x", "error"),
    ("status=failed&container=a&container=b", "container"),
    ("status=failed&error=a&error=b", "error"),
    ("status=failed&limit=0", "limit"),
    ("status=failed&after=x", "after"),
    ("status=failed&error=%FF", ""),
]
"""Queries, and the parameter that the error names."""

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def moment(text: str) -> datetime:
    """Parse a time in the format of histories."""
    assert TIME.fullmatch(text), f"expected RFC 3339 in UTC with milliseconds, not {text!r}"
    return datetime.fromisoformat(text)


class SentEvent(msgspec.Struct, frozen=True):
    """A server-sent event."""

    name: str
    id: str
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


def sent_events(text: str) -> list[SentEvent]:
    """Parse the events of a stream, without the comments."""
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


class HttpJobs(HttpBase):
    """Tests of `HttpTransportContract` about extensions for single jobs."""

    histories: bool = True
    """True if there is `GET /api/jobs/{id}`."""
    events: bool = True
    """True if there is `GET /api/jobs/{id}/events`."""
    retries: bool = True
    """True if there is `POST /api/jobs/{id}/retry`."""
    filters: bool = True
    """True if lists can be filtered by ``status``, ``container`` and ``error``."""
    described: bool = True
    """True if there is `GET /openapi.json`, and a page at `GET /docs`."""

    # -- histories --------------------------------------------------------------------------------

    async def test_a_history_has_steps_and_times_and_no_outputs(self, transport: Transport) -> None:
        self.skip_without("histories")
        async with self.api(transport) as api:
            good, bad = await api.submit("echo", "proof", text="a large one"), await api.submit("echo", "fail")
            await api.results(good, bad)
            answer = await api.get(f"/api/jobs/{good}")
            assert b"large" not in answer.body
            history = answer.json
            times, steps = (
                [moment(history.pop("accepted_at")), moment(history.pop("finished_at"))],
                history.pop("steps"),
            )
            assert history == {
                **{"id": good, "status": "success", "state": "success", "priority": 3},
                **{"pipeline": "sequence", "containers": ["echo", "proof"]},
            }
            assert [step["container"] for step in steps] == ["echo", "proof"]
            attempts = [attempt for step in steps for attempt in step["attempts"]]
            starts = [moment(attempt.pop("started_at")) for attempt in attempts]
            assert sorted([*times, *starts]) == [times[0], *starts, times[1]]
            assert all(attempt.pop("duration_seconds") >= 0 for attempt in attempts)
            assert attempts == [{"instance": "served"}] * 2

    async def test_a_history_says_how_a_job_failed_or_that_it_was_cancelled(self, transport: Transport) -> None:
        self.skip_without("histories")
        async with self.api(transport) as api:
            bad, cancelled = await api.submit("echo", "fail", "echo"), await api.submit("gate")
            await api.call("DELETE", f"/api/jobs/{cancelled}")
            await api.results(bad)
            history = (await api.get(f"/api/jobs/{bad}")).json
            how = {"error": "on purpose", "kind": "status", "status": 500}
            assert (history["status"], history["state"], history["failure"]) == (
                "failed",
                "failed",
                {"container": "fail", **how},
            )
            assert [(step["container"], step.get("error")) for step in history["steps"]] == [
                ("echo", None),
                ("fail", "on purpose"),
            ]
            (attempt,) = history["steps"][1]["attempts"]
            assert {**attempt, **how} == attempt
            assert {"due", "not_before"} & set(history) == set()
            history = (await api.get(f"/api/jobs/{cancelled}")).json
            failure = {"container": "gate", "error": "cancelled", "kind": "cancelled"}
            assert (history["status"], history["state"], history["failure"]) == ("failed", "cancelled", failure)
            assert moment(history["finished_at"]) >= moment(history["accepted_at"])

    async def test_the_history_of_an_unfinished_job_says_what_is_due(self, transport: Transport) -> None:
        self.skip_without("histories")
        async with self.api(transport) as api:
            id = await api.submit("echo", "gate")
            await self.until(lambda: "gate" in api.served.runner.calls)
            history = (await api.get(f"/api/jobs/{id}")).json
            assert (history["status"], history["state"], history["due"]) == ("running", "running", "gate")
            assert [step["container"] for step in history["steps"]] == ["echo", "gate"]
            assert "running" not in history["steps"][0]
            assert {"finished_at", "not_before", "failure"} & set(history) == set()

    async def test_the_history_shows_the_call_that_is_under_way_from_the_first_one_on(
        self, transport: Transport
    ) -> None:
        self.skip_without("histories")
        async with self.api(transport) as api:
            id = await api.submit("gate")
            await self.until(lambda: "gate" in api.served.runner.calls)
            history = (await api.get(f"/api/jobs/{id}")).json
            assert (history["status"], history["state"], history["due"]) == ("running", "running", "gate")
            (step,) = history["steps"]
            call = step.pop("running")
            assert step == {"container": "gate", "attempts": []}
            assert moment(call.pop("started_at")) >= moment(history["accepted_at"])
            assert call == {"attempt": 1, "node": api.served.node.name, "instance": ""}
            await api.call("DELETE", f"/api/jobs/{id}")
            (step,) = (await api.get(f"/api/jobs/{id}")).json["steps"]
            (attempt,) = step.pop("attempts")
            assert step == {"container": "gate"}
            assert (attempt["kind"], attempt["error"]) == ("cancelled", "cancelled")

    # -- events -----------------------------------------------------------------------------------

    async def events_of(self, api: HttpApi, id: str, last: str | None = None) -> list[SentEvent]:
        headers = [] if last is None else [("Last-Event-ID", last)]
        answer = await api.get(f"/api/jobs/{id}/events", *headers)
        assert (answer.status, answer.header("Content-Type")) == (200, "text/event-stream")
        return sent_events(answer.body.decode())

    async def test_events_report_a_job_from_its_start_to_its_end(self, transport: Transport) -> None:
        self.skip_without("events")
        async with self.api(transport) as api:
            id = await api.submit("echo", "fail", n=1)
            await api.results(id)
            events = await self.events_of(api, id)
            assert [event.name for event in events] == ["accepted", "step", "step", "finished"]
            assert [event.json for event in events] == [
                {"id": id},
                {"container": "echo", "output": {"n": 1}},
                {"container": "fail", "error": "on purpose"},
                *(await api.get(f"/api/jobs?id={id}")).json,
            ]
            assert len({event.id for event in events}) == 4
            for number, event in enumerate(events[:-1]):
                assert await self.events_of(api, id, event.id) == events[number + 1 :]
            other = await api.submit("echo", "echo", "echo")
            await api.results(other)
            foreign_ids = [event.id for event in await self.events_of(api, other)]
            made_up = ("", "1", ":1", f"{UNKNOWN}:1", f"{id}:", f"{id}:99", f"{id}:-1", f"{id}:{'9' * 40}", f"{id}:1 1")
            for foreign in (*foreign_ids, *made_up):
                assert await self.events_of(api, id, foreign) == events, foreign
            seen_all = await api.get(f"/api/jobs/{id}/events", ("Last-Event-ID", events[-1].id))
            assert (seen_all.status, seen_all.body) == (204, b"")

    async def test_events_come_as_they_happen(self, transport: Transport) -> None:
        self.skip_without("events")
        async with self.api(transport) as api:
            id = await api.submit("echo", "gate")
            async with api.begun("GET", f"/api/jobs/{id}/events") as (head, connection):
                assert head.status == 200
                text = ""
                with within(self.timeout_seconds, "the events of a job arrive, and end"):
                    while len(sent_events(text)) < 2:
                        text += (await connection.piece()).decode()
                    assert (await api.job(id))["status"] == "running"
                    api.served.runner.opened.set()
                    text += (await connection.rest()).decode()
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
                ({"status": "failed", "error": "purpose"}, [bad]),
                ({"status": "failed", "error": "PURPOSE"}, []),
                ({"status": "failed", "container": "gate", "error": "cancelled"}, [cancelled]),
                ({"status": "failed", "after": bad}, [cancelled]),
                ({"status": "failed", "error": ""}, [bad, cancelled]),
            ):
                assert await api.listed(urlencode(query)) == expected, query
            for beside_ids in ("status=failed", "status=nothing", "container=x&error=y"):
                beside = await api.get(f"/api/jobs?id={good}&{beside_ids}")
                assert [job["id"] for job in beside.json] == [good], "beside ids, filters have no meaning"
            for wrong, name in FILTERS_THAT_MAKE_NO_SENSE:
                answer = await api.get(f"/api/jobs?{wrong}")
                assert (answer.status, name in answer.error) == (400, True), (wrong, answer.body)

    async def test_lists_have_an_order(self, transport: Transport) -> None:
        self.skip_without("filters")
        async with self.api(transport) as api:
            first = await api.submit("gate")
            ids = [first, *[await api.submit() for _ in range(4)]]
            await api.results(*ids[1:])
            await api.call("DELETE", f"/api/jobs/{first}")
            assert await api.listed("order=oldest") == ids
            assert await api.listed("order=newest") == ids[::-1]
            assert await api.listed(f"order=newest&after={ids[2]}&limit=1") == [ids[1]]
            finished = await api.listed("order=finished")
            assert (sorted(finished), finished[-1]) == (ids, first)
            assert await api.listed("order=finished&status=failed") == [first]
            assert await api.listed("order=finished&pending=true") == []
            for order, expected in (("newest", ids[::-1]), ("finished", finished)):
                pages, query = list[str](), f"order={order}&limit=2"
                while query:
                    page = await api.get(f"/api/jobs?{query}")
                    pages += page.json
                    query = (page.header("Link") or "").partition(">")[0].removeprefix("<?")
                assert pages == expected, order
            for wrong, name in ORDERS_THAT_MAKE_NO_SENSE:
                answer = await api.get(f"/api/jobs?{wrong}")
                assert (answer.status, name in answer.error) == (400, True), (wrong, answer.body)

    # -- other clients' jobs, and the description of the API --------------------------------------

    async def test_another_client_learns_nothing_and_retries_nothing(self, transport: Transport) -> None:
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
                for nothing in (UNKNOWN, "x", "%00", id[:-1]):
                    gone = await api.call(method, path.replace(id, nothing))
                    assert (gone.status, bool(gone.error)) == (404, True), (path, nothing)
            assert not self.filters or await other.listed("status=failed") == []
            assert len(api.served.table.jobs) == 1
            theirs = await other.submit("fail")
            await other.results(theirs)
            assert not self.filters or await other.listed("status=failed") == [theirs]

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
