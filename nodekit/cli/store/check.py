"""`nodekit store check`."""

import sys
from typing import Any

import click

from nodekit.cli.exit_codes import FAILED
from nodekit.cli.store.node_store import failures, run, store_of, view_of
from nodekit.cli.store.options import FILE
from nodekit.cli.store.reading import Choice, Reader
from nodekit.foreign_text import printable
from nodekit.interfaces.store import JobStore
from nodekit.interfaces.store_abilities import StoreCheck
from nodekit.model.counting import counted

MOST_SHOWN = 100
CURE = "restore a backup; jobs that cannot be read can be deleted if they have finished"


@click.command()
@FILE
def check(file: str) -> None:
    """Read everything that the store of a node file keeps, and say what is damaged.

    The node may run meanwhile, or not. Nothing is written. Exits with 0 when everything is as it was written, 3 when
    the table [store] is not valid, 1 when something is damaged or the store fails.
    """
    store = store_of(file)
    found = run(file, lambda: _check(store))
    with failures(file):
        _echo(file, found)
    sys.exit(FAILED if found.problems else 0)


def _echo(file: str, found: StoreCheck) -> None:
    jobs = counted(found.jobs, "job", "was", "were")
    if not found.problems:
        click.echo(f"{file}: {jobs} read; nothing is damaged")
        return
    for text in found.problems[:MOST_SHOWN]:
        click.echo(printable(text, keep=""))
    if (more := found.more + len(found.problems) - MOST_SHOWN) > 0:
        click.echo(f"{counted(more, 'more problem', 'is', 'are')} not shown")
    number = len(found.problems) + found.more
    text = f"{file}: {jobs} read; {counted(number, 'problem', 'was', 'were')} found"
    click.echo(printable("; ".join(filter(None, (text, found.cure)))), err=True)


async def _check(store: JobStore) -> StoreCheck:
    verify: Any = getattr(store, "verify", None)
    if verify is not None:
        found: StoreCheck = await verify()
        return found
    number = 0
    async with view_of(store) as view:
        reader = Reader(view)
        async for page in reader.states(Choice()):
            number += len(page)
            async for _ in reader.whole([job.id for job in page]):
                pass
        return StoreCheck(
            number, [f"job {id} cannot be read: {text}" for id, text in reader.problems.items()], cure=CURE
        )
