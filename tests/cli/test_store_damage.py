"""`nodekit store` on files that are damaged anywhere: nothing is shown or copied as it was not, and the others are."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import anyio
import msgspec
import pytest
from chance import SEED, each_run
from damage import Damage, ruin
from every_job import every_job, write_jobs
from exported_jobs import read_back, rounded
from planted import nodekit

from nodekit import Job
from nodekit_sqlite import SqliteTable


class Filled(NamedTuple):
    content: bytes
    jobs: Sequence[Job]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    path = tmp_path_factory.mktemp("filled") / "jobs.db"
    jobs = [job for _ in range(6) for job in every_job()]
    jobs = [msgspec.json.decode(msgspec.json.encode(job).replace(b"\n", b" "), type=Job) for job in jobs]
    jobs = list({(job.client, job.request.idempotency_key or job.id): job for job in reversed(jobs)}.values())[::-1]

    async def fill() -> None:
        async with SqliteTable(path) as table:
            await write_jobs(table, jobs)
            await table.storage("keys").put("alice", b"secret" * 1000)

    anyio.run(fill)
    return Filled(path.read_bytes(), sorted(jobs, key=lambda job: job.id))


@pytest.mark.parametrize("seed", range(SEED, SEED + each_run(8, 200)))
def test_whatever_is_damaged_each_command_tells_the_truth(tmp_path: Path, filled: Filled, seed: int) -> None:
    path = tmp_path / "jobs.db"
    path.write_bytes(filled.content)
    Damage(path, Random(seed))
    before = path.read_bytes()
    for name, file in (("node", "jobs.db"), ("to", "to.db")):
        (tmp_path / f"{name}.toml").write_text(f'[store]\nuse = "sqlite"\npath = "{file}"\n')

    def run(*arguments: str) -> tuple[bool, str]:
        done = nodekit(tmp_path, "store", *arguments)
        assert done.returncode in (0, 1), done.stderr
        assert done.returncode == 0 or done.stderr, "it says why"
        return done.returncode == 0, done.stdout

    def whole(output: str) -> bool:
        found = [*map(read_back, output.splitlines())]
        known = {job.id: rounded(job) for job in filled.jobs}
        assert all(known.get(job.id) == job for job in found), "a job is not as it was stored"
        return len(found) == len(filled.jobs)

    intact, _ = run("check", "node.toml")
    for arguments in (["--order", "finished"], ["--error", "evil"], ["--json"], ["--container", "echo"]):
        run("jobs", "node.toml", "--limit", "1000", *arguments)
    run("stats", "node.toml")
    complete, output = run("export", "node.toml")
    assert whole(output) or not (complete or intact)
    assert run("backup", "node.toml", "copy.db")[0] is intact
    assert (tmp_path / "copy.db").exists() is intact
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir() if one.suffix != ".toml") == ["copy.db"] * intact + ["jobs.db"]
    if run("copy", "node.toml", "to.toml")[0]:
        assert whole(run("export", "to.toml")[1])


@pytest.mark.parametrize("part", ["usage", "sqlite_sequence", "jobs_open", "jobs_finished", "jobs_of_client"])
def test_the_cure_that_a_refused_file_is_told_rescues_its_jobs(tmp_path: Path, filled: Filled, part: str) -> None:
    path = tmp_path / "jobs.db"
    path.write_bytes(filled.content)
    ruin(path, part)
    for name, file in (("FROM", "jobs.db"), ("TO", "to.db")):
        (tmp_path / name).with_suffix(".toml").write_text(f'[store]\nuse = "sqlite"\npath = "{file}"\n')
    done = nodekit(tmp_path, "serve", "FROM.toml")
    command = done.stderr.rstrip().rpartition("nodekit ")[2]
    assert (done.returncode, command) == (1, "store copy FROM TO")
    done = nodekit(tmp_path, "store", "copy", "FROM.toml", "TO.toml")
    assert (done.returncode, f"{len(filled.jobs)} jobs were copied and compared" in done.stdout) == (0, True)
    exported = nodekit(tmp_path, "store", "export", "TO.toml").stdout
    assert sorted((read_back(line) for line in exported.splitlines()), key=lambda job: job.id) == [
        *map(rounded, filled.jobs)
    ]


def test_a_file_whose_end_is_missing_is_not_told_the_command_that_has_just_failed(
    tmp_path: Path, filled: Filled
) -> None:
    (tmp_path / "jobs.db").write_bytes(filled.content[: len(filled.content) // 2])
    for name, file in (("FROM", "jobs.db"), ("TO", "to.db")):
        (tmp_path / name).with_suffix(".toml").write_text(f'[store]\nuse = "sqlite"\npath = "{file}"\n')
    done = nodekit(tmp_path, "store", "copy", "FROM.toml", "TO.toml")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("its end is missing; restore a backup")
    size = len(filled.content)
    for command in (["store", "check"], ["store", "stats"], ["store", "backup", "copy.db"], ["serve"]):
        done = nodekit(tmp_path, *command[:2], "FROM.toml", *command[2:])
        assert done.returncode == 1
        assert f"its end is missing, it has {size // 2} of {size} bytes; restore a backup\n" in done.stderr
