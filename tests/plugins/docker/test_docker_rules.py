"""Decisions of the runner `docker` that need no engine."""

import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from unittest.mock import AsyncMock, Mock

import anyio
import msgspec
import pytest
from chance import given
from hypothesis import strategies as st

from nodekit import CompositionError, Secret
from nodekit.testing import make_step
from nodekit_docker import DockerContainer, DockerRunner, EngineGone
from nodekit_docker.config import Volume
from nodekit_docker.containers import state as state_module
from nodekit_docker.containers.isolation import Isolation
from nodekit_docker.containers.output import KEPT_BYTES, Frames, Output
from nodekit_docker.containers.ownership import Ownership
from nodekit_docker.containers.program import Program
from nodekit_docker.containers.spec import Spec, explained, program_spec, spec
from nodekit_docker.containers.state import Made, State
from nodekit_docker.engine import find
from nodekit_docker.engine.errors import NotUp
from nodekit_docker.engine.events import container_of
from nodekit_docker.engine.find import find_engine
from nodekit_docker.engine.own_container import Surroundings, own_container_id
from nodekit_docker.images.pull import pull_failed
from nodekit_docker.sizes import shown_size, size_in_bytes

HERE = Path("/srv/node")
ID = "4f" * 32


ONCE = {"mode": "once"}
UNBUFFERED = "PYTHONUNBUFFERED=1"


def container(**settings: Any) -> DockerContainer:
    return DockerContainer(**{"id": "one", "image": "registry.example/team/one:1", **settings})


def made(shared: str | None = None, *, folder: Path = HERE, bounded_logs: bool = True, **settings: Any) -> Spec:
    one = container(**settings)
    return spec(one, "node", volumes(one, folder), shared=shared, bounded_logs=bounded_logs)


def volumes(one: DockerContainer, folder: Path = HERE) -> list[Volume]:
    return [Volume.parse(text, folder) for text in one.volumes]


def host(shared: str | None = None, **settings: Any) -> Mapping[str, Any]:
    config: Mapping[str, Any] = made(shared, **settings).settings["HostConfig"]
    return config


# -- how a container is made ----------------------------------------------------------------------


