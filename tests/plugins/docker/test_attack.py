"""Attacks on the runner: a socket that answers as no engine does, and containers and callers at the worst time.

Most of it needs no engine: a small server says what it is told to.
"""

import asyncio
import json
import logging
import re
import socketserver
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from components import until
from docker_runs import Bed, is_down, is_up, outcome, result
from docker_runs import error as error_of

from nodekit import NodekitError
from nodekit_docker import DockerContainer, DockerRunner
from nodekit_docker.engine.presence import FIRST_PAUSE_SECONDS

pytestmark = pytest.mark.anyio

Answer: TypeAlias = tuple[int, Any]

ID = "c" * 64
DESCRIBED: Mapping[str, Any] = {
    "Id": ID,
    "Name": "/nodekit-node-one",
    "State": {"Running": True},
    "Config": {"Labels": {}},
    "HostConfig": {},
    "NetworkSettings": {},
}


class Fake(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The part of an engine that a runner uses; entries of `answers` replace the default answer of a path."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        self.answers: Callable[[str], Answer | None] = lambda path: None
        self.asked: Counter[str] = Counter()
        super().__init__(path, _Handler)

    def answer(self, method: str, path: str) -> Answer:
        self.asked[path] += 1
        if (answer := self.answers(path)) is not None:
            return answer
        if method == "DELETE" or path.endswith(("/start", "/stop")):
            return 204, ""
        good: Mapping[str, Any] = {
            "/_ping": "OK",
            "/version": {"ApiVersion": "1.41"},
            "/info": {"LoggingDriver": "json-file"},
            "/containers/json": [],
            "/containers/create": {"Id": ID},
            "/images/one/json": {"Id": "sha256:1"},
            f"/containers/{ID}/json": DESCRIBED,
        }
        return (200, good[path]) if path in good else (404, {"message": f"no {path}"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def respond(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        assert isinstance(self.server, Fake)
        status, body = self.server.answer(self.command, re.sub(r"^/v[\d.]+|\?.*", "", self.path))
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.respond
        raise AttributeError(name)

    def address_string(self) -> str:
        return "socket"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture
def fake() -> Iterator[Fake]:
    with tempfile.TemporaryDirectory() as folder, Fake(f"{folder}/s") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def runner(fake: Fake, **settings: Any) -> DockerRunner:
    given = {"id": "one", "image": "one", "required": False, "startup_seconds": 60, "stop_seconds": 0, **settings}
    folder = Path(str(fake.server_address)).parent
    return DockerRunner(DockerContainer(**given), host=f"unix://{fake.server_address}", state=folder)


NO_ANSWERS: list[Answer] = [(500, {}), (500, "null"), (404, {"message": 17}), (200, "null"), (200, [1]), (200, [{}])]


@pytest.mark.parametrize("answer", NO_ANSWERS)
@pytest.mark.parametrize("path", ["/info", "/containers/json"])
async def test_what_no_engine_answers_is_an_error_of_nodekit(fake: Fake, path: str, answer: Answer) -> None:
    fake.answers = {path: answer}.get
    with pytest.raises(NodekitError):
        async with runner(fake, required=True):
            pass


@pytest.mark.parametrize("answer", NO_ANSWERS)
async def test_an_engine_that_turns_into_something_else_neither_ends_the_node_nor_its_end(
    fake: Fake, answer: Answer
) -> None:
    async with runner(fake) as docker:
        await until(lambda: fake.asked["/events"])
        fake.answers = lambda path: answer
        before = fake.asked["/_ping"]
        await until(lambda: fake.asked["/_ping"] > before + 1)
    assert docker.running() == []


async def test_events_that_are_not_let_through_are_asked_for_ever_more_rarely(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        if seconds >= FIRST_PAUSE_SECONDS:
            pauses.append(seconds)
        await anyio.lowlevel.checkpoint()

    fake.answers = {"/events": (403, {"message": "forbidden"})}.get
    monkeypatch.setattr(anyio, "sleep", sleep)
    async with runner(fake):
        await until(lambda: len(pauses) > 5)
    assert pauses[:6] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0]


async def test_the_text_of_an_error_is_bounded(fake: Fake) -> None:
    fake.answers = {"/info": (500, "<p>" * 1_000_000)}.get
    with pytest.raises(NodekitError) as caught:
        async with runner(fake, required=True):
            pass
    assert len(str(caught.value)) < 3000


async def test_a_dangerous_volume_is_warned_of_at_the_start(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "nodekit.docker"):
        async with runner(fake, volumes=(f"{fake.server_address!s}:/engine:ro", "./data:/data")):
            await until(lambda: fake.asked["/containers/create"])
    (text,) = [record.getMessage() for record in caplog.records if "its volume" in record.getMessage()]
    assert ":/engine:ro holds the engine's socket: " in text


# -- with an engine -------------------------------------------------------------------------------


@pytest.mark.xdist_group("docker")
async def test_a_task_that_is_cancelled_while_it_leaves_removes_its_containers(bed: Bed) -> None:
    leaving = anyio.Event()

    async def run() -> None:
        async with bed.runner(bed.container(), bed.container("two")):
            leaving.set()

    task = asyncio.create_task(run())
    await leaving.wait()
    while not task.done():  # `asyncio.timeout` and `asyncio.run` cancel like this; anyio's shields do not stop it
        task.cancel()
        await asyncio.sleep(0.01)
    assert task.cancelled()
    assert bed.made() == []


@pytest.mark.xdist_group("docker")
async def test_one_that_may_take_for_ever_to_end_is_stopped_and_removed(bed: Bed) -> None:
    async with bed.runner(bed.container(stop_seconds=float("inf"))):
        assert bed.made()
    assert bed.made() == []


@pytest.mark.xdist_group("docker")
async def test_what_a_program_prints_cannot_command_terminals_nor_fill_logs(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["\x1b]0;title\x07\x1b[2J\x00\x9b31m", "x" * 100_000]
    async with bed.running() as (node, _):
        job = await outcome(node, {"do": "exit", "code": 3, "lines": lines})
    told = [record.getMessage() for record in caplog.records]
    assert any("title" in line for line in told)
    assert all(line.isprintable() and len(line) < 5000 for line in told)
    assert error_of(job).error.isprintable()


@pytest.mark.xdist_group("docker")
async def test_one_whose_network_was_taken_away_and_given_back_is_called_at_its_new_port(bed: Bed) -> None:
    async with bed.running(bed.container(timeout_seconds=5)) as (node, runner):
        network, name = bed.engine.client.networks.get("bridge"), bed.one().name
        network.disconnect(name)
        assert error_of(await outcome(node, 1)).kind == "connection"
        await is_down(runner)
        network.connect(name)
        await is_up(runner)
        assert await result(node, 2) == 2
