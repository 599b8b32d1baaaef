"""The checks of `nodekit doctor` for the programs of a node file. That one is missing is a problem of the file."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from nodekit import ExaminedFile, Finding
from nodekit_process._config import ProcessContainer, environment

SCRIPTS = (".py", ".sh", ".js", ".mjs", ".rb", ".pl", ".jar")
_HEAD_BYTES = 256
_ELF = b"\x7fELF"


def findings(file: ExaminedFile | None = None) -> Iterator[Finding]:
    """Report the programs that the containers of the node file are, and what keeps them from starting."""
    for runner in file.of("runner", "process") if file else ():
        assert file is not None
        for number, container in enumerate(runner.config.containers):
            folder = file.file.folder / (container.folder or "")
            yield from _of_container(f"{runner.where}.containers[{number}].command", container, folder)


def _of_container(where: str, container: ProcessContainer, folder: Path) -> Iterator[Finding]:
    name = container.command[0] if container.command else ""
    path = environment(container).get("PATH", os.defpath)
    found = shutil.which(folder / name) if "/" in name else shutil.which(name, path=path)
    if found is None:
        return  # the file does not compose, and says so
    if (problem := _problem(Path(found), path)) is not None:
        yield Finding(
            "error", where, f"{found} {problem}", "correct its first line, or name its interpreter in `command`"
        )
    elif missing := next((one for one in container.command[1:] if _is_missing(one, folder)), None):
        text = f"there is no {folder / missing}, which looks like the script that {name} runs"
        yield Finding("warning", where, text, "correct the path, or `folder`")
    else:
        yield Finding("ok", where, f"{name} is {found}")


def _problem(program: Path, path: str) -> str | None:
    """Return why the system would not run a program that it may run."""
    try:
        with program.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:  # it may be run, but not read
        return None
    if not head:
        return "is empty"
    if not head.startswith(b"#!"):
        return None if head.startswith(_ELF) or b"\0" in head else "has no line #! that names its interpreter"
    line = head[2:].partition(b"\n")[0].decode(errors="replace")
    words = re.findall(r"[^ \t]+", line)  # a CR of Windows belongs to the name, as for the kernel
    if not words:
        return "has a line #! that names no interpreter"
    if not os.access(words[0], os.X_OK):
        return f"needs {words[0]!r}, which is not there"
    if Path(words[0]).name == "env" and len(words) == 2 and shutil.which(words[1], path=path) is None:
        return f"needs {words[1]!r}, which is not in PATH"
    return None


def _is_missing(argument: str, folder: Path) -> bool:
    return argument.endswith(SCRIPTS) and not argument.startswith("-") and not os.path.exists(folder / argument)
