"""`nodekit store jobs`, `stats`, `check`, `export` and `backup`: the operator's look at the store of a node."""

import json
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest
from every_job import HOSTILE, LONG_NUMBER, every_job, write_jobs
from exported_jobs import read_back, rounded
from msgspec.structs import replace
from planted import nodekit
from served import NODEKIT, serve

from nodekit import Job, JobFields, JobQuery, JobStatus, Outcome, TableView
from nodekit.cli.store import reading
from nodekit.model.clock import NodeClock
from nodekit.model.ids import JobIds
from nodekit.testing import make_job
from nodekit_sqlite import SqliteStore, SqliteTable
from nodekit_sqlite._damage import CURE

pytestmark = pytest.mark.anyio

FILE = """
[store]
use = "sqlite"
path = "jobs.db"

[[runners]]
use = "process"

[[runners.containers]]
id = "echo"
command = ["false"]
required = false

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(FILE)
    return path


async def command(file: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in a thread: it has an event loop of its own."""
    return await anyio.to_thread.run_sync(partial(nodekit, file.parent, "store", *arguments))


async def lines(file: Path, *arguments: str | Path) -> list[str]:
    done = await command(file, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


async def ids(file: Path, *arguments: str | Path) -> list[str]:
    return [json.loads(line)["id"] for line in await lines(file, "jobs", file, "--json", *arguments)]


async def filled(file: Path) -> list[Job]:
    jobs = every_job()
    async with SqliteTable(file.parent / "jobs.db") as table:
        await write_jobs(table, jobs)
    return [*jobs]


def damage(file: Path, job: Job) -> None:
    with closing(sqlite3.connect(file.parent / "jobs.db", isolation_level=None)) as connection:
        place = "place >> 24 = (SELECT number FROM jobs WHERE id = ?)"
        connection.execute(f"UPDATE records SET body = '{{}}' WHERE {place}", (job.id,))


# -- jobs ----------------------------------------------------------------------------------------


async def test_the_table_shows_all_jobs_the_newest_first_and_commands_no_terminal(file: Path) -> None:
    jobs = await filled(file)
    head, *rows = await lines(file, "jobs", file)
    assert head.split() == ["ID", "STATUS", "CLIENT", "ACCEPTED", "DURATION", "CONTAINER", "ERROR"]
    assert [row.split()[0] for row in rows] == [job.id for job in reversed(jobs)]
    assert len(rows) == len(jobs), "a line end in a text makes no new line"
    assert all(row.isprintable() for row in rows)
    row = rows[len(jobs) - 1 - 8]
    assert row.split()[1:3] == ["failed", "alice"]
    assert row.endswith("reverse    \\x1b[2J\\u202eevil second line")


async def test_a_long_name_makes_no_wide_table(file: Path) -> None:
    async with SqliteTable(file.parent / "jobs.db") as table:
        await table.add([make_job(client="c" * 10_000), make_job("d" * 500)])
    for one in ("jobs", "stats"):
        assert max(map(len, await lines(file, one, file))) < 250


async def test_filters_choose_jobs_in_every_order(file: Path) -> None:
    jobs = await filled(file)
    by_number = [job.id for job in sorted(jobs, key=lambda job: job.finish_number or 0) if job.finish_number]
    of = {job.id: job for job in jobs}

    def having(check: Any) -> list[str]:
        return [job.id for job in reversed(jobs) if check(job)]

    assert await ids(file, "--order", "oldest") == [*of]
    assert await ids(file, "--order", "finished") == by_number
    limited = await command(file, "jobs", file, "--json", "--limit", "3")
    assert [json.loads(line)["id"] for line in limited.stdout.splitlines()] == having(lambda job: True)[:3]
    assert limited.stderr == "these are the first 3 jobs; --limit shows more\n"
    assert await ids(file, "--client", "bob") == having(lambda job: job.client == "bob")
    assert await ids(file, "--client", HOSTILE) == having(lambda job: job.client == HOSTILE)
    assert await ids(file, "--client", "nobody") == []
    assert await ids(file, "--status", "queued") == having(lambda job: job.status == "accepted")
    assert await ids(file, "--status", "running") == having(lambda job: job.status == "running")
    assert await ids(file, "--status", "success") == having(lambda job: job.status == "success")
    assert await ids(file, "--status", "failed") == having(lambda job: job.status in ("failed", "cancelled"))
    assert await ids(file, "--error", "evil") == having(lambda job: job.error and job.error.error == HOSTILE)
    in_reverse = having(lambda job: "reverse" in (job.due, job.result and job.result.container))
    assert await ids(file, "--container", "reverse") == in_reverse
    assert await ids(file, "--container", "reverse", "--status", "failed") == [jobs[8].id]
    assert await ids(file, "--container", "elsewhere", "--order", "finished") == [jobs[-1].id]


async def test_ages_choose_jobs_by_the_time_of_their_acceptance(file: Path) -> None:
    class Past:
        def __init__(self, age: float) -> None:
            self.time, self.monotonic = (lambda: time.time() - age), time.monotonic

    ages = (7200, 3600, 1800, 60, 0)
    jobs = [replace(make_job(id=JobIds(NodeClock(Past(age))).next()), accepted_at=time.time() - age) for age in ages]
    async with SqliteTable(file.parent / "jobs.db") as table:
        await table.add(jobs)
        for job in jobs:
            await table.save(replace(job.finished(Outcome(JobStatus.FAILED), 1.0), finish_number=len(job.id)))
    known = [job.id for job in jobs]
    for order, expected in (("oldest", known), ("newest", known[::-1])):
        for options, some in (
            (("--since", "90m"), expected[1:] if order == "oldest" else expected[:-1]),
            (("--until", "90m"), known[:1]),
            (("--since", f"{10**400}w"), expected),
            (("--since", "3h", "--until", "20m"), known[:3] if order == "oldest" else known[2::-1]),
        ):
            assert await ids(file, "--order", order, *options) == [*some], options
    assert sorted(await ids(file, "--order", "finished", "--since", "90m")) == known[1:]


async def test_more_jobs_than_a_page_are_all_found_in_every_order(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAGE", 3)
    jobs = await filled(file)
    for order in ("oldest", "newest"):
        assert len(await ids(file, "--order", order)) == len(jobs)
    numbers = [job.finish_number for job in jobs if job.finish_number]
    assert len(await ids(file, "--order", "finished")) == len(numbers)
    assert len(await lines(file, "export", file, "--status", "failed", "--limit", "2")) == 2


async def test_one_job_is_shown_whole(file: Path) -> None:
    jobs = await filled(file)
    text = "\n".join(await lines(file, "jobs", file, jobs[8].id))
    for part in ("status       failed", "pipeline     sequence: echo -> echo -> reverse", "data         {}"):
        assert part in text
    assert text.count("attempt 1 ") == 3
    assert 'output     {"kept":1}' in text
    assert "error      reverse: \\x1b[2J\\u202eevil\\nsecond line (status)" in text
    [document] = await lines(file, "jobs", file, jobs[8].id, "--json")
    assert read_back(document) == rounded(jobs[8])
    retry = "\n".join(await lines(file, "jobs", file, jobs[10].id))
    assert f"retry of     {jobs[8].id}" in retry
    waiting = "\n".join(await lines(file, "jobs", file, jobs[0].id))
    assert "due          echo, not before 20" in waiting
    assert "connection: refused" in waiting


async def test_an_output_is_printed_byte_for_byte(file: Path) -> None:
    jobs = await filled(file)
    assert (await command(file, "jobs", file, jobs[2].id, "--output-of", "0")).stdout.encode() == bytes(LONG_NUMBER)
    assert (await command(file, "jobs", file, jobs[2].id, "--output-of", "1")).stdout.encode() == bytes(LONG_NUMBER)
    for number, text in (("2", "has 1 step; name"), ("9", "has 1 step; name")):
        done = await command(file, "jobs", file, jobs[2].id, "--output-of", number)
        assert (done.returncode, done.stdout, text in done.stderr) == (1, "", True)
    assert "has no output" in (await command(file, "jobs", file, jobs[8].id, "--output-of", "3")).stderr
    assert (await command(file, "jobs", file, "--output-of", "1")).returncode == 2
    unknown = await command(file, "jobs", file, "\x1b[2J")
    cure = "`nodekit store jobs` lists those that are there"
    assert (unknown.returncode, unknown.stderr) == (
        1,
        f"{file}: store: there is no job \\x1b[2J in the store; {cure}\n",
    )


async def test_a_damaged_job_is_named_and_the_others_are_shown(file: Path) -> None:
    jobs = await filled(file)
    damage(file, jobs[5])
    done = await command(file, "jobs", file, "--status", "success")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 5)
    [row] = [row for row in done.stdout.splitlines() if row.startswith(jobs[5].id)]
    assert row.split()[1] == "damaged"
    done = await command(file, "export", file)
    assert done.returncode == 1
    assert f"job {jobs[5].id} is left out: it is damaged" in done.stderr
    printed = [read_back(line) for line in done.stdout.splitlines()]
    assert printed == [rounded(on_one_line(job)) for job in jobs if job.id != jobs[5].id]
    done = await command(file, "check", file)
    assert (done.returncode, f"job {jobs[5].id} is damaged" in done.stdout) == (1, True)
    assert done.stderr == f"{file}: {len(jobs)} jobs were read; 1 problem was found; {CURE}\n"
    assert "is damaged" in (await command(file, "jobs", file, jobs[5].id, "--output-of", "1")).stderr
    stats = json.loads((await lines(file, "stats", file, "--json"))[0])
    assert sum(stats["jobs"].values()) == len(jobs)


async def test_a_table_fits_a_narrow_terminal(file: Path) -> None:
    await filled(file)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "50"}
    done = await anyio.run_process(
        [*NODEKIT, "store", "jobs", str(file)], cwd=file.parent, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    rows = b"".join(iter(lambda: _read(ours), b"")).decode().splitlines()
    os.close(ours)
    assert done.returncode == 0
    assert len(rows) == 14
    assert max(map(len, rows)) == 50


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # so the end of a terminal is told
        return b""


# -- export, stats and check ---------------------------------------------------------------------


async def test_an_export_has_each_job_whole_on_a_line(file: Path) -> None:
    jobs = await filled(file)
    printed = await lines(file, "export", file)
    assert [*map(read_back, printed)] == [rounded(on_one_line(job)) for job in jobs]
    times = [json.loads(line)["accepted_at"] for line in printed]
    assert [datetime.fromisoformat(time).timestamp() for time in times] == pytest.approx([j.accepted_at for j in jobs])
    assert json.loads((await lines(file, "jobs", file, "--order", "oldest", "--json"))[0])["accepted_at"] == times[0]
    assert "1.000000000000000000000000001" in printed[2]
    assert "12345678901234567890123" in printed[2]
    some = await lines(file, "export", file, "--client", "bob", "--limit", "1")
    assert [json.loads(line)["id"] for line in some] == [jobs[1].id]


def on_one_line(job: Job) -> Job:
    """Return the job with a space for each line end between the values of its payloads."""
    return msgspec.json.decode(msgspec.json.encode(job).replace(b"\n", b" "), type=Job)


async def test_large_jobs_are_read_a_few_at_a_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteTable(file.parent / "jobs.db") as table:
        await table.add([make_job(data={"x": "y" * size}) for size in (400, 400, 400, 5000, 10, 10)])
    monkeypatch.setattr(reading, "MOST_BYTES", 1000)
    together = list[int]()
    real = TableView.get

    async def get(view: TableView, ids: Sequence[str], **given: Any) -> list[Job]:
        if given["fields"] is JobFields.ALL:
            together.append(len(ids))
        return await real(view, ids, **given)

    monkeypatch.setattr(TableView, "get", get)
    assert len(await lines(file, "export", file)) == 6
    assert together == [2, 1, 1, 2]


async def test_stats_count_by_status_client_and_container(file: Path) -> None:
    jobs = await filled(file)
    [line] = await lines(file, "stats", file, "--json")
    found = json.loads(line)
    assert found["jobs"] == {"running": 4, "success": 4, "queued": 2, "failed": 2, "cancelled": 1}
    assert found["clients"] == {"alice": 10, "bob": 2, HOSTILE: 1}
    assert found["waiting"] == {"echo": 4, "reverse": 2}
    assert found["failures"] == {"echo": 2, "reverse": 1}
    async with SqliteTable(file.parent / "jobs.db") as table:
        assert found["bytes"] == sum((await table.sizes([job.id for job in jobs])).values())
    assert datetime.fromisoformat(found["oldest_unfinished_at"]).timestamp() == pytest.approx(jobs[0].accepted_at)
    assert (found["first_finished_at"], found["damaged"]) == ("1970-01-01T00:00:12.000000Z", 0)
    assert found["store"]["schema"] == 7
    assert found["store"]["file_bytes"] == (file.parent / "jobs.db").stat().st_size
    text = await lines(file, "stats", file)
    assert "jobs                 13" in text
    assert r"\x1b[2J\u202eevil\nsecond line  1" in text


async def test_a_check_of_an_intact_store_says_so(file: Path) -> None:
    await filled(file)
    assert await lines(file, "check", file) == [f"{file}: 13 jobs were read; nothing is damaged"]


async def test_what_cannot_be_done_is_one_line_that_says_why(file: Path) -> None:
    async def fails(code: int, *arguments: str | Path) -> str:
        done = await command(file, *arguments)
        assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (code, "", False)
        return done.stderr

    commands = [("jobs", file), ("stats", file), ("check", file), ("export", file), ("backup", file, "copy.db")]
    for one in commands:
        assert "jobs.db: No such file" in await fails(1, *one)
    assert [path.name for path in file.parent.iterdir()] == [file.name], "nothing is created"
    file.write_text(FILE.replace('use = "sqlite"\npath = "jobs.db"', 'use = "memory"'))
    for one in commands[:4]:
        assert "the store `memory` keeps jobs as long as its node runs" in await fails(1, *one)
    assert "makes no backups" in await fails(1, *commands[4])
    file.write_text("[store]\nuse = 'sqlite'\npath = 'nowhere/jobs.db'\n")
    for one in commands:
        assert "there is no folder" in await fails(3, *one)
    assert "is no age" in await fails(2, "jobs", file, "--since", "7")
    for option in ("--client", "--container", "--error"):
        assert "expected UTF-8" in await fails(2, "export", file, option, "\udcff")
    assert "expected UTF-8" in await fails(2, "jobs", file, "\udcff")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full disk as a file")
async def test_a_full_disk_under_the_output_is_a_line_and_no_traceback(file: Path) -> None:
    await filled(file)
    with Path("/dev/full").open("wb") as full:
        for one in (["jobs"], ["export"], ["stats"], ["check"], ["backup", "copy.db"]):
            arguments = [*NODEKIT, "store", one[0], str(file), *one[1:]]
            run = partial(subprocess.run, arguments, cwd=file.parent, stdout=full, stderr=subprocess.PIPE, timeout=60)
            done = await anyio.to_thread.run_sync(run)
            assert (done.returncode, b"No space left" in done.stderr, b"Traceback" in done.stderr) == (1, True, False)


# -- beside a node, and backups ------------------------------------------------------------------


async def test_everything_works_beside_a_running_node_which_goes_on(file: Path) -> None:
    await filled(file)
    backup = file.parent / "copy.db"
    async with serve(file) as (served, api):
        id = (await api.post("/api/jobs", {"containers": ["echo"], "data": {"n": 1}})).json["id"]
        assert id in await ids(file)
        assert f'"id":"{id}"' in (await lines(file, "export", file, "--limit", "14"))[-1]
        assert json.loads((await lines(file, "stats", file, "--json"))[0])["store"]["log_bytes"] >= 0
        assert "nothing is damaged" in (await lines(file, "check", file))[0]
        assert await lines(file, "backup", file, backup) == [
            f"{file}: {backup.stat().st_size} bytes were written to {backup} and checked"
        ]
        assert (await command(file, "backup", file, backup)).returncode == 1
        assert (await command(file, "backup", file, backup, "--force")).returncode == 0
        [kept] = await lines(file, "backup", file, backup, "--force", "--even-damaged")
        assert kept.endswith(f"written to {backup}, damaged or not; `nodekit store check` says which")
        assert (await api.post("/api/jobs", {"containers": ["echo"], "data": {}})).status == 200
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0


async def test_a_backup_that_is_copied_back_has_every_job_that_was_acknowledged_before_it(file: Path) -> None:
    database, backup = file.parent / "jobs.db", file.parent / "copy.db"
    async with serve(file) as (served, api):

        async def submitted(count: int) -> list[str]:
            request = {"containers": ["echo"], "data": {"text": "x" * 1000}}
            answers = [await api.post("/api/jobs", request) for _ in range(count)]
            return [answer.json["id"] for answer in answers]

        before = await submitted(30)
        await lines(file, "backup", file, backup)
        after = await submitted(5)
        served.process.kill()  # the worst end: the log has what is newest
        served.process.wait()
    for name in ("jobs.db-wal", "jobs.db-shm"):
        (file.parent / name).unlink(missing_ok=True)
    shutil.copyfile(backup, database)
    async with serve(file) as (_, api):
        for id in before:
            assert (await api.call("GET", f"/api/jobs/{id}")).status == 200
        assert (await api.call("GET", f"/api/jobs/{after[0]}")).status == 404
    async with SqliteStore(database) as store:
        assert set(before) <= set(await store.find(JobQuery()))
    assert os.stat(backup).st_mode & 0o777 == 0o600
