"""Packages that tests plant for `nodekit certify`, and the command itself."""

import os
import subprocess
import sys
import tempfile
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import msgspec
from click.testing import CliRunner
from planted import plant
from served import NODEKIT

from nodekit.cli import main
from nodekit.cli.certify.rows import Certificate, Row

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


class Misspelt:
    nodekit_observes = print


class Pipeline(Sequence):
    pass


class Dice(Sequence):
    numbers = itertools.count()

    def next_step(self, job):
        step = super().next_step(job)
        return step and msgspec.structs.replace(step, index=step.index + next(self.numbers) % 2)


guard = Provider(Config, lambda config, file: Guard())
doorman = Provider(Config, lambda config, file: Doorman())
observer = Provider(Config, lambda config, file: Observer())
misspelt = Provider(Config, lambda config, file: Misspelt())
dice = Provider(Config, lambda config, file: Dice())
"""
"""Two guards, an observer, a plugin with a wrong hook, and a pipeline that answers differently each time."""


def install_all_sorts(folder: Path) -> None:
    """Install a distribution with providers of three kinds."""
    plugins = "".join(f"{name} = nodekit_sorts:{name}\n" for name in ("guard", "doorman", "observer", "misspelt"))
    entry_points = f"[nodekit.plugins]\n{plugins}[nodekit.pipelines]\ndice = nodekit_sorts:dice\n"
    plant(folder, "nodekit-sorts", entry_points, ALL_SORTS)


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

    def row(self, provider: str) -> Row:
        """Return the only row of a provider."""
        [row] = [row for row in self.certificate.rows if row.provider == provider]
        return row


def certify(folder: Path, *arguments: str) -> Certified:
    """Run the command in this process, on packages planted in a folder; only other processes import them."""
    env = environment(folder)
    with (
        chdir(folder),
        mock.patch.object(sys, "path", [str(folder), *sys.path]),
        mock.patch.object(tempfile, "tempdir", env["TMPDIR"]),
    ):
        done = CliRunner().invoke(main, ["certify", *arguments], env=env, catch_exceptions=False)
    return Certified(done.exit_code, done.stdout, done.stderr)


def certify_elsewhere(folder: Path, *arguments: str) -> Certified:
    """Run the command as a process."""
    done = subprocess.run(
        [*NODEKIT, "certify", *arguments],
        env=environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )
    return Certified(done.returncode, done.stdout, done.stderr)


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "TMPDIR": str(temporary(folder))}


def temporary(folder: Path) -> Path:
    """Return the folder for the temporary files of a run."""
    place = folder / "temporary"
    place.mkdir(exist_ok=True)
    return place
