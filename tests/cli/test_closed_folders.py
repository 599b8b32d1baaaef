"""Folders that the user may not enter, or not write in: one line with the folder and a cure, whoever looks there."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import unprivileged
from served import NODEKIT
from unprivileged import give_away, without_rights

pytestmark = pytest.mark.skipif(not unprivileged.possible, reason="only root with setpriv can give its rights up")

NODE_FILE = """
[log]
path = "{folder}/node.log"
audit = "{folder}/audit.log"
[store]
use = "sqlite"
path = "{folder}/jobs.db"
[[runners]]
use = "docker"
containers = [{{ id = "one", image = "one" }}]
[[runners]]
use = "process"
containers = [{{ id = "two", command = ["sleep", "9"], folder = "{folder}" }}]
[[transports]]
use = "asgi"
bind = "unix:{folder}/socket"
[[plugins]]
use = "apikeys"
path = "{folder}/keys"
"""
COMMANDS = ("check", "doctor", "serve", "store stats", "store check", "keys list")


@pytest.fixture
def there() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def run(home: Path, command: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a command without rights, with a home folder."""
    return subprocess.run(
        ["env", f"HOME={home}", *without_rights([*NODEKIT, *command.split(), *map(str, arguments)])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def node_file(there: Path, folder: Path) -> Path:
    file = there / "node.toml"
    file.write_text(NODE_FILE.format(folder=folder))
    return file


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_may_not_be_entered_is_named_and_nothing_is_a_traceback(there: Path, command: str) -> None:
    closed = give_away(there / "closed", 0o700)
    file = node_file(there, closed / "inside")
    done = run(closed, command, file)
    assert done.returncode in (1, 3)
    assert "Traceback" not in done.stderr
    assert "Error:" not in done.stdout + done.stderr, "no name of an exception"
    said = re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert f"this user may not enter the folder {closed}; change its owner or its mode" in said


@pytest.mark.parametrize("command", ["doctor", "containers", "logs"])
def test_a_home_that_may_not_be_entered_does_not_matter_where_no_engine_is(there: Path, command: str) -> None:
    closed, mine = give_away(there / "closed", 0o700), there / "mine"
    mine.mkdir()
    done = run(closed, command, node_file(there, mine), *(["one"] if command == "logs" else []))
    assert "Permission" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_serving_into_a_folder_that_may_not_be_written_says_so_of_the_folder(there: Path) -> None:
    folder = give_away(there / "theirs", 0o755)
    file = there / "node.toml"
    file.write_text(f'[store]\nuse = "sqlite"\npath = "{folder}/jobs.db"\n')
    for _ in range(2):  # without the file, and with one that may be written
        done = run(there, "serve", file)
        assert done.returncode == 1
        assert f"this user may not write in the folder {folder}; change its owner" in done.stderr
        (folder / "jobs.db").touch()
        (folder / "jobs.db").chmod(0o666)


def test_a_package_is_not_written_where_it_cannot_be(there: Path) -> None:
    closed, theirs = give_away(there / "closed", 0o700), give_away(there / "theirs", 0o755)
    for folder, text in (
        (closed / "inside", f"enter the folder {closed};"),
        (theirs, f"write in the folder {theirs};"),
    ):
        done = run(there, "new", "store", "--folder", folder, "acme")
        assert done.returncode == 2
        assert f"this user may not {text}" in re.sub(r"\s+", " ", done.stderr)
