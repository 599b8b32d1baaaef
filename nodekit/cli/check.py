"""`nodekit check`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import click

from nodekit.cli.exit_codes import BAD_NODE_FILE, bad_node_file
from nodekit.cli.reports import print_document, reported
from nodekit.config.compose import compose_file
from nodekit.config.formats import FileTables, read_file
from nodekit.errors import CompositionError, Problem
from nodekit.foreign_text import printable
from nodekit.model.counting import counted
from nodekit.node.node import Node


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document, for programs.")
@click.option("--strict", is_flag=True, help="Exit with 3 also if there are only warnings.")
def check(file: str, as_json: bool, strict: bool) -> None:
    """Check if a node file composes, and print its problems. Starts nothing.

    Exits with 0, or with 3 and a line per problem.
    """
    try:
        with redirect_stdout(sys.stderr):  # a package that prints is not part of the document
            read = read_file(file)
            node = compose_file(read, Path(file))
    except CompositionError as error:
        if as_json:
            print_document((reported(problem, file) for problem in error.problems), file=file, containers=[])
            sys.exit(BAD_NODE_FILE)
        bad_node_file(file, error)
    warnings = list(warnings_of(read, node))
    if as_json:
        found = [reported(warning, file, "warning") for warning in warnings]
        found += [reported(Problem("", notice), file, "note") for notice in read.notices]
        print_document(found, file=file, containers=list(node.containers))
    else:
        _print(file, node, read.notices, warnings)
    sys.exit(BAD_NODE_FILE if warnings and strict else 0)


def warnings_of(read: FileTables, node: Node) -> Iterator[Problem]:
    """Yield what is legal in a node file, and hardly meant."""
    if not read.tables.get("transports"):
        yield Problem("transports", 'there is none, so the node serves nobody; add [[transports]] with use = "asgi"')
    if not node.containers:
        yield Problem(
            "runners", "there is no container, so every job is refused; add one below a runner of [[runners]]"
        )


def _print(file: str, node: Node, notices: Sequence[str], warnings: Sequence[Problem]) -> None:
    for notice in notices:
        click.echo(printable(f"{file}: note: {notice}"), err=True)
    for warning in warnings:
        click.echo(f"{file}: warning: {warning}", err=True)
    containers = len(node.containers)
    click.echo(f"{file}: ok ({counted(containers, 'container')})")
