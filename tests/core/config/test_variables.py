"""References to environment variables in node files: their values are used, and never shown or read as TOML."""

from pathlib import Path
from typing import Any

import pytest
from node_files import changed, write
from planted import nodekit

from nodekit import CompositionError, load_node, read_node_file
from nodekit.config.variables import MAX_EXPANDED_BYTES

SECRET = "correct horse battery staple"


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(CompositionError) as failed:
        load_node(write(folder, text))
    return [str(problem) for problem in failed.value.problems]


def described(folder: Path, value: str) -> str:
    """Return the description of a container as a node file sets it."""
    node = load_node(write(folder, changed('"an echo"', value)))
    return node.containers["echo-a"].description


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"${NAME}"', "Ada"),
        ('"<${NAME}, ${NAME}>"', "<Ada, Ada>"),
        ('"${NONE:-Bob}"', "Bob"),
        ('"${EMPTY:-Bob}"', "Bob"),
        ('"${NAME:-Bob}"', "Ada"),
        ('"${NONE:-}"', ""),
        ('"${EMPTY}"', ""),
        ('"$${NAME}"', "${NAME}"),
        ('"$${"', "${"),
        ("'$NAME $(NAME) $$ {NAME} ${NAME}'", "$NAME $(NAME) $$ {NAME} Ada"),
        ('"${NESTED}"', "${NAME}"),
        ('"${ODD}"', '"\n[node]\nname = "x"\'\\'),
    ],
)
def test_a_reference_is_replaced_by_the_value_and_the_value_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: str
) -> None:
    odd = '"\n[node]\nname = "x"\'\\'
    for name, text in {"NAME": "Ada", "EMPTY": "", "NESTED": "${NAME}", "ODD": odd}.items():
        monkeypatch.setenv(name, text)
    monkeypatch.delenv("NONE", raising=False)
    assert described(tmp_path, value) == expected


def test_numbers_and_truth_values_are_made_where_the_key_takes_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"SLOTS": "7", "SECONDS": "2.5", "YES": "true", "MEMORY": "128MiB", "PORT": "4001"}.items():
        monkeypatch.setenv(name, text)
    text = changed("concurrency = 64", 'concurrency = "${SLOTS}"\nmemory = "${MEMORY}"\ntrace_hooks = "${YES}"')
    text = changed("timeout_seconds = 180", 'timeout_seconds = "${SECONDS}"', text)
    text = changed("external = true", 'external = "${YES}"', text)
    text = changed('"127.0.0.1:4000"', '"127.0.0.1:${PORT}"', text)
    node = load_node(write(tmp_path, text))
    assert (node.limits.concurrency, node.limits.memory_bytes) == (7, 128 << 20)
    echo = node.containers["echo-a"]
    assert (echo.timeout_seconds, echo.rules["external"]) == (2.5, True)


def test_paths_tables_lists_and_names_of_providers_may_have_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE", "sqlite")
    monkeypatch.setenv("NET", "10.0.0.0/8")
    text = changed('use = "sqlite"', 'use = "${STORE}"', changed('"::1"]', '"${NET}"]'))
    file = write(tmp_path, text)
    assert load_node(file).containers["upper"].rules["allowed_ips"] == ["127.0.0.0/8", "10.0.0.0/8"]
    assert read_node_file(file)["store"]["use"] == "sqlite"
    shown = nodekit(tmp_path, "config", "show", file)
    assert 'use = "${STORE}"' in shown.stdout
    assert "10.0.0.0" not in shown.stdout


def test_a_secret_may_be_a_reference_but_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    text = changed("timeout_seconds = 180", 'bearer = "${TOKEN}"')
    container: Any = load_node(write(tmp_path, text)).containers["echo-a"]
    assert container.bearer.reveal() == SECRET
    assert SECRET not in repr(container)
    (problem,) = problems(tmp_path, changed("timeout_seconds = 180", 'bearer = "$${TOKEN}"'))
    assert "a secret is given by reference" in problem
    (tmp_path / "token").write_text("from a file")
    monkeypatch.setenv("FOLDER", str(tmp_path))
    text = changed("timeout_seconds = 180", 'bearer = { file = "${FOLDER}/token" }')
    container = load_node(write(tmp_path, text)).containers["echo-a"]
    assert container.bearer.reveal() == "from a file"


# -- what is wrong --------------------------------------------------------------------------------


def test_each_unset_variable_is_a_problem_with_its_key_path_beside_the_other_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NONE", raising=False)
    text = changed('"an echo"', '"${NONE} ${NONE}"', changed('path = "jobs.db"', 'path = "${NONE}"'))
    text = changed("concurrency = 64", "concurrency = 0", changed('"::1"]', '"${NONE}"]', text))
    found = problems(tmp_path, text)
    assert [problem.partition(": ")[0] for problem in found] == [
        "node.concurrency",
        "store.path",
        "runners[0].containers[0].description",
        "runners[1].containers[0].allowed_ips[1]",
    ]
    assert "environment variable NONE is not set; set it, or write ${NONE:-…}" in found[1]


@pytest.mark.parametrize("value", ["${}", "${1A}", "${A-B}", "${A", "${ A }", "${A:=b}", "x ${", "${A:-${B}}"])
def test_what_is_no_reference_is_a_problem_that_says_how_to_write_it(tmp_path: Path, value: str) -> None:
    (problem,) = problems(tmp_path, changed('"an echo"', f'"{value}"'))
    assert problem.startswith("runners[0].containers[0].description: ")
    assert "write ${NAME} for an environment variable, or $${ for the text ${" in problem


