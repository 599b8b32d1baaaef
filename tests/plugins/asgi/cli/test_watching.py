"""`nodekit job wait` and `nodekit job follow`: they stay with jobs through broken connections and restarts."""

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from components import request, until
from http_api import Api, free_port, serving
from job_command import UNKNOWN, Done, answering, at_terminal, behind, call, http, spawn
from node_files import SERVED, SLOW, write
from served import NODEKIT, serve

from nodekit_asgi.cli import waiting
from nodekit_asgi.cli.client import NodeClient
from nodekit_asgi.cli.following import Event, parse_events
from nodekit_asgi.cli.job_ids import LONGEST_LINE
from nodekit_asgi.cli.problems import Unreachable

pytestmark = pytest.mark.anyio

OTHER = "01a20a76-0000-7000-8000-000000000001"


# -- wait ---------------------------------------------------------------------------------------------


async def test_wait_prints_jobs_once_all_are_finished(api: Api) -> None:
    gated, good = await api.submit("gate"), await api.submit("echo", "echo", a=1)
    ended: list[Done] = []

    async def wait() -> None:
        ended.append(await call(api.url, "wait", gated, good, "--intermediate"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: api.node._waiters.present)
        assert not ended
        api.gate.opened.set()
    (done,) = ended
    assert (done.code, done.err) == (0, "")
    first, second = f"{gated}  success  gate\nresult:\n{{}}\n", f'{good}  success  echo\nstep echo:\n{{"a":1}}\n'
    assert done.out == f'{first}{second}result:\n{{"a":1}}\n'


async def test_wait_exits_with_1_when_a_job_has_failed_or_is_not_known(api: Api) -> None:
    good, bad = await api.submit("echo"), await api.submit("fail")
    done = await call(api.url, "wait", good, bad, good)
    assert (done.code, done.err) == (1, "")
    assert done.out == f"{good}  success  echo\n{{}}\n{bad}  failed  fail\nerror: ValueError: on purpose\n"
    done = await call(api.url, "wait", UNKNOWN, good, "no-id", "--json")
    assert (done.code, [job["id"] for job in done.json]) == (1, [good])
    assert f"no such job: {UNKNOWN}, no-id" in done.err
    done = await call(api.url, "wait", UNKNOWN)
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)


async def test_when_time_is_up_the_jobs_are_shown_as_they_are_and_the_exit_code_is_5(api: Api) -> None:
    gated, good = await api.submit("gate"), await api.submit("echo")
    await api.results(good)
    done = await call(api.url, "wait", gated, good, "--timeout", "0.3")
    assert (done.code, done.out) == (5, f"{gated}  running\n{good}  success  echo\n{{}}\n")
    assert f"to go on: nodekit job wait {gated} --node {api.url}" in done.err
    assert len(done.err.splitlines()) == 1
    done = await call(api.url, "wait", gated, good, "--timeout", "0.3", "--json")
    assert (done.code, [job["status"] for job in done.json]) == (5, ["running", "success"])


async def test_wait_takes_more_ids_than_the_node_does_at_once(api: Api) -> None:
    asked = [request("echo", client="127.0.0.1") for _ in range(201)]
    ids = [job.id for job in await api.node.submit_many(asked)]
    done = await call(api.url, "wait", "-", "--json", stdin="\n".join(ids).encode())
    assert (done.code, [job["id"] for job in done.json]) == (0, ids)


@pytest.mark.parametrize("command", ["wait", "get"])
async def test_a_node_that_takes_fewer_ids_is_asked_for_fewer(command: str) -> None:
    async with serving("hypercorn", max_ids=3) as api:
        asked = [request("echo", client="127.0.0.1") for _ in range(10)]
        ids = [job.id for job in await api.node.submit_many(asked)]
        await api.node.wait(ids)
        done = await call(api.url, command, *ids, "--json")
        assert (done.code, [job["id"] for job in done.json]) == (0, ids)


