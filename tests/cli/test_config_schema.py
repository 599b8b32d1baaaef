"""`nodekit config schema`: what editors know of node files agrees with what `nodekit check` says of them."""

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import msgspec
import pytest
from node_files import DOCKER, LIMITS, NODE_FILE, changed
from pages import PAGES, blocks, page_id, write_files
from paths import ROOT
from planted import STORE, nodekit, plant

from nodekit import CompositionError, EnvValue, Secret
from nodekit.cli.config.schema import NodeSchema
from nodekit.cli.config.schema_types import schema_of, struct_schema
from nodekit.config.compose import compose


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    made = NodeSchema()
    assert made.notes == []
    document: dict[str, Any] = json.loads(json.dumps(made.document()))
    jsonschema.Draft7Validator.check_schema(document)
    return document


def refused(schema: dict[str, Any], text: str) -> bool:
    return not jsonschema.Draft7Validator(schema).is_valid(tomllib.loads(text))


def composes(text: str, folder: Path) -> bool:
    try:
        compose(tomllib.loads(text), folder / "node.toml")
    except CompositionError:
        return False
    return True


# -- node files that are well ---------------------------------------------------------------------


@pytest.mark.parametrize("text", [NODE_FILE, DOCKER, LIMITS])
def test_what_composes_is_valid(schema: dict[str, Any], text: str, tmp_path: Path) -> None:
    assert composes(text, tmp_path)
    assert not refused(schema, text)


def files_of_examples() -> Iterator[Path]:
    """Yield the files that need only built-in components; example plugins have tests of their own."""
    for file in sorted((ROOT / "examples").rglob("node.toml")):
        if not (file.parent / "pyproject.toml").exists():
            yield file


@pytest.mark.parametrize("file", [*files_of_examples()], ids=page_id)
def test_the_examples_are_valid(schema: dict[str, Any], file: Path) -> None:
    assert not refused(schema, file.read_text())


def node_files(page: Path) -> Iterator[str]:
    for language, text in blocks(page):
        if language == "toml" and not text.startswith("# pyproject.toml"):
            yield text


@pytest.mark.parametrize("page", [page for page in PAGES if any(node_files(page))], ids=page_id)
def test_the_node_files_of_a_page_are_valid_with_the_packages_of_the_page(
    schema: dict[str, Any], page: Path, tmp_path: Path
) -> None:
    write_files(page, tmp_path)
    own = (tmp_path / "pyproject.toml").exists()
    made = json.loads(nodekit(tmp_path, "config", "schema").stdout) if own else schema
    assert [text for text in node_files(page) if refused(made, text)] == []


# -- mistakes -------------------------------------------------------------------------------------

MISTAKES = [
    ("[node]", "[nodes]", NODE_FILE),
    ("[node]", "typo = 1\n[node]", NODE_FILE),
    ("max_pending", "max_pendig", NODE_FILE),
    ("concurrency = 64", "concurrency = 0", NODE_FILE),
    ("concurrency = 64", 'concurrency = "64"', NODE_FILE),
    ("drain_seconds = 10", "drain_seconds = -1", NODE_FILE),
    ('use = "sqlite"', 'use = "sqlit"', NODE_FILE),
    ('use = "sqlite"\n', "", NODE_FILE),
    ('path = "jobs.db"', "", NODE_FILE),
    ('path = "jobs.db"', "path = 3", NODE_FILE),
    ('path = "jobs.db"', 'path = "jobs.db"\nsynchronous = "OFF"', NODE_FILE),
    ('path = "jobs.db"', 'path = "jobs.db"\ngroup = 0', NODE_FILE),
    ('path = "jobs.db"', 'path = "jobs.db"\nport = 1', NODE_FILE),
    ('use = "process"', 'use = "remote"', NODE_FILE),
    ('id = "upper"', "", NODE_FILE),
    ('id = "upper"', 'id = ""', NODE_FILE),
    ('command = ["python3", "upper.py"]', 'command = "python3 upper.py"', NODE_FILE),
    ('command = ["python3", "upper.py"]', "command = []", NODE_FILE),
    ("timeout_seconds = 180", "timeout_seconds = 0", NODE_FILE),
    ("timeout_seconds = 180", 'when_down = "maybe"', NODE_FILE),
    ("timeout_seconds = 180", "rules = { external = true }", NODE_FILE),
    ("external = false", 'external = "no"', NODE_FILE),
    ("external = false", "extrenal = false", NODE_FILE),
    ("timeout_seconds = 180", 'bearer = "in the open"', NODE_FILE),
    ("timeout_seconds = 180", 'bearer = { env = "PATH", file = "x" }', NODE_FILE),
    ("timeout_seconds = 180", "bearer = {}", NODE_FILE),
    ('bind = "127.0.0.1:4000"', 'server = "apache"', NODE_FILE),
    ('use = "guardian"', 'use = "guardian"\nexternal = true', NODE_FILE),
    ("[[plugins]]", "[plugins]", NODE_FILE),
    ("[[plugins]]", '[[pipelines]]\nuse = "sequence"\n[[plugins]]', NODE_FILE),
    ("attempts = 3", "attempts = 0", DOCKER),
    ("attempts = 3", "atempts = 3", DOCKER),
    ("[503]", "[99]", DOCKER),
    ('gpus = "all"', 'gpus = "some"', DOCKER),
    ('{ env = "HOME" }', "3", DOCKER),
    ('{ env = "HOME" }', '{ en = "HOME" }', DOCKER),
    ("max_priority = 0", "max_priority = 8", LIMITS),
    ('path = "node.log"', "path = 3", LIMITS),
    ('path = "node.log"', 'format = "xml"', LIMITS),
    ('path = "node.log"', 'level = "loud"', LIMITS),
    ('path = "node.log"', 'levels = { nodekit = "loud" }', LIMITS),
    ('path = "node.log"', "audit = 3", LIMITS),
    ('path = "node.log"', 'access = "yes"', LIMITS),
    ('[store]\nuse = "memory"\n', "", LIMITS),
]


