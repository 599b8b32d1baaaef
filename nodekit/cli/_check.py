"""`nodekit check`."""

import click

from nodekit.cli._exit import bad_node_file
from nodekit.config import load_node
from nodekit.errors import CompositionError


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
def check(file: str) -> None:
    """Say whether a node file composes, or what is wrong with it; start nothing.

    Exits with 0, or with 3 and a line per problem.
    """
    try:
        node = load_node(file)
    except CompositionError as error:
        bad_node_file(file, error)
    containers = len(node.containers)
    click.echo(f"{file}: ok ({containers} container{'s' * (containers != 1)})")
