"""Providers: found by metadata, imported only when a node names them, and harmful only to nodes that do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from node_files import NODE_FILE, write
from planted import LEAVES_A_MARK, STORE, imported, install, installed

from nodekit import CompositionError, load_node

LOOK = """
import json, sys
from nodekit import load_node
load_node(sys.argv[1])
print(json.dumps([name for name in sys.modules if "." not in name]))
"""


def modules_of(folder: Path, text: str) -> set[str]:
    """Compose a node file in a process of its own; return the imported packages."""
    command = [sys.executable, "-c", LOOK, str(write(folder, text))]
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    return {*json.loads(done.stdout)}


def look(folder: Path, text: str) -> list[str]:
    """Compose a node file with the packages that are planted in its folder; return its problems."""
    with installed(folder):
        try:
            load_node(write(folder, text))
        except CompositionError as error:
            return [str(problem) for problem in error.problems]
    return []


def store(name: str, more: str = "") -> str:
    return f'[store]\nuse = "{name}"\n{more}'


def test_a_provider_of_another_distribution_is_as_good_as_a_built_in_one(tmp_path: Path) -> None:
    install(tmp_path, "nodekit-shelf", STORE, stores="shelf")
    assert look(tmp_path, store("shelf", "size = 3")) == []
    (problem,) = look(tmp_path, store("shelf", "sise = 3"))
    assert problem == "store.sise: unknown key; did you mean 'size'?"


def test_a_package_is_imported_only_when_a_node_names_its_provider(tmp_path: Path) -> None:
    install(tmp_path, "nodekit-shelf", STORE, stores="shelf")
    modules = modules_of(tmp_path, store("memory"))
    heavy = ["nodekit_asgi", "nodekit_sqlite", "nodekit_remote", "nodekit_process", "nodekit_guardian"]
    for name in (*heavy, "nodekit_shelf", "hypercorn", "uvicorn", "httptools", "click", "pytest", "sqlite3"):
        assert name not in modules
    modules = modules_of(tmp_path, NODE_FILE)
    assert set(heavy) <= modules
    assert not {"nodekit_shelf", "nodekit_memory", "nodekit_function", "uvicorn"} & modules


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise RuntimeError('half installed')", "RuntimeError: half installed"),
        ("provider = 7", "is not a Provider"),
    ],
)
def test_a_broken_provider_harms_only_nodes_that_name_it(tmp_path: Path, code: str, words: str) -> None:
    install(tmp_path, "nodekit-shelf", code, stores="shelf", plugins="shelf")
    assert look(tmp_path, NODE_FILE) == []
    (problem,) = look(tmp_path, store("shelf"))
    assert problem.startswith("store.use: store 'shelf' of nodekit-shelf 1.0")
    assert words in problem


def test_a_provider_whose_builder_breaks_is_a_problem_of_its_table(tmp_path: Path) -> None:
    code = STORE.replace("lambda config, file: MemoryStore()", "lambda config, file: 1 / 0")
    install(tmp_path, "nodekit-shelf", code, stores="shelf")
    (problem,) = look(tmp_path, store("shelf"))
    assert problem.startswith("store")


def test_one_name_of_two_distributions_is_a_clash_that_names_both(tmp_path: Path) -> None:
    install(tmp_path, "nodekit-shelf", STORE, stores="shelf")
    install(tmp_path, "nodekit-other", STORE, stores="shelf", runners="only-a-runner")
    (problem,) = look(tmp_path, store("shelf"))
    assert "store 'shelf' is provided by several distributions (nodekit-other 1.0, nodekit-shelf 1.0)" in problem
    assert look(tmp_path, store("memory")) == []


def test_nobody_takes_over_a_built_in_name_in_silence(tmp_path: Path) -> None:
    install(tmp_path, "nodekit-evil", LEAVES_A_MARK + STORE, stores="sqlite")
    (problem,) = look(tmp_path, store("sqlite", 'path = "x.db"'))
    assert "nodekit-compute" in problem
    assert "nodekit-evil" in problem
    assert imported(tmp_path) == set()


RULES = """
import msgspec
from nodekit import Provider

class Rules(msgspec.Struct, forbid_unknown_fields=True):
    opens: float = 0

class Other(msgspec.Struct, forbid_unknown_fields=True):
    opens: float = 0

class Hours:
    {declared}
    async def nodekit_admit(self, request): ...

class Config(msgspec.Struct, forbid_unknown_fields=True): ...

provider = Provider(Config, lambda config, file: Hours(){provided})
"""
DECLARED, OFFERED = "container_rules = Rules", ", container=Rules"


@pytest.mark.parametrize(
    ("declared", "provided", "expected"),
    [
        (DECLARED, OFFERED, []),
        ("", "", []),
        (DECLARED, "", ["that its provider does not; write Provider(…, container=Rules)"]),
        (DECLARED, ", container=Other", ["that its provider does not; write Provider(…, container=Rules)"]),
        ("", OFFERED, ["that Hours does not; give the class container_rules = Rules"]),
    ],
)
def test_a_plugin_and_its_provider_declare_the_same_rules(
    tmp_path: Path, declared: str, provided: str, expected: list[str]
) -> None:
    install(tmp_path, "nodekit-hours", RULES.format(declared=declared, provided=provided), plugins="hours")
    problems = look(tmp_path, store("memory") + '\n[[plugins]]\nuse = "hours"\n')
    assert len(problems) == len(expected)
    for problem, text in zip(problems, expected, strict=True):
        assert problem.startswith("plugins[0]: ")
        assert problem.endswith(text)


@pytest.mark.parametrize("someone", [False, True])
def test_the_built_in_pipeline_needs_no_table_and_nobody_can_offer_another(tmp_path: Path, someone: bool) -> None:
    if someone:
        install(tmp_path, "nodekit-mine", LEAVES_A_MARK, pipelines="sequence")
    problems = look(tmp_path, store("memory") + '\n[[pipelines]]\nuse = "sequence"\n')
    cure = "; nodekit-mine 1.0 has to register its own under another name" if someone else ""
    assert problems == [f"pipelines[0].use: pipeline 'sequence' is built into every node; remove this table{cure}"]
    assert imported(tmp_path) == set()
