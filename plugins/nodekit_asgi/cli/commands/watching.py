"""Commands that stay with jobs until they are finished: `wait` and `follow`."""

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial

import click
import msgspec

from nodekit_asgi.cli.address import Address
from nodekit_asgi.cli.client import NodeClient
from nodekit_asgi.cli.cures import about
from nodekit_asgi.cli.following import Event, follow_events, read_event
from nodekit_asgi.cli.going_on import jobs_go_on
from nodekit_asgi.cli.group import job
from nodekit_asgi.cli.job_ids import ids_argument, is_id
from nodekit_asgi.cli.listing import find_jobs
from nodekit_asgi.cli.options import json_option, node_option, node_options, timeout_option
from nodekit_asgi.cli.output import one_line, say, say_json, say_result
from nodekit_asgi.cli.problems import FAILED, CommandFailed, TimeIsUp
from nodekit_asgi.cli.progress_line import Progress
from nodekit_asgi.cli.replies import Accepted, JobResult, StepResult
from nodekit_asgi.cli.results import Results
from nodekit_asgi.cli.waiting import Deadline, finished_jobs

LAST_LOOK_SECONDS = 2.0
"""Time after the end of the waiting in which the jobs that are not finished are read."""


@job.command()
@ids_argument
@click.option("--intermediate", is_flag=True, help="Print the output of every step.")
@timeout_option
@node_options
def wait(node: Address, as_json: bool, ids: Sequence[str], intermediate: bool, timeout: float | None) -> None:
    """Wait until jobs are finished, and print them as `get` does. An ID of - reads ids from standard input.

    Exits with 0 when all have succeeded, with 1 when one has failed or is not known, with 5 when time is up. The jobs
    continue when the waiting ends.
    """
    with NodeClient(node) as client:
        results = Results(ids, as_json=as_json, intermediate=intermediate)
        with jobs_go_on(node, lambda: results.unfinished):
            print_finished(client, ids, results, Deadline(timeout), intermediate=intermediate)
    results.exit_if_missing()
    if not results.all_succeeded:
        sys.exit(FAILED)


def print_finished(
    client: NodeClient, ids: Sequence[str], results: Results, deadline: Deadline, *, intermediate: bool = False
) -> None:
    """Print jobs as they finish. When time is up, print the others as they are, and raise `TimeIsUp`."""
    known = [id for id in ids if is_id(id)]
    with results, Progress() as progress:
        look = partial(progress.show_count, total=len(known)) if progress.shown else None
        try:
            for found in finished_jobs(client, known, deadline, look, intermediate=intermediate):
                progress.hide()
                results.show(*found)
        except TimeIsUp:
            progress.hide()
            _show_as_they_are(client, results, intermediate=intermediate)
            raise


def _show_as_they_are(client: NodeClient, results: Results, *, intermediate: bool) -> None:
    try:
        until = time.monotonic() + LAST_LOOK_SECONDS
        for found in find_jobs(client, results.rest, intermediate=intermediate, until=until):
            results.show(*found)
    except CommandFailed:
        pass  # that time is up is said in any case, and with which jobs to go on


@job.command()
@click.argument("id", metavar="ID")
@node_option
@json_option("Print the node's JSON, one document for each event, one a line.")
def follow(node: Address, as_json: bool, id: str) -> None:
    """Print the events of a job from its start, and then each one as it happens: accepted, step, finished.

    Exits with 0 when the job has succeeded, with 1 when it has failed. It continues when the following ends.
    """
    result: JobResult | None = None
    with (
        about(id),
        NodeClient(node) as client,
        jobs_go_on(node, lambda: [id], "follow"),
        closing(follow_events(client, id)) as seen,
    ):
        for number, event in enumerate(seen):
            result = _say_event(client, event, number, as_json=as_json)
    if result is None or result.status != "success":
        sys.exit(FAILED)


def _say_event(client: NodeClient, event: Event, number: int, *, as_json: bool) -> JobResult | None:
    """Print an event. Return the finished job if it is its end."""
    lines: list[str] = []
    step: StepResult | None = None
    finished: JobResult | None = None
    match event.event:
        case "accepted":
            lines = [f"accepted  {read_event(client, event, Accepted).id}"]
        case "step":
            step = read_event(client, event, StepResult)
            lines = [f"step {number}  {step.container}"]
        case "finished":
            finished = read_event(client, event, JobResult)
            lines = [f"finished  {finished.status}"]
            if finished.result is not None and finished.result.error is not None:
                lines.append(f"error: {finished.result.error}")
        case _:
            return None  # of a later version
    if as_json:
        say_json(msgspec.json.encode(event))
        return finished
    for line in lines:
        say(one_line(line))
    if step is not None:
        say_result(step)
    return finished
