"""What a node file can say about processes, and what is wrong with it before anything is started."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeAlias

import msgspec

from nodekit import NodekitError, Problem, Secret
from nodekit_remote import HttpContainer

INHERITED = ("PATH", "HOME", "LANG")
"""What a process gets of the node's environment; the rest is declared."""

if TYPE_CHECKING:
    EnvValue: TypeAlias = str | Secret
    """A plain text, or in a node file a reference to a secret: ``{env = "NAME"}`` or ``{file = "path"}``."""
else:

    class EnvValue(Secret):  # msgspec takes a type that it does not know only on its own, not as `str | Secret`
        __slots__ = ()

        @classmethod
        def resolve(cls, reference: Any, folder: Path) -> Self:
            if isinstance(reference, str):
                return cls(reference)
            if not isinstance(reference, dict):
                raise NodekitError('expected a text, or a reference: { env = "NAME" } or { file = "path" }')
            return super().resolve(reference, folder)


_EMPTY: Mapping[str, EnvValue] = MappingProxyType({})


class ProcessContainer(HttpContainer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container that is a local process."""

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """The program, looked up in PATH (or, with a slash, from `folder`), and its arguments. No shell is involved."""
    env: Mapping[str, EnvValue] = _EMPTY
    """Its environment, beside PATH, HOME, LANG and PORT."""
    folder: Path | None = None
    """Where it runs; the folder of the node file unless said (from Python: the current one)."""
    startup_seconds: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    """How long it may take until it answers."""
    stop_seconds: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    """How long it may take to end after SIGTERM, before it is killed."""


class ProcessConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The runner's settings."""

    containers: tuple[ProcessContainer, ...] = ()


def environment(container: ProcessContainer) -> dict[str, str]:
    """What the process gets, without its port."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    declared = {name: value.reveal() if isinstance(value, Secret) else value for name, value in container.env.items()}
    return inherited | declared


def problems(config: ProcessConfig, folder: Path) -> Iterator[Problem]:
    """What would keep the containers from being started."""
    ids = [container.id for container in config.containers]
    for number, container in enumerate(config.containers):
        where = f"containers[{number}]"
        if container.id in ids[:number]:
            yield Problem(f"{where}.id", f"there is a container {container.id!r} already")
        for key, text in _container_problems(container, folder / (container.folder or "")):
            yield Problem(f"{where}.{key}", text)


def _container_problems(container: ProcessContainer, folder: Path) -> Iterator[tuple[str, str]]:
    for name, value in environment(container).items():
        if not name or "=" in name or "\0" in name + value:
            yield "env", f"{name!r} is no name of a variable, or its value holds a NUL"
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
