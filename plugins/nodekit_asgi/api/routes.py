"""The table of routes. `nodekit_asgi.openapi` describes them for readers; a test compares the two."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from nodekit import Node
from nodekit_asgi.api import docs_page as _docs
from nodekit_asgi.api import handlers as _handlers
from nodekit_asgi.api import status_reports as _reporting
from nodekit_asgi.api import streams as _stream
from nodekit_asgi.http.messages import Reply, Request

Handler: TypeAlias = Callable[[Request, Node], Awaitable[Reply]]


async def _openapi(request: Request, node: Node) -> Reply:
    from nodekit_asgi.openapi import document  # imported only when it is needed

    return Reply(document(request.limits, KEYS))


ROUTES: Mapping[str, Mapping[str, Handler]] = {
    "/info": {"GET": _handlers.info},
    "/health": {"GET": _handlers.health},
    "/api/jobs": {"GET": _handlers.jobs, "POST": _handlers.submit},
    "/api/jobs/batch": {"POST": _handlers.submit_batch},
    "/api/jobs/stream": {"POST": _stream.stream},
    "/api/jobs/{id}": {"GET": _handlers.history, "DELETE": _handlers.cancel},
    "/api/jobs/{id}/events": {"GET": _handlers.events},
    "/api/jobs/{id}/retry": {"POST": _handlers.retry},
    "/api/status": {"PUT": _reporting.report},
    "/resources": {"GET": _handlers.resources},
    "/openapi.json": {"GET": _openapi},
    "/docs": {"GET": _docs.page},
    "/docs/{file}": {"GET": _docs.file},
}
"""Handlers by path and method. A name in braces stands for one segment that no other path has in its place."""

KEYS = frozenset((path, method) for path, methods in ROUTES.items() for method in methods)

_WITH_NAMES = [(path, path.split("/")) for path in ROUTES if "{" in path]


def route(path: str) -> tuple[str, Mapping[str, str]]:
    """Return the key of `ROUTES` that matches a path, and the segments by the key's names in braces.

    Return an empty key if no route matches.
    """
    if path in ROUTES and "{" not in path:
        return path, {}
    segments = path.split("/")
    for template, names in _WITH_NAMES:
        pairs = list(zip(names, segments, strict=False))
        fits = all(segment if name[:1] == "{" else segment == name for name, segment in pairs)
        if fits and len(names) == len(segments):
            return template, {name[1:-1]: segment for name, segment in pairs if name[:1] == "{"}
    return "", {}
