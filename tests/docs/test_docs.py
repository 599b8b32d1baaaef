"""The documentation is true: examples run, tables are complete, links lead somewhere."""

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import pytest
from pages import FILE_NAME, PAGES, blocks, built_in, page_id, settings, write_files
from paths import ROOT

from nodekit import ClientLimits, Container, Provider, Retry
from nodekit.cli import main
from nodekit.config.compose import TABLES, NodeSettings
from nodekit.config.log_settings import LogSettings
from nodekit.hooks.specs import HOOKS, hook_parameters
from nodekit.testing import simulation
from nodekit.testing.simulation import Fault
from nodekit_asgi.api.routes import ROUTES
from nodekit_docker import Credentials
from nodekit_infernet._config import InfernetConfig
from nodekit_remote import HttpContainer, StartedContainer

REFERENCE = ROOT / "docs" / "reference"
SECONDS = 280  # a bound for one that hangs


def run(folder: Path, *command: str, **more: str) -> str:
    """Run a command that must succeed; return its standard output."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "error", **more}
    done = subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, f"{' '.join(command)[:500]}\n{done.stdout}{done.stderr}"
    return done.stdout


RUN = """
import runpy, sys
from nodekit.cli import main
for file in sys.argv[1:]:
    print(file, file=sys.stderr)
    if file.endswith(".toml"):
        main(["check", file], standalone_mode=False)
    else:
        runpy.run_path(file, run_name="__main__")
"""
"""Runs the scripts and checks the node files of a page, all in one process: most take less time than its start."""
CHOSEN = {"test_unix_socket.py": "several"}
"""Words that choose tests of an example whose whole suite tests/kit/test_unix_transports.py runs."""


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))], ids=page_id)
def test_examples_run(page: Path, tmp_path: Path) -> None:
    write_files(page, tmp_path)
    files, tests = list[str](), list[str]()
    for number, (language, text) in enumerate(blocks(page)):
        name = FILE_NAME.match(text)
        if language == "python" and name:
            compile(text, name[1], "exec")
            tests += [name[1]] * name[1].startswith("test_")
        elif language in ("python", "toml") and not (name and name[1] == "pyproject.toml"):
            files.append(name[1] if name else f"{number}.{'py' if language == 'python' else 'toml'}")
            (tmp_path / files[-1]).write_text(text, encoding="utf-8")
    if files:
        run(tmp_path, sys.executable, "-c", RUN, *files)
    for test in tests:
        run(tmp_path, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test, "-k", CHOSEN.get(test, ""))


def test_a_commented_result_is_what_the_readme_prints(tmp_path: Path) -> None:
    script = next(text for language, text in blocks(ROOT / "README.md") if language == "python")
    promised = re.search(r"print\(.*\)  # (.*)", script)
    assert promised
    assert run(tmp_path, sys.executable, "-c", script).strip() == promised[1]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_readme_calls_its_node(tmp_path: Path) -> None:
    page = ROOT / "README.md"
    write_files(page, tmp_path)
    script = "".join(text for language, text in blocks(page) if language == "sh")
    serve = [sys.executable, "-m", "nodekit.cli", "serve", "node.toml", "--bind", "127.0.0.1:0"]
    with (
        open(tmp_path / "log", "w") as log,
        subprocess.Popen(serve, cwd=tmp_path, stdout=subprocess.PIPE, stderr=log, text=True) as node,
    ):
        try:
            assert node.stdout
            url = node.stdout.readline().removeprefix("listening on ").strip()
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            calls = script.replace("http://127.0.0.1:4000", url)
            printed = run(tmp_path, "sh", "-eu", "-c", calls, NODEKIT_URL=url, PATH=path)
        finally:
            node.terminate()
    by_command, *by_curl = printed.splitlines()
    assert by_command == '{"text": "HELLO"}', printed + (tmp_path / "log").read_text()
    assert '"output":{"text": "HELLO"}' in by_curl[-1], printed + (tmp_path / "log").read_text()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = page.parent / path if path else page
        assert linked.exists(), f"{target} of {page_id(page)}"
        headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {heading_anchor(heading) for heading in headings}, target


def heading_anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


# -- reference: the node file ---------------------------------------------------------------------


def documented(page: Path, *headings: str) -> dict[str, str]:
    """Return the keys and defaults in the tables below headings."""
    text = page.read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for heading in headings:
        section = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, f"{page.name} has no section {heading!r}"
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", section[2], re.MULTILINE)
        assert len(dict(rows)) == len(rows), f"{page.name} has a key twice below {heading!r}"
        found.update(rows)
    return found


def sections(entry: EntryPoint, provider: Provider[Any]) -> list[str]:
    """Return the headings of a provider's keys, general ones first; defaults of later ones count."""
    shared = {
        Container: "Every container",
        HttpContainer: "Every container over HTTP",
        StartedContainer: "Every container that is started",
    }
    mro = provider.container.__mro__ if provider.container else ()
    return [*(heading for struct, heading in shared.items() if struct in mro), f"`{entry.name}`"]


@pytest.mark.parametrize("entry", built_in(), ids=lambda entry: entry.name)
def test_the_reference_has_every_key_of_a_built_in_provider_with_its_default(entry: EntryPoint) -> None:
    provider = entry.load()
    expected = settings(provider.config) | (settings(provider.container) if provider.container else {})
    assert documented(REFERENCE / "node-file.md", *sections(entry, provider)) == expected


