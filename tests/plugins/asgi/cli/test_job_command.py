"""`nodekit job`, against served nodes and against servers that are no nodes."""

import asyncio
import json
import re
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest
from components import Gate, functions, request, until
from connections import listening
from http_api import Api, free_port, serving
from job_command import UNKNOWN, Done, answering, at_terminal, behind, call, http, spawn
from msgspec.structs import replace
from node_files import SERVED, SLOW, write
from served import serve

from nodekit import JobRequest, JobStatus, Retry
from nodekit_asgi.cli import waiting as _waiting
from nodekit_asgi.cli.address import parse_url
from nodekit_asgi.cli.client import NodeClient
from nodekit_asgi.cli.problems import Dropped, Refused
from nodekit_asgi.cli.progress_line import Progress, progress_line
from nodekit_asgi.cli.replies import History

pytestmark = pytest.mark.anyio


# -- new jobs -----------------------------------------------------------------------------------------


async def test_submit_prints_the_id_of_a_job_that_the_node_has(api: Api) -> None:
    done = await call(api.url, "submit", "echo", "fail")
    assert (done.code, done.err) == (0, "")
    assert (await api.results(done.out.strip()))[0]["status"] == "failed"


async def test_run_prints_the_last_output_and_nothing_else(api: Api) -> None:
    done = await spawn(api.url, "run", "echo", "echo", "--data", '{"text": "hello"}')
    assert (done.code, json.loads(done.out), done.err) == (0, {"text": "hello"}, "")


async def test_run_says_the_error_of_a_failed_job_and_exits_with_1(api: Api) -> None:
    done = await spawn(api.url, "run", "echo", "fail", "--intermediate")
    assert (done.code, done.out) == (1, "echo:\n{}\n")
    assert "failed in container 'fail': ValueError: on purpose" in done.err
    assert len(done.err.splitlines()) == 1


async def test_the_options_of_a_job_reach_the_node(api: Api) -> None:
    options = ("--priority", "1", "--idempotency-key", "k-1", "--pipeline", "sequence", "--requires-proof")
    done = await call(api.url, "submit", "echo", "proof", *options)
    (job,) = await api.node.fetch([done.out.strip()], client="127.0.0.1")
    asked = job.request
    assert (asked.containers, asked.priority, asked.idempotency_key) == (("echo", "proof"), 1, "k-1")
    assert (asked.pipeline, asked.requires_proof) == ("sequence", True)


async def test_stream_prints_the_bytes_as_they_come_and_the_id_beside_them(api: Api) -> None:
    done = await spawn(api.url, "stream", "echo", "--data", '{"text": "hello"}')
    assert (done.code, json.loads(done.out)) == (0, {"text": "hello"})
    found = re.fullmatch(r"nodekit: job (\S+)\n", done.err)
    assert found
    assert (await api.results(found[1]))[0]["status"] == "success"


async def test_stream_says_that_it_broke_off_and_exits_with_1(api: Api) -> None:
    done = await call(api.url, "stream", "fail")
    assert (done.code, done.out) == (1, "")
    cure = r"to see why: nodekit job show \S+ --node \S+"
    assert re.search(rf"^nodekit: the stream broke off; {cure}$", done.err, re.MULTILINE)