def test_unless_said_a_container_may_do_little() -> None:
    config = host()
    assert (config["CapDrop"], config["CapAdd"], config["SecurityOpt"]) == (["ALL"], [], ["no-new-privileges"])
    assert config["Init"] is True
    assert config["PidsLimit"] == 512
    assert config["Memory"] == config["MemorySwap"] == 2 << 30
    assert "NanoCpus" not in config
    assert config["Mounts"] == config["DeviceRequests"] == config["ExtraHosts"] == []
    assert config["PortBindings"] == {"3000/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    assert config["RestartPolicy"] == {"Name": "no"}
    assert "NetworkMode" not in config
    assert not {"Privileged", "PidMode", "IpcMode", "Binds"} & set(config)


def test_what_is_said_of_a_container_it_gets() -> None:
    config = host(
        capabilities=("NET_BIND_SERVICE", "CAP_CHOWN"),
        memory="64MiB",
        cpus=0.5,
        pids=7,
        port=8080,
        read_only=True,
        tmpfs={"/tmp": "1MiB"},
        extra_hosts={"engine": "host-gateway", "db": "10.0.0.1"},
        volumes=("./data:/data", "/abs:/abs:ro", "named:/named:rw"),
        network="backend",
    )
    assert config["CapDrop"] == ["ALL"]
    assert config["CapAdd"] == ["NET_BIND_SERVICE", "CHOWN"]
    assert config["Memory"] == config["MemorySwap"] == 64 << 20
    assert (config["NanoCpus"], config["PidsLimit"], config["ReadonlyRootfs"]) == (500_000_000, 7, True)
    assert config["Tmpfs"] == {"/tmp": f"size={1 << 20},nosuid,nodev"}
    assert config["ExtraHosts"] == ["db:10.0.0.1", "engine:host-gateway"]
    assert [tuple(mount.values()) for mount in config["Mounts"]] == [
        ("bind", "/srv/node/data", "/data", False),
        ("bind", "/abs", "/abs", True),
        ("volume", "named", "/named", False),
    ]
    assert config["PortBindings"].keys() == {"8080/tcp"}
    assert config["NetworkMode"] == "backend"
    settings = made(
        command=("--fast",), user="1000:1000", env={"B": "2", "A": Secret("1")}, labels={"team": "x"}
    ).settings
    assert (settings["Cmd"], settings["User"], settings["Env"]) == (["--fast"], "1000:1000", ["A=1", "B=2", UNBUFFERED])
    assert settings["Labels"].items() >= {"team": "x", "nodekit.node": "node", "nodekit.container": "one"}.items()


@pytest.mark.parametrize("network", [None, "backend"])
def test_no_port_is_published_where_the_container_is_called_in_a_network(network: str | None) -> None:
    config = host("backend", network=network)
    assert "PortBindings" not in config
    assert config["NetworkMode"] == "backend"


@pytest.mark.parametrize(
    ("gpus", "devices"),
    [("all", {"Count": -1}), (2, {"Count": 2}), (("0", "GPU-1"), {"DeviceIDs": ["0", "GPU-1"]})],
)
def test_gpus_are_asked_for_as_the_engine_wants_it(gpus: Any, devices: Mapping[str, Any]) -> None:
    (asked,) = host(gpus=gpus)["DeviceRequests"]
    assert asked == {"Driver": "", "Capabilities": [["gpu"]], "Options": {}, **devices}


def test_logs_are_bounded_where_the_engine_keeps_them_in_files() -> None:
    assert host()["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert "LogConfig" not in made(bounded_logs=False).settings["HostConfig"]


def test_a_name_and_a_port_that_are_said_are_used() -> None:
    named = made(name="summary", host_port=4001)
    assert (named.name, named.settings["Labels"]["nodekit.name"]) == ("summary", "summary")
    assert made().settings["Labels"]["nodekit.name"] == ""
    bindings = {"3000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "4001"}]}
    assert host(host_port=4001)["PortBindings"] == bindings
    assert host("backend", host_port=4001)["PortBindings"] == bindings  # for others; the node calls its address


@pytest.mark.parametrize("shared", [None, "nodekit-node-one"])
def test_an_isolated_container_is_in_a_network_of_its_own_and_publishes_nothing(shared: str | None) -> None:
    config = host(shared, network="isolated")
    assert config["NetworkMode"] == "nodekit-node-one"
    assert "PortBindings" not in config
    assert config["Dns"] == ["0.0.0.0"]
    assert host(shared, network="isolated", name="summary")["NetworkMode"] == "summary"


def test_a_program_is_made_as_carefully_and_talked_to_over_its_streams() -> None:
    step = make_step("one", {"a": 1})
    program = program_spec(container(mode="once", env={"A": "1"}), "node", (), step)
    settings, config = program.settings, dict(program.settings["HostConfig"])
    assert (config.pop("NetworkMode"), config.pop("LogConfig")) == ("none", {"Type": "none"})
    assert config == {key: value for key, value in host(bounded_logs=False).items() if key != "PortBindings"}
    assert settings["OpenStdin"] is settings["StdinOnce"] is settings["AttachStdin"] is True
    assert "ExposedPorts" not in settings
    assert settings["Env"] == [
        "A=1",
        UNBUFFERED,
        f"NODEKIT_IDEMPOTENCY_KEY={step.idempotency_key}",
        "NODEKIT_SOURCE=1",
        "NODEKIT_DESTINATION=1",
        "NODEKIT_REQUIRES_PROOF=false",
    ]
    assert program.name.startswith(f"nodekit-node-one-{step.job_id}-")
    assert settings["Labels"]["nodekit.name"] == program.name
    assert program_spec(container(mode="once"), "node", (), step).name != program.name
    joined = program_spec(container(mode="once", network="backend"), "node", (), step)
    assert joined.settings["HostConfig"]["NetworkMode"] == "backend"


def test_unless_said_as_many_programs_run_at_once_as_there_are_processors() -> None:
    once = runner(container(mode="once"), container(id="two", mode="once", concurrency=3), container(id="three"))
    assert [one.concurrency for one in once.containers.values()] == [os.cpu_count(), 3, None]


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=8), st.data())
def test_streams_are_told_apart_wherever_they_are_cut(frames: list[tuple[int, bytes]], data: Any) -> None:
    sent = b"".join(bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text for stream, text in frames)
    reader, read = Frames(), {1: b"", 2: b""}
    while sent:
        cut = data.draw(st.integers(min_value=1, max_value=len(sent)))
        for stream, piece in reader.read(sent[:cut]):
            read[stream] += piece
        sent = sent[cut:]
    assert read == {stream: b"".join(text for of, text in frames if of == stream) for stream in (1, 2)}


def test_of_what_a_program_prints_no_more_is_kept_than_it_may() -> None:
    output = Output(10)
    for stream in (1, 2):
        for _ in range(100):
            output.add(bytes([stream, 0, 0, 0]) + (4096).to_bytes(4, "big") + b"x" * 4096)
    assert output.too_large
    printed = output.printed(0)
    assert printed.output == b""
    assert len(printed.errors) == KEPT_BYTES


@pytest.mark.anyio
async def test_a_program_that_prints_faster_than_it_is_read_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    """All of its output is there already, so that no piece has to be waited for."""
    monkeypatch.setattr("nodekit_docker.containers.program.PIECE_BYTES", 100)
    turns, ours, its = 0, *socket.socketpair()
    its.sendall(bytes([2, 0, 0, 0]) + (100_000).to_bytes(4, "big") + b"x" * 100_000)
    its.shutdown(socket.SHUT_WR)
    ours.setblocking(False)

    class Engine:
        async def call(self, function: Any) -> str:
            return "id"

        async def wait(self, function: Any) -> Any:
            return {"StatusCode": 0}

    program = Program(cast("Any", Engine()), "name", {})
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


@pytest.mark.parametrize(("env", "made_of_it"), [({}, ["1"]), ({"PYTHONUNBUFFERED": ""}, [""])])
def test_what_python_prints_is_not_buffered_unless_its_env_says_so(env: Any, made_of_it: list[str]) -> None:
    settings = (
        made(env=env).settings,
        program_spec(container(mode="once", env=env), "node", (), make_step("one")).settings,
    )
    for one in settings:
        found = [text.partition("=")[2] for text in one["Env"] if text.startswith("PYTHONUNBUFFERED=")]
        assert found == made_of_it


def test_same_settings_in_any_order_have_one_digest() -> None:
    first = made(env={"A": "1", "B": "2"}, labels={"x": "1", "y": "2"}, tmpfs={"/a": "1k", "/b": "1k"})
    again = made(env={"B": "2", "A": "1"}, labels={"y": "2", "x": "1"}, tmpfs={"/b": "1024", "/a": "1KiB"})
    assert first.digest == again.digest


@pytest.mark.parametrize(
    "settings",
    [
        {"image": "registry.example/team/one:2"},
        {"command": ("x",)},
        {"env": {"A": Secret("1")}},
        {"volumes": ("./x:/x",)},
        {"volumes": ("./x:/x:ro",)},
        {"port": 3001},
        {"host_port": 4001},
        {"name": "summary"},
        {"gpus": 1},
        {"network": "backend"},
        {"network": "isolated"},
        {"extra_hosts": {"x": "::1"}},
        {"labels": {"x": "y"}},
        {"memory": "1GiB"},
        {"cpus": 1},
        {"pids": 511},
        {"user": "1"},
        {"read_only": True},
        {"tmpfs": {"/tmp": "1k"}},
        {"capabilities": ("CHOWN",)},
    ],
)
def test_digest_differs_where_the_container_would(settings: Mapping[str, Any]) -> None:
    assert made(**settings).digest != made().digest


@pytest.mark.parametrize(
    "settings",
    [
        {"startup_seconds": 1},
        {"stop_seconds": 1},
        {"required": False},
        {"timeout_seconds": 1},
        {"pull": "always"},
        {"description": "x"},
        {"concurrency": 1},
        {"bearer": Secret("x")},
    ],
)
def test_digest_is_the_same_where_the_container_would_be(settings: Mapping[str, Any]) -> None:
    """A node that starts with another time limit need not recreate its containers."""
    assert made(**settings).digest == made().digest


def test_digest_depends_on_the_folder_only_through_volumes() -> None:
    assert made(folder=Path("/elsewhere")).digest == made().digest
    assert made(folder=Path("/elsewhere"), volumes=("./x:/x",)).digest != made(volumes=("./x:/x",)).digest


def test_labels_of_the_runner_are_added_and_are_no_part_of_the_digest() -> None:
    body = made().body({"nodekit.proof": "p"}, owner=ID, restarts=3)
    assert body["Labels"]["nodekit.settings"] == made().digest
    assert (body["Labels"]["nodekit.owner"], body["Labels"]["nodekit.restarts"]) == (ID, "3")
    assert body["Labels"]["nodekit.proof"] == "p"
    assert body["HostConfig"] == made().settings["HostConfig"]


# -- what a node file cannot say ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"id": "über"}, "id: expected letters, digits and _.-, beginning with a letter or digit, got 'über'"),
        ({"id": "-x"}, "id: expected letters"),
        ({"id": "a/b"}, "id: expected letters"),
        ({"memory": "lots"}, "memory: expected a size such as 512MiB or 2GiB, got 'lots'"),
        ({"memory": "0"}, "memory: expected a size"),
        ({"memory": "-1g"}, "memory: expected a size"),
        ({"memory": ""}, "memory: expected a size"),
        ({"tmpfs": {"/tmp": "x"}}, "tmpfs: /tmp: expected a size such as 512MiB or 2GiB, got 'x'"),
        ({"tmpfs": {"tmp": "1k"}}, "tmpfs: expected absolute paths inside the container, got 'tmp'"),
        ({"capabilities": ("net admin",)}, "capabilities: expected names such as NET_BIND_SERVICE, got 'net admin'"),
        (
            {"extra_hosts": {"db": "elsewhere"}},
            "extra_hosts: expected an address or host-gateway for db, got 'elsewhere'",
        ),
        (
            {"labels": {"nodekit.node": "x"}},
            "labels: names that begin with nodekit. are reserved for the runner, got 'nodekit.node'",
        ),
        ({"network": "none"}, "network: a container without network cannot be called; name another, or leave it out"),
        ({"name": "a"}, "name: expected two or more letters, digits and _.-, beginning with no _.-, got 'a'"),
        ({"name": "a/b"}, "name: expected two or more letters"),
        (
            {"name": "nodekit-x-y"},
            "name: names that begin with nodekit- are reserved for the runner, got 'nodekit-x-y'",
        ),
        ({"network": "isolated", "host_port": 1}, "host_port: an isolated container publishes no port; leave it out"),
        (
            {"network": "isolated", "capabilities": ("CAP_NET_ADMIN",)},
            "capabilities: CAP_NET_ADMIN would let it out of an isolated network; leave it out",
        ),
        ({**ONCE, "name": "x1"}, 'name: it has no meaning with mode = "once": each step has its own container'),
        ({**ONCE, "port": 3001}, 'port: it has no meaning with mode = "once": a program is not called over HTTP'),
        ({**ONCE, "host_port": 1}, 'host_port: it has no meaning with mode = "once"'),
        ({**ONCE, "bearer": Secret("x")}, 'bearer: it has no meaning with mode = "once"'),
        ({**ONCE, "http_errors": "output"}, 'http_errors: it has no meaning with mode = "once"'),
        ({**ONCE, "startup_seconds": 5}, 'startup_seconds: it has no meaning with mode = "once"'),
        ({**ONCE, "stop_seconds": 1}, 'stop_seconds: it has no meaning with mode = "once"'),
        ({**ONCE, "network": "isolated"}, "network: a program has no network by default; leave it out"),
        ({**ONCE, "network": "host"}, "network: a container on the machine's own network listens on all"),
        ({"network": "host"}, "network: a container on the machine's own network listens on all of its addresses; "),
        ({"network": "container:db"}, "network: a container on another's network publishes no port of its own; "),
    ],
)
def test_what_a_container_cannot_be_is_said_with_its_key(settings: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}"):
        container(**settings)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"port": 0}, ">= 1"),
        ({"port": 65536}, "<= 65535"),
        ({"cpus": 0}, ">= 0.01"),
        ({"cpus": 1e-12}, ">= 0.01"),
        ({"cpus": float("inf")}, "cpus"),
        ({"memory": "9" * 400}, "memory"),
        ({"memory": f"{2**63}"}, "memory"),
        ({"tmpfs": {"/t": "9" * 99}}, "tmpfs"),
        ({"pids": 0}, ">= 1"),
        ({"gpus": 0}, "gpus"),
        ({"gpus": "some"}, "gpus"),
        ({"pull": "sometimes"}, "sometimes"),
        ({"image": ""}, "length >= 1"),
        ({"memory_limit": "1g"}, "memory_limit"),
        ({"restart": "always"}, "restart"),
    ],
)
def test_values_that_are_out_of_range_and_unknown_keys_are_refused(given: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.convert({"id": "one", "image": "one", **given}, DockerContainer)


@pytest.mark.parametrize(
    ("volume", "problem"),
    [
        ("data", "expected source:/target or source:/target:ro, got 'data'"),
        ("data:relative", "expected source:/target or source:/target:ro"),
        (":/target", "expected source:/target or source:/target:ro"),
        ("data:/target:rx", "expected source:/target or source:/target:ro"),
        ("data:/target:ro:z", "expected source:/target or source:/target:ro"),
        ("some/folder:/target", "expected a path (./some/folder, /some/folder) or a volume's name, got 'some/folder'"),
        ("~nobody-of-this-name/x:/target", "~nobody-of-this-name/x"),
    ],
)
def test_volumes_that_cannot_be_are_said_with_their_place(volume: str, problem: str) -> None:
    with pytest.raises(CompositionError) as raised:
        runner(container(volumes=("/fine:/fine", volume)))
    (found,) = raised.value.problems
    assert found.where == "containers[0].volumes[1]"
    assert problem in found.text


@pytest.mark.parametrize(
    ("volume", "source"),
    [
        (".:/x", "/srv/node"),
        ("../x:/x", "/srv/x"),
        (".hidden:/x", "/srv/node/.hidden"),
        ("~/x:/x", str(Path.home() / "x")),
        ("/:/x", "/"),
        ("cache.1:/x", "cache.1"),
    ],
)
def test_sources_of_volumes_are_looked_up_from_the_node_files_folder(volume: str, source: str) -> None:
    assert host(volumes=(volume,))["Mounts"][0]["Source"] == source


def test_two_entries_with_one_id_are_refused() -> None:
    with pytest.raises(CompositionError, match=r"containers\[1\]\.id: 'one' is the id of another container"):
        runner(container(), container())


@pytest.mark.parametrize(("key", "value"), [("name", "summary"), ("host_port", 4001)])
def test_two_entries_with_one_name_or_port_are_refused(key: str, value: Any) -> None:
    with pytest.raises(CompositionError, match=rf"containers\[1\]\.{key}: {value!r} belongs to another container"):
        runner(container(**{key: value}), container(id="two", **{key: value}))


@pytest.mark.parametrize("env", [{"": "x"}, {"A=B": "x"}, {"A": "x\0"}, {"A": Secret("x\0secret")}])
def test_environments_that_cannot_be_are_refused_without_showing_values(env: Any) -> None:
    with pytest.raises(CompositionError, match=r"containers\[0\]\.env: .* is no name of a variable") as raised:
        runner(container(env=env))
    assert "secret" not in str(raised.value)


def runner(*containers: DockerContainer) -> DockerRunner:
    return DockerRunner(*containers, folder=HERE)


# -- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 << 20),
        ("2GiB", 2 << 30),
        ("2g", 2 << 30),
        ("2GB", 2 << 30),
        ("1.5GiB", 3 << 29),
        (" 64 m ", 64 << 20),
        ("1TiB", 1 << 40),
        ("100", 100),
        ("100B", 100),
        ("0.1", None),
        ("1.GiB", None),
        ("1PiB", None),
        ("GiB", None),
        ("1e3", None),
        ("1 2", None),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int | None) -> None:
    assert size_in_bytes(text) == size


