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


def call(*words: str) -> Result:
    return CliRunner().invoke(main, words)


@pytest.mark.parametrize(("group", "code", "words"), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_told_in_a_line_that_says_how_to_see_where_and_there_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, code: str, words: list[str]
) -> None:
    planted(group, code, tmp_path, monkeypatch)
    told, shown = call(*words), call("--traceback", *words)
    assert [line for line in told.output.splitlines() if HINT in line], told.output
    assert "Traceback" not in told.output
    assert "Traceback (most recent call last)" in shown.output
    assert "nodekit_shelf.py" in shown.output or "Missing" in shown.output
    assert shown.exit_code == told.exit_code


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
