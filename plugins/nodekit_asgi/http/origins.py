"""Checks of Host and Origin. They keep out pages of other sites, and foreign names that point at loopback."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address

from nodekit_asgi.http.messages import Header, HttpError, Request
from nodekit_asgi.http.sites import host_name, host_names, origin_name, origin_names

_METHODS = b"GET, HEAD, POST, PUT, DELETE"
_EXPOSED = b"link, preference-applied, retry-after, x-request-id"
_HEADERS = b"content-type, idempotency-key, last-event-id, prefer, priority, x-request-id, authorization, x-api-key"


LONGEST_HOST = 300
"""Characters of a host and its port. A name has 253 at most, so no allowed host is longer."""


def check_access(request: Request, *, loopback: bool) -> Sequence[Header]:
    """Return the headers that let the page of an allowed site read the reply. Raise `HttpError` 403 for others."""
    host = request.headers.get(b"host", b"").decode("latin-1")
    allowed = request.limits.allowed_hosts
    if (loopback or allowed) and host and not _may_be_called(host, allowed):
        raise HttpError(
            403, "Host: this node is not called by that name; list other names than loopback's in allowed_hosts"
        )
    if b"origin" not in request.headers:
        return ()
    origin = request.headers[b"origin"].decode("latin-1")
    if not origin or _is_of(origin, host):
        return ()
    if _site(origin) not in origin_names(request.limits.allowed_origins):
        raise HttpError(403, "Origin: pages of other sites may not call this node; list theirs in allowed_origins")
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"origin"),
    ]


PREFLIGHT: Sequence[Header] = [
    (b"access-control-allow-methods", _METHODS),
    (b"access-control-allow-headers", _HEADERS),
]
"""Headers that a browser asks for before it sends the request of an allowed site's page."""


def _may_be_called(host: str, allowed: tuple[str, ...]) -> bool:
    """Return True if a node on loopback may be called by this name."""
    return len(host) <= LONGEST_HOST and _is_known(host, allowed)


@lru_cache(64)
def _is_known(host: str, allowed: tuple[str, ...]) -> bool:
    return _is_loopback(host) or _name(host) in host_names(allowed)


def _is_of(origin: str, host: str) -> bool:
    """Return True if the page came from this host. A proxy may have taken the request by https."""
    return any(_site(origin) == _site(f"{scheme}://{host}") != "" for scheme in ("http", "https"))


def _site(origin: str) -> str:
    try:
        return origin_name(origin)
    except ValueError:
        return ""


def _name(host: str) -> str:
    try:
        return host_name(host)
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    name = _name(host)
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