@given(st.integers(min_value=1024, max_value=1 << 50))
def test_a_shown_size_is_read_back_as_about_the_same(size: int) -> None:
    assert size_in_bytes(shown_size(size)) == pytest.approx(size, rel=0.05)


@given(st.integers(min_value=1, max_value=1023), st.sampled_from(["KiB", "MiB", "GiB", "TiB"]))
def test_whole_sizes_survive_being_read_and_shown(number: int, unit: str) -> None:
    size = size_in_bytes(f"{number}{unit}")
    assert size is not None
    assert shown_size(size) == f"{number} {unit}"


# -- how a container is ---------------------------------------------------------------------------


def state(settings: Mapping[str, Any] | None = None, *, network: str = "default", **state: Any) -> State:
    """Return the state of a container as an engine reports it."""
    told = {"Status": "running", "Running": True, "Paused": False, "ExitCode": 0, "StartedAt": "2026-01-01T00:00:00Z"}
    networks = {"bridge": {"IPAddress": "172.17.0.2"}}
    return State.of(
        {
            "Id": ID,
            "Name": "/nodekit-node-one",
            "Image": "sha256:1",
            "State": {**told, **state},
            "Config": {"Labels": {"nodekit.restarts": "2"}},
            "HostConfig": {"NetworkMode": network},
            "NetworkSettings": {"Ports": {}, "Networks": networks, **(settings or {})},
        }
    )