@pytest.mark.parametrize(
    ("heading", "struct"),
    [
        *(("`[node]`", NodeSettings), ("`[log]`", LogSettings)),
        *(("Retries", Retry), ("Limits of clients", ClientLimits), ("Credentials of a registry", Credentials)),
    ],
)
def test_the_reference_has_every_key_of_a_table(heading: str, struct: type[msgspec.Struct]) -> None:
    assert documented(REFERENCE / "node-file.md", heading) == settings(struct)


def test_the_reference_and_what_composes_have_the_same_tables() -> None:
    text = (REFERENCE / "node-file.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `\[+(\w+)\]+` \|", text, re.MULTILINE)) == set(TABLES)


def test_the_page_about_infernet_says_of_every_key_what_becomes_of_it() -> None:
    text = (ROOT / "docs" / "how-to" / "move-from-infernet.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    assert sorted(key for row in rows for key in re.findall(r"`([^`]+)`", row)) == sorted(infernet_keys(InfernetConfig))


def infernet_keys(struct: type[msgspec.Struct], place: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(struct):
        kinds = (field.type, *get_args(field.type))
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)), None)
        below = f"{place}{field.name}"
        yield from [below] if inner is None else infernet_keys(inner, f"{below}{'[]' if ... in kinds else ''}.")


def test_the_reference_names_every_built_in_provider() -> None:
    text = (REFERENCE / "node-file.md").read_text(encoding="utf-8")
    assert [entry.name for entry in built_in() if f"\n### `{entry.name}`\n" not in text] == []


# -- reference: hooks and routes ------------------------------------------------------------------


def test_the_reference_has_every_hook_with_its_arguments() -> None:
    expected = {name: signature(hook) for name, hook in HOOKS.items()}
    text = (REFERENCE / "hooks.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^## `(nodekit_\w+)`\n\n`(.*)`$", text, re.MULTILINE)) == expected


def signature(hook: Callable[..., Any]) -> str:
    keyword = "async def" if inspect.iscoroutinefunction(hook) else "def"
    return f"{keyword} {hook.__name__}({', '.join(hook_parameters(hook.__name__))})"


def test_the_reference_has_every_route() -> None:
    text = (REFERENCE / "http.md").read_text(encoding="utf-8")
    expected = {f"{method} {path}" for path, methods in ROUTES.items() for method in methods}
    assert set(re.findall(r"^### `([A-Z]+ /\S*)`$", text, re.MULTILINE)) == expected


def test_the_reference_has_every_command_with_its_options() -> None:
    text = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `nodekit (\w+).*?`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    commands = commands_of(main)
    assert set(sections) == set(commands)
    for name, command in commands.items():
        found = set(re.findall(r"^\| `(--[\w-]+)` \|", sections[name], re.MULTILINE))
        assert found == options_of(command).union(*map(options_of, commands_of(command).values())), name


def test_the_reference_has_every_command_of_a_group_with_its_options() -> None:
    text = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    groups = {name: group for name, command in commands_of(main).items() if (group := commands_of(command))}
    assert {"job", "plugins", "config"} <= set(groups)
    for name, commands in groups.items():
        section = re.search(rf"^## `nodekit {name}`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, name
        assert re.findall(rf"^### `nodekit {name} (\w+)", section[1], re.MULTILINE) == list(commands)
        rows = re.findall(r"^\| `(--[\w-]+)` \| ([a-z, ]+) \|", section[1], re.MULTILINE)
        documented = {option: set(commands) if of == "all" else set(of.split(", ")) for option, of in rows}
        for command, one in commands.items():
            assert {option for option, of in documented.items() if command in of} == options_of(one), command


def commands_of(command: click.Command) -> dict[str, click.Command]:
    """Return the commands of a group; a command has none."""
    if not isinstance(command, click.Group):
        return {}
    context = click.Context(command)
    found = {name: command.get_command(context, name) for name in command.list_commands(context)}
    return {name: one for name, one in found.items() if one}


def options_of(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts if option.startswith("--")}


# -- simulations ----------------------------------------------------------------------------------

SIMULATIONS = ROOT / "docs" / "how-to" / "simulate-a-cluster.md"


def rows(page: Path, heading: str) -> list[str]:
    """Return the first column of the tables below a heading, without the heads."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert section, heading
    return re.findall(r"^\| `(.+?)` \|", section[1], re.MULTILINE)


def promises() -> Iterator[str]:
    """Yield the names of the promises that simulations check."""
    for file in (ROOT / "nodekit" / "testing" / "simulation").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name(id="PromiseBroken" | "_check_same"), args=[ast.Constant(value=str(name)), *_]
                ):
                    yield name
                case _:
                    pass


def test_the_page_about_simulations_has_every_promise() -> None:
    documented = rows(SIMULATIONS, "What is checked")
    assert len(documented) == len(set(documented)) > 20
    assert set(documented) == set(promises())


def test_the_page_about_simulations_has_every_fault_and_every_option() -> None:
    faults = [name for name, kind in vars(simulation).items() if isinstance(kind, type) and issubclass(kind, Fault)]
    assert set(rows(SIMULATIONS, "Faults")) == {*faults} - {"Fault"}
    told = run(ROOT, sys.executable, "-m", "nodekit.testing.simulation", "--help")
    options = {option.partition(" ")[0] for option in rows(SIMULATIONS, "Two minutes")}
    assert options == {*re.findall(r"^  (--[\w-]+)", told, re.MULTILINE)}