@pytest.mark.parametrize(("old", "new", "text"), MISTAKES)
def test_a_mistake_is_refused_as_check_refuses_it(
    schema: dict[str, Any], old: str, new: str, text: str, tmp_path: Path
) -> None:
    wrong = changed(old, new, text)
    assert not composes(wrong, tmp_path)
    assert refused(schema, wrong)


# -- what editors show ----------------------------------------------------------------------------


def test_keys_have_their_docs_and_defaults(schema: dict[str, Any]) -> None:
    tables = schema["properties"]
    concurrency = tables["node"]["properties"]["concurrency"]
    expected = {
        "type": "integer",
        "minimum": 1,
        "default": 64,
        "description": "Number of jobs that this node runs at once: its slots.",
    }
    assert concurrency == expected
    stores = {one["properties"]["use"]["enum"][0]: one for one in tables["store"]["oneOf"][:-1]}
    assert stores["sqlite"]["properties"]["synchronous"]["enum"] == ["FULL", "NORMAL"]
    assert stores["sqlite"]["properties"]["path"]["type"] == "string"
    assert stores["sqlite"]["required"] == ["use", "path"]
    (docker,) = (one for one in tables["runners"]["items"]["oneOf"] if "docker" in one["title"])
    container = docker["properties"]["containers"]["items"]["properties"]
    assert container["timeout_seconds"]["description"] == "Maximum duration of one call."  # of a class that it extends
    assert "`guardian`" in container["external"]["description"]
    assert "rules" not in container


class Inner(msgspec.Struct, tag="inner"):
    """A Struct with a tag."""

    deep: "Outer | None" = None


class Outer(msgspec.Struct):
    """A Struct that a third party may write."""

    pair: tuple[int, str]
    anything: Any
    inner: Inner | None = None
    secret: Secret | None = None
    env: dict[str, EnvValue] = {}
    fraction: Annotated[float, msgspec.Meta(gt=0, lt=1, title="Part of it", examples=[0.5])] = 0.5
    words: Annotated[list[str], msgspec.Meta(max_length=3)] = msgspec.field(default_factory=list)


def test_any_struct_has_a_schema_also_one_that_holds_itself() -> None:
    made = struct_schema(Outer)
    jsonschema.Draft7Validator.check_schema(made)
    properties = made["properties"]
    assert properties["pair"]["minItems"] == properties["pair"]["maxItems"] == 2
    assert properties["anything"] == {}
    assert properties["inner"]["properties"]["type"] == {"enum": ["inner"]}
    assert properties["inner"]["properties"]["deep"] == {"type": "object"}
    assert properties["fraction"]["title"] == "Part of it"
    assert properties["words"] == {"type": "array", "items": {"type": "string"}, "maxItems": 3, "default": []}
    assert schema_of(msgspec.inspect.type_info(float | None)) == {"type": ["number", "null"]}


