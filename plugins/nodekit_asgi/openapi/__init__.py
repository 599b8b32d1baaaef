"""The node's API as an OpenAPI document. Imported only when a client asks for it."""

from functools import lru_cache

import msgspec

from nodekit_asgi.config import Limits
from nodekit_asgi.openapi.document import OPERATIONS, build
from nodekit_asgi.openapi.operation import Key

__all__ = ["OPERATIONS", "document"]


@lru_cache(8)
def document(limits: Limits, served: frozenset[Key], identifies: bool = False) -> bytes:
    """Return the document of nodes with these limits and operations, as JSON. It is built once.

    `identifies` is true for nodes with a plugin that identifies callers.
    """
    return msgspec.json.encode(build(limits, served, identifies=identifies))
