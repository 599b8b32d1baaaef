"""The OpenAPI document, built from the descriptions of operations."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from nodekit import __version__
from nodekit_asgi.config import Limits
from nodekit_asgi.openapi import followups as _followups
from nodekit_asgi.openapi import jobs as _jobs
from nodekit_asgi.openapi import node as _node
from nodekit_asgi.openapi import submitting as _submitting
from nodekit_asgi.openapi.older_profile import as_in_profile
from nodekit_asgi.openapi.operation import Answer, Content, Key, Operation, Parameter
from nodekit_asgi.openapi.schemas import Struct, reference, schemas, through
from nodekit_asgi.openapi.shared import HEADERS, WHO_ASKS

OPERATIONS: Mapping[Key, Operation] = {
    **_node.OPERATIONS,
    **_submitting.OPERATIONS,
    **_jobs.OPERATIONS,
    **_followups.OPERATIONS,
}
"""Descriptions of the routes, by path and method. A test compares them with the table of routes."""

INFO = {
    "title": "nodekit",
    "version": __version__,
    "summary": "A compute node: pipelines of containers over HTTP.",
    "description": "A job names containers and some data. The node calls the containers one after another. The output "
    "of one is the input of the next. The node stores every result, and returns it to the client that submitted "
    "the job.\n\nA client is the address that it calls from, or the address that a trusted proxy gives, or it has a "
    "key. It can read only its own jobs; operators can read all. Paths match exactly: another path is 404, and another "
    "method is 405 with `Allow`, as an `Error`. Unknown fields of a body are ignored. Replies to pages of "
    "`allowed_origins` have `Access-Control-Allow-Origin`.",
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}
TAGS = [
    {"name": "jobs", "description": "Submit, read, follow, cancel and retry jobs."},
    {"name": "node", "description": "The version, the containers and the health of the node."},
    {"name": "documentation", "description": "This document, and a page to read it."},
]

SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key, as `Authorization: Bearer KEY`."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A key, in a header of its own."},
}
"""Ways to say who asks. Each of them is enough."""

_LIMIT = re.compile(r"<(max_\w+|body_\w+)>")


def build(limits: Limits, served: Collection[Key], *, identifies: bool) -> dict[str, Any]:
    """Build the document of a node with these limits and operations, which identifies callers or does not."""
    there = {key: OPERATIONS[key] for key in OPERATIONS if key in served}
    known = {operation.id for operation in there.values()}
    paths: dict[str, dict[str, Any]] = {}
    used: set[Struct] = set()
    for (path, method), operation in as_in_profile(there, limits.profile).items():
        described = _referring(_limited(_operation(operation, known), limits), used)
        if identifies and WHO_ASKS not in operation.answers.values():
            described["security"] = []  # it answers anybody
        paths.setdefault(path, {})[method.lower()] = described
    security: dict[str, Any] = {"security": [{name: []} for name in SECURITY_SCHEMES]} if identifies else {}
    return {
        "openapi": "3.1.0",
        "info": {**INFO, "x-profile": limits.profile},
        "servers": [{"url": ".", "description": "This node. The URL is relative to the URL of this document."}],
        "tags": TAGS,
        **security,
        "paths": paths,
        "components": {
            "schemas": schemas(used),
            "headers": HEADERS,
            **({"securitySchemes": SECURITY_SCHEMES} if identifies else {}),
        },
    }


def _operation(operation: Operation, known: set[str]) -> dict[str, Any]:
    body = {} if operation.body is None else {"requestBody": {"required": True, **_content(operation.body)}}
    answers = sorted(operation.answers.items())
    return {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": [_parameter(parameter) for parameter in operation.parameters],
        **body,
        "responses": {str(status): _answer(answer, known) for status, answer in answers},
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "required": parameter.place == "path",
        # not as an `example` of the parameter: tools fill that in and send it without being asked
        "schema": {**parameter.schema, "examples": [parameter.example]},
    }


def _content(content: Content) -> dict[str, Any]:
    schema = {} if content.schema is None else {"schema": content.schema}
    examples = {name.replace(" ", "-"): {"summary": name, "value": value} for name, value in content.examples.items()}
    return {"content": {content.media_type: {**schema, **({"examples": examples} if examples else {})}}}


def _answer(answer: Answer, known: set[str]) -> dict[str, Any]:
    names = ("X-Request-ID", *answer.headers)
    links = {id: {"operationId": id, "parameters": {"id": "$response.body#/id"}} for id in answer.links if id in known}
    return {
        "description": answer.description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        **({} if answer.content is None else _content(answer.content)),
        **({"links": links} if links else {}),
    }


def _referring(value: Any, used: set[Struct]) -> Any:
    """Return the value with references in place of Structs, and add the Structs to `used`."""
    if isinstance(value, type):
        used.add(value)
        return reference(value)
    return through(value, lambda item: _referring(item, used))


def _limited(value: Any, limits: Limits) -> Any:
    """Return the value with the node's limits in place of their names."""
    if not isinstance(value, str):
        return through(value, lambda item: _limited(item, limits))
    if (whole := _LIMIT.fullmatch(value)) is not None:
        return getattr(limits, whole[1])
    return _LIMIT.sub(lambda found: f"{getattr(limits, found[1]):,}", value)
