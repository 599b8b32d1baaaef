"""The output of Docker containers in the log and in errors. No engine is needed: one is imitated."""

import logging
import socket
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from nodekit import ContainerFailed
from nodekit.testing import make_step
from nodekit_docker import DockerContainer
from nodekit_docker.cli.logs import shown_pieces
from nodekit_docker.containers.one_per_step import Once
from nodekit_docker.containers.output import KEPT_BYTES, Printed
from nodekit_docker.containers.program import Program
from nodekit_docker.containers.running_container import Life
from nodekit_docker.containers.state import State
from nodekit_docker.containers.watched import Followed
from nodekit_docker.engine.engine import shown_lines
from nodekit_remote import ContainerLog, Endpoint

pytestmark = pytest.mark.anyio

PRINTED = b"starting\nthe s3cret of another client \x1b[2J\xc2\x9b\xff\n"
LINES = ["starting", r"the s3cret of another client \x1b[2J\x9b\xff"]
SHOWN = "; it printed last: starting | the s3cret of another client \\x1b[2J\\x9b\\xff"


class Engine:
    """An engine that knows one container, which has ended with code 3."""

    described: Mapping[str, Any] = {
        "Id": "4f" * 32,
        "Name": "/one",
        "Image": "sha256:1",
        "State": {"Running": False, "ExitCode": 3},
        "Config": {"Labels": {}},
        "HostConfig": {"NetworkMode": "default"},
        "NetworkSettings": {"Ports": {}, "Networks": {}},
    }

    async def call(self, function: Any) -> str:
        return "id"

    async def wait(self, function: Any) -> Mapping[str, Any]:
        return {"StatusCode": 0}

    async def inspect(self, id: str) -> Mapping[str, Any]:
        return self.described

    async def last_lines(self, id: str, count: int) -> tuple[str, ...]:
        return shown_lines(PRINTED)


ENGINE: Any = Engine()


def container(**settings: Any) -> DockerContainer:
    return DockerContainer(**{"id": "one", "image": "one:1", **settings})


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "nodekit.container")
    return caplog


@pytest.mark.parametrize("shown", [False, True])
async def test_a_container_that_ended_says_why_and_its_output_is_in_the_log(
    log: pytest.LogCaptureFixture, shown: bool
) -> None:
    one, state = container(output_in_errors=shown), State.of(Engine.described)
    nothing: Any = None
    followed = Followed(
        *(one, state),
        network=None,
        engine=ENGINE,
        presence=nothing,
        http=nothing,
        log=ContainerLog(one),
        notify=lambda: None,
    )
    followed.life = life = Life(state, Endpoint("http://one", "one", one))
    await followed._has_ended(state)
    assert life.ending == "exited with code 3" + (SHOWN if shown else "")
    assert followed.why == "exited with code 3"  # for everybody
    assert log.messages == LINES


@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("exit_code", [0, 3])
async def test_a_program_that_failed_says_why_and_its_output_is_in_the_log(
    log: pytest.LogCaptureFixture, exit_code: int, shown: bool
) -> None:
    workshop = cast("Any", SimpleNamespace(engine=ENGINE))
    once = Once(container(mode="once", output_in_errors=shown), workshop, cast("Any", None), lambda: None)

    class Ended(Program):
        async def run(self, given: bytes, max_bytes: int) -> Printed:
            return Printed(exit_code, b"no JSON", PRINTED)

    program = Ended(ENGINE, "name", {})
    with pytest.raises(ContainerFailed) as caught:
        await once._output(make_step("one"), program)
    assert ("s3cret" in caught.value.text) is shown
    assert caught.value.text.endswith(SHOWN) is shown
    assert caught.value.text.startswith("the container exited with code 3" if exit_code else "the reply is not JSON")
    assert ("no JSON" in caught.value.text) is (shown and not exit_code)
    reply = [] if exit_code else ["the reply is not JSON: invalid character (byte 1): no JSON"]
    assert log.messages == [*LINES, *reply]


async def test_programs_that_fail_again_and_again_do_not_fill_the_log(log: pytest.LogCaptureFixture) -> None:
    once = Once(container(mode="once"), cast("Any", None), cast("Any", None), lambda: None)
    for _ in range(1000):
        once._said(Printed(1, b"", b"line\n" * 20))
    assert log.messages.count("line") == 1000
    assert log.messages[1000].startswith("it prints more than 1000 lines")
    assert len(log.messages) == 1001


async def test_a_program_that_prints_faster_than_it_is_read_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of its output is there already, so that no piece has to be waited for."""
    monkeypatch.setattr("nodekit_docker.containers.program.PIECE_BYTES", 100)
    turns, ours, its = 0, *socket.socketpair()
    its.sendall(bytes([2, 0, 0, 0]) + (100_000).to_bytes(4, "big") + b"x" * 100_000)
    its.shutdown(socket.SHUT_WR)
    ours.setblocking(False)
    program = Program(ENGINE, "name", {})
    program._socket = ours

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    with its:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            printed = await program.run(b"", 1000)
            tasks.cancel_scope.cancel()
        program.give_up()
    assert len(printed.errors) == KEPT_BYTES
    assert turns >= 1000


def test_at_a_terminal_a_log_does_not_command_it() -> None:
    pieces = [PRINTED[start : start + 1] for start in range(len(PRINTED))]
    assert b"".join(shown_pieces(pieces)).decode() == "\n".join([*LINES, ""])
