"""Packages that tests plant for `nodekit certify`, and the command itself."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from click.testing import CliRunner
from planted import install
from served import NODEKIT

from nodekit.cli import main
from nodekit.cli.certify.rows import Certificate

SHELF = """
from pathlib import Path

import msgspec

from nodekit import EmbeddedStore, Provider
from nodekit_sqlite import SqliteTable


class ShelfConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: Path


class ShelfStore(EmbeddedStore):
    def __init__(self, path):
        super().__init__(SqliteTable(path))


provider = Provider(ShelfConfig, lambda config, file: ShelfStore(config.path))
"""
"""A store that keeps jobs in a file."""

ECHO = """
import anyio
import msgspec

from nodekit import Provider
from nodekit_function import FunctionConfig, FunctionContainer, FunctionRunner


class EchoRunner(FunctionRunner):
    pass


def build(config=None, file=None):
    runner = EchoRunner()

    @runner.container("echo")
    async def echo(data):
        return data

    @runner.container("fail")
    async def fail(data):
        raise ValueError("as asked")

    @runner.container("slow")
    async def slow(data):
        await anyio.sleep(1000)

    return runner


class EchoConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    size: int = 1


provider = Provider(EchoConfig, build)
"""
"""A runner with the containers that its suite calls."""

ECHO_TESTS = """
import pytest

import nodekit_echo
from nodekit.testing import ContainerRunnerContract


class TestEcho(ContainerRunnerContract):
    backends = ("asyncio", "trio")
    opaque = False

    @pytest.fixture
    def runner(self):
        return nodekit_echo.build()
"""
"""Tests that the package brings; the suite skips one of them."""

ALL_SORTS = """
import itertools

import msgspec

from nodekit import JobFinished, Provider, Refusal, Sequence


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: int = 10


class Guard:
    async def nodekit_admit(self, request):
        if request.client == "mallory":
            raise Refusal("Not today")


class Doorman(Guard):
    pass


class Observer:
    finished = 0

    def nodekit_observe(self, event):
        if isinstance(event, JobFinished):
            self.finished += 1


class Pipeline(Sequence):
    pass


guard = Provider(Config, lambda config, file: Guard())
doorman = Provider(Config, lambda config, file: Doorman())
observer = Provider(Config, lambda config, file: Observer())
pipeline = Provider(Config, lambda config, file: Pipeline())
"""
"""Two guards, an observer and a pipeline."""


def install_all_sorts(folder: Path, code: str = ALL_SORTS) -> None:
    """Install a distribution with providers of three kinds."""
    install(folder, "nodekit-sorts", code, plugins="guard")
    groups = {"plugins": ("guard", "doorman", "observer"), "pipelines": ("pipeline",)}
    lines = [
        f"[nodekit.{group}]\n" + "".join(f"{name} = nodekit_sorts:{name}\n" for name in names)
        for group, names in groups.items()
    ]
    (folder / "nodekit_sorts-1.0.dist-info" / "entry_points.txt").write_text("\n".join(lines))


@dataclass(frozen=True)
class Certified:
    """The result of a run of the command."""

    exit_code: int
    out: str
    err: str

    @property
    def certificate(self) -> Certificate:
        """Certificate of a run with ``--json``."""
        assert self.out, self.err
        return msgspec.json.decode(self.out, type=Certificate)

    def row(self, suite: str) -> Any:
        """Return the only row of a suite."""
        [row] = [row for row in self.certificate.rows if row.suite == suite]
        return row


def certify(folder: Path, *arguments: str | Path, cwd: Path | None = None, **more: str) -> Certified:
    """Run the command in this process, on packages planted in a folder; only other processes import them."""
    env = environment(folder, more)
    with (
        chdir(cwd or folder),
        mock.patch.object(sys, "path", [*env["PYTHONPATH"].split(os.pathsep), *sys.path]),
        mock.patch.object(tempfile, "tempdir", env["TMPDIR"]),
    ):
        done = CliRunner().invoke(main, ["certify", *map(str, arguments)], env=env, catch_exceptions=False)
    return Certified(done.exit_code, done.stdout, done.stderr)


def certify_elsewhere(folder: Path, *arguments: str | Path) -> Certified:
    """Run the command as a process."""
    done = subprocess.run(
        [*NODEKIT, "certify", *map(str, arguments)],
        env=environment(folder, {}),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )
    return Certified(done.returncode, done.stdout, done.stderr)


def environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "TMPDIR": str(temporary(folder)), **more}


def temporary(folder: Path) -> Path:
    """Return the folder for the temporary files of a run."""
    place = folder / "temporary"
    place.mkdir(exist_ok=True)
    return place


def imported(folder: Path, code: str) -> list[str]:
    """Return the modules that are imported after some code has run."""
    code = f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    found: list[str] = json.loads(done.stdout)
    return found


__all__ = [
    "ALL_SORTS",
    "ECHO",
    "ECHO_TESTS",
    "SHELF",
    "Certified",
    "certify",
    "certify_elsewhere",
    "environment",
    "imported",
    "install",
    "install_all_sorts",
    "temporary",
]
