"""All problems of a node file are found at once: of each table, provider, container and value."""

import os
import tomllib
from pathlib import Path

import pytest
from node_files import NODE_FILE, changed, write
from paths import ROOT
from planted import install

from nodekit import CompositionError, load_node
from nodekit.config.providers import ELSEWHERE

MANY = """
bind = "127.0.0.1:4000"

[node]
concurency = 3
max_pending = "x"
name = "A"
bind = "127.0.0.1:1"

[node.clients."10.0.0.7"]
max_priority = 9
size = 1

[store]
use = "docker"

[log]
path = 3
backups = -1
foo = 1

[[runners]]
use = "process"
url = "http://127.0.0.1:1"

[[runners.containers]]
id = "a"
command = ["no-such-program"]
timeout_seconds = "x"
retry = { attempts = 0, failures = ["dead", "x"], foo = 1 }

[[runners.containers]]
id = "a"
command = ["no-other-program"]
env = { A = 3, B = false }
memory = "1"
allowed_ips = ["x"]

[[runners.containers]]
id = "c"
timeout_seconds = 0

[[runners]]
use = "remote"

[[runners.containers]]
id = "d"
url = "ftp://x"
command = ["x"]

[[transports]]
use = "asgi"
bind = "4000"
server = "foo"
trusted_proxies = ["x"]
status_networks = ["y"]
external = true

[[transports]]
bind = "127.0.0.1:1"

[[plugins]]
use = "guardian"
wrong = nan

[[plugins]]
use = "ratelimit"
requests = 0
period_seconds = -1

[sqlite]
path = "jobs.db"

[[containers]]
id = "e"
"""


def problems(folder: Path, text: str) -> dict[str, str]:
    with pytest.raises(CompositionError) as failed:
        load_node(write(folder, text))
    found = {problem.where: problem.text for problem in failed.value.problems}
    assert len(found) == len(failed.value.problems)
    return found


def test_each_fault_of_a_file_with_many_is_named_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    assert list(problems(tmp_path, MANY)) == [
        "bind",
        *("node.concurency", "node.bind", "node.max_pending", "node.clients.10.0.0.7.size"),
        *("node.clients.10.0.0.7.max_priority", "node.name"),
        "store.use",
        *("log.foo", "log.path", "log.backups"),
        "runners[0].url",
        *("runners[0].containers[0].timeout_seconds", "runners[0].containers[0].retry.foo"),
        "runners[0].containers[0].retry.attempts",
        "runners[0].containers[0].retry.failures[0]",
        "runners[0].containers[0].retry.failures[1]",
        "runners[0].containers[0].command",
        "runners[0].containers[1].allowed_ips",
        *("runners[0].containers[1].env.A", "runners[0].containers[1].env.B", "runners[0].containers[1].memory"),
        *("runners[0].containers[1].command", "runners[0].containers[1].id"),
        *("runners[0].containers[2].command", "runners[0].containers[2].timeout_seconds"),
        *("runners[1].containers[0].command", "runners[1].containers[0].url"),
        *("transports[0].external", "transports[0].server", "transports[0].trusted_proxies"),
        *("transports[0].status_networks", "transports[0].bind"),
        "transports[1]",
        "plugins[0].wrong",
        *("plugins[1].requests", "plugins[1].period_seconds"),
        "sqlite",
        "containers",
    ]


WITHOUT_WHAT_IS_REQUIRED = """
[store]
use = "memory"

[[runners]]
use = "function"

[[runners.containers]]
id = "a"
call = "nothing.py:f"

[[runners.containers]]
timeout_seconds = 0
call = "nothing"

[[runners]]
use = "docker"
host = 3

[[runners.containers]]
id = "c d"
image = ""
memory = "x"
capabilities = ["x"]
registry = { username = 1 }
volumes = ["a", "b:c"]
env = { "A=" = "x" }

[[runners]]
use = "process"

[[runners.containers]]
id = "e"
memory = 1
listen = "here"
"""


def test_faults_are_found_also_where_a_required_key_is_missing_or_wrong(tmp_path: Path) -> None:
    assert list(problems(tmp_path, WITHOUT_WHAT_IS_REQUIRED)) == [
        "runners[0].containers[0].call",
        *("runners[0].containers[1].id", "runners[0].containers[1].timeout_seconds", "runners[0].containers[1].call"),
        "runners[1].host",
        *("runners[1].containers[0].image", "runners[1].containers[0].registry.password"),
        *("runners[1].containers[0].registry.username", "runners[1].containers[0].id"),
        *("runners[1].containers[0].memory", "runners[1].containers[0].capabilities"),
        *("runners[1].containers[0].env", "runners[1].containers[0].volumes[0]"),
        "runners[1].containers[0].volumes[1]",
        *("runners[2].containers[0].command", "runners[2].containers[0].listen", "runners[2].containers[0].memory"),
    ]


