"""The checks of `nodekit doctor` for addresses: free, taken by a node or by another program, or not to be had."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from http_api import free_port
from node_files import SERVED, write
from served import serve

from nodekit import Configured, ExaminedFile, Finding, NodeFile
from nodekit_asgi import AsgiConfig
from nodekit_asgi.doctor import findings


def found(folder: Path, *binds: str, **more: Any) -> list[Finding]:
    components = [
        Configured("transport", "asgi", f"transports[{number}]", AsgiConfig(bind=bind, **more))
        for number, bind in enumerate(binds)
    ]
    return list(findings(ExaminedFile(NodeFile(folder / "node.toml", "n"), tuple(components))))


@contextmanager
def listening(family: socket.AddressFamily, address: Any) -> Iterator[socket.socket]:
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()
        yield listener


def test_without_a_file_or_a_transport_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert list(findings()) == []
    assert found(tmp_path) == []


@pytest.mark.parametrize("bind", ["127.0.0.1:{port}", "localhost:{port}", "0.0.0.0:{port}", "127.0.0.1:0"])
def test_a_free_address_is_well_and_stays_free(tmp_path: Path, bind: str) -> None:
    bind = bind.format(port=free_port())
    for _ in range(2):
        (finding,) = found(tmp_path, bind)
        assert (finding.level, finding.subject) == ("ok", "transports[0].bind")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_an_address_that_another_program_has_is_an_error(tmp_path: Path, host: str) -> None:
    with listening(socket.AF_INET, (host, 0)) as listener:
        bind = f"{host}:{listener.getsockname()[1]}"
        (finding,) = found(tmp_path, bind)
    assert (finding.level, finding.text) == ("error", f"another program has {bind}")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:node.sock"])
async def test_an_address_at_which_a_node_runs_is_a_note(tmp_path: Path, bind: str) -> None:
    (tmp_path / "slow.py").write_text("async def slow(data):\n    return {}\n")
    file = write(tmp_path, SERVED.replace("127.0.0.1:0", bind))
    async with serve(file) as (served, _):
        assert served.url
        (finding,) = found(tmp_path, served.url.removeprefix("http://"))
    assert finding.level == "note"
    assert finding.text.startswith("a node answers at ")


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        ("203.0.113.7:4000", "203.0.113.7 is no address of this machine"),
        ("no.such.host.invalid:4000", "no.such.host.invalid has no address"),
        ("unix:missing/node.sock", "there is no folder"),
        (f"unix:{'x' * 200}", "more than 107 bytes"),
        ("unix:plain", "is no socket"),
        ("unix:dangling", "is no socket"),
    ],
)
def test_an_address_that_cannot_be_had_is_an_error(tmp_path: Path, bind: str, words: str) -> None:
    (tmp_path / "plain").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (finding,) = found(tmp_path, bind)
    assert finding.level == "error"
    assert words in finding.text


def test_a_socket_file_is_free_taken_or_left_behind(tmp_path: Path) -> None:
    assert found(tmp_path, "unix:s")[0].text.endswith("is free")
    with listening(socket.AF_UNIX, str(tmp_path / "s")):
        (finding,) = found(tmp_path, "unix:s")
        assert (finding.level, "another program listens" in finding.text) == ("error", True)
    (finding,) = found(tmp_path, "unix:s")
    assert (finding.level, "will be replaced" in finding.text) == ("ok", True)
    assert os.listdir(tmp_path) == ["s"]


def test_more_connections_than_open_files_are_a_warning(tmp_path: Path) -> None:
    _, finding = found(tmp_path, "127.0.0.1:0", max_connections=10_000_000)
    assert (finding.level, finding.subject) == ("warning", "transports[0].max_connections")
