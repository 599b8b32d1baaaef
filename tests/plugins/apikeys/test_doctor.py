"""The look of `nodekit doctor` at a file of keys."""

import json
import os
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from keys import KINDS, add_key, broken
from node_files import write
from planted import nodekit

from nodekit import Configured, ExaminedFile, Finding, NodeFile, Write, open_records
from nodekit.cli import main
from nodekit_apikeys import ApiKeysConfig, Policy
from nodekit_apikeys._stored_keys import CHANGED, KEYS, NAMESPACE
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


# -- keys in the store ----------------------------------------------------------------------------

STORED = '[store]\nuse = "sqlite"\npath = "jobs.db"\n[[plugins]]\nuse = "apikeys"\nkeys = "store"\n'
MAKE = "nodekit keys create node.toml --name NAME"


def found_in_store(folder: Path, anonymous: str = "") -> list[tuple[str, str, str]]:
    """Return the findings about keys: level, text and cure."""
    done = nodekit(folder, "doctor", "--json", write(folder, f"{STORED}{anonymous}"))
    found = [one for one in json.loads(done.stdout)["problems"] if one["where"] == "plugins[0].keys"]
    return [(one["severity"], one["text"], one["cure"]) for one in found]


def keys(*arguments: str | Path) -> None:
    assert CliRunner().invoke(main, ["keys", *map(str, arguments)]).exit_code == 0


def test_keys_in_the_store_are_judged_like_those_of_a_file(tmp_path: Path) -> None:
    file = write(tmp_path, STORED)
    keys("create", file, "--name", "alice")
    keys("revoke", file, "alice")
    text = "none of the 1 key in the store is valid, so nobody is let in"
    assert found_in_store(tmp_path) == [("warning", text, MAKE)]
    keys("create", file, "--name", "bob")
    assert found_in_store(tmp_path) == [("ok", "1 key of 2 in the store can be used", "")]


def test_a_store_without_keys_is_told_and_none_is_made(tmp_path: Path) -> None:
    nobody = [("warning", "there are no keys in the store, so nobody is let in", MAKE)]
    assert found_in_store(tmp_path) == nobody
    assert [path.name for path in tmp_path.iterdir()] == ["node.toml"]
    keys("list", tmp_path / "node.toml")  # makes the file
    before = {one: one.stat().st_mtime_ns for one in tmp_path.iterdir() if one.name != "node.toml"}
    assert found_in_store(tmp_path) == nobody
    (one,) = found_in_store(tmp_path, "[plugins.anonymous]\n")
    assert one[0] == "note"
    assert {one: one.stat().st_mtime_ns for one in tmp_path.iterdir() if one.name != "node.toml"} == before


def test_a_record_that_is_no_key_is_an_error_and_a_store_that_cannot_be_read_a_note(tmp_path: Path) -> None:
    file = write(tmp_path, STORED)

    async def spoil() -> None:
        async with open_records(file, NAMESPACE) as records:
            await records.batch([Write(f"{KEYS}alice", b"{}"), Write(CHANGED, b"")])

    anyio.run(spoil)
    ((level, text, cure),) = found_in_store(tmp_path)
    assert (level, "the record of the key 'alice' in the store is no key" in text, bool(cure)) == ("error", True, True)
    (tmp_path / "jobs.db").write_bytes(b"no database" * 1000)
    ((level, text, cure),) = found_in_store(tmp_path)
    assert (level, "the keys in the store cannot be read now: " in text, bool(cure)) == ("note", True, True)
