"""Descriptions of operations that read and cancel jobs."""

from collections.abc import Mapping
from typing import Any

from nodekit_asgi.openapi.followups import OF_FAILED
from nodekit_asgi.openapi.operation import Answer, Content, Key, Operation, Parameter
from nodekit_asgi.openapi.shared import (
    BAD_REQUEST,
    BOOLEAN,
    ID,
    JOB,
    NO_SUCH_JOB,
    READING,
    REQUEST_ID,
    WITH_BODY,
    error,
    errors,
)
from nodekit_asgi.wire.fields import JOB_ID
from nodekit_asgi.wire.history import WireHistory
from nodekit_asgi.wire.jobs import WireJob

_OUTPUT = {"container": "upper", "output": {"text": "HELLO"}}
_ERROR = {"container": "translate", "error": "no reply within 180 s"}
_SUCCESS = {"id": JOB_ID, "status": "success", "result": _OUTPUT}
_FAILED = {"id": JOB_ID, "status": "failed", "result": _ERROR, "intermediate_results": [_OUTPUT]}
_RUNNING = {"id": JOB_ID, "status": "running", "result": None}
_CANCELLED = {"id": JOB_ID, "status": "failed", "result": {"container": "upper", "error": "cancelled"}}

_HISTORY = {
    "id": JOB_ID,
    "status": "failed",
    "state": "failed",
    "pipeline": "sequence",
    "containers": ["upper", "translate"],
    "priority": 3,
    "accepted_at": "2026-01-05T12:00:00.000Z",
    "steps": [
        {
            "container": "upper",
            "attempts": [
                {"started_at": "2026-01-05T12:00:00.004Z", "duration_seconds": 0.02, "instance": "upper-1"},
            ],
        },
        {
            "container": "translate",
            "attempts": [
                {
                    "started_at": "2026-01-05T12:00:00.027Z",
                    "duration_seconds": 180.0,
                    "instance": "",
                    "error": "no reply within 180 s",
                    "kind": "timeout",
                }
            ],
            "error": "no reply within 180 s",
        },
    ],
    "finished_at": "2026-01-05T12:03:00.030Z",
    "failure": {**_ERROR, "kind": "timeout"},
}


def _query(name: str, description: str, schema: Mapping[str, Any], example: Any) -> Parameter:
    return Parameter(name=name, place="query", description=description, schema=schema, example=example)


TEXT: Mapping[str, Any] = {"type": "string"}
_IDS: Mapping[str, Any] = {"type": "array", "items": {"type": "string"}, "maxItems": "<max_ids>"}

OF_JOBS = (
    _query("id", "The jobs to return, at most <max_ids>. Without `id`, the reply is a list of ids.", _IDS, [JOB_ID]),
    _query("intermediate", "With `id`: also the results of earlier steps.", BOOLEAN, True),
    _query(
        "history",
        "With `id`: the histories of the jobs, as at `/api/jobs/{id}`, instead of their results. It cannot be used "
        "together with `intermediate`.",
        BOOLEAN,
        True,
    ),
    _query(
        "wait",
        "With `id`: wait until all these jobs are finished, at most this many seconds and at most <max_wait_seconds>.",
        {"type": "number", "minimum": 0},
        10,
    ),
)
OF_LISTING = (
    _query("pending", "Without `id`: only unfinished jobs (`true`), or only finished jobs (`false`).", BOOLEAN, False),
    _query(
        "limit",
        "Without `id`: return one page of at most this many ids. More than 10000 counts as 10000.",
        {"type": "integer", "minimum": 1},
        100,
    ),
    _query(
        "after",
        "Without `id`: start after this id or, in the order `finished`, after this cursor of a `Link` header. The job "
        "need not exist any more.",
        {"type": "string"},
        JOB_ID,
    ),
    _query(
        "order",
        "Without `id`: the oldest or the newest first, or the job that finished first. In the order `finished`, jobs "
        "that finish later are always behind those of earlier replies.",
        {"enum": ["oldest", "newest", "finished"], "default": "oldest"},
        "newest",
    ),
    _query(
        "client",
        "Without `id`: the jobs of this client. Other clients than one's own are for operators.",
        TEXT,
        "alice",
    ),
    _query("all", "Without `id`: the jobs of all clients, for operators.", BOOLEAN, True),
)

NOT_AN_OPERATOR = errors(
    "The node does not serve this `Host` or `Origin`, or the caller asks for jobs of others and is no operator.",
    others=error("only an operator may use jobs of other clients; leave out all and client"),
)

OPERATIONS: Mapping[Key, Operation] = {
    ("/api/jobs", "GET"): Operation(
        id="getJobs",
        tag="jobs",
        summary="Get the results or histories of jobs, or list ids",
        description="With `id`: these jobs, each once, in the order of the ids. Unknown ids and jobs of other clients "
        "are left out.\n\nWithout `id`: the ids of this client's jobs, by default the oldest first. With "
        "`limit`, one page of them.",
        parameters=(REQUEST_ID, *OF_JOBS, *OF_LISTING, *OF_FAILED),
        answers={
            **WITH_BODY,
            200: Answer(
                "The results, the histories, or the ids.",
                Content(
                    {"anyOf": [{"type": "array", "items": items} for items in (WireJob, WireHistory, ID)]},
                    {
                        "results": [_SUCCESS, _RUNNING],
                        "failed": [_FAILED],
                        "histories": [_HISTORY],
                        "ids": [JOB_ID],
                        "none": [],
                    },
                ),
                ("Link",),
            ),
            400: BAD_REQUEST,
            403: NOT_AN_OPERATOR,
            404: errors("None of the ids belongs to a job of this client.", unknown=error("no such job")),
        },
    ),
    ("/api/jobs/{id}", "GET"): Operation(
        id="getJob",
        tag="jobs",
        summary="Get the history of a job",
        description="The request, its times, and every call of a container. Outputs may be large and are left out.",
        parameters=(REQUEST_ID, JOB),
        answers={
            **READING,
            200: Answer("The history.", Content(WireHistory, {"failed": _HISTORY})),
            404: NO_SUCH_JOB,
        },
    ),
    ("/api/jobs/{id}", "DELETE"): Operation(
        id="cancelJob",
        tag="jobs",
        summary="Cancel a job",
        description="A running step is aborted. The result names the container that was due. A job that was finished "
        "already is returned unchanged.",
        parameters=(REQUEST_ID, JOB),
        answers={
            **READING,
            200: Answer("The finished job.", Content(WireJob, {"cancelled": _CANCELLED, "finished": _SUCCESS})),
            404: NO_SUCH_JOB,
        },
    ),
}
