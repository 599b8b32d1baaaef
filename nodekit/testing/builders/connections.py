"""Connections of callers, for plugins that identify them."""

from nodekit import Connection


def make_connection(client: str = "203.0.113.7", **headers: str) -> Connection:
    """Make a connection of a caller over HTTP. `_` in the name of a header stands for ``-``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Connection(transport="http", client=client, address=client, headers=named, operation="POST /api/jobs")
