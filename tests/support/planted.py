"""Distributions that tests plant by their metadata on a path of their own, and a command line that finds them."""

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from unittest import mock

from click.testing import CliRunner
from paths import ROOT

from nodekit.cli import main

STORE = """
import msgspec
from nodekit import Provider
from nodekit_memory import MemoryStore

class Config(msgspec.Struct, forbid_unknown_fields=True):
    '''Jobs on a shelf.

    - `size`: How many fit.
    '''

    size: int = 1

provider = Provider(Config, lambda config, file: MemoryStore())
"""
LEAVES_A_MARK = """
import pathlib
pathlib.Path(__file__).with_suffix(".imported").touch()
"""


def plant(
    folder: Path,
    distribution: str,
    entry_points: Mapping[str, str] | str | bytes,
    code: str | None = STORE,
    *,
    version: str = "1.0",
    metadata: str | None = None,
) -> None:
    """Plant a distribution, and its module unless `code` is None.

    `entry_points` maps groups to names, each of which is the planted module's `provider`; or it is the text of a file.
    """
    module = distribution.replace("-", "_")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n" if metadata is None else metadata
    if text:
        (info / "METADATA").write_text(text)
    if isinstance(entry_points, Mapping):
        groups = [f"[nodekit.{group}]\n{name} = {module}:provider\n" for group, name in entry_points.items()]
        entry_points = "\n".join(groups)
    content = entry_points.encode() if isinstance(entry_points, str) else entry_points
    (info / "entry_points.txt").write_bytes(content)
    if code is not None:
        (folder / f"{module}.py").write_text(code)


def install(folder: Path, distribution: str, code: str | None, **providers: str) -> None:
    """Plant a distribution whose module has a provider of each of these names."""
    plant(folder, distribution, providers, code)


def imported(folder: Path) -> set[str]:
    """Return the planted modules that left a mark when they were imported."""
    return {path.stem for path in folder.glob("*.imported")}


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Make the packages that are planted in a folder importable; forget them in the end."""
    forget_modules()
    importlib.invalidate_caches()
    with (
        mock.patch.object(sys, "path", [str(folder), *sys.path]),
        mock.patch.object(sys, "dont_write_bytecode", True),
    ):
        try:
            yield
        finally:
            forget_modules()


def nodekit(folder: Path, *arguments: str | Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in this process, in a folder, with the packages planted there and these variables."""
    with chdir(folder), installed(folder):
        env = {"PYTHONPATH": str(folder), **env}
        done = CliRunner().invoke(main, [*map(str, arguments)], env=env, catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def forget_modules() -> None:
    """Forget what was imported from temporary folders: another test plants others by the same names.

    This project, and the environment of the tests, may be in such a folder themselves.
    """
    for name, module in [*sys.modules.items()]:
        file = Path(getattr(module, "__file__", None) or "/")
        if file.is_relative_to(tempfile.gettempdir()) and not any(map(file.is_relative_to, (ROOT, sys.prefix))):
            del sys.modules[name]


def nodekit_elsewhere(folder: Path, *arguments: str, check_seconds: float) -> "subprocess.CompletedProcess[str]":
    """Run the command as a process in which each check may take this long."""
    set_seconds = f"checks.examine.__kwdefaults__['seconds'] = {check_seconds}"
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        sys.executable,
        "-c",
        f"from nodekit.cli import main; from nodekit.cli.doctor import checks; {set_seconds}; main()",
        *arguments,
    ]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False)
