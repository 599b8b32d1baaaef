"""Ownership of containers: a node finds its own after a crash, replaces changed ones, and never touches others."""

import os
import signal
import time
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import anyio
import pytest
from components import until
from docker_runs import PATIENCE_SECONDS, Bed, aside, ended, is_down, node_file, replaced, result
from served import serve, started

from nodekit_docker import NameTaken
from nodekit_docker.engine.own_container import Surroundings

pytestmark = pytest.mark.anyio


async def ids_of(bed: Bed) -> dict[str, str]:
    return {one.labels["nodekit.container"]: one.id for one in await aside(bed.made)}


async def killed(file: Path, bed: Bed) -> dict[str, str]:
    """Kill a node of this file; return the containers that it leaves, by entry."""
    async with serve(file) as (process, _):
        process.signal(signal.SIGKILL)
        await process.ended()
    return await ids_of(bed)


ONE, TWO = {"id": "one", "env": {"ADD": "1"}}, {"id": "two", "env": {"ADD": "10"}}


# -- after a crash --------------------------------------------------------------------------------


async def test_after_kill_9_jobs_in_containers_are_run_to_their_end(bed: Bed, tmp_path: Path) -> None:
    file = node_file(tmp_path, bed, ONE, TWO)
    numbers = range(20)
    async with serve(file) as (process, api):
        jobs = [await api.submit("one", "two", do="sleep", seconds=0.5, then=number) for number in numbers]
        process.signal(signal.SIGKILL)
        await process.ended()
    async with serve(file) as (process, api):
        results = await api.results(*jobs)
        assert [job["result"]["output"] for job in results] == [number + 10 for number in numbers]
        assert len(await aside(bed.made)) == 2
        await ended(process)


async def test_after_kill_9_a_node_takes_its_containers_again_but_for_those_that_have_changed_or_ended(
    bed: Bed, tmp_path: Path
) -> None:
    drills = ("kill", "pause", "stop")
    ended_since = [{"id": drill} for drill in drills]
    left = await killed(node_file(tmp_path, bed, ONE, TWO, {"id": "gone"}, {"id": "hangs"}, *ended_since), bed)
    for drill in drills:
        await aside(getattr(bed.one(drill), drill))
    stop = "for name in /proc/[0-9]*; do [ $name = /proc/1 ] || [ $name = /proc/$$ ] || kill -STOP ${name#/proc/}; done"
    await aside(lambda: bed.one("hangs").exec_run(["/bin/sh", "-c", stop]))
    hangs = {"id": "hangs", "startup_seconds": 6}  # this long it is waited for
    file = node_file(tmp_path, bed, ONE, {**TWO, "env": {"ADD": "11"}}, hangs, *ended_since)
    async with serve(file) as (process, api):
        now = await ids_of(bed)
        assert left.keys() - now.keys() == {"gone"}
        assert now["one"] == left["one"]
        assert set(now.values()) & set(left.values()) == {left["one"]}
        assert "taken over: it did not answer" in process.log
        (job,) = await api.results(await api.submit(*drills, "hangs", a=1))
        assert job["result"]["output"] == {"a": 1}
        await ended(process)


async def test_after_kill_9_restarts_are_still_counted(bed: Bed, tmp_path: Path) -> None:
    file = node_file(tmp_path, bed, ONE)
    async with serve(file) as (process, api):
        await replaced(bed)
        await api.results(await api.submit("one", a=1))
        process.signal(signal.SIGKILL)
        await process.ended()
    async with serve(file) as (process, _):
        assert (await aside(bed.one)).labels["nodekit.restarts"] == "1"
        await ended(process)


# -- others on the same engine --------------------------------------------------------------------


@pytest.mark.parametrize("labels", [{}, {"nodekit.node": "another", "nodekit.container": "one"}])
async def test_a_strangers_container_with_our_name_is_left_alone(bed: Bed, labels: Any) -> None:
    client, image = bed.engine.client, bed.engine.images.service
    labels = {name: f"{bed.node}-other" if name == "nodekit.node" else value for name, value in labels.items()}
    stranger = client.containers.run(image, name=f"nodekit-{bed.node}-one", labels=labels, detach=True)
    try:
        stranger.reload()
        before = stranger.attrs["State"]
        async with bed.running() as (node, _):
            assert await result(node, 5) == 5
            assert (await aside(lambda: bed.one(node=bed.node))).name.startswith(f"nodekit-{bed.node}-one-")
            await replaced(bed, node=bed.node)
            assert await result(node, 6) == 6
        stranger.reload()
        assert stranger.attrs["State"] == before
    finally:
        stranger.remove(force=True)


async def test_nodes_of_different_names_do_not_touch_each_others(bed: Bed) -> None:
    first, second = f"{bed.node}-a", f"{bed.node}-b"
    async with bed.runner(node=first):
        container = await aside(lambda: bed.one(node=first))
        async with bed.runner(node=second) as other:
            assert len(await aside(lambda: bed.made("one"))) == 2
            assert other.running() == ["one"]
        assert await aside(lambda: bed.made(node=second)) == []
        assert (await aside(lambda: bed.one(node=first))).attrs["State"] == container.attrs["State"]
    assert await aside(bed.made) == []


