"""The output of processes: printable, bounded and counted in the log, not in clients' errors, and never waited for."""

import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from components import until
from http_api import Api, serving
from node_files import write
from served import serve

from nodekit import NotStarted
from nodekit_process import ProcessContainer, ProcessRunner
from nodekit_process._output import FEW_BYTES, KEPT_LINES, LINES_AT_ONCE, Output, PipeReader
from nodekit_remote import MAX_LINE_BYTES, ContainerLog

pytestmark = pytest.mark.anyio

HOSTILE = "\x1b[2J\r\x9b31m\u202e\u2028\x85\x00".encode() + b"\xff\xc3"

# It answers GET; a POST has it print the given lines, and then exit if it is to.
PRINTER = r"""
import http.server, json, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply()

    def do_POST(self):
        data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["data"]
        os.write(1, data["print"].encode())
        if "exit" in data:
            os._exit(data["exit"])
        self.reply()

    def reply(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
LOUD = r"""
import os, threading
os.write(1, {first!r})
lines = (b"x" * 79 + b"\n") * 800

def shout():
    for _ in range({pieces}):
        left = lines
        while left:
            left = left[os.write(1, left):]
    open({done!r}, "w").close()

threading.Thread(target=shout, daemon=True).start()
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nodekit.container")


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def container(source: str = PRINTER, **settings: Any) -> ProcessContainer:
    given: dict[str, Any] = {"id": "one", "command": (sys.executable, "-c", source), "startup_seconds": 60.0}
    return ProcessContainer(**{**given, **settings})


def output(clock: Time | None = None, **limits: Any) -> Output:
    return Output(ContainerLog(container(**limits), monotonic=clock or Time()))