def test_a_key_of_containers_that_needs_a_plugin_names_it(tmp_path: Path) -> None:
    container = '[[runners]]\nuse = "process"\n[[runners.containers]]\nid = "a"\ncommand = ["a"]\nexternal = false\n'
    found = problems(tmp_path, f'[store]\nuse = "memory"\n{container}')
    cure = "it is a key of [[runners.containers]] if 'guardian' is in [[plugins]]"
    assert found["runners[0].containers[0].external"].endswith(cure)


def test_keys_in_the_wrong_place_are_told_where_they_belong(tmp_path: Path) -> None:
    found = problems(tmp_path, MANY)
    assert found["bind"] == "unknown table; it is a key of [[transports]]"
    assert found["node.bind"] == "unknown key; it is a key of [[transports]]"
    assert found["node.concurency"].endswith("did you mean 'concurrency'?")
    assert "it is a key of [[runners.containers]] of 'remote'" in found["runners[0].url"]
    assert "it is a key of [[runners.containers]]" in found["transports[0].external"]
    assert "it is a key of [[runners.containers]] of 'process'" in found["runners[1].containers[0].command"]
    assert found["sqlite"] == "unknown table; 'sqlite' is a store: write [store] with use = \"sqlite\""
    assert found["containers"] == "unknown table; containers belong to a runner: [[runners.containers]]"


def test_a_key_of_a_provider_that_the_file_does_not_name_is_told_where_it_belongs(tmp_path: Path) -> None:
    text = '[node]\nbind = "127.0.0.1:1"\n[store]\nuse = "memory"\nsynchronous = "FULL"\n'
    found = problems(tmp_path, text)
    assert found["node.bind"] == 'unknown key; it is a key of [[transports]] with use = "asgi"'
    assert found["store.synchronous"] == 'unknown key; it is a key of [store] with use = "sqlite"'
    unknown = problems(tmp_path, text.replace("bind", "nobody_has_this"))["node.nobody_has_this"]
    assert unknown.startswith("unknown key; known: concurrency, max_streams, ")
    limits = problems(tmp_path, "[node.clients.alice]\nnobody_has_this = 1\n" + text)[
        "node.clients.alice.nobody_has_this"
    ]
    assert "known: max_pending, " in limits


def test_an_unknown_plugin_hides_neither_misspelt_keys_nor_loggers(tmp_path: Path) -> None:
    text = """
[log]
level = "loud"
levels = { "nodekit.dokcer" = "debug", "nodekit.nothing.like.this" = "info" }
[store]
use = "memory"
[[runners]]
use = "remote"
containers = [{ id = "a", ulr = "http://127.0.0.1:1", exernal = true, allowed_ips = [], belongs_to_acme = 1 }]
[[plugins]]
use = "acme"
"""
    found = problems(tmp_path, text)
    assert {*found} == {
        "log.level",
        "log.levels.nodekit.dokcer",
        "log.levels.nodekit.nothing.like.this",
        "runners[0].containers[0].ulr",
        "runners[0].containers[0].exernal",
        "plugins[0].use",
    }
    assert found["runners[0].containers[0].exernal"] == "unknown key; did you mean 'external'?"
    known = text.replace('use = "acme"', 'use = "ratelimit"\nrequests = 1')
    assert "did you mean 'external'?" in problems(tmp_path, known)["runners[0].containers[0].exernal"]


@pytest.mark.parametrize("path", ["/", ".", "", "folder"])
@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("store.path", '[store]\nuse = "sqlite"\npath = "{path}"'),
        ("log.path", '[store]\nuse = "memory"\n[log]\npath = "{path}"'),
        ("log.audit", '[store]\nuse = "memory"\n[log]\naudit = "{path}"'),
        ("plugins[0].path", '[store]\nuse = "memory"\n[[plugins]]\nuse = "apikeys"\npath = "{path}"'),
    ],
)
def test_a_folder_in_place_of_a_file_is_a_problem(tmp_path: Path, where: str, text: str, path: str) -> None:
    (tmp_path / "folder").mkdir()
    found = problems(tmp_path, text.replace("{path}", path))[where]
    named = os.path.normpath(tmp_path / path)
    assert found in (f"{named} is a folder; name a file", "expected true, false, or the name of a file")


def test_tables_with_too_few_or_too_many_brackets_are_read_all_the_same(tmp_path: Path) -> None:
    text = """
[[node]]
concurency = 1
[[log]]
levle = "info"
[[store]]
use = "memoyr"
[runners]
use = "remote"
[runners.containers]
id = "a"
[transports]
use = "asgi"
bind = "127.0.0.1:65536"
"""
    found = problems(tmp_path, text)
    for name in ("node", "log", "store"):
        assert found[name] == f"there is one of these: write [{name}] in place of [[{name}]]"
    for name, where in (("runners", ""), ("runners.containers", "runners[0].containers"), ("transports", "")):
        assert found[where or name] == f"there may be several of these: write [[{name}]] in place of [{name}]"
    assert found["runners[0].containers[0].url"] == "is missing"
    assert "did you mean 'memory'?" in found["store.use"]
    assert "did you mean 'concurrency'?" in found["node.concurency"]
    assert "did you mean 'level" in found["log.levle"]
    assert found["transports[0].bind"] == "expected a port from 0 (a free one) to 65535, got '127.0.0.1:65536'"


