"""The start of processes that do not come up: what is said meanwhile, and what the failure names."""

import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from components import until

from nodekit import NotStarted
from nodekit.testing import make_node, make_step
from nodekit_process import ProcessContainer, ProcessRunner
from nodekit_process import _sockets as sockets
from nodekit_process._ports import _reserved
from nodekit_process._sockets import SocketTable, places_of
from nodekit_remote import StartProgress

pytestmark = pytest.mark.anyio

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says whose a socket is")

SERVER = """
import os, socket, time

def serve(host, family, port):
    listener = socket.socket(family)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((host, port))
    listener.listen()
    while True:
        connection, _ = listener.accept()
        while connection.recv(65536):
            connection.send(b'HTTP/1.1 %s\\r\\nContent-Length: 6\\r\\n\\r\\n"mine"' % STATUS)

STATUS = b"200 OK"
PORT = int(os.environ["PORT"])
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first line of progress logged soon, and nobody waited for long once one has failed."""
    monkeypatch.setattr("nodekit_remote._progress.FIRST_SECONDS", 0.1)
    monkeypatch.setattr("nodekit_remote._starter.FAIR_SECONDS", 0.2)


def container(source: str, id: str = "one", **settings: Any) -> ProcessContainer:
    command = (sys.executable, "-ISc", SERVER + source)
    return ProcessContainer(id=id, command=command, **{"startup_seconds": 60.0, **settings})


def deaf(id: str = "deaf", seconds: float = 2.0, source: str = "time.sleep(600)") -> ProcessContainer:
    return container(source, id, startup_seconds=seconds)


async def failure(*containers: ProcessContainer) -> NotStarted:
    with pytest.raises(NotStarted) as caught:
        async with ProcessRunner(*containers):
            pytest.fail("it has started")
    return caught.value


# -- meanwhile ------------------------------------------------------------------------------------


async def test_the_log_says_what_is_waited_for_and_for_how_long(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nodekit.process")

    def waits() -> list[str]:
        return [line for line in caplog.messages if line.startswith("container 'deaf': waiting for http://127.0.0.1:")]

    async def start() -> None:
        await failure(deaf(seconds=600.0))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
        await until(waits)
        tasks.cancel_scope.cancel()
    assert "/health to answer: it must listen on 127.0.0.1 at the port in PORT, " in waits()[0]
    assert waits()[0].endswith(" s of 600 s)")


def test_pauses_between_lines_grow(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pauses: list[float] = []
    monkeypatch.setattr("nodekit_remote._progress.FIRST_SECONDS", 5.0)

    class Loop:
        def call_later(self, seconds: float, function: Callable[[], None]) -> None:
            pauses.append(seconds)
            if len(pauses) < 10:
                function()

    monkeypatch.setattr("nodekit_remote._progress.asyncio.get_running_loop", Loop)
    with StartProgress(logging.getLogger("nodekit.process"), "one", lambda: "it"):
        pass
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]
    assert set(caplog.messages) == {"container 'one': waiting for it (0 s)"}


async def test_a_container_that_comes_up_soon_is_not_spoken_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodekit_remote._progress.FIRST_SECONDS", 60.0)
    caplog.set_level(logging.INFO)
    async with ProcessRunner(container('serve("127.0.0.1", socket.AF_INET, PORT)')):
        pass
    assert "waiting for" not in caplog.text


async def test_what_a_container_that_is_not_ready_answers_is_in_the_log_and_in_the_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "nodekit.process")
    busy = 'STATUS = b"503 Busy"\nserve("127.0.0.1", socket.AF_INET, PORT)'
    raised = await failure(deaf(source=busy))
    text = "it listens there, but: HTTP status 503"
    assert str(raised).endswith(f"within 2 s; {text}")
    assert f"/health to answer: {text} (" in caplog.text


# -- ports ----------------------------------------------------------------------------------------


@linux
async def test_the_failure_names_the_ports_at_which_it_listens_instead() -> None:
    raised = await failure(deaf(source='serve("0.0.0.0", socket.AF_INET, PORT + 1)'))
    assert "it must listen on 127.0.0.1 at the port in PORT, " in str(raised)
    port = int(str(raised).rpartition("and listens on 0.0.0.0:")[2].partition(";")[0])
    assert f"at http://127.0.0.1:{port - 1} within" in str(raised)


@linux
async def test_the_failure_names_the_address_if_only_that_is_another_one() -> None:
    raised = await failure(deaf(source='serve("127.0.0.2", socket.AF_INET, PORT)'))
    port = str(raised).partition("at the port in PORT, ")[2].partition(",")[0]
    assert str(raised).endswith(
        f"it must listen on 127.0.0.1 at the port in PORT, {port}, and listens on 127.0.0.2:{port}"
    )


