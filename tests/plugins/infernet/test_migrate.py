"""`nodekit migrate`: its node file gives the same tables, contains no secret, and lists the changes."""

import os
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chance import given
from hypothesis import strategies as st
from infernet_configs import SECRETS, configs, followed, full, revealed, without, written
from served import NODEKIT, nodekit

from nodekit import CompositionError, load_node
from nodekit.config.formats import read_tables
from nodekit_infernet._migration import migrated, write
from nodekit_infernet._toml import document, inline

ENV = {"PASSWORD": "abracadabra", "TOKEN": "open sesame"}


def refusals(read: Callable[[], object]) -> set[str]:
    """Return the places of all problems."""
    try:
        read()
    except CompositionError as error:
        return {problem.where for problem in error.problems}
    return set()


@given(config=configs, examples=40)
def test_it_gives_the_tables_that_the_json_gives_or_refuses_what_a_check_refuses(
    tmp_path_factory: pytest.TempPathFactory, config: Any
) -> None:
    file = written(tmp_path_factory.getbasetemp(), config)
    if refused := refusals(lambda: load_node(file)):
        assert refused <= refusals(lambda: migrated(file))  # and problems that are behind these, too
        return
    expected = revealed(read_tables(file).tables)
    for folder in (None, "folder"):
        made = migrated(file, folder)
        environment = {reference.variable: reference.secret.reveal() for reference in made.references}
        files = {name: secret.reveal() for name, secret in made.files.items()}
        assert followed(tomllib.loads(made.text), environment, files) == expected
        assert all(text == text.strip() for text in files.values())


@pytest.mark.parametrize("folder", [None, "folder"])
@pytest.mark.parametrize("managed", [True, False])
def test_secrets_are_references_and_stand_nowhere_in_plain_text(
    tmp_path: Path, managed: bool, folder: str | None
) -> None:
    made = migrated(written(tmp_path, full({"env": ENV}, managed=managed)), folder)
    assert [secret for secret in (*SECRETS, *ENV.values()) if secret in made.text] == []
    variables = ["DOCKER_PASSWORD", *(f"ENV_HELLO_{name}" for name in ENV)] if managed else ["BEARER_HELLO"]
    variables.append("REDIS_URL")
    assert [one.variable for one in made.references] == ([] if folder else variables)
    assert list(made.files) == ([f"folder/{name}" for name in variables] if folder else [])
    for name in variables:
        assert (f'{{ file = "folder/{name}" }}' if folder else f'{{ env = "{name}" }}') in made.text
        assert folder or f"set the environment variable {name}" in made.text


def test_credentials_that_nothing_uses_are_named(tmp_path: Path) -> None:
    def text(config: Any) -> str:
        return migrated(written(tmp_path, config)).text.replace("\n# ", " ")

    said = "docker: the credentials are not used and not written, as this node starts no container from an image"
    assert f"{said} (manage_containers is false); whoever" in text(full({}, managed=False))
    assert said not in text(full({}, managed=True))
    remote = {"containers": [{"id": "a", "url": "http://127.0.0.1:1"}], "docker": {"username": "me", "password": "x"}}
    assert f"{said}; whoever" in text(remote)
    for half in ({"username": "me", "password": ""}, {"username": "", "password": "x"}):
        said = "docker: the credentials are not used, as one of username and password is empty."
        assert said in text({"containers": [{"id": "hello", "image": "hello"}], "docker": half})


def test_what_a_file_would_change_stays_a_variable(tmp_path: Path) -> None:
    values = {"SPACE": " x ", "LONG": "x" * 70_000, "FINE": "x\ny", "EMPTY": ""}
    made = migrated(written(tmp_path, full({"env": values})), "folder")
    assert [one.variable for one in made.references] == ["ENV_HELLO_LONG", "ENV_HELLO_SPACE"]
    assert list(made.files) == ["folder/DOCKER_PASSWORD", "folder/ENV_HELLO_FINE", "folder/REDIS_URL"]
    assert 'EMPTY = ""' in made.text


def test_what_may_hold_a_secret_and_is_copied_is_named(tmp_path: Path) -> None:
    def copied(managed: bool, **container: Any) -> list[str]:
        return list(migrated(written(tmp_path, full(container, managed=managed))).copied)

    assert copied(True) == ["containers[0].command"]
    assert copied(True, command="") == []
    assert copied(False) == []
    for url in ("https://host/v3/k3y", "http://host/k3y"):
        assert copied(False, url=url) == ["containers[0].url"]
    for url in ("https://host", "http://host:3000/", "http://[::1]:3000"):
        assert copied(False, url=url) == []


def test_each_secret_has_a_variable_of_its_own_and_the_same_one_the_same(tmp_path: Path) -> None:
    bearers = full({"id": "a-b"}, {"id": "a_b"}, {"id": "ü"}, managed=False, redis=None)
    references = migrated(written(tmp_path, bearers)).references
    assert [reference.variable for reference in references] == ["BEARER_A_B", "BEARER_A_B_2", "BEARER_CONTAINER"]
    entries = {"id": "aa", "env": {"x.y": "1", "x_y": 1}}, {"id": "bb", "env": {"ü": True}}
    references = migrated(written(tmp_path, full(*entries, redis=None))).references
    assert [(one.variable, one.secret.reveal()) for one in references[1:]] == [
        ("ENV_AA_X_Y", "1"),
        ("ENV_AA_X_Y_2", "1"),
        ("ENV_BB_VALUE", "True"),
    ]
    assert references[0].variable == "DOCKER_PASSWORD"