async def test_a_result_is_sent_once_however_long_other_jobs_take(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(waiting, "SHORTEST_ROUND_SECONDS", 0.05)
    large, gated = await api.submit("echo", text="x" * 100_000), await api.submit("gate")
    await api.results(large)
    passed_on, _ = behind(api, lose=[])
    sent: list[int] = []

    async def answer(asked: bytes) -> bytes | None:
        reply = await passed_on(asked)
        sent.append(len(reply or b""))
        if len(sent) == 3:
            api.gate.opened.set()
        return reply

    async with answering(answer) as (url, _):
        assert (await call(url, "wait", gated, large)).code == 0
    assert len([size for size in sent if size > 100_000]) == 1


async def test_wait_goes_on_when_answers_are_lost_and_the_node_is_busy(api: Api) -> None:
    id = await api.submit("echo")
    passed_on, seen = behind(api, lose=["GET"])
    busy = [http('{"error": "full"}', "503 Busy", "Retry-After: 0")]

    async def answer(asked: bytes) -> bytes | None:
        return busy.pop() if busy else await passed_on(asked)

    async with answering(answer) as (url, _):
        done = await call(url, "wait", id)
    assert (done.code, done.out, len(seen)) == (0, f"{id}  success  echo\n{{}}\n", 2)


async def test_wait_and_follow_go_on_through_a_restart_of_the_node(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    file = write(tmp_path, SERVED.replace("127.0.0.1:0", f"127.0.0.1:{free_port()}"))
    ended: dict[str, Done] = {}

    async def stay(command: str, url: str, id: str) -> None:
        ended[command] = await spawn(url, command, id, "--json")

    async with anyio.create_task_group() as tasks:
        async with serve(file) as (served, api):
            id = await api.submit("slow", started=str(tmp_path / "started"), go=str(tmp_path / "go"))
            tasks.start_soon(stay, "wait", api.url, id)
            tasks.start_soon(stay, "follow", api.url, id)
            await until((tmp_path / "started").exists)
            served.signal(signal.SIGKILL)
            await served.ended()
        (tmp_path / "go").touch()
        async with serve(file):
            await until(lambda: len(ended) == 2)
    assert ended["wait"].code == ended["follow"].code == 0, ended
    assert ended["wait"].json[0]["result"]["output"] == {"done": True}
    events = [json.loads(line) for line in ended["follow"].out.splitlines()]
    assert [event["event"] for event in events] == ["accepted", "step", "finished"]


@pytest.mark.parametrize("command", ["wait", "follow"])
async def test_ctrl_c_ends_the_watching_and_not_the_job(api: Api, command: str) -> None:
    id = await api.submit("gate")
    async with at_terminal(api.url, command, id) as terminal:
        await terminal.shows("0 of 1 job finished" if command == "wait" else "accepted")
        terminal.press(b"\x03")
        assert await terminal.ended() == 130
        assert f"to go on: nodekit job {command} {id} --node {api.url}" in terminal.screen
        assert "Traceback" not in terminal.screen
    api.gate.opened.set()
    assert (await api.results(id))[0]["status"] == "success"


@pytest.mark.parametrize("command", [("list", "--ids"), ("cancel", UNKNOWN)], ids=lambda command: command[0])
async def test_ctrl_c_ends_other_commands_which_can_be_run_again(command: Sequence[str]) -> None:
    asked = anyio.Event()

    async def answer(request: bytes) -> bytes | None:
        asked.set()
        await anyio.sleep_forever()
        return None

    async with answering(answer) as (url, _), at_terminal(url, *command) as terminal:
        await asked.wait()
        terminal.press(b"\x03")
        assert await terminal.ended() == 130
        assert "interrupted; to go on, run the same command again" in terminal.screen
        assert "Traceback" not in terminal.screen


# -- ids from standard input --------------------------------------------------------------------------


async def test_ids_come_from_standard_input(api: Api) -> None:
    good, bad, third = await api.submit("echo"), await api.submit("fail"), await api.submit("echo")
    await api.results(good, bad, third)
    table = (await call(api.url, "list")).out.encode()
    for given, ids in (
        (f"{good}\n{bad}\n", [good, bad]),
        (f"\ufeff{good} {bad.upper()}\r\n\n  {third}", [good, bad, third]),
        (f"{good}  failed  an error that names {third}\n", [good]),
        (table.decode(), [third, bad, good]),
        ("", []),
    ):
        for command in ("get", "cancel"):
            done = await call(api.url, command, "-", "--json", stdin=given.encode())
            assert (done.code, [job["id"] for job in done.json], done.err) == (0, ids, "")


async def test_what_is_no_id_in_standard_input_is_said_and_the_others_are_read(api: Api) -> None:
    id = await api.submit("echo")
    await api.results(id)
    given = f"error: Container not supported (container: {OTHER})\n{id}\n".encode() + b"\xff\x1b[2J\n"
    done = await call(api.url, "wait", "-", stdin=given)
    assert (done.code, done.out) == (1, f"{id}  success  echo\n{{}}\n")
    assert "no such job: error: Container not supported" in done.err
    assert "\x1b" not in done.err
    assert len(done.err.splitlines()) == 1
    done = await call(api.url, "get", "-", stdin=b"x" * LONGEST_LINE)
    assert (done.code, "line 1 of standard input is too long" in done.err) == (2, True)


@pytest.mark.parametrize("id", ["", ".", "..", "a/b?c", "\udcff", "x" * 100_000, f"{UNKNOWN}?id={OTHER}"])
async def test_what_is_no_id_is_an_unknown_job(api: Api, id: str) -> None:
    for command in ("get", "cancel", "wait", "show", "follow", "retry"):
        done = await call(api.url, command, id)
        assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1), (command, done.err)
        assert "no such job" in done.err


@pytest.mark.parametrize("command", ["get -", "batch -", "submit echo --file -"])
async def test_a_closed_standard_input_is_said(command: str) -> None:
    def run() -> "subprocess.CompletedProcess[str]":
        shell = ["sh", "-c", 'exec "$@" <&-', "sh", *NODEKIT, "job", *command.split()]
        return subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False)

    done = await anyio.to_thread.run_sync(run)
    assert (done.returncode, done.stdout) == (2, "")
    assert "standard input is closed" in done.stderr


