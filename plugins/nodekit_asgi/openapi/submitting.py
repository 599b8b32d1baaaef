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
from nodekit_asgi.wire.jobs import WireAccepted, WireJob, WireRequest
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
    "The request is malformed, or it is refused. Plugins add refusals of their own.", **_MALFORMED, **REFUSALS
)

OPERATIONS: Mapping[Key, Operation] = {
    ("/api/jobs", "POST"): Operation(
        id="submitJob",
        tag="jobs",
        summary="Submit a job",
        description="The job is kept, and can be read, before its id is answered. At most <max_steps> containers.\n\n"
        "The body is JSON, whatever `Content-Type` says: UTF-8, no NaN, at most <max_json_depth> deep. In `data`, "
        "digits of numbers and duplicate keys pass through unchanged.",
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
                "The id of the job; with `Prefer: wait`, the job, which is finished.",
                Content({"anyOf": [WireAccepted, WireJob]}, {"accepted": _ACCEPTED, "finished": _FINISHED}),
                ("Preference-Applied",),
                READERS,
            ),
            202: Answer(
                "The job was not finished in the time that `Prefer: wait` gives it.",
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
        summary="Submit jobs",
        description="Each item is a job of its own, or an error of its own that does not harm the others. `Priority` "
        "holds for all of them.",
        parameters=(REQUEST_ID, PRIORITY),
        body=Content(
            {"type": "array", "items": WireRequest, "maxItems": "<max_batch>"}, {"two": [_ONE, _TWO], "none": []}
        ),
        answers={
            **WITH_BODY,
            200: Answer(
                "For each item, in the same order, the id of its job or what is wrong with it.",
                Content(
                    {"type": "array", "items": {"anyOf": [WireAccepted, WireErrorReply]}},
                    {"mixed": [_ACCEPTED, error("Container not supported", container="lower")], "none": []},
                ),
            ),
            400: errors(
                "The body as a whole is no JSON, or no list.",
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
        summary="Submit a job, and read what its last container gives as it comes",
        description="First the id of the job and a newline, before the container is called; then the bytes of the last "
        "container. If it fails the reply is cut off, so that it does not look whole, and the job is `failed`. A "
        "client that goes away cancels the job.",
        parameters=(REQUEST_ID, PRIORITY),
        body=Content(WireRequest, {"one": _ONE}),
        answers={
            **WITH_BODY,
            200: Answer("The id, a newline, and bytes.", Content(None, media_type="application/octet-stream")),
            400: REFUSED,
            413: TOO_LARGE,
            429: TOO_MANY,
            500: FAULT,
            503: NOT_NOW,
            505: errors(
                "Over this version of HTTP a reply that is cut off would look whole.",
                old=error("a stream needs HTTP/1.1, not HTTP/1.0"),
            ),
        },
    ),
}
