"""The example of three nodes behind HAProxy: a node is killed, every result arrives, and nothing is left behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster.engines import NoEngine, postgres, redis
from engine import debian
from engine.fixtures import or_unavailable
from paths import ROOT
from processes import processes_of

DEMO = ROOT / "examples" / "cluster" / "demo.py"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(params=["postgres", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """Run a server; yield the variables of the example that name it."""
    with ExitStack() as stack:
        with or_unavailable(NoEngine, debian.Missing):
            debian.need("haproxy")
            if request.param == "postgres":
                url = stack.enter_context(postgres.running(tmp_path, 3.0)).database.url
            else:
                url = stack.enter_context(redis.running(tmp_path, 3.0)).server.url
        yield {"STORE": request.param, "DATABASE_URL": url}


def environment(store: Mapping[str, str], folder: Path) -> dict[str, str]:
    return {**os.environ, **store, "TMPDIR": str(folder)}


def test_every_result_arrives_although_a_node_is_killed(store: Mapping[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    command = [sys.executable, str(DEMO), "90"]
    done = subprocess.run(
        command, env=environment(store, folder), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "green is killed" in done.stdout
    assert re.search(r"^90 jobs, 90 results; steps by node: .*red \d+, green \d+, blue \d+$", done.stdout, re.MULTILINE)
    assert "3 live nodes, 1 gone" in done.stdout
    assert "0 unfinished jobs" in done.stdout
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_a_demo_that_is_interrupted_leaves_nothing(store: Mapping[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    command = [sys.executable, str(DEMO), "300"]
    with subprocess.Popen(command, env=environment(store, folder), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if " done  " in line:
                break
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(100) == 128 + signal.SIGTERM
    assert list(folder.iterdir()) == []
    assert processes_of(folder) == []


def test_without_a_database_it_says_what_to_do() -> None:
    env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    done = subprocess.run([sys.executable, str(DEMO)], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (
        1,
        "DATABASE_URL is not set: name a database of the store, or run `make demo-cluster` in the checkout",
    )