def test_it_is_written_to_a_file_and_knows_the_packages_that_are_installed(tmp_path: Path) -> None:
    plant(tmp_path, "nodekit-shelf", {"stores": "shelf"}, "print('hello')\n" + STORE)
    done = nodekit(tmp_path, "config", "schema", "--output", "node.schema.json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    made = json.loads((tmp_path / "node.schema.json").read_text())
    assert not refused(made, '[store]\nuse = "shelf"\nsize = 3\n')
    assert refused(made, '[store]\nuse = "shelf"\nsise = 3\n')
    stores = made["properties"]["store"]["oneOf"]
    shelf = next(one for one in stores if one["properties"]["use"]["enum"] == ["shelf"])
    assert shelf["properties"]["size"] == {"type": "integer", "default": 1, "description": "How many fit."}
    done = nodekit(tmp_path, "config", "schema", "--output", "nowhere/node.schema.json")
    assert (done.returncode, "cannot be written: No such file" in done.stderr) == (1, True)
    assert json.loads(nodekit(tmp_path, "config", "schema").stdout) == made


# -- real tools -----------------------------------------------------------------------------------

TOOLS = {"taplo": ("lint",), "tombi": ("lint", "--offline")}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_real_validator_takes_good_files_and_refuses_mistakes(
    schema: dict[str, Any], tool: str, tmp_path: Path
) -> None:
    program = Path(sys.executable).with_name(tool)
    if not shutil.which(program):
        pytest.skip(f"needs {tool}")
    (tmp_path / "node.schema.json").write_text(json.dumps(schema))

    def valid(name: str, text: str) -> bool:
        (tmp_path / name).write_text(f"#:schema ./node.schema.json\n{text}")
        done = subprocess.run(
            [program, *TOOLS[tool], name], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode in (0, 1), done.stderr
        return done.returncode == 0

    for number, text in enumerate((NODE_FILE, DOCKER, LIMITS)):
        assert valid(f"good-{number}.toml", text), text
    accepted = [
        (old, new) for n, (old, new, text) in enumerate(MISTAKES) if valid(f"{n}.toml", changed(old, new, text))
    ]
    assert accepted == []


HOLDS_ITSELF = """
from __future__ import annotations
import msgspec
from nodekit import Provider
from nodekit_memory import MemoryStore

class Tree(msgspec.Struct, forbid_unknown_fields=True):
    branches: list[Tree] = []

class Config(msgspec.Struct, forbid_unknown_fields=True):
    tree: Tree | None = None

provider = Provider(Config, lambda config, file: MemoryStore())
"""
STRANGE = """
from __future__ import annotations
import re
from typing import Annotated
import msgspec
from nodekit import Provider

class Config(msgspec.Struct):
    pass

class Rules(msgspec.Struct):
    a: TYPE = None

class Plugin:
    container_rules = Rules

provider = Provider(Config, lambda config, file: Plugin(), container=Rules)
"""


def test_settings_that_hold_themselves_are_checked_like_others(tmp_path: Path) -> None:
    plant(tmp_path, "nodekit-tree", {"stores": "tree"}, HOLDS_ITSELF)
    file = tmp_path / "node.toml"
    file.write_text('[store]\nuse = "tree"\n[store.tree]\nbranches = [{ leaves = 1 }]\n')
    done = nodekit(tmp_path, "check", "node.toml")
    assert (done.returncode, done.stderr) == (
        3,
        "node.toml: store.tree.branches[0].leaves: unknown key; known: branches\n",
    )
    assert nodekit(tmp_path, "config", "schema").stderr == ""


@pytest.mark.parametrize("kind", ["Missing", 'Annotated[int, msgspec.Meta(extra_json_schema={"x": re.compile("a")})]'])
def test_keys_of_containers_that_nobody_understands_are_left_out_with_their_plugin(tmp_path: Path, kind: str) -> None:
    plant(tmp_path, "nodekit-strange", {"plugins": "strange"}, STRANGE.replace("TYPE", kind))
    done = nodekit(tmp_path, "config", "schema")
    assert done.returncode == 0
    assert "left out: plugin 'strange'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_whose_settings_have_unknown_types_is_a_problem_of_the_node_file(tmp_path: Path) -> None:
    plant(tmp_path, "nodekit-tree", {"stores": "tree"}, HOLDS_ITSELF.replace("tree: Tree", "tree: Absent"))
    file = tmp_path / "node.toml"
    file.write_text('[store]\nuse = "tree"\n')
    done = nodekit(tmp_path, "check", "node.toml")
    assert done.returncode == 3
    assert "store: its package has settings of unknown types: NameError" in done.stderr
