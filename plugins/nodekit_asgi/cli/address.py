"""The address of a node: its URL, and a connection to it."""

import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

import click
import msgspec
from msgspec.structs import replace

from nodekit import Secret, resolved_path
from nodekit_asgi.cli.key import key_of

DEFAULT_URL = "http://127.0.0.1:4000"
CONNECT_SECONDS = 10.0


class Address(msgspec.Struct, frozen=True):
    """A parsed node URL.

    - `path`: The path of the unix socket, or the prefix of the node's own paths.
    - `key`: The key that says who asks.
    """

    url: str
    scheme: Literal["http", "https", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""
    key: Secret | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of each request to the node."""
        return {} if self.key is None else {"Authorization": f"Bearer {self.key.reveal()}"}

    @property
    def shown(self) -> str:
        """Return the URL, with its port if it names none."""
        named = self.scheme == "unix" or urlsplit(self.url).port is not None
        return self.url if named else f"{self.url} (port {self.port})"

    def connection(self) -> HTTPConnection:
        """Return a connection that is not open yet. Proxies from the environment are not used."""
        if self.scheme == "unix":
            return _UnixConnection(self.path)
        kind = HTTPSConnection if self.scheme == "https" else HTTPConnection
        return kind(self.host, self.port, timeout=CONNECT_SECONDS)

    def target(self, path: str) -> str:
        """Return the request target for a path of the node."""
        return path if self.scheme == "unix" else self.path + path


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def parse_url(url: str) -> Address:
    """Parse a node's URL. Raise `ValueError` if it is not one."""
    if url.startswith("unix:") and url != "unix:":
        return Address(url, "unix", path=str(resolved_path(url.removeprefix("unix:"), Path())))
    parts = urlsplit(url)
    if not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment or parts.port == 0:
        raise ValueError("not a node's URL")
    if any(letter.isspace() for letter in parts.hostname):
        raise ValueError("no name of a host")
    parts.hostname.encode("idna")
    path = quote(parts.path.rstrip("/"), safe="/%")
    if parts.scheme == "https":
        return Address(url, "https", parts.hostname, parts.port or 443, path)
    if parts.scheme == "http":
        return Address(url, "http", parts.hostname, parts.port or 80, path)
    raise ValueError("no scheme of a node's URL")


def check_node(ctx: click.Context, param: click.Parameter, value: str) -> Address:
    """Parse the value of `--node`. The address has the key of `--key-file`, or that of the environment."""
    try:
        return replace(parse_url(value), key=key_of(ctx))
    except ValueError as error:
        expected = "expected http://HOST:PORT, https://HOST:PORT or unix:PATH"
        if "Port out of range" in str(error):
            expected = "expected a port from 1 to 65535"
        raise click.BadParameter(f"{expected}, got {value!r}", ctx, param) from error
