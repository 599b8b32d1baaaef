"""`nodekit migrate`: its node file gives the same tables, contains no secret, and lists the changes."""

import re
import tomllib
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from chance import given
from hypothesis import strategies as st
from infernet_configs import SECRETS, configs, followed, full, revealed, written
from served import nodekit

from nodekit import CompositionError
from nodekit.config.formats import read_tables
from nodekit_infernet._migration import migrated
from nodekit_infernet._toml import document, inline


def at(path: str, config: Any) -> Any:
    """Return what a configuration has at a key path such as ``containers[0].bearer``."""
    return reduce(lambda value, key: value[int(key) if key.isdecimal() else key], re.findall(r"\w+", path), config)


@given(config=configs, examples=40)
def test_it_gives_the_tables_that_the_json_gives(tmp_path_factory: pytest.TempPathFactory, config: Any) -> None:
    file = written(tmp_path_factory.getbasetemp(), config)
    try:
        expected = revealed(read_tables(file).tables)
    except CompositionError as error:  # an image without a name of it, say
        with pytest.raises(CompositionError, match=re.escape(str(error))):
            migrated(file)
        return
    text, references = migrated(file)
    environment = {reference.variable: at(reference.origin, config) for reference in references}
    assert followed(tomllib.loads(text), environment) == expected


@pytest.mark.parametrize("managed", [True, False])
def test_secrets_are_references_and_stand_nowhere_in_plain_text(tmp_path: Path, managed: bool) -> None:
    text, references = migrated(written(tmp_path, full(managed=managed)))
    assert [secret for secret in SECRETS if secret in text] == []
    (reference,) = references
    assert f'{{ env = "{reference.variable}" }}' in text
    assert f"set the environment variable {reference.variable}" in text


def test_each_secret_has_a_variable_of_its_own_and_the_same_one_the_same(tmp_path: Path) -> None:
    bearers = full({"id": "a-b"}, {"id": "a_b"}, {"id": "ü"}, managed=False)
    _, references = migrated(written(tmp_path, bearers))
    assert [reference.variable for reference in references] == ["BEARER_A_B", "BEARER_A_B_2", "BEARER_CONTAINER"]
    _, references = migrated(written(tmp_path, full({"id": "a"}, {"id": "b"})))
    assert [reference.variable for reference in references] == ["DOCKER_PASSWORD"]


def test_comments_say_what_was_dropped_renamed_and_defaulted(tmp_path: Path) -> None:
    file = written(tmp_path, {**full(), "old_key": 1, "server": {}})
    comments = " ".join(re.findall(r"^# +(.*)$", migrated(file)[0], re.MULTILINE))
    for words in (
        "log.max_file_size is max_file_bytes here, log.backup_count is backups",
        'redis.host = "redis"',
        'chain.rpc_url = "http://127.0.0.1:8545"',
        "startup_wait:",
        "server.port was not set: Infernet's default",
        "server.rate_limit.num_requests was not set: Infernet's default",
        "containers[0].allowed_addresses: for a chain plugin",
        "containers[0].accepted_payments: for a chain plugin",
        'http_errors = "output"',
        'pull = "always"',
        *read_tables(file).notices,
    ):
        assert words in comments, words
    assert "log.path was not set" not in comments


# -- the command ----------------------------------------------------------------------------------


def test_the_command_writes_a_node_file_that_composes_once_its_secrets_are_set(tmp_path: Path) -> None:
    done = nodekit("migrate", written(tmp_path, full(managed=False)))
    assert done.returncode == 0
    assert done.stderr == f"set BEARER_HELLO to containers[0].bearer of {tmp_path}/config.json\n"
    (tmp_path / "node.toml").write_text(done.stdout, encoding="utf-8")
    missing = nodekit("check", tmp_path / "node.toml")
    assert (missing.returncode, "environment variable BEARER_HELLO is not set" in missing.stderr) == (3, True)
    checked = nodekit("check", tmp_path / "node.toml", BEARER_HELLO="x")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "ok (1 container)" in checked.stdout


def test_a_wrong_config_is_3_with_a_line_per_problem_and_nothing_is_written(tmp_path: Path) -> None:
    done = nodekit("migrate", file := written(tmp_path, {"server": {"port": "x"}, "startup_wait": "y"}))
    assert (done.returncode, done.stdout) == (3, "")
    assert [line.partition(": expected")[0] for line in done.stderr.splitlines()] == [
        f"{file}: server.port",
        f"{file}: startup_wait",
    ]
    assert nodekit("migrate", tmp_path / "none.json").returncode == 3
    assert nodekit("migrate").returncode == 2


# -- the writer -----------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
documents = st.recursive(
    st.dictionaries(texts, plain, max_size=4),
    lambda inner: st.dictionaries(texts, plain | st.lists(inner, max_size=3), max_size=3),
    max_leaves=8,
)


@given(tables=documents, comment=texts)
def test_whatever_is_written_reads_back_as_it_was(tables: dict[str, Any], comment: str) -> None:
    comments = {"": [comment], **{key: [comment, f"  {comment}"] for key in tables}}
    assert tomllib.loads(document(tables, comments)) == tables


@given(text=texts)
def test_a_text_is_one_line(text: str) -> None:
    assert "\n" not in inline(text)
    assert tomllib.loads(f"a = {inline(text)}") == {"a": text}


def test_comments_have_no_keys_of_providers(tmp_path: Path) -> None:
    for url, shown in (
        ("https://rpc.example/v3/s3cret", "https://rpc.example/…"),
        ("https://me:s3cret@rpc.example:8545", "https://rpc.example:8545"),
        ("https://rpc.example?key=s3cret", "https://rpc.example/…"),
        ("http://[s3cret", "…"),
    ):
        text, _ = migrated(written(tmp_path, {"chain": {"rpc_url": url}}))
        assert f'chain.rpc_url = "{shown}"' in text
        assert "s3cret" not in text