@pytest.mark.parametrize(
    ("told", "ending"),
    [
        ({"ExitCode": 0}, "exited with code 0"),
        ({"ExitCode": 3}, "exited with code 3"),
        ({"ExitCode": 128}, "exited with code 128"),
        ({"ExitCode": 137}, "was killed by SIGKILL"),
        ({"ExitCode": 143}, "was killed by SIGTERM"),
        ({"ExitCode": 255}, "exited with code 255"),
        (
            {"ExitCode": 137, "OOMKilled": True},
            "ran out of memory and was killed (its limit is 1GiB; `memory` raises it)",
        ),
        ({"ExitCode": 3, "OOMKilled": True}, "exited with code 3"),  # a child process was killed earlier
        ({"ExitCode": 127, "Error": "no such file"}, "could not be run: no such file"),
    ],
)
def test_how_a_container_ended_is_told_in_words(told: Mapping[str, Any], ending: str) -> None:
    assert state(Running=False, **told).ending("1GiB") == ending


@pytest.mark.parametrize("told", [{"Running": False}, {"Restarting": True}, {"Dead": True}])
def test_a_container_that_ends_or_has_ended_does_not_run(told: Mapping[str, Any]) -> None:
    assert state().running
    assert not state(**told).running


PUBLISHED = {"Ports": {"3000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "49153"}], "9/udp": None}}
TWO_NETWORKS = {"Networks": {"a": {"IPAddress": "10.0.0.2"}, "b": {"IPAddress": "10.1.0.2"}}}


@pytest.mark.parametrize(
    ("told", "network", "address"),
    [
        (PUBLISHED, None, "127.0.0.1:49153"),
        (PUBLISHED, "bridge", "172.17.0.2:3000"),
        ({"Ports": {"3000/tcp": None}, **TWO_NETWORKS}, None, "10.0.0.2:3000"),
        (TWO_NETWORKS, "b", "10.1.0.2:3000"),
        (TWO_NETWORKS, "c", None),
        ({"Networks": {"a": {"IPAddress": ""}}}, "a", None),
        ({"Ports": None, "Networks": None}, None, None),
    ],
)
def test_address_is_the_published_port_or_the_one_in_the_shared_network(
    told: Mapping[str, Any], network: str | None, address: str | None
) -> None:
    assert state(told).address(3000, network) == address


def test_restarts_are_read_from_the_label_and_anything_else_is_none() -> None:
    assert state().restarts == 2
    assert msgspec.structs.replace(state(), labels={"nodekit.restarts": "x"}).restarts == 0
    assert msgspec.structs.replace(state(), labels={}).restarts == 0


# -- why an image could not be had ----------------------------------------------------------------

HUB = 'Get "https://registry-1.docker.io/v2/": '
HEAD = 'failed to do request: Head "https://r.example/v2/x/manifests/1": '


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        # engine 20.10 to 28, with its own image store and with containerd's
        ("missing", "manifest for 127.0.0.1:5000/x:9 not found: manifest unknown: manifest unknown"),
        ("missing", 'failed to resolve reference "docker.io/library/x:9": docker.io/library/x:9: not found'),
        ("missing", "no matching manifest for linux/arm64/v8 in the manifest list entries"),
        ("missing", "no match for platform in manifest: not found"),
        ("missing", 'image operating system "windows" cannot be used on this platform'),
        ("missing", "invalid reference format"),
        ("credentials", f"{HUB}unauthorized: incorrect username or password"),
        ("credentials", 'Head "http://127.0.0.1:5000/v2/x/manifests/1": no basic auth credentials'),
        ("credentials", "unauthorized: authentication required"),
        (
            "credentials",
            "pull access denied for x, repository does not exist or may require 'docker login': denied: requested "
            "access to the resource is denied",
        ),
        (
            "credentials",
            'failed to resolve reference "docker.io/library/x:1": pull access denied, repository does not exist or '
            "may require authorization: server message: insufficient_scope: authorization failed",
        ),
        (
            "credentials",
            'failed to resolve reference "r.example/x:1": failed to authorize: failed to fetch oauth token: unexpected '
            "status from GET request to https://r.example/token: 401 Unauthorized",
        ),
        ("credentials", "insufficient_scope: authorization failed"),
        ("credentials", "error parsing HTTP 403 response body: unexpected status from HEAD request: 403 Forbidden"),
        (
            "limited",
            "toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating and "
            "upgrading: https://www.docker.com/increase-rate-limits",
        ),
        (
            "limited",
            "unexpected status from GET request to https://r.example/v2/x/blobs/sha256:1: 429 Too Many Requests",
        ),
        ("disk", "write /var/lib/docker/tmp/GetImageBlob1: no space left on device"),
        (
            "disk",
            "failed to register layer: Error processing tar file(exit status 1): write /x: no space left on device",
        ),
        ("disk", "error pulling image configuration: write /x: disk quota exceeded"),
        (
            "unreachable",
            "error pulling image configuration: download failed after attempts=6: dial tcp 1.2.3.4:443: connect: "
            "connection refused",
        ),
        ("unreachable", f"{HUB}dial tcp: lookup registry-1.docker.io on 10.0.0.2:53: no such host"),
        ("unreachable", f"{HUB}dial tcp: lookup registry-1.docker.io: Temporary failure in name resolution"),
        ("unreachable", f"{HUB}dial tcp: lookup registry-1.docker.io on 10.0.0.2:53: read udp: i/o timeout"),
        ("unreachable", f"{HUB}net/http: request canceled (Client.Timeout exceeded while awaiting headers)"),
        ("unreachable", f"{HUB}context deadline exceeded (Client.Timeout exceeded while awaiting headers)"),
        ("unreachable", f"{HUB}net/http: TLS handshake timeout"),
        ("unreachable", f"{HUB}tls: failed to verify certificate: x509: certificate signed by unknown authority"),
        ("unreachable", f"{HUB}http: server gave HTTP response to HTTPS client"),
        ("unreachable", f'failed to resolve reference "r.example/x:1": {HEAD}EOF'),
        (
            "unreachable",
            f'failed to resolve reference "r.example/x:1": {HEAD}dial tcp 10.0.0.1:443: connection timed out',
        ),
        ("unreachable", f'failed to resolve reference "r.example/x:1": {HEAD}context deadline exceeded'),
        ("unreachable", f"{HEAD}read tcp 10.0.0.2:1->10.0.0.1:443: read: connection reset by peer"),
        ("unreachable", f"{HEAD}dial tcp 10.0.0.1:443: connect: no route to host"),
        ("unreachable", "received unexpected HTTP status: 503 Service Unavailable"),
        (
            "unreachable",
            "unexpected status from HEAD request to https://r.example/v2/x/manifests/1: 500 Internal Server Error",
        ),
        (
            "unreachable",
            "unexpected status from HEAD request to https://r.example/v2/x/manifests/1: 504 Gateway Timeout",
        ),
        ("unreachable", "error pulling image configuration: unexpected EOF"),
        ("other", "filesystem layer verification failed for digest sha256:1"),
        ("other", "layers from manifest don't match image configuration"),
    ],
)
def test_what_engines_tell_of_a_pull_is_understood(fault: str, told: str) -> None:
    failed = pull_failed("x:1", told, credentials=False)
    assert failed.fault == fault
    assert str(failed).startswith("image x:1: ")
    assert told in str(failed)


