"""`nodekit prune`."""

import time

import click
from msgspec.structs import replace

from nodekit.cli.store.ages import age_seconds
from nodekit.cli.store.audited import audited
from nodekit.cli.store.node_store import run, store_of
from nodekit.errors import NodekitError
from nodekit.interfaces.store import JobStore
from nodekit.interfaces.store_abilities import JobView
from nodekit.model.counting import counted
from nodekit.model.queries import JobFields, JobQuery
from nodekit.node.retention import in_slices


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--older-than", callback=age_seconds, required=True, metavar="AGE", help="Such as 7d, 12h or 30m.")
@click.option("--dry-run", is_flag=True, help="Only count the jobs.")
def prune(file: str, older_than: float, dry_run: bool) -> None:
    """Delete jobs that finished longer ago than AGE from the store of a node file.

    The node may run meanwhile, or not. Unfinished jobs stay. Exits with 0, 3 when the table [store] is not valid, 1
    when the store fails.
    """
    store, before = store_of(file), time.time() - older_than

    async def pruned() -> int:
        async with _view(store) as view:
            if dry_run:
                return await _count(view, before)
            return await in_slices(
                lambda limit: view.expire(finished_before=before, keep=None, limit=limit), time.monotonic
            )

    count = run(file, pruned)
    jobs = counted(count, "finished job")
    if not dry_run:
        audited(file, "prune", f"{jobs} deleted that finished more than {older_than:g} s ago")
    click.echo(f"{file}: {jobs} would be deleted" if dry_run else f"{file}: {jobs} deleted")


def _view(store: JobStore) -> JobView:
    view = getattr(store, "view", None)
    if view is None:
        raise NodekitError(
            "this kind of store cannot be opened beside its node (it has no `view`); set keep_finished_seconds"
        )
    opened: JobView = view()
    return opened


async def _count(view: JobView, before: float) -> int:
    """Return the number of jobs that finished before a time, or before one that did."""
    query, count, between = JobQuery(order="finished"), 0, 0
    while jobs := await view.get(await view.find(query), fields=JobFields.STATE):
        old = [place for place, job in enumerate(jobs) if job.finished_at is not None and job.finished_at < before]
        if old:
            count, between = count + between + old[-1] + 1, len(jobs) - old[-1] - 1
        elif all(job.finished_at is not None and job.finished_at > time.time() for job in jobs):
            between += len(jobs)  # a clock that was ahead gave them these times
        else:
            break
        query = replace(query, after=query.cursor(jobs[-1]))
    return count
