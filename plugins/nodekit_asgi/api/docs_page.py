"""The page to read and try the OpenAPI document.

It is Swagger UI. The package `offapi` contains its files. It is not imported, because that would read 9 MB.
"""

import os
from collections.abc import Mapping
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

import anyio.to_thread
from msgspec import Struct

from nodekit import Node
from nodekit_asgi.http.messages import Header, HttpError, Reply, Request

CARRIER = "offapi"

_CSS, _SCRIPT, _HTML = b"text/css; charset=utf-8", b"text/javascript; charset=utf-8", b"text/html; charset=utf-8"


class Asset(Struct, frozen=True):
    """A file of the page.

    - `carried`: True if the file is in the package `offapi`, False if it is one of this package.
    """

    name: str
    content_type: bytes
    carried: bool = True


ASSETS: Mapping[str, Asset] = {
    "swagger-ui.css": Asset("swagger_style.css", _CSS),
    "swagger-ui-bundle.js": Asset("swagger_bundle.js", _SCRIPT),
    "start.js": Asset("start.js", _SCRIPT, carried=False),
}
"""The files by their name in a URL. No other file can be requested."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page loads from its own node only and calls no other, even if the carried files try to."""

_SAFE: tuple[Header, ...] = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),  # the browser keeps it, and asks again with its ETag
)
_OWN = Path(__file__).parents[1] / "page"


async def page(request: Request, node: Node) -> Reply:
    name = "index.html" if all(_path(asset) for asset in ASSETS.values()) else "missing.html"
    return Reply(await anyio.to_thread.run_sync((_OWN / name).read_bytes), 200, _SAFE, _HTML)


async def file(request: Request, node: Node) -> Reply:
    asset = ASSETS.get(request.parameters["file"])
    path = _path(asset) if asset else None
    if asset is None or path is None:
        raise HttpError(404, "no such path")
    body, etag = await anyio.to_thread.run_sync(_read, path)
    headers = (*_SAFE, (b"etag", etag))
    if etag in request.headers.get(b"if-none-match", b""):
        return Reply(b"", 304, headers)
    return Reply(body, 200, headers, asset.content_type)


def _path(asset: Asset) -> Path | None:
    """Return the path of the file. Return None if it is not installed."""
    folder = _OWN
    if asset.carried:
        spec = find_spec(CARRIER)
        if spec is None or spec.origin is None:
            return None
        folder = Path(spec.origin).parent
    path = folder / asset.name
    return path if os.path.isfile(path) else None


def _read(path: Path) -> tuple[bytes, bytes]:
    body = path.read_bytes()
    return body, b'"%s"' % blake2b(body, digest_size=16).hexdigest().encode()