@pytest.mark.parametrize(
    "image",
    ["r.example/mytls/unauthorized:1", "r.example/forbidden/x509@sha256:1", "not.found.example/toomanyrequests"],
)
def test_words_in_the_name_of_an_image_are_no_signs(image: str) -> None:
    repository = image.partition("@")[0].removesuffix(":1")
    assert pull_failed(image, f"filesystem layer verification failed for {image}", credentials=False).fault == "other"
    assert pull_failed(image, f"{repository}: connection refused", credentials=False).fault == "unreachable"
    assert pull_failed(image, f"manifest for {image} not found: manifest unknown", credentials=False).fault == "missing"


@pytest.mark.parametrize(
    ("told", "credentials", "cure"),
    [
        ("unauthorized", True, "the registry refused the credentials; see `registry`"),
        ("unauthorized", False, "the registry wants credentials, or there is no such image; see `registry`"),
        ("no space left on device", False, "the engine's disk is full: `docker system prune`"),
        ("manifest unknown", False, "the registry has no such image, tag or digest"),
        ("connection refused", False, "its registry cannot be reached"),
        ("toomanyrequests: limit", False, "the registry allows no more pulls for now"),
        ("toomanyrequests: limit", True, "the registry allows no more pulls for now"),
        ("something new", False, "the pull failed"),
    ],
)
def test_the_cure_of_a_failed_pull_is_said(told: str, credentials: bool, cure: str) -> None:
    assert f"image x: {cure}" in str(pull_failed("x", told, credentials=credentials))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            'could not select device driver "" with capabilities: [[gpu]]',
            "the engine has no GPU driver: install the NVIDIA Container Toolkit",
        ),
        (
            'invalid mount config for type "bind": bind source path does not exist: /srv/x',
            "the volume's source /srv/x does not exist on the engine's machine",
        ),
        ("network backend not found", "there is no network backend: docker network create backend"),
        (
            "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create "
            'failed: unable to start container process: exec: "serve": executable file not found in $PATH: unknown',
            "its program 'serve' cannot be run",
        ),
        ('exec: "/x": stat /x: no such file or directory: unknown', "its program '/x' cannot be run"),
        ('exec: "/x": permission denied: unknown', "its program '/x' cannot be run"),
        (
            "driver failed programming external connectivity on endpoint x (4f): Error starting userland proxy: listen "
            "tcp4 127.0.0.1:4001: bind: address already in use",
            "127.0.0.1:4001 is in use, by a program or another container",
        ),
        ("Bind for 127.0.0.1:4001 failed: port is already allocated", "127.0.0.1:4001 is in use"),
        (
            "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the "
            "network",
            "the engine has no addresses left for another network",
        ),
        ("all predefined address pools have been fully subnetted", "the engine has no addresses left"),
        ("unable to find user web: no matching entries in passwd file", "the image knows no user web"),
        ('invalid CapAdd: unknown capability: "CAP_FLY"', "there is no capability FLY; see `capabilities`"),
        ("OCI runtime create failed: container_linux.go:380: caused: mount too deep", "mount too deep"),
        ("something new", "something new"),
    ],
)
def test_what_engines_tell_of_a_container_they_do_not_make_is_understood(told: str, said: str) -> None:
    assert explained(told).startswith(said)


