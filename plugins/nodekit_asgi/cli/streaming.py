"""Streaming on the command line. The job's id goes to standard error, the output of the last container to stdout."""

import sys

from nodekit_asgi.cli.client import NodeClient
from nodekit_asgi.cli.output import notice, one_line, say_pieces
from nodekit_asgi.cli.problems import FAILED, Dropped
from nodekit_asgi.cli.request import Submission


def print_stream(client: NodeClient, asked: Submission) -> None:
    """Submit a job and print its stream. Exit with 1 if it breaks off after the id has come."""
    headers = {name: value for name, value in asked.headers.items() if name != "Idempotency-Key"}
    pieces = client.stream("/api/jobs/stream", body=asked.body, headers=headers)
    id = next(pieces).decode(errors="replace").strip()
    notice(f"job {id}")
    try:
        say_pieces(pieces)
    except Dropped:
        notice(f"the stream broke off; nodekit job show {one_line(id)} says why")
        sys.exit(FAILED)
