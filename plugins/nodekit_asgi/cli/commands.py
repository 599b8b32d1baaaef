"""The commands of `nodekit job`."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import click
import msgspec
from msgspec import Raw

from nodekit_asgi.cli.address import DEFAULT_URL, Address
from nodekit_asgi.cli.client import NodeClient, Reply
from nodekit_asgi.cli.history import history_lines
from nodekit_asgi.cli.listing import cancel_jobs, find_jobs, list_ids
from nodekit_asgi.cli.options import (
    key_option,
    list_filters,
    node_option,
    node_options,
    priority_option,
    request_options,
    submission_of,
    submission_options,
)
from nodekit_asgi.cli.output import notice, one_line, say, say_job, say_json, say_json_list, say_result
from nodekit_asgi.cli.problems import FAILED, INTERRUPTED, Busy, CommandFailed, Dropped, Refused
from nodekit_asgi.cli.progress_line import Progress
from nodekit_asgi.cli.replies import Accepted, History, JobResult
from nodekit_asgi.cli.request import Submission, another_try
from nodekit_asgi.cli.streaming import print_stream
from nodekit_asgi.cli.waiting import Deadline, submit_job, wait_for


class _Group(click.Group):
    """A command group that prints each problem in one line and exits with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CommandFailed as problem:
            notice(str(problem))
            sys.exit(problem.exit_code)
        except KeyboardInterrupt:
            notice("interrupted")
            sys.exit(INTERRUPTED)


@click.group(cls=_Group)
def job() -> None:
    """Submit jobs to a node, and read their results.

    The node is the one at --node, or at NODEKIT_URL. Exits with 0; 1 when the job failed or the node refuses the
    request; 2 for a wrong command line; 4 when no node answers or it is busy; 5 when time is up; 130 after Ctrl-C.
    """


# -- new jobs -----------------------------------------------------------------------------------------


@job.command()
@submission_options
@node_options
def submit(node: Address, as_json: bool, **what: Any) -> None:
    """Submit a job and print its id."""
    asked = submission_of(**what)
    with NodeClient(node) as client, _known_by(asked):
        reply = submit_job(client, asked, Deadline(None))
    _say_accepted(reply, as_json)


def _say_accepted(reply: Reply, as_json: bool) -> None:
    accepted = reply.read_as(Accepted)
    say_json(reply.body) if as_json else say(one_line(accepted.id))


@job.command()
@submission_options
@click.option("--intermediate", is_flag=True, help="Print the output of every step.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Wait at most this long.")
@node_options
def run(node: Address, as_json: bool, intermediate: bool, timeout: float | None, **what: Any) -> None:
    """Submit a job, wait for it, and print the last output.

    Exits with 1 and the error on standard error when the job fails, with 5 when time is up. The job
    continues when the waiting ends.
    """
    asked, deadline = submission_of(**what), Deadline(timeout)
    with NodeClient(node) as client:
        with _known_by(asked):
            id = submit_job(client, asked, deadline).read_as(Accepted).id
        with _goes_on(id, node), Progress() as progress:
            result, raw = wait_for(client, id, deadline, progress, intermediate=intermediate)
    if as_json:
        say_json(raw)
    else:
        _say_outputs(result, intermediate)
    if result.status != "success":
        failed = result.result
        place = f" in {failed.container}: {failed.error}" if failed else ""
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


@contextmanager
def _known_by(asked: Submission) -> Iterator[None]:
    """Print how to find out if the node has the job, when this is not known."""
    again = (
        f"the node may have the job; to find out, run the same command with --idempotency-key {shlex.quote(asked.key)}"
    )
    try:
        yield
    except Dropped as problem:
        notice(str(problem))
        notice(again)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        notice(f"interrupted; {again}")
        sys.exit(INTERRUPTED)


@contextmanager
def _goes_on(id: str, node: Address) -> Iterator[None]:
    """Print how to read the job if the waiting ends early for any reason."""
    where = "" if node.url == DEFAULT_URL else f" --node {shlex.quote(node.url)}"
    goes_on = (
        f"job {id} continues; to read it: nodekit job get {id}{where}; to cancel it: nodekit job cancel {id}{where}"
    )
    try:
        yield
    except Refused as refused:
        if isinstance(refused, Busy):
            notice(f"{refused}; {goes_on}")
            sys.exit(refused.exit_code)
        raise Refused(refused.status, f"job {id} was accepted, and cannot be read now: {refused}") from refused
    except CommandFailed as problem:
        notice(f"{problem}; {goes_on}")
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        notice(f"interrupted; {goes_on}")
        sys.exit(INTERRUPTED)


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
    asked = another_try(id, start=start, priority=priority, key=idempotency_key)
    with NodeClient(node) as client, _known_by(asked):
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


# -- jobs that are there ------------------------------------------------------------------------------


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
@click.option("--all", "everybody", is_flag=True, help="Jobs of all clients; for operators.")
@click.option("--client", metavar="NAME", help="Jobs of this client; for operators.")
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
