"""`nodekit doctor`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from itertools import chain
from pathlib import Path

import click

from nodekit.cli.check import warnings_of
from nodekit.cli.doctor.checks import Check, checks_of_packages, examine
from nodekit.cli.doctor.machine import clock, disk, open_files, python
from nodekit.cli.doctor.node_file import checks_of_file
from nodekit.cli.doctor.packages import checks_of_providers, clashes, installed, metadata, providers
from nodekit.cli.exit_codes import FAILED
from nodekit.cli.reports import Reported, print_document, reported
from nodekit.config.compose import examine_file, log_settings
from nodekit.config.formats import FileTables, read_file
from nodekit.config.log_settings import LogSettings
from nodekit.errors import CompositionError
from nodekit.node.node import Node

_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}


@click.command()
@click.argument("file", type=click.Path(dir_okay=False), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document, for programs.")
def doctor(file: str | None, as_json: bool) -> None:
    """Look for problems on this machine, in the installed packages and in FILE.

    Prints a line per finding, with the cure. Exits with 0, or with 1 if something is an error.
    """
    found: list[Reported] = []
    if as_json:
        with redirect_stdout(sys.stderr):  # a package that prints is not part of the document
            found += [one for _, one in _findings(file)]
        print_document(found, file=file)
    else:
        for whose, one in _findings(file):
            found.append(one)
            click.echo(f"{click.style(f'{one.severity:<8}', fg=_COLOURS[one.severity])}{_line(whose, one)}")
    sys.exit(FAILED if any(one.severity == "error" for one in found) else 0)


def _findings(file: str | None) -> Iterator[tuple[str, Reported]]:
    """Yield what is found, each with the file if it is a problem of it."""
    yield from _made(_checks())
    if file is None:
        yield from _made(checks_of_packages(None))
        return
    try:
        read = read_file(file)
    except CompositionError as error:
        yield from _made(checks_of_packages(None))
        yield from ((file, reported(problem, file)) for problem in error.problems)
        return
    examined, limits, made = examine_file(read, Path(file))
    composed = [*_composed(file, read, made)]
    known = {(one.where, one.text) for one in composed}
    checks = chain(
        checks_of_packages(examined), checks_of_file(examined, read.tables, read.written, _log(read, file), limits)
    )
    for whose, one in _made(checks, read.hide):
        if (one.where, one.text) not in known:
            known.add((one.where, one.text))
            yield whose, one
    yield from ((file, one) for one in composed)


def _made(checks: Iterator[tuple[str, Check]], hide: Callable[[str], str] = str) -> Iterator[tuple[str, Reported]]:
    """Yield the findings of checks, without values of the file's environment variables."""
    for name, check in checks:
        for finding in examine(name, check):
            yield "", Reported(finding.level, finding.subject, hide(finding.text), hide(finding.cure))


def _checks() -> Iterator[tuple[str, Check]]:
    yield "nodekit", installed
    yield "packages", clashes
    yield "Python", python
    yield "clock", clock
    yield "open files", open_files
    yield "disk", disk
    yield "providers", providers
    yield "metadata", metadata
    yield from checks_of_providers()


def _log(read: FileTables, file: str) -> LogSettings | None:
    try:
        return log_settings(read.tables, Path(file))
    except CompositionError:
        return None


def _composed(file: str, read: FileTables, made: Node | CompositionError) -> Iterator[Reported]:
    if isinstance(made, CompositionError):
        yield from (reported(problem, file) for problem in made.problems)
        return
    containers = ", ".join(made.containers) or "none"
    yield from (Reported("note", "", notice, "") for notice in read.notices)
    yield from (reported(warning, file, "warning") for warning in warnings_of(read, made))
    yield Reported("ok", "", f"composes; the node's name: {made.name}; its containers: {containers}", "")


def _line(whose: str, one: Reported) -> str:
    text = ": ".join(filter(None, (whose, one.where, one.text))) + (f"; {one.cure}" if one.cure else "")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
