"""Permissions and reachability of containers, from inside and outside. The tests trust no reported settings."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container
from docker_runs import Bed, Watched, aside

from nodekit import NotStarted, Secret
from nodekit.testing import make_step
from nodekit_docker import DockerRunner

pytestmark = pytest.mark.anyio

NET_BIND_SERVICE = 1 << 10
SECRET = "s3cret of a container"


@pytest.fixture(scope="module")
def networks(module_bed: Bed) -> Any:
    """Yield the names of a network and of an internal network."""
    create = module_bed.engine.client.networks.create
    made = [create(f"{module_bed.node}-{kind}", internal=kind == "internal") for kind in ("own", "internal")]
    yield [network.name for network in made]
    module_bed.clear()
    for network in made:
        network.remove()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    (folder / "given").mkdir()
    (folder / "given/text").write_text("from outside")
    (folder / "taken").mkdir()
    (folder / "taken").chmod(0o777)
    return folder


@pytest.fixture(scope="module")
async def runner(module_bed: Bed, networks: list[str], folder: Path, anyio_backend: str) -> AsyncIterator[Watched]:
    bed, volume = module_bed, f"{module_bed.node}-volume"
    limited = bed.container(
        "limited",
        env={"PORT": "8080", "TOKEN": Secret(SECRET), "PLAIN": "grüße = $HOME"},
        port=8080,
        user="1234:2345",
        read_only=True,
        tmpfs={"/scratch": "1MiB"},
        pids=20,
        cpus=0.5,
        extra_hosts={"elsewhere": "10.1.2.3"},
        labels={"com.example.team": "blue"},
    )
    volumes = ("./given:/given:ro", f"{folder}/taken:/taken", f"{volume}:/named")
    containers = [
        bed.container("plain"),
        limited,
        bed.container("capable", capabilities=("NET_BIND_SERVICE",)),
        bed.container("mounted", volumes=volumes),
        bed.container("own", network=networks[0]),
        bed.container("internal", network=networks[1]),
    ]
    async with bed.runner(*containers, folder=folder) as runner:
        yield runner
    with suppress(Exception):
        bed.engine.client.volumes.get(volume).remove()


async def do(runner: DockerRunner, container: str, what: str = "report", **arguments: Any) -> Any:
    return (await runner.run(make_step(container, {"do": what, **arguments}))).value


@pytest.fixture
def made(module_bed: Bed, runner: Watched) -> Any:
    """Return the engine's containers, by entry."""
    return module_bed.one


def published(container: Container) -> list[tuple[str, int]]:
    return [(one["HostIp"], int(one["HostPort"])) for ports in container.ports.values() for one in ports or ()]


