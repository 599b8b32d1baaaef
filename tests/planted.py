"""Distributions that are planted by their metadata on a path of their own, and the command line that finds them."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from served import NODEKIT

STORE = """
import msgspec
from nodekit import Offer
from nodekit_memory import MemoryStore

class Config(msgspec.Struct, forbid_unknown_fields=True):
    '''Jobs on a shelf.'''

    size: int = 1
    '''How many fit.'''

offer = Offer(Config, lambda config, file: MemoryStore())
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
    """A distribution, and its module unless there is none.

    `entry_points` are group → "name = object" lines, where no module is said it is its own; or the file's text.
    """
    module = distribution.replace("-", "_")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n" if metadata is None else metadata
    if text:
        (info / "METADATA").write_text(text)
    if isinstance(entry_points, Mapping):
        groups = [f"[nodekit.{group}]\n{name} = {module}:offer\n" for group, name in entry_points.items()]
        entry_points = "\n".join(groups)
    content = entry_points.encode() if isinstance(entry_points, str) else entry_points
    (info / "entry_points.txt").write_bytes(content)
    if code is not None:
        (folder / f"{module}.py").write_text(code)


def imported(folder: Path) -> set[str]:
    """The planted modules that left a mark."""
    return {path.stem for path in folder.glob("*.imported")}


def nodekit(folder: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """The command, with what is planted in a folder; in that folder."""
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*NODEKIT, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False)
