"""The table of routes. `nodekit_asgi.openapi` describes them for readers; a test compares the two."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import TypeAlias

from nodekit import Node
from nodekit_asgi.api import docs_page as _docs
from nodekit_asgi.api import handlers as _handlers
from nodekit_asgi.api import status_reports as _reporting
from nodekit_asgi.api import streams as _stream
from nodekit_asgi.http.messages import HttpError, Reply, Request
from nodekit_asgi.wire.profiles import PROFILES

Handler: TypeAlias = Callable[[Request, Node], Awaitable[Reply]]

LONGEST_NAME = 100
"""Characters of an unknown query parameter that are compared and shown."""


async def _openapi(request: Request, node: Node) -> Reply:
    from nodekit_asgi.openapi import document  # imported only when it is needed

    return Reply(document(request.limits, KEYS, node.identifies))


ROUTES: Mapping[str, Mapping[str, Handler]] = {
    "/info": {"GET": _handlers.info},
    "/health": {"GET": _handlers.health},
    "/health/live": {"GET": _handlers.live},
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

PROBES = frozenset({"/health", "/health/live"})
"""Paths that answer anybody, with any query: probes may add one of their own."""

QUERIES: Mapping[str, Collection[str]] = {
    "/api/jobs": (
        *("id", "history", "intermediate", "wait"),
        *("after", "all", "client", "container", "error", "limit", "order", "pending", "status"),
    ),
    "/resources": ("model_id",),
}
"""Query parameters of the GET of a path. No other method or path takes any."""

KEYS = frozenset((path, method) for path, methods in ROUTES.items() for method in methods)

_WITH_NAMES = [(path, path.split("/")) for path in ROUTES if "{" in path]


def handler(request: Request, path: str) -> Handler:
    """Return the handler of a request to a path of `ROUTES`, or to none. Raise `HttpError` 405 or 400."""
    if path not in ROUTES:
        return _handlers.not_found
    method = "GET" if request.method == "HEAD" else request.method
    if method not in ROUTES[path]:
        allow = ", ".join(_methods(path))
        raise HttpError(405, f"{request.path} takes {allow}", headers=[(b"allow", allow.encode())])
    if request.scope["query_string"] and path not in PROBES and PROFILES[request.limits.profile].knows_all_queries:
        _check_query(request, QUERIES.get(path, ()) if method == "GET" else ())
    return ROUTES[path][method]


def options(request: Request, path: str, *, preflight: bool) -> Reply | None:
    """Return the reply to OPTIONS of a path of `ROUTES`, of the node as a whole (``*``), or of a page's preflight.

    Return None for any other path: an application of a plugin may be there.
    """
    if path in ROUTES:
        methods = _methods(path)
    elif request.path in ("*", "/*"):
        methods = list(dict.fromkeys(method for known in ROUTES for method in _methods(known)))
    else:
        return Reply(b"", 204) if preflight else None
    return Reply(b"", 204, [(b"allow", ", ".join(methods).encode())])


def _methods(path: str) -> Sequence[str]:
    """Return the methods of a path: HEAD wherever GET is, and OPTIONS."""
    return [*ROUTES[path], *(["HEAD"] if "GET" in ROUTES[path] else []), "OPTIONS"]


def _check_query(request: Request, known: Collection[str]) -> None:
    for name, _ in request.query:
        if name not in known:
            nearest = get_close_matches(name[:LONGEST_NAME], known, 1)
            cure = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(known) or 'none'}"
            raise HttpError(400, f"{name[:LONGEST_NAME]}: unknown query parameter; {cure}")


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
