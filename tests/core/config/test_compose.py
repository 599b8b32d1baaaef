"""Node files: every mistake is one clear problem with its key path, and acquires nothing."""

import re
from pathlib import Path
from typing import Any

import pytest
from node_files import NODE_FILE, changed, write

from nodekit import CompositionError, Node, NodeFile, load_node, node_name, read_node_file
from nodekit_memory import MemoryStore


def problems(folder: Path, text: str) -> list[str]:
    """Return the problems of a node file; check that nothing was made beside it."""
    file = write(folder, text)
    with pytest.raises(CompositionError) as failed:
        load_node(file)
    assert [path.name for path in folder.iterdir()] == ["node.toml"]
    return [str(problem) for problem in failed.value.problems]


def test_the_documented_node_file_composes_and_makes_nothing(tmp_path: Path) -> None:
    node = load_node(write(tmp_path, NODE_FILE))
    assert set(node.containers) == {"echo-a", "upper"}
    assert node.limits.max_pending == 10_000
    assert node.limits.drain_seconds == 10
    assert node.containers["upper"].rules == {"external": False, "allowed_ips": ["127.0.0.0/8", "::1"]}
    assert [path.name for path in tmp_path.iterdir()] == ["node.toml"]


def test_most_of_it_has_defaults(tmp_path: Path) -> None:
    node = load_node(write(tmp_path, '[store]\nuse = "memory"\n'))
    assert (node.limits.max_pending, node.limits.drain_seconds) == (10_000, 10)


# -- the node's name ------------------------------------------------------------------------------


def name_of(file: Path) -> str:
    file.parent.mkdir(exist_ok=True)
    file.write_text('[store]\nuse = "memory"\n')
    return load_node(file).name


@pytest.mark.parametrize(
    ("file", "begins"),
    [
        ("hello.toml", "hello-"),
        ("shop/node.toml", "shop-"),
        ("Größe & Co..toml", "gr-e-co-"),
        ("...toml", "node-"),
        ("_.-x.y_.toml", "x.y-"),
        (f"{'x' * 200}.toml", "x" * 55 + "-"),
    ],
)
def test_a_name_is_made_of_the_file_and_fits(tmp_path: Path, file: str, begins: str) -> None:
    name = name_of(tmp_path / file)
    assert re.fullmatch(re.escape(begins) + "[0-9a-f]{8}", name)
    text = f'[node]\nname = "{name}"\n[store]\nuse = "memory"\n'
    assert load_node(write(tmp_path, text)).name == name


def test_no_two_files_have_one_name_and_a_file_has_one_name_however_it_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = name_of(tmp_path / "a/hello.toml"), name_of(tmp_path / "b/hello.toml")
    assert here != there
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "b")
    for path in (tmp_path / "a/hello.toml", tmp_path / "link/hello.toml", Path("../a/hello.toml")):
        assert load_node(path).name == here


def test_the_parts_are_told_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[NodeFile] = []
    monkeypatch.setattr("nodekit_memory.provider.build", lambda config, file: told.append(file) or MemoryStore())
    file = tmp_path / "hello.toml"
    default = name_of(file)
    load_node(write(tmp_path, '[node]\nname = "mine"\n[store]\nuse = "memory"\n'))
    assert told == [NodeFile(file, default), NodeFile(tmp_path / "node.toml", "mine")]


def test_the_name_is_known_without_composing(tmp_path: Path) -> None:
    file = write(tmp_path, '[node]\nname = "mine"\n[store]\nuse = "of another package"\n')
    assert node_name(read_node_file(file), file) == "mine"
    assert node_name({}, str(tmp_path / "hello.toml")) == name_of(tmp_path / "hello.toml")
    with pytest.raises(CompositionError, match=r"node\.name: expected text"):
        node_name({"node": {"name": 1}}, file)


