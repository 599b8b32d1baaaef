"""The command `nodekit job`: jobs of any node, over HTTP."""

from nodekit_asgi.cli.commands import job

__all__ = ["job"]
