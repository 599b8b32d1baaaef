"""Lines that say how to go on if a command ends before its job does."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from nodekit_asgi.cli.address import DEFAULT_URL, Address
from nodekit_asgi.cli.output import notice
from nodekit_asgi.cli.problems import INTERRUPTED, Busy, CommandFailed, Dropped, Refused
from nodekit_asgi.cli.request import Submission


@contextmanager
def known_by(asked: Submission) -> Iterator[None]:
    """Print how to find out if the node has the job, when this is not known."""
    again = (
        f"the node may have the job; to find out, run the same command with --idempotency-key {shlex.quote(asked.key)}"
    )
    try:
        yield
    except Dropped as problem:
        notice(str(problem))
        notice(again)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        notice(f"interrupted; {again}")
        sys.exit(INTERRUPTED)


@contextmanager
def goes_on(id: str, node: Address) -> Iterator[None]:
    """Print how to read the job if the waiting ends early for any reason."""
    where = "" if node.url == DEFAULT_URL else f" --node {shlex.quote(node.url)}"
    goes_on = (
        f"job {id} continues; to read it: nodekit job get {id}{where}; to cancel it: nodekit job cancel {id}{where}"
    )
    try:
        yield
    except Refused as refused:
        if isinstance(refused, Busy):
            notice(f"{refused}; {goes_on}")
            sys.exit(refused.exit_code)
        raise Refused(refused.status, f"job {id} was accepted, and cannot be read now: {refused}") from refused
    except CommandFailed as problem:
        notice(f"{problem}; {goes_on}")
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        notice(f"interrupted; {goes_on}")
        sys.exit(INTERRUPTED)