def test_a_fault_that_follows_from_another_is_not_named(tmp_path: Path) -> None:
    text = changed('bind = "127.0.0.1:4000"', 'trusted_proxies = 7\ntrusted_proxies_http2 = ["10.0.0.1"]')
    assert list(problems(tmp_path, text)) == ["transports[0].trusted_proxies"]
    text = changed('bind = "127.0.0.1:4000"', 'http2 = true\nserver = "uvicrn"')
    assert list(problems(tmp_path, text)) == ["transports[0].server"]
    assert list(problems(tmp_path, changed('path = "jobs.db"', "path = nan"))) == ["store.path"]
    assert list(problems(tmp_path, changed('use = "sqlite"', "use = nan"))) == ["store.use"]


def test_a_size_of_memory_that_is_none_is_a_problem(tmp_path: Path) -> None:
    text = changed("concurrency = 64", 'memory = "much"')
    assert problems(tmp_path, text)["node.memory"].startswith("expected a number of bytes")
    assert "at least 64MiB" in problems(tmp_path, changed("concurrency = 64", "memory = 1"))["node.memory"]


def test_a_reference_where_no_secret_is_expected_is_told_what_to_write(tmp_path: Path) -> None:
    text = """
[node]
name = { env = "NAME" }
max_pending = { file = "most" }

[store]
use = "sqlite"
path = { env = "JOBS" }

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
trusted_proxies = ["x", "10.0.0.0/8", "y/3"]

[[runners]]
use = "remote"

[[runners.containers]]
id = "echo"
url = "http://127.0.0.1:1"
allowed_ips = ["10.0.0.1/8", "k", "::1"]

[[plugins]]
use = "guardian"
"""
    told = problems(tmp_path, text)
    assert told["node.name"].endswith('; only secrets are given by reference; write "${NAME}"')
    assert told["node.max_pending"].endswith('; only secrets are given by reference; write the value, or "${NAME}"')
    assert told["store.path"].endswith('; only secrets are given by reference; write "${JOBS}"')
    assert "'x'" in told["transports[0].trusted_proxies"]
    assert "'y/3'" in told["transports[0].trusted_proxies"]
    assert "10.0.0.1/8 has host bits set; 'k' does not" in told["runners[0].containers[0].allowed_ips"]


# -- names of providers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "where", "text"),
    [
        ("sqlite", "docker", "store.use", "'docker' is a runner, not a store: write it under [[runners]]"),
        ("asgi", "memory", "transports[0].use", "'memory' is a store, not a transport: write it under [store]"),
        ("guardian", "asgi", "plugins[0].use", "'asgi' is a transport, not a plugin: write it under [[transports]]"),
    ],
)
def test_a_name_of_another_kind_says_where_it_belongs(
    tmp_path: Path, old: str, new: str, where: str, text: str
) -> None:
    assert text in problems(tmp_path, changed(f'use = "{old}"', f'use = "{new}"'))[where]


def test_a_name_that_a_distribution_of_this_project_provides_says_which_one_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provided_here = "nodekit.config.providers.provided"
    monkeypatch.setattr(provided_here, lambda kind: {"memory": []} if kind == "store" else {})
    text = '[store]\nuse = "metrics"\n[[plugins]]\nuse = "metrics"\n[[plugins]]\nuse = "metric"\n'
    found = problems(tmp_path, text)
    assert found["plugins[0].use"] == "unknown plugin 'metrics'; known: none; pip install nodekit-metrics"
    assert "write it under [[plugins]]; pip install nodekit-metrics" in found["store.use"]
    assert "pip install" not in found["plugins[1].use"]


def test_the_distributions_that_are_named_are_those_that_there_are() -> None:
    there: dict[tuple[str, str], str] = {}
    for file in (ROOT / "contrib").glob("*/pyproject.toml"):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        for group, entries in project.get("entry-points", {}).items():
            kind = group.removeprefix("nodekit.").removesuffix("s")
            if kind in ("store", "runner", "transport", "pipeline", "plugin"):
                there |= {(kind, name): project["name"] for name in entries}
    assert dict(ELSEWHERE) == there


def test_settings_of_a_package_with_faults_of_its_own_are_one_problem(tmp_path: Path) -> None:
    code = "import msgspec\nfrom nodekit import Provider\nclass C(msgspec.Struct):\n    a: 'Nothing' = 1\n"
    install(tmp_path, "nodekit-odd", code + "provider = Provider(C, lambda config, file: None)", stores="odd")
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.syspath_prepend(str(tmp_path))
        with pytest.raises(CompositionError) as failed:
            load_node(write(tmp_path, changed('use = "sqlite"\npath = "jobs.db"', 'use = "odd"\na = 2', NODE_FILE)))
    (problem,) = failed.value.problems
    assert problem.where == "store"
    assert "settings of unknown types" in problem.text
