"""The commands of `nodekit job`."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import click
import msgspec
from msgspec import Raw

from nodekit_asgi.cli._address import DEFAULT_URL, Address, check_node
from nodekit_asgi.cli._client import NodeClient
from nodekit_asgi.cli._history import history_lines
from nodekit_asgi.cli._listing import cancel_jobs, find_jobs, list_ids
from nodekit_asgi.cli._print import notice, printable, say, say_job, say_json, say_json_list, say_result
from nodekit_asgi.cli._problems import FAILED, INTERRUPTED, Busy, CommandFailed, Dropped, Refused
from nodekit_asgi.cli._progress import Progress
from nodekit_asgi.cli._replies import Accepted, History, JobResult
from nodekit_asgi.cli._request import Submission, check_key, read_data, submission
from nodekit_asgi.cli._waiting import Deadline, submit_job, wait_for

F = TypeVar("F", bound=Callable[..., Any])


class _Group(click.Group):
    """Says every problem in a line, and ends with its exit code."""

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
    """Submit jobs to a node, and see what comes of them.

    The node is the one at --node, or at NODEKIT_URL. Exits with 0; 1 when the job failed or the node refuses what is
    asked; 2 for a wrong command line; 4 when no node answers or it is busy; 5 when time is up; 130 after Ctrl-C.
    """


def _node(command: F) -> F:
    """What every command takes."""
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the node's JSON, one document.")
    node = click.option(
        "--node",
        callback=check_node,
        metavar="URL",
        envvar="NODEKIT_URL",
        show_envvar=True,
        default=DEFAULT_URL,
        show_default=True,
        help="http://HOST:PORT, https://HOST:PORT or unix:PATH.",
    )
    return node(as_json(command))


def _submits(command: F) -> F:
    """What a job is made of."""
    options: Sequence[Callable[[F], F]] = (
        click.argument("containers", metavar="CONTAINER...", nargs=-1, required=True),
        click.option("--data", metavar="JSON", help="The input of the first container, an object; {} unless given."),
        click.option("--file", type=click.File("rb"), metavar="PATH", help="Read the input there; -: standard input."),
        click.option("--pipeline", metavar="NAME", help="Another pipeline that the node offers."),
        click.option("--requires-proof", is_flag=True, help="The last container must give a proof."),
        click.option("--priority", type=click.IntRange(0, 7), help="Lower is sooner; 3 unless given."),
        click.option(
            "--idempotency-key", metavar="KEY", callback=check_key, help="The same key and job are submitted once."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _submission(
    containers: tuple[str, ...],
    data: str | None,
    file: BinaryIO | None,
    pipeline: str | None,
    requires_proof: bool,
    priority: int | None,
    idempotency_key: str | None,
) -> Submission:
    fields: dict[str, Any] = {"pipeline": pipeline, "requires_proof": requires_proof, "priority": priority}
    return submission(containers, read_data(data, file), **fields, key=idempotency_key)


# -- new jobs -----------------------------------------------------------------------------------------


@job.command()
@_submits
@_node
def submit(node: Address, as_json: bool, **what: Any) -> None:
    """Submit a job and print its id."""
    asked = _submission(**what)
    with NodeClient(node) as client, _known_by(asked):
        reply = submit_job(client, asked, Deadline(None))
    accepted = reply.read_as(Accepted)
    say_json(reply.body) if as_json else say(printable(accepted.id))


@job.command()
@_submits
@click.option("--intermediate", is_flag=True, help="Print the output of every step.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Wait no longer than that.")
@_node
def run(node: Address, as_json: bool, intermediate: bool, timeout: float | None, **what: Any) -> None:
    """Submit a job, wait for it, and print the last output.

    Exits with 1 and the error on standard error when the job fails, with 5 when time is up. The job goes on when the
    waiting ends.
    """
    asked, deadline = _submission(**what), Deadline(timeout)
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
        say(f"{printable(step.container)}:")
        say_result(step)
    if job.result and job.result.error is None:
        if intermediate:
            say(f"{printable(job.result.container)}:")
        say_result(job.result)


@contextmanager
def _known_by(asked: Submission) -> Iterator[None]:
    """Where it is not known whether the node has the job, says how to find out."""
    again = f"the node may have the job; the same command with --idempotency-key {shlex.quote(asked.key)} finds out"
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
    """Says, whatever ends the waiting, how to get at the job."""
    where = "" if node.url == DEFAULT_URL else f" --node {shlex.quote(node.url)}"
    goes_on = f"job {id} goes on: nodekit job get {id}{where}; to end it: nodekit job cancel {id}{where}"
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


# -- jobs that are there ------------------------------------------------------------------------------


@job.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--intermediate", is_flag=True, help="Print the output of every step.")
@_node
def get(node: Address, as_json: bool, ids: tuple[str, ...], intermediate: bool) -> None:
    """Print the status of jobs, and the output or the error.

    Exits with 0 however the jobs ended, with 1 when one of them is not known.
    """
    with NodeClient(node) as client:
        found = list(find_jobs(client, ids, intermediate=intermediate))
    _show(ids, found, as_json, lambda result: say_job(result, intermediate=intermediate))


@job.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_node
def cancel(node: Address, as_json: bool, ids: tuple[str, ...]) -> None:
    """Cancel jobs; one that is finished stays as it is.

    Exits with 0 when none of them runs any more, with 1 when one of them is not known.
    """
    with NodeClient(node) as client:
        found = list(cancel_jobs(client, ids))
    _show(ids, found, as_json, lambda result: say_job(result, intermediate=False))


def _show(
    ids: tuple[str, ...], found: list[tuple[JobResult, Raw]], as_json: bool, show: Callable[[JobResult], None]
) -> None:
    """What was found, and what was not."""
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
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N; all of them unless given.")
@_node
def list_(node: Address, as_json: bool, pending: bool, finished: bool, limit: int | None) -> None:
    """Print the ids of this client's jobs, oldest first."""
    if pending and finished:
        raise click.UsageError("--pending and --finished exclude each other; leave out both for all jobs")
    with NodeClient(node) as client:
        ids = list_ids(client, pending if pending or finished else None, limit)
        if as_json:
            say_json(msgspec.json.encode(list(ids)))
        else:
            for id in ids:
                say(printable(id))


@job.command()
@click.argument("id", metavar="ID")
@_node
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
