"""Rules of imports and of length. Each rule is shown to fail where the code breaks it."""

import ast
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from import_rules import Import, imports, plugin_violations, within
from paths import ROOT

pytestmark = pytest.mark.xdist_group("architecture")  # all modules are parsed once

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 50

CORE_LIBRARIES = {"anyio", "msgspec", "pluggy"}
MORE_LIBRARIES = {  # the first that fits
    "nodekit.cli.certify": {"click", "pytest"},
    "nodekit.cli.serve.log": {"click", "structlog"},
    "nodekit.cli": {"click", "tomli_w"},
    "nodekit.testing.store_model": {"pytest", "hypothesis"},
    "nodekit.testing": {"pytest"},
}

TESTING_PLUGINS = {"nodekit_function", "nodekit_memory", "nodekit_sqlite"}
"""Plugins whose components the conformance kit lends, by public names and in one module."""

ROOMS = (  # a room imports those of earlier lines; rooms of one line do not import each other
    "foreign_text",
    "errors",
    "model concurrency",
    "interfaces",
    "hooks embedded shared execution",
    "node",
    "config",
    "testing",
    "cli",
    "__main__",
)
FLOORS = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms.split()}

FOR_TYPES = {
    ("nodekit.hooks.specs", "nodekit.node.node"),
    ("nodekit.hooks.manager", "nodekit.node.node"),
    ("nodekit.interfaces.transport", "nodekit.node.node"),
    ("nodekit.testing.simulation.clients", "nodekit.testing.simulation.cluster"),
    ("nodekit.testing.simulation.faults", "nodekit.testing.simulation.cluster"),
}
"""Imports that only annotations use: plugins and transports receive the node, faults and clients the cluster."""


LENDER = "nodekit/testing/builders/components.py"


parsed = cache(ast.parse)
"""A module's tree; each of the tests below looks at all modules, of which it has changed one."""


def modules(root: Path) -> dict[str, ast.Module]:
    """Return the modules of the core, of the plugins and of the packages of contrib, by name."""
    contrib = root / "contrib"
    places = {root: (root / "nodekit",), root / "plugins": (root / "plugins",)}
    places |= {folder: tuple(folder.glob("nodekit_*")) for folder in contrib.glob("*") if folder.is_dir()}
    found = {}
    for place, packages in places.items():
        for file in [file for package in packages for file in package.rglob("*.py")]:
            parts = file.relative_to(place).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = parsed(file.read_text())
    return found


def contrib_tests(root: Path) -> dict[str, ast.Module]:
    """Return the test modules of contrib, by path."""
    return {
        str(file.relative_to(root)): parsed(file.read_text()) for file in (root / "contrib").glob("*/tests/**/*.py")
    }


def ours(trees: dict[str, ast.Module]) -> dict[str, ast.Module]:
    """Return the modules without the templates of `nodekit new`, which test_new.py checks by the rules of plugins."""
    return {name: tree for name, tree in trees.items() if not within(name, "nodekit.cli.new.templates")}


def room(module: str) -> str:
    """Return the folder below nodekit, or the file where it has none; empty for nodekit itself."""
    return module.partition(".")[2].partition(".")[0]


def room_violations(one: Import) -> Iterator[str]:
    """Yield the imports of a module of nodekit from beside or above its room."""
    here, there = room(one.module), room(one.target if one.target != "nodekit" else f"nodekit.{one.name}")
    if one.module == "nodekit" or here == there or ((one.module, one.target) in FOR_TYPES and one.typing_only):
        return
    if here not in FLOORS:
        yield f"{one.module} is in no room; add {here!r} to ROOMS"
    elif here in ("testing", "cli") and one.target == "nodekit":
        return
    elif FLOORS.get(there, len(ROOMS)) >= FLOORS[here]:
        yield f"{one.place}, which is not below it"


def core_violations(one: Import) -> Iterator[str]:
    """Yield the imports that a module of the core may not have."""
    top = one.target.partition(".")[0]
    more = next((libraries for package, libraries in MORE_LIBRARIES.items() if within(one.module, package)), set())
    if top == "nodekit":
        yield from room_violations(one)
    elif top.startswith("nodekit_"):
        if one.module != "nodekit.testing.builders.components" or top not in TESTING_PLUGINS:
            yield f"{one.place}: the core imports no plugin"
        elif one.target != top or one.name not in importlib.import_module(top).__all__:
            yield f"{one.place}: not a public name of {top}"
    elif top not in sys.stdlib_module_names and top not in CORE_LIBRARIES | more:
        yield f"{one.place}: not a library of the core"
    if top == "pluggy" and one.module != "nodekit.hooks.manager":
        yield f"{one.place}: only nodekit.hooks.manager touches pluggy"


