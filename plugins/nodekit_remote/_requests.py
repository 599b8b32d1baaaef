"""The head of a request. Nothing in it can begin another line: not a URL, a bearer, or a header that a plugin adds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urlsplit

from nodekit import ContainerFailed

DEFAULT_PORTS = {"http": 80, "https": 443}

_SAFE = "/%:=&?~#+!$,;'@()*[]"
"""Characters of URLs that mean something, or stand for themselves. All others are sent as ``%XX``."""
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_OWN = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "keep-alive", "expect", "upgrade", "te", "trailer")
)
"""Headers that say where a request ends and what happens to its connection. Only the client says that."""
_DEFAULTS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "nodekit"}


@dataclass(frozen=True, slots=True)
class OriginKey:
    """The place to which connections lead."""

    scheme: str
    host: str
    """Name or address in lower case. The name is ASCII, and an address of IPv6 has no brackets."""
    port: int


class RequestHead:
    """The part that the heads of all requests to one URL, with these headers, share. Made once, sent many times.

    Raise `ValueError` for a header that cannot be sent. The message does not show its value, which may be a secret.
    """

    __slots__ = ("_headers", "_method", "origin", "start", "url")

    def __init__(self, method: str, url: str, headers: Mapping[str, str]) -> None:
        self._method, self._headers, self.url = method, headers, url
        parts = urlsplit(url)
        self.origin = origin_of(parts)
        path = quote(parts.path or "/", safe=_SAFE)
        query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
        lines = [f"{method} {path}{query} HTTP/1.1\r\nHost: {_host_and_port(self.origin)}\r\n".encode()]
        own = {name.lower() for name in headers}
        lines += [header_line(name, value) for name, value in _DEFAULTS.items() if name.lower() not in own]
        self.start = b"".join([*lines, *(header_line(name, value) for name, value in headers.items())])
        """The lines, each with its end. More of them may follow."""

    def with_headers(self, headers: Mapping[str, str]) -> "RequestHead":
        """Return a head with more headers. Those that it has by now stay as they are."""
        own = {name.lower() for name in self._headers}
        more = {name: value for name, value in headers.items() if name.lower() not in own}
        return RequestHead(self._method, self.url, {**more, **self._headers})


def header_line(name: str, value: str) -> bytes:
    """Return a line of a head. Raise `ValueError` if it would be more than one line, or of no use."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a header")
    if name.lower() in _OWN:
        raise ValueError(f"the header {name!r} cannot be set: the HTTP client sets what is about connections")
    return _line(name, value)


def idempotency_line(key: str) -> bytes:
    """Return the line of ``Idempotency-Key``, of which each call has its own."""
    return _line("Idempotency-Key", key)


def _line(name: str, value: str) -> bytes:
    if not value.isprintable() and not _VALUE.fullmatch(value):
        raise ValueError(f"the value of the header {name!r} has a line break, or another control character")
    return f"{name}: {value}\r\n".encode("utf-8", "surrogateescape")


def unsendable(url: str, error: ValueError) -> ContainerFailed:
    """Return the failure of a request that cannot be sent. The container is not to blame."""
    return ContainerFailed("internal", f"nothing was sent to {url}: {error}")


def origin_of(parts: SplitResult) -> OriginKey:
    """Return the place to which a URL leads. Raise `ValueError` if it names no host."""
    host = (parts.hostname or "").replace("%25", "%")
    if not host.isascii():
        host = host.encode("idna").decode()
    if not host or not re.fullmatch(r"[!-~]+", host):
        raise ValueError("the URL has no name of a host")
    return OriginKey(parts.scheme, host, DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port)


def _host_and_port(origin: OriginKey) -> str:
    host = origin.host.partition("%")[0]  # the zone of an address is this machine's own matter
    shown = f"[{host}]" if ":" in host else host
    return shown if origin.port == DEFAULT_PORTS[origin.scheme] else f"{shown}:{origin.port}"
