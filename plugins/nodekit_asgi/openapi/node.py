"""Descriptions of operations without a job: the node's state, and its documentation."""

from collections.abc import Mapping

from nodekit_asgi.api.docs_page import ASSETS
from nodekit_asgi.openapi.operation import Answer, Content, Key, Operation, Parameter
from nodekit_asgi.openapi.shared import ANY, READING, REQUEST_ID, UNLIMITED, error, errors
from nodekit_asgi.wire.node import WireHealth, WireInfo, WireLive

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
        summary="Get the version and the containers of the node",
        description="The containers that can be called right now, and how many jobs are accepted and not finished.",
        parameters=(REQUEST_ID,),
        answers={
            200: Answer(
                "The version, the containers, and the number of unfinished jobs.", Content(WireInfo, {"one": _INFO})
            ),
            **READING,
        },
    ),
    ("/health", "GET"): Operation(
        id="getHealth",
        tag="node",
        summary="Get the health of the node",
        description="A node is unhealthy in three cases: its store or its executor fails; it has containers and none "
        "of them can be called; it drains.",
        parameters=(REQUEST_ID,),
        answers={
            **UNLIMITED,
            200: Answer(
                "The node can work. `reasons` name what does not work fully.",
                Content(
                    WireHealth,
                    {
                        "healthy": {"status": "healthy"},
                        "in part": {"status": "healthy", "reasons": ["container upper: cannot connect"]},
                    },
                ),
            ),
            503: Answer(
                "The node cannot work. `reasons` say why.",
                Content(
                    WireHealth,
                    {"stopping": {"status": "unhealthy", "reasons": ["the node is draining or has not started"]}},
                ),
            ),
        },
    ),
    ("/health/live", "GET"): Operation(
        id="getLive",
        tag="node",
        summary="Find out if the node answers at all",
        description="The reply is 200 as long as the event loop goes round, also while the node drains or its store "
        "fails. Restart a node that does not answer; `GET /health` says if it should get jobs.",
        parameters=(REQUEST_ID,),
        answers={
            **UNLIMITED,
            200: Answer("The node answers.", Content(WireLive, {"live": {"status": "live"}})),
        },
    ),
    ("/resources", "GET"): Operation(
        id="getResources",
        tag="node",
        summary="Get the resources of the containers",
        description="The reply of each container to `GET /service-resources`. The node asks all containers at once. A "
        "container that does not answer in time is left out.",
        parameters=(
            REQUEST_ID,
            Parameter(
                name="model_id",
                place="query",
                description="Passed on to the containers, which then describe this model only.",
                schema={"type": "string"},
                example="ml/example",
            ),
        ),
        answers={
            **ANY,
            200: Answer(
                "The replies of the containers, by id.",
                Content({"type": "object", "additionalProperties": True}, {"one": _RESOURCES}),
            ),
        },
    ),
    ("/openapi.json", "GET"): Operation(
        id="getOpenApi",
        tag="documentation",
        summary="Get this document",
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
        summary="Get a page to read and try this document",
        description="The page loads everything from this node.",
        parameters=(REQUEST_ID,),
        answers={
            **UNLIMITED,
            200: Answer("The page.", Content({"type": "string"}, media_type="text/html"), ("Content-Security-Policy",)),
        },
    ),
    ("/docs/{file}", "GET"): Operation(
        id="getDocsFile",
        tag="documentation",
        summary="Get a file of that page",
        description="Scripts and styles. Only the listed names exist.",
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
            304: Answer("The caller has this version of the file already.", headers=("ETag",)),
            404: errors("There is no such file.", unknown=error("no such path")),
        },
    ),
}
