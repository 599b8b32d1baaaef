"""A program that runs commands whose standard streams are closed, full or not read, each in a fork of its own.

It reads lines ``[state, arguments, folder]`` and answers ``[code, output, errors]`` for each, as JSON. The fork has the
streams that an interpreter would have made at its start, and ends as an interpreter ends.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from nodekit.cli import main

OUT, ERR = 1, 2
STATES: dict[str, dict[int, str]] = {
    "good": {},
    "out closed": {OUT: "closed"},
    "out full": {OUT: "full"},
    "out not read": {OUT: "not read"},
    "err closed": {ERR: "closed"},
    "err full": {ERR: "full"},
    "err not read": {ERR: "not read"},
    "both closed": {OUT: "closed", ERR: "closed"},
    "both full": {OUT: "full", ERR: "full"},
}
"""Faults of the streams; those without one are files."""


def leaves(command: click.Command, ctx: click.Context, *above: str) -> dict[str, click.Command]:
    """Return all commands and groups by their names, those of other packages included."""
    found = {" ".join(above): command}
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner is not None
            found |= leaves(inner, click.Context(inner, parent=ctx, info_name=name), *above, name)
    return found


def commands() -> list[str]:
    return [*leaves(main, click.Context(main, info_name="nodekit"))]


def _set_up(state: dict[int, str], folder: Path) -> None:
    """Give this process its standard streams."""
    for number, name in ((OUT, "out"), (ERR, "err")):
        what = state.get(number)
        if what == "not read":
            end, other = os.pipe()
            os.close(end)
        else:
            path = "/dev/full" if what == "full" else str(folder / name)
            other = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(other, number)
        os.close(other)
        stream: Any = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - to the end
        if what == "closed":
            os.close(number)
            stream = None
        if number == OUT:
            sys.stdout = sys.__stdout__ = stream  # type: ignore[misc]
        else:
            sys.stderr = sys.__stderr__ = stream  # type: ignore[misc]


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


if __name__ == "__main__":
    answers = os.fdopen(os.dup(OUT), "w")
    commands()  # imports those of other packages
    gc.freeze()  # the end of an interpreter takes long if it collects all that
    for line in sys.stdin:
        state, arguments, folder = json.loads(line)
        for name in ("out", "err"):
            Path(folder, name).unlink(missing_ok=True)
        if not (pid := os.fork()):
            os.chdir(folder)
            _set_up(STATES[state], Path(folder))
            main(arguments, prog_name="nodekit")
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps([code, _text(Path(folder, "out")), _text(Path(folder, "err"))]), file=answers, flush=True)
