"""A failure in an installed package is reported in one line; its traceback is shown on request."""

import logging
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from planted import plant

from nodekit import CompositionError, load_node
from nodekit.cli import main

IMPORTING = "def helper():\n    raise KeyError('deep inside')\n\nhelper()\n"
BUILDING = """
import msgspec
from nodekit import Provider

def helper():
    raise KeyError('deep inside')

provider = Provider(msgspec.Struct, lambda config, file: helper())
"""
CHECKING = "def helper():\n    raise KeyError('deep inside')\n\ndef provider():\n    return helper()\n"
READING = """
from nodekit import Format

def helper():
    raise KeyError('deep inside')

provider = Format(lambda path: helper())
"""
SETTINGS = """
import msgspec
from nodekit import Provider

class helper(msgspec.Struct):
    field: "Missing" = None

provider = Provider(helper, lambda config, file: None)
"""
HINT = "nodekit --traceback COMMAND shows where"

FAILURES: dict[str, tuple[str, str, list[str]]] = {
    **{f"import, {words[0]}": ("stores", IMPORTING, words) for words in (
        ["check", "node.toml"], ["doctor"], ["doctor", "node.toml"], ["config", "show", "node.toml"],
        ["config", "schema"], ["plugins", "check"], ["plugins", "show", "shelf"], ["serve", "node.toml"],
    )},
    "command": ("commands", IMPORTING, ["shelf"]),
    **{f"build, {words[0]}": ("stores", BUILDING, words) for words in (
        ["check", "node.toml"], ["doctor", "node.toml"], ["config", "show", "node.toml"], ["serve", "node.toml"],
    )},
    "settings": ("stores", SETTINGS, ["check", "node.toml"]),
    "check": ("doctor", CHECKING, ["doctor"]),
    "format": ("formats", READING, ["check", "node.shelf"]),
}  # fmt: skip


def planted(group: str, code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(folder, "nodekit-shelf", {group: "shelf"}, code)
    (folder / "node.toml").write_text('[store]\nuse = "shelf"\n')
    (folder / "node.shelf").touch()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "nodekit_shelf", raising=False)


@pytest.fixture(params=FAILURES)
def command(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    group, code, words = FAILURES[request.param]
    planted(group, code, tmp_path, monkeypatch)
    return words


def call(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_a_failure_is_told_in_a_line_that_says_how_to_see_where(command: list[str]) -> None:
    said = call(*command)
    assert [line for line in said.output.splitlines() if HINT in line], said.output
    assert "Traceback" not in said.output


def test_the_traceback_is_shown_to_whoever_asks_for_it(command: list[str]) -> None:
    said = call("--traceback", *command)
    assert "Traceback (most recent call last)" in said.output
    assert "nodekit_shelf.py" in said.output or "Missing" in said.output
    assert said.exit_code == call(*command).exit_code


def test_the_next_command_of_the_process_shows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted("stores", IMPORTING, tmp_path, monkeypatch)
    assert "Traceback" in call("--traceback", "plugins", "check").output
    assert "Traceback" not in call("plugins", "check").output


def test_a_program_finds_it_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    planted("stores", BUILDING, tmp_path, monkeypatch)
    with caplog.at_level(logging.DEBUG, "nodekit.packages"), pytest.raises(CompositionError, match="deep inside"):
        load_node(tmp_path / "node.toml")
    (record,) = (record for record in caplog.records if record.name == "nodekit.packages")
    assert record.exc_info is not None
    assert "helper()" in caplog.text
