"""Names and ports in a node file: exactly these or none, and their owners."""

import signal
import socket
import urllib.request
from pathlib import Path

import pytest
from components import until
from docker_runs import Bed, aside, ended, is_up, node_file, replaced, result
from served import serve

from nodekit import NotStarted

pytestmark = pytest.mark.anyio


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def names(bed: Bed) -> dict[str, str]:
    return {one.labels["nodekit.container"]: one.name for one in bed.made()}


async def test_a_container_has_the_name_and_the_port_that_are_said(bed: Bed) -> None:
    name, port = f"{bed.node}.summary", free_port()
    async with bed.running(bed.container(name=name, host_port=port)) as (node, _):
        assert await aside(lambda: names(bed)) == {"one": name}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as reply:
            assert reply.status == 200
        await replaced(bed)  # the next one has them too
        assert await result(node, 5) == 5
        assert await aside(lambda: names(bed)) == {"one": name}
    assert await aside(bed.made) == []


async def test_after_kill_9_containers_are_found_by_the_names_they_had(bed: Bed, tmp_path: Path) -> None:
    x, y, z = (f"{bed.node}.{letter}" for letter in "xyz")
    before = [
        {"id": "same", "name": z},
        {"id": "one", "name": x},
        {"id": "two", "name": y},
        {"id": "was", "name": "w" + z},
    ]
    async with serve(node_file(tmp_path, bed, *before, {"id": "plain"})) as (process, _):
        left = {id: bed.one(id).id for id in names(bed)}
        process.signal(signal.SIGKILL)
        await process.ended()
    after = [{"id": "same", "name": z}, {"id": "one", "name": y}, {"id": "two", "name": x}, {"id": "was"}]
    async with serve(node_file(tmp_path, bed, *after, {"id": "plain", "name": "p" + z})) as (process, _):
        own = f"nodekit-{bed.node}-was"
        assert names(bed) == {"same": z, "one": y, "two": x, "was": own, "plain": "p" + z}
        assert bed.one("same").id == left["same"]
        assert len(bed.made()) == 5
        await ended(process)
    assert await aside(bed.made) == []


async def test_a_name_that_is_somebody_elses_is_an_error_that_says_whose(bed: Bed) -> None:
    name = f"{bed.node}.taken"
    labels = {"com.docker.compose.project": "shop"}
    stranger = bed.engine.client.containers.run(bed.engine.images.service, name=name, labels=labels, detach=True)
    try:
        stranger.reload()
        before = stranger.attrs["State"]
        with pytest.raises(NotStarted) as raised:
            async with bed.runner(bed.container(name=name)):
                pass
        assert raised.value.reason == (
            f"a container named {name} exists that belongs to the compose project 'shop' (image "
            f"{bed.engine.images.service}), not to this node: remove it (`docker rm -f {name}`), rename it, or leave "
            "`name` out"
        )
        assert await aside(bed.made) == []
        stranger.reload()
        assert stranger.attrs["State"] == before
        async with bed.running(bed.container(name=name, required=False)) as (node, runner):
            await until(lambda: any("not to this node" in text for text in runner.problems()))
            await aside(lambda: stranger.rename(f"{name}.away"))
            await is_up(runner)
            assert await result(node, 5) == 5
    finally:
        stranger.remove(force=True)


async def test_a_port_that_is_in_use_is_an_error_that_says_so(bed: Bed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(NotStarted, match=rf"^container 'one' did not start: 127\.0\.0\.1:{port} is in use"):
            async with bed.runner(bed.container(host_port=port)):
                pass
    port = free_port()
    async with bed.runner(bed.container(host_port=port), node=f"{bed.node}-a"):
        with pytest.raises(NotStarted, match=rf"127\.0\.0\.1:{port} is in use.*give another `host_port`"):
            async with bed.runner(bed.container(host_port=port), node=f"{bed.node}-b"):
                pass
    assert await aside(bed.made) == []
