"""The table [log] of a node that runs: formats, levels, the audit log, and the lines that operators look for."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from components import until
from node_files import write
from served import serve

from nodekit import __version__

pytestmark = pytest.mark.anyio

NODE = """
[log]
{log}

[store]
use = "memory"

[[runners]]
use = "function"

[[runners.containers]]
id = "up"
call = "own.py:up"

[[runners.containers]]
id = "bad"
call = "own.py:bad"

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
status_networks = ["127.0.0.0/8"]
"""
OWN = """
import logging

async def up(data):
    for name in ("nodekit.own", "nodekit.http", "library", "nodekit.access"):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(level, "said")
    return data

async def bad(data):
    raise ValueError("no such word: \\x1b[2J\\n" + "x" * 500)
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def node_file(folder: Path, log: str) -> Path:
    (folder / "own.py").write_text(OWN)
    return write(folder, NODE.format(log=log))


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("log", "arguments", "expected"),
    [
        ("", (), {"nodekit.own": 3, "nodekit.http": 3, "library": 2, "nodekit.access": 0}),
        ('level = "error"', (), {"nodekit.own": 1, "nodekit.http": 1, "library": 1, "nodekit.access": 0}),
        (
            'level = "error"\nlevels = { "nodekit.http" = "debug", library = "info" }\naccess = true',
            (),
            {"nodekit.own": 1, "nodekit.http": 4, "library": 3, "nodekit.access": 3},
        ),
        (
            'level = "error"\nlevels = { "nodekit.http" = "error" }',
            ("--log-level", "debug"),
            {"nodekit.own": 4, "nodekit.http": 4, "library": 2, "nodekit.access": 0},
        ),
    ],
    ids=["defaults", "level", "levels", "command line"],
)
async def test_levels_are_those_of_the_command_line_or_else_of_the_node_file(
    tmp_path: Path, log: str, arguments: tuple[str, ...], expected: dict[str, int]
) -> None:
    (tmp_path / "library.py").write_text("")
    file = node_file(tmp_path, f'format = "json"\n{log}')
    async with serve(file, *arguments, env={**os.environ, "PYTHONPATH": str(tmp_path)}) as (served, api):
        await api.results(await api.submit("up"))
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
        said = [record["logger"] for record in records(served.log) if record["message"] == "said"]
    assert {name: said.count(name) for name in expected} == expected


async def test_the_first_line_says_what_runs_and_a_failed_step_what_failed(tmp_path: Path) -> None:
    file = node_file(tmp_path, 'format = "json"')
    async with serve(file) as (served, api):
        id = await api.submit("up", "bad")
        await api.results(id)
        served.signal(signal.SIGTERM)
        assert await served.ended() == 0
        found = records(served.log)
        (first,) = [one["message"] for one in found if one["message"].startswith("nodekit ")]
        about = "store memory; runners function; transports asgi; node file"
        assert first.startswith(f"nodekit {__version__}: node ")
        assert first.endswith(f" at {served.url}; {about} {file}")
    (failed,) = [one for one in found if "failed in container" in one["message"]]
    assert (failed["job"], failed["step"], failed["container"]) == (id, 2, "bad")
    assert failed["message"].startswith(f"job {id}: step 2, attempt 1, failed in container 'bad': ")
    assert (failed["attempt"], failed["kind"]) == (1, "status")
    assert "no such word: \\x1b[2J " in failed["message"]
    assert len(failed["message"]) < 400


async def test_the_audit_log_is_a_file_of_its_own_that_sighup_opens_anew(tmp_path: Path) -> None:
    audit, moved = tmp_path / "audit.log", tmp_path / "audit.log.old"
    async with serve(node_file(tmp_path, 'audit = "audit.log"\npath = "node.log"')) as (served, api):
        first, second = await api.submit("up"), await api.submit("up")
        await api.call("DELETE", f"/api/jobs/{first}")
        await until(lambda: audit.exists() and first in audit.read_text())
        audit.rename(moved)
        served.signal(signal.SIGHUP)
        await api.call("DELETE", f"/api/jobs/{second}")
        await until(lambda: second in moved.read_text() or (audit.exists() and second in audit.read_text()))
        await api.call("DELETE", f"/api/jobs/{first}")
        await until(lambda: audit.exists() and first in audit.read_text())
        assert "nodekit.audit: 127.0.0.1: cancel of job" in audit.read_text()
        assert "cancel" not in served.log
        assert f"SIGHUP: opens {tmp_path}/node.log, {audit} anew; the node goes on" in served.log
        assert audit.stat().st_mode & 0o137 == 0


async def test_audit_lines_whose_file_cannot_be_made_are_in_the_log(tmp_path: Path) -> None:
    async with serve(node_file(tmp_path, 'audit = "missing/audit.log"')) as (served, api):
        id = await api.submit("up")
        await api.call("DELETE", f"/api/jobs/{id}")
        await until(lambda: f"nodekit.audit: 127.0.0.1: cancel of job {id} of client 127.0.0.1: " in served.log)


async def test_audit_lines_are_in_the_log_while_their_file_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()
    audit, gone = folder / "audit.log", tmp_path / "gone"
    async with serve(node_file(tmp_path, 'audit = "audit/audit.log"\nformat = "json"')) as (served, api):
        ids = [await api.submit("up") for _ in range(4)]

        async def cancelled(number: int) -> None:
            await api.call("DELETE", f"/api/jobs/{ids[number]}")

        def of_job(text: str, number: int) -> list[Any]:
            found = [json.loads(line) for line in text.splitlines() if '"nodekit.audit"' in line]
            return [one for one in found if one["job"] == ids[number]]

        await cancelled(0)
        await until(lambda: audit.exists() and of_job(audit.read_text(), 0))
        folder.rename(gone)
        folder.touch()  # even root makes no file below a file
        served.signal(signal.SIGHUP)
        for number in (1, 2):
            await cancelled(number)
            await until(lambda number=number: of_job(served.log, number))
        folder.unlink()
        gone.rename(folder)
        await cancelled(3)
        await until(lambda: of_job(audit.read_text(), 3))
        await until(lambda: "2 lines were written elsewhere: the log file" in audit.read_text())
        assert [len(of_job(served.log, number)) for number in range(4)] == [0, 1, 1, 0]


async def test_an_audit_log_without_a_file_is_part_of_the_log(tmp_path: Path) -> None:
    async with serve(node_file(tmp_path, 'audit = true\nlevel = "error"')) as (served, api):
        id = await api.submit("up")
        await api.call("DELETE", f"/api/jobs/{id}")
        await until(lambda: f"nodekit.audit: 127.0.0.1: cancel of job {id} of client 127.0.0.1: " in served.log)
