"""The scopes that operations need. One that is not in the table needs `operate`, so that a new one is closed."""

from collections.abc import Mapping

from nodekit import Connection
from nodekit_apikeys._key import OPERATE, Scope

_SUBMIT: frozenset[Scope] = frozenset({"submit"})
_READ: frozenset[Scope] = frozenset({"read"})
_CANCEL: frozenset[Scope] = frozenset({"cancel"})
_METRICS: frozenset[Scope] = frozenset({"metrics"})
_OPERATE: frozenset[Scope] = frozenset({OPERATE})
_ANY: frozenset[Scope] = frozenset({"submit", "read", "cancel", "metrics", OPERATE})

SCOPES: Mapping[str, frozenset[Scope]] = {
    "GET /info": frozenset({"read", "submit"}),
    "GET /resources": frozenset({"read", "submit"}),
    "POST /api/jobs": _SUBMIT,
    "POST /api/jobs/batch": _SUBMIT,
    "POST /api/jobs/stream": _SUBMIT,
    "POST /api/jobs/{id}/retry": _SUBMIT,
    "GET /api/jobs": _READ,
    "GET /api/jobs/{id}": _READ,
    "GET /api/jobs/{id}/events": _READ,
    "DELETE /api/jobs/{id}": _CANCEL,
    "PUT /api/status": _OPERATE,
    "GET /-/metrics/": _METRICS,
}
"""Scopes by operation, each of which is enough. `operate` always is."""


def needed(connection: Connection) -> frozenset[Scope]:
    """Return the scopes of which a caller needs one."""
    if not connection.operation and connection.transport == "http":
        return _ANY  # there is nothing at this path: the caller reads 404 or 405
    return SCOPES.get(connection.operation, _OPERATE)


def reads_result(connection: Connection) -> bool:
    """Return True if a request that submits a job also asks for its result, by ``Prefer: wait``."""
    prefer = connection.headers.get("prefer")
    return prefer is not None and "wait" in prefer.lower()
