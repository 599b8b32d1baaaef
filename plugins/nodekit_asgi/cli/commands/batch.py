"""The command `batch`: many jobs from one file."""

import sys
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import click

from nodekit import counted
from nodekit_asgi.cli.address import Address
from nodekit_asgi.cli.answers import Answers
from nodekit_asgi.cli.batch_file import read_requests
from nodekit_asgi.cli.batching import InBatches, OneByOne, Submitter
from nodekit_asgi.cli.client import NodeClient
from nodekit_asgi.cli.commands.watching import print_finished
from nodekit_asgi.cli.going_on import jobs_go_on
from nodekit_asgi.cli.group import job
from nodekit_asgi.cli.options import InputFile, key_option, node_options, priority_option
from nodekit_asgi.cli.output import REFUSED, notice
from nodekit_asgi.cli.problems import FAILED, INTERRUPTED, CommandFailed
from nodekit_asgi.cli.request import LONGEST_KEY
from nodekit_asgi.cli.results import Results
from nodekit_asgi.cli.waiting import Deadline


@job.command()
@click.argument("file", type=InputFile(), metavar="FILE")
@click.option("--skip", type=click.IntRange(min=0), default=0, metavar="N", help="Leave out the first N requests.")
@click.option("--wait", is_flag=True, help="Wait for the jobs, and print their results.")
@priority_option("3")
@key_option
@node_options
def batch(
    node: Address,
    as_json: bool,
    file: BinaryIO,
    skip: int,
    wait: bool,
    priority: int | None,
    idempotency_key: str | None,
) -> None:
    """Submit the jobs of a file, and print an id or an error for each, in their order.

    FILE has job requests in JSON, as an array or one a line; - is standard input. Nothing is submitted if one is
    malformed. Requests are sent in batches. With --idempotency-key each is sent by itself, with a key of its own
    (KEY-1, KEY-2, ...): this is slower, and running the command again submits nothing twice.

    Exits with 1 when a request was refused or, with --wait, a job has failed.
    """
    requests = read_requests(file)
    keys = None if idempotency_key is None else _keys(idempotency_key, len(requests))
    headers = {} if priority is None else {"Priority": f"u={priority}"}
    with NodeClient(node) as client:
        submitter = _submitter(client, requests[skip:], headers, None if keys is None else keys[skip:])
        _submit(submitter, as_json=as_json, skipped=skip, results_follow=wait and as_json)
        answers = list(submitter.answers.values())
        ids = [answer.id for answer in answers if answer.id]
        results = Results(ids, as_json=as_json)
        if wait:
            with jobs_go_on(node, lambda: results.unfinished, ids_are_known=not as_json):
                print_finished(client, ids, results, Deadline(None))
            results.exit_if_missing()
    if len(ids) < len(answers) or not results.all_succeeded:
        sys.exit(FAILED)


def _keys(key: str, number: int) -> Sequence[str]:
    """Return a key for each request. Raise `click.UsageError` if they are too long."""
    keys = [f"{key}-{place}" for place in range(1, number + 1)]
    if keys and len(keys[-1]) > LONGEST_KEY:
        raise click.UsageError(f"--idempotency-key: too long with {keys[-1][len(key) :]} after it; shorten it")
    return keys


def _submitter(
    client: NodeClient, requests: Sequence[bytes], headers: Mapping[str, str], keys: Sequence[str] | None
) -> Submitter:
    return InBatches(client, requests, headers) if keys is None else OneByOne(client, requests, headers, keys)


def _submit(submitter: Submitter, *, as_json: bool, skipped: int, results_follow: bool) -> None:
    """Submit the requests and print the answers; if results follow in the same document, only those not submitted.

    If this ends early, print all the same what is known of each request, and how to go on. Then exit.
    """
    answers = Answers(submitter.answers, submitter.total, as_json=as_json)
    try:
        for waits in submitter.submit():
            if not results_follow:
                answers.print_known()
            if waits:
                answers.note_held_back(skipped)
        if results_follow:
            _notice_refusals(submitter, skipped)
        else:
            answers.print_all()
    except REFUSED:
        _notice_rest(submitter, skipped)
        raise
    except (CommandFailed, KeyboardInterrupt) as problem:
        interrupted = isinstance(problem, KeyboardInterrupt)
        if not interrupted and not submitter.answers and not submitter.unanswered:
            raise  # nothing has happened yet
        answers.print_all(submitter.unanswered)
        notice("interrupted" if interrupted else str(problem))
        _notice_rest(submitter, skipped)
        sys.exit(INTERRUPTED if isinstance(problem, KeyboardInterrupt) else problem.exit_code)


def _notice_refusals(submitter: Submitter, skipped: int) -> None:
    for number, answer in sorted(submitter.answers.items()):
        if not answer.id:
            notice(f"request {skipped + number + 1}: {answer.error}")


def _notice_rest(submitter: Submitter, skipped: int) -> None:
    """Print which requests the node may have, and which were not submitted."""
    unanswered = [number for number in submitter.unanswered if number not in submitter.answers]
    settled = {*submitter.answers, *unanswered}
    rest = [number for number in range(submitter.total) if number not in settled]
    if unanswered:
        first, last = skipped + unanswered[0] + 1, skipped + unanswered[-1] + 1
        which = f"request {first}" if first == last else f"requests {first} to {last}"
        notice(f"the node may have the jobs of {which}: {submitter.to_find_out}")
    if rest:
        at_the_end = rest[-1] - rest[0] + 1 == len(rest) and rest[-1] == submitter.total - 1
        cure = f"run the same command with --skip {skipped + rest[0]}" if at_the_end else "their lines of output say so"
        verb = "was" if len(rest) == 1 else "were"
        notice(f"{len(rest)} of {counted(submitter.total, 'request')} {verb} not submitted; {cure}")
