"""The example of a node with Docker: its images, built and run on a real engine, and the node in a container."""

import hashlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import docker.errors
import pytest
from docker.models.containers import Container
from engine.dockerd import EngineFailed, until
from engine.fixtures import unavailable
from engine.hello import EXAMPLE, ROOT, SERVICES, build_hello, build_node
from engine.images import LABEL
from lock import locked

from nodekit import ContainerOutput, node_name, read_node_file
from nodekit.config.compose import compose
from nodekit.testing import make_request

HELLO = ROOT / "examples" / "nodekit_hello"
TEXT = (HELLO / "text.txt").read_text(encoding="utf-8")
NODE_IMAGE = "nodekit-test/node:1"
PATIENCE_SECONDS = 60
NOBODY = 65534

pytestmark = [pytest.mark.xdist_group("docker"), pytest.mark.timeout(300)]  # the first one builds an image with pip


# -- images ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(engine: Any) -> None:
    build_hello(engine.client, engine.images.python, {LABEL: "1"})


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Download the wheels that an image without a network needs to install nodekit, in locked versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = ["pip", *project["build-system"]["requires"], *project["project"]["dependencies"]]
    folder = tmp_path_factory.mktemp("wheels")
    versions = tmp_path_factory.mktemp("lock") / "versions.txt"
    versions.write_text("".join(f"{name}=={one.version}\n" for name, one in locked().items()))
    command = [sys.executable, "-m", "pip", "download", "-qq", "--only-binary=:all:", "--dest", str(folder)]
    done = subprocess.run([*command, "-c", str(versions), *needed], capture_output=True, text=True, check=False)
    if done.returncode:
        unavailable(f"needs a package index: {done.stderr}")
    known = frozenset().union(*(one.hashes for one in locked().values()))
    assert {hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in folder.iterdir()} <= known
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def node_image(engine: Any, images: None, wheels: list[Path]) -> str:
    """Build the image of the example's Dockerfile, on a base that has pip and the packages that pip would download."""
    (pip,) = (wheel.name for wheel in wheels if wheel.name.startswith("pip-"))
    lines = (
        f"FROM {engine.images.python}",
        "COPY *.whl /wheels/",
        "ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels",
        f'RUN ["python3", "/wheels/{pip}/pip", "install", "--root-user-action=ignore", "pip"]',
    )
    base = engine.images.build("nodekit-test/pip:1", "\n".join(lines), *wheels)
    build_node(engine.client, NODE_IMAGE, base, {LABEL: "1"})
    return NODE_IMAGE


