"""The settings of processes in a node file, and the checks of them before any process starts."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import msgspec

from nodekit import EnvValue, Problem
from nodekit_remote import StartedContainer, env_problems, id_problems, plain_env

INHERITED = ("PATH", "HOME", "LANG")
"""Variables of the node's environment that a process gets. All others must be declared."""

_EMPTY: Mapping[str, EnvValue] = MappingProxyType({})


class ProcessContainer(StartedContainer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container that is a local process.

    - `command`: The program, looked up in PATH (or, with a slash, from `folder`), and its arguments. No shell is
      involved.
    - `env`: Environment variables, in addition to PATH, HOME, LANG and PORT.
    - `folder`: Folder in which it runs; by default the folder of the node file (from Python: the current one).
    """

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    env: Mapping[str, EnvValue] = _EMPTY
    folder: Path | None = None


class ProcessConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The runner's settings."""

    containers: tuple[ProcessContainer, ...] = ()


def environment(container: ProcessContainer) -> dict[str, str]:
    """Return the environment of the process, without its port."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return inherited | plain_env(container.env)


def problems(containers: Sequence[ProcessContainer], folder: Path) -> Iterator[Problem]:
    """Yield the problems that would keep the containers from starting."""
    yield from id_problems(containers)
    for number, container in enumerate(containers):
        where = f"containers[{number}]"
        for key, text in _container_problems(container, folder / (container.folder or "")):
            yield Problem(f"{where}.{key}", text)


def _container_problems(container: ProcessContainer, folder: Path) -> Iterator[tuple[str, str]]:
    yield from (("env", text) for text in env_problems(container.env))
    if "PORT" in container.env:
        yield "env", "PORT is chosen by the runner; leave it out"
    if not folder.is_dir():
        yield "folder", f"there is no folder {folder}"
    elif not container.command:
        yield "command", "is empty; name a program"
    elif not _found(container, folder):
        place = f"from {folder}" if "/" in container.command[0] else "in PATH"
        yield "command", f"there is no program {container.command[0]!r} {place}"


def _found(container: ProcessContainer, folder: Path) -> bool:
    program = container.command[0]
    if "/" in program:
        return shutil.which(folder / program) is not None
    return shutil.which(program, path=environment(container).get("PATH", os.defpath)) is not None
