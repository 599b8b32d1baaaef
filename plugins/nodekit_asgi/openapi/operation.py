"""The description of an operation for readers of the OpenAPI document.

Schemas are JSON Schema in which a Struct stands for its own schema. In schemas and in all text, a name such as
`<max_batch>` stands for that limit of the node, see `nodekit_asgi.Limits`.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

Schema: TypeAlias = Mapping[str, Any] | type[msgspec.Struct]
Key: TypeAlias = tuple[str, str]
"""A path and a method, as in the table of routes."""


class Content(msgspec.Struct, frozen=True):
    """The body of a request or of a reply.

    - `schema`: The schema of the body. None: bytes without a schema.
    """

    schema: Schema | None
    examples: Mapping[str, Any] = {}
    media_type: str = "application/json"


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter of a request in its query, headers or path."""

    name: str
    place: Literal["query", "header", "path"]
    description: str
    schema: Mapping[str, Any]
    example: Any


class Answer(msgspec.Struct, frozen=True):
    """A reply with a certain status: its meaning, body and headers.

    - `headers`: Names in `HEADERS`. Every reply has `X-Request-ID` as well.
    - `links`: Ids of operations that take the `id` of the body.
    """

    description: str
    content: Content | None = None
    headers: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A method of a path."""

    id: str
    tag: str
    summary: str
    description: str
    answers: Mapping[int, Answer]
    parameters: tuple[Parameter, ...] = ()
    body: Content | None = None
