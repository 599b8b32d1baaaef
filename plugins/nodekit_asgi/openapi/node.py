"""Descriptions of operations without a job: the node's state, and its documentation."""

from collections.abc import Mapping

from nodekit_asgi.api.docs_page import ASSETS
from nodekit_asgi.openapi.operation import Answer, Content, Key, Operation, Parameter
from nodekit_asgi.openapi.shared import ANY, READING, REQUEST_ID, UNLIMITED, error, errors
from nodekit_asgi.wire.node import WireHealth, WireInfo

_INFO = {
    "version": "0.1.0",
    "containers": [{"id": "upper", "external": True, "image": "", "description": "A text in upper case"}],
    "pending": {"offchain": 3, "onchain": 0},
    "chain": {"enabled": False, "address": ""},
}
_RESOURCES = {"summary": {"compute_capability": [{"id": "ml", "type": "text"}], "max_tokens": 4096}}

OPERATIONS: Mapping[Key, Operation] = {
    ("/info", "GET"): Operation(
        id="getInfo",
        tag="node",
        summary="What the node is and offers",
        description="The containers that can be called right now, and how many jobs are accepted and not finished.",
        parameters=(REQUEST_ID,),
        answers={200: Answer("What the node is and offers.", Content(WireInfo, {"one": _INFO})), **READING},
    ),
    ("/health", "GET"): Operation(
        id="getHealth",
        tag="node",
        summary="Whether the node can work",
        description="It cannot when its store or its executor fails, when it has containers and none of them can be "
        "called, and while it drains.",
        parameters=(REQUEST_ID,),
        answers={
            **UNLIMITED,
            200: Answer(
                "It can; `reasons` say what is wrong in part.",
                Content(
                    WireHealth,
                    {
                        "healthy": {"status": "healthy"},
                        "in part": {"status": "healthy", "reasons": ["container upper: cannot connect"]},
                    },
                ),
            ),
            503: Answer(
                "It cannot, and `reasons` say why.",
                Content(
                    WireHealth,
                    {"stopping": {"status": "unhealthy", "reasons": ["the node is draining or has not started"]}},
                ),
            ),
        },
    ),
    ("/resources", "GET"): Operation(
        id="getResources",
        tag="node",
        summary="What the containers say of themselves",
        description="Each container's own answer to `GET /service-resources`. All are asked at once; one that does not "
        "answer in time is left out.",
        parameters=(
            REQUEST_ID,
            Parameter(
                name="model_id",
                place="query",
                description="Sent on to the containers, which then speak of this model.",
                schema={"type": "string"},
                example="ml/example",
            ),
        ),
        answers={
            **ANY,
            200: Answer(
                "By the ids of the containers.",
                Content({"type": "object", "additionalProperties": True}, {"one": _RESOURCES}),
            ),
        },
    ),
    ("/openapi.json", "GET"): Operation(
        id="getOpenApi",
        tag="documentation",
        summary="This document",
        description="OpenAPI 3.1, with the limits of this node.",
        parameters=(REQUEST_ID,),
        answers={
            **UNLIMITED,
            200: Answer("The document.", Content({"type": "object", "required": ["openapi", "paths"]})),
        },
    ),
    ("/docs", "GET"): Operation(
        id="getDocs",
        tag="documentation",
        summary="A page to read and try this document",
        description="What it loads comes from this node.",
        parameters=(REQUEST_ID,),
        answers={
            **UNLIMITED,
            200: Answer("The page.", Content({"type": "string"}, media_type="text/html"), ("Content-Security-Policy",)),
        },
    ),
    ("/docs/{file}", "GET"): Operation(
        id="getDocsFile",
        tag="documentation",
        summary="A file of that page",
        description="Scripts and styles. There is nothing to find here beyond the names given.",
        parameters=(
            REQUEST_ID,
            Parameter(
                name="file",
                place="path",
                description="The name of the file.",
                schema={"type": "string", "enum": list(ASSETS)},
                example=next(iter(ASSETS)),
            ),
            Parameter(
                name="If-None-Match",
                place="header",
                description="ETags that the caller has.",
                schema={"type": "string"},
                example='"9f86d081884c7d659a2feaa0c55ad015"',
            ),
        ),
        answers={
            **UNLIMITED,
            200: Answer("The file.", Content(None, media_type="text/*"), ("ETag",)),
            304: Answer("The caller has it already.", headers=("ETag",)),
            404: errors("There is no such file.", unknown=error("no such path")),
        },
    ),
}