# -- a node in a container ------------------------------------------------------------------------

ROOT = "1 0 254:1 / / rw - ext4 /dev/vda1 rw"
HOST = "26 29 0:5 / /dev rw - devtmpfs udev rw\n30 29 254:1 /etc/hostname /etc/hostname rw - ext4 /dev/vda1 rw"
OTHERS_FILES = f"99 29 254:1 /var/lib/docker/containers/{ID}/hosts /mnt/{ID}/hosts rw - ext4 /dev/vda1 rw"
V1 = f"""\
700 600 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A
710 700 0:26 /docker/{ID} /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory
720 700 254:1 /var/lib/docker/containers/{ID}/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda1 rw"""
V2 = f"""\
700 600 0:50 / / rw,relatime - overlay overlay rw
710 700 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw
720 700 254:1 /docker/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/vda1 rw"""
ROOTLESS = f"720 700 254:1 /home/me/.local/share/docker/containers/{ID}/hosts /etc/hosts rw - ext4 /dev/vda1 rw"
PODMAN = f"720 700 0:1 /containers/storage/overlay-containers/{ID}/userdata/hosts /etc/hosts rw - tmpfs tmpfs rw"
KUBERNETES = "720 700 0:1 /var/lib/kubelet/pods/0a1b/etc-hosts /etc/hosts rw - ext4 /dev/vda1 rw"


