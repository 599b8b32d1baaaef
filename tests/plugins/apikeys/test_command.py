"""`nodekit keys`, and commands of `nodekit job` that present a key."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click.testing
import pytest
from pages import blocks, write_files
from paths import ROOT
from served import NODEKIT, nodekit, serve

from nodekit.cli import main
from nodekit_apikeys._file import read_keys
from nodekit_apikeys._key import Key
from nodekit_apikeys._text import digest_of, parse

PLUGIN = '[store]\nuse = "memory"\n[[plugins]]\nuse = "apikeys"\npath = "keys"\n'
ECHO = """
[[runners]]
use = "function"
[[runners.containers]]
id = "echo"
call = "echoing.py:echo"
[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "node.toml").write_text(PLUGIN)
    return tmp_path / "node.toml"


def keys(*arguments: str | Path, code: int = 0) -> click.testing.Result:
    """Run a command of `nodekit keys` in this process."""
    result = click.testing.CliRunner().invoke(main, ["keys", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def kept(file: Path) -> dict[str, Key]:
    return {key.name: key for key in read_keys(file.with_name("keys"))[0]}


def test_the_path_of_the_keys_follows_the_rule_of_all_paths(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    file.write_text(PLUGIN.replace('"keys"', '"~/keys"'))
    keys("create", file, "--name", "alice")
    assert (home / "keys").exists()
    file.write_text(PLUGIN.replace('"keys"', '"~nobody-of-this-name/keys"'))
    assert "there is no home folder" in keys("list", file, code=3).stderr


def test_a_key_is_printed_alone_and_once(file: Path) -> None:
    result = keys("create", file, "--name", "alice")
    text = result.stdout.removesuffix("\n")
    assert parse(text) is not None
    assert result.stderr == ""
    key = kept(file)["alice"]
    assert (key.scopes, key.secrets[0].digest, key.expires) == (("submit", "read", "cancel"), digest_of(text), None)
    for command in ("list", "show"):
        for as_json in ([], ["--json"]):
            name = ["alice"] if command == "show" else []
            shown = keys(command, file, *name, *as_json).stdout
            assert "alice" in shown
            assert digest_of(text) not in shown
            assert text.rpartition("_")[2] not in shown


def test_a_container_that_the_node_does_not_have_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    served = '[[runners]]\nuse = "remote"\n[[runners.containers]]\nid = "echo"\nurl = "http://127.0.0.1:1"\n'
    file.write_text(PLUGIN + served)
    result = keys("create", file, "--name", "a", "--container", "echo", "--container", "ecco", "--pipeline", "x")
    assert result.stderr.splitlines() == [
        f"nodekit: warning: --container: {file} has no container 'ecco'; did you mean 'echo'?",
        f"nodekit: warning: --pipeline: {file} has no pipeline 'x'; known: sequence",
    ]
    assert kept(file)["a"].containers == ("echo", "ecco")


def test_every_option_is_kept(file: Path) -> None:
    options = ["--scope", "read", "--scope", "metrics", "--group", "team", "--container", "a", "--container", "b"]
    options += ["--pipeline", "p", "--network", "10.0.0.0/8", "--requests-per-minute", "60", "--max-pending", "5"]
    options += ["--max-priority", "2", "--max-stored-bytes", "1000", "--expires", "2130-01-31"]
    made = json.loads(keys("create", file, "--name", "alice", *options, "--json").stdout)
    assert parse(made.pop("key"))
    assert made == json.loads(keys("show", file, "alice", "--json").stdout)
    expected = {"scopes": ["read", "metrics"], "group": "team", "containers": ["a", "b"], "pipelines": ["p"]}
    expected |= {"networks": ["10.0.0.0/8"], "requests_per_minute": 60, "max_pending": 5, "max_priority": 2}
    expected |= {"max_stored_bytes": 1000, "expires": "2130-01-31T00:00:00Z", "state": "valid", "last_used": None}
    assert {name: made[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--name", "10.0.0.1"], "names of callers without a key"),
        (["--name", "unix"], "names of callers without a key"),
        (["--name", "a", "--group", "local"], "names of callers without a key"),
        (["--name", "a", "--scope", "all"], "is not one of"),
        (["--name", "a", "--network", "10.0.0.1/8"], "has host bits set"),
        (["--name", "a", "--expires", "2020-01-01"], "is over"),
        (["--name", "a", "--expires", "soon"], "expected a duration"),
        (["--name", "a", "--expires", "0d"], "is over"),
        ([], "--name"),
    ],
)
def test_a_wrong_option_makes_no_key(file: Path, options: list[str], said: str) -> None:
    assert said in keys("create", file, *options, code=2).output
    assert not file.with_name("keys").exists()


def test_a_name_is_given_out_once_and_a_revoked_one_only_on_request(file: Path) -> None:
    keys("create", file, "--name", "alice")
    assert "there is a key 'alice' already" in keys("create", file, "--name", "alice", "--reuse", code=1).output
    keys("revoke", file, "alice")
    assert json.loads(keys("show", file, "alice", "--json").stdout)["state"] == "revoked"
    assert "--reuse" in keys("create", file, "--name", "alice", code=1).output
    assert "is revoked" in keys("rotate", file, "alice", code=1).output
    before = kept(file)["alice"]
    keys("revoke", file, "alice")
    assert kept(file)["alice"] == before
    keys("create", file, "--name", "alice", "--reuse")
    assert kept(file)["alice"].revoked is None
    assert kept(file)["alice"].id != before.id


def test_a_rotation_keeps_the_secret_from_before_for_a_while(file: Path) -> None:
    first = keys("create", file, "--name", "alice").stdout.strip()
    second = keys("rotate", file, "alice").stdout.strip()
    old, new = kept(file)["alice"].secrets
    assert (old.digest, new.digest, new.expires) == (digest_of(first), digest_of(second), None)
    assert old.expires is not None
    third = keys("rotate", file, "alice", "--keep", "0s").stdout.strip()
    assert [one.digest for one in kept(file)["alice"].secrets] == [digest_of(third)]


def test_a_name_that_is_not_there_is_said_with_the_nearest_one(file: Path) -> None:
    keys("create", file, "--name", "alice")
    for command in ("show", "revoke", "rotate"):
        assert "did you mean 'alice'?" in keys(command, file, "alicia", code=1).output


def test_a_node_file_without_keys_is_said_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text('[store]\nuse = "memory"\n')
    assert 'use = "apikeys"' in keys("list", tmp_path / "node.toml", code=3).output
    (tmp_path / "node.toml").write_text('[store]\nuse = "memory"\n[[plugins]]\nuse = "apikeys"\n')
    assert 'path = "keys"' in keys("create", tmp_path / "node.toml", "--name", "a", code=3).output
    assert "cannot be read" in keys("list", tmp_path / "none.toml", code=3).output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_key_that_nobody_could_read_is_not_kept(file: Path) -> None:
    keys("create", file, "--name", "alice")
    before = kept(file)
    for command in (["create", file, "--name", "bob"], ["rotate", file, "alice"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run([*NODEKIT, "keys", *command], stdout=full, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 1
        assert b"could not be printed, and was not kept" in done.stderr
        assert b"Traceback" not in done.stderr
        assert kept(file) == before


def test_a_folder_that_is_not_there_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(PLUGIN.replace('"keys"', '"none/keys"'))
    assert "cannot be written" in keys("create", tmp_path / "node.toml", "--name", "a", code=1).output


# -- commands that present a key ------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_commands_take_a_key_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(PLUGIN + ECHO)
    (tmp_path / "echoing.py").write_text("async def echo(data):\n    return data\n")
    alice = keys("create", file, "--name", "alice").stdout
    operator = keys("create", file, "--name", "ops", "--scope", "operate").stdout
    (tmp_path / "alice.key").write_text(alice)

    def job(*arguments: str, code: int = 0, **env: str) -> Any:
        done = nodekit("job", *arguments, NODEKIT_URL=str(served.url), **env)
        assert done.returncode == code, (done.stdout, done.stderr)
        for text in (alice, operator):
            assert text.strip() not in done.stdout + done.stderr
        return done

    async with serve(file) as (served, _):
        assert "--key-file or NODEKIT_API_KEY" in job("list", code=1).stderr
        refused = job("list", NODEKIT_API_KEY=f"{alice.strip()}x", code=1).stderr
        assert ("a key was given" in refused, "give one" in refused) == (True, False)
        id = job("submit", "echo", "--key-file", str(tmp_path / "alice.key")).stdout.strip()
        assert job("stream", "echo", NODEKIT_API_KEY=alice).stdout == "{}"
        assert id in job("list", NODEKIT_API_KEY=alice).stdout
        assert "only an operator" in job("list", "--all", NODEKIT_API_KEY=alice, code=1).stderr
        assert job("list", NODEKIT_API_KEY=operator).stdout == ""
        for whose in (["--all"], ["--client", "alice"]):
            head, *rows = (line.split() for line in job("list", *whose, NODEKIT_API_KEY=operator).stdout.splitlines())
            place = head.index("client") + 1  # the age is two words
            assert [(row[0] == id, row[place]) for row in rows] == [(False, "alice"), (True, "alice")]
        assert "client    alice" in job("show", id, NODEKIT_API_KEY=operator).stdout
        both = job("show", id, "--key-file", str(tmp_path / "alice.key"), NODEKIT_API_KEY=operator)
        assert "client" not in both.stdout  # the option comes before the environment
        assert alice.strip() not in served.log


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_commands_of_the_page_about_sharing_a_node_do_what_it_says(tmp_path: Path) -> None:
    page = ROOT / "docs" / "how-to" / "share-a-node.md"
    write_files(page, tmp_path)
    file = tmp_path / "node.toml"
    file.write_text(file.read_text().replace("127.0.0.1:4000", "127.0.0.1:0"))
    make, *scripts = [text for language, text in blocks(page) if language == "sh"]

    def run(script: str, url: str = "") -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = ["sh", "-eu", "-c", script.replace("http://127.0.0.1:4000", url)]
        env = {**os.environ, "PATH": path, "NODEKIT_URL": url}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(make)
    assert set(kept(file)) == {"alice", "nightly", "ops", "prometheus"}
    async with serve(file) as (served, _):
        first, second, third, fourth = [run(script, str(served.url)) for script in scripts]
        log = served.log
    text, _, row = first.splitlines()
    id = row.split()[0]
    assert json.loads(text) == {"text": "HELLO"}
    assert '"containers"' in second
    assert id in third
    assert f"ops as operator: read of job {id} of client alice" in log
    assert "revoked" in fourth


@pytest.mark.parametrize("content", ["", "\n", "two\nlines", "ä", "a" * 100_000])
def test_a_file_that_holds_no_key_is_a_wrong_command_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)
    for arguments, env in ((["--key-file", str(tmp_path / "key")], {}), ([], {"NODEKIT_API_KEY": content})):
        if not arguments and not content.strip():
            continue
        result = click.testing.CliRunner(env=env).invoke(main, ["job", "list", *arguments])
        assert (result.exit_code, "holds no key" in result.output) == (2, True), result.output
        assert "two" not in result.output


def test_a_key_file_that_is_not_there_is_a_wrong_command_line(tmp_path: Path) -> None:
    result = click.testing.CliRunner().invoke(main, ["job", "list", "--key-file", str(tmp_path / "none")])
    assert (result.exit_code, "cannot be read" in result.output) == (2, True)
