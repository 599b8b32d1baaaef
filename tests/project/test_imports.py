"""Imports: `import nodekit` brings in the modules listed here, and plugins come when they are named."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from paths import ROOT

LIBRARIES = {"anyio", "msgspec", "pluggy"}
WHERE_INSTALLED = {"sniffio"}
"""Libraries that the ones above use if they are installed, and do not require."""

HEAVY = {
    *("asyncio", "concurrent.futures", "multiprocessing", "selectors", "socket", "ssl", "subprocess", "tempfile"),
    *("email", "http", "urllib.request", "json", "xml", "html", "sqlite3", "zipfile", "shutil", "csv"),
    *("importlib.metadata", "importlib.resources", "unittest", "argparse", "optparse", "pdb", "doctest"),
}
"""Slow modules of the standard library that a node does not need before it runs or names its components."""

PLUGINS: dict[str, tuple[set[str], set[str]]] = {
    "nodekit_apikeys": (set(), set()),
    "nodekit_asgi": (set(), set()),  # servers are imported when a node serves
    "nodekit_docker": ({"docker", "httptools"}, {"nodekit_remote"}),
    "nodekit_function": (set(), set()),
    "nodekit_guardian": (set(), set()),
    "nodekit_infernet": (set(), set()),
    "nodekit_memory": (set(), set()),
    "nodekit_process": ({"httptools"}, {"nodekit_remote"}),
    "nodekit_ratelimit": (set(), set()),
    "nodekit_remote": ({"httptools"}, set()),
    "nodekit_sqlite": (set(), set()),
}
"""Libraries and other packages of this checkout that each plugin imports."""

LOOK = """
import sys
before = set(sys.modules)
{first}
known = set(sys.modules)
{then}
found = [sorted(known - before), sorted(set(sys.modules) - known)]
import json  # not before: it would not be found
print(json.dumps(found))
"""


def brought_in(first: str, then: str = "", cwd: Path | None = None) -> tuple[set[str], set[str]]:
    """Return the modules that a statement imports in a new process, and those that another then imports."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
    command = [sys.executable, "-c", LOOK.format(first=first, then=then)]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=60, check=True)
    one, other = json.loads(done.stdout)
    return set(one), set(other)


