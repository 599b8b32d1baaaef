"""The file of keys: complete or as before, for its owner alone, and followed while the node runs."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import msgspec
import pytest
from keys import KINDS, add_key, bearer, broken, make_key

from nodekit import Connection, Forbidden, Identity, Node, NodekitError, Unauthorized
from nodekit.testing import make_connection
from nodekit.testing.builders.components import make_node
from nodekit_apikeys import ApiKeys, Policy
from nodekit_apikeys import _plugin as plugin_module
from nodekit_apikeys._file import KeyFileProblem, changing, read_keys
from nodekit_apikeys._key import Key
from nodekit_apikeys._last_use import read_used


def names(path: Path) -> list[str]:
    return [key.name for key in read_keys(path)[0]]


def revoke(path: Path, name: str) -> None:
    with changing(path) as change:
        change.keys[name] = msgspec.structs.replace(change.keys[name], revoked=1.0)
        change.save()


def presenting(text: str) -> Connection:
    return make_connection(authorization=bearer(text)["Authorization"])


async def is_known(node: Node, text: str) -> bool:
    try:
        return isinstance(await node.identify(presenting(text)), Identity)
    except Unauthorized:
        return False


async def becomes(node: Node, text: str, known: bool) -> None:
    with anyio.fail_after(60):
        while await is_known(node, text) is not known:
            await anyio.sleep(0.01)


def test_the_file_holds_no_secret_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    text = add_key(tmp_path / "keys", "alice")
    assert text.rpartition("_")[2][:40] not in (tmp_path / "keys").read_text()
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "keys.lock"]


def test_changes_made_at_once_do_not_lose_each_other(tmp_path: Path) -> None:
    threads = [threading.Thread(target=add_key, args=(tmp_path / "keys", f"client-{n}")) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names(tmp_path / "keys")) == sorted(f"client-{n}" for n in range(20))


def test_a_change_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_key(path, "alice")
    tmp_path.joinpath(".keys.new").mkdir()
    with pytest.raises(KeyFileProblem, match="cannot be written"):
        add_key(path, "bob")
    assert names(path) == ["alice"]


def test_what_a_killed_command_has_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".keys.new").write_text("half")
    add_key(tmp_path / "keys", "alice")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "keys.lock"]


def test_a_link_in_place_of_the_new_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".keys.new").symlink_to(tmp_path / "victim")
    add_key(tmp_path / "keys", "alice")
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("kind", [*KINDS, "two keys of one name"])
def test_a_file_that_is_not_as_it_must_be_is_refused_with_the_cure(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "keys"
    add_key(path, "alice")
    broken(path, kind)
    with pytest.raises(KeyFileProblem, match=kind) as failed:
        read_keys(path)
    assert str(path) in str(failed.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_key(path, "alice")
    os.chown(path, 12345, 12345)
    with pytest.raises(KeyFileProblem, match="belongs to the user 12345"):
        read_keys(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_makes_the_file_for_the_owner_of_its_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    add_key(tmp_path / "keys", "alice")
    assert (tmp_path / "keys").stat().st_uid == 12345
    add_key(tmp_path / "keys", "bob")
    assert (tmp_path / "keys").stat().st_uid == 12345


# -- a node that follows it -----------------------------------------------------------------------


@pytest.mark.anyio
async def test_new_and_revoked_keys_count_while_the_node_runs(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    async with make_node(plugins=[ApiKeys(path)]) as node:
        (problem,) = (await node.health()).reasons
        assert "nodekit keys create" in problem
        text = add_key(path, "alice")
        await becomes(node, text, True)
        assert not [one for one in (await node.health()).reasons if "keys" in one]
        revoke(path, "alice")
        await becomes(node, text, False)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [*KINDS, "is gone"])
async def test_a_file_that_breaks_leaves_the_last_good_keys_and_is_a_problem(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "keys"
    text = add_key(path, "alice")
    good = path.read_bytes()
    async with make_node(plugins=[ApiKeys(path)]) as node:
        broken(path, kind)
        with anyio.fail_after(60):
            while not any(kind in reason for reason in (await node.health()).reasons):
                await anyio.sleep(0.01)
        assert await is_known(node, text)
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(good)
        path.chmod(0o600)
        with anyio.fail_after(60):
            while (await node.health()).reasons:
                await anyio.sleep(0.01)
        assert await is_known(node, text)


@pytest.mark.anyio
async def test_a_node_does_not_start_with_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("hello")
    (tmp_path / "keys").chmod(0o600)
    with pytest.raises(NodekitError, match="is no file of keys"):
        async with make_node(plugins=[ApiKeys(tmp_path / "keys")]):
            pass


@pytest.mark.anyio
async def test_the_last_use_is_kept_apart_from_the_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_module, "USED_SECONDS", 0.05)
    path = tmp_path / "keys"
    text, other = add_key(path, "alice"), add_key(path, "bob")
    before = path.read_bytes()
    keys = {key.name: key.id for key in read_keys(path)[0]}
    async with make_node(plugins=[ApiKeys(path)]) as node:
        await is_known(node, text)
        with anyio.fail_after(60):
            while not read_used(path):
                await anyio.sleep(0.01)
        await is_known(node, other)
    assert set(read_used(path)) == {keys["alice"], keys["bob"]}
    assert path.read_bytes() == before
    assert path.with_name("keys.used").stat().st_mode & 0o777 == 0o600


@pytest.mark.anyio
async def test_who_has_no_key_is_an_address_where_the_node_lets_it_in(tmp_path: Path) -> None:
    text = add_key(tmp_path / "keys", "alice", scopes=("submit",), requests_per_minute=5)
    anonymous = Policy(scopes=("read",), containers=("echo",), requests_per_minute=1)
    async with make_node(plugins=[ApiKeys(tmp_path / "keys", anonymous=anonymous)]) as node:
        reading = msgspec.structs.replace(make_connection(), operation="GET /api/jobs")
        caller = await node.identify(reading)
        assert (caller.client, caller.operator) == ("203.0.113.7", False)
        wrong = msgspec.structs.replace(reading, headers={"authorization": "Bearer nk_wrong"})
        with pytest.raises(Unauthorized):  # who presents a key is not anonymous
            await node.identify(wrong)
        with pytest.raises(NodekitError, match="scope submit"):
            await node.identify(make_connection())
        node.limit(caller)
        with pytest.raises(NodekitError, match="at most 1 in a minute"):
            node.limit(caller)
        node.limit(await node.identify(presenting(text)))


@pytest.mark.anyio
async def test_both_secrets_of_a_key_count_after_a_rotation_and_the_old_one_ends(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key, new = make_key("alice", secrets=2)
    old_text = add_key(path, "bob")
    with changing(path) as change:
        old: Key = change.keys["bob"]
        change.keys["bob"] = msgspec.structs.replace(old, secrets=(*old.secrets, *key.secrets[:1]))
        change.keys["alice"] = key
        change.save()
    async with make_node(plugins=[ApiKeys(path)]) as node:
        assert await is_known(node, new)
        assert await is_known(node, old_text)
        with changing(path) as change:
            first, second = change.keys["bob"].secrets
            secrets = (msgspec.structs.replace(first, expires=1.0), second)
            change.keys["bob"] = msgspec.structs.replace(change.keys["bob"], secrets=secrets)
            change.save()
        await becomes(node, old_text, False)


def test_a_command_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for number in range(500):
        if number % 100 == 0:
            add_key(path, f"first-{number}")
    script = "import sys, pathlib; sys.path[:0] = sys.argv[2:]; from keys import add_key; n = 0\n"
    script += "while True:\n    add_key(pathlib.Path(sys.argv[1]), f'client-{n}'); n += 1; print(n, flush=True)"
    for _ in range(5):
        support = str(Path(__file__).parents[2] / "support")
        command = [sys.executable, "-c", script, str(path), support]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout
            done = int(process.stdout.readline())
            process.kill()
            rest = [int(line) for line in process.stdout if line.endswith(b"\n")]
        kept = names(path)
        assert len([name for name in kept if name.startswith("first-")]) == 5
        assert {f"client-{n}" for n in range(max([done, *rest]))} <= {*kept}


@pytest.mark.anyio
async def test_a_process_without_threads_keeps_its_keys_and_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = add_key(tmp_path / "keys", "alice")
    apikeys = ApiKeys(tmp_path / "keys")
    async with make_node(plugins=[apikeys]) as node:

        async def no_thread(*arguments: object, **options: object) -> object:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(anyio.to_thread, "run_sync", no_thread)
        with anyio.fail_after(60):
            while not any("cannot be followed" in problem for problem in apikeys.nodekit_problems()):
                await anyio.sleep(0.01)
        assert await is_known(node, text)
        monkeypatch.undo()


def test_a_lock_on_the_folder_which_any_user_may_take_holds_no_command_up(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        add_key(tmp_path / "keys", "alice")
    finally:
        os.close(folder)
    assert (tmp_path / "keys.lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["open to all", "a pipe", "a link"])
def test_a_lock_that_somebody_else_has_put_there_is_refused(tmp_path: Path, kind: str) -> None:
    lock = tmp_path / "keys.lock"
    match kind:
        case "open to all":
            lock.touch()
            lock.chmod(0o666)
        case "a pipe":
            os.mkfifo(lock, 0o600)
        case "a link":
            lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileProblem, match=r"keys\.lock"):
        add_key(tmp_path / "keys", "alice")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.anyio
async def test_a_pipe_in_the_place_of_the_last_uses_does_not_keep_a_node(tmp_path: Path) -> None:
    text = add_key(tmp_path / "keys", "alice")
    os.mkfifo(tmp_path / "keys.used", 0o600)
    with anyio.fail_after(60):
        async with make_node(plugins=[ApiKeys(tmp_path / "keys")]) as node:
            assert await is_known(node, text)
    assert len(read_used(tmp_path / "keys")) == 1  # it was replaced


@pytest.mark.anyio
async def test_a_caller_who_was_known_before_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with make_node(plugins=[ApiKeys(tmp_path / "keys", slow_down_seconds=600)]) as node:
        wrong = presenting(make_key("alice")[1])
        with anyio.fail_after(60):
            for _ in range(30):
                with pytest.raises(Unauthorized):
                    await node.identify(msgspec.structs.replace(wrong, repeated=True))
    assert "no access" not in caplog.text


@pytest.mark.anyio
async def test_a_key_that_is_used_from_elsewhere_stands_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = add_key(tmp_path / "keys", "alice", networks=("192.0.2.0/24",))
    async with make_node(plugins=[ApiKeys(tmp_path / "keys")]) as node:
        with pytest.raises(Forbidden):
            await node.identify(presenting(text))
    assert "alice: a key that may not be used from there" in caplog.text
