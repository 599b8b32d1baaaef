"""The checkout itself: a run of the tests ends, and everything that it installs is locked."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from lock import LOCK, locked
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from paths import ROOT

DYING = """
import os
import pytest

pytestmark = pytest.mark.xdist_group("one")


@pytest.mark.parametrize("number", range(4))
def test_that_dies(number):
    if number == 1:
        os._exit(1)
"""


def test_a_worker_that_dies_ends_the_run_with_the_name_of_its_test(tmp_path: Path) -> None:
    (tmp_path / "test_dying.py").write_text(DYING)
    [line] = re.findall(r"^PYTEST := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    flags = shlex.split(line.partition(" -m pytest ")[2].replace("$(WORKERS)", "2"))
    command = [sys.executable, "-m", "pytest", *flags, "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "crashed while running 'test_dying.py::test_that_dies[1]" in done.stdout


def declared() -> Iterator[Requirement]:
    """Yield the requirements of this checkout's projects: to run, to be tested and checked, and to be built."""
    for file in (ROOT / "pyproject.toml", *(ROOT / "contrib").glob("*/pyproject.toml")):
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
        project = tables["project"]
        extras = project.get("optional-dependencies", {}).values()
        yield from map(Requirement, chain(tables["build-system"]["requires"], project["dependencies"], *extras))


def test_the_lock_has_a_version_within_its_range_of_all_that_is_declared() -> None:
    versions = {name: Version(one.version) for name, one in locked().items()}
    outside = [
        str(requirement)
        for requirement in declared()
        if not requirement.name.startswith("nodekit-")
        and versions.get(canonicalize_name(requirement.name), Version("0")) not in requirement.specifier
    ]
    assert outside == [], "run `make lock`"


def test_everything_that_is_locked_has_hashes() -> None:
    assert len(locked()) == len(re.findall(r"^\S+==", LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    assert [name for name, one in locked().items() if not one.hashes] == []
