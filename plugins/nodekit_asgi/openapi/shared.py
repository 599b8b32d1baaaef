"""Headers, errors, parameters and schemas that many operations share."""

from collections.abc import Mapping
from typing import Any

from nodekit_asgi.openapi.operation import Answer, Content, Parameter
from nodekit_asgi.wire.fields import JOB_ID
from nodekit_asgi.wire.node import WireErrorReply

ID: Mapping[str, Any] = {"type": "string", "format": "uuid"}
BOOLEAN: Mapping[str, Any] = {"type": "boolean"}

HEADERS: Mapping[str, Mapping[str, Any]] = {
    "X-Request-ID": {
        "description": "The id that the request has, or a new one. The node's log has it beside each failure.",
        "schema": {"type": "string"},
        "required": True,
        "example": "9f86d081884c7d65",
    },
    "Retry-After": {
        "description": "Seconds to wait before the next try.",
        "schema": {"type": "integer", "minimum": 0},
        "required": True,
        "example": 5,
    },
    "Accept-Encoding": {
        "description": "The coding that the node understands.",
        "schema": {"type": "string"},
        "required": True,
        "example": "gzip",
    },
    "Preference-Applied": {
        "description": "The longest time that the node waits, if the request has `Prefer: wait`.",
        "schema": {"type": "string"},
        "example": "wait=10",
    },
    "Link": {
        "description": "The URL of the next page, relative to this one. A short or empty page may have it, too.",
        "schema": {"type": "string"},
        "example": f'<?limit=100&after={JOB_ID}>; rel="next"',
    },
    "WWW-Authenticate": {
        "description": "How to say who you are (RFC 9110).",
        "schema": {"type": "string"},
        "required": True,
        "example": "Bearer",
    },
    "ETag": {
        "description": "The version of the file, for `If-None-Match`.",
        "schema": {"type": "string"},
        "required": True,
        "example": '"9f86d081884c7d659a2feaa0c55ad015"',
    },
    "Content-Security-Policy": {
        "description": "Allows the page to load from and to call this node only.",
        "schema": {"type": "string"},
        "required": True,
        "example": "default-src 'none'; script-src 'self'",
    },
}


def error(text: str, **params: Any) -> Mapping[str, Any]:
    return {"error": text, "params": params} if params else {"error": text}


def errors(description: str, *headers: str, **examples: Mapping[str, Any]) -> Answer:
    """Return an error reply with examples by name."""
    return Answer(description, Content(WireErrorReply, examples), headers)


BAD_REQUEST = errors(
    "The request is malformed. `error` names the field.",
    limit=error("limit: expected a whole number of 1 or more"),
    query=error("the query is not UTF-8, or has too many fields"),
    unknown=error("intermediat: unknown query parameter; did you mean intermediate?"),
)
FORBIDDEN = errors(
    "The node does not serve this `Host`, pages of this `Origin` may not call it, or this caller may not do this.",
    host=error("Host: this node is not called by that name; list other names than loopback's in allowed_hosts"),
    origin=error("Origin: pages of other sites may not call this node; list theirs in allowed_origins"),
    scope=error("this needs a key with the scope submit"),
)
NO_SUCH_JOB = errors("The id belongs to no job of this client.", unknown=error("no such job"))
TOO_SLOW = errors(
    "The body did not arrive within <body_seconds> seconds, or came to a stop for <body_timeout_seconds> seconds.",
    late=error("the body did not arrive within 60 s, or came to a stop for 10 s"),
)
TOO_LARGE = errors(
    "The body is larger than <max_body_bytes> bytes.", large=error("the body is larger than 16777216 bytes")
)
CODED = errors(
    "The body is compressed in another way than gzip.",
    "Accept-Encoding",
    coded=error("Content-Encoding: br is not understood; send the body as it is, or in gzip"),
)
TOO_MANY = errors(
    "This client has too many unfinished jobs or too many stored bytes, or sends too many requests.",
    "Retry-After",
    limit=error("you have 100 unfinished jobs; wait until some are finished"),
    stored=error("1048600 bytes are stored for you, of at most 1048576; wait until jobs of yours are deleted"),
)
FAULT = errors(
    "A fault of the node. The node's log has details beside the same `request_id`.",
    fault=error("internal error", request_id="9f86d081884c7d65"),
)
STORE_FAILS = errors(
    "The store does not work right now.", "Retry-After", store=error("the store does not work right now")
)
KEY_REUSED = errors(
    "The `Idempotency-Key` was used with another body before.",
    reused=error("the idempotency key was used with another request before; make a new key for each request"),
)
NOT_NOW = errors(
    "The node or its disk is full, or it is stopping, or its store does not work right now.",
    "Retry-After",
    draining=error("the node is draining or has not started"),
    store=error("the store does not work right now"),
)

TOO_OFTEN = errors(
    "This client sends too many requests, if a plugin of the node limits them, or its requests wait for too many jobs.",
    "Retry-After",
    often=error("too many requests: at most 60 in 60 s"),
)

WHO_ASKS = errors(
    "The caller did not say who it is. Only nodes with a plugin that identifies callers give this answer.",
    "WWW-Authenticate",
    unknown=error("a key is needed: Authorization: Bearer nk_…"),
    revoked=error("this key has been revoked"),
)

UNLIMITED: Mapping[int, Answer] = {400: BAD_REQUEST, 403: FORBIDDEN, 500: FAULT}
"""Answers that every operation may give."""
ANY: Mapping[int, Answer] = {**UNLIMITED, 401: WHO_ASKS, 429: TOO_OFTEN}
"""Answers that all operations but the page and the probes may give."""
READING: Mapping[int, Answer] = {**ANY, 503: STORE_FAILS}
WITH_BODY: Mapping[int, Answer] = {**READING, 408: TOO_SLOW, 413: TOO_LARGE, 415: CODED}

REQUEST_ID = Parameter(
    name="X-Request-ID",
    place="header",
    description="Up to 128 visible ASCII characters, which the reply returns. Any other value is ignored.",
    schema={"type": "string"},
    example="my-request-17",
)
JOB = Parameter(name="id", place="path", description="The id of a job.", schema=ID, example=JOB_ID)
PRIORITY = Parameter(
    name="Priority",
    place="header",
    description="The urgency of the job (RFC 9218): `u` from 0 (the most urgent) to 7, by default 3. The node may "
    "allow this client less urgency. A malformed header is ignored.",
    schema={"type": "string"},
    example="u=1",
)
PREFER = Parameter(
    name="Prefer",
    place="header",
    description="`wait=N` (RFC 7240): wait for the job, at most N seconds and at most <max_wait_seconds>. "
    "Other preferences and malformed ones are ignored.",
    schema={"type": "string"},
    example="wait=10",
)
IDEMPOTENCY_KEY = Parameter(
    name="Idempotency-Key",
    place="header",
    description="Makes it safe to send the request again. A request with the same key and the same body, byte for "
    "byte, returns the same job. A key lives as long as its job. Refused requests are not remembered.",
    schema={"type": "string", "pattern": "^[!-~]{1,255}$"},
    example="order-4711",
)
