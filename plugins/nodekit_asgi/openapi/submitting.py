"""Descriptions of operations that submit jobs."""

from collections.abc import Mapping
from typing import Any

from nodekit_asgi.openapi.operation import Answer, Content, Key, Operation
from nodekit_asgi.openapi.shared import (
    FAULT,
    IDEMPOTENCY_KEY,
    KEY_REUSED,
    NOT_NOW,
    PREFER,
    PRIORITY,
    REQUEST_ID,
    TOO_LARGE,
    TOO_MANY,
    WITH_BODY,
    error,
    errors,
)
from nodekit_asgi.wire.fields import JOB_ID
from nodekit_asgi.wire.jobs import NO_STREAM, WireAccepted, WireJob, WireRequest, WireSubscribed
from nodekit_asgi.wire.node import WireErrorReply

READERS = ("getJobs", "getJob", "cancelJob", "followJob", "retryJob")
"""Operations that take the id of a job."""

_ONE = {"containers": ["upper"], "data": {"text": "hello"}}
_TWO = {"containers": ["upper", "translate"], "data": {"text": "hello"}, "requires_proof": False}
_ACCEPTED = {"id": JOB_ID}
_FINISHED = {"id": JOB_ID, "status": "success", "result": {"container": "upper", "output": {"text": "HELLO"}}}

REFUSALS: Mapping[str, Any] = {
    "no pipeline": error("Pipeline not supported", pipeline="parallel"),
    "no containers": error("No containers specified"),
    "no such container": error("Container not supported", container="lower"),
    "not external": error("First container must be external", first_container="archive"),
    "no proof": error("Container does not generate proof", container="upper"),
    "address": error("Container not allowed for address", container="upper", address="192.0.2.7"),
    "subscription": error("Chain not enabled"),
}
"""Refusals, in the order in which the node checks for them."""

_MALFORMED = {
    "malformed": error("containers[0]: expected a string, got an integer"),
    "too many": error("containers: 101 of them; at most 100"),
}

MALFORMED = errors("The request is malformed.", **_MALFORMED)
REFUSED = errors(
    "The request is malformed, or the node refuses it. Plugins can add their own refusals.", **_MALFORMED, **REFUSALS
)

OPERATIONS: Mapping[Key, Operation] = {
    ("/api/jobs", "POST"): Operation(
        id="submitJob",
        tag="jobs",
        summary="Submit a job",
        description="The job is stored, and can be read, before the reply is sent. At most <max_steps> "
        "containers.\n\nThe body is read as JSON, and `Content-Type` is ignored: UTF-8, no NaN, at most "
        "<max_json_depth> deep. In `data`, digits of numbers and duplicate keys pass through unchanged.",
        parameters=(
            REQUEST_ID,
            PREFER,
            IDEMPOTENCY_KEY,
            PRIORITY,
        ),
        body=Content(WireRequest, {"one": _ONE, "two": _TWO}),
        answers={
            **WITH_BODY,
            200: Answer(
                "The id of the job. With `Prefer: wait`, the finished job. For a subscription, an empty object.",
                Content(
                    {"anyOf": [WireAccepted, WireJob, WireSubscribed]},
                    {"accepted": _ACCEPTED, "finished": _FINISHED, "subscribed": {}},
                ),
                ("Preference-Applied",),
                READERS,
            ),
            202: Answer(
                "The job did not finish within the time of `Prefer: wait`.",
                Content(WireAccepted, {"accepted": _ACCEPTED}),
                ("Preference-Applied",),
                READERS,
            ),
            400: REFUSED,
            422: KEY_REUSED,
            429: TOO_MANY,
            503: NOT_NOW,
        },
    ),
    ("/api/jobs/batch", "POST"): Operation(
        id="submitJobs",
        tag="jobs",
        summary="Submit several jobs",
        description="Each item becomes a job, or has an error that does not affect the other items. `Priority` "
        "applies to all items.",
        parameters=(REQUEST_ID, PRIORITY),
        body=Content(
            {"type": "array", "items": WireRequest, "maxItems": "<max_batch>"}, {"two": [_ONE, _TWO], "none": []}
        ),
        answers={
            **WITH_BODY,
            200: Answer(
                "For each item, in the same order, the id of its job or its error; an empty object for a subscription.",
                Content(
                    {"type": "array", "items": {"anyOf": [WireAccepted, WireErrorReply, WireSubscribed]}},
                    {"mixed": [_ACCEPTED, error("Container not supported", container="lower")], "none": []},
                ),
            ),
            400: errors(
                "The body is not JSON, or is not a list.",
                object=error("the body: expected an array, got an object"),
                key=error("Idempotency-Key: is not taken for a batch; submit jobs that have keys one by one"),
            ),
            413: errors(
                "More than <max_batch> items, or more than <max_body_bytes> bytes.",
                items=error("a batch of 1001 items; at most 1000 are taken"),
            ),
            429: TOO_MANY,
            503: NOT_NOW,
        },
    ),
    ("/api/jobs/stream", "POST"): Operation(
        id="streamJob",
        tag="jobs",
        summary="Submit a job, and read the output of its last container as it arrives",
        description="The reply begins with the id of the job and a newline, before a container is called. The bytes "
        "of the last container follow. If the job fails, the reply is cut off, so that it does not look complete. "
        "A client that disconnects cancels the job.",
        parameters=(REQUEST_ID, PRIORITY),
        body=Content(WireRequest, {"one": _ONE}),
        answers={
            **WITH_BODY,
            200: Answer(
                "The id of the job, a newline, and the bytes of the output.",
                Content(None, media_type="application/octet-stream"),
            ),
            400: REFUSED,
            405: errors("A subscription has no stream.", subscription=error(NO_STREAM)),
            413: TOO_LARGE,
            429: TOO_MANY,
            500: FAULT,
            503: NOT_NOW,
            505: errors(
                "A stream needs HTTP/1.1. Over this version of HTTP, a reply that is cut off would look complete.",
                old=error("a stream needs HTTP/1.1, not HTTP/1.0"),
            ),
        },
    ),
}