def test_comments_say_what_was_dropped_renamed_and_defaulted(tmp_path: Path) -> None:
    file = written(tmp_path, {**full(), "old_key": 1, "server": {}})
    comments = " ".join(re.findall(r"^# +(.*)$", migrated(file).text, re.MULTILINE))
    for words in (
        "log.max_file_size is max_file_bytes here, log.backup_count is backups",
        "redis: jobs are kept there",
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
    done = nodekit("migrate", written(tmp_path, without(full(managed=False), "chain")))
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"set BEARER_HELLO to containers[0].bearer of {tmp_path}/config.json",
        f"set REDIS_URL to redis of {tmp_path}/config.json",
    ]
    (tmp_path / "node.toml").write_text(done.stdout, encoding="utf-8")
    missing = nodekit("check", tmp_path / "node.toml")
    assert (missing.returncode, "environment variable BEARER_HELLO is not set" in missing.stderr) == (3, True)
    checked = nodekit("check", tmp_path / "node.toml", BEARER_HELLO="x", REDIS_URL="redis://redis")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "ok (1 container)" in checked.stdout


def test_the_command_writes_files_that_only_the_owner_reads_and_overwrites_none(tmp_path: Path) -> None:
    file, output = written(tmp_path, without(full(managed=False), "chain")), tmp_path / "new.toml"
    before = os.umask(0)
    try:
        done = nodekit("migrate", file, "--output", output)
    finally:
        os.umask(before)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    modes = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    del modes["config.json"]
    secrets = {f"new.secrets/{name}": 0o600 for name in ("BEARER_HELLO", "REDIS_URL")}
    assert modes == {"new.toml": 0o600, "new.secrets": 0o700, **secrets}
    assert "ok (1 container)" in nodekit("check", output).stdout
    again = nodekit("migrate", file, "--output", output)
    assert (again.returncode, again.stdout) == (1, "")
    assert f"{output} cannot be written: File exists" in again.stderr
    nowhere = nodekit("migrate", file, "--output", tmp_path / "none" / "new.toml")
    assert (nowhere.returncode, "No such file or directory" in nowhere.stderr) == (1, True)


def test_the_command_says_what_to_look_at(tmp_path: Path) -> None:
    done = nodekit("migrate", file := written(tmp_path, full({"env": {"a\x1b": "b"}})))
    assert f"look at containers[0].command of {file}: it is written as it was" in done.stderr
    assert f"set ENV_HELLO_A to containers[0].env.a\\x1b of {file}" in done.stderr
    assert all(line.isprintable() for line in done.stderr.splitlines())


def test_a_wrong_config_is_3_with_a_line_per_problem_and_nothing_is_written(tmp_path: Path) -> None:
    done = nodekit("migrate", file := written(tmp_path, {"server": {"port": "x"}, "startup_wait": "y"}))
    assert (done.returncode, done.stdout) == (3, "")
    assert [line.partition(": expected")[0] for line in done.stderr.splitlines()] == [
        f"{file}: server.port",
        f"{file}: startup_wait",
    ]
    assert nodekit("migrate", tmp_path / "none.json").returncode == 3
    assert nodekit("migrate").returncode == 2


@pytest.mark.parametrize(
    ("container", "where"),
    [
        ({"id": "a b"}, "containers[0].id"),
        ({"volumes": ["data"]}, "containers[0].volumes[0]"),
        ({"env": {"a=b": 1}}, "containers[0].env"),
    ],
)
def test_what_a_check_refuses_is_not_written(tmp_path: Path, container: dict[str, Any], where: str) -> None:
    file = written(tmp_path, full(container))
    for options in ((), ("--output", tmp_path / "node.toml")):
        done = nodekit("migrate", file, *options)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith(f"{file}: {where}")
    assert os.listdir(tmp_path) == ["config.json"]


def test_the_check_leaves_no_secret_on_a_disk_or_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen = list[str]()
    monkeypatch.setattr("nodekit_infernet._checking.load_node", lambda file: seen.append(file.read_text()))
    before = dict(os.environ)
    migrated(written(tmp_path, full({"env": {**ENV, "NUL": "a\0b"}})))
    assert [secret for secret in (*SECRETS, *ENV.values()) if secret in seen[0]] == []
    assert os.listdir(tmp_path) == ["config.json"]
    assert dict(os.environ) == before


def test_a_name_that_no_command_reads_as_a_node_file_is_refused(tmp_path: Path) -> None:
    done = nodekit("migrate", written(tmp_path, full()), "--output", tmp_path / "node.json")
    assert (done.returncode, "ends in .toml" in done.stderr) == (2, True)


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """The last secret is there already, and so the others are removed again."""
    made = migrated(written(tmp_path, full({"env": ENV})), "new.secrets")
    last = [*made.files][-1]
    (tmp_path / "new.secrets").mkdir()
    (tmp_path / last).write_text("old")
    with pytest.raises(FileExistsError):
        write(made, tmp_path / "new.toml")
    assert [path.name for path in (tmp_path / "new.secrets").iterdir()] == [Path(last).name]
    assert (tmp_path / last).read_text() == "old"
    assert not (tmp_path / "new.toml").exists()


def test_a_full_disk_behind_standard_output_is_told(tmp_path: Path) -> None:
    file = written(tmp_path, full(managed=False))
    with open("/dev/full", "wb") as out:
        done = subprocess.run(
            [*NODEKIT, "migrate", str(file)], stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith("nodekit: standard output cannot be written: No space left on device")


def test_another_folder_for_the_node_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    done = nodekit("migrate", written(tmp_path, full(managed=False)), "--output", tmp_path / "other" / "node.toml")
    assert (done.returncode, "to keep jobs.db and the log, move them there" in done.stderr) == (0, True)


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
        text = migrated(written(tmp_path, {"chain": {"rpc_url": url}})).text
        assert f'chain.rpc_url = "{shown}"' in text
        assert "s3cret" not in text
