"""Labels prove nothing: images have them, anybody can copy them, and the secret behind them can be lost."""

import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import docker.errors
import pytest
from components import until
from docker.models.containers import Container
from docker_runs import Bed, aside, ended, is_up, node_file, outcome, result
from engine.images import LABEL
from served import nodekit, serve

from nodekit import JobStatus, NodekitError, NotStarted

pytestmark = pytest.mark.anyio


@contextmanager
def image(bed: Bed, labels: Mapping[str, str]) -> Iterator[str]:
    """Yield an image of the small container that carries these labels."""
    tag = f"nodekit-test/{bed.node}:1"
    lines = [f"FROM {bed.engine.images.service}", *(f'LABEL {name}="{value}"' for name, value in labels.items())]
    try:
        yield bed.engine.images.build(tag, "\n".join(lines))
    finally:
        with suppress(docker.errors.APIError):
            bed.engine.client.images.remove(tag, force=True)


@contextmanager
def stranger(bed: Bed, name: str, labels: Mapping[str, str], of: str = "") -> Iterator[Container]:
    """Run somebody's container, and check that it is left as it was."""
    run = bed.engine.client.containers.run
    container: Any = run(of or bed.engine.images.service, name=name, labels={LABEL: "1", **labels}, detach=True)
    try:
        container.reload()
        before = container.attrs["State"]
        yield container
        container.reload()
        assert container.attrs["State"] == before
    finally:
        container.remove(force=True)


def forged(bed: Bed, name: str, **labels: str) -> dict[str, str]:
    """Return the labels that a container of the node would have, as far as anybody can know them."""
    known = {"node": bed.node, "container": "one", "name": name, "owner": "", "restarts": "0", **labels}
    return {f"nodekit.{key}": value for key, value in known.items()}


def ours(bed: Bed) -> list[str]:
    """Return the names of the containers that have a proof."""
    return sorted(one.name for one in bed.made() if "nodekit.proof" in one.labels)


# -- images ---------------------------------------------------------------------------------------


async def test_strangers_with_our_labels_are_left_alone_at_start_restart_and_end(bed: Bed) -> None:
    names = [f"{bed.node}.theirs", f"nodekit-{bed.node}-gone", f"nodekit-{bed.node}-one"]
    with ExitStack() as strangers:
        for name in names:
            strangers.enter_context(stranger(bed, name, forged(bed, name)))
        async with bed.running() as (node, _):
            assert await result(node, 5) == 5
            own = await aside(lambda: next(one for one in bed.made() if one.name not in names))
            await aside(lambda: own.remove(force=True))
            await until(lambda: len(bed.made()) == 4)
        assert sorted(one.name for one in await aside(bed.made)) == sorted(names)


async def test_the_labels_of_an_image_make_nobody_its_owner_and_do_not_hide_our_own(bed: Bed, tmp_path: Path) -> None:
    labels = forged(bed, f"{bed.node}.said", step="x", proof="p", settings="s", state="/state/docker-x.key")
    with image(bed, labels) as tag, stranger(bed, f"{bed.node}.said", {}, of=tag):
        file = node_file(tmp_path, bed, {"id": "one", "image": tag})
        async with serve(file) as (process, _):
            process.signal(signal.SIGKILL)
            await process.ended()
        left = await aside(lambda: [one for one in bed.made() if one.name == f"nodekit-{bed.node}-one"])
        assert len(left) == 1
        assert left[0].labels["nodekit.name"] == ""
        async with serve(file) as (process, api):
            assert {one.name for one in await aside(bed.made)} == {f"{bed.node}.said", left[0].name}
            assert left[0].id in {one.id for one in await aside(bed.made)}
            (job,) = await api.results(await api.submit("one", a=1))
            assert job["result"]["output"] == {"a": 1}
            await ended(process)
        assert [one.name for one in await aside(bed.made)] == [f"{bed.node}.said"]


@pytest.mark.parametrize("name", ["", "nodekit-{node}-one-0f1e2d"])
async def test_a_copy_of_all_labels_is_nobodys_under_another_name(bed: Bed, name: str) -> None:
    name = name.format(node=bed.node) or f"{bed.node}.copy"
    async with bed.running() as (node, _):
        labels = dict((await aside(bed.one)).labels)
        with stranger(bed, name, labels):
            own = await aside(lambda: next(one for one in bed.made() if one.name != name))
            await aside(lambda: own.remove(force=True))
            await until(lambda: len(bed.made()) == 2)
            assert await result(node, 5) == 5


async def test_a_strangers_network_with_our_labels_is_left_alone(bed: Bed) -> None:
    create = bed.engine.client.networks.create
    theirs = create(f"{bed.node}-theirs", labels={LABEL: "1", "nodekit.node": bed.node, "nodekit.container": "one"})
    try:
        async with bed.running(bed.container(network="isolated")) as (node, _):
            copied = next(one for one in await aside(bed.networks) if one.id != theirs.id).attrs["Labels"]
            copy = create(f"{bed.node}-copy", labels={**copied, LABEL: "1"})
            assert await result(node, 5) == 5
        assert {one.id for one in await aside(bed.networks)} == {theirs.id, copy.id}
        async with bed.runner():
            pass
        assert {one.id for one in await aside(bed.networks)} == {theirs.id, copy.id}
    finally:
        await aside(bed.clear)


