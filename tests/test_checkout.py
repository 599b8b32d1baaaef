"""The checkout itself: a run of the tests comes to its end, and what it installs is locked."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")

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
    command = [sys.executable, "-m", "pytest", *flags, "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "crashed while running 'test_dying.py::test_that_dies[1]" in done.stdout


def locked() -> Mapping[str, tuple[str, list[str]]]:
    """Return the version and the lines of each distribution in the lock, by its name."""
    found: dict[str, tuple[str, list[str]]] = {}
    lines: list[str] = []
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([a-z0-9-]+)==(\S+)", line):
            lines = []
            found[match[1]] = match[2], lines
        lines.append(line)
    return found


def declared() -> Iterator[Requirement]:
    """Yield what the projects of this checkout require, to run, to be tested and checked, and to be built."""
    for file in (ROOT / "pyproject.toml", *(ROOT / "contrib").glob("*/pyproject.toml")):
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
        extras = tables["project"].get("optional-dependencies", {}).values()
        for text in (*tables["project"]["dependencies"], *tables["build-system"]["requires"], *sum(extras, [])):
            yield Requirement(text)


def test_the_lock_has_a_version_within_its_range_of_all_that_is_declared() -> None:
    versions = {name: Version(version) for name, (version, _) in locked().items()}
    outside = [
        str(requirement)
        for requirement in declared()
        if not requirement.name.startswith("nodekit-")
        and versions.get(canonicalize_name(requirement.name), Version("0")) not in requirement.specifier
    ]
    assert outside == [], "run `make lock`"


def test_everything_that_is_locked_has_a_hash() -> None:
    assert [name for name, (_, lines) in locked().items() if not any(HASH.search(line) for line in lines)] == []
