"""The process that has an address, as far as the system shows it to this user."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LISTENS = "0A"


def occupant(bind: str, port: int | None, proc: Path = Path("/proc")) -> str:
    """Return ``process 4711 (nginx)`` for the process that listens at a port or unix socket; empty if none is found."""
    sockets = {*(_at_path(bind.removeprefix("unix:"), proc) if port is None else _at_port(port, proc))}
    if not sockets:
        return ""
    for folder in proc.glob("[0-9]*"):
        with suppress(OSError):  # of another user, or gone meanwhile
            if any(os.readlink(one) in sockets for one in (folder / "fd").iterdir()):
                return f"process {folder.name} ({(folder / 'comm').read_text(errors='replace').strip()})"
    return ""


def _at_port(port: int, proc: Path) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        for words in _rows(proc / "net" / table):
            if len(words) > 9 and words[3] == _LISTENS and int(words[1].rpartition(":")[2], 16) == port:
                yield f"socket:[{words[9]}]"


def _at_path(path: str, proc: Path) -> Iterator[str]:
    for words in _rows(proc / "net" / "unix"):
        if len(words) > 7 and words[7] == path:
            yield f"socket:[{words[6]}]"


def _rows(table: Path) -> list[list[str]]:
    try:
        return [line.split(maxsplit=11) for line in table.read_text(errors="replace").splitlines()[1:]]
    except OSError:
        return []
