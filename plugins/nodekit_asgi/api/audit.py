"""The log of what callers do to jobs: who did it to whose job. It is off unless it is wanted."""

import logging

from nodekit import JobId
from nodekit_asgi.http.messages import Request

audit = logging.getLogger("nodekit.audit")


def audited(request: Request, action: str, id: JobId, *, owner: str, outcome: str) -> None:
    """Log that the caller has cancelled, retried or reported a job of `owner`.

    `outcome` says what became of it.
    """
    operator = request.identity is not None and request.identity.operator
    fields = {"client": request.client, "address": request.address, "operator": operator, "action": action}
    text = "%s%s: %s of job %s of client %s: %s (request %s)"
    who = " as operator" if operator else ""
    audit.info(text, request.client, who, action, id, owner, outcome, request.id, extra={**fields, "owner": owner})