@pytest.mark.parametrize(
    ("mountinfo", "id"),
    [
        ("", None),
        ("garbage", None),
        (f"{ROOT}\n{HOST}", None),
        (f"{ROOT}\n{HOST}\n{OTHERS_FILES}", None),
        (V1, ID),
        (V2, ID),
        (ROOTLESS, ID),
        (PODMAN, None),
        (KUBERNETES, None),
    ],
)
def test_a_container_of_docker_is_known_by_the_files_mounted_into_it(mountinfo: str, id: str | None) -> None:
    assert own_container_id(mountinfo) == id


def test_a_node_in_a_container_shares_a_network_with_its_containers() -> None:
    inside = Surroundings(ID, ("backend", "bridge"))
    assert inside.shared(container()) == "backend"
    assert inside.shared(container(network="bridge")) == "bridge"
    with pytest.raises(NotUp, match="not in the network 'x': add it there, or use 'backend' or 'bridge'"):
        inside.shared(container(network="x"))


def test_a_node_on_the_machine_or_in_its_network_calls_ports_on_loopback() -> None:
    assert Surroundings().shared(container(network="x")) is None
    assert Surroundings(ID).shared(container()) is None


@pytest.mark.anyio
async def test_an_isolated_container_is_known_by_the_addresses_of_its_network() -> None:
    networks = [Made("1", "x", {}, 0, ("172.30.0.0/16",)), Made("2", "y", {}, 0, ("10.1.2.0/24", "fd00::/64"))]
    engine = Mock(networks=AsyncMock(return_value=networks), remove_network=AsyncMock())
    isolation = Isolation(engine, Ownership(b"", "node", HERE), Surroundings())
    assert not isolation.has("172.30.0.5")
    await isolation.remove_orphans(())
    for address in ("172.30.0.5", "::ffff:172.30.0.5", "10.1.2.255", "fd00::9"):
        assert isolation.has(address)
    for address in ("172.31.0.5", "10.1.3.0", "::1", "127.0.0.1", "unix", "", None):
        assert not isolation.has(address)
    engine.remove_network.assert_not_called()  # they have no proof


# -- which engine ---------------------------------------------------------------------------------


