"""The command `nodekit migrate`."""

import sys
from pathlib import Path

import click

from nodekit import CompositionError
from nodekit_infernet._migration import migrated

__all__ = ["migrate"]

BAD_NODE_FILE = 3


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
def migrate(file: str) -> None:
    """Print a node file that is equivalent to the config.json of an Infernet node.

    Comments say what has changed. Secrets are written as references to environment variables, which standard error
    lists. Exits with 0, or with 3 and a line per problem of the config.json.
    """
    try:
        text, references = migrated(Path(file))
    except CompositionError as error:
        for problem in error.problems:
            click.echo(str(problem) if problem.where == file else f"{file}: {problem}", err=True)
        sys.exit(BAD_NODE_FILE)
    sys.stdout.buffer.write(text.encode())
    for reference in references:
        click.echo(f"set {reference.variable} to {reference.origin} of {file}", err=True)
