"""Targets of requests in absolute form, ``GET http://node:4000/info``, as proxies get them (RFC 9112, 3.2.2)."""

from collections.abc import Sequence

Header = tuple[bytes, bytes]


def origin_form(target: bytes, headers: Sequence[Header]) -> tuple[bytes, Sequence[Header]]:
    """Return the path and query of a target, and the headers with the host that it names in place of their own.

    A target that is not in absolute form, or names no host, is returned as it is.
    """
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        return target, headers
    end = min(at for at in (*(rest.find(mark) for mark in b"/?#"), len(rest)) if at >= 0)
    host, path = rest[:end].rpartition(b"@")[2], rest[end:]
    if not host:
        return target, headers
    others = [header for header in headers if header[0].lower() != b"host"]
    return path if path.startswith(b"/") else b"/" + path, [(b"host", host), *others]
