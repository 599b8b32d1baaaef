"""`nodekit store`."""

import click

from nodekit.cli.store.backup import backup
from nodekit.cli.store.check import check
from nodekit.cli.store.copy import copy_store
from nodekit.cli.store.export import export
from nodekit.cli.store.jobs import jobs
from nodekit.cli.store.node_store import run, store_of
from nodekit.cli.store.stats import stats
from nodekit.errors import NodekitError
from nodekit.model.counting import counted


@click.group()
def store() -> None:
    """Work on the store of a node file."""


for command in (backup, check, copy_store, export, jobs, stats):
    store.add_command(command)


@store.command()
@click.argument("file", type=click.Path(dir_okay=False))
def compact(file: str) -> None:
    """Give the space of deleted jobs back to the file system, while no node runs.

    New files do so by themselves; an older one does once it has been compacted. Exits with 0, 3 when the table
    [store] is not valid, 1 when the store fails or a node works on it.
    """
    composed = store_of(file)

    async def compacted() -> int:
        if (call := getattr(composed, "compact", None)) is None:
            raise NodekitError("this kind of store has nothing to compact (it has no `compact`); use its own tools")
        freed: int = await call()
        return freed

    click.echo(f"{file}: {counted(run(file, compacted), 'byte', 'was', 'were')} given back")


@store.command()
@click.argument("file", type=click.Path(dir_okay=False))
def migrate(file: str) -> None:
    """Create or upgrade the tables of a store with versions, such as postgres.

    Nodes may work on it meanwhile. With `migrate = false`, nodes leave it to this command, and their role need not be
    able to create tables. Exits with 0, 3 when the table [store] is not valid, 1 when the store fails.
    """
    composed = store_of(file)

    async def migrated() -> str:
        if (call := getattr(composed, "migrate", None)) is None:
            raise NodekitError("this kind of store has no versions to migrate (it has no `migrate`); start its node")
        done: str = await call()
        return done

    click.echo(f"{file}: {run(file, migrated)}")