async def test_nodes_and_entries_whose_names_make_the_same_one_run_beside_each_other(bed: Bed) -> None:
    first, second = bed.node, f"{bed.node}-a"
    async with bed.runner(bed.container("a-b"), node=first), bed.runner(bed.container("b"), node=second):
        names = [one.name for one in await aside(bed.made)]
        assert f"nodekit-{bed.node}-a-b" in names
        assert len(set(names)) == 2


async def test_a_second_process_with_the_name_says_so_ends_and_harms_nothing(bed: Bed, tmp_path: Path) -> None:
    async with bed.running() as (node, _):
        before = await ids_of(bed)
        async with started("serve", node_file(tmp_path, bed, TWO), folder=tmp_path) as second:
            assert await second.ended() == 1
            assert f"another node named '{bed.node}' runs on this machine" in second.log
            assert "Traceback" not in second.log
        assert await ids_of(bed) == before
        assert await result(node, 5) == 5


async def test_a_node_in_a_container_leaves_alone_what_one_outside_of_that_name_has_made(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bed.running() as (node, _):
        before = await ids_of(bed)
        around = Surroundings(owner="4f" * 32, networks=("bridge",))
        monkeypatch.setattr("nodekit_docker.runner.surroundings", AsyncMock(return_value=around))
        held = "nodekit_docker.containers.state_folder.StateFolder.hold_name"
        monkeypatch.setattr(held, lambda *_: os.open(os.devnull, os.O_RDONLY))  # its machine is another
        with pytest.raises(NameTaken, match=r"and a node named .* outside of containers made it"):
            async with bed.runner(bed.container(env={"ADD": "1"})):
                pass
        assert await ids_of(bed) == before
        assert await result(node, 5) == 5


async def test_a_copy_of_a_container_is_nobodys(bed: Bed) -> None:
    client = bed.engine.client
    async with bed.running() as (node, _):
        image = await aside(lambda: bed.one().commit(conf={"Labels": dict(bed.one().labels)}))
        copy = await aside(lambda: client.containers.run(image.id, detach=True))
        try:
            assert copy.labels["nodekit.node"] == bed.node
            ours = await aside(lambda: next(one for one in bed.made() if one.id != copy.id))
            await aside(ours.kill)
            await until(lambda: not {one.id for one in bed.made()} <= {ours.id, copy.id})
            assert await result(node, 5) == 5
            copy.reload()
            assert copy.status == "running"
        finally:
            await aside(lambda: copy.remove(force=True))
            await aside(lambda: client.images.remove(image.id, force=True))


# -- leaving --------------------------------------------------------------------------------------


async def test_leaving_stops_all_at_once_and_kills_those_that_do_not_end(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    stubborn = [bed.container(str(number), env={"IGNORE_SIGTERM": "1"}) for number in range(4)]
    client = bed.engine.client
    with anyio.fail_after(PATIENCE_SECONDS):
        async with bed.runner(*stubborn):
            now = int(time.time())
    assert await aside(bed.made) == []
    filters = {"label": f"nodekit.node={bed.node}", "event": ["kill", "die"]}
    told = list(client.events(since=now, until=int(time.time()) + 1, filters=filters, decode=True))
    what = [(one["Action"], one["Actor"]["Attributes"].get("signal")) for one in told]
    assert what[:4] == [("kill", "15")] * 4  # all get the signal before the first has ended
    assert what.count(("kill", "9")) == 4
    assert "left on the engine" not in caplog.text


async def test_leaving_removes_one_that_is_paused(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        async with bed.runner(bed.container(), bed.container("two")) as runner:
            await aside((await aside(bed.one)).pause)
            await is_down(runner)
    assert await aside(bed.made) == []
    assert "left on the engine" not in caplog.text


async def test_leaving_while_one_waits_to_be_started_again_leaves_nothing(bed: Bed) -> None:
    async with bed.runner() as runner:
        await aside((await aside(bed.one)).kill)
        await is_down(runner)
    assert await aside(bed.made) == []


@pytest.mark.parametrize("moment", ["made", "followed"])
async def test_a_start_that_is_given_up_leaves_nothing(bed: Bed, moment: str) -> None:
    async def start() -> None:
        async with bed.runner(*(bed.container(str(number), env={"START_SECONDS": "600"}) for number in range(4))):
            pytest.fail("it does not answer")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
        wanted = 1 if moment == "made" else 4
        await until(lambda: len(bed.made()) >= wanted)
        tasks.cancel_scope.cancel()
    assert await aside(bed.made) == []


async def test_interrupting_a_node_that_starts_leaves_nothing(bed: Bed, tmp_path: Path) -> None:
    file = node_file(tmp_path, bed, {"id": "one", "env": {"START_SECONDS": "600"}})
    async with started("serve", file, folder=tmp_path) as process:
        await until(bed.made)
        process.signal(signal.SIGINT)
        await process.ended()
        assert "Traceback" not in process.log
    assert await aside(bed.made) == []
