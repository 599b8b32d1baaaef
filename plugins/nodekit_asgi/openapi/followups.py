"""Descriptions of operations that follow a job, retry it, or finish it from outside."""

from collections.abc import Mapping

from nodekit_asgi.openapi.operation import Answer, Content, Key, Operation, Parameter
from nodekit_asgi.openapi.shared import (
    IDEMPOTENCY_KEY,
    JOB,
    KEY_REUSED,
    NO_SUCH_JOB,
    NOT_NOW,
    PREFER,
    PRIORITY,
    READING,
    REQUEST_ID,
    TOO_MANY,
    WITH_BODY,
    error,
    errors,
)
from nodekit_asgi.openapi.submitting import READERS, REFUSED
from nodekit_asgi.wire.fields import JOB_ID
from nodekit_asgi.wire.jobs import WireAccepted, WireJob, WireReport, WireRetry

_EVENTS = f"""event: accepted
id: {JOB_ID}:0
data: {{"id":"{JOB_ID}"}}

event: step
id: {JOB_ID}:1
data: {{"container":"upper","output":{{"text":"HELLO"}}}}

event: finished
id: {JOB_ID}:2
data: {{"id":"{JOB_ID}","status":"success","result":{{"container":"upper","output":{{"text":"HELLO"}}}}}}

"""
_REPORT = {"id": JOB_ID, "status": "success", "containers": ["upper"], "data": {"text": "HELLO"}}

OF_FAILED = (
    Parameter(
        name="status",
        place="query",
        description="Without `id`: only jobs with this status of a job result. It cannot be used together with "
        "`pending`.",
        schema={"enum": ["running", "success", "failed"]},
        example="failed",
    ),
    Parameter(
        name="container",
        place="query",
        description="With `status=failed`: only jobs with an error of this container.",
        schema={"type": "string"},
        example="translate",
    ),
    Parameter(
        name="error",
        place="query",
        description="With `status=failed`: only jobs whose error text contains this text. Upper and lower case differ.",
        schema={"type": "string"},
        example="no reply",
    ),
)
"""Parameters of `GET /api/jobs` for failed jobs."""

OPERATIONS: Mapping[Key, Operation] = {
    ("/api/jobs/{id}/events", "GET"): Operation(
        id="followJob",
        tag="jobs",
        summary="Follow a job",
        description="Server-sent events: `accepted`, one `step` for each finished step, and `finished`, after which "
        "the stream ends. Events that happened already are sent first.",
        parameters=(
            REQUEST_ID,
            JOB,
            Parameter(
                name="Last-Event-ID",
                place="header",
                description="The id of the last event that the caller received. Later events are sent. The id of an "
                "event of another job is ignored.",
                schema={"type": "string"},
                example=f"{JOB_ID}:1",
            ),
        ),
        answers={
            **READING,
            200: Answer("The events.", Content(None, {"success": _EVENTS}, media_type="text/event-stream")),
            204: Answer("The caller has received `finished`. There are no more events."),
            404: NO_SUCH_JOB,
        },
    ),
    ("/api/jobs/{id}/retry", "POST"): Operation(
        id="retryJob",
        tag="jobs",
        summary="Retry a failed job",
        description="The old job does not change. Its request becomes a new job of the same client, and is "
        "admitted like any other. With `from: failed` (the default), steps with an output keep it and do not run "
        "again.",
        parameters=(REQUEST_ID, JOB, PREFER, IDEMPOTENCY_KEY, PRIORITY),
        body=Content(WireRetry, {"failed": {"from": "failed"}, "start": {"from": "start"}}),
        answers={
            **WITH_BODY,
            200: Answer(
                "The id of the new job. With `Prefer: wait`, the finished job.",
                Content({"anyOf": [WireAccepted, WireJob]}, {"accepted": {"id": JOB_ID}}),
                ("Preference-Applied",),
                READERS,
            ),
            202: Answer(
                "The new job did not finish within the time of `Prefer: wait`.",
                Content(WireAccepted, {"accepted": {"id": JOB_ID}}),
                ("Preference-Applied",),
                READERS,
            ),
            400: REFUSED,
            404: NO_SUCH_JOB,
            409: errors(
                "The job has not failed. Or its pipeline failed it after the last output, and would do so again.",
                running=error("the job is not finished; only a failed or cancelled job can be retried"),
                ended=error(
                    "the job is failed by its pipeline after its last output, and would fail again; "
                    "retry it from the start"
                ),
            ),
            422: KEY_REUSED,
            429: TOO_MANY,
            503: NOT_NOW,
        },
    ),
    ("/api/status", "PUT"): Operation(
        id="reportStatus",
        tag="jobs",
        summary="Report the result of a job from outside",
        description="Accepted only from operators, and from `status_networks`, which is empty by default. A report "
        "finishes an existing job of any client.",
        parameters=(REQUEST_ID,),
        body=Content(WireReport, {"success": _REPORT}),
        answers={
            **WITH_BODY,
            200: Answer("The job is finished.", Content({"type": "object"}, {"done": {}})),
            403: errors(
                "The caller may not report the status of jobs.",
                address=error("status reports are not taken from this address; list it in status_networks"),
            ),
            404: errors("There is no such job.", unknown=error("no such job")),
            409: errors("The job is finished already.", finished=error("the job is finished")),
        },
    ),
}
