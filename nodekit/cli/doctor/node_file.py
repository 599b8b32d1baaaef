"""The checks of `nodekit doctor` for a node file: folders, paths, secrets, and what its limits need of the machine.

They look, and make and write nothing. Checks of a provider's own settings come from its package.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from nodekit.cli.doctor.checks import Check
from nodekit.cli.doctor.machine import shown_size, space_finding
from nodekit.config.findings import ExaminedFile, Finding
from nodekit.config.log_settings import LogSettings
from nodekit.config.paths import folder_problem
from nodekit.config.shapes import is_list, is_table
from nodekit.config.variables import empty_in
from nodekit.execution.descriptors import descriptor_share
from nodekit.model.counting import counted
from nodekit.model.limits import NodeLimits
from nodekit.model.memory import machine_memory

MOST_OF_MEMORY = 0.75
"""Share of the machine's memory that the budget of payloads leaves to nothing else: the process needs some, too."""


def checks_of_file(
    examined: ExaminedFile,
    tables: Mapping[str, Any],
    written: Mapping[str, Any],
    log: LogSettings | None,
    limits: NodeLimits | None,
) -> Iterator[tuple[str, Check]]:
    """Yield the checks. `log` and `limits` are None if there is no valid one.

    `tables` are those of the file, and `written` the same with references to variables.
    """
    yield "user", _user
    for one in examined.components:
        for key, path in paths_of(one.config):
            where = f"{one.where}.{key}"
            yield where, partial(_store_place if one.kind == "store" else _place, where, path)
    if log is not None:
        yield "log", partial(_log, log)
    yield "secrets", partial(_secrets, tables, examined.file.folder)
    yield "variables", partial(_empty_variables, written)
    if limits is not None:
        yield "memory", partial(memory, limits, machine_memory)
        yield "concurrency", partial(concurrency, limits, descriptor_share)


def paths_of(value: Any, above: str = "") -> Iterator[tuple[str, Path]]:
    """Yield the paths in the settings of a component, each with its key path."""
    if isinstance(value, Path):
        yield above, value
    elif isinstance(value, msgspec.Struct):
        for key, name in zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True):
            yield from paths_of(getattr(value, name), f"{above}.{key}" if above else key)
    elif isinstance(value, list | tuple):
        items: tuple[Any, ...] = tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        for number, one in enumerate(items):
            yield from paths_of(one, f"{above}[{number}]")


def _user() -> Iterator[Finding]:
    if os.geteuid() == 0:
        text = "these checks run as root, who may read and write everything"
        yield Finding("note", "user", text, "run them as the user of the node: sudo -u USER nodekit doctor FILE")


def _place(where: str, path: Path) -> Iterator[Finding]:
    """Report a path that cannot be read. One that is missing may be made later, but not without its folder."""
    if not os.path.exists(path):
        if (problem := _folder_problem(where, path.parent, write=False)) is not None:
            yield problem
    elif not os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0)):
        yield Finding("error", where, f"this user may not read {path}", "change its owner, its mode or the path")


def _store_place(where: str, path: Path) -> Iterator[Finding]:
    """Report the folder of a store, and its disk."""
    folder = path if os.path.isdir(path) else path.parent
    if (problem := _folder_problem(where, folder)) is not None:
        yield problem
        return
    yield from _shared_folder(where, folder)
    yield space_finding(where, folder, shutil.disk_usage(folder).free, writable=True)
    if os.path.isfile(path) and not os.access(path, os.R_OK | os.W_OK):
        text = f"this user may not read and write {path}"
        yield Finding("error", where, text, f"give it to the user of the node: chown USER {path}")


def _folder_problem(where: str, folder: Path, *, write: bool = True) -> Finding | None:
    problem = folder_problem(folder, write=write)
    return Finding.from_text("error", where, problem) if problem else None


def _shared_folder(where: str, folder: Path) -> Iterator[Finding]:
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        text = f"every user may write in {folder}, and replace the files there"
        yield Finding("warning", where, text, f"chmod o-w {folder}")


def _log(settings: LogSettings) -> Iterator[Finding]:
    audit = Path(settings.audit) if isinstance(settings.audit, str) else None
    for where, path in (("log.audit", audit), ("log.path", settings.path)):
        if path is not None:
            yield from _log_file(where, path, settings)


