"""The secret of a node, the proofs that it makes, and the lock of its name; without an engine."""

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nodekit_docker import NameTaken
from nodekit_docker.containers.ownership import MAKING_SECONDS, Kind, Ownership
from nodekit_docker.containers.state import CONTAINER, NODE, PROOF, STATE, Made
from nodekit_docker.containers.state_folder import StateFolder, StateUnusable, is_secret_path

SECRET = b"s" * 32
PATH = Path("/state/docker-a.key")
NOW = 1_764_000_000


def ownership(node: str = "a", secret: bytes = SECRET, **settings: Any) -> Ownership:
    return Ownership(secret, node, PATH, **settings)


def made(kind: Kind = "container", *, node: str = "a", entry: str = "one", name: str = "x", **settings: Any) -> Made:
    """Return a container that was just made, with the proof of its node."""
    proof = ownership(node, **settings).labels(kind, entry, name, NOW)
    return Made("1", name, {NODE: node, CONTAINER: entry, **proof}, NOW)


# -- proofs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["container", "network"])
def test_a_node_knows_what_it_has_made(kind: Kind) -> None:
    assert ownership().owns(kind, made(kind))
    assert made(kind).labels[STATE] == str(PATH)


def test_a_proof_holds_for_one_kind_node_entry_and_name() -> None:
    one = made()
    others = [
        made(secret=b"t" * 32),
        made("network"),
        made(node="b"),
        replace(one, name="y"),
        replace(one, labels={**one.labels, CONTAINER: "two"}),
        replace(one, labels={**one.labels, NODE: "b"}),
        replace(one, labels={**made(name="y").labels}),
        replace(one, labels={NODE: "a", CONTAINER: "one"}),
    ]
    assert [ownership().owns("container", other) for other in others] == [False] * len(others)
    assert not ownership("b").owns("container", one)


@pytest.mark.parametrize(
    "proof", ["", ":", "0:", "nan:", "1:" + "0" * 64, "\ud800:\ud800", "x" * 100_000, "1:2:3", "\0", "1e999:é"]
)
def test_what_is_no_proof_proves_nothing(proof: str) -> None:
    one = made()
    assert not ownership().owns("container", replace(one, labels={**one.labels, PROOF: proof}))


def test_a_later_copy_that_takes_the_name_of_a_container_that_is_gone_is_not_the_nodes() -> None:
    one = made()
    assert ownership().owns("container", replace(one, created_at=one.created_at + MAKING_SECONDS / 2))
    for seconds in (2 * MAKING_SECONDS, -2 * MAKING_SECONDS):
        assert not ownership().owns("container", replace(one, created_at=one.created_at + seconds))


# -- the secret -----------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "deep/state", "a")


def test_a_secret_is_made_once_and_is_its_users_alone(state: StateFolder) -> None:
    assert state.found_secret() is None
    assert not state.folder.exists()
    secret = state.secret()
    assert len(secret) == 32
    assert state.secret() == state.found_secret() == secret
    assert stat.S_IMODE(state.secret_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700
    assert os.listdir(state.folder) == [state.secret_path.name]
    assert StateFolder(state.folder, "b").secret() != secret


def test_processes_that_begin_at_once_have_one_secret(state: StateFolder) -> None:
    code = (
        "import sys; from pathlib import Path; from nodekit_docker.containers.state_folder import StateFolder;"
        "print('ready', flush=True); input(); print(StateFolder(Path(sys.argv[1]), 'a').secret().hex())"
    )
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code, str(state.folder)], **pipes) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert len({process.communicate()[0] for process in processes}) == 1


def test_a_file_system_without_links_is_enough(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert state.secret() == state.secret()
    assert os.listdir(state.folder) == [state.secret_path.name]


@pytest.mark.parametrize("text", ["", "0" * 64, "0" * 63 + "\n", "0" * 65 + "\n", "x" * 64 + "\n", "\0" * 65])
def test_a_secret_that_is_not_whole_is_an_error_and_stays(state: StateFolder, text: str) -> None:
    state.secret()
    state.secret_path.write_text(text)
    with pytest.raises(StateUnusable, match="is not whole: put it back from a backup, or remove it"):
        state.secret()
    assert state.secret_path.read_text() == text


def test_a_secret_that_others_could_read_is_closed_to_them_and_said(
    state: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    secret = state.secret()
    state.secret_path.chmod(0o644)
    assert state.found_secret() == secret
    assert stat.S_IMODE(state.secret_path.stat().st_mode) == 0o644  # who only looks changes nothing
    with caplog.at_level(logging.WARNING):
        assert state.secret() == secret
    assert stat.S_IMODE(state.secret_path.stat().st_mode) == 0o600
    assert "could be used by others (mode 044)" in caplog.text


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_no_secret(state: StateFolder, tmp_path: Path, kind: str) -> None:
    secret = StateFolder(tmp_path, "other").secret()
    assert secret
    state.folder.mkdir(parents=True)
    make: Any = {
        "link": lambda path: path.symlink_to(tmp_path / "docker-other.key"),
        "folder": lambda path: path.mkdir(),
        "pipe": os.mkfifo,
    }
    make[kind](state.secret_path)
    with pytest.raises(StateUnusable):
        state.secret()


def test_a_secret_or_a_lock_of_another_user_is_an_error(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    state.secret()
    os.close(state.hold_name("e"))
    stranger = state.secret_path.stat().st_uid + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger + 1)
    for path in state.folder.iterdir() if state.secret_path.stat().st_uid == 0 else ():
        os.chown(path, stranger, -1)  # a file of root is fine
    for use in (state.secret, lambda: state.hold_name("e")):
        with pytest.raises(StateUnusable, match="belongs to another user"):
            use()


def test_a_folder_that_cannot_be_written_is_an_error_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    state = StateFolder(tmp_path / "file", "a")
    for use in (state.secret, lambda: state.hold_name("e")):
        with pytest.raises(StateUnusable, match=r"cannot be used: .*; the runner's `state` names another folder"):
            use()


def test_a_label_names_a_secret_or_any_other_file() -> None:
    assert is_secret_path("/srv/.nodekit/docker-a.key")
    for path in ("", "docker-a.key", "/etc/shadow", "/srv/docker-.key/x", "/dev/zero"):
        assert not is_secret_path(path)


# -- the lock -------------------------------------------------------------------------------------


def test_a_name_is_held_by_one_node_on_one_engine_until_it_is_let_go(state: StateFolder) -> None:
    first = state.hold_name("engine")
    with pytest.raises(NameTaken, match="another node named 'a' runs on this machine with the same engine"):
        state.hold_name("engine")
    for other in (state.hold_name("another engine"), StateFolder(state.folder, "b").hold_name("engine")):
        os.close(other)
    os.close(first)
    os.close(state.hold_name("engine"))


def test_a_name_is_free_after_kill_9(state: StateFolder) -> None:
    code = (
        "import sys; from pathlib import Path; from nodekit_docker.containers.state_folder import StateFolder;"
        "StateFolder(Path(sys.argv[1]), 'a').hold_name('e'); print(flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(state.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(NameTaken):
            state.hold_name("e")
        process.kill()
        process.wait()
        os.close(state.hold_name("e"))


def test_a_lock_is_not_followed_to_another_file(state: StateFolder, tmp_path: Path) -> None:
    os.close(state.hold_name("e"))
    (lock,) = state.folder.iterdir()
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateUnusable):
        state.hold_name("e")
    assert not (tmp_path / "elsewhere").exists()