# -- follow -------------------------------------------------------------------------------------------


async def test_follow_prints_each_event_as_it_happens(api: Api) -> None:
    id = await api.submit("echo", "gate", a=1)
    async with at_terminal(api.url, "follow", id) as terminal:
        await terminal.shows(r'accepted  \S+\r\nstep 1  echo\r\n{\r\n  "a": 1\r\n}\r\n')
        assert "finished" not in terminal.screen
        api.gate.opened.set()
        assert await terminal.ended() == 0
        assert terminal.screen.endswith('step 2  gate\r\n{\r\n  "a": 1\r\n}\r\nfinished  success\r\n')


async def test_follow_exits_with_1_when_the_job_has_failed_or_is_not_known(api: Api) -> None:
    id = await api.submit("echo", "fail")
    done = await call(api.url, "follow", id)
    assert (done.code, done.err) == (1, "")
    failed = "step 2  fail\nerror: ValueError: on purpose\nfinished  failed\nerror: ValueError: on purpose\n"
    assert done.out == f"accepted  {id}\nstep 1  echo\n{{}}\n{failed}"
    cancelled = await api.submit("gate")
    await api.call("DELETE", f"/api/jobs/{cancelled}")
    done = await call(api.url, "follow", cancelled)
    assert (done.code, done.out) == (1, f"accepted  {cancelled}\nfinished  failed\nerror: cancelled\n")
    done = await call(api.url, "follow", UNKNOWN)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"nodekit: no such job: {UNKNOWN} (only the client that submitted a job")


EVENTS = [
    f'event: accepted\nid: {UNKNOWN}:0\ndata: {{"id":"{UNKNOWN}"}}\n\n',
    f'event: step\nid: {UNKNOWN}:1\ndata: {{"container":"a","output":1}}\n\n',
    f'event: finished\nid: {UNKNOWN}:2\ndata: {{"id":"{UNKNOWN}","status":"success"}}\n\n',
]


def events(*some: str) -> bytes:
    body = "".join([":\n\n", *some]).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + body


