"""Lines that say how to go on if a command ends before its job does."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from nodekit import counted
from nodekit_asgi.cli.address import DEFAULT_URL, Address
from nodekit_asgi.cli.output import notice
from nodekit_asgi.cli.problems import INTERRUPTED, Busy, CommandFailed, Dropped, Refused, TimeIsUp, Unreachable
from nodekit_asgi.cli.request import Submission

MOST_IDS = 3
"""Number of ids that a line names if they are known."""


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
    job = f"{id}{where(node)}"
    goes_on = f"job {id} continues; to read it: nodekit job get {job}; to cancel it: nodekit job cancel {job}"
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


@contextmanager
def jobs_go_on(
    node: Address, ids: Callable[[], Sequence[str]], command: str = "wait", *, ids_are_known: bool = True
) -> Iterator[None]:
    """Print how to go on with the jobs that are left if a command that stays with them ends early for any reason.

    `ids_are_known` says that the user has seen or given the ids, so that many of them need not be repeated.
    """
    most = MOST_IDS if ids_are_known else None
    try:
        yield
    except (Unreachable, Busy, TimeIsUp) as problem:
        notice(f"{problem}; {_to_go_on(node, ids(), command, most)}")
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        notice(f"interrupted; {_to_go_on(node, ids(), command, most)}")
        sys.exit(INTERRUPTED)


@contextmanager
def runs_again() -> Iterator[None]:
    """Print that a command which was interrupted can be run again."""
    try:
        yield
    except KeyboardInterrupt:
        notice("interrupted; to go on, run the same command again")
        sys.exit(INTERRUPTED)


def _to_go_on(node: Address, ids: Sequence[str], command: str, most: int | None) -> str:
    count = "the job" if len(ids) == 1 else counted(len(ids), "job")
    named = "-, with their ids on standard input" if most is not None and len(ids) > most else shlex.join(ids)
    return f"{count} may continue; to go on: nodekit job {command} {named}{where(node)}"


def where(node: Address) -> str:
    """Return the option that names the node, unless it is the default."""
    return "" if node.url == DEFAULT_URL else f" --node {shlex.quote(node.url)}"
