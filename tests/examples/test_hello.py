"""The bundled example: its services as they are called, and `nodekit demo` from end to end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from http_api import free_port
from processes import processes_of

import nodekit_hello
from nodekit import ContainerFailed, encode_payload, load_node
from nodekit.testing import make_step
from nodekit_hello import demo as demo_module
from nodekit_process import ProcessContainer, ProcessRunner

FOLDER = Path(nodekit_hello.__file__).parent
DEMO = [sys.executable, "-m", "nodekit.cli", "demo"]


def outputs(service: str, *data: Any, wrong: Sequence[Any]) -> list[Any]:
    """Return the output of a service for each item of data. Wrong data must be a 400 that says what is expected."""
    container = ProcessContainer(id=service, command=(sys.executable, f"{service}.py"))
    runner = ProcessRunner(container, folder=FOLDER)

    async def one(given: Any) -> Any:
        return (await runner.run(make_step(service, encode_payload(given)))).value

    async def call() -> list[Any]:
        async with runner:
            for given in [*wrong, [], None]:
                with pytest.raises(ContainerFailed) as failed:
                    await one(given)
                assert failed.value.status == 400, given
                assert "expected {" in failed.value.text
                assert "internal" not in failed.value.text
            return [await one(given) for given in data]

    return anyio.run(call)


def test_tokenise_gives_words_in_small_letters() -> None:
    given = {"text": "Oh dear! The waistcoat-pocket isn't Zoë's, 42."}
    (output,) = outputs("tokenise", given, wrong=[{}, {"text": 1}, {"text": None}, "text"])
    assert output == {"words": ["oh", "dear", "the", "waistcoat-pocket", "isn't", "zoë's"]}


def test_count_counts() -> None:
    wrong = [{}, {"words": 1}, {"words": "text"}, {"words": [1]}]
    assert outputs("count", {"words": ["a", "b", "a"]}, {"words": []}, wrong=wrong) == [
        {"total": 3, "counts": {"a": 2, "b": 1}},
        {"total": 0, "counts": {}},
    ]


def test_rank_gives_the_most_frequent_first_with_shares_and_bars() -> None:
    wrong = [{}, {"counts": []}, {"counts": {"a": "b"}}, {"counts": {"long enough": 0}}]
    counts = {"rare": 1, "often": 4, "also": 1}
    ranked, nothing = outputs("rank", {"counts": counts}, {"counts": {}}, wrong=wrong)
    assert (ranked["words"], ranked["different"]) == (6, 3)
    assert [entry["word"] for entry in ranked["top"]] == ["often", "also", "rare"]
    assert [len(entry["bar"]) for entry in ranked["top"]] == [24, 6, 6]
    assert ranked["top"][0]["share"] == 0.6667
    assert nothing["top"] == []


@pytest.mark.parametrize("service", demo_module.STEPS)
def test_a_service_is_healthy_speaks_json_only_and_ends_quietly(service: str) -> None:
    port = free_port()
    command, env = [sys.executable, f"{service}.py"], {"PORT": str(port)}
    with subprocess.Popen(command, cwd=FOLDER, env=env, stderr=subprocess.PIPE) as process:
        try:
            until(lambda: answers(port))
            with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                assert ask(connection, "GET", "/health") == (200, {"status": "healthy"})
                assert ask(connection, "GET", "/nowhere") == (404, {"error": "not found"})
                assert ask(connection, "POST", "/nowhere", "{}") == (404, {"error": "not found"})
                assert ask(connection, "POST", "/service_output", "no json")[0] == 400
        finally:
            process.terminate()
        assert process.stderr
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_the_node_file_composes_as_it_is() -> None:
    node = load_node(FOLDER / "node.toml")
    assert {id: container.rules["external"] for id, container in node.containers.items()} == {
        "tokenise": True,
        "count": False,
        "rank": False,
    }


def test_demo_shows_every_step_and_leaves_nothing_behind_and_other_jobs_alone(temporary: Path, tmp_path: Path) -> None:
    """Another node may have been served from the same folder, and may still run."""
    folder = tmp_path / "used"
    shutil.copytree(FOLDER, folder)
    for suffix in ("", "-wal", "-shm"):
        (folder / f"jobs.db{suffix}").write_text("somebody's jobs")
    command = [*DEMO, str(folder / "node.toml")]
    done = subprocess.run(command, env=environment(temporary), capture_output=True, text=True, timeout=90, check=False)
    assert (folder / "jobs.db").read_text() == "somebody's jobs"
    assert (done.returncode, done.stderr) == (0, "")
    for step in demo_module.STEPS:
        assert re.search(rf"^ +\d+\.\d\d s  {step} +{{", done.stdout, re.MULTILINE)
    paragraphs = (FOLDER / "text.txt").read_text(encoding="utf-8").count("\n\n") + 1
    assert done.stdout.count(": success") == 1 + paragraphs
    assert "alice ████" in done.stdout
    assert not list(temporary.iterdir())
    assert not processes_of(temporary)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_demo_that_is_interrupted_leaves_nothing_behind(temporary: Path, number: signal.Signals, code: int) -> None:
    with subprocess.Popen(
        [*DEMO], env=environment(temporary), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as demo:
        until(lambda: len(processes_of(temporary)) >= 2)  # itself and the node, whose containers are starting
        demo.send_signal(number)
        assert demo.wait(60) == code
    until(lambda: not processes_of(temporary))  # killed processes take a moment to disappear
    assert not list(temporary.iterdir())


def test_a_service_listens_where_it_is_told_to() -> None:
    """Images listen on all addresses; here it is another one than 127.0.0.1, as the test above gives PORT alone."""
    port = free_port()
    env = {"HOST": "127.0.0.2", "PORT": str(port)}
    with subprocess.Popen([sys.executable, "count.py"], cwd=FOLDER, env=env) as process:
        try:
            until(lambda: answers(port, "127.0.0.2"))
            assert not answers(port)
        finally:
            process.terminate()


def test_demo_that_fails_says_why_and_leaves_nothing_behind(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The demo is given a broken node file; the tests above run its own."""
    broken = tmp_path / "broken"
    shutil.copytree(FOLDER, broken)
    (broken / "count.py").write_text("raise SystemExit('no model file')")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    done = CliRunner().invoke(demo_module.demo, [str(broken / "node.toml")])
    assert done.exit_code == 1
    assert "nodekit demo: the node did not start (exit code 1)" in done.stderr
    assert "container 'count' did not start: its process exited with code 1" in done.stderr
    assert "no model file" in done.stderr
    assert not list(temporary.iterdir())


# -- helpers --------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Return the folder in which the demo makes its own."""
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def environment(temporary: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(temporary), "PYTHONIOENCODING": "utf-8"}


def answers(port: int, host: str = "127.0.0.1") -> bool:
    with suppress(OSError), closing(HTTPConnection(host, port, timeout=10)) as connection:
        return ask(connection, "GET", "/health")[0] == 200
    return False


def ask(connection: HTTPConnection, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    connection.request(method, path, body)
    reply = connection.getresponse()
    assert reply.getheader("Content-Type") == "application/json"
    return reply.status, json.loads(reply.read())


def until(check: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


@pytest.mark.parametrize("streams", [">/dev/full", ">&-", "| true"])
def test_a_demo_whose_output_nobody_takes_leaves_no_process(streams: str, tmp_path: Path) -> None:
    command = ["bash", "-c", f'"$@" {streams}', "bash", *DEMO]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run(command, env=env, stderr=subprocess.DEVNULL, timeout=120, check=False)
    assert processes_of(tmp_path) == []
    assert not list(tmp_path.iterdir())
