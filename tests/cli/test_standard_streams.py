"""Commands whose standard output and error are closed, full, or not read by anybody."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import NamedTuple

import anyio.to_thread
import pytest
from chance import each_run
from http_api import Api, serving
from node_files import SERVED, write
from paths import ROOT
from served import NODEKIT
from stream_states import STATES, commands

NOWHERE = ("--node", "http://127.0.0.1:1")
FILE = "node.toml"
ARGUMENTS: dict[str, Sequence[str]] = {
    "": ("--version",),
    "check": (FILE,),
    "cluster": (FILE,),
    "config show": (FILE,),
    "config schema": (),
    "containers": (FILE,),
    "job cancel": (*NOWHERE, "x"),
    "job get": (*NOWHERE, "x"),
    "job list": NOWHERE,
    "job run": (*NOWHERE, "x"),
    "job submit": (*NOWHERE, "x"),
    "logs": (FILE, "x"),
    "migrate": ("config.json",),
    "plugins": (),
    "prune": (FILE, "--older-than", "1d"),
    "serve": ("missing.toml",),
    "store compact": (FILE,),
}
"""Arguments with which a command prints something, or fails, within moments. The others are asked for their help."""


TRIED = each_run(("out full", "out not read", "err closed", "both full"), tuple(STATES))


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[[str, Sequence[str]], Done]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Return a function that runs a command with its streams in a state."""
    folder = tmp_path_factory.mktemp("streams")
    write(folder, SERVED)
    (folder / "config.json").write_text('{"containers": [{"id": "a", "image": "b"}]}')
    program = [sys.executable, str(ROOT / "tests" / "support" / "stream_states.py")]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(state: str, arguments: Sequence[str]) -> Done:
            print(json.dumps([state, [*arguments], str(folder)]), file=process.stdin, flush=True)
            assert process.stdout is not None
            return Done(*json.loads(process.stdout.readline()))

        yield ask
        process.stdin.close()


@pytest.mark.parametrize("command", commands(), ids=lambda name: name or "nodekit")
def test_output_that_is_not_taken_is_an_exit_code_and_a_line_and_never_a_traceback(run: Run, command: str) -> None:
    line = [*command.split(), *ARGUMENTS.get(command, ("--help",))]
    good = run("good", line)
    for state in TRIED:
        check(state, good, run(state, line))
    line = [*command.split(), "--no-such-option"]
    check("err full", run("good", line), run("err full", line))


def check(state: str, good: Done, done: Done) -> None:
    """Compare how a command ended with streams in a state and with good ones."""
    wrong = STATES[state]
    assert "Traceback" not in done.err + done.out, (state, done)
    assert "Exception ignored" not in done.err, (state, done)
    if good.out and 1 in wrong:
        not_read = wrong[1] == "not read"
        assert done.code == (good.code or (141 if not_read else 1)), (state, done)
        assert not_read or 2 in wrong or "standard output cannot be written" in done.err, (state, done)
    else:
        lost = good.err and wrong.get(2, "closed") != "closed"
        assert done.code == (good.code or int(bool(lost))), (state, done)
        assert 2 in wrong or done.err == good.err, (state, done)
    assert 1 in wrong or done.out == good.out, (state, done)


# -- the id of a job ----------------------------------------------------------------------------------


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving("hypercorn") as api:
        yield api


def told(url: str, arguments: str, streams: str) -> "subprocess.CompletedProcess[str]":
    """Run `nodekit job` with a shell's redirections."""
    command = f'"$@" job {arguments} {streams}'
    env = {**os.environ, "NODEKIT_URL": url}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, "sh", *NODEKIT], env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.anyio
@pytest.mark.parametrize("streams", [">&-", ">/dev/full", "| true"])
@pytest.mark.parametrize("arguments", ["submit echo", "submit echo --json", "run echo", "retry ID"])
async def test_the_id_of_a_submitted_job_is_on_standard_error_if_standard_output_does_not_take_it(
    api: Api, arguments: str, streams: str
) -> None:
    failed = await api.submit("fail")
    await api.results(failed)
    done = await anyio.to_thread.run_sync(told, api.url, arguments.replace("ID", failed), streams)
    (id,) = {*(await api.get("/api/jobs")).json} - {failed}
    assert done.returncode in (1, 141), done
    assert f"job {id} was accepted" in done.stderr
    assert "Traceback" not in done.stderr
