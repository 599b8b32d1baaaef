"""The programs that count what grows with nodes still run: they reach into what they measure."""

import subprocess
import sys

import pytest
from engine.fixtures import or_unavailable
from paths import ROOT
from postgres_server import NoPostgres, programs

pytestmark = pytest.mark.timeout(300)


def counted(*arguments: str) -> dict[str, str]:
    """Run a program. Return the rows of its table, the last of each name."""
    command = [sys.executable, ROOT / "benchmarks" / arguments[0], *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    rows = (line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| "))
    return {row[0]: row[1] for row in rows if len(row) > 1}


def test_the_calls_of_simulated_nodes_are_counted() -> None:
    found = counted("cluster.py", "--nodes", "2", "--jobs", "20", "--lease", "3")
    assert float(found["calls of the engine"]) >= 3
    assert float(found["claims given"]) >= 1
    assert float(found["changes told"]) > 0


def test_the_statements_of_real_nodes_are_counted() -> None:
    with or_unavailable(NoPostgres):
        programs()
    found = counted("engine_load.py", "--nodes", "2", "--lease", "2", "--alone", "3", "--together", "20")
    assert int(found["connections"]) >= 2 * 4
    assert float(found["renewals"]) > 0
    assert float(found["notifications heard"]) > 0