def test_a_node_made_in_python_has_a_plain_name() -> None:
    assert Node(store=MemoryStore(), runners=[]).name == "node"


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "where", "words"),
    [
        ('use = "sqlite"', 'use = "sqlit"', "store.use", ["unknown store 'sqlit'", "memory", "did you mean 'sqlite'"]),
        ('use = "remote"', 'use = "remot"', "runners[0].use", ["unknown runner 'remot'", "did you mean 'remote'"]),
        ('use = "asgi"', 'use = "asg"', "transports[0].use", ["unknown transport", "did you mean 'asgi'"]),
        ('use = "guardian"', 'use = "guard"', "plugins[0].use", ["unknown plugin 'guard'", "guardian"]),
        ("concurrency = 64", "concurency = 64", "node.concurency", ["unknown key", "'concurrency'"]),
        ('path = "jobs.db"', 'paht = "jobs.db"', "store.paht", ["unknown key", "'path'"]),
        ('path = "jobs.db"', "", "store.path", ["missing"]),
        ('path = "jobs.db"', "path = 7", "store.path", ["path"]),
        ('bind = "127.0.0.1:4000"', 'bnd = "127.0.0.1:4000"', "transports[0].bnd", ["unknown key", "'bind'"]),
        ('bind = "127.0.0.1:4000"', 'bind = "4000"', "transports[0].bind", ["host:port"]),
        ('bind = "127.0.0.1:4000"', "bind = 4000", "transports[0].bind", ["text"]),
        ('url = "http://127.0.0.1:3101"', "", "runners[0].containers[0].url", ["missing"]),
        ('url = "http://127.0.0.1:3101"', 'url = "ftp://x"', "runners[0].containers[0].url", [""]),
        ("timeout_seconds = 180", "timeout_secnds = 1", "runners[0].containers[0].timeout_secnds", ["'timeout_s"]),
        ("timeout_seconds = 180", "timeout_seconds = -1", "runners[0].containers[0].timeout_seconds", [""]),
        ("external = true", "externl = true", "runners[0].containers[0].externl", ["unknown key", "'external'"]),
        ("external = true", 'external = "yes"', "runners[0].containers[0].external", ["true or false"]),
        ('"::1"]', '"::1/4/5"]', "runners[1].containers[0].allowed_ips", ["::1/4/5"]),
        ('id = "upper"', 'id = "echo-a"', "", ["'echo-a'", "one runner"]),
        ('id = "upper"', "", "runners[1].containers[0].id", ["missing"]),
        ('command = ["python3", "upper.py"]', "", "runners[1].containers[0].command", ["missing"]),
        ("concurrency = 64", 'concurrency = "64"', "node.concurrency", ["a whole number"]),
        ("concurrency = 64", "concurrency = 0", "node.concurrency", [""]),
        ("concurrency = 64", 'name = "Node"', "node.name", ["lower-case"]),
        ("concurrency = 64", 'name = ""', "node.name", ["lower-case"]),
        ("concurrency = 64", f'name = "{"x" * 65}"', "node.name", ["at most 64"]),
        ("drain_seconds = 10", "drain_seconds = -1", "node.drain_seconds", [""]),
        ("[node]", "[node.each_client]\nmax_pendng = 1\n[node]", "node.each_client.max_pendng", ["'max_pending'"]),
        ("[node]", '[node.clients."::1"]\nmax_priority = 9\n[node]', "node.clients", ["<= 7"]),
        ("[node]", "[node]\nqueue_timeout_seconds = 0", "node.queue_timeout_seconds", ["> 0"]),
        ("timeout_seconds = 180", "retry = 3", "runners[0].containers[0].retry", ["a table"]),
        ("timeout_seconds = 180", "retry = { atempts = 3 }", "runners[0].containers[0].retry.atempts", ["'attempts'"]),
        ("timeout_seconds = 180", "retry = { attempts = 0 }", "runners[0].containers[0].retry.attempts", [">= 1"]),
        (
            "timeout_seconds = 180",
            'retry = { failures = ["dead"] }',
            "runners[0].containers[0].retry.failures[0]",
            ["unknown value 'dead'", "died"],
        ),
        ("[[transports]]", "[[transport]]", "transport", ["unknown table", "'transports'"]),
        ("[[plugins]]\nuse", "[[plugins]]\nname", "plugins[0]", ["use ="]),
    ],
)  # fmt: skip
def test_one_mistake_is_one_problem_with_its_key_path(
    tmp_path: Path, old: str, new: str, where: str, words: list[str]
) -> None:
    first, *more = problems(tmp_path, changed(old, new))
    assert first.startswith(where)
    for word in words:
        assert word in first
    # without its guardian, the node file has rules that no plugin reads
    assert [text for text in more if ("guardian" not in old and "plugins" not in old) or "external" not in text] == []


def test_rules_of_a_guardian_that_is_not_there_are_problems_of_their_keys(tmp_path: Path) -> None:
    found = problems(tmp_path, changed('[[plugins]]\nuse = "guardian"\n', ""))
    assert [text.partition(": ")[0] for text in found] == [
        "runners[0].containers[0].external",
        "runners[1].containers[0].external",
        "runners[1].containers[0].allowed_ips",
    ]
    assert all("plugin" in text for text in found)


def test_a_missing_store_is_a_problem(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, changed('[store]\nuse = "sqlite"\npath = "jobs.db"\n', ""))
    assert problem.startswith("store: is missing")
    assert "sqlite" in problem


def test_all_tables_are_read_before_giving_up(tmp_path: Path) -> None:
    text = changed("concurrency = 64", "concurrency = 0.5")
    text = changed('use = "sqlite"', 'use = "sqlit"', text)
    text = changed('url = "http://127.0.0.1:3101"', "", text)
    text = changed('command = ["python3", "upper.py"]', "command = 1", text)
    text = changed('bind = "127.0.0.1:4000"', "bind = 1", text)
    assert sorted(problem.partition(": ")[0] for problem in problems(tmp_path, text)) == [
        "node.concurrency",
        "runners[0].containers[0].url",
        "runners[1].containers[0].command",
        "store.use",
        "transports[0].bind",
    ]


