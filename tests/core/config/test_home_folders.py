"""All paths in settings follow one rule: ``~`` and ``~user`` at the beginning are home folders."""

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from paths import ROOT

from nodekit import CompositionError, NodekitError, Secret, resolved_path
from nodekit.cli import main
from nodekit.config.compose import LogSettings, NodeSettings, compose, log_settings
from nodekit.config.providers import Kind, load_provider, provided
from nodekit_asgi.cli.address import parse_url
from nodekit_docker.config import Volume

NOBODY = "~nobody-of-this-name"

PATHS = {
    "log.path": '[log]\npath = "{path}/node.log"',
    "log.audit": '[log]\naudit = "{path}/audit.log"',
    "plugins.apikeys.path": '[[plugins]]\nuse = "apikeys"\npath = "{path}/keys"',
    "store.sqlite.path": '[store]\nuse = "sqlite"\npath = "{path}/jobs.db"',
    "runners.docker.host": '[[runners]]\nuse = "docker"\nhost = "unix://{path}/engine.sock"',
    "runners.docker.state": '[[runners]]\nuse = "docker"\nstate = "{path}/state"',
    "runners.docker.containers.volumes": (
        '[[runners]]\nuse = "docker"\n[[runners.containers]]\nid = "a"\nimage = "b"\nvolumes = ["{path}/data:/data"]'
    ),
    "runners.function.containers.call": (
        '[[runners]]\nuse = "function"\n[[runners.containers]]\nid = "a"\ncall = "{path}/echo.py:echo"'
    ),
    "runners.process.containers.command": (
        '[[runners]]\nuse = "process"\n[[runners.containers]]\nid = "a"\ncommand = ["{path}/program"]'
    ),
    "runners.process.containers.folder": (
        '[[runners]]\nuse = "process"\n[[runners.containers]]\nid = "a"\ncommand = ["true"]\nfolder = "{path}/folder"'
    ),
    "transports.asgi.bind": '[[transports]]\nuse = "asgi"\nbind = "unix:{path}/node.sock"',
    "a secret": (
        '[[runners]]\nuse = "remote"\n[[runners.containers]]\nid = "a"\nurl = "http://h"\n'
        'bearer = {{ file = "{path}/token" }}'
    ),
    "an env": (
        '[[runners]]\nuse = "process"\n[[runners.containers]]\nid = "a"\ncommand = ["true"]\n'
        'env = {{ TOKEN = {{ file = "{path}/token" }} }}'
    ),
}
"""Node files by the setting that has a path in them."""