def test_compose_builds_the_images_that_the_node_file_names() -> None:
    composed = re.findall(r"^    image: (\S+)$", (EXAMPLE / "compose.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    (runner,) = read_node_file(EXAMPLE / "node.toml")["runners"]
    assert composed == ["nodekit-node", *(container["image"] for container in runner["containers"])]


# -- the node on the engine's machine -------------------------------------------------------------


@pytest.fixture
def file(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Copy the example's node file with an unused name of the node. Remove the node's containers at the end."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    text = (EXAMPLE / "node.toml").read_text(encoding="utf-8")
    path = tmp_path / "node.toml"
    path.write_text(text.replace('name = "hello"', f'name = "hello-{secrets.token_hex(4)}"'), encoding="utf-8")
    path.chmod(0o644)
    yield path
    for container in made(engine, path):
        container.remove(force=True)


def made(engine: Any, file: Path) -> list[Container]:
    """Return the containers of a node file's node, running or not."""
    name = node_name(read_node_file(file), file)
    assert name != "hello"
    return labelled(engine, name)


def labelled(engine: Any, node: str) -> list[Container]:
    filters = {"label": f"nodekit.node={node}"}
    found: list[Container] = engine.client.containers.list(all=True, filters=filters, ignore_removed=True)
    return found


def entries(containers: list[Container]) -> list[str]:
    return sorted(container.labels["nodekit.container"] for container in containers)


def test_hello_gives_the_same_from_images_as_from_processes(images: None, file: Path) -> None:
    from_images = anyio.run(outputs, file)
    assert from_images == anyio.run(outputs, HELLO / "node.toml")
    assert len(from_images) == len(SERVICES)
    assert from_images[-1]["top"][0]["word"] == "alice"


async def outputs(file: Path) -> list[Any]:
    """Return the output of each step."""
    tables = {**read_node_file(file), "transports": [], "store": {"use": "memory"}}
    async with compose(tables, file) as node:
        job = await node.submit(make_request(*SERVICES, data={"text": TEXT}))
        with anyio.fail_after(PATIENCE_SECONDS):
            (job,) = await node.wait([job.id])
    results = [step.result for step in job.steps]
    return [result.value for result in results if isinstance(result, ContainerOutput)]


def test_demo_in_docker_builds_the_images_and_shows_them(engine: Any) -> None:
    given = {"DOCKER_HOST": engine.host, "NODEKIT_PYTHON_IMAGE": engine.images.python}
    command = [sys.executable, ROOT / "tests" / "engine" / "hello.py"]
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"based on {engine.images.python}" in done.stdout
    assert done.stdout.count(": success") == 1 + len(TEXT.split("\n\n"))
    for service in SERVICES:
        assert LABEL in engine.client.images.get(f"nodekit-hello/{service}:1").labels


def test_demo_in_docker_that_is_interrupted_leaves_nothing_behind(engine: Any, tmp_path: Path) -> None:
    given = {"DOCKER_HOST": engine.host, "NODEKIT_PYTHON_IMAGE": engine.images.python, "TMPDIR": str(tmp_path)}
    command = [sys.executable, ROOT / "tests" / "engine" / "hello.py"]
    with subprocess.Popen(command, env={**os.environ, **given}, stdout=subprocess.DEVNULL) as demo:
        until("its node makes containers", lambda: bool(labelled(engine, "hello")), PATIENCE_SECONDS)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(PATIENCE_SECONDS) == 1
    assert labelled(engine, "hello") == []
    assert not list(tmp_path.iterdir())


# -- the node in a container ----------------------------------------------------------------------


class Inside:
    """A node in a container, with the engine's socket, as the README starts it."""

    def __init__(self, engine: Any, file: Path, volume: str | None = None, **options: Any) -> None:
        """`volume` is the name of a volume that outlives the container."""
        scheme, _, socket = engine.host.partition("://")
        if scheme != "unix":
            pytest.skip(f"the engine has no socket that a container can be given: {engine.host}")
        mounted = {str(file): "/node/node.toml:ro", socket: "/var/run/docker.sock"}
        if volume is not None:
            mounted[volume] = "/node"
        self.container: Container = engine.client.containers.run(
            NODE_IMAGE,
            detach=True,
            volumes=[f"{source}:{target}" for source, target in mounted.items()],
            group_add=[str(os.stat(socket).st_gid)],
            ports={"4000/tcp": ("127.0.0.1", None)},
            **options,
        )

    @property
    def log(self) -> str:
        text: str = self.container.logs().decode()
        return text

    def is_up(self) -> None:
        """Wait until it answers."""
        with suppress(EngineFailed):
            until("it answers, or ends", lambda: self._answers() or not self._running(), PATIENCE_SECONDS)
        assert self._answers(), self.log

    def _running(self) -> bool:
        self.container.reload()
        return bool(self.container.status == "running")

    def _answers(self) -> bool:
        with suppress(OSError, LookupError):
            self.ask("/health")
            return True
        return False

    def ask(self, path: str, body: Any = None) -> Any:
        self.container.reload()
        (binding,) = self.container.ports["4000/tcp"]
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{binding['HostPort']}{path}", data, PATIENCE_SECONDS) as reply:
            return json.load(reply)

    def run(self, text: str) -> Any:
        """Return the output of a job through all three containers."""
        id = self.ask("/api/jobs", {"containers": SERVICES, "data": {"text": text}})["id"]
        (job,) = self.ask(f"/api/jobs?id={id}&wait={PATIENCE_SECONDS}")
        assert job["status"] == "success", job
        return job["result"]["output"]

    def in_it(self, code: str) -> str:
        """Run code with Python in the container; return the output."""
        done = self.container.exec_run(["python3", "-c", code])
        assert done.exit_code == 0, done.output
        text: str = done.output.decode()
        return text


@pytest.fixture
def inside(engine: Any, node_image: str, file: Path) -> Iterator[Any]:
    """Start nodes in containers, and remove them at the end."""
    with ExitStack() as stack:

        def start(**options: Any) -> Inside:
            node = Inside(engine, file, **options)
            stack.callback(remove, node.container)
            return node

        yield start


def remove(container: Container) -> None:
    with suppress(docker.errors.NotFound):
        container.remove(force=True, v=True)


@pytest.fixture
def network(engine: Any) -> Iterator[Any]:
    """Make a network as compose does for its services."""
    network = engine.client.networks.create(f"nodekit-test-{secrets.token_hex(4)}", labels={LABEL: "1"})
    yield network
    network.remove()


def test_a_node_in_a_container_calls_its_containers_in_its_network(
    engine: Any, file: Path, network: Any, inside: Any
) -> None:
    node = inside(network=network.name)
    node.is_up()
    assert node.run("hello hello")["top"][0]["word"] == "hello"
    containers = made(engine, file)
    assert entries(containers) == sorted(SERVICES)
    for container in containers:
        assert list(container.attrs["NetworkSettings"]["Networks"]) == [network.name]
        assert not any(container.ports.values()), "nothing is published"
    node.container.stop(timeout=30)
    assert node.container.wait()["StatusCode"] == 0, node.log
    assert made(engine, file) == []


def test_a_node_in_a_container_is_not_root_and_does_with_the_default_bridge(inside: Any) -> None:
    node = inside()
    node.is_up()
    assert node.run("hello hello")["words"] == 2
    status = node.in_it("print(open('/proc/1/status').read())")
    assert re.findall(r"^([UG]id):\t(.*)$", status, re.MULTILINE) == [
        (kind, "\t".join([str(NOBODY)] * 4)) for kind in ("Uid", "Gid")
    ]
    assert node.in_it("import os; print(os.stat('/node/jobs.db').st_uid)") == f"{NOBODY}\n"


def test_a_node_in_a_container_that_was_killed_finds_its_containers_again(engine: Any, file: Path, inside: Any) -> None:
    node = inside()
    node.is_up()
    before = {container.id for container in made(engine, file)}
    node.container.kill()
    node.container.wait()
    assert {container.id for container in made(engine, file)} == before
    node.container.start()
    node.is_up()
    assert {container.id for container in made(engine, file)} == before
    assert len(before) == len(SERVICES)
    assert node.run("hello hello")["words"] == 2


def test_a_container_made_anew_for_a_node_replaces_what_the_one_before_left(
    engine: Any, file: Path, inside: Any
) -> None:
    volume = engine.client.volumes.create(f"nodekit-test-{secrets.token_hex(4)}", labels={LABEL: "1"})
    try:
        node = inside(volume=volume.name)
        node.is_up()
        before = {container.id for container in made(engine, file)}
        node.container.remove(force=True)
        node = inside(volume=volume.name)
        node.is_up()
        after = made(engine, file)
        assert entries(after) == sorted(SERVICES)
        assert not before & {container.id for container in after}
        assert node.run("hello hello")["words"] == 2
        node.container.remove(force=True)
    finally:
        volume.remove(force=True)


def test_a_container_made_anew_without_the_volume_of_the_one_before_touches_nothing(
    engine: Any, file: Path, inside: Any
) -> None:
    node = inside()
    node.is_up()
    before = {container.id for container in made(engine, file)}
    node.container.remove(force=True, v=True)
    node = inside()
    node.is_up()
    assert before < {container.id for container in made(engine, file)}
    assert node.run("hello hello")["words"] == 2


def test_a_second_container_with_a_node_of_the_same_name_and_volume_is_refused(
    engine: Any, file: Path, inside: Any
) -> None:
    volume = engine.client.volumes.create(f"nodekit-test-{secrets.token_hex(4)}", labels={LABEL: "1"})
    try:
        first = inside(volume=volume.name)
        first.is_up()
        before = {container.id for container in made(engine, file)}
        second = inside(volume=volume.name)
        assert second.container.wait()["StatusCode"] == 1
        assert "another node" in second.log  # it holds the jobs, and the name
        assert {container.id for container in made(engine, file)} == before
        assert first.run("hello hello")["words"] == 2
        for node in (first, second):
            node.container.remove(force=True)
    finally:
        volume.remove(force=True)


def test_two_containers_with_nodes_of_one_name_do_not_touch_each_others(engine: Any, file: Path, inside: Any) -> None:
    first, second = inside(), inside()
    for node in (first, second):
        node.is_up()
    assert len(made(engine, file)) == 2 * len(SERVICES)
    second.container.stop(timeout=30)
    assert len(made(engine, file)) == len(SERVICES)
    assert first.run("hello hello")["words"] == 2
