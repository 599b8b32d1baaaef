"""Streaming on the command line. The job's id goes to standard error, the output of the last container to stdout."""

import sys

from nodekit_asgi.cli.address import Address
from nodekit_asgi.cli.client import NodeClient
from nodekit_asgi.cli.going_on import where
from nodekit_asgi.cli.output import notice, one_line, say_pieces
from nodekit_asgi.cli.problems import FAILED, INTERRUPTED, Dropped
from nodekit_asgi.cli.request import Submission


def print_stream(client: NodeClient, asked: Submission) -> None:
    """Submit a job and print its stream. Exit with 1 if it breaks off after the id has come."""
    headers = {name: value for name, value in asked.headers.items() if name != "Idempotency-Key"}
    pieces = client.stream("/api/jobs/stream", body=asked.body, headers=headers)
    id = ""
    try:
        id = one_line(next(pieces).decode(errors="replace").strip())
        notice(f"job {id}")
        say_pieces(pieces)
    except Dropped:
        if not id:
            raise
        notice(f"the stream broke off; to see why: nodekit job show {id}{where(client.address)}")
        sys.exit(FAILED)
    except KeyboardInterrupt:
        notice(f"interrupted; {_after(id, client.address)}")
        sys.exit(INTERRUPTED)


def _after(id: str, node: Address) -> str:
    """Return what becomes of a job whose stream is left, and how to go on."""
    if not id:
        return "if the node has the job, it is cancelled; to see it: nodekit job list" + where(node)
    again = f"to run it again: nodekit job retry {id}{where(node)}"
    return f"job {id} is cancelled, since nobody reads its stream; {again}"