@pytest.mark.parametrize("source", ["--data", "--file", "stdin"])
async def test_data_reaches_the_node_as_it_was_written(api: Api, tmp_path: Path, source: str) -> None:
    text = '{"number": 1.10, "number":1e400,\n"ä": [12345678901234567890123]}'
    (tmp_path / "data.json").write_text(f"\ufeff{text}")  # as some editors write it
    given = {"--data": text, "--file": str(tmp_path / "data.json"), "stdin": "-"}[source]
    option = "--file" if source == "stdin" else source
    done = await call(api.url, "submit", "echo", option, given, stdin=text.encode() if source == "stdin" else b"")
    assert done.code == 0, done.err
    (job,) = await api.node.fetch([done.out.strip()], client="127.0.0.1")
    assert bytes(job.request.data).decode() == text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "[1]"], "expected a JSON object"),
        (["--data", '{"a": NaN}'], "not JSON: NaN is no number in JSON (byte 6); use null"),
        (["--data", r'{"a": "\ud800"}'], r"not JSON: \ud800 is half of a surrogate pair"),
        (["--data", ""], "--data: empty; expected an object"),
        (["--data", '{"a": "\udcff"}'], "not UTF-8"),
        (["--data", "{}", "--file", "-"], "exclude each other"),
        (["--file", "/nonexistent"], "No such file"),
        (["--idempotency-key", "two words"], "visible ASCII"),
        (["--priority", "8"], "--priority"),
        (["\udcff"], "not UTF-8"),
        (["--node", "127.0.0.1:4000"], "expected http://HOST:PORT"),
        (["--node", "http://[::1"], "expected http://HOST:PORT"),
        (["--node", "http://me:secret@127.0.0.1"], "expected http://HOST:PORT"),
        (["--node", "unix:"], "unix:PATH"),
    ],
)
async def test_a_wrong_command_line_is_2_and_submits_nothing(api: Api, arguments: Sequence[str], words: str) -> None:
    done = await call(api.url, "submit", "echo", *arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert (await api.get("/api/jobs")).json == []


async def test_a_refusal_is_said_in_the_words_of_the_node(api: Api) -> None:
    for command in ("submit", "run", "stream"):
        done = await call(api.url, command, "nope")
        cure = "the node lists its containers at /info (curl URL/info)"
        refused = f"nodekit: Container not supported (container: nope); {cure}\n"
        assert (done.code, done.out, done.err) == (1, "", refused)


async def test_a_body_that_the_node_does_not_take_is_said_in_its_words(api: Api) -> None:
    done = await call(api.url, "submit", "echo", "--file", "-", stdin=b'{"a": "%s"}' % (b"x" * (17 << 20)))
    assert (done.code, done.out) == (1, "")
    assert "the body is larger than" in done.err


async def test_a_key_submits_once_and_not_another_job(api: Api) -> None:
    first, second = [await call(api.url, "submit", "echo", "--idempotency-key", "k") for _ in range(2)]
    assert first.out == second.out
    other = await call(api.url, "submit", "echo", "--idempotency-key", "k", "--data", '{"a": 1}')
    assert (other.code, other.out) == (1, "")


async def test_run_ends_when_time_is_up_and_says_how_to_get_at_the_job(api: Api) -> None:
    done = await call(api.url, "run", "gate", "--timeout", "0.3")
    assert (done.code, done.out) == (5, "")
    (id,) = (await api.get("/api/jobs?pending=true")).json
    hint = re.search(r"nodekit job (get \S+ --node \S+); to cancel it: nodekit job (cancel \S+ --node \S+)", done.err)
    assert hint
    assert (len(done.err.splitlines()), "\r" in done.err) == (1, False)
    assert (await call("http://127.0.0.1:1", *hint[1].split())).out == f"{id}  running\n"
    assert (await call("http://127.0.0.1:1", *hint[2].split())).out == f"{id}  failed  gate\nerror: cancelled\n"


async def test_a_node_on_a_unix_socket_is_called_as_well(tmp_path: Path) -> None:
    async with serving("hypercorn", bind=f"unix:{tmp_path}/s"):
        done = await call("http://127.0.0.1:1", "run", "echo", "--data", '{"a": 1}', "--node", f"unix:{tmp_path}/s")
        assert (done.code, done.json) == (0, {"a": 1}), done.err


async def test_errors_cannot_command_the_terminal() -> None:
    async def paint(data: Any) -> Any:
        raise ValueError("\x1b[31mred\x1b[0m\nnodekit: all is well")

    async with serving("hypercorn", runners=[functions(paint=paint)]) as api:
        done = await call(api.url, "run", "paint")
        assert done.code == 1
        assert "\x1b" not in done.err
        assert "red" in done.err
        assert len(done.err.splitlines()) == 1
        (id,) = (await api.get("/api/jobs")).json
        for command in ("get", "show"):
            assert "\x1b" not in (await call(api.url, command, id)).out


# -- jobs that are there ------------------------------------------------------------------------------


async def test_get_shows_results_and_passes_over_jobs_that_are_not_there(api: Api) -> None:
    good, bad = await api.submit("echo", "echo", a=1), await api.submit("fail")
    await api.results(good, bad)
    done = await call(api.url, "get", good, bad, good)
    assert done.out == f'{good}  success  echo\n{{"a":1}}\n{bad}  failed  fail\nerror: ValueError: on purpose\n'
    assert (done.code, done.err) == (0, "")
    done = await call(api.url, "get", UNKNOWN, good, "--intermediate")
    assert done.out == f'{good}  success  echo\nstep echo:\n{{"a":1}}\nresult:\n{{"a":1}}\n'
    assert done.code == 1
    assert f"no such job: {UNKNOWN}" in done.err


async def test_more_ids_are_asked_for_than_the_node_takes_at_once(api: Api) -> None:
    jobs = await api.node.submit_many([request("echo", client="127.0.0.1") for _ in range(201)])
    ids = [job.id for job in jobs]
    await api.node.wait(ids)
    done = await call(api.url, "get", *ids, UNKNOWN, "--json")
    assert [job["id"] for job in done.json] == ids
    assert (done.code, UNKNOWN in done.err) == (1, True)


async def test_retry_goes_on_with_a_failed_job_and_prints_the_id_of_the_new_one() -> None:
    calls: list[str] = []
    mended = False

    async def count(data: Any) -> Any:
        calls.append("count")
        return {"n": data["n"] + 1}

    async def flaky(data: Any) -> Any:
        calls.append("flaky")
        if not mended:
            raise ValueError("not mended")
        return data

    async with serving("hypercorn", runners=[functions(count=count, flaky=flaky)]) as api:
        old = await api.submit("count", "flaky", n=1)
        await api.results(old)
        mended = True
        done = await call(api.url, "retry", old, "--priority", "1", "--idempotency-key", "k")
        assert (done.code, done.err) == (0, "")
        (job,) = await api.results(new := done.out.strip())
        assert (job["status"], job["result"]["output"]) == ("success", {"n": 2})
        assert calls == ["count", "flaky", "flaky"]
        assert (await call(api.url, "retry", old, "--priority", "1", "--idempotency-key", "k")).out.strip() == new
        shown = (await call(api.url, "show", new)).out
        assert re.search(rf"^retry of +{old}$", shown, re.MULTILINE)
        assert re.search(r"^priority +1$", shown, re.MULTILINE)
        assert re.search(r"^1 +count +1 +-\d", shown, re.MULTILINE), "its time is before the new job's"
        assert re.search(r"^2 +flaky +1 +\+\d", shown, re.MULTILINE)
        again = await call(api.url, "retry", old, "--from", "start", "--json")
        assert set(again.json) == {"id"}
        await api.results(again.json["id"])
        assert calls[3:] == ["count", "flaky"]


async def test_retry_says_in_the_words_of_the_node_what_is_not_retried(api: Api) -> None:
    good = await api.submit("echo")
    await api.results(good)
    for id, words in ((good, "can be retried"), (UNKNOWN, "no such job"), ("a/b?c", "no such"), ("\udcff", "no such")):
        done = await call(api.url, "retry", id)
        assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1), done.err
        assert words in done.err
    assert (await call(api.url, "retry", good, "--from", "middle")).code == 2
    assert (await call(api.url, "retry", good, "--idempotency-key", "two words")).code == 2


