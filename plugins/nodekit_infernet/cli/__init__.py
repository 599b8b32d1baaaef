"""The command `nodekit migrate`."""

import sys
from pathlib import Path

import click

from nodekit import CompositionError, counted, printable
from nodekit_infernet._migration import Migration, migrated, write

__all__ = ["migrate"]

BAD_NODE_FILE = 3
MOST_SHOWN = 100
"""Number of problems that are shown at most."""


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it to this new file, and secrets to files in a folder beside it, for the owner only.",
)
def migrate(file: str, output: Path | None) -> None:
    """Print a node file that is equivalent to the config.json of an Infernet node.

    Comments say what has changed. Secrets, and all values of env, are not printed: the node file refers to environment
    variables, which standard error lists, or with --output to files. What may hold a secret and is printed all the same
    is listed, too. Exits with 0, or with 3 and a line per problem of the config.json.
    """
    if output is not None and output.suffix.lower() not in ("", ".toml"):
        raise click.BadParameter("the name of a node file ends in .toml", param_hint="--output")
    try:
        migration = migrated(Path(file), None if output is None else f"{output.stem}.secrets")
    except CompositionError as error:
        for problem in error.problems[:MOST_SHOWN]:
            _tell(str(problem) if problem.where == file else f"{file}: {problem}")
        if (more := len(error.problems) - MOST_SHOWN) > 0:
            _tell(f"{file}: {counted(more, 'more problem', 'is', 'are')} not shown; correct these first")
        sys.exit(BAD_NODE_FILE)
    except OSError as error:
        raise click.ClickException(printable(f"the node file cannot be checked: {error}; make room for it")) from error
    if output is None:
        click.echo(migration.text.encode(), nl=False)
    else:
        _write(migration, output)
    if output is not None and output.absolute().parent != Path(file).absolute().parent:
        text = f"relative paths in {output} begin in its own folder; to keep jobs.db and the log, move them there"
        _tell(text)
    for reference in migration.references:
        _tell(f"set {reference.variable} to {reference.origin} of {file}")
    for origin in migration.copied:
        _tell(f"look at {origin} of {file}: it is written as it was; move a secret in it into a file or a variable")


def _write(migration: Migration, output: Path) -> None:
    try:
        write(migration, output)
    except OSError as error:
        text = (
            f"{error.filename or output} cannot be written: {error.strerror}; name a new file, in a folder that exists"
        )
        raise click.ClickException(printable(text)) from error


def _tell(text: str) -> None:
    click.echo(printable(text), err=True)
