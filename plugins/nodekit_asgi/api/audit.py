"""The audit log: who used the jobs of other clients."""

import logging

from nodekit import Job, printable
from nodekit_asgi.http.messages import Request

logger = logging.getLogger("nodekit.audit")


def audit(request: Request, did: str, job: Job) -> None:
    """Write down what a caller did with a job, if it is that of another client."""
    if job.request.client != request.client:
        logger.info("%s %s job %s of %s", printable(request.client), did, job.id, printable(job.request.client))


def audit_listing(request: Request, client: str | None) -> None:
    """Write down that a caller has listed the jobs of another client, or of all of them."""
    if client != request.client:
        whose = "all clients" if client is None else printable(client)
        logger.info("%s listed the jobs of %s", printable(request.client), whose)
