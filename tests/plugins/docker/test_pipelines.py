"""Pipelines of three containers on the engine, in a node."""

import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from components import make_node
from docker_runs import PATIENCE_SECONDS, Bed
from engine.images import SERVICE

from nodekit import ContainerError, EmbeddedStore, Job, JobStore
from nodekit.testing import make_request
from nodekit_memory import MemoryTable
from nodekit_process import ProcessContainer, ProcessRunner
from nodekit_sqlite import SqliteStore

pytestmark = pytest.mark.anyio

ADDED = {"one": "1", "ten": "10", "hundred": "100"}
REFUSED = {"do": "answer", "status": 418, "body": {"tea": "only"}}
"""Inputs: the containers add to numbers, and echo all else."""


def store(kind: str, folder: Path) -> JobStore:
    if kind == "sqlite":
        return SqliteStore(folder / "jobs.db")
    return EmbeddedStore(MemoryTable())


def data(number: int) -> Any:
    odd = {0: {"text": "grüße", "numbers": [number, -0.5, None]}, 10: REFUSED, 20: {"do": "nothing known"}}
    return odd.get(number % 100, number)


async def results(runner: Any, kind: str, folder: Path) -> list[Any]:
    """Submit 200 jobs at once; return the results of each step, without the name of the instance."""
    async with make_node(runner, store=store(kind, folder)) as node:
        jobs = await node.submit_many([make_request(*ADDED, data=data(number)) for number in range(200)])
        with anyio.fail_after(PATIENCE_SECONDS):
            ended = await node.wait([job.id for job in jobs if isinstance(job, Job)])
    return [(job.status, [shown(result) for result in job.results]) for job in ended]


def shown(result: Any) -> Any:
    if isinstance(result, ContainerError):
        return result.container, result.error, result.kind, result.status
    return result.container, result.value


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_200_jobs_at_once_come_out_as_from_processes(bed: Bed, tmp_path: Path, kind: str) -> None:
    containers = [bed.container(id, env={"ADD": added}) for id, added in ADDED.items()]
    made = await results(bed.runner(*containers), kind, tmp_path)

    command = (sys.executable, "-IS", str(SERVICE))
    processes = tuple(ProcessContainer(id=id, command=command, env={"ADD": added}) for id, added in ADDED.items())
    (tmp_path / "other").mkdir()
    expected = await results(ProcessRunner(*processes), kind, tmp_path / "other")

    assert made == expected
    assert len(made) == 200
    assert made[5] == ("success", [("one", 6), ("ten", 16), ("hundred", 116)])
    assert made[10][0] == "failed"
