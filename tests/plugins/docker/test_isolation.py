"""Isolated containers: their node calls them, and they reach nothing; tried from inside, beside a normal one."""

import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from components import until
from docker.models.containers import Container
from docker_runs import Bed, Watched, aside, ended, node_file, result
from engine.images import LABEL
from http_api import Api
from paths import ROOT
from served import nodekit, serve

from nodekit import NotStarted
from nodekit.testing import make_step
from nodekit_docker.doctor import OLDEST_CLOSED_TO_NEIGHBOURS

pytestmark = pytest.mark.anyio

CONNECTED = "connected"


@pytest.fixture(scope="module")
async def runner(module_bed: Bed, anyio_backend: str) -> AsyncIterator[Watched]:
    bed = module_bed
    containers = [bed.container("one", network="isolated"), bed.container("two", network="isolated")]
    async with bed.runner(*containers, bed.container("plain")) as runner:
        yield runner


async def do(runner: Watched, container: str, what: str = "report", **arguments: Any) -> Any:
    return (await runner.run(make_step(container, {"do": what, **arguments}))).value


def address(container: Container) -> str:
    (network,) = container.attrs["NetworkSettings"]["Networks"].values()
    return str(network["IPAddress"])


class Elsewhere(NamedTuple):
    """An address in another network that this machine routes to, where a server listens at port 7."""

    address: str
    namespace: str

    def connects(self, address: str, port: int) -> str:
        """Connect from there, by way of this machine; return `CONNECTED`, or the error."""
        code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2); print('y')"
        command = ["ip", "netns", "exec", self.namespace, sys.executable, "-c", code, address, str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return CONNECTED if done.stdout == "y\n" else done.stderr.splitlines()[-1]


@pytest.fixture
def elsewhere(module_bed: Bed) -> Iterator[Elsewhere]:
    if not module_bed.engine.ours:
        pytest.skip("changes this machine's network")
    name = f"nk{secrets.token_hex(3)}"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    ip("netns", "add", name)
    try:
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("addr", "add", "198.18.7.1/30", "dev", name)
        ip("link", "set", name, "up")
        ip("-n", name, "addr", "add", "198.18.7.2/30", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "route", "add", "default", "via", "198.18.7.1")
        code = "import socket; s = socket.create_server(('0.0.0.0', 7)); print(flush=True)\nwhile True: s.accept()"
        listen = ["ip", "netns", "exec", name, sys.executable, "-c", code]
        with subprocess.Popen(listen, stdout=subprocess.PIPE) as listening:
            assert listening.stdout
            listening.stdout.readline()
            yield Elsewhere("198.18.7.2", name)
            listening.kill()
    finally:
        ip("netns", "delete", name)


# -- no way out -----------------------------------------------------------------------------------


async def test_it_is_called_by_its_address_in_a_network_of_its_own(module_bed: Bed, runner: Watched) -> None:
    assert await do(runner, "one", "sleep", seconds=0, then="well") == "well"
    one, two = await aside(lambda: (module_bed.one("one"), module_bed.one("two")))
    assert one.ports in ({}, {"3000/tcp": None})
    assert list(one.attrs["NetworkSettings"]["Networks"]) == [one.name]
    assert list(two.attrs["NetworkSettings"]["Networks"]) == [two.name]
    assert {network.name for network in await aside(module_bed.networks)} == {one.name, two.name}
    assert all(network.attrs["Internal"] for network in await aside(module_bed.networks))


async def test_it_reaches_no_other_network(runner: Watched, elsewhere: Elsewhere) -> None:
    assert await do(runner, "plain", "connect", host=elsewhere.address, port=7) == CONNECTED
    assert await do(runner, "one", "connect", host=elsewhere.address, port=7) != CONNECTED


async def test_a_neighbour_of_the_machine_does_not_reach_it(
    module_bed: Bed, runner: Watched, elsewhere: Elsewhere
) -> None:
    """A neighbour reaches one with a published port on older engines, as `nodekit doctor` says."""
    one, plain = await aside(lambda: (module_bed.one("one"), module_bed.one("plain")))
    assert await aside(lambda: elsewhere.connects(address(one), 3000)) != CONNECTED
    version = module_bed.engine.client.version()["Version"]
    reached = await aside(lambda: elsewhere.connects(address(plain), 3000))
    told = await aside(lambda: nodekit("doctor", DOCKER_HOST=module_bed.engine.host).stdout)
    old = int(version.partition(".")[0]) < OLDEST_CLOSED_TO_NEIGHBOURS
    assert (reached == CONNECTED) == old
    assert ("docker ports" in told) == old


async def test_it_reaches_no_other_container(module_bed: Bed, runner: Watched) -> None:
    two, plain = await aside(lambda: (module_bed.one("two"), module_bed.one("plain")))
    assert await do(runner, "plain", "connect", host=address(plain), port=3000) == CONNECTED
    for other in (two, plain):
        assert await do(runner, "one", "connect", host=address(other), port=3000) != CONNECTED


async def test_it_does_not_reach_what_is_published_on_loopback(module_bed: Bed, runner: Watched) -> None:
    """It can reach servers on all addresses of the machine if its node runs there, as documented."""
    ((binding,),) = (await aside(lambda: module_bed.one("plain"))).ports.values()
    gateway = (await aside(module_bed.networks))[0].attrs["IPAM"]["Config"][0]["Gateway"]
    for host in (gateway, "172.17.0.1", "127.0.0.1"):
        assert await do(runner, "one", "connect", host=host, port=int(binding["HostPort"])) != CONNECTED


async def test_it_looks_up_no_name(runner: Watched) -> None:
    text = await do(runner, "one", "connect", host="example.org", port=80)
    assert text.startswith("gaierror")
    resolv = (await do(runner, "one", read=["/etc/resolv.conf"]))["read"]["/etc/resolv.conf"]
    assert "nameserver 127.0.0.11" in resolv  # the engine's name server, which has no other to ask


async def test_nobody_looks_up_names_on_its_behalf(bed: Bed, dockerd: Any) -> None:
    """Engines before 26 do so if the machine asks a name server on its own loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        try:
            server.bind(("127.0.0.1", 53))
        except OSError as reason:
            pytest.skip(f"needs the port of name servers: {reason}")
        server.setblocking(False)
        with dockerd.name_server("127.0.0.1"):
            async with bed.runner(bed.container(network="isolated")) as runner:
                assert (await do(runner, "one", "connect", host="secret.example", port=80)).startswith("gaierror")
        with pytest.raises(BlockingIOError):
            server.recv(512)


# -- no way back ----------------------------------------------------------------------------------


async def test_it_submits_no_job_to_its_node_though_it_reaches_it(bed: Bed, tmp_path: Path) -> None:
    file = node_file(tmp_path, bed, {"id": "one", "network": "isolated"}, {"id": "plain"})
    file.write_text(file.read_text().replace("127.0.0.1:0", "0.0.0.0:0"))
    job = {"containers": ["plain"], "data": {"a": 1}}
    bodies = {"/api/jobs": job, "/api/jobs/batch": [job], "/api/jobs/stream": job}
    async with serve(file) as (process, api):
        port = api.address[1]
        plain, one = await aside(lambda: (bed.one("plain"), bed.networks()[0]))
        plain_gateway = plain.attrs["NetworkSettings"]["Networks"]["bridge"]["Gateway"]
        own_gateway = one.attrs["IPAM"]["Config"][0]["Gateway"]

        async def posts(container: str, host: str, path: str) -> tuple[int, str]:
            id = await api.submit(container, do="post", host=host, port=port, path=path, body=bodies[path])
            (done,) = await api.results(id)
            status, text = done["result"]["output"]
            return status, text

        for path in bodies:
            assert (await posts("plain", plain_gateway, path))[0] == 200
            status, text = await posts("one", own_gateway, path)
            assert "A container in an isolated network submits no jobs" in text
            assert (status == 200) == path.endswith("batch")  # whose items have answers of their own
        await ended(process)


# -- networks come and go with their containers ---------------------------------------------------


async def test_the_network_goes_with_the_node_and_is_used_again_after_kill_9(bed: Bed, tmp_path: Path) -> None:
    one, gone = {"id": "one", "network": "isolated"}, {"id": "gone", "network": "isolated"}
    file = node_file(tmp_path, bed, one, gone, {"id": "open", "network": "isolated"})
    async with serve(file) as (process, _):
        process.signal(signal.SIGKILL)
        await process.ended()
        left = {network.name: network.id for network in await aside(bed.networks)}
        assert len(left) == 3
        container = await aside(lambda: bed.one("one").id)
    file = node_file(tmp_path, bed, one, {"id": "open"})
    async with serve(file) as (process, api):
        (kept,) = await aside(bed.networks)
        assert left[kept.name] == kept.id
        assert (await aside(lambda: bed.one("one"))).id == container
        (job,) = await api.results(await api.submit("one", "open", a=1))
        assert job["result"]["output"] == {"a": 1}
        await ended(process)
    assert await aside(bed.networks) == []
    assert await aside(bed.made) == []


async def test_a_network_of_that_name_that_is_somebody_elses_is_an_error(bed: Bed) -> None:
    theirs = bed.engine.client.networks.create(f"nodekit-{bed.node}-one")
    try:
        with pytest.raises(
            NotStarted, match=rf"a network named nodekit-{bed.node}-one exists that does not belong to this node"
        ):
            async with bed.runner(bed.container(network="isolated")):
                pass
        async with bed.running(bed.container(network="isolated", name=f"{bed.node}.other")) as (node, _):
            assert await result(node, 5) == 5
        theirs.reload()
    finally:
        theirs.remove()


async def test_a_network_that_somebody_has_joined_is_left_and_said(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    client = bed.engine.client
    stranger = client.containers.run(bed.engine.images.service, detach=True, labels={LABEL: "1"})
    try:
        async with bed.runner(bed.container(network="isolated")):
            (network,) = await aside(bed.networks)
            await aside(lambda: network.connect(stranger))
        assert f"network {network.name} is left: " in caplog.text
        assert len(await aside(bed.networks)) == 1
    finally:
        stranger.remove(force=True)
    async with bed.runner():
        pass
    assert await aside(bed.networks) == []


# -- a node in a container ------------------------------------------------------------------------


@contextmanager
def node_in_a_container(bed: Bed, file: Path) -> Iterator[Container]:
    """Run the node in a container on its own network, with this Python's packages, this source and the socket."""
    packages = sysconfig.get_path("purelib")
    folders = {str(ROOT), packages, str(file.parent), str(bed.engine.host.removeprefix("unix://"))}
    container = bed.engine.client.containers.create(
        bed.engine.images.python,
        ["python3", "-m", "nodekit.cli", "serve", str(file)],
        environment={"PYTHONPATH": f"{packages}:{ROOT}:{ROOT}/plugins", "PYTHONDONTWRITEBYTECODE": "1"},
        volumes={folder: {"bind": folder, "mode": "rw"} for folder in folders},
        name=f"{bed.node}-itself",
        labels={LABEL: "1"},
    )
    try:
        container.start()
        yield container
    finally:
        container.remove(force=True)


def listens(container: Container, *, starts: int = 1) -> Callable[[], bool]:
    """Return True if the program has listened since this start."""

    def listening() -> bool:
        container.reload()
        log = container.logs().decode()
        assert container.status != "exited", log
        return log.count("listening on") == starts

    return listening


async def test_one_whose_node_runs_in_a_container_does_not_reach_the_machine_either(bed: Bed, tmp_path: Path) -> None:
    if not bed.engine.ours:
        pytest.skip("needs the files of the engine's machine")
    file = node_file(tmp_path, bed, {"id": "one", "network": "isolated"}, {"id": "plain"})
    file.write_text(file.read_text().replace("127.0.0.1:0", "0.0.0.0:4000"))
    with socket.create_server(("0.0.0.0", 0)) as listener, node_in_a_container(bed, file) as container:
        port = listener.getsockname()[1]
        await until(listens(container))
        (network,) = await aside(bed.networks)
        network.reload()
        gateways = [network.attrs["IPAM"]["Config"][0].get("Gateway"), "172.17.0.1"]
        url = f"http://{container.attrs['NetworkSettings']['Networks']['bridge']['IPAddress']}:4000"
        async with aiohttp.ClientSession() as session:
            api = Api(url, session)
            assert await connected(api, "plain", gateways[1], port) == CONNECTED
            for gateway in filter(None, gateways):
                assert await connected(api, "one", gateway, port) != CONNECTED
            ids = {one.id for one in await aside(bed.made)}
            await aside(lambda: container.kill("SIGKILL"))
            await aside(container.start)
            await until(listens(container, starts=2))
            assert {one.id for one in await aside(bed.made)} == ids
            assert await connected(api, "one", gateways[1], port) != CONNECTED
        await aside(lambda: container.stop(timeout=30))
        assert await aside(bed.made) == []
        assert await aside(bed.networks) == []


async def connected(api: Api, container: str, host: str, port: int) -> str:
    (job,) = await api.results(await api.submit(container, do="connect", host=host, port=port))
    return str(job["result"]["output"])
