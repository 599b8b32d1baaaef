"""Keys in the store: one set for all nodes on it, changed by commands while they run."""

import json
import subprocess
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import click.testing
import msgspec
import pytest
from keys import bearer, make_key
from served import NODEKIT

from nodekit import CompositionError, Identity, Node, Unauthorized, load_node, open_records
from nodekit.cli import main
from nodekit.testing import make_connection
from nodekit.testing.builders.components import make_node
from nodekit_apikeys import ApiKeys, Policy
from nodekit_apikeys import _plugin as plugin_module
from nodekit_apikeys._key import Key
from nodekit_apikeys._stored_keys import CHANGED, KEYS, NAMESPACE, KeyRecordProblem, change_keys, read_keys
from nodekit_memory import MemoryStore

STORED = '[[plugins]]\nuse = "apikeys"\nkeys = "store"\n'
SQLITE = f'[store]\nuse = "sqlite"\npath = "jobs.db"\n{STORED}'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "node.toml").write_text(SQLITE)
    return tmp_path / "node.toml"


def keys(*arguments: str | Path, code: int = 0) -> click.testing.Result:
    """Run a command of `nodekit keys` in this process."""
    result = click.testing.CliRunner().invoke(main, ["keys", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


async def beside(*arguments: str | Path) -> str:
    """Run a command while a node runs in this process; return what it prints."""
    result = await anyio.to_thread.run_sync(lambda: keys(*arguments))
    return result.stdout.strip()


def shown(file: Path) -> dict[str, Any]:
    return {key["name"]: key for key in json.loads(keys("list", file, "--json").stdout)}


async def is_known(node: Node, text: str) -> bool:
    try:
        found = await node.identify(make_connection(authorization=bearer(text)["Authorization"]))
    except Unauthorized:
        return False
    return isinstance(found, Identity)


async def becomes(node: Node, text: str, known: bool) -> None:
    with anyio.fail_after(60):
        while await is_known(node, text) is not known:
            await anyio.sleep(0.01)


async def put(node: Node, *added: Key) -> None:
    """Write keys as commands do."""
    records = node.storage(NAMESPACE)
    before = await read_keys(records)
    await change_keys(records, before, {name: kept.key for name, kept in before.items()} | {k.name: k for k in added})


@pytest.mark.anyio
async def test_a_running_node_takes_each_change_of_a_command(file: Path) -> None:
    early = await beside("create", file, "--name", "early")  # before there is a store
    async with load_node(file) as node:
        assert await is_known(node, early)
        text = await beside("create", file, "--name", "alice", "--scope", "submit", "--scope", "read")
        await becomes(node, text, True)
        new = await beside("rotate", file, "alice", "--keep", "0s")
        await becomes(node, new, True)
        assert not await is_known(node, text)
        await beside("revoke", file, "alice")
        await becomes(node, new, False)
        assert await is_known(node, early)
    kept = await anyio.to_thread.run_sync(shown, file)
    assert {name: key["state"] for name, key in kept.items()} == {"early": "valid", "alice": "revoked"}
    assert all(key["last_used"] for key in kept.values())
    assert [path.name for path in file.parent.iterdir() if "keys" in path.name] == []
    assert "revoked" in await beside("show", file, "alice")


def test_a_store_holds_no_secret(file: Path) -> None:
    secret = keys("create", file, "--name", "alice").stdout.strip().rpartition("_")[2]
    assert not [path for path in file.parent.glob("jobs.db*") if secret[:40].encode() in path.read_bytes()]


def test_a_name_that_is_given_out_again_has_not_been_used_yet(file: Path) -> None:
    keys("create", file, "--name", "alice")
    assert "there is a key 'alice' already" in keys("create", file, "--name", "alice", code=1).output
    first = shown(file)["alice"]["id"]

    async def use(id: str) -> None:
        async with open_records(file, NAMESPACE) as records:
            await records.put(f"used/{id}", b"1.0")

    anyio.run(use, first)
    assert shown(file)["alice"]["last_used"] == "1970-01-01T00:00:01Z"
    keys("revoke", file, "alice")
    keys("create", file, "--name", "alice", "--reuse")
    assert (shown(file)["alice"]["last_used"], shown(file)["alice"]["id"] == first) == (None, False)


def test_before_the_first_key_the_list_says_how_to_make_one(file: Path) -> None:
    assert "make one: nodekit keys create" in keys("list", file).stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_key_that_nobody_could_read_is_not_kept(file: Path) -> None:
    keys("create", file, "--name", "alice")
    before = shown(file)
    for command in (["create", file, "--name", "bob"], ["rotate", file, "alice"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run([*NODEKIT, "keys", *command], stdout=full, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, b"was not kept" in done.stderr) == (1, True), done.stderr
    assert shown(file) == before


@pytest.mark.anyio
async def test_two_commands_at_once_do_not_lose_each_others_change() -> None:
    store = MemoryStore()
    async with store:
        records = store.storage(NAMESPACE)
        alice, bob = make_key("alice")[0], make_key("bob")[0]
        first = await change_keys(records, {}, {"alice": alice})
        assert first == await read_keys(records)
        await change_keys(records, {}, {"bob": bob})  # another key is no conflict
        revoked = msgspec.structs.replace(alice, revoked=1.0)
        await change_keys(records, first, {"alice": revoked})
        with pytest.raises(KeyRecordProblem, match="'alice' is being changed by another command"):
            await change_keys(records, first, {"alice": msgspec.structs.replace(alice, expires=2.0)})
        with pytest.raises(KeyRecordProblem, match="try again"):
            await change_keys(records, {}, {"bob": make_key("bob")[0]})
        assert {name: kept.key for name, kept in (await read_keys(records)).items()} == {"alice": revoked, "bob": bob}


@pytest.mark.anyio
async def test_many_keys_are_read_in_pages() -> None:
    async with make_node(store=MemoryStore(), plugins=[ApiKeys(None)]) as node:
        made = [make_key(f"client-{number}") for number in range(450)]
        await put(node, *(key for key, _ in made))
        for _, text in (made[0], made[-1]):
            await becomes(node, text, True)
        assert len(await read_keys(node.storage(NAMESPACE))) == len(made)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "value", [b"{}", b"\xff", msgspec.json.encode(make_key("other")[0])], ids=["empty", "no text", "another key"]
)
async def test_a_record_that_is_no_key_leaves_the_last_good_keys_and_is_a_problem(value: bytes) -> None:
    async with make_node(store=MemoryStore(), plugins=[ApiKeys(None)]) as node:
        key, text = make_key("alice")
        await put(node, key)
        await becomes(node, text, True)
        records = node.storage(NAMESPACE)
        await records.put(f"{KEYS}bob", value)
        await records.put(CHANGED, b"")
        with anyio.fail_after(60):
            while not (await node.health()).reasons:
                await anyio.sleep(0.01)
        (problem,) = (await node.health()).reasons
        assert ("cannot be read" in problem, "bob" in problem) == (True, False)  # anybody may read it
        assert await is_known(node, text)
        await records.delete(f"{KEYS}bob")
        await records.put(CHANGED, b"")
        with anyio.fail_after(60):
            while (await node.health()).reasons:
                await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_a_store_without_keys_lets_nobody_in_and_says_so() -> None:
    async with make_node(store=MemoryStore(), plugins=[ApiKeys(None)]) as node:
        (problem,) = (await node.health()).reasons
        assert "nodekit keys create" in problem
        assert not await is_known(node, make_key("alice")[1])
    async with make_node(store=MemoryStore(), plugins=[ApiKeys(None, anonymous=Policy())]) as node:
        assert not (await node.health()).reasons


@pytest.mark.anyio
async def test_the_last_use_is_kept_while_a_node_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_module, "USED_SECONDS", 0.05)
    async with make_node(store=MemoryStore(), plugins=[ApiKeys(None)]) as node:
        key, text = make_key("alice")
        await put(node, key)
        await becomes(node, text, True)
        with anyio.fail_after(60):
            while await node.storage(NAMESPACE).get(f"used/{key.id}") is None:
                await anyio.sleep(0.01)


def test_keys_that_only_the_process_of_the_node_has_are_refused_with_the_cure(file: Path) -> None:
    file.write_text(f'[store]\nuse = "memory"\n{STORED}')
    said = keys("create", file, "--name", "alice", code=1).stderr
    assert ("beside its node" in said, "sqlite" in said) == (True, True)


def test_a_store_that_keeps_no_records_of_plugins_is_a_problem_of_the_node() -> None:
    class Bare:
        def __getattr__(self, name: str) -> Any:
            if name == "storage":
                raise AttributeError(name)
            return getattr(MemoryStore(), name)

    with pytest.raises(CompositionError, match="ApiKeys keeps records in the store"):
        make_node(store=Bare(), plugins=[ApiKeys(None)])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keys": "store", "path": "keys"}, "needs no file"),
        ({}, 'set keys = "store"'),
        ({"keys": "shop"}, "'shop'"),
    ],
)
def test_the_keys_are_in_one_place(file: Path, settings: dict[str, str], said: str) -> None:
    lines = "".join(f'{name} = "{value}"\n' for name, value in settings.items())
    file.write_text(f'[store]\nuse = "memory"\n[[plugins]]\nuse = "apikeys"\n{lines}')
    with pytest.raises(CompositionError, match=said):
        load_node(file)
    assert '"store"' in keys("list", file, code=3).stderr


def test_the_doctor_knows_a_store_that_no_command_can_open(file: Path) -> None:
    def found() -> str:
        return click.testing.CliRunner().invoke(main, ["doctor", str(file)]).output

    cure = "`nodekit keys` cannot make keys there"
    assert cure not in found()
    file.write_text(f'[store]\nuse = "memory"\n{STORED}')
    assert cure in found()