def connects(address: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((address, port), timeout=2):
        return True
    return False


# -- who can reach them ---------------------------------------------------------------------------


async def test_ports_are_published_on_loopback_only(module_bed: Bed, runner: Watched) -> None:
    ports = {one.name: published(one) for one in await aside(module_bed.made)}
    assert len(ports) == 6
    assert [len(of) for of in ports.values()].count(0) == 1  # in the internal network
    assert {address for of in ports.values() for address, _ in of} == {"127.0.0.1"}


async def test_other_addresses_of_this_machine_do_not_reach_them(made: Any, runner: Watched) -> None:
    plain = await aside(lambda: made("plain"))
    ((address, port),) = published(plain)
    gateway = plain.attrs["NetworkSettings"]["Gateway"]
    assert connects(address, port)
    assert not connects(gateway, port)
    assert not connects("127.0.0.2", port)
    assert await do(runner, "capable", "connect", host=gateway, port=port) != "connected"


async def test_one_in_an_internal_network_is_reached_by_its_address_and_reaches_nobody(
    made: Any, runner: Watched
) -> None:
    report = await do(runner, "internal")
    container = await aside(lambda: made("internal"))
    assert published(container) == []
    (network,) = container.attrs["NetworkSettings"]["Networks"].values()
    assert network["IPAddress"] in report["addresses"].values()
    plain = await do(runner, "plain")
    assert await do(runner, "internal", "connect", host=plain["addresses"]["eth0"], port=3000) != "connected"


async def test_one_is_in_the_network_that_is_named(made: Any, runner: Watched, networks: list[str]) -> None:
    container = await aside(lambda: made("own"))
    assert list(container.attrs["NetworkSettings"]["Networks"]) == [networks[0]]
    assert (await do(runner, "own"))["addresses"].keys() >= {"eth0"}


# -- what they may do -----------------------------------------------------------------------------


async def test_none_has_a_capability_that_was_not_added_nor_can_get_one(made: Any, runner: Watched) -> None:
    for id in sorted(runner.running()):
        report = await do(runner, id)
        added = NET_BIND_SERVICE if id == "capable" else 0
        assert (id, report["capabilities"], report["bounding_capabilities"]) == (id, added, added)
        assert report["no_new_privileges"]


async def test_init_is_their_first_process(runner: Watched) -> None:
    report = await do(runner, "plain")
    assert report["init"] in ("docker-init", "tini")
    assert report["pid"] != 1


async def test_processes_are_limited(runner: Watched) -> None:
    assert await do(runner, "plain", "fork", count=100) == 100
    assert await do(runner, "limited", "fork", count=100) < 20
    assert (await do(runner, "plain"))["pids_limit"] == "512"


async def test_memory_swap_included_and_processor_time_are_limited(made: Any, runner: Watched) -> None:
    assert (await do(runner, "limited"))["memory_limit"] == str(128 << 20)
    settings = (await aside(lambda: made("limited"))).attrs["HostConfig"]
    assert settings["MemorySwap"] == settings["Memory"] == 128 << 20
    assert settings["NanoCpus"] == 5 * 10**8


async def test_a_read_only_one_writes_in_its_tmpfs_and_nowhere_else(runner: Watched) -> None:
    paths = ["/scratch/x", "/x", "/tmp/x", "/etc/x"]
    tried = (await do(runner, "limited", write=paths))["write"]
    assert tried.pop("/scratch/x") == "ok"
    assert all("Read-only file system" in text for text in tried.values()), tried
    assert set((await do(runner, "plain", write=["/x", "/tmp/x"]))["write"].values()) == {"ok"}


async def test_tmpfs_has_its_size(runner: Watched) -> None:
    mounts = (await do(runner, "limited", read=["/proc/mounts"]))["read"]["/proc/mounts"]
    (scratch,) = [line for line in mounts.splitlines() if " /scratch " in line]
    assert {"size=1024k", "nosuid", "nodev"} <= set(scratch.split()[3].split(","))


async def test_the_user_is_the_one_that_is_said(runner: Watched) -> None:
    report = await do(runner, "limited")
    assert (report["uid"], report["gid"]) == (1234, 2345)


async def test_environment_and_secrets_arrive(runner: Watched) -> None:
    env = (await do(runner, "limited"))["env"]
    assert (env["TOKEN"], env["PLAIN"]) == (SECRET, "grüße = $HOME")


async def test_names_are_added_and_labels_are_there(made: Any, runner: Watched) -> None:
    hosts = (await do(runner, "limited", read=["/etc/hosts"]))["read"]["/etc/hosts"]
    assert ["10.1.2.3", "elsewhere"] in [line.split() for line in hosts.splitlines()]
    labels = (await aside(lambda: made("limited"))).labels
    assert labels["com.example.team"] == "blue"
    assert SECRET not in str(labels)


# -- volumes --------------------------------------------------------------------------------------


async def test_volumes_are_mounted_as_said(runner: Watched, folder: Path) -> None:
    tried = await do(runner, "mounted", read=["/given/text"], write=["/given/x", "/taken/x", "/named/x"])
    assert tried["read"] == {"/given/text": "from outside"}
    assert "Read-only file system" in tried["write"].pop("/given/x")
    assert tried["write"] == {"/taken/x": "ok", "/named/x": "ok"}
    assert (folder / "taken/x").read_text() == "x"


# -- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"volumes": ("./nope:/data",)}, "the volume's source {folder}/nope does not exist on the engine's machine"),
        ({"network": "nodekit-none"}, "there is no network nodekit-none: docker network create nodekit-none"),
        ({"capabilities": ("NO_SUCH",)}, "there is no capability NO_SUCH; see `capabilities`"),
        ({"user": "nobody-knows"}, "the image knows no user nobody-knows; give `user` as a number"),
    ],
)
async def test_what_the_engine_refuses_is_said_in_words_of_the_node_file(
    bed: Bed, tmp_path: Path, settings: Any, reason: str
) -> None:
    with pytest.raises(NotStarted) as raised:
        async with bed.runner(bed.container(**settings), folder=tmp_path):
            pass
    assert raised.value.reason.startswith(reason.format(folder=tmp_path))
    assert not (tmp_path / "nope").exists()


async def test_gpus_where_there_are_none_are_an_error_that_says_so(bed: Bed) -> None:
    if "nvidia" in bed.engine.client.info()["Runtimes"] or os.path.exists("/dev/nvidia0"):
        pytest.skip("this machine has GPUs")
    with pytest.raises(NotStarted, match="the engine has no GPU driver: install the NVIDIA Container Toolkit"):
        async with bed.runner(bed.container(gpus="all")):
            pass
