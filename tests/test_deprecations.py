"""What is on its way out of the plugin API works until it is gone, and says so once; entries are planted."""

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from parts import SwitchRunner, make_node, request
from planted import install

import nodekit
from nodekit import CompositionError, Container, EmbeddedStore, JobRequest, Offer, PluginDeprecationWarning, load_node
from nodekit import _deprecated as deprecated
from nodekit._api import api_problem
from nodekit._deprecated import Deprecation
from nodekit.cli import main
from nodekit.testing import Faults
from nodekit_memory import MemoryTable

MINIMAL = '[store]\nuse = "memory"\n'


def deprecation(now: str | None = None, *, gone: bool = False) -> Deprecation:
    until = nodekit.API_VERSION if gone else f"{int(nodekit.API_VERSION.partition('.')[0]) + 1}.0"
    return Deprecation(since="1.0", until=until, cure=f"use {now}", now=now)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Any:
    def plant(table: dict[Any, Deprecation], key: Any, now: str | None = None, *, gone: bool = False) -> None:
        monkeypatch.setitem(table, key, deprecation(now, gone=gone))

    return plant


@contextmanager
def one_warning(*words: str) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    assert [one.category for one in found] == [PluginDeprecationWarning], [str(one.message) for one in found]
    text = str(found[0].message)
    for word in words:
        assert word in text, text
    assert Path(found[0].filename).parent == Path(__file__).parent, "it is about the code that composed the node"


def problem_of(*plugins: object) -> str:
    with pytest.raises(CompositionError) as failed:
        make_node(plugins=plugins)
    (problem,) = failed.value.problems
    return str(problem)


# -- hooks ----------------------------------------------------------------------------------------