def packages(modules: Iterable[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def third_party(modules: Iterable[str]) -> set[str]:
    """Return packages neither of this checkout nor Python's; Cython registers some that no distribution has."""
    known = sys.stdlib_module_names
    found = {package for package in packages(modules) if package not in known and not ours(package)} - WHERE_INSTALLED
    return {package for package in found if not re.match(r"_?cython_", package)}


def ours(package: str) -> bool:
    return package == "nodekit" or package.startswith("nodekit_")


def needed_by(libraries: Iterable[str]) -> set[str]:
    """Return those distributions and their installed dependencies, recursively."""
    found: set[str] = set()
    left = [normal(library) for library in libraries]
    while left:
        name = left.pop()
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            left += [normal(re.split(r"[^\w.-]", line)[0]) for line in requires if "extra ==" not in line]
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def unexpected(modules: Iterable[str], libraries: set[str]) -> set[str]:
    """Return third-party packages that are neither those libraries nor their dependencies."""
    owners, needed = packages_distributions(), needed_by(libraries)
    return {package for package in third_party(modules) if not {normal(d) for d in owners.get(package, ())} & needed}


def heavy(modules: Iterable[str]) -> set[str]:
    return {module for module in modules if any(module == one or module.startswith(f"{one}.") for one in HEAVY)}


@pytest.fixture(scope="module")
def with_nodekit() -> set[str]:
    return brought_in("import nodekit")[0]


def test_importing_nodekit_brings_in_its_three_libraries_and_what_they_need(with_nodekit: set[str]) -> None:
    assert third_party(with_nodekit) >= LIBRARIES
    assert unexpected(with_nodekit, LIBRARIES) == set()


def test_importing_nodekit_brings_in_neither_plugins_nor_the_command_line_nor_the_kit(with_nodekit: set[str]) -> None:
    found = {module for module in with_nodekit if ours(module.partition(".")[0])}
    assert {module for module in found if not module.startswith("nodekit.") and module != "nodekit"} == set()
    assert {module for module in found if module.startswith(("nodekit.cli", "nodekit.testing"))} == set()


def test_importing_nodekit_brings_in_nothing_heavy_of_python(with_nodekit: set[str]) -> None:
    assert heavy(with_nodekit) == set()


def test_libraries_and_heavy_modules_that_do_not_belong_are_found() -> None:
    found, _ = brought_in("import nodekit, click, nodekit_remote, asyncio, importlib.metadata, json")
    assert unexpected(found, LIBRARIES) >= {"click", "httptools"}
    assert heavy(found) >= {"asyncio", "ssl", "importlib.metadata", "json"}


def test_every_plugin_is_spoken_of() -> None:
    folder = ROOT / "plugins"
    assert sorted(PLUGINS) == sorted(path.name for path in folder.iterdir() if path.name.startswith("nodekit_"))


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugin_brings_in_only_what_it_needs(plugin: str) -> None:
    libraries, packages_of_ours = PLUGINS[plugin]
    core, more = brought_in("import nodekit", f"import {plugin}")
    assert third_party(more) >= libraries
    assert unexpected(more, LIBRARIES | libraries) == set()
    assert {package for package in packages(more) if ours(package)} - {"nodekit"} == {plugin, *packages_of_ours}
    assert not [module for module in core | more if module.startswith(("nodekit.cli", "nodekit.testing"))]
    assert "importlib.metadata" not in more or libraries


SMALL = """
[store]
use = "memory"
[[runners]]
use = "function"
[[runners.containers]]
id = "copy"
call = "copying:copy"
"""

COMPOSE = "from nodekit import load_node; node = load_node('node.toml')"
RUN = "import anyio, contextlib\nasync def run():\n    async with node: pass\nanyio.run(run)"


@pytest.mark.parametrize(
    ("more", "named", "absent"),
    [
        ("", {"memory", "function"}, {"httptools", "docker", "hypercorn", "uvicorn", "click", "tqdm", "sqlite3"}),
        ('[[plugins]]\nuse = "guardian"\n', {"memory", "function", "guardian"}, {"httptools", "docker", "hypercorn"}),
        (
            '[[transports]]\nuse = "asgi"\nbind = "127.0.0.1:0"\n',
            {"memory", "function", "asgi"},
            {"httptools", "docker", "uvicorn", "click"},
        ),
    ],
    ids=["nothing else", "guardian", "asgi"],
)
def test_a_node_file_brings_in_the_plugins_that_it_names_and_no_other(
    tmp_path: Path, more: str, named: set[str], absent: set[str]
) -> None:
    (tmp_path / "node.toml").write_text(SMALL + more)
    (tmp_path / "copying.py").write_text("async def copy(data):\n    return data\n")
    composing, running = brought_in(COMPOSE, RUN, cwd=tmp_path)
    assert {name for name in packages(composing) if name.startswith("nodekit_")} == {
        f"nodekit_{name}" for name in named
    }
    assert packages(composing | running) & absent == set()
    assert {name for name in packages(running) if ours(name)} <= {"nodekit", *(f"nodekit_{name}" for name in named)}
    assert ("hypercorn" in packages(composing), "hypercorn" in packages(running)) == (False, "asgi" in named)


RUN_TESTS = """
import contextlib, io, pytest
with contextlib.redirect_stdout(io.StringIO()):
    assert pytest.main(["-q", "-p", "no:cacheprovider", {file!r}]) == 0
"""


@pytest.mark.parametrize("file", ["tests/core/model/test_job.py", "contrib/nodekit-metrics/tests/test_counting.py"])
def test_tests_of_what_is_pure_bring_in_no_engine_and_no_server(file: str) -> None:
    modules, _ = brought_in(RUN_TESTS.format(file=file), cwd=ROOT)
    assert "nodekit" in modules
    assert packages(modules) & {"docker", "requests", "aiohttp", "httptools", "hypercorn", "uvicorn"} == set()
