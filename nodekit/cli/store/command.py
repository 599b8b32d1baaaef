"""`nodekit store`."""

import click

from nodekit.cli.store.opened import run, store_of
from nodekit.errors import NodekitError


@click.group()
def store() -> None:
    """Work on the store of a node file."""


@store.command()
@click.argument("file", type=click.Path(dir_okay=False))
def compact(file: str) -> None:
    """Give the space of deleted jobs back to the file system, while no node runs.

    New stores do so by themselves, once they have been compacted or from the start. Exits with 0, 3 when the node file
    does not compose, 1 when the store fails or a node works on it.
    """
    opened = store_of(file)

    async def compacted() -> int:
        if (call := getattr(opened, "compact", None)) is None:
            raise NodekitError("this kind of store has nothing to compact (it has no `compact`)")
        freed: int = await call()
        return freed

    click.echo(f"{file}: {run(file, compacted)} bytes were given back")