class Old:
    """Knows a hook by the name that it had."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def nodekit_consider(self, request: JobRequest) -> None:
        self.seen.append(request.client)


class OldArgument:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def nodekit_admit(self, node: Any, asked: JobRequest) -> None:
        self.seen.append((node.name, asked.client))


class New:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def nodekit_admit(self, request: JobRequest, node: Any) -> None:
        self.seen.append((node.name, request.client))


class Both(New):
    async def nodekit_consider(self, request: JobRequest) -> None:
        self.seen.append("by the old name")


@pytest.mark.anyio
async def test_a_hook_that_was_renamed_is_called_under_its_old_name(plant: Any) -> None:
    plant(deprecated.HOOKS, "nodekit_consider", "nodekit_admit")
    plugin = Old()
    with one_warning("Old implements nodekit_consider", "since plugin API 1.0", "gone in 2.0", "use nodekit_admit"):
        node = make_node(plugins=[plugin, Old()])
    async with node:
        await node.submit(request(client="alice"))
    assert plugin.seen == ["alice"]


@pytest.mark.anyio
async def test_an_argument_that_was_renamed_is_given_under_its_old_name(plant: Any) -> None:
    plant(deprecated.HOOK_ARGUMENTS, ("nodekit_admit", "asked"), "request")
    plugin = OldArgument()
    with one_warning("OldArgument.nodekit_admit takes 'asked'", "use request"):
        node = make_node(plugins=[plugin], name="mine")
    async with node:
        await node.submit(request(client="alice"))
    assert plugin.seen == [("mine", "alice")]


@pytest.mark.anyio
async def test_a_plugin_of_today_is_asked_once_and_without_a_warning(plant: Any) -> None:
    plant(deprecated.HOOKS, "nodekit_consider", "nodekit_admit")
    plant(deprecated.HOOK_ARGUMENTS, ("nodekit_admit", "asked"), "request")
    new, both = New(), Both()
    async with make_node(plugins=[new, both], name="mine") as node:  # a warning would be an error here
        await node.submit(request(client="alice"))
    assert new.seen == both.seen == [("mine", "alice")]


def test_a_hook_that_stays_for_now_warns_and_is_known(plant: Any) -> None:
    plant(deprecated.HOOKS, "nodekit_admit")
    with one_warning("New implements nodekit_admit"):
        make_node(plugins=[New()])


def test_what_is_gone_is_a_problem_that_holds_the_cure(plant: Any) -> None:
    plant(deprecated.HOOKS, "nodekit_consider", "nodekit_admit", gone=True)
    plant(deprecated.HOOK_ARGUMENTS, ("nodekit_admit", "asked"), "request", gone=True)
    assert problem_of(Old()) == "plugins[0]: Old.nodekit_consider: is gone since plugin API 1.0: use nodekit_admit"
    assert "its argument 'asked' is gone since plugin API 1.0: use request" in problem_of(OldArgument())


def test_a_misspelt_argument_is_a_problem_however_many_are_deprecated(plant: Any) -> None:
    plant(deprecated.HOOK_ARGUMENTS, ("nodekit_limit", "asked"), "client")
    assert "unknown argument 'asked'; it may take: request, node" in problem_of(OldArgument())


# -- public names ---------------------------------------------------------------------------------


def importing(text: str) -> None:
    exec(compile(text, __file__, "exec"), {"__name__": "nodekit_memory.somewhere"})


@pytest.mark.parametrize("text", ["from nodekit import OldJob", "import nodekit; nodekit.OldJob"])
def test_a_public_name_that_was_renamed_is_found_under_its_old_name(plant: Any, text: str) -> None:
    plant(deprecated.NAMES, "OldJob", "Job")
    with one_warning("nodekit_memory.somewhere of nodekit-compute 0.", "uses nodekit.OldJob", "use Job"):
        importing(text)
    with pytest.warns(PluginDeprecationWarning):
        assert nodekit.OldJob is nodekit.Job  # type: ignore[attr-defined]


def test_a_public_name_that_is_gone_says_what_to_use(plant: Any) -> None:
    plant(deprecated.NAMES, "OldJob", "Job", gone=True)
    with pytest.raises(ImportError, match=r"nodekit.OldJob is gone since plugin API 1\.0: use Job"):
        importing("from nodekit import OldJob")
    with pytest.raises(AttributeError, match="use Job"):
        importing("import nodekit; nodekit.OldJob")
    assert not hasattr(nodekit, "OldJob")


def test_a_name_that_never_was_is_an_ordinary_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'Jobb'"):
        importing("from nodekit import Jobb")
    with pytest.raises(AttributeError, match="module 'nodekit' has no attribute 'Jobb'"):
        importing("import nodekit; nodekit.Jobb")


# -- arguments of Protocols -----------------------------------------------------------------------


class OlderTable(MemoryTable):
    """Written before jobs could be found by what they failed with."""

    async def find(  # type: ignore[override]
        self, *, client: Any = None, status: Any = None, idempotency_key: Any = None, after: Any = None, limit: int
    ) -> list[str]:
        return await super().find(
            client=client, status=status, idempotency_key=idempotency_key, after=after, limit=limit
        )


class OlderStore(EmbeddedStore):
    def nodekit_problems(self) -> list[str]:
        return ["still a plugin"]

    async def find(  # type: ignore[override]
        self, *, client: Any = None, status: Any = None, idempotency_key: Any = None, after: Any = None, limit: int
    ) -> list[str]:
        return await super().find(
            client=client, status=status, idempotency_key=idempotency_key, after=after, limit=limit
        )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("protocol", "store"),
    [("JobTable", lambda: EmbeddedStore(OlderTable())), ("JobStore", lambda: OlderStore(MemoryTable()))],
)
async def test_a_part_is_called_without_the_arguments_that_came_later(plant: Any, protocol: str, store: Any) -> None:
    with pytest.raises(CompositionError, match="find does not take `container`, `error`"):
        make_node(store=store())
    plant(deprecated.ADDED_ARGUMENTS, (protocol, "find", "container"))
    with pytest.raises(CompositionError, match="find does not take `error`"):
        make_node(store=store())
    plant(deprecated.ADDED_ARGUMENTS, (protocol, "find", "error"))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        node = make_node(store=store(), name="older")
    assert [re.sub(", and has to from.*", "", str(one.message)) for one in found] == [
        f"{'OlderTable' if protocol == 'JobTable' else 'OlderStore'}.find does not take {name!r}"
        for name in ("container", "error")
    ]
    async with node:
        job = await node.submit(request())
        await node.wait([job.id])
        assert await node.find(client="alice", error="not asked for", limit=10) == [job.id]
        assert list((await node.health()).reasons) == (["still a plugin"] if protocol == "JobStore" else [])


def test_a_part_that_takes_them_is_itself(plant: Any) -> None:
    plant(deprecated.ADDED_ARGUMENTS, ("JobTable", "find", "error"))
    plant(deprecated.ADDED_ARGUMENTS, ("JobStore", "find", "error"))
    table = MemoryTable()
    store = EmbeddedStore(table)
    assert store.table is table
    assert make_node(store=store)._store is store
    around = Faults().around(store)
    assert make_node(store=around)._store is around


def test_once_they_are_required_a_part_without_them_is_a_problem(plant: Any) -> None:
    plant(deprecated.ADDED_ARGUMENTS, ("JobTable", "find", "container"), gone=True)
    plant(deprecated.ADDED_ARGUMENTS, ("JobTable", "find", "error"), gone=True)
    with pytest.raises(CompositionError, match=r"OlderTable\.find does not take `container`, `error`"):
        make_node(store=EmbeddedStore(OlderTable()))


# -- keys of node files ---------------------------------------------------------------------------


def composed(folder: Path, text: str) -> Any:
    file = folder / "node.toml"
    file.write_text(text)
    return load_node(file)


NODE = "nodekit.config.NodeSettings"
BASE = "nodekit.limits.NodeLimits"
SQLITE = "nodekit_sqlite.SqliteConfig"
REMOTE = "nodekit_remote._runner.RemoteContainer"
RULES = "nodekit_guardian.GuardianRules"


def struct_named(kind: str, name: str, part: str) -> str:
    offer: Offer[Any] = nodekit.offers.load_offer(kind, name)  # type: ignore[attr-defined]
    struct = getattr(offer, part)
    return f"{struct.__module__}.{struct.__qualname__}"


def test_a_key_that_was_renamed_is_taken_under_its_old_name(plant: Any, tmp_path: Path) -> None:
    plant(deprecated.KEYS, (BASE, "parallel"), "concurrency")
    with one_warning_of_file("node.toml: node.parallel, which is deprecated", "use concurrency"):
        node = composed(tmp_path, f"[node]\nparallel = 7\n{MINIMAL}")
    assert node.limits.concurrency == 7


@contextmanager
def one_warning_of_file(*words: str) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    (text,) = [str(one.message) for one in found]
    assert all(word in text for word in words), text


def test_keys_of_parts_of_containers_and_of_rules_too(plant: Any, tmp_path: Path) -> None:
    plant(deprecated.KEYS, (struct_named("store", "sqlite", "config"), "file"), "path")
    plant(deprecated.KEYS, (struct_named("runner", "remote", "container"), "address"), "url")
    plant(deprecated.KEYS, (struct_named("plugin", "guardian", "container"), "public"), "external")
    text = """
        [store]
        use = "sqlite"
        file = "jobs.db"
        [[runners]]
        use = "remote"
        [[runners.containers]]
        id = "a"
        address = "http://127.0.0.1:1"
        public = false
        [[plugins]]
        use = "guardian"
    """
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        node = composed(tmp_path, text)
    assert sorted(str(one.message).partition(",")[0] for one in found) == [
        "node.toml: runners[0].containers[0].address",
        "node.toml: runners[0].containers[0].public",
        "node.toml: store.file",
    ]
    assert (node.containers["a"].url, dict(node.containers["a"].rules)) == ("http://127.0.0.1:1", {"external": False})


@pytest.mark.parametrize(
    ("gone", "more", "words"),
    [
        (True, "", "node.parallel: is gone since plugin API 1.0: use concurrency"),
        (False, "concurrency = 8\n", "node.parallel: is the old name of 'concurrency', which is there too; remove it"),
    ],
)
def test_an_old_key_that_cannot_be_taken_is_a_problem(
    plant: Any, tmp_path: Path, gone: bool, more: str, words: str
) -> None:
    plant(deprecated.KEYS, (BASE, "parallel"), "concurrency", gone=gone)
    with pytest.raises(CompositionError) as failed:
        composed(tmp_path, f"[node]\nparallel = 7\n{more}{MINIMAL}")
    assert [str(problem) for problem in failed.value.problems] == [words]


# -- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("check", "{file}: warning: node.toml: node.parallel, which is deprecated since plugin API 1.0"),
        ("doctor", "warning {file}: node.toml: node.parallel, which is deprecated since plugin API 1.0"),
    ],
)
def test_commands_show_warnings_as_lines(plant: Any, tmp_path: Path, command: str, line: str) -> None:
    plant(deprecated.KEYS, (BASE, "parallel"), "concurrency")
    file = tmp_path / "node.toml"
    file.write_text(f"[node]\nparallel = 7\n{MINIMAL}")
    done = CliRunner().invoke(main, [command, str(file)])
    assert [shown for shown in done.output.splitlines() if "parallel" in shown and line.format(file=file) in shown]
    assert f"{file}: ok" in done.output or "composes" in done.output


OLD_PLUGIN = """
import msgspec
from nodekit import Offer

