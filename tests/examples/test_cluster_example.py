"""The example of three nodes behind HAProxy: a node is killed, every result arrives, and nothing is left behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster.engines import NoEngine
from cluster.engines.postgres import PostgresEngine, running
from engine import debian
from engine.fixtures import or_unavailable
from paths import ROOT

DEMO = ROOT / "examples" / "cluster" / "demo.py"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[PostgresEngine]:
    with ExitStack() as stack:
        with or_unavailable(NoEngine, debian.Missing):
            debian.need("haproxy")
            engine = stack.enter_context(running(tmp_path, 3.0))
        yield engine


def environment(engine: PostgresEngine, folder: Path) -> dict[str, str]:
    return {**os.environ, "DATABASE_URL": engine.database.url, "TMPDIR": str(folder)}


def test_every_result_arrives_although_a_node_is_killed(engine: PostgresEngine, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    command = [sys.executable, str(DEMO), "90"]
    done = subprocess.run(
        command, env=environment(engine, folder), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "green is killed" in done.stdout
    assert re.search(r"^90 jobs, 90 results; steps by node: .*red \d+, green \d+, blue \d+$", done.stdout, re.MULTILINE)
    assert "3 live nodes, 1 gone" in done.stdout
    assert "0 unfinished jobs" in done.stdout
    assert list(folder.iterdir()) == []


def test_a_demo_that_is_interrupted_leaves_nothing(engine: PostgresEngine, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    command = [sys.executable, str(DEMO), "300"]
    with subprocess.Popen(command, env=environment(engine, folder), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if " done  " in line:
                break
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(100) == 128 + signal.SIGTERM
    assert list(folder.iterdir()) == []
    assert children_with(str(folder)) == []


def children_with(text: str) -> list[str]:
    """Return the processes whose environment has this text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if text.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            pass
    return found


def test_without_a_database_it_says_what_to_do() -> None:
    env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    done = subprocess.run([sys.executable, str(DEMO)], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (
        1,
        "DATABASE_URL is not set: name a PostgreSQL database, or run `make demo-cluster` in the checkout",
    )
