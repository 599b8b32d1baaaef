"""The example plugins are like those of third parties: small, on public names, with tests that pass."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from chance import each_run
from import_rules import imports
from pages import blocks, install
from paths import ROOT

EXAMPLES = ROOT / "examples"
MOST_LINES = {"nodekit-dbm": 154, "nodekit-hours": 33, "nodekit-route": 63}
"""Limits of lines per package; all lines count."""
PAGES = {"nodekit-dbm": "write-a-store", "nodekit-hours": "write-a-guard", "nodekit-route": "write-a-pipeline"}
TESTING = ("nodekit", "nodekit.testing")
SECONDS = 280  # a bound for one that hangs
_MADE = ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", "*.egg-info", "*.dist-info", ".venv")

every_example = pytest.mark.parametrize("name", MOST_LINES)


def package(name: str) -> str:
    return name.replace("-", "_")


def planted(name: str, folder: Path) -> Path:
    """Copy an example, and plant its metadata; return the folder."""
    project = folder / name
    shutil.copytree(EXAMPLES / name, project, ignore=shutil.ignore_patterns(*_MADE))
    install(tomllib.loads((project / "pyproject.toml").read_text())["project"], project)
    return project


def run(project: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(project), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        check=False,
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def not_public(file: Path, own: str, modules: tuple[str, ...] = ("nodekit",)) -> Iterator[str]:
    """Yield the names that a file imports from nodekit and that are in no `__all__`."""
    for one in imports(file.stem, ast.parse(file.read_text())):
        top = one.target.partition(".")[0]
        if top.startswith("nodekit") and top != own:
            allowed = one.target in modules if top == "nodekit" else one.target == top
            if not allowed or (one.name and one.name not in importlib.import_module(one.target).__all__):
                yield one.place


def test_all_of_them_are_looked_at() -> None:
    assert {file.parent.name for file in EXAMPLES.glob("*/pyproject.toml")} == {*MOST_LINES}


@every_example
def test_it_is_as_small_as_is_said_of_it(name: str) -> None:
    lines = [line for file in (EXAMPLES / name / package(name)).glob("*.py") for line in file.read_text().splitlines()]
    assert 0 < len(lines) <= MOST_LINES[name]


@every_example
def test_it_imports_only_public_names(name: str) -> None:
    files = [*(EXAMPLES / name / package(name)).glob("*.py")]
    tests = [*(EXAMPLES / name / "tests").glob("*.py")]
    assert files
    assert tests
    found = [one for file in files for one in not_public(file, package(name))]
    assert found + [one for file in tests for one in not_public(file, package(name), TESTING)] == []


@pytest.mark.parametrize(
    "line", ["from nodekit.node.node import Node", "from nodekit import Executor", "import nodekit.node.node"]
)
def test_an_import_from_within_nodekit_is_noticed(tmp_path: Path, line: str) -> None:
    (tmp_path / "file.py").write_text(line)
    assert [*not_public(tmp_path / "file.py", "nodekit_own")]


@every_example
def test_its_node_file_composes_and_names_it(name: str, tmp_path: Path) -> None:
    project = planted(name, tmp_path)
    assert f'use = "{name.removeprefix("nodekit-")}"' in (project / "node.toml").read_text()
    assert "node.toml: ok" in run(project, "nodekit.cli", "check", "node.toml")


@pytest.mark.parametrize("name", each_run(["nodekit-hours"], [*MOST_LINES]))
def test_its_tests_pass(name: str, tmp_path: Path) -> None:
    """`make packages` runs those of all, from wheels."""
    printed = run(planted(name, tmp_path), "pytest", "-q", "-p", "no:cacheprovider")
    assert re.search(r"^[1-9]\d* passed", printed, re.MULTILINE), printed


@every_example
def test_its_readme_says_that_it_is_certified(name: str) -> None:
    text = (EXAMPLES / name / "README.md").read_text()
    table = text.partition("<!-- nodekit certify -->")[2].partition("<!-- /nodekit certify -->")[0]
    assert re.search(rf"^{name} \S+: \*\*certified\*\* by nodekit-compute", table, re.MULTILINE)


@every_example
def test_it_is_a_whole_distribution(name: str) -> None:
    found = {str(path.relative_to(EXAMPLES / name)) for path in (EXAMPLES / name).rglob("*") if path.is_file()}
    assert found >= {"pyproject.toml", "README.md", "node.toml", f"{package(name)}/py.typed"}


@every_example
def test_its_page_shows_what_it_is(name: str) -> None:
    """Whole files and pieces of files stand on the page unchanged."""
    page = ROOT / "docs" / "how-to" / f"{PAGES[name]}.md"
    files = [*(EXAMPLES / name).rglob("*.py"), ROOT / "nodekit" / "interfaces" / "pipeline.py"]
    sources = [file.read_text() for file in files]
    files = [text.partition("\n")[2] for language, text in blocks(page) if language == "python" and text[:2] == "# "]
    pieces = [text for language, text in blocks(page) if language == "py"]
    assert len(files) + len(pieces) >= 3
    assert [text for text in files if text not in sources] == []
    assert [text for text in pieces if not any(bare(text) in bare(source) for source in sources)] == []


def bare(text: str) -> str:
    """Return the lines without indentation, which differs between page and class, and without empty ones."""
    return "".join(f"{line.strip()}\n" for line in text.splitlines() if line.strip())
