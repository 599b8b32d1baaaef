"""The log of what callers do to jobs, and which jobs of others they read. It is off unless it is wanted."""

import logging

from nodekit import Job, JobId
from nodekit_asgi.http.messages import Request

audit = logging.getLogger("nodekit.audit")


def audited(request: Request, action: str, id: JobId, *, owner: str, outcome: str) -> None:
    """Log that the caller has cancelled, retried or reported a job of `owner`.

    `outcome` says what became of it.
    """
    _log(request, action, f"job {id} of client {owner}: {outcome}", owner, id)


def audited_read(request: Request, action: str, job: Job) -> None:
    """Log that the caller has read or followed a job, if it is that of another client."""
    if (owner := job.request.client) != request.client:
        _log(request, action, f"job {job.id} of client {owner}", owner, job.id)


def audited_listing(request: Request, client: str | None) -> None:
    """Log that the caller has listed the jobs of another client, or of all of them."""
    if client != request.client:
        _log(request, "list", "the jobs of all clients" if client is None else f"the jobs of client {client}", client)


def _log(request: Request, action: str, what: str, owner: str | None, job: JobId | None = None) -> None:
    operator = request.identity is not None and request.identity.operator
    fields = {"client": request.client, "address": request.address, "operator": operator, "action": action}
    who = " as operator" if operator else ""
    audit.info(
        *("%s%s: %s of %s (request %s)", request.client, who, action, what, request.id),
        extra={**fields, "owner": owner, "job": job} if job else {**fields, "owner": owner},
    )
