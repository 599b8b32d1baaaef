"""A running node is tested from its own OpenAPI document, with good data and bad."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from chance import SEED, each_run
from http_api import serving

from nodekit import Container
from nodekit_asgi.api.routes import KEYS, ROUTES
from nodekit_asgi.http.messages import Reply, json_reply
from nodekit_function import FunctionRunner

pytestmark = pytest.mark.anyio

CONFIG = Path(__file__).parent / "schemathesis.toml"
SERVERS = each_run(["hypercorn"], ["hypercorn", "uvicorn"])


def example_functions(*, fail: bool) -> FunctionRunner:
    """Make the containers that the document's examples name; the second may fail."""

    async def upper(data: Any) -> Any:
        return {"text": str(data).upper()}

    async def translate(data: Any) -> Any:
        if fail:
            raise ValueError("no dictionary")
        return data

    runner = FunctionRunner()
    runner.add(Container(id="upper"), upper)
    runner.add(Container(id="translate"), translate)
    return runner


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
    async with serving(server, runners=[example_functions(fail=True)], **limits) as api:
        code, report = await driven(api.url, tmp_path, "--exclude-operation-id", "streamJob")
        assert code == 0, report
        assert f"{len(KEYS) - 1} selected" in report
        assert (await api.get("/api/jobs?limit=1")).json, "no job was accepted: what reads jobs was hardly tried"


@pytest.mark.parametrize("server", SERVERS)
async def test_schemathesis_finds_nothing_in_streams(server: str, tmp_path: Path) -> None:
    """Jobs succeed here: the stream of a failed job is cut off, which schemathesis would report."""
    async with serving(server, runners=[example_functions(fail=False)], max_steps=3) as api:
        chosen = ("--include-operation-id", "streamJob", "--phases", "examples,coverage,fuzzing")
        code, report = await driven(api.url, tmp_path, *chosen)
        assert code == 0, report
        assert (await api.get("/api/jobs?limit=1")).json


async def test_it_would_find_a_reply_that_is_not_as_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def other(request: Any, node: Any) -> Reply:
        return json_reply({"version": 1, "containers": None})

    monkeypatch.setitem(ROUTES["/info"], "GET", other)  # type: ignore[arg-type]
    async with serving("hypercorn", runners=[example_functions(fail=True)]) as api:
        code, report = await driven(api.url, tmp_path, "--include-path", "/info", "--phases", "examples")
    assert code == 1, report
    assert "Response violates schema" in report
