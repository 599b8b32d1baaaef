"""The command `nodekit job`: jobs of any node, over HTTP."""

from nodekit_asgi.cli.commands import reading, submitting
from nodekit_asgi.cli.group import job

__all__ = ["job", "reading", "submitting"]