@linux
async def test_the_failure_says_that_it_listens_nowhere() -> None:
    assert str(await failure(deaf(seconds=1.0))).endswith(", and listens on no port")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@linux
@pytest.mark.skipif(not has_ipv6(), reason="there is no loopback of IPv6")
@pytest.mark.parametrize("tables", [False, True])
async def test_a_program_that_listens_on_the_loopback_of_ipv6_only_is_called_there(
    tables: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tables:
        monkeypatch.setattr(SocketTable, "_try", SocketTable._close)
    async with ProcessRunner(container('serve("::1", socket.AF_INET6, PORT)')) as runner:
        output = await runner.run(make_step("one"))
        assert output.value == "mine"
        assert runner.upkeep["one"]._up[1].url.startswith("http://[::1]:")  # type: ignore[attr-defined]


@pytest.mark.skipif(not has_ipv6(), reason="there is no loopback of IPv6")
async def test_a_port_is_free_on_both_loopback_addresses() -> None:
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            _reserved(other.getsockname()[1])


@linux
@pytest.mark.skipif(not has_ipv6(), reason="there is no loopback of IPv6")
async def test_sockets_are_found_by_addresses_of_both_families() -> None:
    with socket.socket() as one, socket.socket(socket.AF_INET6) as other, SocketTable() as table:
        for listener, host in ((one, "127.0.0.1"), (other, "::1")):
            listener.bind((host, 0))
            listener.listen()
            found = table.find(listener.getsockname())
            assert found is not None
            assert found == sockets._from_tables(listener.getsockname()[:2], ("::" if ":" in host else "0.0.0.0", 0))
        shown = {f"127.0.0.1:{one.getsockname()[1]}", f"[::1]:{other.getsockname()[1]}"}
        assert shown <= set(places_of([os.getpid()]))


# -- more than one --------------------------------------------------------------------------------


async def test_one_failure_names_all_containers_that_did_not_start() -> None:
    fails = [container(f"print('word of {id}'); raise SystemExit({code})", id) for id, code in (("a", 3), ("b", 4))]
    raised = await failure(*fails, deaf("slow", 60.0))
    named = [raised.container, *(other.container for other in raised.others if isinstance(other, NotStarted))]
    assert (set(named), named[-1]) == ({"a", "b", "slow"}, "slow")
    assert "'slow' did not start: it was not up 0.2 s after another one had failed, and still waited for" in str(raised)
    for id, code in (("a", 3), ("b", 4)):
        assert f"container '{id}' did not start: its process exited with code {code} before it answered" in str(raised)
        assert f"\n  | word of {id}" in str(raised)


async def test_a_failure_is_left_to_the_caller_and_the_log_says_which_containers_are_waited_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodekit_remote._starter.FAIR_SECONDS", 60.0)
    caplog.set_level(logging.INFO, "nodekit.process")
    raised = await failure(container("print('no model'); raise SystemExit(3)", "dies"), deaf())
    assert "\n  | no model" in str(raised)
    waiting = "container 'dies' has failed to start; waiting at most 60 s for container 'deaf'"
    assert [line for line in caplog.messages if "start" in line] == [waiting]


async def test_one_failure_of_a_node_names_the_containers_of_all_its_runners() -> None:
    runners = [
        ProcessRunner(container('serve("127.0.0.1", socket.AF_INET, PORT)', "fine")),
        ProcessRunner(container("raise SystemExit(3)", "a")),
        ProcessRunner(container("raise SystemExit(4)", "b")),
        ProcessRunner(container('serve("127.0.0.1", socket.AF_INET, PORT)', "fine too")),
        ProcessRunner(container("raise SystemExit(5)", "c")),
    ]
    with pytest.raises(NotStarted) as caught:
        async with make_node(runners=runners):
            pytest.fail("it has started")
    for id, code in (("a", 3), ("b", 4), ("c", 5)):
        assert f"container '{id}' did not start: its process exited with code {code}" in str(caught.value)


async def test_a_runner_that_takes_long_does_not_hold_up_the_failure_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nodekit.node.lifespan.FAIR_SECONDS", 0.2)
    runners = [ProcessRunner(container("raise SystemExit(3)", "a")), ProcessRunner(deaf(seconds=600.0))]
    with pytest.raises(NotStarted, match="container 'a' did not start") as caught, anyio.fail_after(120):
        async with make_node(runners=runners):
            pytest.fail("it has started")
    assert caught.value.others == ()
