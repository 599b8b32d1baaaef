"""`nodekit store backup`."""

from pathlib import Path
from typing import Any

import click

from nodekit.cli.store.node_store import failures, run, store_of
from nodekit.cli.store.options import FILE
from nodekit.errors import NodekitError
from nodekit.foreign_text import printable
from nodekit.model.counting import counted


@click.command()
@FILE
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace TARGET if it exists, once the backup is complete.")
@click.option("--even-damaged", is_flag=True, help="Keep the backup of a store that is damaged.")
def backup(file: str, target: Path, force: bool, even_damaged: bool) -> None:
    """Write the store of a node file into the new file TARGET, as it is at one moment, and check that file.

    The node may run meanwhile, or not. Exits with 0, 3 when the table [store] is not valid, 1 when there is no complete
    backup: then TARGET is as it was before.
    """
    store = store_of(file)

    async def written() -> int:
        if (call := getattr(store, "backup", None)) is None:
            text = "this kind of store makes no backups (it has no `backup`)"
            raise NodekitError(f"{text}; use its own tools, or `nodekit store export`")
        write: Any = call
        size: int = await write(target, replace=force, even_damaged=even_damaged)
        return size

    size = run(file, written)
    with failures(file):
        how = ", damaged or not; `nodekit store check` says which" if even_damaged else " and checked"
        click.echo(printable(f"{file}: {counted(size, 'byte', 'was', 'were')} written to {target}{how}"))
