"""Commands for jobs whose ids are known: `get`, `cancel` and `show`."""

from collections.abc import Sequence

import click

from nodekit_asgi.cli.address import Address
from nodekit_asgi.cli.client import NodeClient
from nodekit_asgi.cli.cures import about
from nodekit_asgi.cli.going_on import runs_again
from nodekit_asgi.cli.group import job
from nodekit_asgi.cli.history import history_lines
from nodekit_asgi.cli.job_ids import ids_argument, job_path
from nodekit_asgi.cli.listing import cancel_jobs, find_jobs
from nodekit_asgi.cli.options import node_options
from nodekit_asgi.cli.output import say, say_json
from nodekit_asgi.cli.replies import History
from nodekit_asgi.cli.results import Results


@job.command()
@ids_argument
@click.option("--intermediate", is_flag=True, help="Print the output of every step.")
@node_options
def get(node: Address, as_json: bool, ids: Sequence[str], intermediate: bool) -> None:
    """Print the status of jobs, and the output or the error. An ID of - reads ids from standard input.

    Exits with 0 however the jobs ended, with 1 when one of them is not known.
    """
    with runs_again(), NodeClient(node) as client, Results(ids, as_json=as_json, intermediate=intermediate) as results:
        for found in find_jobs(client, ids, intermediate=intermediate):
            results.show(*found)
    results.exit_if_missing()


@job.command()
@ids_argument
@node_options
def cancel(node: Address, as_json: bool, ids: Sequence[str]) -> None:
    """Cancel jobs. A finished job does not change. An ID of - reads ids from standard input.

    Exits with 0 when none of them runs any more, with 1 when one of them is not known.
    """
    with runs_again(), NodeClient(node) as client, Results(ids, as_json=as_json) as results:
        for found in cancel_jobs(client, ids):
            results.show(*found)
    results.exit_if_missing()


@job.command()
@click.argument("id", metavar="ID")
@node_options
def show(node: Address, as_json: bool, id: str) -> None:
    """Print the history of a job: when it was accepted and finished, and each attempt of each step."""
    with runs_again(), about(id), NodeClient(node) as client:
        reply = client.request("GET", job_path(id))
    history = reply.read_as(History)
    if as_json:
        say_json(reply.body)
    else:
        for line in history_lines(history):
            say(line)