def test_values_that_are_not_utf_8_or_too_much_together_are_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATIN", "caf\udce9")
    (problem,) = problems(tmp_path, changed('"an echo"', '"${LATIN}"'))
    assert "environment variable LATIN is not UTF-8" in problem
    monkeypatch.setenv("LONG", "x" * 100_000)
    (problem,) = problems(tmp_path, changed('"an echo"', f'"{"${LONG}" * 5000}"'))
    assert str(MAX_EXPANDED_BYTES) in problem


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('bind = "127.0.0.1:4000"', 'bind = "${VALUE}"'),
        ('bind = "127.0.0.1:4000"', 'bind = "unix ${VALUE}"'),
        ('url = "http://127.0.0.1:3101"', 'url = "${VALUE}"'),
        ('use = "sqlite"', 'use = "${VALUE}"'),
        ("concurrency = 64", 'concurrency = "${VALUE}"'),
        ("concurrency = 64", 'name = "${VALUE}"'),
        ("concurrency = 64", 'memory = "${VALUE}"'),
        ('"::1"]', '"${VALUE}"]'),
        ('command = ["python3", "upper.py"]', 'command = ["${VALUE}"]'),
        ('command = ["python3", "upper.py"]', 'command = ["true"]\nfolder = "${VALUE}"'),
        ("external = false", 'bearer = { file = "${VALUE}" }'),
        ("external = false", 'bearer = { env = "${VALUE}" }'),
        ("external = false", 'listen = "${VALUE}"'),
        ("external = false", 'env = { "A=B" = "${VALUE}" }'),
        ('id = "upper"', 'id = "${VALUE}\\u001b"'),
    ],
)
@pytest.mark.parametrize("value", [SECRET, f"{SECRET}\n\x1b'\"" + "y" * 300, "sh"], ids=["long", "odd", "short"])
def test_problems_show_the_reference_and_not_the_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, value: str
) -> None:
    monkeypatch.setenv("VALUE", value)
    try:
        load_node(write(tmp_path, changed(old, new)))
    except CompositionError as error:
        shown = str(error)
        assert not [word for word in ("battery", "yyyyyyyy", "'sh'") if word in shown]


@pytest.mark.parametrize("command", [["check"], ["check", "--json"], ["doctor"], ["config", "show"], ["serve"]])
def test_commands_show_the_reference(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALUE", SECRET)
    file = write(tmp_path, changed('bind = "127.0.0.1:4000"', 'bind = "${VALUE}"'))
    done = nodekit(tmp_path, *command, file)
    assert "got '${VALUE}'" in done.stdout + done.stderr
    assert "battery" not in done.stdout + done.stderr


def test_files_of_other_formats_have_no_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/elsewhere")
    file = tmp_path / "config.json"
    file.write_text('{"containers": [{"id": "aa", "image": "x", "description": "${HOME} ${"}], "forward_stats": false}')
    assert load_node(file).containers["aa"].description == "${HOME} ${"
    shown = nodekit(tmp_path, "config", "show", file)
    assert 'description = "$${HOME} $${"' in shown.stdout
    (tmp_path / "again.toml").write_text(shown.stdout)
    assert load_node(tmp_path / "again.toml").containers["aa"].description == "${HOME} ${"
    migrated = nodekit(tmp_path, "migrate", file)
    (tmp_path / "migrated.toml").write_text(migrated.stdout)
    assert load_node(tmp_path / "migrated.toml").containers["aa"].description == "${HOME} ${"


def test_what_is_shown_of_secrets_is_their_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    text = changed(
        "external = false", 'bearer = "${TOKEN}"\nenv = { A = "${TOKEN}", B = "k-${TOKEN}", C = "${NO:-key}" }'
    )
    shown = nodekit(tmp_path, "config", "show", write(tmp_path, text)).stdout
    assert 'bearer = "${TOKEN}"' in shown
    assert 'env = { A = "${TOKEN}", B = "(hidden)", C = "(hidden)" }' in shown or 'A = "${TOKEN}"' in shown
    assert "k-" not in shown
    assert ":-key" not in shown
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("changes", "where", "text"),
    [
        ({"URL": "nowhere"}, "runners[0].containers[0].url", "got '${URL}'"),
        ({"MANY": "0"}, "node.concurrency", "expected a whole number >= 1 (from ${MANY})"),
        ({"MIN": "-2"}, "store.min_free_bytes", "expected a whole number >= 0 (from ${MIN} and ${REST})"),
        ({"MANY": "many"}, "node.concurrency", "expected a whole number, got text (from ${MANY})"),
        ({"SIZE": "large"}, "node.memory", "got '${SIZE}'"),
        ({"FOLDER": "/no"}, "store.path", "there is no folder /no (from ${FOLDER}); make it"),
        ({"LEVEL": "loud"}, "log.level", "unknown value '${LEVEL}'"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], where: str, text: str
) -> None:
    fitting = {"URL": "http://127.0.0.1:1", "MANY": "3", "SIZE": "1GiB", "FOLDER": str(tmp_path), "LEVEL": "info"} | {
        "MIN": "1"
    }
    for name, value in (fitting | changes | {"REST": ""}).items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "node.toml"
    file.write_text("""
        node = { concurrency = "${MANY}", memory = "${SIZE}" }
        log = { level = "${LEVEL}${REST}" }
        store = { use = "sqlite", path = "${FOLDER}/jobs.db", min_free_bytes = "${MIN}${REST}" }
        runners = [{ use = "remote", containers = [{ id = "a", url = "${URL}" }] }]
    """)
    with pytest.raises(CompositionError) as caught:
        load_node(file)
    (problem,) = caught.value.problems
    assert (problem.where, text in problem.text) == (where, True), problem
