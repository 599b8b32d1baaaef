"""The example of a node that serves contracts: each answer lands on the chain, and nothing is left behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engine import debian
from engine.fixtures import or_unavailable
from paths import ROOT
from processes import processes_of

DEMO = ROOT / "examples" / "chain" / "demo.py"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def npm() -> None:
    with or_unavailable(debian.Missing):
        debian.need("npm")


def test_every_answer_lands_on_the_chain() -> None:
    done = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = re.findall(r"^  subscription (\d), interval (\d): \{'text': '(.*)', 'letters'", done.stdout, re.MULTILINE)
    contract, client = "HELLO FROM A CONTRACT!", "HELLO FROM A CLIENT!"
    every = [("2", str(interval), contract) for interval in (1, 2, 3)]
    assert answers == [("1", "1", contract), *every, ("3", "1", client)]
    assert "interval 1  done" in done.stdout
    assert "this node watches and sends" in done.stdout


def test_a_demo_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    marked = {**os.environ, "NODEKIT_DEMO_OF": str(tmp_path)}
    with subprocess.Popen([sys.executable, str(DEMO)], env=marked, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "interval 1" in line:
                break
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(100) == 128 + signal.SIGTERM
    assert processes_of(tmp_path) == []
