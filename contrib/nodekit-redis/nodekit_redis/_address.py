"""The server that nodes work on: at a fixed address, or the primary that Sentinel names now."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit

import anyio
from redis.asyncio.connection import Connection, ConnectionPool
from redis.exceptions import ConnectionError, RedisError

from nodekit import CompositionError, Problem
from nodekit_redis._config import RedisConfig

PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,48}")
SENTINEL_PORT = 26379
SCHEMES = ("redis://", "rediss://", "unix://")
Command: TypeAlias = Sequence[bytes | str | int | float]
BROKEN = (RedisError, OSError, EOFError, AttributeError, RuntimeError)
"""Errors of a connection that is gone. The last two: asyncio's transports may raise them once they are closed."""
OWN: Mapping[str, Any] = {
    "protocol": 2,
    "decode_responses": False,
    "socket_timeout": None,
    "health_check_interval": 0,
    "retry_on_timeout": False,
    "client_name": "nodekit",
}
"""Settings of connections that calls depend on. A URL may not have others."""


class Wire(Protocol):
    """A connection of redis-py, as far as it is used here."""

    async def connect(self) -> None: ...
    async def disconnect(self, nowait: bool = False) -> None: ...
    async def send_command(self, *command: str) -> None: ...
    async def send_packed_command(self, command: Sequence[bytes], check_health: bool = True) -> None: ...
    def pack_commands(self, commands: Sequence[Command]) -> list[bytes]: ...
    async def read_response(self, disable_decoding: bool = False, *, disconnect_on_error: bool = True) -> Any: ...


async def close(connection: Wire) -> None:
    with anyio.CancelScope(shield=True), anyio.move_on_after(1), suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)


class Address:
    """The way to a server. It makes a connection once, and never again by itself."""

    def __init__(self, config: RedisConfig) -> None:
        self._url, self._connect_seconds = config.url.reveal(), config.connect_seconds
        self._sentinels = config.sentinels
        password = config.sentinel_password
        self._sentinel_password = None if password is None else password.reveal()

    async def connect(self) -> Wire:
        """Return a connection to the server; with Sentinels, to the primary. Raise one of `BROKEN`, or TimeoutError."""
        with anyio.fail_after(self._connect_seconds):
            if not self._sentinels:
                return await _connected(self._pool().make_connection())
            connection = await _connected(self._pool(*await self._primary()).make_connection())
            try:
                await _check_role(connection)
            except BaseException:
                await close(connection)
                raise
            return connection

    def _pool(self, *place: Any) -> Any:
        pool = make_pool(self._url, self._connect_seconds)
        pool.connection_kwargs.update(zip(("host", "port"), place, strict=False))
        return pool

    async def _primary(self) -> tuple[str, int]:
        """Return the address that the first Sentinel knows which answers."""
        name, told = self._pool().connection_kwargs["host"], list[str]()
        for number, sentinel in enumerate(self._sentinels):
            try:
                with anyio.fail_after(self._connect_seconds / len(self._sentinels)):
                    found = await self._ask(sentinel, name)
            except (*BROKEN, TimeoutError) as error:
                told.append(f"{sentinel}: {error or 'no answer'}")
                continue
            if found:
                others = (*self._sentinels[:number], *self._sentinels[number + 1 :])
                self._sentinels = (sentinel, *others)  # the one that answers is asked first, next time
                return found[0].decode(), int(found[1])
            told.append(f"{sentinel} knows no {name!r}")
        raise ConnectionError(f"no Sentinel names the primary: {'; '.join(told)}")

    async def _ask(self, sentinel: str, name: str) -> Sequence[bytes] | None:
        host, port = split_address(sentinel)
        given: Mapping[str, Any] = {"host": host, "port": port, "password": self._sentinel_password}
        pools: Any = ConnectionPool
        pool = pools(connection_class=Connection, **given, protocol=2, socket_connect_timeout=self._connect_seconds)
        connection = await _connected(pool.make_connection())
        try:
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
            found: Sequence[bytes] | None = await connection.read_response(disable_decoding=True)
            return found
        finally:
            await close(connection)


async def _connected(connection: Wire) -> Wire:
    try:
        await connection.connect()
    except BaseException:
        await close(connection)
        raise
    return connection


async def _check_role(connection: Wire) -> None:
    """Raise `ConnectionError` if the server is no primary yet, or not any more: Sentinel may know it later than it."""
    await connection.send_command("INFO", "replication")
    if b"role:master" not in await connection.read_response(disable_decoding=True):
        raise ConnectionError("the server that Sentinel names takes no writes yet")


def make_pool(url: str, connect_seconds: float) -> Any:
    """Return a pool of redis-py, which makes connections that are not connected yet, and never connect again.

    Raise `ValueError`, `TypeError` or `AttributeError` for a URL that cannot be used.
    """
    pools: Any = ConnectionPool
    pool = pools.from_url(url, **OWN, socket_connect_timeout=connect_seconds)
    for name, value in OWN.items():
        if pool.connection_kwargs[name] != value:
            raise ValueError(f"the URL may not set {name}")
    host = str(pool.connection_kwargs.get("host", ""))
    if b"\0" in host.encode("idna"):  # as the look-up encodes it, which raises ValueError, too
        raise ValueError("the URL has no name of a host")
    return pool


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, ``[::1]:port`` or ``host``. Raise `ValueError`."""
    parts = urlsplit(f"//{address}")
    if not parts.hostname or parts.username or parts.path or parts.query:
        raise ValueError("expected host:port")
    return parts.hostname, parts.port or SENTINEL_PORT


def check(config: RedisConfig) -> None:
    """Raise `CompositionError` for settings that cannot work. The message does not repeat the URL."""
    url = config.url.reveal()
    if not url.startswith(SCHEMES):
        raise CompositionError(Problem("url", f"expected a URL that begins with {', '.join(SCHEMES)}"))
    try:
        made = make_pool(url, 1.0).make_connection()
    except (ValueError, TypeError, AttributeError):  # the text may have the password
        raise CompositionError(
            Problem("url", "this is no URL of a server, or has a parameter that redis-py does not know")
        ) from None
    if not PREFIX.fullmatch(config.prefix):
        cure = "expected 1 to 48 letters, digits and _.-, without braces"
        raise CompositionError(Problem("prefix", f"{config.prefix!r} is no prefix; {cure}"))
    for number, address in enumerate(config.sentinels):
        try:
            split_address(address)
        except ValueError:
            raise CompositionError(Problem(f"sentinels[{number}]", "expected host:port of a Sentinel")) from None
    if config.sentinels and not hasattr(made, "host"):
        raise CompositionError(
            Problem("url", "with sentinels, the host in url is the name of the primary; a socket has none")
        )
