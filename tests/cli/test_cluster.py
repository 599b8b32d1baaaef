"""`nodekit cluster`: the nodes on the store of a node file, as their engine knows them."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import shared_memory
from planted import nodekit, plant

from nodekit import Announcement, Container
from nodekit.testing import SEQUENCE, SharedMemory, make_job
from nodekit.testing.shared_store.store import SharedMemoryStore

pytestmark = pytest.mark.anyio

FILE = '[store]\nuse = "shared"\n'


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedMemory]:
    plant(tmp_path, "shared-store", {"stores": "shared"}, shared_memory.MODULE)
    (tmp_path / "node.toml").write_text(FILE)
    with SharedMemory(lease_seconds=60) as shared:
        monkeypatch.setattr(shared_memory, "running", [shared])
        yield shared


async def shown(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return await anyio.to_thread.run_sync(nodekit, folder, "cluster", "node.toml", *options)


def announced(name: str, *running: str, **fields: Any) -> Announcement:
    containers = {id: Container(id=id) for id in ("echo", "slow")}
    return Announcement(name=name, incarnation=f"{name}0123456789", containers=containers, running=running, **fields)


async def test_it_shows_nodes_queues_and_counts_without_being_one_of_them(shared: SharedMemory, tmp_path: Path) -> None:
    async with shared.store() as one:
        async with shared.store() as other:
            await other.announce(announced("left", "echo"))
        fields = {"version": "1.2", "pipelines": ("mine", "sequence"), "in_flight": 3, "skew_seconds": -0.5}
        await one.announce(announced("a", "echo", takeovers=2, poison=1, **fields))
        await one.add([make_job(), make_job(), make_job("slow")])
        await one.claim(["slow"], SEQUENCE, 1)
        done = await shown(tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        lines = re.sub(r"\b\d+ s\b( ago)?", "N s", done.stdout).splitlines()  # ages: the machine may be busy
        assert lines[0] == "1 live node, 1 gone"
        assert [line.split() for line in lines[1:4]] == [
            ["NODE", "INCARNATION", "VERSION", "SEEN", "SKEW", "IN", "FLIGHT", "CONTAINERS", "PIPELINES"],
            ["a", "a0123456", "1.2", "N", "s", "-0.N", "s", "3", "echo,", "slow", "(down)", "mine,", "sequence"],
            ["left", "left0123", "?", "gone", "N", "s", "+0.N", "s", "0", "echo,", "slow", "-"],
        ]
        assert lines[4:6] == ["", "3 unfinished jobs, 2 takeovers, 1 poison"]
        assert [line.split() for line in lines[6:]] == [["CONTAINER", "QUEUED", "OLDEST"], ["echo", "2", "N", "s"]]
        assert "-0.50 s" in done.stdout
        report = json.loads((await shown(tmp_path, "--json")).stdout)
        assert [node["name"] for node in report["nodes"]] == ["a", "left"]
        assert report["queues"]["echo"]["jobs"] == 2


async def test_what_a_node_says_of_itself_cannot_write_to_the_terminal(shared: SharedMemory, tmp_path: Path) -> None:
    async with shared.store() as store:
        await store.announce(announced("a\nb\x1b[31m", skew_seconds=-1e200))
        done = await shown(tmp_path)
        assert len(done.stdout.splitlines()) == 5
        assert (r"a\nb\x1b[31m" in done.stdout, "-1e+200 s" in done.stdout) == (True, True)


async def test_a_cluster_without_nodes_or_jobs_is_shown_too(shared: SharedMemory, tmp_path: Path) -> None:
    done = await shown(tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "0 live nodes, 0 gone"
    assert done.stdout.splitlines()[-1] == "0 unfinished jobs, 0 takeovers, 0 poison"


async def test_it_shows_what_the_store_knows_of_its_engine(
    shared: SharedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def facts(store: object) -> dict[str, str | int]:
        return {"server": "15.6\x1b[31m", "waiting_locks": 2, "replication_lag_bytes": 1048576}

    monkeypatch.setattr(SharedMemoryStore, "facts", facts, raising=False)
    done = await shown(tmp_path)
    assert [line.rstrip() for line in done.stdout.splitlines()[-5:]] == [
        "",
        "ENGINE",
        r"server                 15.6\x1b[31m",
        "waiting locks          2",
        "replication lag bytes  1048576",
    ]
    assert json.loads((await shown(tmp_path, "--json")).stdout)["engine"]["waiting_locks"] == 2


async def test_a_store_for_one_node_or_none_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text('[store]\nuse = "memory"\n')
    done = await shown(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == "node.toml: store: this kind of store belongs to one node; a cluster needs one that several nodes share\n"
    )
    (tmp_path / "node.toml").write_text('[store]\nuse = "memry"\n')
    done = await shown(tmp_path)
    assert (done.returncode, "did you mean 'memory'?" in done.stderr) == (3, True)