async def test_follow_connects_again_after_the_last_event_and_prints_each_once() -> None:
    heads: list[bytes] = []
    replies = [events(EVENTS[0], EVENTS[1][:30]), None, events(*EVENTS[:2]), events(), events(EVENTS[2])]

    async def answer(asked: bytes) -> bytes | None:
        heads.append(asked)
        return replies.pop(0)

    async with answering(answer) as (url, _):
        done = await call(url, "follow", UNKNOWN)
    assert (done.code, done.out) == (0, f"accepted  {UNKNOWN}\nstep 1  a\n1\nfinished  success\n")
    asked_after = [head.partition(b"Last-Event-ID: ")[2].partition(b"\r\n")[0].decode() for head in heads]
    assert asked_after == ["", *[f"{UNKNOWN}:0"] * 2, *[f"{UNKNOWN}:1"] * 2]


async def test_the_json_of_an_event_is_one_line_with_the_bytes_of_the_node() -> None:
    output = '{"number": 1.10,\ndata: "a":\ndata: [1e400, "\x7f\u2028"]}'
    step = f'event: step\nid: {UNKNOWN}:1\ndata: {{"container":"a","output":{output}}}\n\n'

    async def answer(asked: bytes) -> bytes | None:
        return events(EVENTS[0], step, EVENTS[2])

    async with answering(answer) as (url, _):
        done = await call(url, "follow", UNKNOWN, "--json")
    first, second, third = done.out.removesuffix("\n").split("\n")
    assert json.loads(first) == {"event": "accepted", "id": f"{UNKNOWN}:0", "data": {"id": UNKNOWN}}
    assert '"output":{"number": 1.10, "a": [1e400, "\x7f\u2028"]}' in second
    assert json.loads(third)["event"] == "finished"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (http("<html>", type="text/html"), "is not a node (HTTP status 200, text/html)"),
        (http("[]"), "is not a node"),
        (events("event: accepted\ndata: {}\nid: a:0\n\n"), "sends events as no node does"),
        (events('event: step\ndata: {"x\nid: a:0\n\n'), "sends events as no node does"),
    ],
    ids=str,
)
async def test_events_that_are_no_nodes_are_4_and_one_line(reply: bytes, words: str) -> None:
    async def answer(asked: bytes) -> bytes | None:
        return reply

    async with answering(answer) as (url, _):
        done = await call(url, "follow", UNKNOWN)
    assert (done.code, done.out, len(done.err.splitlines())) == (4, "", 1)
    assert words in done.err


def pieces(text: bytes, size: int) -> Iterator[bytes]:
    return (text[at : at + size] for at in range(0, len(text), size))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_parsed_wherever_they_are_cut(size: int) -> None:
    text = b': hello\n\nevent: a\r\nid: x:1\r\ndata: {"b":\r\ndata:1}\r\n\r\n'
    text += b"\n\nid: x:2\ndata\n\nevent:b\ndata: 2\n\nevent: c\n"
    found = list(parse_events(pieces(text, size)))
    assert [(one.event, one.id, bytes(one.data), one.number) for one in found] == [
        ("a", "x:1", b'{"b": 1}', 1),
        ("b", "", b"2", -1),
    ]


@pytest.mark.parametrize("id", ["", "x", "x:", "x:-1", "x:1.5", "x:٣", "x:" + "9" * 5000])
def test_an_id_that_is_no_nodes_has_no_number(id: str) -> None:
    assert Event("step", id, Any).number == -1  # type: ignore[arg-type]


@pytest.mark.parametrize("command", ["wait", "follow"])
async def test_who_stays_with_a_job_begins_before_the_node_does(
    command: str, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await api.submit("echo")
    asked = anyio.Event()
    connect = NodeClient._connect

    def refused_once(client: NodeClient, until: float | None) -> Any:
        if not asked.is_set():
            asked.set()
            raise Unreachable("no node listens")
        return connect(client, until)

    monkeypatch.setattr(NodeClient, "_connect", refused_once)
    assert (await call(api.url, command, id)).code == 0


@pytest.mark.parametrize("command", ["wait", "follow"])
async def test_a_node_that_does_not_come_back_is_4_and_one_line(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "TRIES", 2)
    done = await call(f"http://127.0.0.1:{free_port()}", command, UNKNOWN)
    assert (done.code, done.out, len(done.err.splitlines())) == (4, "", 1)
    assert "no node listens at" in done.err
    assert f"to go on: nodekit job {command} {UNKNOWN}" in done.err