def _log_file(where: str, path: Path, settings: LogSettings) -> Iterator[Finding]:
    if (problem := _folder_problem(where, path.parent)) is not None:
        yield problem
        return
    yield from _shared_folder(where, path.parent)
    if os.path.exists(path) and not os.path.isfile(path):
        yield Finding("error", where, f"{path} is not a file", "name a file")
    elif os.path.exists(path) and not os.access(path, os.W_OK):
        yield Finding("error", where, f"this user may not write {path}", f"chown USER {path}, or name another file")
    elif os.path.exists(path) and path.stat().st_mode & stat.S_IROTH:
        text = f"every user may read {path}, which may hold what containers print"
        yield Finding("warning", where, text, f"chmod o-r {path}")
    free_bytes = shutil.disk_usage(path.parent).free
    most_bytes = settings.max_file_bytes * (settings.backups + 1)
    if most_bytes > free_bytes:
        text = f"the log may take {shown_size(most_bytes)}, and {path.parent} has {shown_size(free_bytes)} free"
        yield Finding("warning", where, text, "make max_file_bytes or backups smaller, or free some space")
    else:
        yield space_finding(where, path.parent, free_bytes, writable=True)


def _secrets(tables: Mapping[str, Any], folder: Path) -> Iterator[Finding]:
    """Report secrets that are empty, or that every user may read. That one is missing is a problem of the file."""
    for where, reference in references(tables):
        match reference:
            case {"env": str(name)} if os.environ.get(name) == "":
                yield Finding("warning", where, f"the environment variable {name} is empty", "set it to the secret")
            case {"file": str(name)} if os.path.isfile(path := folder / name):
                if not path.stat().st_size:
                    yield Finding("warning", where, f"the file {path} is empty", "write the secret into it")
                elif path.stat().st_mode & stat.S_IROTH:
                    yield Finding("warning", where, f"every user may read {path}", f"chmod o-r {path}")
            case _:
                pass


def references(value: Any, above: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the references to secrets, ``{env = "…"}`` and ``{file = "…"}``, each with its key path."""
    if is_table(value):
        if len(value) == 1 and isinstance(value.get("env", value.get("file")), str):
            yield above, value
        for key, one in value.items():
            yield from references(one, f"{above}.{key}" if above else key)
    elif is_list(value):
        for number, one in enumerate(value):
            yield from references(one, f"{above}[{number}]")


def _empty_variables(written: Any, where: str = "") -> Iterator[Finding]:
    """Report variables that texts of the file refer to, and that are empty."""
    if isinstance(written, str):
        for name in empty_in(written):
            text = f"the environment variable {name} is empty (from ${{{name}}})"
            yield Finding("warning", where, text, f"set it, or write ${{{name}:-…}} with a default")
    elif is_table(written):
        for key, one in written.items():
            yield from _empty_variables(one, f"{where}.{key}" if where else key)
    elif is_list(written):
        for number, one in enumerate(written):
            yield from _empty_variables(one, f"{where}[{number}]")


def memory(limits: NodeLimits, available: Callable[[], int]) -> Iterator[Finding]:
    """Compare the budget of payloads with the memory that there is."""
    wanted, there = limits.memory_bytes, available()
    text = f"{shown_size(wanted)} for payloads, and this process may use {shown_size(there)}"
    cure = "make `memory` in [node] smaller, or give the node more"
    if wanted > there:
        yield Finding("error", "node.memory", f"{text}: it would be killed before it refuses a request", cure)
    elif wanted > there * MOST_OF_MEMORY:
        yield Finding("warning", "node.memory", f"{text}; Python, containers and other programs need some, too", cure)
    else:
        yield Finding("ok", "node.memory", text)


def concurrency(limits: NodeLimits, share: Callable[[], int | None]) -> Iterator[Finding]:
    """Compare the number of jobs that run at once with the calls that the open files are enough for."""
    calls = share()
    if calls is not None and limits.concurrency > calls:
        jobs = counted(limits.concurrency, "job")
        text = f"{jobs} at once, and the open files are enough for about {counted(calls, 'call')}"
        yield Finding("warning", "node.concurrency", text, "raise the limit of open files (ulimit -n, LimitNOFILE=)")
