"""The checks of `nodekit doctor` for programs: found, but not to be run, or without their script."""

import sys
from pathlib import Path

import pytest

from nodekit import Configured, ExaminedFile, Finding, NodeFile
from nodekit_process import ProcessConfig, ProcessContainer
from nodekit_process.doctor import findings


def found(folder: Path, *command: str) -> list[Finding]:
    config = ProcessConfig(containers=(ProcessContainer(id="a", command=command),))
    components = (Configured("runner", "process", "runners[0]", config),)
    return list(findings(ExaminedFile(NodeFile(folder / "node.toml", "n"), components)))


def program(folder: Path, content: bytes) -> str:
    file = folder / "program"
    file.write_bytes(content)
    file.chmod(0o755)
    return "./program"


@pytest.mark.parametrize("content", [b"#!/bin/sh\n", b"#! /usr/bin/env sh\n", b"#!/usr/bin/env -S sh -e\n"])
def test_a_program_that_can_be_run_is_well(tmp_path: Path, content: bytes) -> None:
    (finding,) = found(tmp_path, program(tmp_path, content))
    assert (finding.level, finding.subject) == ("ok", "runners[0].containers[0].command")
    (finding,) = found(tmp_path, sys.executable, "-c", "pass")
    assert finding.level == "ok"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"echo hello\n", "has no line #!"),
        (b"#!\n", "names no interpreter"),
        (b"#!/usr/bin/python9\n", "needs '/usr/bin/python9', which is not there"),
        (b"#!/bin/sh\r\n", "needs '/bin/sh\\r', which is not there"),
        (b"#!/usr/bin/env python9\n", "needs 'python9', which is not in PATH"),
    ],
)
def test_a_program_that_the_system_would_not_run_is_an_error(tmp_path: Path, content: bytes, words: str) -> None:
    (finding,) = found(tmp_path, program(tmp_path, content))
    assert finding.level == "error"
    assert words in finding.text


def test_a_script_that_is_missing_is_a_warning(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, "sh", "serve.sh")
    assert (finding.level, str(tmp_path / "serve.sh") in finding.text) == ("warning", True)
    (tmp_path / "serve.sh").touch()
    (finding,) = found(tmp_path, "sh", "serve.sh")
    assert finding.level == "ok"


def test_a_program_that_is_not_found_is_a_problem_of_the_file_and_no_finding(tmp_path: Path) -> None:
    assert found(tmp_path, "no-such-program") == []
    assert list(findings()) == []