@pytest.mark.parametrize(
    "text", ["[node", "node", '[store]\nuse = "memory"\n[store]\nuse = "memory"', "\x00", "[node]\nname = 'é"]
)
def test_what_is_not_toml_is_one_problem(tmp_path: Path, text: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert "is not TOML" in problem
    assert "node.toml" in problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[store]\nuse = "memory"\n[store]\n', "the table [store] is there twice (at line 3, column 7); remove one"),
        ("[a.b]\n[a.b]\n", "the table [a.b] is there twice"),
        ("[store]\nuse = memory\n", "Invalid value (at line 2, column 7); a text needs quotes"),
        ("[store]\npath = 1\npath = 2\n", "this key is there already"),
        ('[store]\npath = "C:\\jobs"\n', "put a text with backslashes in single quotes"),
        ("[store]\npath\n", "write key = value"),
    ],
)
def test_what_is_not_toml_has_a_cure(tmp_path: Path, text: str, words: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert words in problem


def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.toml", tmp_path):
        with pytest.raises(CompositionError, match="cannot be read"):
            load_node(path)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(CompositionError, match="is not UTF-8: byte 0xe9 in line 1"):
        load_node(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    "text",
    [
        "node = 1", 'node = "x"', "node = [1]", 'store = "sqlite"', "store = 1", "store = []", 'runners = "remote"',
        "runners = [1]", "runners = [[]]", "plugins = {}", "transports = 1", "pipelines = 1",
        '[[runners]]\nuse = "remote"\ncontainers = 1', '[[runners]]\nuse = "remote"\ncontainers = [1]',
        '[[runners]]\nuse = "remote"\n[runners.containers]\nid = "x"\nurl = "http://127.0.0.1:1"',
        "[[runners]]\nuse = 1", "runners = [{}]",
    ],
)  # fmt: skip
def test_tables_of_the_wrong_shape_are_problems_and_never_crashes(tmp_path: Path, text: str) -> None:
    store = "" if text.startswith("store") else '[store]\nuse = "memory"\n'
    (problem,) = problems(tmp_path, f"{store}{text}\n" if text.startswith("[") else f"{text}\n{store}")
    assert problem.startswith(text.lstrip("[")[:4])


def with_bearer(reference: str) -> str:
    return changed("timeout_seconds = 180", f"timeout_seconds = 180\nbearer = {reference}")


def test_secrets_are_followed_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODEKIT_TEST_SECRET", "hush-hush")
    node = load_node(write(tmp_path, with_bearer('{ env = "NODEKIT_TEST_SECRET" }')))
    container: Any = node.containers["echo-a"]
    assert container.bearer.reveal() == "hush-hush"
    assert "hush" not in repr(container) + repr(node.containers)
    (tmp_path / "token").write_text("from a file\n")
    node = load_node(write(tmp_path, with_bearer('{ file = "token" }')))
    container = node.containers["echo-a"]
    assert container.bearer.reveal() == "from a file"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ('{ env = "NODEKIT_TEST_MISSING" }', "environment variable NODEKIT_TEST_MISSING is not set"),
        ('{ file = "nothing" }', "cannot read the secret"),
        ('"in plain sight"', "by reference"),
        ('{ env = "A", file = "b" }', "by reference"),
        ("{}", "by reference"),
    ],
)
def test_a_secret_that_cannot_be_had_is_one_problem_that_does_not_show_it(
    tmp_path: Path, reference: str, words: str
) -> None:
    (problem,) = problems(tmp_path, with_bearer(reference))
    assert problem.startswith("runners[0].containers[0].bearer: ")
    assert words in problem
    assert "plain sight" not in problem


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    file = write(folder, '[store]\nuse = "sqlite"\npath = "jobs.db"\n')
    for path in (file, Path("../here/node.toml")):
        async with load_node(path):
            assert (folder / "jobs.db").exists()
    assert list(elsewhere.iterdir()) == []
    async with load_node(write(folder, f'[store]\nuse = "sqlite"\npath = "{elsewhere}/abs.db"\n')):
        assert (elsewhere / "abs.db").exists()


def test_a_rule_of_containers_in_the_table_of_its_plugin_says_where_it_belongs(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[store]\nuse = "memory"\n[[plugins]]\nuse = "guardian"\nexternal = false\n')
    with pytest.raises(CompositionError) as failed:
        load_node(file)
    [problem] = failed.value.problems
    assert (problem.where, problem.text) == (
        "plugins[0].external",
        "unknown key; it is a key of [[runners.containers]]",
    )