class Machine:
    """The environment variables and files that can name an engine; at first, none does."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch = folder, monkeypatch
        for name in list(os.environ):
            if name.startswith("DOCKER_"):
                monkeypatch.delenv(name)
        (folder / ".docker").mkdir()
        self.env(HOME=str(folder), DOCKER_CONFIG=str(folder / ".docker"), XDG_RUNTIME_DIR=str(folder / "run"))
        monkeypatch.setattr(find, "DEFAULT_SOCKET", str(folder / "docker.sock"))

    def env(self, **variables: str) -> None:
        for name, value in variables.items():
            self._patch.setenv(name, value)

    def socket(self, path: str = "docker.sock") -> str:
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        return f"unix://{file}"

    def config(self, **settings: Any) -> None:
        (self._folder / ".docker/config.json").write_text(json.dumps(settings))

    def context(self, name: str, meta: str | None = None, *, host: str = "unix:///of/context.sock") -> None:
        from docker.context.config import get_meta_file

        file = Path(get_meta_file(name))
        file.parent.mkdir(parents=True)
        told = {"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}}}
        file.write_text(meta or json.dumps(told))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_engine_is_found_as_dockers_tools_find_it(machine: Machine) -> None:
    with pytest.raises(EngineGone, match=r"DOCKER_HOST is not set, and there is no .*docker\.sock; install one"):
        find_engine()
    for path in (".docker/run/docker.sock", "run/docker.sock", "docker.sock"):  # from last to first
        there = machine.socket(path)
        assert find_engine().host == there
    machine.config(currentContext="mine")
    machine.context("mine")
    assert find_engine().host == "unix:///of/context.sock"
    assert find_engine().how == "the docker context 'mine'"
    machine.context("other", host="unix:///of/other.sock")
    machine.env(DOCKER_CONTEXT="other")
    assert find_engine().host == "unix:///of/other.sock"
    machine.env(DOCKER_HOST="unix:///of/variable.sock")
    assert (find_engine().host, find_engine().how) == ("unix:///of/variable.sock", "DOCKER_HOST")
    assert find_engine("unix:///of/file.sock").host == "unix:///of/file.sock"


def test_default_context_is_the_usual_socket(machine: Machine) -> None:
    usual = machine.socket()
    machine.config(currentContext="default")
    assert find_engine().host == usual
    machine.env(DOCKER_CONTEXT="default")
    assert find_engine().host == usual


def test_a_context_that_cannot_be_used_is_not_passed_over(machine: Machine) -> None:
    machine.socket()
    machine.config(currentContext="gone")
    with pytest.raises(EngineGone, match="there is no docker context 'gone'; `docker context ls`"):
        find_engine()
    machine.context("gone", "no JSON")
    with pytest.raises(EngineGone, match=r"the docker context 'gone' cannot be read: .*corrupted"):
        find_engine()


@pytest.mark.parametrize("host", ["tcp://10.0.0.1:2375", "ssh://me@elsewhere", "https://engine.example:2376"])
def test_an_engine_on_another_machine_is_refused_with_what_named_it(machine: Machine, host: str) -> None:
    machine.env(DOCKER_HOST=host)
    with pytest.raises(EngineGone, match=r"\(DOCKER_HOST\) is on another machine.*run a node there"):
        find_engine()


@pytest.mark.parametrize("host", ["/var/run/docker.sock", "127.0.0.1:2375", "localhost", "tcp://[::1", "unix:"])
def test_what_is_no_url_of_an_engine_is_refused_with_what_is_expected(machine: Machine, host: str) -> None:
    machine.env(DOCKER_HOST=host)
    with pytest.raises(EngineGone, match=r"DOCKER_HOST.*expected unix:///path or tcp://127\.0\.0\.1:port"):
        find_engine()


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:2375", "tcp://localhost:2375", "tcp://[::1]:2375", "unix:///x"])
def test_an_engine_on_this_machine_is_taken(machine: Machine, host: str) -> None:
    machine.env(DOCKER_HOST=host)
    assert find_engine().host == host


def test_certificates_that_are_missing_are_said(machine: Machine, tmp_path: Path) -> None:
    machine.env(DOCKER_HOST="tcp://127.0.0.1:2376", DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=str(tmp_path / "nowhere"))
    with pytest.raises(EngineGone, match=r"DOCKER_CERT_PATH.*certificate"):
        find_engine()


# -- what an engine tells by itself ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "id"),
    [
        ({"status": "die", "id": ID, "Type": "container", "Action": "die", "Actor": {"ID": ID}}, ID),
        ({"Type": "container", "Action": "die", "Actor": {"ID": ID, "Attributes": {}}}, ID),  # since API 1.52
        ({"status": "die", "id": ID}, ID),
        ({"Type": "container", "Action": "die"}, None),
    ],
)
def test_an_event_names_its_container_in_every_version_of_the_api(event: Mapping[str, Any], id: str | None) -> None:
    assert container_of(event) == id


def test_a_list_names_what_is_there() -> None:
    labels = {"nodekit.container": "one"}
    told = {"Id": ID, "Names": ["/nodekit-a-one"], "Labels": labels, "Created": 1_700_000_000}
    assert Made.container(told) == Made(ID, "nodekit-a-one", labels, 1_700_000_000)
    assert Made.container(told).entry == "one"
    assert Made.container({"Id": ID, "Names": None, "Labels": None}) == Made(ID, "", {}, 0)
    told = {"Id": ID, "Name": "n", "Labels": labels, "Created": "2023-11-14T22:13:20.123456789Z"}
    assert Made.network(told) == Made(ID, "n", labels, 1_700_000_000.123456)
    assert Made.network({"Id": ID, "Name": "n", "Created": "yesterday"}).created_at == 0


@pytest.mark.parametrize("settings", [{}, {"labels": {"team": "blue"}}, {"name": "said"}, ONCE])
def test_each_label_of_the_runner_is_set_so_that_none_is_inherited_from_an_image(settings: Any) -> None:
    one = container(**settings)
    wanted = program_spec(one, "node", (), make_step("one")) if one.once else made(**settings)
    labels = wanted.body({state_module.PROOF: "p", state_module.STATE: "s"}, owner="", restarts=0)["Labels"]
    known = {name for name in vars(state_module).values() if isinstance(name, str) and name.startswith("nodekit.")}
    assert len(known) == 9
    assert known <= labels.keys()
