"""Problems as JSON documents for programs, the same for every command that prints them."""

from collections.abc import Iterable
from typing import Any

import click
import msgspec

from nodekit.config.findings import Finding, Level
from nodekit.errors import Problem
from nodekit.foreign_text import printable_json


class Reported(msgspec.Struct, frozen=True):
    """A problem, or what else a command has found.

    - `where`: Key path in the file, or the subject of a check; empty for the file as a whole.
    - `cure`: What to do; empty if the text says it.
    """

    severity: Level
    where: str
    text: str
    cure: str


def reported(problem: Problem, file: str, severity: Level = "error") -> Reported:
    """Report a problem of a file. What follows its first semicolon is the cure."""
    where = "" if problem.where == file else str(Problem("", problem.where))
    found = Finding.from_text(severity, where, str(Problem("", problem.text)))
    return Reported(found.level, found.subject, found.text, found.cure)


def print_document(found: Iterable[Reported], **more: Any) -> bool:
    """Print a document with these problems and fields. Return True if none of the problems is an error."""
    problems = list(found)
    ok = not any(problem.severity == "error" for problem in problems)
    document = msgspec.json.encode({**more, "ok": ok, "problems": problems})
    click.echo(printable_json(msgspec.json.format(document)))
    return ok