async def test_one_that_somebody_has_renamed_is_removed_by_its_node_and_left_by_the_next(
    bed: Bed, tmp_path: Path
) -> None:
    name = f"{bed.node}.renamed"
    async with bed.running():
        await aside(lambda: bed.one().rename(name))
    assert await aside(bed.made) == []
    await killed(bed, tmp_path, {"id": "one"})
    await aside(lambda: bed.one().rename(name))
    async with bed.runner():
        assert len(await aside(bed.made)) == 2
    assert await aside(bed.clear) == [name]


async def test_a_program_whose_name_is_taken_removes_nothing(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"nodekit-{bed.node}-theirs"
    monkeypatch.setattr("nodekit_docker.containers.spec.another_name", lambda _: name)
    with stranger(bed, name, {}):
        async with bed.running(bed.program()) as (node, _):
            assert (await outcome(node, 1)).status is JobStatus.FAILED


# -- the secret -----------------------------------------------------------------------------------


async def killed(bed: Bed, folder: Path, *containers: dict[str, Any]) -> list[str]:
    """Kill a node with these containers; return the ids of those that it leaves."""
    async with serve(node_file(folder, bed, *containers)) as (process, _):
        process.signal(signal.SIGKILL)
        await process.ended()
    return sorted(one.id for one in await aside(bed.made))


async def test_a_lost_secret_orphans_containers_which_doctor_finds(bed: Bed, tmp_path: Path) -> None:
    said = f"{bed.node}.said"
    left = await killed(bed, tmp_path, {"id": "one", "name": said}, {"id": "apart", "network": "isolated"})
    assert "docker orphans" not in (await aside(lambda: nodekit("doctor", DOCKER_HOST=bed.engine.host))).stdout
    (bed.state / f"docker-{bed.node}.key").unlink()
    for container, reason in (
        (bed.container(name=said), "belongs to an earlier node of this name, or to one whose secret is lost"),
        (bed.container("apart", network="isolated"), f"a network named nodekit-{bed.node}-apart exists"),
    ):
        with pytest.raises(NotStarted, match=reason):
            async with bed.runner(container):
                pass
    assert sorted(one.id for one in await aside(bed.made)) == left
    found = (await aside(lambda: nodekit("doctor", DOCKER_HOST=bed.engine.host))).stdout
    for name in (said, f"nodekit-{bed.node}-apart"):
        assert f"no node here knows the container {name} as its own" in found
    assert f"docker network rm nodekit-{bed.node}-apart" in found
    await aside(bed.clear)


async def test_a_secret_that_cannot_be_used_stops_the_start_and_touches_nothing(bed: Bed, tmp_path: Path) -> None:
    left = await killed(bed, tmp_path, {"id": "one"})
    secret = bed.state / f"docker-{bed.node}.key"
    whole = secret.read_bytes()

    def truncate() -> None:
        secret.write_bytes(whole[:10])

    def replace() -> None:
        secret.unlink()
        secret.mkdir()

    def remove_folder() -> None:
        shutil.rmtree(bed.state)
        bed.state.write_text("no folder")

    for damage in (truncate, replace, remove_folder):
        damage()
        with pytest.raises(NodekitError, match=str(bed.state)):
            async with bed.runner():
                pass
        assert [one.id for one in await aside(bed.made)] == left
    bed.state.unlink()
    bed.state.mkdir()
    secret.write_bytes(whole)
    async with serve(node_file(tmp_path, bed, {"id": "one"})) as (process, _):
        assert [one.id for one in await aside(bed.made)] == left
        await ended(process)


async def test_two_nodes_of_one_name_with_secrets_of_their_own_do_not_touch_each_others(
    bed: Bed, tmp_path: Path
) -> None:
    async with bed.running() as (first, _):
        async with bed.runner(state=tmp_path) as other:
            assert other.running() == ["one"]
            assert len(ours(bed)) == 2
            assert await result(first, 5) == 5
        assert len(ours(bed)) == 1
        assert await result(first, 6) == 6


async def test_commands_show_only_what_is_the_nodes(bed: Bed, tmp_path: Path) -> None:
    file = node_file(tmp_path, bed, {"id": "one"})
    name = f"{bed.node}.theirs"
    async with bed.running():
        with stranger(bed, name, forged(bed, name)):  # newer than ours
            done = await aside(lambda: nodekit("containers", file))
            assert done.stderr == ""
            (own,) = await aside(lambda: [one for one in bed.made() if one.name != name])
            ((binding,),) = own.ports.values()
            assert binding["HostPort"] in done.stdout
            (bed.state / f"docker-{bed.node}.key").rename(tmp_path / "away")
            done = await aside(lambda: nodekit("containers", file))
            assert "containers are shown by their labels alone" in done.stderr


# -- volumes --------------------------------------------------------------------------------------


async def test_a_volume_that_leads_elsewhere_at_a_later_start_keeps_its_container_down(
    bed: Bed, tmp_path: Path
) -> None:
    for name in ("right", "wrong"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text(name)
    link = tmp_path / "link"
    link.symlink_to("right")
    containers = bed.container(volumes=("./link:/data:ro",)), bed.program("once", volumes=("./link:/data:ro",))
    async with bed.running(*containers, folder=tmp_path) as (node, runner):
        report = {"do": "report", "read": ["/data/text"]}
        assert (await result(node, report))["read"] == {"/data/text": "right"}
        await result(node, 1, "once")
        link.unlink()
        link.symlink_to("wrong")
        await aside(lambda: bed.one().kill())
        await until(lambda: any("is not what it was at the first start" in text for text in runner.problems()))
        failed = await outcome(node, 1, "once")
        assert "is not what it was at the first start" in str(failed.result)
        link.unlink()
        link.symlink_to("right")
        await is_up(runner)
        assert (await result(node, report))["read"] == {"/data/text": "right"}
