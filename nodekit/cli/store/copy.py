"""`nodekit store copy`."""

import os
import sys
from typing import Any

import click

from nodekit.cli.exit_codes import FAILED
from nodekit.cli.store.copying import Copied, copy
from nodekit.cli.store.node_store import failures, run, store_of
from nodekit.errors import NodekitError
from nodekit.foreign_text import printable
from nodekit.interfaces.store import JobStore
from nodekit.interfaces.store_abilities import JobArchive
from nodekit.model.counting import counted


@click.command(name="copy")
@click.argument("source", metavar="FROM", type=click.Path(dir_okay=False))
@click.argument("target", metavar="TO", type=click.Path(dir_okay=False))
@click.option("--without-records", is_flag=True, help="Leave out the records of plugins.")
def copy_store(source: str, target: str, without_records: bool) -> None:
    """Copy all jobs from the store of the node file FROM to the store of the node file TO.

    No node may run with either. TO has no jobs yet, or those that an interrupted copy has left: then it goes on. Exits
    with 0, 3 when a table [store] is not valid, 1 when a store fails, is in use, or has a job that cannot be read.
    """
    if os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
        raise click.UsageError("FROM and TO are the same node file; write a second one with the other store")
    old, new = store_of(source), store_of(target)

    async def copied() -> Copied:
        async with _archive(old, create=False, name="FROM") as here, _archive(new, create=True, name="TO") as there:
            return await copy(here, there, with_records=not without_records)

    found = run(f"{source} to {target}", copied)
    for id, text in found.failed.items():
        click.echo(printable(f"job {id} is left out: {text}"), err=True)
    there = f", {found.there} {'was' if found.there == 1 else 'were'} there already" if found.there else ""
    records = f"; {counted(found.records, 'record')} of plugins" if found.records else ""
    jobs = counted(found.jobs, "job", "was", "were")
    with failures(target):
        click.echo(printable(f"{target}: {jobs} copied and compared{there}{records}"))
    if found.failed:
        sys.exit(FAILED)


def _archive(store: JobStore, *, create: bool, name: str) -> JobArchive:
    call: Any = getattr(store, "archive", None)
    if call is None:
        raise NodekitError(f"the kind of store of {name} cannot be copied (it has no `archive`); use its own tools")
    archive: JobArchive = call(create=create)
    return archive
