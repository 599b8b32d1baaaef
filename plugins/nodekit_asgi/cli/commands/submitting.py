"""Commands that make jobs: `submit`, `run`, `retry` and `stream`."""

import sys
from typing import Any

import click

from nodekit_asgi.cli.address import Address
from nodekit_asgi.cli.client import NodeClient, Reply
from nodekit_asgi.cli.cures import about
from nodekit_asgi.cli.going_on import goes_on, known_by
from nodekit_asgi.cli.group import job
from nodekit_asgi.cli.options import (
    key_option,
    node_option,
    node_options,
    priority_option,
    request_options,
    submission_of,
    submission_options,
    timeout_option,
)
from nodekit_asgi.cli.output import ids_survive, notice, one_line, say, say_json, say_result
from nodekit_asgi.cli.problems import FAILED
from nodekit_asgi.cli.progress_line import Progress
from nodekit_asgi.cli.replies import Accepted, JobResult
from nodekit_asgi.cli.request import another_try
from nodekit_asgi.cli.streaming import print_stream
from nodekit_asgi.cli.waiting import Deadline, submit_job, wait_for


@job.command()
@submission_options
@node_options
def submit(node: Address, as_json: bool, **what: Any) -> None:
    """Submit a job and print its id."""
    asked = submission_of(**what)
    with NodeClient(node) as client, known_by(asked):
        reply = submit_job(client, asked, Deadline(None))
    _say_accepted(reply, as_json)


def _say_accepted(reply: Reply, as_json: bool) -> None:
    accepted = reply.read_as(Accepted)
    with ids_survive([accepted.id]):
        say_json(reply.body) if as_json else say(one_line(accepted.id))


@job.command()
@submission_options
@click.option("--intermediate", is_flag=True, help="Print the output of every step.")
@timeout_option
@node_options
def run(node: Address, as_json: bool, intermediate: bool, timeout: float | None, **what: Any) -> None:
    """Submit a job, wait for it, and print the last output.

    Exits with 1 and the error on standard error when the job fails, with 5 when time is up. The job
    continues when the waiting ends.
    """
    asked, deadline = submission_of(**what), Deadline(timeout)
    with NodeClient(node) as client:
        with known_by(asked):
            id = submit_job(client, asked, deadline).read_as(Accepted).id
        with goes_on(id, node), Progress() as progress:
            result, raw = wait_for(client, id, deadline, progress, intermediate=intermediate)
    with ids_survive([id]):
        say_json(raw) if as_json else _say_outputs(result, intermediate)
    if result.status != "success":
        failed = result.result
        place = f" in container {failed.container!r}: {failed.error}" if failed else ""
        notice(f"job {id} {result.status}{place}")
        sys.exit(FAILED)


def _say_outputs(job: JobResult, intermediate: bool) -> None:
    for step in job.intermediate_results if intermediate else ():
        say(f"{one_line(step.container)}:")
        say_result(step)
    if job.result and job.result.error is None:
        if intermediate:
            say(f"{one_line(job.result.container)}:")
        say_result(job.result)


@job.command()
@click.argument("id", metavar="ID")
@click.option(
    "--from",
    "start",
    type=click.Choice(["failed", "start"]),
    default="failed",
    show_default=True,
    help="Continue with the step that failed, or run all steps again.",
)
@priority_option("as before")
@key_option
@node_options
def retry(node: Address, as_json: bool, id: str, start: str, priority: int | None, idempotency_key: str | None) -> None:
    """Submit a failed or cancelled job again, and print the id of the new job."""
    with about(id), NodeClient(node) as client:
        asked = another_try(id, start=start, priority=priority, key=idempotency_key)
        with known_by(asked):
            reply = submit_job(client, asked, Deadline(None))
    _say_accepted(reply, as_json)


@job.command()
@request_options
@node_option
def stream(node: Address, **what: Any) -> None:
    """Submit a job, and print the output of its last container, byte for byte, as it arrives.

    Exits with 1 where it breaks off: the job has failed, and its history says why. Ctrl-C cancels the job.
    """
    with NodeClient(node) as client:
        print_stream(client, submission_of(**what))
