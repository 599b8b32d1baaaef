"""The runner `process`: real processes, real HTTP."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from components import until
from paths import ROOT

from nodekit import (
    CompositionError,
    ContainerFailed,
    JobRequest,
    JobStatus,
    NotStarted,
    Secret,
    load_node,
)
from nodekit.testing import StreamingRunnerContract, make_step
from nodekit_process import ProcessConfig, ProcessContainer, ProcessRunner
from nodekit_process._fork_server import ForkServer
from nodekit_process._output import Output
from nodekit_process._ports import free_port
from nodekit_process._process import Process
from nodekit_process.supervisor.supervisor import Order
from nodekit_remote import MAX_LINE_BYTES, ContainerLog

pytestmark = pytest.mark.anyio

CONTRACT_SERVICE = ROOT / "tests" / "support" / "contract_service.py"

# What a job says, it does: exit, kill itself, drop the connection, show its environment, …
SERVER = r"""
import http.server, json, os, signal, subprocess, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def do_GET(self):
        self.reply({"path": self.path})

    def do_POST(self):
        do = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["data"].get("do")
        if do == "exit":
            os._exit(3)
        if do == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if do == "drop":
            self.close_connection = True
            return
        if do == "child":
            child = [sys.executable, "-c", "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
            self.reply(subprocess.Popen(child).pid)
            return
        if do == "say":
            os.write(1, b"one\ntwo " + b"x" * 10_000 + b"\nthree\n")
        self.reply({"env": dict(os.environ), "folder": os.getcwd(), "pid": os.getpid()})

    def reply(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_descriptor_is_leaked(anyio_backend: str) -> Any:
    before = descriptors()
    yield
    assert eventually(lambda: descriptors() <= before), "descriptors are left open"


def server(id: str = "one", source: str = SERVER, **settings: Any) -> ProcessContainer:
    return ProcessContainer(id=id, command=(sys.executable, "-c", source), **{"startup_seconds": 60.0, **settings})


def runner(*containers: ProcessContainer) -> ProcessRunner:
    return ProcessRunner(*containers)


class TestProcessRunner(StreamingRunnerContract):
    @pytest.fixture
    def runner(self) -> ProcessRunner:
        environments = {"echo": {}, "fail": {"FAIL": "1"}, "slow": {"SLOW": "600"}}
        environments |= {"endless": {"ENDLESS": "1"}, "broken": {"BROKEN": "1"}}
        command = (sys.executable, "-IS", str(CONTRACT_SERVICE))
        given: dict[str, Any] = {"command": command, "startup_seconds": 60.0, "stop_seconds": 2.0}
        return runner(*(ProcessContainer(id=id, env=env, **given) for id, env in environments.items()))


async def do(runner: ProcessRunner, what: str = "", container: str = "one") -> Any:
    return (await runner.run(make_step(container, {"do": what}))).value


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def eventually(check: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@asynccontextmanager
async def changes(runner: ProcessRunner) -> AsyncIterator[list[list[str]]]:
    """Yield a list that grows by the value of `running()` at each change."""
    seen: list[list[str]] = []

    async def watch() -> None:
        while True:
            await runner.changed()
            seen.append(list(runner.running()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await anyio.lowlevel.checkpoint()
        yield seen
        tasks.cancel_scope.cancel()


# -- starting -------------------------------------------------------------------------------------


async def test_entering_returns_when_every_container_answers_and_names_the_instance() -> None:
    async with runner(server("one"), server("two")) as running:
        assert set(running.running()) == {"one", "two"}
        assert not running.problems()
        output = await running.run(make_step("two"))
        assert output.instance == f"two:{output.value['pid']}"


async def test_a_container_is_asked_what_it_has_while_it_is_up() -> None:
    async with runner(server()) as running:
        said = await running.resources("one", "m")
        assert said is not None
        assert json.loads(bytes(said)) == {"path": "/service-resources?model_id=m"}
        with pytest.raises(ContainerFailed):
            await do(running, "kill")
        assert await running.resources("one", "m") is None


MEET = """
import os, sys, time
open(os.path.join({folder!r}, str(os.getpid())), "w").close()
while len(os.listdir({folder!r})) < 5:
    time.sleep(0.01)
"""


async def test_containers_start_at_the_same_time(tmp_path: Path) -> None:
    """Each container listens only when all of them have started."""
    meeting = MEET.format(folder=str(tmp_path)) + SERVER
    async with runner(*(server(f"one{number}", meeting) for number in range(5))) as running:
        assert len(running.running()) == 5


async def test_a_process_gets_nothing_of_the_environment_but_what_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANG", raising=False)
    monkeypatch.setenv("TOP_SECRET", "of the node")
    monkeypatch.setenv("LC_ALL", "C")
    declared: Mapping[str, Any] = {"MODEL": "small", "TOKEN": Secret("sesame")}
    with pytest.raises(NotStarted) as caught:
        async with runner(ProcessContainer(id="env", command=("/usr/bin/env",), env=declared)):
            pass
    assert {"MODEL=small", "TOKEN=sesame"} <= set(caught.value.last_lines)
    names = {line.partition("=")[0] for line in caught.value.last_lines}
    own = {"MODEL", "TOKEN", "PORT", "PYTHONUNBUFFERED"}
    assert own <= names <= own | {"PATH", "HOME"}


@pytest.mark.parametrize(("env", "lost"), [({}, False), ({"PYTHONUNBUFFERED": ""}, True)])
async def test_what_a_python_program_printed_is_not_lost_when_it_is_killed(env: dict[str, str], lost: bool) -> None:
    source = "import os; print('the reason'); os.kill(os.getpid(), 9)"
    with pytest.raises(NotStarted) as caught:
        async with runner(server(source=source, env=env)):
            pass
    assert caught.value.exit_code == -signal.SIGKILL
    assert caught.value.last_lines == (() if lost else ("the reason",))


ARGUMENTS = (
    "$PORT",
    "${PORT}",
    "--at=127.0.0.1:$PORT",
    "$$PORT",
    "$$$PORT",
    "$PORTS",
    "$HOME ${X} $1 $ $$",
    "${PORT",
)


async def test_the_port_in_arguments_is_the_port_and_nothing_else_is_replaced() -> None:
    """Show the arguments to a program, in which a text for a shell may be."""
    source = "import json, os, sys; print(json.dumps(sys.argv[1:])); print(os.environ['PORT']); sys.exit(3)"
    one = ProcessContainer(id="one", command=(sys.executable, "-c", source, *ARGUMENTS))
    with pytest.raises(NotStarted) as caught:
        async with runner(one):
            pass
    given, port = caught.value.last_lines
    assert json.loads(given) == [
        port,
        port,
        f"--at=127.0.0.1:{port}",
        "$PORT",
        f"${port}",
        "$PORTS",
        "$HOME ${X} $1 $ $",
        "${PORT",
    ]


async def test_a_process_runs_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    config = ProcessConfig(containers=(server(folder=Path("here")), server("two")))
    async with ProcessRunner(*config.containers, folder=tmp_path) as running:
        assert (await do(running))["folder"] == str(tmp_path / "here")
        assert (await do(running, container="two"))["folder"] == str(tmp_path)


async def test_a_node_file_gives_texts_and_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESAME", "open")
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "token.txt").write_text("from a file\n")
    (tmp_path / "node.toml").write_text(f"""
        store = {{ use = "memory" }}
        [[runners]]
        use = "process"
        [[runners.containers]]
        id = "one"
        command = [{json.dumps(sys.executable)}, "server.py"]
        env = {{ PLAIN = "text", BY_ENV = {{ env = "SESAME" }}, BY_FILE = {{ file = "token.txt" }} }}
    """)
    async with load_node(tmp_path / "node.toml") as node:
        job = await node.submit(JobRequest.of("one", data={}))
        (job,) = await node.wait([job.id])
    assert job.status is JobStatus.SUCCESS
    env = job.results[0].value["env"]  # type: ignore[union-attr]
    assert [env[name] for name in ("PLAIN", "BY_ENV", "BY_FILE")] == ["text", "open", "from a file"]


# -- what keeps it from starting ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "where", "text"),
    [
        ({"command": ("no-such-program",)}, "command", "no program 'no-such-program' in PATH"),
        ({"command": ("./no-such-file",)}, "command", "no program './no-such-file' from"),
        ({"command": ()}, "command", "is empty"),
        ({"folder": Path("no-such-folder")}, "folder", "there is no folder"),
        ({"env": {"PORT": "80"}}, "env", "PORT is chosen by the runner"),
        ({"env": {"A=B": "x"}}, "env", "no name of a variable"),
    ],
)
def test_what_can_be_seen_before_the_start_keeps_the_node_from_being_composed(
    settings: dict[str, Any], where: str, text: str
) -> None:
    with pytest.raises(CompositionError) as caught:
        runner(server("fine"), ProcessContainer(**{"id": "wrong", "command": ("true",), **settings}))
    (problem,) = caught.value.problems
    assert problem.where == f"containers[1].{where}"
    assert text in problem.text


def test_an_id_is_given_once() -> None:
    with pytest.raises(CompositionError, match=r"containers\[1\].id: 'one' is the id of another container"):
        runner(server(), server())


async def test_a_program_that_exits_at_once_stops_the_start_with_its_code_and_last_lines() -> None:
    fails = "print('first'); raise SystemExit('no model file')"
    with pytest.raises(NotStarted, match="container 'bad' did not start: its process exited with code 1") as caught:
        async with runner(server("bad", fails)):
            pass
    error = caught.value
    assert (error.container, error.exit_code) == ("bad", 1)
    assert sorted(error.last_lines) == ["first", "no model file"]
    assert "no model file" in str(error)


async def test_a_program_that_cannot_be_executed_says_so(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    with pytest.raises(NotStarted, match=f"cannot run {program}: No such file") as caught:
        async with runner(ProcessContainer(id="bad", command=(str(program),))):
            pass
    assert caught.value.exit_code == 127


async def test_a_program_that_never_answers_stops_the_start_and_is_ended() -> None:
    deaf = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(NotStarted, match=r"did not answer at http://127.0.0.1:\d+ within 1 s") as caught:
        async with runner(server("deaf", deaf, startup_seconds=1.0)):
            pass
    assert not alive(int(caught.value.last_lines[0]))


def says_pid(file: Path) -> str:
    """Return source code that writes its pid at once."""
    return f"import os; open('{file}.new', 'w').write(str(os.getpid())); os.rename('{file}.new', '{file}')\n"


def fails_after(file: Path) -> str:
    return f"import os, time\nwhile not os.path.exists({str(file)!r}): time.sleep(0.01)\nraise SystemExit(4)"


async def test_one_that_is_not_required_is_not_waited_for_and_comes_up_later(tmp_path: Path) -> None:
    waits = f"""
import pathlib, time
while not pathlib.Path({str(tmp_path / "go")!r}).exists():
    time.sleep(0.01)
"""
    async with runner(server("fine"), server("late", waits + SERVER, required=False)) as running:
        assert running.running() == ["fine"]
        assert running.problems() == ["container 'late' is down: was not started yet; starting"]
        with pytest.raises(ContainerFailed, match="not running: was not started yet"):
            await do(running, container="late")
        (tmp_path / "go").touch()
        await until(lambda: set(running.running()) == {"fine", "late"})
        assert not running.problems()
        assert (await do(running, container="late"))["pid"]


@pytest.mark.parametrize("required", [True, False])
async def test_one_that_fails_and_is_required_ends_those_that_started(tmp_path: Path, required: bool) -> None:
    fine, bad = says_pid(tmp_path / "pid") + SERVER, fails_after(tmp_path / "pid")
    with pytest.raises(NotStarted, match=r"container 'bad' did not start: .* code 4"):
        async with runner(server("fine", fine, required=required), server("bad", bad)):
            pass
    assert not alive(int((tmp_path / "pid").read_text()))


def fails_at(start: int, starts: Path) -> str:
    """Return source code of a server that exits at one of its starts, and counts them."""
    counted = f"starts = {str(starts)!r}\nopen(starts, 'a').write('x')\n"
    return f"{counted}if len(open(starts).read()) == {start}: raise SystemExit(7)\n{SERVER}"


async def test_one_that_is_not_required_may_fail_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with runner(server("moody", fails_at(1, tmp_path / "starts"), required=False)) as running:
        await until(running.running)
    assert "'moody': its process exited with code 7 before it answered; restart in" in caplog.text
    assert (tmp_path / "starts").read_text() == "xx"


# -- output ---------------------------------------------------------------------------------------


async def test_what_it_prints_is_in_the_log_line_by_line_and_long_lines_are_cut(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "nodekit.container.one")
    async with runner(server()) as running:
        await do(running, "say")
        await until(lambda: "three" in caplog.messages)
    one, two, three = [r.getMessage() for r in caplog.records if r.name == "nodekit.container.one"]
    assert (one, three) == ("one", "three")
    assert two.startswith("two xxx")
    assert len(two) == MAX_LINE_BYTES + 1


# -- dying and coming back ------------------------------------------------------------------------


async def test_one_that_is_killed_is_down_and_comes_back_as_another_instance() -> None:
    async with runner(server(), server("two")) as running, changes(running) as seen:
        first = (await do(running))["pid"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: "one" not in running.running())
        (problem,) = running.problems()
        assert problem.startswith("container 'one' is down: its process was killed by SIGKILL; restart in 0.")
        with pytest.raises(ContainerFailed, match="not running: its process was killed by SIGKILL") as caught:
            await do(running)
        assert caught.value.kind == "connection"
        await until(lambda: "one" in running.running())
        assert not running.problems()
        assert (await do(running))["pid"] != first
    assert seen == [["two"], ["one", "two"]]


async def test_a_step_whose_process_dies_or_drops_its_connection_says_so() -> None:
    async with runner(server("kill"), server("exit"), server("drop")) as running:
        failures: list[tuple[str, str]] = []
        for what in ("kill", "exit", "drop"):
            with pytest.raises(ContainerFailed) as caught:
                await do(running, what, container=what)
            failures.append((caught.value.kind, caught.value.text))
        assert failures[:2] == [
            ("died", "the container's process was killed by SIGKILL"),
            ("died", "the container's process exited with code 3"),
        ]
        assert failures[2][0] == "connection"
        assert "drop" in running.running()


async def test_one_that_fails_to_come_back_is_tried_again_and_the_reason_is_told(tmp_path: Path) -> None:
    async with runner(server(source=fails_at(2, tmp_path / "starts"))) as running:
        os.kill((await do(running))["pid"], signal.SIGKILL)
        await until(lambda: any("exited with code 7 before it answered; restart in" in p for p in running.problems()))
        await until(running.running)
    assert (tmp_path / "starts").read_text() == "xxx"


# -- ending ---------------------------------------------------------------------------------------


async def test_leaving_ends_the_process_and_its_children_even_those_that_ignore_sigterm() -> None:
    async with runner(server()) as running:
        pids = [(await do(running))["pid"], await do(running, "child")]
        assert all(map(alive, pids))
    assert eventually(lambda: not any(map(alive, pids)))


async def test_children_go_when_their_parent_died_before() -> None:
    async with runner(server()) as running:
        child = await do(running, "child")
        os.kill((await do(running))["pid"], signal.SIGKILL)
        await until(lambda: not alive(child))


async def test_one_that_ignores_sigterm_is_killed_after_its_time() -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER
    async with runner(server(source=stubborn, stop_seconds=0.5)) as running:
        pid = (await do(running))["pid"]
        began = time.monotonic()
    assert time.monotonic() - began >= 0.5
    assert not alive(pid)


async def test_what_it_prints_while_ending_is_still_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nodekit.container.one")
    polite = "import signal, sys; signal.signal(15, lambda *_: (print('goodbye'), sys.exit(0)))\n" + SERVER
    async with runner(server(source=polite)):
        pass
    assert "goodbye" in caplog.messages


async def test_cancelling_the_task_that_holds_it_ends_the_processes() -> None:
    pids: list[int] = []

    async def hold() -> None:
        async with runner(server()) as running:
            pids.append((await do(running))["pid"])
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await until(lambda: bool(pids))
        tasks.cancel_scope.cancel()
    assert not alive(pids[0])


async def test_cancelling_the_start_ends_what_was_started(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nodekit.container.deaf")
    deaf = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"

    async def hold() -> None:
        async with runner(server("deaf", deaf)):
            pytest.fail("it does not answer")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await until(lambda: bool(caplog.messages))
        tasks.cancel_scope.cancel()
    assert not alive(int(caplog.messages[0]))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of the end of one side")
async def test_a_process_whose_supervisor_is_frozen_is_ended_nevertheless() -> None:
    fork_server = ForkServer()
    order = Order(command=["/bin/sleep", "600"], env={}, folder="/", limits=[])
    log = ContainerLog(ProcessContainer(id="frozen", command=("sleep",)))
    process = Process(fork_server, order, Output(log))
    await process.begun.wait()
    os.kill(process.supervisor, signal.SIGSTOP)
    await process.end(0.1)
    assert process.exited.is_set()
    assert not alive(process.pid)
    await fork_server.aclose()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root sees descriptors of supervisors")
async def test_a_fork_server_and_its_supervisors_do_not_write_to_the_nodes_standard_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fork_server = ForkServer()
    order = Order(command=["/bin/sleep", "600"], env={}, folder="/", limits=[])
    log = ContainerLog(ProcessContainer(id="quiet", command=("sleep",)))
    process = Process(fork_server, order, Output(log))
    await process.begun.wait()
    error = os.open(f"/proc/{process.supervisor}/fd/2", os.O_WRONLY)
    os.write(error, b"in trouble\x1b[2J\nagain\n")
    os.close(error)
    await until(lambda: len(caplog.messages) > 1)
    assert caplog.messages == ["the fork server: in trouble\\x1b[2J", "the fork server: again"]
    await process.end(5)
    await fork_server.aclose()


NODE = """
import anyio, json, sys
from nodekit_process import ProcessConfig, ProcessContainer, ProcessRunner

async def main():
    containers = [ProcessContainer(id=str(n), command=(sys.executable, "-c", sys.argv[1])) for n in range(2)]
    async with ProcessRunner(*containers) as runner:
        print(json.dumps([s._up[0].pid for s in runner.upkeep.values()]), flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


def test_no_process_survives_a_node_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", NODE, SERVER], stdout=subprocess.PIPE) as node:
        assert node.stdout
        pids = json.loads(node.stdout.readline())
        assert len(pids) == 2
        assert all(map(alive, pids))
        node.kill()
    assert eventually(lambda: not any(map(alive, pids)))


async def test_pauses_grow_for_one_that_takes_long_to_fail(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The time of its start does not count as having run."""
    monkeypatch.setattr("nodekit_remote._started.STEADY_SECONDS", 0.1)
    async with runner(server(source="import time; time.sleep(600)", required=False, startup_seconds=0.2)):
        await until(lambda: caplog.text.count("restart in") >= 3)
    pauses = [float(record.args[2]) for record in caplog.records if "restart in" in record.msg]  # type: ignore[index, arg-type]
    assert pauses[:3] == [0.5, 1, 2]


class Drawn:
    """A random source that draws each port twice."""

    def __init__(self) -> None:
        self.drawn = 20_000

    def randrange(self, lowest: int, below: int) -> int:
        self.drawn += 1
        return self.drawn // 2


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each choice of a port begin with the same one."""
    monkeypatch.setattr("nodekit_process._ports.SystemRandom", Drawn)
    monkeypatch.setattr("nodekit_process._ports._first_outgoing_port", lambda: 32_768)


def test_a_port_is_given_to_one_container_until_that_has_ended(drawn: None) -> None:
    with free_port() as one:
        with free_port() as other:
            assert other != one
        with free_port() as again:
            assert again == other
    with free_port() as first:
        assert first == one


async def test_containers_that_start_together_are_each_called_themselves(drawn: None) -> None:
    async with runner(*(server(id) for id in "abc")) as running:
        assert len({(await do(running, container=id))["pid"] for id in "abc"}) == 3