class Config(msgspec.Struct): ...

class Pusher:
    def nodekit_watch(self, event): ...

offer = Offer(Config, lambda config, file: Pusher())
"""

PLANTED = """
import sys
from nodekit import _deprecated as d
d.HOOKS["nodekit_watch"] = d.Deprecation(since="1.0", until="2.0", cure="use nodekit_observe", now="nodekit_observe")
from nodekit.cli import main
main(sys.argv[1:])
"""


def test_a_warning_names_the_distribution_and_its_version(tmp_path: Path) -> None:
    install(tmp_path, "nodekit-pusher", OLD_PLUGIN, plugins="pusher")
    file = tmp_path / "node.toml"
    file.write_text(f'{MINIMAL}[[plugins]]\nuse = "pusher"\n')
    done = run(tmp_path, PLANTED, "check", str(file))
    assert "warning: Pusher of nodekit-pusher 1.0 implements nodekit_watch" in done.stderr
    assert done.stderr.count("deprecated") == 1


def run(folder: Path, code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, *arguments]
    env = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)


def test_an_operator_sees_a_warning_without_asking_and_once(tmp_path: Path) -> None:
    code = """
from nodekit import Node, _deprecated as d
from nodekit_memory import MemoryStore
d.HOOKS["nodekit_watch"] = d.Deprecation(since="1.0", until="2.0", cure="use nodekit_observe", now="nodekit_observe")

