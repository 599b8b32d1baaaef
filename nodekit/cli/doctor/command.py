"""`nodekit doctor`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from nodekit.cli.doctor.checks import Check, checks_of_packages, examine
from nodekit.cli.doctor.machine import disk, open_files, python
from nodekit.cli.doctor.packages import checks_of_providers, clashes, installed, metadata, providers
from nodekit.cli.exit_codes import FAILED
from nodekit.config.compose import compose_file
from nodekit.config.findings import Finding
from nodekit.config.formats import read_file
from nodekit.errors import CompositionError

_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}


@click.command()
@click.argument("file", type=click.Path(dir_okay=False), required=False)
def doctor(file: str | None) -> None:
    """Look for problems on this machine, in the installed packages and in FILE.

    Prints a line per finding, with the cure. Exits with 0, or with 1 if something is an error.
    """
    worst = 0
    for finding in _findings(file):
        click.echo(f"{click.style(f'{finding.level:<8}', fg=_COLOURS[finding.level])}{_line(finding)}")
        worst = max(worst, FAILED if finding.level == "error" else 0)
    sys.exit(worst)


def _findings(file: str | None) -> Iterator[Finding]:
    for name, check in _checks():
        yield from examine(name, check)
    if file is not None:
        yield from _composes(file)


def _checks() -> Iterator[tuple[str, Check]]:
    yield "nodekit", installed
    yield "packages", clashes
    yield "Python", python
    yield "open files", open_files
    yield "disk", disk
    yield "providers", providers
    yield "metadata", metadata
    yield from checks_of_providers()
    yield from checks_of_packages()


def _composes(file: str) -> Iterator[Finding]:
    try:
        read = read_file(file)
        node = compose_file(read, Path(file))
    except CompositionError as error:
        for problem in error.problems:
            yield Finding("error", file, problem.text if problem.where == file else str(problem))
    else:
        containers = ", ".join(node.containers) or "none"
        yield from (Finding("note", file, notice) for notice in read.notices)
        yield Finding("ok", file, f"composes; the node's name: {node.name}; its containers: {containers}")


def _line(finding: Finding) -> str:
    text = f"{finding.subject}: {finding.text}{f'; {finding.cure}' if finding.cure else ''}"
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
