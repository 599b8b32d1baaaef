"""The benchmark measures, verifies every result, and notices a wrong one. `make bench` is the long one."""

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from paths import ROOT

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the load is a program in C, and there is no gcc"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the load waits with epoll"),
]


def bench(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, ROOT / "benchmarks", *arguments, "--rounds", "1", "--seconds", "0.1", "--output", folder]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_a_scenario_gives_figures_of_each_subject_a_table_and_a_chart(tmp_path: Path) -> None:
    done = bench("--only", "3-steps-32,batch-100,read", "--subjects", "uvicorn,limit", folder=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    scenarios = json.loads((tmp_path / "results.json").read_text())["scenarios"]
    assert {name: set(subjects) for name, subjects in scenarios.items()} == {
        "3-steps-32": {"uvicorn", "limit"},
        "batch-100": {"uvicorn", "limit"},
        "read": {"uvicorn"},
    }
    for rounds in scenarios["batch-100"].values():
        assert all(figure > 0 for figure in rounds[0].values())
    table = (tmp_path / "table.md").read_text()
    assert table in done.stdout
    assert "| batches of 100, 8 clients | limit |" in table
    for chart in ("speed.svg", "cpu.svg"):
        assert len(ElementTree.parse(tmp_path / chart).findall(".//{*}rect")) == 5


@pytest.mark.parametrize("scenario", ["1-steps-32", "wait", "poll", "batch-100"])
def test_a_wrong_output_ends_a_scenario_with_the_job_that_has_it(scenario: str, tmp_path: Path) -> None:
    done = bench("--only", scenario, "--subjects", "limit", "--plant", folder=tmp_path)
    assert done.returncode == 1
    assert re.search(rf"^{scenario}: limit: \S+ has ended: load: job \d+: wrong output: ", done.stderr), done.stderr


def test_an_unknown_scenario_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    done = bench("--only", "1-step", folder=tmp_path)
    assert done.returncode == 2
    assert "1-steps-1," in done.stderr
