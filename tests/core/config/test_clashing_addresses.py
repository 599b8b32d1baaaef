"""Two components that cannot both listen are a problem of the node file, before anything is opened."""

from pathlib import Path

import pytest
from node_files import write
from planted import nodekit, plant

from nodekit import CompositionError, load_node

STORE = '[store]\nuse = "memory"\n'
METER = """
import msgspec
from nodekit import Provider

class Config(msgspec.Struct):
    listen: str = "127.0.0.1:9100"

provider = Provider(Config, lambda config, file: object())
"""
LINE = """
import msgspec
from nodekit import Provider

class Config(msgspec.Struct):
    host: str = "127.0.0.1"
    port: int = 4000

class Line:
    async def serve(self, node, *, task_status):
        pass

provider = Provider(Config, lambda config, file: Line())
"""


def transports(*binds: str) -> str:
    return STORE + "".join(f"[[transports]]\nuse = \"asgi\"\nbind = '{bind}'\n" for bind in binds)


def problems(folder: Path, *binds: str) -> dict[str, str]:
    try:
        load_node(write(folder, transports(*binds)))
    except CompositionError as error:
        return {problem.where: problem.text for problem in error.problems}
    return {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("127.0.0.1:4000", "127.0.0.1:4000"),
        ("127.0.0.1:4000", "0.0.0.0:4000"),
        ("0.0.0.0:4000", "node.example:4000"),
        ("[::1]:4000", "[0:0::1]:4000"),
        ("[::]:4000", "127.0.0.1:4000"),
        ("[::ffff:127.0.0.1]:4000", "127.0.0.1:4000"),
        ("Node.example:4000", "node.example:4000"),
        ("unix:node.sock", "unix:./run/../node.sock"),
        ("unix:node.sock", "unix:{folder}/node.sock"),
    ],
)
def test_two_transports_at_one_address_are_a_problem_that_names_both(tmp_path: Path, one: str, other: str) -> None:
    other = other.format(folder=tmp_path)
    for first, second in ((one, other), (other, one)):
        kind = "path" if one.startswith("unix:") else "port"
        text = f"{second} is taken: transports[0].bind is {first}; write another {kind} in one of the two"
        assert problems(tmp_path, first, second) == {"transports[1].bind": text}


@pytest.mark.parametrize(
    "binds",
    [
        ("127.0.0.1:4000", "127.0.0.1:4001"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.0.0.1:4000", "127.0.0.2:4000"),
        ("127.0.0.1:4000", "[::1]:4000"),
        ("0.0.0.0:4000", "[::1]:4000"),
        ("unix:a.sock", "unix:b.sock"),
        ("a.example:4000", "b.example:4000"),
    ],
)
def test_other_addresses_are_none(tmp_path: Path, binds: tuple[str, str]) -> None:
    assert problems(tmp_path, *binds) == {}


def test_localhost_is_an_address(tmp_path: Path) -> None:
    found = {bind: problems(tmp_path, "localhost:4000", bind) for bind in ("127.0.0.1:4000", "[::1]:4000")}
    assert any(found.values())


def test_each_address_is_told_once(tmp_path: Path) -> None:
    assert set(problems(tmp_path, *["127.0.0.1:4000"] * 3)) == {"transports[1].bind", "transports[2].bind"}
    assert set(problems(tmp_path, "4000", "4000")) == {"transports[0].bind", "transports[1].bind"}  # each is wrong


def test_a_plugin_that_listens_is_found_by_its_setting(tmp_path: Path) -> None:
    plant(tmp_path, "nodekit-meter", {"plugins": "meter"}, METER)
    write(tmp_path, f'{transports("127.0.0.1:9100")}[[plugins]]\nuse = "meter"\n')
    text = "transports[0].bind: 127.0.0.1:9100 is taken: plugins[0].listen is 127.0.0.1:9100; write another port in one"
    for command in ("check", "serve"):
        done = nodekit(tmp_path, command, "node.toml")
        assert (done.returncode, text in done.stderr) == (3, True)
    done = nodekit(tmp_path, "doctor", "node.toml")
    assert (done.returncode, text in done.stdout) == (1, True)


def test_a_transport_with_host_and_port_clashes_with_one_that_surely_listens(tmp_path: Path) -> None:
    plant(tmp_path, "nodekit-line", {"transports": "line"}, LINE)
    line = '[[transports]]\nuse = "line"\nhost = "::1"\nport = 4000\n'
    done = nodekit(tmp_path, "check", write(tmp_path, f"{STORE}{line * 2}"))
    assert done.returncode == 0, "they may be clients of one server"
    done = nodekit(tmp_path, "check", write(tmp_path, f"{transports('[::1]:4000')}{line}"))
    assert (done.returncode, "transports[1].port: [::1]:4000 is taken: transports[0].bind is" in done.stderr) == (
        3,
        True,
    )
