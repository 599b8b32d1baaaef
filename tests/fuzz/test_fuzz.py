"""Fuzzing: samples of what it found, and a short run of each target."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from chance import each_run

HERE = Path(__file__).resolve().parent
SAMPLES = sorted(path for path in (HERE / "corpus").glob("*/*"))
RUNS = each_run(
    {"requests": 1000, "node_file": 1000, "payloads": 7000, "replies": 2000},
    {"requests": 10_000, "node_file": 10_000, "payloads": 70_000, "replies": 20_000},
)

INPUTS = """
import sys
from pathlib import Path
from targets import TARGETS

check = TARGETS[sys.argv[1]]()
for path in sys.argv[2:]:
    print(path, flush=True)
    check(Path(path).read_bytes())
"""


@pytest.mark.parametrize("name", RUNS)
def test_no_sample_makes_a_target_raise(name: str) -> None:
    samples = [str(path) for path in SAMPLES if path.parent.name == name]
    assert samples
    done = _run("-c", INPUTS, name, *samples)
    assert done.returncode == 0, [*done.stdout.splitlines()[-1:], done.stderr]


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="no atheris for this platform")
@pytest.mark.parametrize(("name", "runs"), RUNS.items())
def test_a_short_run_finds_nothing(name: str, runs: int, tmp_path: Path) -> None:
    copy = tmp_path / "reached"
    copy.mkdir()
    options = [f"-runs={runs}", "-seed=1", "-max_len=4096", "-timeout=60", f"-artifact_prefix={tmp_path}/finding-"]
    done = _run(str(HERE / "guided.py"), name, *options, str(copy), str(HERE / "corpus" / name))
    findings = {path.name: path.read_bytes() for path in tmp_path.glob("finding-*")}
    assert (done.returncode, findings) == (0, {}), done.stderr[-4000:]
    assert len(list(copy.iterdir())) > 0, "nothing is instrumented: no input reached new code"


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    arguments = [sys.executable, *command]
    return subprocess.run(
        arguments, cwd=HERE, capture_output=True, text=True, timeout=300, check=False, errors="replace"
    )
