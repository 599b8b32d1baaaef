"""A running node is tested from its own OpenAPI document, with good data and bad; its examples name the containers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from chance import SEED, each_run
from components import echo, functions
from http_api import serving

from nodekit_asgi.api.routes import KEYS

pytestmark = pytest.mark.anyio

CONFIG = Path(__file__).parent / "schemathesis.toml"
SERVERS = each_run(["hypercorn"], ["hypercorn", "uvicorn"])


async def fail(data: Any) -> Any:
    raise ValueError("no dictionary")


async def driven(url: str, folder: Path, *options: str) -> tuple[int, str]:
    """Run schemathesis; return its exit code and its report."""
    chosen = ("--seed", str(SEED), "--max-examples", str(each_run(6, 100)))
    program = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "--no-color"]
    command = [*program, "run", *chosen, *options]
    run = await anyio.run_process([*command, f"{url}/openapi.json"], check=False, cwd=folder, stderr=subprocess.STDOUT)
    return run.returncode, run.stdout.decode()


@pytest.mark.parametrize("server", SERVERS)
async def test_schemathesis_finds_nothing(server: str, tmp_path: Path) -> None:
    limits = {"max_batch": 5, "max_ids": 5, "max_steps": 3, "max_wait_seconds": 1, "status_networks": ("127.0.0.0/8",)}
    async with serving(server, runners=[functions(upper=echo, translate=fail)], **limits) as api:
        code, report = await driven(api.url, tmp_path, "--exclude-operation-id", "streamJob")
        assert code == 0, report
        assert f"{len(KEYS) - 1} selected" in report
        assert (await api.get("/api/jobs?limit=1")).json, "no job was accepted: what reads jobs was hardly tried"


@pytest.mark.parametrize("server", SERVERS)
async def test_schemathesis_finds_nothing_in_streams(server: str, tmp_path: Path) -> None:
    """Jobs succeed here: the stream of a failed job is cut off, which schemathesis would report."""
    async with serving(server, runners=[functions(upper=echo, translate=echo)], max_steps=3) as api:
        chosen = ("--include-operation-id", "streamJob", "--phases", "examples,coverage,fuzzing")
        code, report = await driven(api.url, tmp_path, *chosen)
        assert code == 0, report
        assert (await api.get("/api/jobs?limit=1")).json