NO_PATHS = {
    "runners.docker.containers.tmpfs": "its paths are those inside the container",
    "runners.docker.containers.command": "it is run inside the container",
    "runners.remote.containers.url": "the path is that of a URL",
}
"""Settings whose meaning speaks of paths, and which have none of this machine."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    (home / "echo.py").write_text("async def echo(data):\n    return data\n")
    (home / "token").write_text("sesame")
    (home / "program").write_text("#!/bin/sh\n")
    (home / "program").chmod(0o755)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return home


def tables_of(text: str) -> dict[str, Any]:
    import tomllib

    tables = tomllib.loads(text)
    return {"store": {"use": "memory"}, **tables}


# -- node files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", PATHS)
def test_a_path_may_begin_with_the_home_folder(setting: str, home: Path) -> None:
    file = home.parent / "elsewhere" / "node.toml"
    compose(tables_of(PATHS[setting].format(path="~")), file)  # programs, folders, files and secrets are looked for


@pytest.mark.parametrize("setting", PATHS)
def test_a_home_folder_that_is_not_there_is_a_problem_of_the_setting(setting: str, home: Path) -> None:
    file = home.parent / "elsewhere" / "node.toml"
    with pytest.raises(CompositionError) as caught:
        compose(tables_of(PATHS[setting].format(path=NOBODY)), file)
    (problem,) = caught.value.problems
    key = {"a secret": "bearer", "an env": "env"}.get(setting, setting.rpartition(".")[2])
    assert re.search(rf"\.{key}([\[.]|$)|^{key}$", problem.where), problem
    assert f"there is no home folder for {NOBODY!r}" in problem.text


def test_what_becomes_of_the_paths(home: Path) -> None:
    file = home.parent / "elsewhere" / "node.toml"
    log = log_settings(tables_of(PATHS["log.path"].format(path="~")), file)
    assert log is not None
    assert log.path == home / "node.log"
    assert Volume.parse("~/data:/data", file.parent).source == str(home / "data")
    assert Volume.parse("./~/data:/data", file.parent).source == str(file.parent / "~" / "data")
    assert Secret.resolve({"file": "~/token"}, file.parent).reveal() == "sesame"
    docker = compose(tables_of(PATHS["runners.docker.state"].format(path="~")), file)._runners[0]
    assert docker._state.folder == home / "state"  # type: ignore[attr-defined]
    asgi = compose(tables_of(PATHS["transports.asgi.bind"].format(path="~")), file)._transports[0]
    assert asgi._config.bind == f"unix:{home}/node.sock"  # type: ignore[attr-defined]


def test_the_rule(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("/srv/node")
    expected = {
        "~": home,
        "~/a": home / "a",
        "~root/a": Path("/root/a"),
        "a/~": folder / "a" / "~",
        "./~/a": folder / "~" / "a",
        "/a": Path("/a"),
        "": folder,
    }
    assert {text: resolved_path(text, folder) for text in expected} == expected
    with pytest.raises(
        ValueError, match=rf"no home folder for '{NOBODY}'; write \./{NOBODY}/x for a file of that name"
    ):
        resolved_path(f"{NOBODY}/x", folder)
    monkeypatch.setenv("HOME", "")
    with pytest.raises(ValueError, match="the variable HOME is empty"):
        resolved_path("~/a", folder)
    with pytest.raises(NodekitError, match="cannot read the secret: there is no home folder"):
        Secret.resolve({"file": "~/a"}, folder)


# -- all of them ----------------------------------------------------------------------------------

KINDS: tuple[Kind, ...] = ("store", "runner", "transport", "pipeline", "plugin")


def structs() -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """Yield the settings of everything that is installed here."""
    yield from (("node", NodeSettings), ("log", LogSettings))
    for kind in KINDS:
        for name in provided(kind):
            try:
                provider = load_provider(kind, name)
            except NodekitError:
                continue
            where = kind if kind == "store" else f"{kind}s"
            yield f"{where}.{name}", provider.config
            if provider.container is not None:
                yield f"{where}.{name}.containers", provider.container


def is_path(kind: Any) -> bool:
    return (isinstance(kind, type) and issubclass(kind, Path)) or any(map(is_path, typing.get_args(kind)))


def test_each_setting_that_is_a_path_is_among_these() -> None:
    found = {
        f"{where}.{field}"
        for where, struct in structs()
        for field, kind in typing.get_type_hints(struct).items()
        if is_path(kind)
    }
    assert found >= {"log.path", "store.sqlite.path", "runners.docker.state", "runners.process.containers.folder"}
    assert found <= PATHS.keys()


SPEAKS_OF_PATHS = re.compile(r"\b(paths?|folders?|program and its arguments|sockets?|file\.py)\b|unix:")


def test_each_setting_whose_meaning_speaks_of_paths_is_among_these() -> None:
    """Look at the reference, as settings that are texts may have paths in them, too."""
    fields: dict[str, set[str]] = {}
    for where, struct in structs():
        for field in struct.__struct_fields__:
            fields.setdefault(field, set()).add(f"{where}.{field}")
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| (.*) \|$", (ROOT / "docs/reference/node-file.md").read_text(), re.M)
    known = {name.rpartition(".")[2] for name in (*PATHS, *NO_PATHS)} | {"name", "trusted_proxies", "listen"}
    speaking = {key for key, meaning in rows if key in fields and SPEAKS_OF_PATHS.search(meaning)}
    assert {"path", "bind", "volumes", "command"} <= speaking
    no_paths = {"max_connections", "max_client_connections", "read_only", "allowed_origins", "backups", "keys"}
    assert speaking - known - no_paths == set()


# -- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("given", [["--output=~/schema.json"], ["--output", "~/schema.json"]])
def test_files_on_the_command_line_may_begin_with_the_home_folder(given: list[str], home: Path) -> None:
    done = CliRunner().invoke(main, ["config", "schema", *given])
    assert done.exit_code == 0, done.output
    assert (home / "schema.json").exists()


def test_a_node_file_on_the_command_line_may_begin_with_the_home_folder(home: Path) -> None:
    (home / "node.toml").write_text('[store]\nuse = "memory"\n')
    done = CliRunner().invoke(main, ["check", "~/node.toml"])
    assert (done.exit_code, done.stdout) == (0, f"{home}/node.toml: ok (0 containers)\n")
    done = CliRunner().invoke(main, ["check", f"{NOBODY}/node.toml"])
    assert done.exit_code == 2
    assert "there is no home folder for" in done.output


def commands(group: Any, ctx: Any) -> Iterator[Any]:
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        yield command
        if hasattr(command, "list_commands"):
            yield from commands(command, ctx)


def test_each_path_of_each_command_follows_the_rule(home: Path) -> None:
    import click

    ctx, found = click.Context(main), 0
    for command in commands(main, ctx):
        for param in command.params:
            assert not isinstance(param.type, click.Path | click.File), (command.name, param.name)
            if type(param.type).__name__ == "_WithHome":
                found += 1
                with pytest.raises(click.BadParameter, match="there is no home folder for"):
                    param.type.convert(f"{NOBODY}/x", param, ctx)
    assert found > 10


def test_the_socket_of_a_node_may_be_in_the_home_folder(home: Path) -> None:
    assert parse_url("unix:~/node.sock").path == str(home / "node.sock")
    assert parse_url("unix:node.sock").path == "node.sock"
