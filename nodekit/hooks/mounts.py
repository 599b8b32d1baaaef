"""ASGI applications of plugins. HTTP transports serve them beside the node's own routes."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

AsgiApplication: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
"""An application called with scope, receive and send. Their types are left open, since each framework has its own."""


class Mount(msgspec.Struct, frozen=True):
    """An ASGI application to serve below ``/-/<name>/``. It gets HTTP requests, and nothing else.

    - `name`: Name of lower-case letters and digits, with single ``-`` between them.
    - `public`: True if all clients that reach the node may call it. Otherwise only clients on the node's machine may.
    """

    name: str
    app: AsgiApplication
    public: bool = False
