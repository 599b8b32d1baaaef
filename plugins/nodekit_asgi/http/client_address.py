"""The sender of a request: the peer of the connection or, behind a trusted proxy, the client that the proxy names."""

import re
from collections.abc import Iterator, Sequence

from nodekit_asgi.http.headers import split, unquoted
from nodekit_asgi.http.messages import HttpError, Request
from nodekit_asgi.http.networks import UNIX, in_networks, unmapped

_PORT = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
_ADDRESS = re.compile(rf"\[([0-9A-Fa-f:.]{{2,45}})\]{_PORT}|([0-9.]{{7,15}}){_PORT}|([0-9A-Fa-f:.]{{2,45}})")


def sender_name(request: Request) -> str:
    """Return the sender of a request: the name of its peer, or the address that a trusted proxy gives.

    Behind proxies, it is the last address in `forwarded_header` that is not a trusted proxy's, or the first if all of
    them are. Anybody may have written the addresses before it. Raise `HttpError` 400 if a trusted proxy's entry is not
    an address: treating such a client as the proxy would give it the proxy's rights. Raise `HttpError` 403 for a proxy
    that may not speak HTTP/2.
    """
    if not request.limits.trusted_proxies:
        return request.peer
    check_version(request)
    if not says_for_whom(request):
        return request.peer  # may be a trusted proxy that asks for itself
    proxies = request.limits.trusted_proxies
    name = request.limits.forwarded_header.lower()
    lines = request.values(name.encode())
    # line by line: an unclosed quote in the line of a client must not swallow that of the proxy
    read = [_hops(name, line.decode("latin-1")) for line in lines]
    hops = [hop for some in read for hop in some if hop] if all(read) else []
    for position in reversed(range(len(hops))):
        found = _ADDRESS.fullmatch(hops[position])
        address = unmapped(found[1] or found[2] or found[3]) if found else None
        if address is None:
            break
        if position == 0 or not _is_proxy(address, proxies):
            return address
    raise HttpError(400, f"{name}: expected addresses, the last one added by the proxy that passed the request on")


def check_version(request: Request) -> None:
    """Raise `HttpError` 403 if a proxy sends HTTP/2 that is not trusted to, whatever its headers say.

    A client can write such a connection itself, through an HTTP/1.1 proxy that believes in an upgrade. It would be any
    client, or the proxy.
    """
    limits = request.limits
    if request.http_version < "2" or not limits.trusted_proxies or not _is_proxy(request.peer, limits.trusted_proxies):
        return
    if not _is_proxy(request.peer, limits.trusted_proxies_http2):
        raise HttpError(403, "HTTP/2: this proxy is not trusted to use it; list it in trusted_proxies_http2")


def says_for_whom(request: Request) -> bool:
    """Return True if the peer is a trusted proxy and the request has the configured `forwarded_header`."""
    proxies = request.limits.trusted_proxies
    if not proxies or not _is_proxy(request.peer, proxies):
        return False
    return request.limits.forwarded_header.lower().encode() in request.headers


def came_securely(request: Request) -> bool:
    """Return True if nobody on the way can read along: on TLS and on a unix socket.

    For a request that a trusted proxy passed on, it is what that proxy says of its client: ``proto=https`` in
    `Forwarded` if that is the `forwarded_header`, and ``https`` in `X-Forwarded-Proto` otherwise.
    """
    if not says_for_whom(request):
        return request.peer == UNIX or request.scope.get("scheme") == "https"
    if request.limits.forwarded_header.lower() != "forwarded":
        lines = request.values(b"x-forwarded-proto")
        return bool(lines) and lines[-1].rpartition(b",")[2].strip().lower() == b"https"
    last = split(request.values(b"forwarded")[-1].decode("latin-1"), ",")[-1:]
    return next((value for element in last for value in _values(element, "proto")), "").lower() == "https"


def _is_proxy(client: str, proxies: tuple[str, ...]) -> bool:
    return UNIX in proxies if client == UNIX else in_networks(client, proxies)


def _hops(name: str, text: str) -> Sequence[str]:
    if name != "forwarded":
        return [hop.strip(" \t") for hop in text.split(",")]
    return [next(_values(element, "for"), "unknown") for element in split(text, ",") if element.strip(" \t")]


def _values(element: str, name: str) -> Iterator[str]:
    """Yield the values of this name in one element, such as ``for=…;proto=…`` (RFC 7239)."""
    for pair in split(element, ";"):
        key, _, value = pair.strip(" \t").partition("=")
        if key.lower() == name:
            yield unquoted(value)
