"""Status reports: outcomes of jobs, reported by callers that the operator trusts."""

import msgspec
from msgspec import UNSET, Raw, UnsetType

from nodekit import ContainerError, ContainerOutput, JobFields, JobId, JobStatus, Node, Outcome, printable_lines
from nodekit_asgi.api.audit import audit
from nodekit_asgi.http.messages import HttpError, Reply, Request, json_reply
from nodekit_asgi.http.networks import in_networks
from nodekit_asgi.wire.jobs import NO_SUCH_JOB, WireReport, job_id, read_report
from nodekit_asgi.wire.profiles import PROFILES

LONGEST_FAULT = 2000
"""Number of characters of an error that are kept, as for a container's error."""


async def report(request: Request, node: Node) -> Reply:
    allowed = request.limits.status_networks
    operator = request.identity is not None and request.identity.operator
    if not operator and not in_networks(request.sender, allowed):
        raise HttpError(403, "status reports are not taken from this address; list it in status_networks")
    reported = await read_report(request)
    unfinished = await _was_unfinished(request, node, job_id(reported.id), _outcome(reported))
    if unfinished is None:
        raise HttpError(404, NO_SUCH_JOB)
    if not unfinished:
        raise HttpError(409, "the job is finished")
    return json_reply(PROFILES[request.limits.profile].reported)


async def _was_unfinished(request: Request, node: Node, id: JobId, outcome: Outcome | None) -> bool | None:
    """Settle a job with its outcome, if there is one. Return True if the job was unfinished until then.

    Return None if there is no such job.
    """
    if outcome is None:
        return next((not job.status.finished for job in await node.fetch([id], fields=JobFields.STATE)), None)
    settled = await node.settle(id, outcome)
    if settled is None:
        return None
    if settled.now:
        audit(request, f"reported {outcome.status.value} of", settled.job)
    return settled.now


def _outcome(report: WireReport) -> Outcome | None:
    """Return the outcome of a job according to a report. Return None if the job is still running."""
    if report.status == "running":
        return None
    container = report.containers[-1]
    if report.status == "failed":
        return Outcome(JobStatus.FAILED, ContainerError(container=container, error=_fault(report.data), kind="status"))
    # a piece of the body would keep the whole body in memory
    output = Raw(b"null") if report.data is UNSET else report.data.copy()
    return Outcome(JobStatus.SUCCESS, ContainerOutput(container=container, output=output))


class _Fault(msgspec.Struct):
    error: str = ""


def _fault(data: Raw | UnsetType) -> str:
    try:
        said = msgspec.json.decode(b'""' if data is UNSET else data, type=_Fault | str)
    except (msgspec.DecodeError, UnicodeError):
        return "failed"
    text = said.error if isinstance(said, _Fault) else said
    shown = printable_lines(text[: LONGEST_FAULT + 1])
    return f"{shown[:LONGEST_FAULT]}…" if len(shown) > LONGEST_FAULT else shown or "failed"
