"""`nodekit store export`."""

import sys
from typing import Any, get_args

import click

from nodekit.cli.exit_codes import FAILED
from nodekit.cli.store.node_store import run, store_of, view_of
from nodekit.cli.store.options import FILE, choosing
from nodekit.cli.store.output import echo_json_line, job_document
from nodekit.cli.store.reading import Choice, Reader
from nodekit.foreign_text import printable
from nodekit.interfaces.store import JobStore
from nodekit.model.queries import JobOrder


@click.command()
@FILE
@choosing
@click.option("--order", type=click.Choice(get_args(JobOrder)), default="oldest", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first jobs, this many.")
def export(file: str, **chosen: Any) -> None:
    """Print all jobs of the store of a node file, each whole as a line of JSON.

    The node may run meanwhile, or not. Nothing is written. Exits with 0, 3 when the table [store] is not valid, 1 when
    the store fails or a job cannot be read: it is named, and the others are printed.
    """
    store = store_of(file)
    sys.exit(0 if run(file, lambda: _export(store, Choice(**chosen))) else FAILED)


async def _export(store: JobStore, choice: Choice) -> bool:
    async with view_of(store) as view:
        reader = Reader(view)
        async for page in reader.states(choice):
            async for jobs in reader.whole([job.id for job in page]):
                for job in jobs:
                    echo_json_line(job_document(job))
        problems = reader.problems
    for id, text in problems.items():
        click.echo(printable(f"job {id} is left out: {text}"), err=True)
    return not problems