def printed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the logged lines of output, without what the log says about them."""
    of_containers = (record for record in caplog.records if record.name.startswith("nodekit.container."))
    return [record.getMessage() for record in of_containers if record.levelno == logging.INFO]


def dropped(caplog: pytest.LogCaptureFixture) -> list[tuple[int, int]]:
    found = re.findall(r"(\d+) lines? \((\d+) bytes?\) of it dropped", caplog.text)
    return [(int(lines), int(size)) for lines, size in found]


# -- lines ----------------------------------------------------------------------------------------


def test_output_is_the_same_wherever_it_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    data = ("ä\nlong " + "x" * 5000 + "\n\nlast").encode()
    seen = []
    for size in (1, 2, 7, MAX_LINE_BYTES, 10_000):
        one = output()
        caplog.clear()
        for start in range(0, len(data), size):
            one.feed(data[start : start + size])
        one.end()
        assert printed(caplog) == list(one.last_lines)
        seen.append(one.last_lines)
    assert [len(line) for line in seen[0]] == [1, MAX_LINE_BYTES + 1, 0, 4]
    assert all(lines == seen[0] for lines in seen)


def test_only_the_last_lines_are_remembered_also_of_a_flood() -> None:
    for count in (KEPT_LINES - 1, KEPT_LINES, KEPT_LINES + 1, 100, 100_000):
        one, numbers = output(), [str(number) for number in range(count)]
        one.feed("\n".join(numbers).encode())
        one.end()
        assert list(one.last_lines) == numbers[-KEPT_LINES:]


@pytest.mark.parametrize("endless", [False, True])
def test_what_it_prints_cannot_command_the_terminal_of_a_reader(
    caplog: pytest.LogCaptureFixture, endless: bool
) -> None:
    one = output()
    one.feed(HOSTILE if endless else HOSTILE + b"\n")
    one.end()
    (line,) = printed(caplog)
    assert line == r"\x1b[2J\r\x9b31m\u202e\u2028\x85\x00\xff\xc3"
    assert one.last_lines == (line,)
    assert line in str(NotStarted("one", "no reason", 1, [HOSTILE.decode(errors="backslashreplace")]))


def test_a_line_without_end_is_logged_at_once_and_its_rest_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    one = output()
    for _ in range(1000):
        one.feed(b"x" * 65536)
    assert [len(line) for line in printed(caplog)] == [MAX_LINE_BYTES + 1]
    assert sum(map(len, (one._line, *one._last))) <= MAX_LINE_BYTES + 1
    assert not one.has_room(), "the rest of the line would be read in small pieces"
    one.feed(b"end\nnext\n")
    assert printed(caplog)[1:] == ["next"]


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [7, 512, 65536])
@pytest.mark.parametrize("limits", [{"log_lines_per_second": 3}, {"log_bytes_per_second": 20}])
def test_more_than_the_limits_is_dropped_and_every_line_is_counted(
    caplog: pytest.LogCaptureFixture, size: int, limits: dict[str, int]
) -> None:
    clock = Time()
    one = output(clock, **limits)
    data = b"".join(b"%05d\n" % number for number in range(10_000))
    for start in range(0, len(data), size):
        one.feed(data[start : start + size])
    logged = printed(caplog)
    assert len(logged) <= (30 if "log_lines_per_second" in limits else 40)
    assert logged == [f"{number:05}" for number in range(len(logged))]
    assert caplog.text.count("it prints more than") == 1
    assert one.seconds_to_report == 10.0
    clock.now += 10
    one.feed(b"after it\n")
    one.end()
    assert sum(lines for lines, _ in dropped(caplog)) + len(logged) == 10_000
    assert printed(caplog)[len(logged) :] == ["after it"]


def test_a_log_that_is_to_have_no_output_says_nothing_of_what_it_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "nodekit.container")
    one = output()
    one.feed(b"x\n" * 100_000)
    one.end()
    assert caplog.messages == []
    caplog.set_level(logging.INFO, "nodekit.container")
    none = output(log_lines_per_second=0)
    none.feed(b"x\n" * 3)
    none.end()
    assert dropped(caplog) == [(3, 6)]


async def test_what_a_container_dropped_is_said_although_it_prints_nothing_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("nodekit_remote._output.WINDOW_SECONDS", 0.5)
    source = f"import os; os.write(1, b'x\\n' * 5000)\n{PRINTER}"
    async with ProcessRunner(container(source)) as runner:
        await until(lambda: dropped(caplog))
        assert runner.running() == ["one"]
        await until(lambda: sum(lines for lines, _ in dropped(caplog)) + len(printed(caplog)) == 5000)


# -- a container that prints without end ------------------------------------------------------------


@pytest.fixture
def flood() -> Iterator[int]:
    """Yield a pipe that is always full."""
    reading, writing = os.pipe()

    def write() -> None:
        try:
            while True:
                os.write(writing, b"y\n" * 32768)
        except OSError:
            os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    yield reading
    thread.join(60)


@pytest.mark.parametrize("limit", [0, 1e6])
async def test_reading_gives_other_work_its_turn(
    flood: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: float
) -> None:
    """Between two pieces, all that is ready runs; and a piece has few lines that are logged."""
    one, turns, pieces = output(log_lines_per_second=limit, log_bytes_per_second=1 << 40), 0, list[tuple[int, int]]()
    feed = one.feed

    def counted(piece: bytes) -> None:
        before = len(caplog.records)
        feed(piece)
        pieces.append((turns, len(caplog.records) - before))

    monkeypatch.setattr(one, "feed", counted)
    reader = PipeReader(os.fdopen(flood, "rb", buffering=0), one)
    while len(pieces) < 50:
        turns += 1
        await anyio.lowlevel.checkpoint()
    reader.close()
    assert len({turn for turn, _ in pieces}) == len(pieces)
    assert max(records for _, records in pieces) <= LINES_AT_ONCE <= FEW_BYTES


async def test_a_container_that_prints_without_end_neither_waits_nor_fills_the_log(tmp_path: Path) -> None:
    done = tmp_path / "done"
    (tmp_path / "loud.py").write_text(LOUD.format(first=HOSTILE + b"\n", pieces=300, done=str(done)) + PRINTER)
    file = write(
        tmp_path,
        f"""
        [store]
        use = "memory"
        [[runners]]
        use = "process"
        [[runners.containers]]
        id = "loud"
        command = [{json.dumps(sys.executable)}, "loud.py"]
        [[transports]]
        use = "asgi"
        bind = "127.0.0.1:0"
        """,
    )
    async with serve(file) as (served, api):
        await until(done.exists)  # 19 MB: many times what a pipe holds
        assert (await api.get("/health")).json == {"status": "healthy"}
        assert len(served.log) < 1_000_000
        assert all(line.isprintable() for line in served.log.split("\n"))
        await until(lambda: r": \x1b[2J\r\x9b31m" in served.log)  # a thread writes it
        await until(lambda: "it prints more than" in served.log)
        assert served.resident_bytes < 150_000_000


# -- errors ---------------------------------------------------------------------------------------

READ_BY_ANYBODY = ("/health", "/info", "/openapi.json", "/resources")
READ_BY_THE_CLIENT = ("/api/jobs?id={id}&intermediate=true", "/api/jobs/{id}", "/api/jobs/{id}/events")
JOB = {"print": "the s3cret of another client\n", "exit": 3}


async def all_replies(api: Api, id: str) -> str:
    paths = [*READ_BY_ANYBODY, *(path.format(id=id) for path in READ_BY_THE_CLIENT)]
    return "\n".join([(await api.get(path)).body.decode() for path in paths])


@pytest.mark.parametrize("shown", [False, True])
async def test_clients_see_no_output_unless_the_operator_lets_them_and_the_log_has_it(
    caplog: pytest.LogCaptureFixture, shown: bool
) -> None:
    async with serving("hypercorn", runners=[ProcessRunner(container(output_in_errors=shown))]) as api:
        id = await api.submit("one", **JOB)
        (job,) = await api.results(id)
        text = "the container's process exited with code 3"
        assert job["result"]["error"] == text + ("; it printed last: the s3cret of another client" if shown else "")
        assert ("s3cret" in await all_replies(api, id)) is shown
    assert "the s3cret of another client" in printed(caplog)
