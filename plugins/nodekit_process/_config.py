"""The settings of processes in a node file, and the checks of them before any process starts."""

import os
import re
import resource
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import msgspec

from nodekit import EnvValue, Problem, folder_problem, resolved_path
from nodekit_remote import UNBUFFERED, StartedContainer, env_problems, id_problems, plain_env

INHERITED = ("PATH", "HOME", "LANG")
"""Variables of the node's environment that a process gets. All others must be declared."""

CHOSEN = ("PORT", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""Variables that the runner sets itself."""

_DOLLAR = re.compile(r"\$\$|\$PORT(?![A-Za-z0-9_])|\$\{PORT\}", re.ASCII)
"""The texts in arguments that are replaced. All others with a dollar stay, such as those of a shell."""

LEAST_MEMORY = 1 << 20
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,3})?) ?(B|KiB|MiB|GiB|TiB)?")

_EMPTY: Mapping[str, EnvValue] = MappingProxyType({})


class ProcessContainer(StartedContainer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container that is a local process.

    - `command`: The program, looked up in PATH (or, with a slash, from `folder`), and its arguments. No shell is
      involved. ``~`` at the beginning of the program is a home folder. ``$PORT`` and ``${PORT}`` in an argument are its
      port, and ``$$`` is a dollar sign.
    - `env`: Environment variables, in addition to PATH, HOME, LANG and PORT. PYTHONUNBUFFERED is 1 by default, so that
      nothing that a Python program printed is lost when it dies.
    - `folder`: Folder in which it runs; by default the folder of the node file (from Python: the current one).
    - `listen`: ``"port"``: it listens at the port in PORT. ``"inherit"``: it gets a socket that listens already, as
      descriptor 3, by the protocol of systemd (LISTEN_FDS, LISTEN_PID); no other program can be at its port first.
    - `memory`: Most memory of its own that each of its processes may have, in bytes or as a text such as ``"512MiB"``.
      Beyond it, the process is refused more.
    - `open_files`: Most descriptors that each of its processes may have open.
    - `processes`: Most processes and threads that the user of the node may have in all, when this container starts
      another one. It does not bind root.
    """

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    env: Mapping[str, EnvValue] = _EMPTY
    folder: Path | None = None
    listen: Literal["port", "inherit"] = "port"
    memory: int | str | None = None
    open_files: Annotated[int, msgspec.Meta(ge=8)] | None = None
    processes: Annotated[int, msgspec.Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory is not None and size_in_bytes(self.memory) < LEAST_MEMORY:
            raise ValueError(f'memory: expected at least 1MiB, such as "512MiB", got {self.memory!r}')


class ProcessConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The runner's settings."""

    containers: tuple[ProcessContainer, ...] = ()


def environment(container: ProcessContainer) -> dict[str, str]:
    """Return the environment of the process, without its port."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return inherited | UNBUFFERED | plain_env(container.env)


def command_line(container: ProcessContainer, port: int) -> list[str]:
    """Return the program and its arguments. In these, ``$PORT`` and ``${PORT}`` are the port, and ``$$`` is a ``$``."""
    program, *arguments = container.command
    if "/" in program and program.startswith("~"):
        program = str(resolved_path(program, Path()))
    texts = {"$$": "$", "$PORT": str(port), "${PORT}": str(port)}
    return [program, *(_DOLLAR.sub(lambda found: texts[found[0]], argument) for argument in arguments)]


def size_in_bytes(size: int | str) -> int:
    """Convert a size to bytes; 0 if it is none."""
    if isinstance(size, int):
        return size
    found = _SIZE.fullmatch(size.strip())
    return int(float(found[1]) * _UNITS[found[2] or "B"]) if found else 0


def limits(container: ProcessContainer) -> list[tuple[int, int]]:
    """Return the limits of each process of the container, as `setrlimit` takes them.

    Memory is what only the process itself can write to (RLIMIT_DATA). All of its addresses (RLIMIT_AS) would include
    what runtimes such as those of Java and Go merely reserve.
    """
    given = (
        (resource.RLIMIT_DATA, None if container.memory is None else size_in_bytes(container.memory)),
        (resource.RLIMIT_NOFILE, container.open_files),
        (resource.RLIMIT_NPROC, container.processes),
    )
    return [(limit, value) for limit, value in given if value is not None]


def problems(containers: Sequence[ProcessContainer], folder: Path) -> Iterator[Problem]:
    """Yield the problems that would keep the containers from starting."""
    yield from id_problems(containers)
    for number, container in enumerate(containers):
        where = f"containers[{number}]"
        for key, text in _container_problems(container, folder / (container.folder or "")):
            yield Problem(f"{where}.{key}", text)


def _container_problems(container: ProcessContainer, folder: Path) -> Iterator[tuple[str, str]]:
    yield from (("env", text) for text in env_problems(container.env))
    for name in CHOSEN:
        if name in container.env:
            yield "env", f"{name} is chosen by the runner; leave it out"
    yield from _limit_problems(container)
    if text := folder_problem(folder):
        yield "folder", text
    elif not container.command:
        yield "command", "is empty; name a program"
    else:
        yield from (("command", text) for text in _program_problems(container, folder))


def _program_problems(container: ProcessContainer, folder: Path) -> Iterator[str]:
    program = container.command[0]
    try:
        if not _found(container, folder):
            yield f"there is no program {program!r} {f'from {folder}' if '/' in program else 'in PATH'}"
    except ValueError as error:
        yield str(error)


def _limit_problems(container: ProcessContainer) -> Iterator[tuple[str, str]]:
    """Yield a problem for each limit above the node's own, which only root may exceed."""
    names = {resource.RLIMIT_DATA: "memory", resource.RLIMIT_NOFILE: "open_files", resource.RLIMIT_NPROC: "processes"}
    for limit, value in limits(container):
        _, most = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY and value > most and os.geteuid():
            yield names[limit], f"is above the node's own limit, {most}; raise that (ulimit, or the unit of systemd)"


def _found(container: ProcessContainer, folder: Path) -> bool:
    program = container.command[0]
    if "/" in program:
        return shutil.which(resolved_path(program, folder)) is not None
    return shutil.which(program, path=environment(container).get("PATH", os.defpath)) is not None
