"""The command `list`: the jobs of this client, or for an operator those of others."""

import sys
from collections.abc import Iterable
from itertools import islice
from typing import Any

import click
import msgspec

from nodekit import counted
from nodekit_asgi.cli.address import Address
from nodekit_asgi.cli.client import NodeClient
from nodekit_asgi.cli.going_on import runs_again
from nodekit_asgi.cli.group import job
from nodekit_asgi.cli.job_table import table_head, table_rows
from nodekit_asgi.cli.listing import IDS_AT_ONCE, find_histories, list_ids
from nodekit_asgi.cli.options import list_filters, node_options
from nodekit_asgi.cli.output import columns_of, notice, one_line, say, say_json

ROWS = 20
"""Rows of a table, unless the options say otherwise."""


@job.command("list")
@click.option("--pending", is_flag=True, help="Only jobs that are not finished.")
@click.option("--finished", is_flag=True, help="Only finished jobs.")
@click.option("--status", type=click.Choice(["running", "success", "failed"]), help="Only jobs of this status.")
@click.option("--container", metavar="ID", help="With --status failed: only jobs that failed in this container.")
@click.option("--error", metavar="TEXT", help="With --status failed: only jobs whose error contains this.")
@click.option(
    "--order",
    type=click.Choice(["newest", "oldest", "finished"]),
    default="newest",
    show_default=True,
    help="The newest or the oldest jobs first, or the job that finished first.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N jobs; in a table 20.")
@click.option("--no-limit", "every", is_flag=True, help="All jobs, also in a table.")
@click.option("--all", "everybody", is_flag=True, help="Jobs of all clients; for operators.")
@click.option("--client", metavar="NAME", help="Jobs of this client; for operators.")
@click.option("--ids", "only_ids", is_flag=True, help="Print all ids and nothing else.")
@node_options
def list_(node: Address, as_json: bool, only_ids: bool, every: bool, limit: int | None, **chosen: Any) -> None:
    """Print a table of this client's jobs, the newest first: id, status, age, steps done, containers or error.

    --ids and --json print ids: all of them, or --limit.
    """
    if every and limit is not None:
        raise click.UsageError("--no-limit and --limit exclude each other; leave one out")
    if only_ids and as_json:
        raise click.UsageError("--ids and --json exclude each other: a JSON array of ids, or one id a line")
    filters = list_filters(**chosen)
    with runs_again(), NodeClient(node) as client:
        if as_json:
            say_json(msgspec.json.encode(list(list_ids(client, filters, limit))))
        elif only_ids:
            for id in list_ids(client, filters, limit):
                say(one_line(id))
        else:
            rows = None if every else limit or ROWS
            ids = list_ids(client, filters, None if rows is None else rows + 1)
            _print_table(client, ids, rows, clients=not filters.keys().isdisjoint({"all", "client"}))


def _print_table(client: NodeClient, ids: Iterable[str], limit: int | None, *, clients: bool) -> None:
    """Print the first jobs, and a notice if there are more. Ids are read page by page, and jobs a hundred at a time."""
    columns = columns_of(sys.stdout)
    left = iter(ids)
    shown = islice(left, limit)
    printed = False
    while some := list(islice(shown, IDS_AT_ONCE)):
        for row in table_rows(find_histories(client, some), columns, clients=clients):
            if not printed:  # a node that refuses to give the jobs gives no table
                say(table_head(columns, clients=clients))
            printed = True
            say(row)
    if not printed:
        notice("no jobs")
    elif next(left, None) is not None:
        notice(f"only {counted(limit or 0, 'job', 'is', 'are')} shown; --limit N and --no-limit show more of them")
