"""What an operation is to somebody who reads about it.

Schemas are JSON Schema in which a Struct stands for its own schema. In these and in all text, `<max_batch>` is that
limit of the node, see `nodekit_asgi.Limits`.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

Schema: TypeAlias = Mapping[str, Any] | type[msgspec.Struct]
Key: TypeAlias = tuple[str, str]
"""A path and a method, as in the table of routes."""


class Content(msgspec.Struct, frozen=True):
    """A body, of a request or of a reply."""

    schema: Schema | None
    """None: bytes that nothing is said about."""
    examples: Mapping[str, Any] = {}
    media_type: str = "application/json"


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a request says beside its body."""

    name: str
    place: Literal["query", "header", "path"]
    description: str
    schema: Mapping[str, Any]
    example: Any


class Answer(msgspec.Struct, frozen=True):
    """What a status means, and what comes with it."""

    description: str
    content: Content | None = None
    headers: tuple[str, ...] = ()
    """Names of `HEADERS`; `X-Request-ID` is in every reply."""
    links: tuple[str, ...] = ()
    """Ids of operations that take the `id` of the body."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """What a method of a path does."""

    id: str
    tag: str
    summary: str
    description: str
    answers: Mapping[int, Answer]
    parameters: tuple[Parameter, ...] = ()
    body: Content | None = None