async def test_a_retry_whose_answer_is_lost_makes_one_job(api: Api) -> None:
    old = await api.submit("fail")
    await api.results(old)
    answer, seen = behind(api, lose=["POST"])
    async with answering(answer) as (url, _):
        done = await call(url, "retry", old)
    assert (done.code, seen) == (0, ["POST", "POST"]), done.err
    assert (await api.get("/api/jobs")).json == [old, done.out.strip()]


async def test_cancel_ends_jobs_and_leaves_finished_ones(api: Api) -> None:
    running, finished = await api.submit("gate"), await api.submit("echo")
    await api.results(finished)
    done = await call(api.url, "cancel", finished, UNKNOWN, running)
    assert done.out == f"{finished}  success  echo\n{{}}\n{running}  failed  gate\nerror: cancelled\n"
    assert (done.code, UNKNOWN in done.err) == (1, True)
    assert [job.status for job in await api.node.fetch([running], client="127.0.0.1")] == [JobStatus.CANCELLED]


async def test_show_has_a_row_for_each_attempt() -> None:
    calls = 0

    async def flaky(data: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ValueError(f"failure {calls}")
        return data

    gate = Gate()
    runner = functions({"flaky": {"retry": Retry(attempts=3, first_delay_seconds=0)}}, flaky=flaky, gate=gate)
    async with serving("hypercorn", runners=[runner]) as api:
        id = await api.submit("echo", "flaky")
        await api.results(id)
        done = await call(api.url, "show", id)
        head, _, table = done.out.partition("\n\n")
        facts = dict(line.split(maxsplit=1) for line in head.splitlines())
        assert (facts["job"], facts["status"], facts["pipeline"]) == (id, "success", "sequence: echo -> flaky")
        assert [re.split(r"  +", line.strip())[-1] for line in table.splitlines()] == [
            "outcome",
            "an output",
            "status 500: ValueError: failure 1",
            "status 500: ValueError: failure 2",
            "an output",
        ]
        request = replace(JobRequest.of("echo", data={}, client="127.0.0.1"), meta={"tenant": "acme"})
        noted = (await api.node.submit(request)).id
        assert re.search(r"^meta +tenant: acme$", (await call(api.url, "show", noted)).out, re.M)
        gated = await api.submit("gate")
        await until(lambda: gate.running)
        assert re.search(
            r"^1 +gate +1 +\+.* +- +function +under way on node$", (await call(api.url, "show", gated)).out, re.M
        )
        gate.opened.set()
        unknown = await call(api.url, "show", UNKNOWN)
        assert (unknown.code, unknown.out) == (1, "")
        assert unknown.err.startswith(f"nodekit: no such job: {UNKNOWN} (only the client that submitted a job")


async def test_json_is_the_document_of_the_node_and_nothing_else(api: Api) -> None:
    id = (await call(api.url, "submit", "echo", "--json")).json["id"]
    await api.results(id)
    job = (await api.get(f"/api/jobs?id={id}&intermediate=true")).json[0]
    assert (await call(api.url, "get", id, "--intermediate", "--json")).json == [job]
    assert (await call(api.url, "list", "--json")).json == [id]
    assert (await call(api.url, "show", id, "--json")).json == (await api.get(f"/api/jobs/{id}")).json
    del job["intermediate_results"]
    assert (await call(api.url, "cancel", id, "--json")).json == [job]
    ran = await call(api.url, "run", "fail", "--json")
    assert (ran.code, ran.json["status"], ran.json["result"]["container"]) == (1, "failed", "fail")
    unknown = await call(api.url, "get", UNKNOWN, "--json")
    assert (unknown.code, unknown.json) == (1, [])


# -- at a terminal ------------------------------------------------------------------------------------


async def test_at_a_terminal_a_line_says_how_far_the_job_is_and_is_gone_at_the_end(api: Api, tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with at_terminal(api.url, "run", "echo", "gate", "--data", '{"a": 1}', out=out) as terminal:
        await terminal.shows(r"\r\d+ s  step 2 of 2: gate\x1b\[K")
        api.gate.opened.set()
        assert await terminal.ended() == 0
        assert terminal.screen.endswith("\r\x1b[K")
        assert "\n" not in terminal.screen
    assert json.loads(out.read_text()) == {"a": 1}


async def test_an_output_is_indented_at_a_terminal(api: Api) -> None:
    async with at_terminal(api.url, "run", "echo", "--data", '{"a": [1.10]}') as terminal:
        assert await terminal.ended() == 0
        assert '{\r\n  "a": [\r\n    1.1\r\n  ]\r\n}\r\n' in terminal.screen


HOSTILE = "\x1b[2J\x9b31m\u202e\u2028\x85\x7f"


async def test_nothing_that_a_container_says_commands_the_terminal(tmp_path: Path) -> None:
    """Outputs, errors and streams; into a file they go as they are."""

    async def say(data: Any) -> Any:
        return {"said": HOSTILE}

    async def fail(data: Any) -> Any:
        raise ValueError(HOSTILE)

    async with serving("hypercorn", runners=[functions(say=say, fail=fail)]) as api:
        said, failed = [(await call(api.url, "submit", name)).out.strip() for name in ("say", "fail")]
        await api.results(said, failed)
        for command in (
            ("run", "say"),
            ("run", "say", "--json"),
            ("run", "fail"),
            ("stream", "say"),
            *((command, said, failed) for command in ("get", "cancel")),
            ("get", said, failed, "--json"),
            ("show", failed),
            ("show", failed, "--json"),
        ):
            async with at_terminal(api.url, *command) as terminal:
                await terminal.ended()
                lines = terminal.screen.replace("\r\x1b[K", "").split("\r\n")  # drawn by the command itself
                assert all(line.isprintable() for line in lines), (command, lines)
                assert "[2J" in terminal.screen, command
        out = tmp_path / "out"
        for name in ("run", "stream"):
            async with at_terminal(api.url, name, "say", out=out) as terminal:
                assert await terminal.ended() == 0
            assert json.loads(out.read_text()) == {"said": HOSTILE}
            assert "\x9b" in out.read_text()


async def test_ctrl_c_ends_a_stream_and_says_what_becomes_of_its_job(api: Api) -> None:
    async with at_terminal(api.url, "stream", "gate") as terminal:
        await terminal.shows("nodekit: job ")
        (id,) = (await api.get("/api/jobs?pending=true")).json
        terminal.press(b"\x03")
        assert await terminal.ended() == 130
        again = f"to run it again: nodekit job retry {id} --node {api.url}"
        assert f"interrupted; job {id} is cancelled, since nobody reads its stream; {again}" in terminal.screen
    assert (await api.results(id))[0]["status"] == "failed"


async def test_ctrl_c_ends_the_waiting_and_not_the_job(api: Api) -> None:
    async with at_terminal(api.url, "run", "gate") as terminal:
        await terminal.shows("step 1 of 1: gate")
        terminal.press(b"\x03")
        assert await terminal.ended() == 130
        (id,) = (await api.get("/api/jobs?pending=true")).json
        assert f"interrupted; job {id} continues; to read it: nodekit job get {id} --node {api.url}" in terminal.screen
        assert "Traceback" not in terminal.screen
    api.gate.opened.set()
    assert (await api.results(id))[0]["status"] == "success"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
async def test_a_signal_that_ends_the_command_is_answered_as_ctrl_c_is(api: Api, number: signal.Signals) -> None:
    async with at_terminal(api.url, "run", "gate") as terminal:
        await terminal.shows("step 1 of 1: gate")
        terminal.process.send_signal(number)
        assert await terminal.ended() == 128 + number
        (id,) = (await api.get("/api/jobs?pending=true")).json
        assert f"interrupted; job {id} continues; to read it: nodekit job get {id} --node {api.url}" in terminal.screen
    api.gate.opened.set()
    assert (await api.results(id))[0]["status"] == "success"


def test_the_line_names_the_attempt_and_what_went_wrong_before() -> None:
    attempt = {"started_at": "2026-01-01T00:00:00.5Z", "duration_seconds": 0.5}
    steps = [
        {"container": "a", "attempts": [attempt]},
        {"container": "b", "attempts": [{**attempt, "error": "no reply\x1b[m"}]},
    ]
    job = {"id": "x", "status": "running", "pipeline": "sequence", "containers": ["a", "b", "c"], "priority": 3}
    history = msgspec.convert({**job, "accepted_at": "2026-01-01T00:00:00Z", "steps": steps, "due": "b"}, History)
    assert progress_line(history, 75) == "1 min 15 s  step 2 of 3: b, attempt 2, after: no reply\\x1b[m"


# -- what is not a node, and nodes in trouble --------------------------------------------------------

COMMANDS = (
    ("batch", "-"),
    ("submit", "echo"),
    ("run", "echo"),
    ("get", UNKNOWN),
    ("list",),
    ("show", UNKNOWN),
    ("cancel", UNKNOWN),
    ("retry", UNKNOWN),
)
REQUEST = b'{"containers": ["echo"], "data": {}}'


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
async def test_a_node_that_is_not_there_is_4_and_the_line_says_what_to_do(command: Sequence[str]) -> None:
    done = await call(f"http://127.0.0.1:{free_port()}", *command, "--json", stdin=REQUEST)
    assert (done.code, done.out, len(done.err.splitlines())) == (4, "", 1)
    assert "no node listens at" in done.err
    assert "nodekit serve FILE" in done.err
    assert "--node" in done.err


async def test_a_socket_or_a_host_that_is_not_there_is_4(tmp_path: Path) -> None:
    done = await call(f"unix:{tmp_path}/none", "list")
    assert (done.code, "there is no socket" in done.err) == (4, True)
    done = await call("http://no-such-host.invalid:4000", "list")
    assert (done.code, "no-such-host.invalid" in done.err) == (4, True)


HTML = "<html><body>Welcome to nginx!</body></html>"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (None, "closed the connection without an answer"),
        (b"220 mail ESMTP\r\n", "does not speak HTTP"),
        (http(HTML, type="text/html"), "is not a node (HTTP status 200, text/html)"),
        (http(HTML, "404 Not Found", type="text/html"), "is not a node (HTTP status 404, text/html)"),
        (http(HTML, "502 Bad Gateway", type="text/html"), "502 Bad Gateway: is it a proxy that cannot reach the node?"),
        (http('{"detail": "Not Found"}', "404 Not Found"), "is not a node (HTTP status 404, application/json)"),
        (http("", "301 Moved", "Location: https://node.example/"), "redirects to https://node.example/"),
        (http("[1, 2"), "is not a node"),
        (http('{"jobs": []}'), "is not a node"),
        (http("[" * 100_000), "is not a node"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n["\xff"]', "is not a node"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n["x"', "broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "broke off"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", "broke off"),
        (http('["a"]', "200 OK", 'Link: <http://other.example/api/jobs>; rel="next"'), "is not a node"),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
async def test_what_does_not_answer_as_a_node_is_4_and_one_line(reply: bytes | None, words: str) -> None:
    async def answer(request: bytes) -> bytes | None:
        return reply

    async with answering(answer) as (url, _):
        done = await call(url, "list", "--json")
        assert (done.code, done.out, len(done.err.splitlines())) == (4, "", 1)
        assert words in done.err
        assert url in done.err


async def test_a_kept_connection_that_the_node_has_closed_is_opened_again() -> None:
    pages = [http('["a"]', "200 OK", 'Link: <?after=a>; rel="next"').replace(b"close", b"keep-alive"), http('["b"]')]
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(pages.pop(0))
        if pages:
            await reader.readuntil(b"\r\n\r\n")  # the second request comes on this connection, and is not answered

    async with listening(serve) as server:
        host, port = server.sockets[0].getsockname()
        done = await call(f"http://{host}:{port}", "list", "--ids")
    assert (done.code, done.out, connections) == (0, "a\nb\n", 2), done.err


def test_an_answer_to_a_body_that_the_node_does_not_read_is_heard() -> None:
    ours, theirs = socket.socketpair()
    with theirs, NodeClient(parse_url("unix:/nonexistent")) as client:
        theirs.sendall(http('{"error": "too large"}', "413 Too Large"))
        theirs.shutdown(socket.SHUT_RD)  # on a unix socket, the peer's next send fails
        client._connection.sock = ours
        with pytest.raises(Refused, match="too large"):
            client.request("POST", "/api/jobs", body=b"x")


async def test_a_node_that_is_gone_for_good_is_waited_for_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = 0

    async def answer(request: bytes) -> bytes | None:
        nonlocal asked
        asked += 1
        return None

    def wait(url: str) -> None:
        with NodeClient(parse_url(url)) as client, pytest.raises(Dropped):
            _waiting.wait_for(client, UNKNOWN, _waiting.Deadline(None), Progress(), intermediate=False)

    monkeypatch.setattr(_waiting, "TRIES", 3)
    async with answering(answer) as (url, _):
        await anyio.to_thread.run_sync(wait, url)
    assert asked == 3


async def test_an_answer_that_is_lost_on_the_way_submits_nothing_twice(api: Api) -> None:
    answer, seen = behind(api, lose=["POST", "GET"])
    async with answering(answer) as (url, _):
        done = await call(url, "run", "echo", "--data", '{"a": 1}')
    assert (done.code, done.json) == (0, {"a": 1}), done.err
    assert (seen.count("POST"), seen.count("GET")) == (2, 2)
    assert len((await api.get("/api/jobs")).json) == 1


async def test_where_it_is_not_known_whether_the_node_has_the_job_the_key_is_said() -> None:
    async def answer(request: bytes) -> bytes | None:
        server.close()
        return None

    async with answering(answer) as (url, server):
        done = await call(url, "run", "echo", "--idempotency-key", "mine", "--timeout", "0.5")
    assert (done.code, done.out) == (4, "")
    *_, problem, cure = done.err.splitlines()
    assert "no node listens" in problem
    assert "the node may have the job; to find out, run the same command with --idempotency-key mine" in cure


async def test_ctrl_c_while_submitting_says_the_key() -> None:
    asked = anyio.Event()

    async def answer(request: bytes) -> bytes | None:
        asked.set()
        await anyio.sleep_forever()
        return None

    async with answering(answer) as (url, _), at_terminal(url, "run", "echo") as terminal:
        await asked.wait()
        terminal.press(b"\x03")
        assert await terminal.ended() == 130
        assert "interrupted; the node may have the job" in terminal.screen
        assert re.search(r"--idempotency-key [0-9a-f-]{36}", terminal.screen)


async def test_a_busy_node_is_asked_again_when_it_said_to(api: Api) -> None:
    passed_on, _ = behind(api, lose=[])
    busy = [http('{"error": "full"}', f"{status} Busy", "Retry-After: 0") for status in (429, 503)]

    async def answer(request: bytes) -> bytes | None:
        return busy.pop() if busy else await passed_on(request)

    async with answering(answer) as (url, _):
        done = await call(url, "run", "echo")
    assert (done.code, done.out) == (0, "{}\n")
    assert done.err.splitlines() == ["nodekit: full; trying again in 0 s"] * 2


async def test_a_node_that_stays_busy_is_asked_a_bounded_number_of_times() -> None:
    asked = 0

    async def answer(request: bytes) -> bytes | None:
        nonlocal asked
        asked += 1
        return http('{"error": "full"}', "503 Busy", "Retry-After: 0")

    async with answering(answer) as (url, _):
        done = await call(url, "submit", "echo")
    assert (done.code, done.out, asked) == (4, "", 8)
    assert done.err.splitlines()[-1] == "nodekit: full"


async def test_a_node_that_is_full_for_long_is_4_at_once() -> None:
    async def answer(request: bytes) -> bytes | None:
        return http('{"error": "full"}', "503 Busy", "Retry-After: 3600")

    async with answering(answer) as (url, _):
        done = await call(url, "run", "echo")
    assert (done.code, done.out, done.err) == (4, "", "nodekit: full\n")


async def test_a_node_that_does_not_hold_its_answer_is_not_asked_without_a_pause() -> None:
    polls = 0

    async def answer(request: bytes) -> bytes | None:
        nonlocal polls
        if request.startswith(b"POST"):
            return http('{"id": "x"}')
        polls += 1
        return http('[{"id": "x", "status": "running", "result": null}]')

    async with answering(answer) as (url, _):
        done = await call(url, "run", "echo", "--timeout", "1.2")
    assert done.code == 5
    assert polls <= 4


async def test_run_waits_through_a_restart_of_the_node(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    file = write(tmp_path, SERVED.replace("127.0.0.1:0", f"127.0.0.1:{free_port()}"))
    data = json.dumps({"started": str(tmp_path / "started"), "go": str(tmp_path / "go")})
    async with anyio.create_task_group() as tasks:
        ended: list[Done] = []

        async def run() -> None:
            ended.append(await call(url, "run", "slow", "--data", data))

        async with serve(file) as (served, api):
            url = api.url
            tasks.start_soon(run)
            await until((tmp_path / "started").exists)
            served.signal(signal.SIGKILL)
            await served.ended()
        (tmp_path / "go").touch()
        async with serve(file):
            await until(lambda: ended)
    assert (ended[0].code, ended[0].json) == (0, {"done": True}), ended[0].err