def contrib_test_violations(root: Path) -> Iterator[str]:
    """Yield the imports that tests of contrib may not have: they use what an author elsewhere can use."""
    for module, tree in contrib_tests(root).items():
        own = {folder.name for folder in root.joinpath(*Path(module).parts[:2]).glob("nodekit_*")}
        for one in imports(module, tree):
            top = one.target.partition(".")[0]
            if top == "nodekit":
                public = ("nodekit", "nodekit.testing", "nodekit.testing.store_model")
                if one.target not in public or one.name not in importlib.import_module(one.target).__all__:
                    yield f"{one.place}: a test of contrib takes public names of nodekit and nodekit.testing only"
            elif top.startswith("nodekit_") and top not in own and one.target != top:
                yield f"{one.place}: a test of contrib takes no inner module of another plugin"


def cycle(graph: dict[str, set[str]]) -> list[str] | None:
    """Return a cycle of imports, or None."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        found = next((found for target in sorted(graph[module]) if (found := visit(target, [*path, module]))), None)
        done.add(module)
        return found

    return next((found for module in sorted(graph) if (found := visit(module, []))), None)


def import_violations(root: Path) -> Iterator[str]:
    trees = ours(modules(root))
    known = frozenset(trees)
    graph: dict[str, set[str]] = {module: set() for module in trees}
    for module, tree in trees.items():
        for one in imports(module, tree, known):
            core = within(module, "nodekit")
            yield from core_violations(one) if core else plugin_violations(one)
            cli = f"{one.target.partition('.')[0]}.cli"
            if within(one.target, cli) and not within(module, cli) and module != "nodekit.__main__":
                yield f"{one.place}: nothing imports the command line"
            if one.target in known and one.target != module and (module, one.target) not in FOR_TYPES:
                graph[module].add(one.target)
    if found := cycle(graph):
        yield f"a cycle: {' → '.join(found)}"


def length_violations(root: Path) -> Iterator[str]:
    for module, tree in ours(modules(root)).items():
        lines = max((node.end_lineno or 0 for node in tree.body), default=0)
        if lines > MAX_MODULE_LINES:
            yield f"{module} has {lines} lines: a module that passes {MAX_MODULE_LINES} is looking for a missing word"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    yield f"{module}.{node.name} has {length} lines; at most {MAX_FUNCTION_LINES}"


def test_imports_go_in_one_direction() -> None:
    assert list(import_violations(ROOT)) == []


def test_contrib_is_among_what_is_looked_at() -> None:
    assert {"nodekit_metrics", "nodekit_metrics._plugin"} <= modules(ROOT).keys()
    assert len(contrib_tests(ROOT)) > 3


def test_tests_of_contrib_use_what_everybody_can_use() -> None:
    assert list(contrib_test_violations(ROOT)) == []


def test_modules_and_functions_are_short() -> None:
    assert list(length_violations(ROOT)) == []


@pytest.fixture(scope="module")
def whole_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("nodekit", "plugins", "contrib"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture
def plant(whole_copy: Path) -> Iterator[Callable[[str, str], Path]]:
    """Add lines to a file of a copy of the checkout until the test is over; return the copy."""
    before: dict[Path, str] = {}

    def plant(name: str, lines: str) -> Path:
        file = whole_copy / name
        before[file] = file.read_text() if file.exists() else ""
        file.write_text(f"{before[file]}\n{lines}\n")
        return whole_copy

    yield plant
    for file, text in before.items():
        file.write_text(text) if text else file.unlink()


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("nodekit/model/job.py", "import aiohttp", "not a library of the core"),
        ("nodekit/node/node.py", "def f():\n    from requests import get", "not a library of the core"),
        ("nodekit/node/node.py", "import click", "not a library of the core"),
        ("nodekit/config/formats.py", "import tomli_w", "not a library of the core"),
        ("nodekit/interfaces/store.py", "import pytest", "not a library of the core"),
        ("nodekit/testing/contracts/stores/store.py", "import hypothesis", "not a library of the core"),
        ("nodekit/config/compose.py", "import nodekit_sqlite", "the core imports no plugin"),
        ("nodekit/testing/builders/jobs.py", "from nodekit_memory import MemoryTable", "the core imports no plugin"),
        (LENDER, "from nodekit_asgi import AsgiTransport", "the core imports no plugin"),
        (LENDER, "from nodekit_function import _pieces", "not a public name of nodekit_function"),
        (LENDER, "import nodekit_memory", "not a public name of nodekit_memory"),
        ("nodekit/cli/serve/command.py", "import nodekit_asgi.app", "the core imports no plugin"),
        ("nodekit/node/node.py", "import pluggy", "only nodekit.hooks.manager"),
        ("plugins/nodekit_asgi/app.py", "from pluggy import HookspecMarker", "only nodekit.hooks.manager"),
        ("nodekit/config/compose.py", "from nodekit.cli import main", "nothing imports the command line"),
        ("plugins/nodekit_asgi/app.py", "from nodekit_asgi.cli import job", "nothing imports the command line"),
        ("plugins/nodekit_asgi/app.py", "from click import echo", "stand in its cli"),
        ("nodekit/errors.py", "from nodekit.model.job import Job", "not below it"),
        ("nodekit/hooks/specs.py", "from nodekit.node.node import Node", "not below it"),
        ("nodekit/model/job.py", "from nodekit import Node", "not below it"),
        ("nodekit/model/job.py", "from nodekit import node", "not below it"),
        ("nodekit/node/node.py", "from nodekit.testing import make_job", "not below it"),
        ("nodekit/node/node.py", "from .. import config", "not below it"),
        ("nodekit/errors.py", "from .node import Node", "not below it"),
        ("plugins/nodekit_sqlite/_table.py", "from nodekit.node.node import Node", "nodekit.__all__ only"),
        ("plugins/nodekit_sqlite/_table.py", "from nodekit import Executor", "nodekit.__all__ only"),
        ("plugins/nodekit_sqlite/_table.py", "import nodekit", "nodekit.__all__ only"),
        ("plugins/nodekit_sqlite/_table.py", "from nodekit_memory import MemoryTable", "no other plugin"),
        ("plugins/nodekit_process/_runner.py", "from nodekit_remote._http import Endpoint", "not a public name"),
        ("plugins/nodekit_process/_runner.py", "from nodekit_remote import _session", "not a public name"),
        ("plugins/nodekit_asgi/config.py", "from nodekit_asgi.app import AsgiApp", "a cycle"),
        ("nodekit/testing/builders/jobs.py", "import nodekit.testing.contracts.stores.store", "a cycle"),
        ("nodekit/brand_new.py", "from nodekit.errors import NodekitError", "is in no room"),
        ("nodekit/model/job.py", "def f():\n    from nodekit.node.node import Node", "not below it"),
        ("nodekit/model/job.py", "if TYPE_CHECKING:\n    from nodekit.node.node import Node", "not below it"),
        ("nodekit/hooks/manager.py", "from nodekit.execution.slots import Slots", "not below it"),
        ("nodekit/node/admission.py", "if TYPE_CHECKING:\n    from nodekit.node.node import Node", "a cycle"),
        ("contrib/nodekit-metrics/nodekit_metrics/_now.py", "from nodekit.node import Node", "nodekit.__all__ only"),
        ("contrib/nodekit-metrics/nodekit_metrics/_now.py", "import nodekit_asgi", "no other plugin"),
        ("contrib/nodekit-metrics/nodekit_metrics/_labels.py", "import nodekit_metrics._plugin", "a cycle"),
    ],
)  # fmt: skip
def test_a_planted_import_is_found(plant: Callable[[str, str], Path], file: str, line: str, words: str) -> None:
    found = list(import_violations(plant(file, line)))
    assert any(words in violation for violation in found), found


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("from nodekit.node.node import Node", "public names"),
        ("from nodekit import Executor", "public names"),
        ("import nodekit", "public names"),
        ("from nodekit.testing import Faulty", "public names"),
        ("from nodekit.testing.builders.components import make_node", "public names"),
        ("from nodekit_asgi.app import AsgiApp", "inner module"),
    ],
)
def test_a_planted_import_is_found_in_tests_of_contrib(
    plant: Callable[[str, str], Path], line: str, words: str
) -> None:
    found = list(contrib_test_violations(plant("contrib/nodekit-metrics/tests/test_page.py", line)))
    assert any(words in violation for violation in found), found


def test_what_grows_too_long_is_found(plant: Callable[[str, str], Path]) -> None:
    plant("nodekit/interfaces/store.py", "x = 1\n" * MAX_MODULE_LINES)
    body = "        x = 1\n" * MAX_FUNCTION_LINES
    copy = plant("nodekit/errors.py", f"class A:\n    async def long(self):\n{body}")
    found = {text.partition(" has")[0] for text in length_violations(copy)}
    assert found == {"nodekit.interfaces.store", "nodekit.errors.long"}
