"""Commands for jobs that are there: `get`, `cancel`, `list` and `show`."""

import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click
import msgspec
from msgspec import Raw

from nodekit_asgi.cli.address import Address
from nodekit_asgi.cli.client import NodeClient
from nodekit_asgi.cli.group import job
from nodekit_asgi.cli.history import history_lines
from nodekit_asgi.cli.listing import cancel_jobs, find_jobs, list_ids
from nodekit_asgi.cli.options import list_filters, node_options
from nodekit_asgi.cli.output import notice, one_line, say, say_job, say_json, say_json_list
from nodekit_asgi.cli.problems import FAILED
from nodekit_asgi.cli.replies import History, JobResult


@job.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--intermediate", is_flag=True, help="Print the output of every step.")
@node_options
def get(node: Address, as_json: bool, ids: tuple[str, ...], intermediate: bool) -> None:
    """Print the status of jobs, and the output or the error.

    Exits with 0 however the jobs ended, with 1 when one of them is not known.
    """
    with NodeClient(node) as client:
        found = list(find_jobs(client, ids, intermediate=intermediate))
    _show(ids, found, as_json, lambda result: say_job(result, intermediate=intermediate))


@job.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@node_options
def cancel(node: Address, as_json: bool, ids: tuple[str, ...]) -> None:
    """Cancel jobs. A finished job does not change.

    Exits with 0 when none of them runs any more, with 1 when one of them is not known.
    """
    with NodeClient(node) as client:
        found = list(cancel_jobs(client, ids))
    _show(ids, found, as_json, lambda result: say_job(result, intermediate=False))


def _show(
    ids: tuple[str, ...], found: list[tuple[JobResult, Raw]], as_json: bool, show: Callable[[JobResult], None]
) -> None:
    """Print the jobs that were found. Exit with `FAILED` if some were not."""
    if as_json:
        say_json_list(raw for _, raw in found)
    else:
        for result, _ in found:
            show(result)
    known = {result.id for result, _ in found}
    if missing := [id for id in dict.fromkeys(ids) if id.lower() not in known]:
        notice(f"no such job: {', '.join(missing)} (only the client that submitted a job can read it)")
        sys.exit(FAILED)


@job.command("list")
@click.option("--pending", is_flag=True, help="Only jobs that are not finished.")
@click.option("--finished", is_flag=True, help="Only finished jobs.")
@click.option("--status", type=click.Choice(["running", "success", "failed"]), help="Only jobs of this status.")
@click.option("--container", metavar="ID", help="With --status failed: only jobs that failed in this container.")
@click.option("--error", metavar="TEXT", help="With --status failed: only jobs whose error contains this.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N jobs; by default all.")
@node_options
def list_(node: Address, as_json: bool, limit: int | None, **chosen: Any) -> None:
    """Print the ids of this client's jobs, oldest first."""
    filters = list_filters(**chosen)
    with NodeClient(node) as client:
        ids = list_ids(client, filters, limit)
        if as_json:
            say_json(msgspec.json.encode(list(ids)))
        else:
            for id in ids:
                say(one_line(id))


@job.command()
@click.argument("id", metavar="ID")
@node_options
def show(node: Address, as_json: bool, id: str) -> None:
    """Print the history of a job: when it was accepted and finished, and each attempt of each step."""
    with NodeClient(node) as client:
        reply = client.request("GET", f"/api/jobs/{quote(id, safe='')}")
    history = reply.read_as(History)
    if as_json:
        say_json(reply.body)
    else:
        for line in history_lines(history):
            say(line)
