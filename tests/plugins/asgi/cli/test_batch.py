"""`nodekit job batch`: each job of a file is submitted once, and no id is lost."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from components import until
from connections import listening
from http_api import Api, free_port, serving
from job_command import answering, at_terminal, behind, call, http
from served import NODEKIT

from nodekit_asgi.cli import batching
from nodekit_asgi.cli.batching import batches

pytestmark = pytest.mark.anyio

ECHO = '{"containers": ["echo"], "data": {}}'
NOPE = '{"containers": ["nope"], "data": {}}'
FAIL = '{"containers": ["fail"], "data": {}}'
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"


def lines(*requests: str) -> bytes:
    return "\n".join(requests).encode()


def numbered(number: int, container: str = "echo") -> list[str]:
    return [json.dumps({"containers": [container], "data": {"n": n}}) for n in range(number)]


async def numbers(api: Api, ids: Sequence[str]) -> list[int]:
    """Return the numbers in the data of jobs; ids of jobs that are not there have none."""
    jobs = await api.node.fetch(list(ids), client="127.0.0.1")
    return [json.loads(bytes(job.request.data))["n"] for job in jobs]


async def stored(api: Api) -> list[int]:
    """Return the sorted numbers of all jobs of the client."""
    return sorted(await numbers(api, (await api.get("/api/jobs")).json))


# -- the file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        lines(ECHO, NOPE, ECHO),
        lines(ECHO, "", NOPE, " ", ECHO, ""),
        b"\xef\xbb\xbf" + lines(ECHO, NOPE, ECHO).replace(b"\n", b"\r\n"),
        f" \n[{ECHO},\n{NOPE}, {ECHO}]\n".encode(),
    ],
    ids=["lines", "blank lines", "from Windows", "array"],
)
async def test_each_request_has_its_line_with_an_id_or_an_error(api: Api, text: bytes, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_bytes(text)
    done = await call(api.url, "batch", str(tmp_path / "jobs"))
    first, second, third = done.out.splitlines()
    assert (done.code, done.err) == (1, "")
    assert second == "error: Container not supported (container: nope)"
    assert (await api.get("/api/jobs")).json == [first, third]
    done = await call(api.url, "batch", "-", "--json", stdin=text)
    assert [set(one) for one in done.json] == [{"id"}, {"error", "params"}, {"id"}]
    assert (done.code, done.err) == (1, "")


async def test_a_file_without_requests_submits_nothing(api: Api) -> None:
    for text in (b"", b"\n\n", b"[]"):
        done = await call(api.url, "batch", "-", stdin=text)
        assert (done.code, done.out, done.err) == (0, "", "")
        assert (await call(api.url, "batch", "-", "--json", "--wait", stdin=text)).json == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lines(ECHO, "{", ECHO), "line 2: not JSON: a number or text is cut short; expected a job request"),
        (lines(ECHO, "", '{"a": NaN}'), "line 3: not JSON: NaN is no number in JSON (byte 6); use null"),
        (lines(ECHO, "42"), "line 2: expected a job request"),
        (lines(ECHO, f"[{ECHO}]"), "line 2: expected a job request"),
        (lines(ECHO, ECHO + ECHO), "line 2: not JSON"),
        (lines(ECHO, '{"a": ' * 100_000), "line 2: nested more than 128 deep"),
        (lines(ECHO) + b"\n\xff", "line 2: not UTF-8"),
        (f"[{ECHO},\n{ECHO}\n{ECHO}]".encode(), "line 3: not JSON"),
        (f"[{ECHO},\n{ECHO}".encode(), "line 2: not JSON"),
        (f"[{ECHO},\n1]".encode(), "item 2: expected a job request"),
        (b"[" * 100_000, "line 1: nested more than 128 deep"),
        (b"hello", "line 1: not JSON"),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_a_malformed_request_is_named_before_anything_is_submitted(api: Api, text: bytes, words: str) -> None:
    done = await call(api.url, "batch", "-", stdin=text)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert (await api.get("/api/jobs")).json == []


async def test_the_options_of_a_batch_reach_each_job(api: Api) -> None:
    for options in (["--priority", "1"], ["--priority", "1", "--idempotency-key", "k"]):
        done = await call(api.url, "batch", "-", *options, stdin=lines(ECHO, ECHO))
        jobs = await api.node.fetch(done.out.split(), client="127.0.0.1")
        assert [job.request.priority for job in jobs] == [1, 1]
    assert [job.request.idempotency_key for job in jobs] == ["k-1", "k-2"]
    done = await call(api.url, "batch", "-", "--skip", "2", stdin=lines(*numbered(4)))
    assert await numbers(api, done.out.split()) == [2, 3]
    long = await call(api.url, "batch", "-", "--idempotency-key", "k" * 255, stdin=lines(ECHO))
    assert (long.code, "shorten it" in long.err) == (2, True)


# -- batches ------------------------------------------------------------------------------------------


def test_batches_are_cut_by_number_and_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BATCH_ITEMS", 3)
    monkeypatch.setattr(batching, "BATCH_BYTES", 10)
    assert list(batches([1] * 7)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batches([4, 4, 4, 100, 1, 1])) == [[0, 1], [2], [3], [4, 5]]
    assert list(batches([])) == []


async def test_many_jobs_take_few_requests_and_keep_their_order(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BATCH_ITEMS", 40)
    answer, seen = behind(api, lose=[])
    async with answering(answer) as (url, _):
        done = await call(url, "batch", "-", stdin=lines(*numbered(100)))
    assert (done.code, seen) == (0, ["POST"] * 3)
    assert await numbers(api, done.out.split()) == list(range(100))


@pytest.mark.parametrize("limits", [{"max_batch": 3}, {"max_body_bytes": 200}], ids=str)
async def test_a_node_with_smaller_limits_gets_smaller_batches(limits: Any) -> None:
    async with serving("hypercorn", **limits) as api:
        requests = numbered(10)
        requests[4] = requests[4].replace("{", '{"x": "%s", ' % ("x" * 300), 1)
        done = await call(api.url, "batch", "-", stdin=lines(*requests))
        errors = [line for line in done.out.splitlines() if line.startswith("error: ")]
        assert len(done.out.splitlines()) == 10
        if "max_batch" in limits:
            assert (done.code, errors) == (0, [])
        else:
            assert (done.code, errors) == (1, [done.out.splitlines()[4]])
            assert "larger than" in errors[0]
        assert await stored(api) == [n for n in range(10) if n != 4 or not errors]


async def test_a_request_that_spoils_its_batch_is_found(api: Api) -> None:
    deep = ECHO.replace("{}", f'{{"n": {"[" * 200}{"]" * 200}}}')
    done = await call(api.url, "batch", "-", stdin=lines(*numbered(5), deep, *numbered(3)))
    assert done.code == 1
    assert [bool(re.fullmatch(UUID, line)) for line in done.out.splitlines()] == [True] * 5 + [False] + [True] * 3
    assert "deep" in done.out.splitlines()[5]
    assert len((await api.get("/api/jobs")).json) == 8


async def test_what_is_beyond_a_limit_is_submitted_later_and_once() -> None:
    async with serving("hypercorn", node={"max_pending": 4}) as api:
        requests = numbered(30)
        requests[7] = NOPE
        done = await call(api.url, "batch", "-", stdin=lines(*requests))
        assert done.code == 1, done.err
        out = done.out.splitlines()
        assert out.pop(7) == "error: Container not supported (container: nope)"
        assert await numbers(api, out) == [n for n in range(30) if n != 7]
        assert len((await api.get("/api/jobs")).json) == 29


async def test_a_node_that_stays_full_has_each_request_answered_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", 0.5)
    async with serving("hypercorn", node={"max_pending": 4}) as api:  # three of one client
        done = await call(api.url, "batch", "-", "--json", stdin=lines(*numbered(3, "gate"), NOPE, *numbered(2)))
        ids = (await api.get("/api/jobs")).json
        assert (done.code, done.json[:3]) == (4, [{"id": id} for id in ids])
        assert done.json[3:] == [{"error": "not submitted"}] * 3
        problem, cure = done.err.splitlines()[-2:]
        assert "unfinished jobs" in problem
        assert cure == "nodekit: 3 of 6 requests were not submitted; run the same command with --skip 3"


async def test_ids_are_known_outside_while_the_command_waits_for_room(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_bytes(lines(*numbered(1, "gate"), NOPE, *numbered(2, "gate"), ECHO, NOPE))
    async with serving("hypercorn", node={"max_pending": 4}) as api:  # three of one client
        out = tmp_path / "out"
        async with at_terminal(api.url, "batch", str(tmp_path / "jobs"), out=out) as terminal:
            await terminal.shows("request 4: job .* is accepted")
            first, second, third = (await api.get("/api/jobs")).json
            assert out.read_text() == f"{first}\n"  # the order is that of the file
            assert f"request 3: job {second} is accepted" in terminal.screen
            assert f"request 4: job {third} is accepted" in terminal.screen
            api.gate.opened.set()
            assert await terminal.ended() == 1
        printed = out.read_text().splitlines()
        assert [line.partition(":")[0] for line in printed] == [first, "error", second, third, printed[4], "error"]
        assert terminal.screen.count("is accepted") == 2


# -- answers that are lost ----------------------------------------------------------------------------


async def test_a_batch_whose_answer_is_lost_is_not_sent_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BATCH_ITEMS", 3)
    passed_on, seen = behind(api, lose=[])

    async def answer(request: bytes) -> bytes | None:
        reply = await passed_on(request)
        return None if len(seen) == 2 else reply

    async with answering(answer) as (url, _):
        done = await call(url, "batch", "-", stdin=lines(*numbered(8)))
    assert (done.code, seen) == (4, ["POST", "POST"])
    assert await stored(api) == [0, 1, 2, 3, 4, 5]
    out = done.out.splitlines()
    assert await numbers(api, out[:3]) == [0, 1, 2]
    assert out[3:6] == ["error: not known: the node may have this job, its answer is lost"] * 3
    assert out[6:] == ["error: not submitted"] * 2
    problem, unknown, cure = done.err.splitlines()
    assert "closed the connection without an answer" in problem
    assert "the node may have the jobs of requests 4 to 6" in unknown
    assert cure == "nodekit: 2 of 8 requests were not submitted; run the same command with --skip 6"


async def test_with_a_key_no_answer_is_lost_and_nothing_is_submitted_twice(api: Api) -> None:
    answer, seen = behind(api, lose=["POST", "POST"])
    options = ("batch", "-", "--idempotency-key", "k")
    async with answering(answer) as (url, _):
        done = await call(url, *options, stdin=lines(*numbered(5)))
    assert (done.code, len(seen)) == (0, 7)
    assert await numbers(api, done.out.split()) == [0, 1, 2, 3, 4]
    again = await call(api.url, *options, stdin=lines(*numbered(7)))
    assert again.out.split()[:5] == done.out.split()
    assert await stored(api) == [0, 1, 2, 3, 4, 5, 6]
    other = await call(api.url, *options, stdin=lines(ECHO, NOPE))
    assert (other.code, len(other.out.splitlines())) == (1, 2)
    assert other.out.startswith("error: ")


async def test_a_connection_is_not_kept_for_a_batch_that_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BATCH_ITEMS", 1)
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"(?i)content-length: (\d+)", head)
            assert length
            await reader.readexactly(int(length[1]))
            reply = http(json.dumps([{"id": f"job-{connections}"}]))
            writer.write(reply.replace(b"Connection: close", b"Connection: keep-alive"))

    async with listening(serve) as server:
        host, port = server.sockets[0].getsockname()
        done = await call(f"http://{host}:{port}", "batch", "-", stdin=lines(ECHO, ECHO, ECHO))
    assert (done.out.split(), connections) == (["job-1", "job-2", "job-3"], 3), done.err


async def test_a_node_that_is_away_between_two_batches_is_waited_for(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BATCH_ITEMS", 2)
    passed_on, seen = behind(api, lose=[])
    port, loop = free_port(), asyncio.get_running_loop()
    noticed: list[str] = []
    away_is_noticed = anyio.Event()

    def notice(text: str) -> None:
        noticed.append(text)
        loop.call_soon_threadsafe(away_is_noticed.set)

    monkeypatch.setattr(batching, "notice", notice)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length
        reply = await passed_on(head + await reader.readexactly(int(length[1])))
        if len(seen) == 1:  # from here on nothing listens, until somebody notices
            server.close()
        writer.write(reply or b"")
        await writer.drain()
        writer.close()

    async def come_back() -> None:
        await away_is_noticed.wait()
        servers.append(await asyncio.start_server(serve, "127.0.0.1", port))

    servers: list[asyncio.Server] = []
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(come_back)
        done = await call(f"http://127.0.0.1:{port}", "batch", "-", stdin=lines(*numbered(4)))
    servers[0].close()
    assert done.code == 0, done.err
    assert "no node listens" in noticed[0]
    assert await numbers(api, done.out.split()) == [0, 1, 2, 3]


async def test_ctrl_c_prints_what_is_known_and_how_to_go_on(api: Api, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_bytes(lines(*numbered(1500)))
    passed_on, seen = behind(api, lose=[])
    stuck = anyio.Event()

    async def answer(request: bytes) -> bytes | None:
        if len(seen) == 1:
            stuck.set()
            await anyio.sleep_forever()
        return await passed_on(request)

    out = tmp_path / "out"
    async with answering(answer) as (url, _), at_terminal(url, "batch", str(tmp_path / "jobs"), out=out) as terminal:
        await stuck.wait()
        terminal.press(b"\x03")
        assert await terminal.ended() == 130
        assert "interrupted" in terminal.screen
        assert "the node may have the jobs of requests 1001 to 1500" in terminal.screen
        assert "Traceback" not in terminal.screen
    printed = out.read_text().splitlines()
    assert len(printed) == 1500
    assert printed[:1000] == (await api.get("/api/jobs")).json


# -- output -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["batch", "-"], ["batch", "-", "--json"], ["submit", "echo"], ["run", "echo"]])
async def test_an_id_that_standard_output_does_not_take_is_on_standard_error(api: Api, command: Sequence[str]) -> None:
    def run() -> "subprocess.CompletedProcess[bytes]":
        environment = {**os.environ, "NODEKIT_URL": api.url}
        with open("/dev/full", "wb") as full:
            return subprocess.run(
                [*NODEKIT, "job", *command], stdout=full, stderr=subprocess.PIPE, input=lines(ECHO, NOPE, ECHO),
                env=environment, timeout=60, check=False,
            )  # fmt: skip

    done = await anyio.to_thread.run_sync(run)
    ids = (await api.get("/api/jobs")).json
    assert len(ids) == (2 if command[0] == "batch" else 1)
    assert re.findall(rf"job ({UUID}) was accepted", done.stderr.decode()) == ids
    assert done.returncode != 0


# -- --wait -------------------------------------------------------------------------------------------


async def test_wait_prints_the_results_after_the_ids(api: Api) -> None:
    done = await call(api.url, "batch", "-", "--wait", stdin=lines(*numbered(2)))
    first, second, *rest = done.out.splitlines()
    assert rest == [f"{first}  success  echo", '{"n":0}', f"{second}  success  echo", '{"n":1}']
    assert (done.code, done.err) == (0, "")
    done = await call(api.url, "batch", "-", "--wait", "--json", stdin=lines(ECHO, NOPE, FAIL))
    assert [job["status"] for job in done.json] == ["success", "failed"]
    assert (done.code, done.err) == (1, "nodekit: request 2: Container not supported (container: nope)\n")
    assert (await call(api.url, "batch", "-", "--wait", stdin=lines(FAIL))).code == 1


async def test_ctrl_c_while_it_waits_says_all_ids_that_were_not_printed(api: Api, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_bytes(lines(*numbered(5, "gate")))
    async with at_terminal(api.url, "batch", str(tmp_path / "jobs"), "--wait", "--json", columns=1000) as terminal:
        await until(lambda: api.node._waiters.present)
        terminal.press(b"\x03")
        assert await terminal.ended() == 130
        ids = (await api.get("/api/jobs")).json
        assert f"5 jobs may continue; to go on: nodekit job wait {' '.join(ids)} --node" in terminal.screen
