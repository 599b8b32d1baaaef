"""The look of `nodekit doctor` at a file of keys."""

import os
from pathlib import Path
from typing import Any

import pytest
from keys import KINDS, add_key, broken

from nodekit import Configured, ExaminedFile, Finding, NodeFile
from nodekit_apikeys import ApiKeysConfig, Policy
from nodekit_apikeys.doctor import findings


def found(path: Path, **settings: Any) -> list[Finding]:
    config = ApiKeysConfig(path=path, **settings)
    file = NodeFile(path.parent / "node.toml", "node")
    return [*findings(ExaminedFile(file, (Configured("plugin", "apikeys", "plugins[0]", config),)))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_a_node_would_refuse_is_an_error_with_the_cure(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "keys"
    add_key(path, "alice")
    broken(path, kind)
    (one,) = found(path)
    assert (one.level, one.subject) == ("error", "plugins[0].path")
    assert kind in f"{one.text}; {one.cure}"
    assert one.cure


def test_a_file_that_is_missing_is_a_warning_unless_callers_need_no_key(tmp_path: Path) -> None:
    (one,) = found(tmp_path / "keys")
    assert (one.level, one.cure) == ("warning", "nodekit keys create node.toml --name NAME")
    (one,) = found(tmp_path / "keys", anonymous=Policy())
    assert one.level == "note"
    assert found(tmp_path / "no" / "keys") == [], "a missing folder is reported for each path of a file"


def test_a_file_without_a_valid_key_is_a_warning(tmp_path: Path) -> None:
    add_key(tmp_path / "keys", "alice", expires=1.0)
    (one,) = found(tmp_path / "keys")
    assert (one.level, "nobody is let in" in one.text) == ("warning", True)
    add_key(tmp_path / "keys", "bob")
    (one,) = found(tmp_path / "keys")
    assert (one.level, one.text) == ("ok", f"1 key of 2 in {tmp_path}/keys can be used")


def test_nothing_is_made(tmp_path: Path) -> None:
    add_key(tmp_path / "keys", "alice")
    before = {one: one.stat().st_mtime_ns for one in tmp_path.iterdir()}
    found(tmp_path / "keys")
    assert {one: one.stat().st_mtime_ns for one in tmp_path.iterdir()} == before
    assert os.path.exists(tmp_path / "keys")
