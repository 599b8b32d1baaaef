"""`nodekit doctor`: what it finds on real machines, in fake packages, and in checks that misbehave."""

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_files import NODE_FILE, changed, write
from planted import STORE, install, nodekit
from served import NODEKIT

from nodekit import Finding
from nodekit.cli.doctor.checks import examine
from nodekit.cli.doctor.machine import LITTLE_SPACE_BYTES, NO_SPACE_BYTES, files_finding, space_finding

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
    assert "stores memory, sqlite" in found["providers"][1]
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
    assert findings(doctor(tmp_path, missing))[str(missing)] == ("error", "cannot be read: No such file or directory")


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
