"""A backup of a running node is put back as *run in production* says, and the node goes on from there."""

import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio.to_thread
import pytest
from components import until
from node_files import SERVED, SLOW, write
from paths import ROOT
from served import nodekit, serve

pytestmark = pytest.mark.anyio

PAGE = ROOT / "docs" / "how-to" / "run-in-production.md"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def by_command(file: Path, copy: Path) -> None:
    done = nodekit("store", "backup", file, copy)
    assert done.returncode == 0, done.stderr


def by_sqlite(file: Path, copy: Path) -> None:
    with closing(sqlite3.connect(file.with_name("jobs.db"))) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def put_back(folder: Path, copy: Path) -> None:
    """Do what the page says between stopping and starting the node."""
    commands = ['&& mv jobs.db* "$old" &&', "install -o nodekit -g nodekit -m 0600 backup.db jobs.db"]
    page = PAGE.read_text(encoding="utf-8")
    assert all(command in page for command in commands)
    (folder / "old").mkdir()
    for part in folder.glob("jobs.db*"):
        part.rename(folder / "old" / part.name)
    shutil.copyfile(copy, folder / "jobs.db")


@pytest.mark.parametrize("back_up", [by_command, by_sqlite])
async def test_a_node_goes_on_from_its_backup(back_up: Callable[[Path, Path], None], tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    file = write(tmp_path, SERVED.replace("drain_seconds = 60", "drain_seconds = 0"))
    copy, started, go = tmp_path / "backup.db", tmp_path / "started", tmp_path / "go"
    done = {"started": str(tmp_path / "x"), "go": str(tmp_path / "slow.py")}  # goes on at once
    async with serve(file) as (served, api):
        finished = await api.submit("slow", **done)
        await api.results(finished)
        unfinished = await api.submit("slow", started=str(started), go=str(go))
        await until(started.exists)
        await anyio.to_thread.run_sync(back_up, file, copy)
        later = await api.submit("slow", **done)
        await api.results(later)
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
    put_back(tmp_path, copy)
    started.unlink()
    async with serve(file) as (served, api):
        assert [job["status"] for job in await api.results(finished)] == ["success"]
        assert (await api.get(f"/api/jobs?id={later}")).status == 404
        await until(started.exists)
        go.touch()
        assert [job["status"] for job in await api.results(unfinished)] == ["success"]
        assert (await api.get("/health")).json == {"status": "healthy"}
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
