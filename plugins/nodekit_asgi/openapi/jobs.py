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


_IDS: Mapping[str, Any] = {"type": "array", "items": {"type": "string"}, "maxItems": "<max_ids>"}

OF_JOBS = (
    _query("id", "Jobs to answer, at most <max_ids>. Without any, the reply lists ids.", _IDS, [JOB_ID]),
    _query("intermediate", "With `id`: also the results of earlier steps.", BOOLEAN, True),
    _query(
        "wait",
        "With `id`: wait until all of the jobs are finished, at most this many seconds and at most <max_wait_seconds>.",
        {"type": "number", "minimum": 0},
        10,
    ),
)
OF_LISTING = (
    _query("pending", "Without `id`: only jobs that are not finished, or only those that are.", BOOLEAN, False),
    _query(
        "limit",
        "Without `id`: one page of at most so many; more than 10000 is 10000.",
        {"type": "integer", "minimum": 1},
        100,
    ),
    _query("after", "Without `id`: go on behind this job, which need not exist any more.", ID, JOB_ID),
)

OPERATIONS: Mapping[Key, Operation] = {
    ("/api/jobs", "GET"): Operation(
        id="getJobs",
        tag="jobs",
        summary="Results of jobs, or a list of ids",
        description="With `id`: these jobs, each once, in the order asked. Those that are no job of this client are "
        "left out.\n\nWithout `id`: the ids of this client's jobs, the oldest first; with `limit`, a page of them.",
        parameters=(REQUEST_ID, *OF_JOBS, *OF_LISTING, *OF_FAILED),
        answers={
            **WITH_BODY,
            200: Answer(
                "Results, or ids.",
                Content(
                    {"anyOf": [{"type": "array", "items": WireJob}, {"type": "array", "items": ID}]},
                    {"results": [_SUCCESS, _RUNNING], "failed": [_FAILED], "ids": [JOB_ID], "none": []},
                ),
                ("Link",),
            ),
            400: BAD_REQUEST,
            404: errors("None of the ids is a job of this client.", unknown=error("no such job")),
        },
    ),
    ("/api/jobs/{id}", "GET"): Operation(
        id="getJob",
        tag="jobs",
        summary="The history of a job",
        description="What was asked, when, and every call of a container. Outputs, which may be large, are left out.",
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
        description="A step that is running is aborted; the result names the container that was due. A job that was "
        "finished already is answered as it is.",
        parameters=(REQUEST_ID, JOB),
        answers={
            **READING,
            200: Answer("The job, finished.", Content(WireJob, {"cancelled": _CANCELLED, "finished": _SUCCESS})),
            404: NO_SUCH_JOB,
        },
    ),
}
