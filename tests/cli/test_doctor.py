"""`nodekit doctor`: what it finds on real machines, in fake packages, and in checks that misbehave."""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from node_files import NODE_FILE, changed, write
from planted import STORE, install, nodekit
from served import NODEKIT

from nodekit import Finding, NodeLimits
from nodekit.cli.doctor.checks import examine
from nodekit.cli.doctor.machine import LITTLE_SPACE_BYTES, NO_SPACE_BYTES, clock, files_finding, space_finding
from nodekit.cli.doctor.node_file import concurrency, memory

LEVELS = ("ok", "note", "warning", "error")
FOREIGN = """
import sys
from nodekit import Finding

def provider():
    yield Finding("note", "moon", "it is full", cure="draw the curtains")
    yield Finding("warning", "tide", "it is \\x1b[31mhigh\\n and rising")
"""


def doctor(folder: Path, *arguments: Path) -> "subprocess.CompletedProcess[str]":
    return nodekit(folder, "doctor", *arguments)


def doctor_elsewhere(prepared: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the command as a process, after a line of a shell."""
    command = ["sh", "-c", f'{prepared} && exec "$@"', "sh", *NODEKIT, "doctor"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def findings(done: "subprocess.CompletedProcess[str]") -> dict[str, tuple[str, str]]:
    """Return level and text by subject; check that the exit code says if there is an error."""
    assert done.stderr == ""
    found = {}
    for line in done.stdout.splitlines():
        level, _, rest = line.partition(" ")
        assert level in LEVELS, line
        subject, _, text = rest.strip().partition(": ")
        found[subject] = (level, text)
    assert done.returncode == any(level == "error" for level, _ in found.values())
    return found


def installs_nodekit(folder: Path, distribution: str) -> None:
    info = folder / f"{distribution}-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 9.9\n")
    (info / "RECORD").write_text("nodekit/left_over.txt,,\n")
    (folder / "nodekit").mkdir()  # without an __init__.py, it hides no package
    (folder / "nodekit" / "left_over.txt").touch()  # from Python 3.12 on, missing files are not listed


# -- what it finds --------------------------------------------------------------------------------


def test_what_is_well_is_a_line_each_without_colour_where_nobody_looks(tmp_path: Path) -> None:
    done = doctor(tmp_path)
    found = findings(done)
    assert "\x1b" not in done.stdout
    assert found["Python"] == ("ok", f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}")
    assert found["nodekit"][0] == "ok"
    assert found["current folder"][1].startswith(f"{tmp_path} has ")
    assert "temporary folder" in found
    assert {"memory", "sqlite"} <= set(re.findall(r"\w+", found["providers"][1].partition(";")[0]))
    assert not [name for name in found if name.startswith(("store ", "runner ", "transport ", "plugin "))]


def test_a_terminal_gets_colours() -> None:
    terminal, ours = os.openpty()
    with subprocess.Popen([*NODEKIT, "doctor"], stdout=ours, stdin=subprocess.DEVNULL) as process:
        os.close(ours)
        first = os.read(terminal, 100)
        while True:
            try:
                if not os.read(terminal, 4096):
                    break
            except OSError:  # Linux reports the end of the terminal like this
                break
        process.wait(60)
    os.close(terminal)
    assert first.startswith(b"\x1b[32mok")


def test_few_open_files_are_a_warning_that_says_how_to_get_more(tmp_path: Path) -> None:
    level, text = findings(doctor_elsewhere("ulimit -Sn 128; ulimit -Hn 512", tmp_path))["open files"]
    assert level == "warning"
    assert "at most 128 at once" in text
    assert "ulimit -n 512" in text


def test_another_distribution_that_installs_nodekit_is_an_error(tmp_path: Path) -> None:
    installs_nodekit(tmp_path, "nodekit")
    level, text = findings(doctor(tmp_path))["packages"]
    assert level == "error"
    assert "'nodekit' installs a package `nodekit` too" in text
    assert "pip uninstall nodekit" in text


def test_the_distribution_that_is_ours_is_no_other_however_it_is_written(tmp_path: Path) -> None:
    installs_nodekit(tmp_path, "Nodekit_Compute")
    assert "packages" not in findings(doctor(tmp_path))


def test_a_name_that_two_distributions_claim_is_an_error(tmp_path: Path) -> None:
    install(tmp_path, "nodekit-shelf", STORE, stores="shelf")
    install(tmp_path, "nodekit-other", STORE, stores="shelf")
    level, text = findings(doctor(tmp_path))["store 'shelf'"]
    assert level == "error"
    assert "nodekit-other 1.0, nodekit-shelf 1.0" in text
    assert "uninstall all but one" in text


def test_packages_add_findings_a_line_each(tmp_path: Path) -> None:
    install(tmp_path, "nodekit-sky", FOREIGN, doctor="sky")
    found = findings(doctor(tmp_path))
    assert found["moon"] == ("note", "it is full; draw the curtains")
    assert found["tide"] == ("warning", "it is [31mhigh and rising")


def test_a_check_of_a_package_that_cannot_be_imported_is_an_error_that_names_the_package(tmp_path: Path) -> None:
    install(tmp_path, "nodekit-sky", "raise RuntimeError('clouds')", doctor="sky")
    install(tmp_path, "nodekit-zoo", FOREIGN, doctor="zoo")
    found = findings(doctor(tmp_path))
    level, text = found["sky of nodekit-sky 1.0"]
    assert (level, "RuntimeError: clouds" in text) == ("error", True)
    assert "moon" in found


def test_a_node_file_is_looked_at_too(tmp_path: Path) -> None:
    file = write(tmp_path, changed("[node]", '[node]\nname = "mine"'))
    text = "composes; the node's name: mine; its containers: echo-a, upper"
    assert findings(doctor(tmp_path, file))[str(file)] == ("ok", text)
    write(tmp_path, changed('use = "sqlite"', 'use = "sqlit"', NODE_FILE))
    level, text = findings(doctor(tmp_path, file))[str(file)]
    assert (level, text.startswith("store.use: unknown store 'sqlit'")) == ("error", True)
    missing = tmp_path / "nothing.toml"
    level, text = findings(doctor(tmp_path, missing))[str(missing)]
    assert (level, text.startswith("cannot be read: No such file or directory; correct its name")) == ("error", True)


def test_each_problem_of_a_node_file_is_a_finding_beside_those_of_what_is_valid(tmp_path: Path) -> None:
    text = changed('use = "asgi"', 'use = "asgj"', changed("concurrency = 64", "concurrency = 0"))
    done = doctor(tmp_path, write(tmp_path, text))
    assert "node.concurrency: expected" in done.stdout
    assert "transports[0].use: unknown transport 'asgj'" in done.stdout
    assert f"store.path: {tmp_path} has " in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node.toml"]


def test_json_is_one_document_with_key_paths(tmp_path: Path) -> None:
    file = write(tmp_path, changed("concurrency = 64", "concurency = 1"))
    done = nodekit(tmp_path, "doctor", "--json", file)
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr, document["ok"], document["file"]) == (1, "", False, str(file))
    assert {tuple(one) for one in document["problems"]} == {("severity", "where", "text", "cure")}
    found = {one["where"]: one for one in document["problems"]}
    assert found["node.concurency"] == {
        "severity": "error",
        "where": "node.concurency",
        "text": "unknown key",
        "cure": "did you mean 'concurrency'?",
    }
    assert found["Python"]["severity"] == "ok"
    without = json.loads(nodekit(tmp_path, "doctor", "--json").stdout)
    assert (without["file"], without["ok"]) == (None, True)


# -- the node file --------------------------------------------------------------------------------


LOGGED = """
[log]
path = "logs/node.log"
backups = 1
max_file_bytes = 1000

[store]
use = "sqlite"
path = "data/jobs.db"

[[runners]]
use = "remote"

[[runners.containers]]
id = "a"
url = "http://127.0.0.1:1"
bearer = { file = "token" }
"""


def of_file(folder: Path, text: str, **env: str) -> list[dict[str, str]]:
    """Return the findings about a node file that are neither ok nor the note about root."""
    done = nodekit(folder, "doctor", "--json", write(folder, text), **env)
    found = json.loads(done.stdout)["problems"]
    of_machine = ("open files", "current folder", "temporary folder", "docker", "user", "node.memory", "transports")
    return [one for one in found if one["severity"] != "ok" and not one["where"].startswith(of_machine)]


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    for name in ("logs", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "token").write_text("hush")
    (tmp_path / "token").chmod(0o600)
    return tmp_path


def test_folders_secrets_and_files_that_are_well_are_no_findings(logged: Path) -> None:
    assert of_file(logged, LOGGED) == []
    assert sorted(path.name for path in logged.rglob("*")) == ["data", "logs", "node.toml", "token"]


def test_folders_of_log_and_store_must_be_there(logged: Path) -> None:
    for name in ("logs", "data"):
        (logged / name).rmdir()
    found = {one["where"]: one["text"] for one in of_file(logged, LOGGED)}
    assert found == {"log.path": f"there is no folder {logged}/logs", "store.path": f"there is no folder {logged}/data"}


def test_a_problem_that_a_check_and_the_file_have_is_told_once(logged: Path) -> None:
    (logged / "data").rmdir()
    done = nodekit(logged, "doctor", write(logged, LOGGED))
    assert done.stdout.count(f"there is no folder {logged}/data") == 1


def test_the_folder_of_the_audit_log_must_be_there(logged: Path) -> None:
    found = {one["where"]: one["text"] for one in of_file(logged, LOGGED.replace("[log]", '[log]\naudit = "no/a.log"'))}
    assert found == {"log.audit": f"there is no folder {logged}/no"}


def test_an_address_that_is_none_is_a_problem_of_the_file_alone(logged: Path) -> None:
    done = nodekit(
        logged, "doctor", "--json", write(logged, f'{LOGGED}\n[[transports]]\nuse = "asgi"\nbind = "4000"\n')
    )
    errors = [one for one in json.loads(done.stdout)["problems"] if one["severity"] == "error"]
    assert [one["where"] for one in errors] == ["transports[0].bind"]


def test_files_and_folders_that_everybody_may_use_are_warnings(logged: Path) -> None:
    (logged / "logs" / "node.log").touch()
    for path, mode in (("token", 0o644), ("data", 0o777), ("logs/node.log", 0o644)):
        (logged / path).chmod(mode)
    found = of_file(logged, LOGGED)
    assert [(one["severity"], one["where"], one["cure"]) for one in found] == [
        ("warning", "store.path", f"chmod o-w {logged}/data"),
        ("warning", "log.path", f"chmod o-r {logged}/logs/node.log"),
        ("warning", "runners[0].containers[0].bearer", f"chmod o-r {logged}/token"),
    ]


def test_empty_secrets_are_warnings(logged: Path) -> None:
    (logged / "token").write_text("")
    (empty,) = of_file(logged, LOGGED)
    assert (empty["severity"], empty["text"]) == ("warning", f"the file {logged}/token is empty")
    (empty,) = of_file(logged, LOGGED.replace('file = "token"', 'env = "NODEKIT_TOKEN"'), NODEKIT_TOKEN="")
    assert empty["text"] == "the environment variable NODEKIT_TOKEN is empty"


def test_a_variable_that_is_empty_is_a_warning_that_names_it(logged: Path) -> None:
    (found,) = of_file(logged, LOGGED.replace('{ file = "token" }', '"${TOK}"'), TOK="")
    assert (found["severity"], found["where"]) == ("warning", "runners[0].containers[0].bearer")
    assert found["text"] == "the environment variable TOK is empty (from ${TOK})"
    assert of_file(logged, LOGGED.replace('{ file = "token" }', '"${TOK:-default}"'), TOK="") == []


def test_a_log_that_cannot_be_a_file_or_has_no_room_is_told(logged: Path) -> None:
    os.mkfifo(logged / "logs" / "node.log")
    text = LOGGED.replace("max_file_bytes = 1000", f"max_file_bytes = {1 << 60}")
    assert {one["text"].partition(",")[0] for one in of_file(logged, text)} == {
        f"{logged}/logs/node.log is not a file",
        f"the log may take {2 << 30:.1f} GiB",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_what_another_user_may_not_read_or_write_is_an_error() -> None:
    with tempfile.TemporaryDirectory() as name:  # not that of pytest, which other users cannot even enter
        folder = Path(name)
        folder.chmod(0o755)
        for below in ("data", "logs"):
            (folder / below).mkdir(mode=0o755)
        (folder / "token").write_text("hush")
        file = write(folder, LOGGED)
        script = "import os; from nodekit.cli import main; os.setreuid(65534, 0); main()"
        done = subprocess.run(
            [sys.executable, "-c", script, "doctor", "--json", file],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    found = [(one["severity"], one["where"], one["text"]) for one in json.loads(done.stdout)["problems"]]
    assert ("error", "store.path", f"this user may not write in the folder {folder}/data") in found
    assert ("error", "log.path", f"this user may not write in the folder {folder}/logs") in found


@pytest.mark.parametrize(
    ("there", "level"), [(64 << 20, "error"), (100 << 20, "warning"), (128 << 20, "warning"), (1 << 30, "ok")]
)
def test_a_budget_that_the_machine_does_not_have_is_told(there: int, level: str) -> None:
    (finding,) = memory(NodeLimits(memory="100MiB"), lambda: there)
    assert finding.level == level


def test_limits_are_compared_also_if_another_table_has_a_problem(tmp_path: Path) -> None:
    text = changed("concurrency = 64", 'memory = "4096TiB"', changed('use = "sqlite"', 'use = "sqlit"'))
    level, found = findings(doctor(tmp_path, write(tmp_path, text)))["node.memory"]
    assert (level, "before it refuses a request" in found) == ("error", True)


def test_a_component_of_an_unset_variable_is_not_looked_at(tmp_path: Path) -> None:
    text = changed(
        'path = "jobs.db"', 'path = "${NODEKIT_UNSET}"', changed("concurrency = 64", 'memory = "${NODEKIT_UNSET}"')
    )
    done = doctor(tmp_path, write(tmp_path, text.replace('bind = "127.0.0.1:4000"', 'bind = "${NODEKIT_UNSET}"')))
    lines = [line for line in done.stdout.splitlines() if "NODEKIT_UNSET is not set" not in line]
    assert not [line for line in lines if "store.path" in line or "transports[0]" in line or "node.memory" in line]
    assert len(done.stdout.splitlines()) - len(lines) == 3


def test_more_jobs_than_open_files_are_a_warning() -> None:
    (finding,) = concurrency(NodeLimits(concurrency=500), lambda: 300)
    assert (finding.level, finding.subject) == ("warning", "node.concurrency")
    assert list(concurrency(NodeLimits(concurrency=500), lambda: None)) == []
    assert list(concurrency(NodeLimits(concurrency=300), lambda: 300)) == []


@pytest.mark.parametrize(("year", "well"), [(1970, False), (2024, False), (2026, True), (2099, True), (2106, False)])
def test_a_clock_that_cannot_be_right_is_an_error(year: int, well: bool) -> None:
    now = datetime(year, 6, 1, tzinfo=UTC).timestamp()
    assert [finding.level for finding in clock(now)] == ([] if well else ["error"])


WITH_FILE = """
from nodekit import Finding

def provider({parameters}):
    given = {given}
    yield Finding("note", "moon", "nothing" if given is None else given.file.node)
    if given is not None:
        yield Finding("note", "stores", ", ".join(one.use for one in given.components if one.kind == "store"))
"""


@pytest.mark.parametrize(
    ("parameters", "given", "expected"),
    [
        ("file", "file", "mine"),
        ("*, file=None", "file", "mine"),
        ("seconds=3, *, file", "file", "mine"),
        ("", "None", "nothing"),
        ("seconds=3", "None", "nothing"),
        ("**more", "more.get('file')", "nothing"),
    ],
)
def test_a_check_of_a_package_gets_the_file_if_it_has_a_parameter_for_it(
    tmp_path: Path, parameters: str, given: str, expected: str
) -> None:
    install(tmp_path, "nodekit-sky", WITH_FILE.format(parameters=parameters, given=given), doctor="sky")
    assert findings(doctor(tmp_path))["moon"] == ("note", "nothing")
    text = changed("[node]", '[node]\nname = "mine"')
    found = findings(doctor(tmp_path, write(tmp_path, text)))
    assert found["moon"] == ("note", expected)
    assert expected == "nothing" or found["stores"] == ("note", "sqlite")


# -- checks that misbehave ------------------------------------------------------------------------


def test_a_check_that_hangs_is_given_up_and_what_it_found_before_is_told() -> None:
    held = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield Finding("ok", "first", "found")
        held.wait()

    first, late = examine("slow", hangs, seconds=0.2)
    held.set()
    assert first.subject == "first"
    assert (late.level, late.subject, "longer than 0.2 s" in late.text) == ("error", "slow", True)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: None, "TypeError"),
        (lambda: sys.exit(3), "SystemExit: 3"),
        (lambda: ["all is well"], "ValidationError"),
        (lambda: [Finding("fatal", "level", "of its own")], "ValidationError"),  # type: ignore[arg-type]
    ],
)
def test_a_check_that_fails_is_an_error(told: Any, words: str) -> None:
    (finding,) = examine("odd", told)
    assert (finding.level, finding.subject) == ("error", "odd")
    assert words in finding.text


# -- what numbers mean ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("soft", "hard", "share", "level", "words"),
    [
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, "ok", "no limit"),
        (65_536, 65_536, 21_000, "ok", "21000 calls"),
        (1024, 524_288, 325, "note", "ulimit -n 65536"),
        (1024, resource.RLIM_INFINITY, 325, "note", "LimitNOFILE=65536"),
        (1024, 4096, 325, "note", "ulimit -n 4096"),
        (1024, 1024, 325, "note", "administrator"),
        (128, 128, 30, "warning", "administrator"),
    ],
)
def test_a_limit_of_open_files_is_judged_by_what_it_is_enough_for(
    soft: int, hard: int, share: int | None, level: str, words: str
) -> None:
    finding = files_finding(soft, hard, share)
    assert finding.level == level
    assert words in f"{finding.text} {finding.cure}"


@pytest.mark.parametrize(
    ("free_bytes", "writable", "level", "words"),
    [
        (LITTLE_SPACE_BYTES, True, "ok", "1.0 GiB free"),
        (LITTLE_SPACE_BYTES, False, "note", "may not write"),
        (LITTLE_SPACE_BYTES - 1, True, "warning", "free some space"),
        (NO_SPACE_BYTES, True, "warning", "50 MiB free"),
        (NO_SPACE_BYTES - 1, True, "error", "lack of space"),
        (0, True, "error", "0 bytes free"),
    ],
)
def test_little_space_is_a_warning_and_next_to_none_an_error(
    free_bytes: int, writable: bool, level: str, words: str
) -> None:
    finding = space_finding("folder", Path("/here"), free_bytes, writable=writable)
    assert finding.level == level
    assert words in f"{finding.text} {finding.cure}"


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    assert findings(doctor_elsewhere(f"rmdir {gone}", gone))["current folder"] == (
        "error", "cannot be used: No such file or directory; change to a folder that exists, or free some space"
    )  # fmt: skip