class Pusher:
    def nodekit_watch(self, event): ...

for _ in range(3):
    Node(store=MemoryStore(), runners=[], plugins=[Pusher(), Pusher()])
"""
    done = run(tmp_path, code)
    assert done.stderr.count("PluginDeprecationWarning: Pusher implements nodekit_watch") == 1


# -- the version for which a package was written --------------------------------------------------

MAJOR, MINOR = map(int, nodekit.API_VERSION.split("."))


@pytest.mark.parametrize(
    ("api", "words"),
    [
        (f"{MAJOR + 1}.0", ["update nodekit-compute", "older nodekit-shelf"]),
        (f"{MAJOR}.{MINOR + 1}", ["update nodekit-compute", "older nodekit-shelf"]),
        (f"{MAJOR - 1}.9", ["update nodekit-shelf"]),
        ("1", ["is no version of the plugin API", "write api="]),
        (1.0, ["is no version of the plugin API", "write api="]),
    ],
)
def test_an_offer_for_another_plugin_api_is_refused_with_what_to_update(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, api: Any, words: list[str]
) -> None:
    code = OLD_PLUGIN.replace("Pusher())", f"Pusher(), api={api!r})").replace("nodekit_watch", "nodekit_observe")
    install(tmp_path, "nodekit-shelf", code, plugins="shelf")
    file = tmp_path / "node.toml"
    file.write_text(f'{MINIMAL}[[plugins]]\nuse = "shelf"\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nodekit_shelf", raising=False)
    with pytest.raises(CompositionError) as failed:
        load_node(file)
    (problem,) = failed.value.problems
    assert problem.where == "plugins[0].use"
    assert problem.text.startswith("plugin 'shelf' of nodekit-shelf 1.0 ")
    for word in words:
        assert word in problem.text


def test_offers_for_this_and_for_older_minor_versions_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodekit._api.API_VERSION", "1.12")
    assert [api for api in ("1.0", "1.9", "1.12") if api_problem(api, "x")] == []
    assert [api for api in ("1.13", "0.9", "2.0") if not api_problem(api, "x")] == []


def test_a_package_that_does_not_say_was_written_for_the_first_version() -> None:
    assert Offer(msgspec.Struct, lambda config, file: None).api == "1.0"


def test_every_planted_entry_is_gone_again() -> None:
    tables: list[Mapping[Any, Deprecation]] = [
        *(deprecated.HOOKS, deprecated.HOOK_ARGUMENTS, deprecated.NAMES, deprecated.KEYS, deprecated.ADDED_ARGUMENTS)
    ]
    assert not any(entry.cure == "use None" for table in tables for entry in table.values())


def test_a_module_is_named_by_its_name() -> None:
    assert deprecated.plugin_of(ModuleType("my_plugin")) == "my_plugin"
    assert re.fullmatch(r"MemoryTable of nodekit-compute \S+", deprecated.plugin_of(MemoryTable()))
    assert deprecated.plugin_of(SwitchRunner(Container(id="a"))) == "SwitchRunner"
