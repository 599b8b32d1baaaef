"""`nodekit job list`: the table, and ids for programs."""

import re
from datetime import UTC, datetime
from email.message import Message
from typing import Any

import msgspec
import pytest
from components import functions, request, until
from http_api import Api, serving
from job_command import answering, at_terminal, behind, call, http

import nodekit_memory
from nodekit_asgi.cli import job_table, listing
from nodekit_asgi.cli.client import Reply
from nodekit_asgi.cli.output import fit
from nodekit_asgi.cli.replies import History

pytestmark = pytest.mark.anyio


async def test_list_goes_through_the_pages_with_its_filters(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE", 10)
    asked = [request("fail" if n % 2 else "echo", client="127.0.0.1") for n in range(25)]
    ids = [job.id for job in await api.node.submit_many(asked)]
    await api.node.wait(ids)
    assert (await call(api.url, "list", "--ids")).out.split() == ids[::-1]
    assert (await call(api.url, "list", "--limit", "17", "--json")).json == ids[:-18:-1]
    oldest = await call(api.url, "list", "--ids", "--order", "oldest", "--limit", "12")
    assert oldest.out.split() == ids[:12]
    done = await call(api.url, "list", "--ids", "--status", "failed", "--container", "fail", "--error", "purpose")
    assert done.out.split() == ids[1::2][::-1]


async def test_list_goes_on_behind_empty_pages(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodekit_memory, "SLICE", 2)
    monkeypatch.setattr(nodekit_memory, "PAGE_SLICES", 1)
    asked = [request("fail" if n == 20 else "echo", client="127.0.0.1") for n in range(25)]
    ids = [job.id for job in await api.node.submit_many(asked)]
    await api.node.wait(ids)
    done = await call(api.url, "list", "--status", "failed", "--ids")
    assert (done.code, done.out.split()) == (0, [ids[20]])


async def test_list_tells_jobs_by_status_and_failed_ones_by_where_and_how(api: Api) -> None:
    waiting, good, bad, cancelled = [await api.submit(id) for id in ("gate", "echo", "fail", "gate")]
    await api.call("DELETE", f"/api/jobs/{cancelled}")
    await api.results(good, bad)
    for options, ids in (
        (["--pending"], [waiting]),
        (["--finished"], [cancelled, bad, good]),
        (["--status", "running"], [waiting]),
        (["--status", "success"], [good]),
        (["--status", "failed"], [cancelled, bad]),
        (["--status", "failed", "--limit", "1"], [cancelled]),
        (["--status", "failed", "--container", "gate"], [cancelled]),
        (["--status", "failed", "--error", "on purpose & so?"], []),
        (["--status", "failed", "--error", ": on purp", "--container", "fail", "--json"], [bad]),
    ):
        done = await call(api.url, "list", *options, *([] if "--json" in options else ["--ids"]))
        assert (done.code, done.err) == (0, "")
        assert (done.json if "--json" in options else done.out.split()) == ids
    for wrong, words in (
        (["--status", "done"], "failed"),
        (["--finished", "--pending"], ""),
        (["--status", "failed", "--pending"], "exclude one another"),
        (["--finished", "--status", "success"], "exclude one another"),
        (["--container", "gate"], "--status failed"),
        (["--status", "success", "--error", "x"], "--status failed"),
        (["--no-limit", "--limit", "1"], "exclude each other"),
        (["--ids", "--json"], "exclude each other"),
        (["--order", "newer"], "newest"),
    ):
        done = await call(api.url, "list", *wrong)
        assert (done.code, words in done.err) == (2, True), done.err


# -- the table ----------------------------------------------------------------------------------------


def rows(text: str) -> list[list[str]]:
    """Return the cells of the lines of a table."""
    return [re.split(r"  +", line) for line in text.splitlines()]


async def test_the_table_has_a_line_for_each_job_with_what_became_of_it(api: Api) -> None:
    good, bad, cancelled, waiting = [
        await api.submit(*ids) for ids in (("echo", "echo"), ("echo", "fail", "echo"), ("gate",), ("echo", "gate"))
    ]
    await api.results(good, bad)
    await api.call("DELETE", f"/api/jobs/{cancelled}")
    await until(lambda: api.gate.running)
    done = await call(api.url, "list")
    assert (done.code, done.err) == (0, "")
    head, *lines = rows(done.out)
    assert head == ["id", "status", "age", "steps", "containers"]
    assert [[line[0], line[1], line[3], line[4]] for line in lines] == [
        [waiting, "running", "1/2", "running: gate"],
        [cancelled, "failed", "0/1", "gate: cancelled"],
        [bad, "failed", "1/3", "fail: ValueError: on purpose"],
        [good, "success", "2/2", "echo -> echo"],
    ]
    assert all(re.fullmatch(r"\d+ (s|min)", line[2]) for line in lines)


async def test_the_table_is_short_and_says_that_there_are_more(api: Api) -> None:
    asked = [request("echo", client="127.0.0.1") for _ in range(130)]
    ids = [job.id for job in await api.node.submit_many(asked)][::-1]
    await api.node.wait(ids)
    for options, shown in (
        ([], ids[:20]),
        (["--limit", "110"], ids[:110]),
        (["--no-limit"], ids),
        (["--limit", "130"], ids),
    ):
        done = await call(api.url, "list", *options)
        assert [line[0] for line in rows(done.out)[1:]] == shown
        assert ("--no-limit show more of them" in done.err) == (len(shown) < 130)
        assert done.code == 0


async def test_a_table_costs_one_request_for_a_hundred_jobs_and_carries_no_outputs() -> None:
    async def large(data: Any) -> Any:
        return {"text": "x" * 1_000_000}

    async with serving("hypercorn", runners=[functions(large=large)]) as api:
        ids = [await api.submit("large") for _ in range(20)]
        await api.node.wait(ids)
        passed_on, seen = behind(api, lose=[])
        received = 0

        async def answer(request: bytes) -> bytes | None:
            nonlocal received
            reply = await passed_on(request)
            received += len(reply or b"")
            return reply

        async with answering(answer) as (url, _):
            done = await call(url, "list")
        assert len(rows(done.out)) == 21
        assert seen == ["GET", "GET"]
        assert received < 50_000


async def test_no_jobs_are_said_beside_an_empty_output(api: Api) -> None:
    for options in ([], ["--status", "failed"]):
        done = await call(api.url, "list", *options)
        assert (done.code, done.out, done.err) == (0, "", "nodekit: no jobs\n")
    assert (await call(api.url, "list", "--ids")).err == ""
    assert (await call(api.url, "list", "--json")).json == []


async def test_a_job_that_is_deleted_while_it_is_listed_is_left_out() -> None:
    async def answer(request: bytes) -> bytes | None:
        gone = b"history=true" in request
        return (
            http('{"error": "no such job"}', "404 Not Found")
            if gone
            else http(f'["{"0" * 8}-0000-7000-8000-{"0" * 12}"]')
        )

    async with answering(answer) as (url, _):
        done = await call(url, "list")
    assert (done.code, done.out, done.err) == (0, "", "nodekit: no jobs\n")


async def test_a_node_that_refuses_to_give_the_jobs_gives_no_head_of_a_table() -> None:
    async def answer(request: bytes) -> bytes | None:
        if b"history=true" in request:
            return http('{"error": "too many requests"}', "429 Too Many Requests")
        return http(f'["{"0" * 8}-0000-7000-8000-{"0" * 12}"]')

    async with answering(answer) as (url, _):
        done = await call(url, "list")
    assert (done.code, done.out) == (4, "")
    assert "too many requests" in done.err


async def test_who_is_no_operator_is_told_in_terms_of_options(api: Api) -> None:
    for options in (["--all"], ["--client", "somebody"]):
        done = await call(api.url, "list", *options)
        assert done.code == 1
        assert "only an operator may use jobs of other clients; leave out --all and --client, or give a key" in done.err
        assert "leave out all and client" not in done.err


async def test_at_a_terminal_each_job_takes_one_line_of_its_width() -> None:
    async def fail(data: Any) -> Any:
        raise ValueError("\x1b[2J" + "失敗" * 50)

    async with serving("hypercorn", runners=[functions(fail=fail)]) as api:
        id = await api.submit("fail")
        await api.results(id)
        for columns in (100, 72, 50, 36, 20):
            async with at_terminal(api.url, "list", columns=columns) as terminal:
                assert await terminal.ended() == 0
            _, line, *_ = terminal.screen.split("\r\n")
            assert line.startswith(id)
            wide = sum(2 if letter in "失敗" else 1 for letter in line)
            assert wide <= max(columns, 36)
            assert line.isprintable()
            assert ("fail: Val" in line) == (columns >= 72)


def test_a_text_is_cut_where_it_does_not_fit() -> None:
    for text, columns, shown in (
        ("hello", 5, "hello"),
        ("hello", 4, "hel…"),
        ("失敗した", 8, "失敗した"),
        ("失敗した", 7, "失敗し…"),
        ("失敗した", 6, "失敗…"),
        ("e\u0301te\u0301", 3, "e\u0301te\u0301"),
        ("x" + "\u0301" * 100_000, 5, "x" + "\u0301" * 20 + "…"),
        ("hello", 1, "…"),
        ("hello", 0, ""),
        ("", 0, ""),
    ):
        assert fit(text, columns) == shown


@pytest.mark.parametrize(
    ("date", "age"),
    [
        ("Mon, 05 Jan 2026 12:00:59 GMT", "59 s"),
        ("Mon, 05 Jan 2026 12:59:59 GMT", "59 min"),
        ("Wed, 07 Jan 2026 11:59:00 GMT", "47 h"),
        ("Wed, 07 Jan 2026 12:00:00 GMT", "2 d"),
        ("Mon, 05 Jan 2026 11:00:00 GMT", "0 s"),
    ],
)
def test_the_age_is_by_the_clock_of_the_node(date: str, age: str) -> None:
    headers: Any = Message()
    headers["Date"] = date
    accepted = datetime(2026, 1, 5, 12, tzinfo=UTC)
    history = History("x", "success", "route", ["a"], 3, accepted, [])
    (row,) = job_table.table_rows(iter([(history, Reply("http://node", 200, headers, b""))]), None)
    assert re.split(r"  +", row) == ["x", "success", age, "0", "a"]


def test_a_node_without_a_clock_has_that_of_this_machine() -> None:
    history = msgspec.structs.replace(HISTORY, accepted_at=datetime.now(UTC))
    for date in (None, "yesterday"):
        headers: Any = Message()
        if date:
            headers["Date"] = date
        (row,) = job_table.table_rows(iter([(history, Reply("http://node", 200, headers, b""))]), None)
        assert re.split(r"  +", row)[2].endswith((" s", " min"))


HISTORY = History("x", "success", "sequence", ["a"], 3, datetime.now(UTC), [])
