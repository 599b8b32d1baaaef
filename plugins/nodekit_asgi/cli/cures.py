"""Cures for refusals of a node. The texts of the wire say what was refused, and no more."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from nodekit_asgi.cli.client import NO_SUCH_JOB
from nodekit_asgi.cli.job_ids import is_id
from nodekit_asgi.cli.key import VARIABLE
from nodekit_asgi.cli.problems import Refused

MOST_NAMED = 10
"""Number of unknown jobs that are named."""

_OF_OTHERS = "only an operator may use jobs of other clients"
_CURES = {
    _OF_OTHERS: f"leave out --all and --client, or give a key with the scope `operate` (--key-file or {VARIABLE})",
    "No containers specified": "name the containers, in the order in which they are called",
    "Container not supported": "the node lists its containers at /info (curl URL/info)",
    "First container must be external": 'begin with a container that has "external": true at /info (curl URL/info)',
    "Container does not generate proof": "leave out --requires-proof, or end with a container that gives proofs",
    "Container not allowed for address": "ask the node's operator: the container's `allowed_ips` name who may call it",
    "Pipeline not supported": "leave out --pipeline, or ask the node's operator for the names of its pipelines",
    "Chain not enabled": "send the containers themselves, without a subscription",
}


def with_cure(problem: Exception) -> str:
    """Return the text of a problem with its cure, if it is known, in terms of options."""
    if not isinstance(problem, Refused):
        return str(problem)
    if problem.reason.startswith(_OF_OTHERS):
        return f"{_OF_OTHERS}; {_CURES[_OF_OTHERS]}"
    return f"{problem}{next((f'; {cure}' for text, cure in _CURES.items() if problem.reason.startswith(text)), '')}"


def unknown_jobs(ids: Sequence[str]) -> str:
    """Return the text about jobs that the node does not know."""
    named = ", ".join(ids[:MOST_NAMED])
    more = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
    reason = "only the client that submitted a job, or an operator, can use it; `nodekit job list` shows yours"
    if not all(map(is_id, ids)):
        reason = f"{reason}; an id looks like 01a20a76-0000-7000-8000-000000000000"
    return f"no such job: {named}{more} ({reason})"


@contextmanager
def about(id: str) -> Iterator[None]:
    """Name the job in a refusal that says that there is none."""
    try:
        yield
    except Refused as refused:
        if refused.status == 404 and refused.reason == NO_SUCH_JOB:
            raise Refused(404, unknown_jobs([id])) from refused
        raise
