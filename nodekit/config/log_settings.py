"""The settings of the log of `nodekit serve`."""

import logging
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from nodekit.config.convert import MOST_UNKNOWN
from nodekit.config.paths import resolved_path
from nodekit.config.shapes import is_table
from nodekit.hooks.container_rules import nearest

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")

ACCESS = "nodekit.access"
"""Name of the logger of requests."""
AUDIT = "nodekit.audit"
"""Name of the logger of changes that callers make to jobs."""
CONTAINER = "nodekit.container"
"""Name above those of the loggers of the output of containers, ``nodekit.container.ID``."""
LOGGERS = (
    "nodekit",
    ACCESS,
    AUDIT,
    CONTAINER,
    *("nodekit.apikeys", "nodekit.calls", "nodekit.chain", "nodekit.docker", "nodekit.executor", "nodekit.hooks"),
    *("nodekit.http", "nodekit.log", "nodekit.node", "nodekit.packages", "nodekit.plugins", "nodekit.process"),
    *("nodekit.remote", "nodekit.stderr", "nodekit.store"),
)
"""Names of the loggers of nodekit and of its own plugins."""

NO_LEVELS: Mapping[str, Level] = MappingProxyType({})


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table ``[log]``, for `nodekit serve`. It logs to standard error, and to a file if one is named.

    - `path`: A file that gets the same lines.
    - `max_file_bytes`: Maximum size of the file. A larger file is renamed and a new one begun; 0: it grows without
      limit.
    - `backups`: Number of renamed files that are kept, as ``path.1`` (the newest), ``path.2``, …
    - `format`: ``text`` for people, or ``json``: an object in each line.
    - `level`: The least level that nodekit logs; `--log-level` wins over it and over `levels`. Libraries log from
      warnings up.
    - `levels`: The least levels of single loggers, such as ``"nodekit.docker" = "debug"``.
    - `access`: True to log each request to a transport.
    - `audit`: True to log who cancelled, retried, reported or deleted a job; or a file that gets only these lines.
    """

    path: Path | None = None
    max_file_bytes: Annotated[int, msgspec.Meta(ge=0)] = 100 * 1024 * 1024
    backups: Annotated[int, msgspec.Meta(ge=0)] = 2
    format: Literal["text", "json"] = "text"
    level: Level = "info"
    levels: Mapping[str, Level] = NO_LEVELS
    access: bool = False
    audit: bool | str = False

    def __post_init__(self) -> None:
        for key, value in (("path", str(self.path)), ("audit", str(self.audit))):
            if "\0" in value:
                raise ValueError(f"{key}: the name of a file cannot contain a NUL")
        if self.audit == "":
            raise ValueError("audit: expected true, false, or the name of a file")

    def in_folder(self, folder: Path) -> "LogSettings":
        """Return the settings with the path of `audit` relative to a folder.

        Raise `ValueError` if it is the log's own, or one of them is a folder.
        """
        if self.path is not None and os.path.isdir(self.path):
            raise ValueError(f"path: {self.path} is a folder; name a file")
        if not isinstance(self.audit, str):
            return self
        try:
            audit = resolved_path(self.audit, folder)
        except ValueError as error:
            raise ValueError(f"audit: {error}") from error
        if self.path is not None and audit.absolute() == self.path.absolute():
            raise ValueError("audit: this is the file of the log; write audit = true, or name another file")
        if os.path.isdir(audit):
            raise ValueError(f"audit: {audit} is a folder; name a file")
        return msgspec.structs.replace(self, audit=str(audit))


def unknown_loggers(table: Any) -> Iterator[tuple[str, str]]:
    """Yield the names of loggers in a table ``[log]`` that nothing logs under, each with the problem."""
    levels = table.get("levels") if is_table(table) else None
    for name in list(levels)[:MOST_UNKNOWN] if is_table(levels) else ():
        if not _is_known(name):
            yield name, f"there is no logger {name!r:.100}{_cure(name)}"


def _is_known(name: str) -> bool:
    """Return True for loggers of nodekit, those that exist, and names below that of an installed package."""
    if name in LOGGERS or name.startswith(f"{CONTAINER}.") or name in logging.root.manager.loggerDict:
        return True
    package = name.partition(".")[0]
    try:
        return package != "nodekit" and package.isidentifier() and find_spec(package) is not None
    except (ImportError, ValueError):  # it is there, and broken
        return False


def _cure(name: str) -> str:
    return nearest(name, LOGGERS) or f"; known: {', '.join(LOGGERS)}, and packages that are installed"
