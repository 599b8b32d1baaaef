"""ASGI applications of plugins, which transports that speak HTTP serve beside the node's own routes."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

AsgiApplication: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
"""Takes scope, receive and send. Their types are left open, since each framework has its own."""


class Mount(msgspec.Struct, frozen=True):
    """An ASGI application to be served below ``/-/<name>/``. It is given HTTP requests, and nothing else."""

    name: str
    """Lower-case letters and digits, with single ``-`` between them."""
    app: AsgiApplication
    public: bool = False
    """Whether everybody may call it who reaches the node; otherwise only who is on the node's machine."""
