"""`nodekit check`."""

from pathlib import Path

import click

from nodekit.cli.exit_codes import bad_node_file
from nodekit.config.compose import compose_file
from nodekit.config.formats import read_tables
from nodekit.errors import CompositionError
from nodekit.foreign_text import printable


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
def check(file: str) -> None:
    """Check if a node file composes, and print its problems. Starts nothing.

    Exits with 0, or with 3 and a line per problem.
    """
    try:
        read = read_tables(file)
        node = compose_file(read, Path(file))
    except CompositionError as error:
        bad_node_file(file, error)
    for notice in read.notices:
        click.echo(printable(f"{file}: note: {notice}"), err=True)
    containers = len(node.containers)
    click.echo(f"{file}: ok ({containers} container{'s' * (containers != 1)})")
