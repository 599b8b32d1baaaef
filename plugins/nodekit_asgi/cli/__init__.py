"""The command `nodekit job`: jobs of any node, over HTTP."""

from nodekit_asgi.cli.commands import batch, job_list, reading, submitting, watching
from nodekit_asgi.cli.group import job

__all__ = ["batch", "job", "job_list", "reading", "submitting", "watching"]
