"""Ways to start `nodekit`, its completion, and the colours of what it prints."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from node_files import NODE_FILE, changed, write
from planted import STORE, install, nodekit

from nodekit.cli import main
from nodekit.cli.colours import colours

SCRIPT = Path(sys.executable).parent / "nodekit"
COMMAND = """
import click

@click.command("sky")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--moon")
def provider(file, moon):
    pass
"""
BASH = """
source <(_NODEKIT_COMPLETE=bash_source nodekit)
complete() { COMP_WORDS=(nodekit "$@"); COMP_CWORD=$#; COMPREPLY=(); _nodekit_completion nodekit; }
compopt() { local IFS=" "; echo "compopt $*"; }
for words in "che" "check --j" "check no" "job sub" "sk" "sky --m" "config sh" "serve --log-level w"; do
    complete $words; echo "$words: ${COMPREPLY[*]}"
done
"""


def run(*command: str, cwd: Path | None = None, **env: str) -> "subprocess.CompletedProcess[str]":
    given = {**os.environ, "PATH": f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}", **env}
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ((sys.executable, "-m", "nodekit"), "python -m nodekit"),
        ((sys.executable, "-m", "nodekit.cli"), "python -m nodekit.cli"),
        ((str(SCRIPT),), "nodekit"),
    ],
)
def test_each_way_to_start_it_does_the_same_and_is_named_in_the_usage(
    tmp_path: Path, command: tuple[str, ...], name: str
) -> None:
    file = write(tmp_path, NODE_FILE)
    done = run(*command, "check", str(file))
    assert (done.returncode, done.stdout) == (0, f"{file}: ok (2 containers)\n")
    wrong = run(*command, "check")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(f"Usage: {name} check [OPTIONS] FILE\n")


# -- completion -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_that_calls_this_command(shell: str) -> None:
    done = run("nodekit", _NODEKIT_COMPLETE=f"{shell}_source")
    assert done.returncode == 0
    assert f"_NODEKIT_COMPLETE={shell}_complete" in done.stdout
    assert "_nodekit_completion" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_files_and_those_of_packages(tmp_path: Path) -> None:
    install(tmp_path, "nodekit-sky", COMMAND, commands="sky")
    done = run("bash", "-c", BASH, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.stderr == ""
    found = [line.partition(": ")[2] for line in done.stdout.splitlines() if ": " in line]
    assert found == ["check", "--json", "", "submit", "sky", "--moon", "show", "warning"]
    assert "compopt -o default" in done.stdout  # the shell itself completes the names of files


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_the_script_for_zsh_is_valid() -> None:
    done = run("zsh", "-n", "-c", run("nodekit", _NODEKIT_COMPLETE="zsh_source").stdout)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_package_that_is_broken_breaks_no_completion(tmp_path: Path) -> None:
    install(tmp_path, "nodekit-sky", "raise RuntimeError('clouds')", commands="sky")
    done = run(
        "nodekit", PYTHONPATH=str(tmp_path), _NODEKIT_COMPLETE="bash_complete", COMP_WORDS="nodekit s", COMP_CWORD="1"
    )
    assert {"plain,serve", "plain,sky", "plain,store"} <= set(done.stdout.splitlines())
    assert "Traceback" not in done.stderr


# -- colours --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, None),
        ({"TERM": "dumb"}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"CLICOLOR_FORCE": "1"}, True),
        ({"FORCE_COLOR": "0"}, None),
        ({"CLICOLOR_FORCE": ""}, None),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
    ],
)
def test_the_environment_says_if_there_are_colours(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], expected: bool | None
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert colours() is expected


@pytest.mark.parametrize(
    ("env", "coloured"), [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)]
)
def test_what_is_no_terminal_gets_colours_only_if_they_are_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], coloured: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(main, ["doctor"], env=env)
    assert ("\x1b[32mok" in done.output) is coloured


# -- check ----------------------------------------------------------------------------------------


WARNED = '[store]\nuse = "memory"\n'


def test_what_is_legal_and_hardly_meant_is_a_warning(tmp_path: Path) -> None:
    file = write(tmp_path, WARNED)
    done = CliRunner().invoke(main, ["check", str(file)])
    assert (done.exit_code, done.stdout) == (0, f"{file}: ok (0 containers)\n")
    transports, runners = done.stderr.splitlines()
    assert transports.startswith(f"{file}: warning: transports: there is none, so the node serves nobody; add ")
    assert runners.startswith(f"{file}: warning: runners: there is no container, so every job is refused; add ")
    assert CliRunner().invoke(main, ["check", "--strict", str(file)]).exit_code == 3
    assert CliRunner().invoke(main, ["check", "--strict", str(write(tmp_path, NODE_FILE))]).exit_code == 0


@pytest.mark.parametrize("text", ["[node", changed('use = "sqlite"', 'use = "x\\u001b[2J"'), "a = nan\nb = nan"])
def test_json_of_a_file_that_does_not_compose_is_one_document(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)
    done = CliRunner().invoke(main, ["check", "--json", str(file)])
    document = json.loads(done.stdout)
    assert (done.exit_code, done.stderr, document["ok"], document["containers"]) == (3, "", False, [])
    assert {one["severity"] for one in document["problems"]} == {"error"}
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("command", ["check", "doctor"])
def test_json_is_the_only_thing_on_standard_output_also_beside_packages_that_print(
    tmp_path: Path, command: str
) -> None:
    install(tmp_path, "nodekit-loud", f"print('hello')\n{STORE}", stores="loud")
    done = nodekit(tmp_path, command, "--json", write(tmp_path, '[store]\nuse = "loud"\n'))
    assert json.loads(done.stdout)["file"] == str(tmp_path / "node.toml")
    assert "hello" in done.stderr


def test_json_of_a_file_that_composes_has_warnings_and_notes(tmp_path: Path) -> None:
    document = json.loads(CliRunner().invoke(main, ["check", "--json", str(write(tmp_path, NODE_FILE))]).stdout)
    assert document == {
        "file": str(tmp_path / "node.toml"),
        "containers": ["echo-a", "upper"],
        "ok": True,
        "problems": [],
    }
    document = json.loads(CliRunner().invoke(main, ["check", "--json", str(write(tmp_path, WARNED))]).stdout)
    assert [(one["severity"], one["where"]) for one in document["problems"]] == [
        ("warning", "transports"),
        ("warning", "runners"),
    ]
