"""The command `nodekit config`, which shows what a node file may say, and what one says in effect."""

from pathlib import Path

import click
import msgspec

from nodekit.cli.config.effective import effective
from nodekit.cli.config.schema import NodeSchema
from nodekit.cli.config.toml import toml
from nodekit.cli.exit_codes import bad_node_file
from nodekit.config.compose import compose_file
from nodekit.config.formats import read_file
from nodekit.errors import CompositionError
from nodekit.foreign_text import printable


@click.group()
def config() -> None:
    """Show what a node file may say, and what one says in effect."""


@config.command()
@click.option("--output", type=click.Path(dir_okay=False, writable=True), help="Write it to this file.")
def schema(output: str | None) -> None:
    """Print the JSON Schema of node files, for the packages that are installed, so that editors complete and check.

    A package that cannot be imported is left out, with a note on standard error.
    """
    made = NodeSchema()
    text = msgspec.json.format(msgspec.json.encode(made.document()), indent=2).decode() + "\n"
    for note in made.notes:
        click.echo(f"note: {' '.join(note.split())}", err=True)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(
            f"{output} cannot be written: {error.strerror}; name another file with --output"
        ) from error


@config.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document, for programs.")
def show(file: str, as_json: bool) -> None:
    """Print what a node file says and every default, as a node file; secrets are hidden. Starts nothing."""
    try:
        read = read_file(file)
        node = compose_file(read, Path(file))
    except CompositionError as error:
        bad_node_file(file, error)
    for notice in read.notices:
        click.echo(printable(f"{file}: note: {notice}"), err=True)
    table = effective(read.written, node.name)
    if as_json:
        document = {"file": file, "tables": table.plain(), "defaults": list(table.defaults())}
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))
    else:
        click.echo(toml(table), nl=False)
