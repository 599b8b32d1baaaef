"""`nodekit new` writes packages that work at once, and leaves nothing behind where it cannot."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
from chance import each_run
from click.testing import CliRunner, Result
from import_rules import imports, plugin_violations
from mypy_run import mypy, one_after_another
from pages import install, settings
from paths import ROOT
from planted import nodekit as nodekit_in
from planted import plant

import nodekit
from nodekit import Provider
from nodekit.cli import main
from nodekit.cli.new import template as _template
from nodekit.cli.new.template import KINDS
from nodekit.cli.plugins.catalogue import GROUPS, entries_of

TEMPLATES = Path(nodekit.__file__).parent / "cli" / "new" / "templates"
SECONDS = 280  # a bound for one that hangs
NAMES = ("x", "s3", "one-of-middling-size")
"""Names of all lengths: lines of code must fit, and stay in shape, with each of them."""


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["new", *map(str, arguments)])


def written(kind: str, name: str, folder: Path) -> Path:
    result = call(kind, name, "--folder", folder)
    assert result.exit_code == 0, result.output
    return folder / f"nodekit-{name}"


def planted(kind: str, folder: Path, name: str = "new-thing") -> Path:
    """Write a package, and plant its metadata; return its folder."""
    project = written(kind, name, folder)
    table = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    install(table, project)
    return project


def run(project: Path, *command: str, fails: bool = False) -> str:
    environment = {**os.environ, "PYTHONPATH": str(project), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        command, check=False, cwd=project, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode != 0) == fails, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


QUICK = ("runner", "pipeline", "guard", "observer")


# -- what it writes -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*QUICK, *each_run([], ["store", "transport"])])
def test_its_tests_pass_at_once(kind: str, tmp_path: Path) -> None:
    """The tests of one kind run here; `make packages` runs those of all kinds, from wheels."""
    printed = run(planted(kind, tmp_path), sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert re.search(r"\b[1-9]\d* passed", printed), printed


@pytest.mark.parametrize("kind", KINDS)
def test_it_asks_for_this_version_of_nodekit_or_a_later_one_and_its_tests_have_a_time_limit(kind: str) -> None:
    table = tomllib.loads((TEMPLATES / kind / "pyproject.toml").read_text())
    floor = ".".join(nodekit.__version__.split(".")[:2])
    assert f"nodekit-compute>={floor}" in table["project"]["dependencies"]
    assert any("pytest-timeout" in line for line in table["project"]["optional-dependencies"]["test"])
    options = table["tool"]["pytest"]["ini_options"]
    assert (options["timeout"] > 0, options["timeout_method"], "-v" in options["addopts"]) == (True, "thread", True)


def test_a_test_that_hangs_ends_with_its_name(tmp_path: Path) -> None:
    project = planted("guard", tmp_path)
    (project / "tests" / "test_hangs.py").write_text("import anyio\ndef test_stuck(): anyio.run(anyio.sleep_forever)\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_hangs.py", "-o", "timeout=2"]
    printed = run(project, *command, fails=True)
    assert re.search(r"^tests/test_hangs.py::test_stuck \+* ?Timeout", printed, re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS)
def test_its_node_file_composes_and_names_it(kind: str, tmp_path: Path) -> None:
    project = planted(kind, tmp_path)
    assert 'use = "new-thing"' in (project / "node.toml").read_text()
    assert "node.toml: ok" in nodekit_in(project, "check", "node.toml").stdout


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_whole_distribution(kind: str, tmp_path: Path) -> None:
    project = written(kind, "new-thing", tmp_path)
    found = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    package = {"nodekit_new_thing/__init__.py", "nodekit_new_thing/py.typed", "tests/test_new_thing.py"}
    assert found >= {"pyproject.toml", "README.md", ".gitignore", ".github/workflows/test.yml", "node.toml", *package}
    for file in found:
        text = (project / file).read_text()
        assert not re.search("acme", file + text, re.IGNORECASE), f"{file} still has the name of the template"
        assert not text or text.endswith("\n")
    assert [*tmp_path.iterdir()] == [project]


def test_ruff_finds_nothing_in_it_whatever_its_name(tmp_path: Path) -> None:
    if (ruff := shutil.which("ruff", path=Path(sys.executable).parent)) is None:
        pytest.skip("ruff is not installed: make lint")
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        for name in NAMES:
            written(kind, name, tmp_path / kind)
    run(tmp_path, ruff, "check", "--no-cache", ".")
    run(tmp_path, ruff, "format", "--no-cache", "--check", ".")


@one_after_another
def test_mypy_finds_nothing_in_it(tmp_path: Path) -> None:
    """All packages are checked at once, with the settings that each has."""
    projects = [written(kind, f"new-{kind}", tmp_path) for kind in KINDS]
    tables = [tomllib.loads((project / "pyproject.toml").read_text())["tool"]["mypy"] for project in projects]
    assert all(table["strict"] for table in tables)
    assert mypy(tmp_path, [file for project in projects for file in project.rglob("*.py")], projects) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_it_imports_only_what_a_plugin_may(kind: str) -> None:
    files = [*(TEMPLATES / kind / "nodekit_acme").glob("*.py")]
    assert files
    found = [
        violation
        for file in files
        for one in imports(f"nodekit_acme.{file.stem}", ast.parse(file.read_text()))
        for violation in plugin_violations(one)
        if not (kind == "transport" and one.target == "nodekit_asgi" and one.name in ("AsgiApp", "Limits"))
    ]
    assert found == []


@pytest.mark.parametrize("kind", KINDS)
def test_its_readme_has_every_key_with_its_default(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"readme-{kind}"
    project = written(kind, name, tmp_path)
    monkeypatch.syspath_prepend(str(project))
    package = f"nodekit_readme_{kind}"
    spec = PathFinder.find_spec(package, [str(project)])
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, package, module)
    spec.loader.exec_module(module)
    provider: Provider[Any] = module.provider
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", (project / "README.md").read_text(), re.MULTILINE)
    expected = [*own_settings(provider.config), *(own_settings(provider.container) if provider.container else ())]
    assert sorted(rows) == sorted(expected)
    for submodule in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, submodule)


def own_settings(struct: type[msgspec.Struct]) -> list[tuple[str, str]]:
    """Return the keys and defaults of a Struct without inherited ones."""
    bases = [base for base in struct.__mro__[1:] if issubclass(base, msgspec.Struct) and base is not msgspec.Struct]
    inherited = {field for base in bases for field in base.__struct_fields__}
    return [(key, default) for key, default in settings(struct).items() if key not in inherited]


def test_the_page_about_publishing_shows_what_is_written_and_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nodekit_shelf", raising=False)  # which another test may have planted
    page = (ROOT / "docs" / "how-to" / "publish-a-plugin.md").read_text()
    asked = re.search(r"^\$ nodekit new (.*)\n((?:.+\n)+)```", page, re.MULTILINE)
    assert asked
    assert call(*asked[1].split()).output == asked[2]
    project = tmp_path / "nodekit-shelf"
    shown = re.search(r"^nodekit-shelf/\n((?: +.*\n)+)", page, re.MULTILINE)
    assert shown
    found = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    assert {*shown[1].split()} == found
    kinds = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", page, re.MULTILINE)
    assert {kind: {*re.findall(r"\w+Contract", suites)} for kind, suites in kinds} == {
        kind: {*re.findall(r"\w+Contract", (TEMPLATES / kind / "tests" / "test_acme.py").read_text())} for kind in KINDS
    }


def test_what_installers_compile_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(TEMPLATES, tmp_path / "installed" / "templates")
    compiled = tmp_path / "installed" / "templates" / "store" / "nodekit_acme" / "__pycache__"
    compiled.mkdir(exist_ok=True)
    (compiled / "_table.cpython-311.pyc").write_bytes(b"\xa7\r\r\n")
    monkeypatch.setattr(_template, "resources", lambda package: tmp_path / "installed")
    project = written("store", "new-thing", tmp_path)
    assert [*project.rglob("*.pyc")] == []


def test_it_says_what_to_do_next(tmp_path: Path) -> None:
    folder = tmp_path / "my plugins"
    folder.mkdir()
    first, *steps = call("guard", "new-thing", "--folder", folder).output.splitlines()
    assert str(folder / "nodekit-new-thing") in first
    assert len(steps) == 3
    assert f"cd '{folder / 'nodekit-new-thing'}' && pip install" in steps[0]


def test_without_a_folder_it_is_written_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("guard", "nodekit-new-thing").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["nodekit-new-thing"]


# -- what it refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("store", "My_Store", "such as my-store"),
        ("store", "my-", "such as my"),
        ("store", "-my", "No such option"),
        ("store", "3d", "such as d"),
        ("store", "a--b", "such as a-b"),
        ("store", "", "such as my-plugin"),
        ("store", "../up", "such as up"),
        ("store", "grün", "such as gr-n"),
        ("store", "a" * 41, "at most 40"),
        ("store", "nodekit-", "such as my-plugin"),
        ("store", "class", "take another, such as my-class"),
        ("store", "none", "take another, such as my-none"),
        ("store", "embedded", "nodekit has EmbeddedStore itself; take another, such as my-embedded"),
        ("runner", "container", "take another"),
        ("store", "sqlite", f"'sqlite' is provided by nodekit-compute {nodekit.__version__}; take another name"),
        ("guard", "guardian", "'guardian' is provided by nodekit-compute"),
        ("observer", "guardian", "'guardian' is provided by nodekit-compute"),
        ("runner", "sqlite", f"nodekit-compute {nodekit.__version__} has a package nodekit_sqlite already; take"),
        ("runner", "hello", "nodekit-compute"),
        ("runner", "compute", "a distribution nodekit-compute is installed; take another name, such as my-compute"),
        ("pipeline", "sequence", "'sequence' is the pipeline that every node has; take another name"),
        ("gaurd", "my", "did you mean 'guard'?"),
        ("plugin", "my", "a plugin is a guard or an observer"),
        ("planet", "mars", "'store', 'runner', 'pipeline', 'guard', 'observer', 'transport'"),
    ],
)  # fmt: skip
def test_a_bad_name_is_refused_with_the_cure_and_nothing_is_written(
    tmp_path: Path, kind: str, name: str, words: str
) -> None:
    result = call(kind, name, "--folder", tmp_path)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.output.split())
    assert [*tmp_path.iterdir()] == []
    assert "uninstall" not in result.output, "these come with nodekit"


OFFERED = sorted({entry.name for kind in GROUPS for entry in entries_of(kind)})


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_name_that_is_taken_nothing_is_said_that_is_not_so(kind: str, tmp_path: Path) -> None:
    for name in OFFERED:
        result = call(kind, name, "--folder", tmp_path)
        for distribution in re.findall(r"\bnodekit-[a-z-]+[a-z](?= )", result.output if result.exit_code else ""):
            assert importlib.metadata.version(distribution), (name, result.output)


def test_packages_of_others_can_be_uninstalled_and_loose_ones_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path / "site", "nodekit-shelf", {"stores": "bin"})
    (tmp_path / "site" / "nodekit_loose.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    said = {name: call("store", name, "--folder", tmp_path).output for name in ("bin", "shelf", "loose")}
    assert "'bin' is provided by nodekit-shelf 1.0; take another name, such as my-bin, or uninstall that" in said["bin"]
    assert "a distribution nodekit-shelf is installed; take another name" in said["shelf"]
    assert f"a package nodekit_loose already, in {tmp_path}/site/nodekit_loose.py; take another" in said["loose"]
    assert "uninstall" not in said["loose"]


def test_what_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "nodekit-new-thing").mkdir()
    result = call("store", "new-thing", "--folder", tmp_path)
    assert result.exit_code == 2
    assert "nodekit-new-thing is already there; move it away" in result.output
    assert [*(tmp_path / "nodekit-new-thing").iterdir()] == []
    assert len([*tmp_path.iterdir()]) == 1


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    result = call("store", "new-thing", "--folder", tmp_path / "missing")
    assert result.exit_code == 2
    assert "missing; make it, or correct the path" in " ".join(result.output.split())
    assert [*tmp_path.iterdir()] == []


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text, left = Path.write_text, 5

    def full(path: Path, *arguments: Any, **options: Any) -> int:
        nonlocal left
        left -= 1
        if not left:
            raise OSError(28, "No space left on device")
        return write_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    result = call("store", "new-thing", "--folder", tmp_path)
    assert result.exit_code == 1
    assert "No space left on device; nothing is left of it" in " ".join(result.output.split())
    assert left == 0
    assert [*tmp_path.iterdir()] == []
