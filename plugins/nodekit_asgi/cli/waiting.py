"""Submission of a job and the wait for its result, across dropped connections, busy nodes and restarts."""

import time
from urllib.parse import quote

from msgspec import Raw

from nodekit_asgi.cli.client import NodeClient, Reply
from nodekit_asgi.cli.output import notice
from nodekit_asgi.cli.problems import Busy, CommandFailed, Dropped, Refused, TimeIsUp, Unreachable
from nodekit_asgi.cli.progress_line import Progress
from nodekit_asgi.cli.replies import History, JobResult, jobs_of
from nodekit_asgi.cli.request import Submission

TRIES = 8
"""Number of tries of one request."""
PATIENCE_SECONDS = 60.0
"""Time for all tries. A node that asks for a longer pause is not asked again."""
WAIT_SECONDS = 30.0
"""Time the node is asked to hold its answer. It may hold it for less."""
PROGRESS_SECONDS = 1.0
"""The same time at a terminal, shorter so that the progress line moves."""
SHORTEST_ROUND_SECONDS = 0.5
"""Shortest interval of requests to a node that does not hold its answer."""


class Deadline:
    """The end of waiting. If `seconds` is None, it never ends."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.at = None if seconds is None else time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        return self.left <= 0

    @property
    def left(self) -> float:
        return float("inf") if self.at is None else self.at - time.monotonic()


class Trouble:
    """A series of requests without a useful answer, until there is one or the patience ends."""

    def __init__(self, patience: Deadline) -> None:
        self._patience = patience
        # half a minute altogether, about the time that a node takes to restart
        self._pauses = iter([2.0 ** (number - 2) for number in range(TRIES - 1)])

    def next_pause(self, problem: Unreachable | Busy) -> float | None:
        """Return the seconds to wait before the next try. Return None if there is no next try."""
        pause = next(self._pauses, None)
        if pause is not None and isinstance(problem, Busy):
            pause = problem.retry_after_seconds
        return pause if pause is not None and pause <= self._patience.left else None


def submit_job(client: NodeClient, asked: Submission, deadline: Deadline) -> Reply:
    """Submit a job. It is accepted once, however many requests this takes. Raise `CommandFailed`."""
    trouble, met, lost = Trouble(Deadline(min(PATIENCE_SECONDS, deadline.left))), False, False
    while True:
        try:
            return client.request("POST", asked.path, body=asked.body, headers=asked.headers, until=deadline.at)
        except (Unreachable, Busy) as problem:
            lost = isinstance(problem, Dropped) or (lost and not isinstance(problem, Busy))  # busy: it has no such key
            met = met or lost or isinstance(problem, Busy)
            again = trouble.next_pause(problem)
            # if there is no node from the start, the user did not ask to wait for one
            if not met or again is None:
                if lost:
                    raise Dropped(str(problem)) from problem
                raise
            notice(f"{problem}; trying again in {again:g} s")
            time.sleep(again)


def wait_for(
    client: NodeClient, id: str, deadline: Deadline, progress: Progress, *, intermediate: bool
) -> tuple[JobResult, Raw]:
    """Return the finished job. Raise `TimeIsUp`, or any problem that lasts longer than a node takes to restart."""
    trouble: Trouble | None = None
    while True:
        began = time.monotonic()
        try:
            job, raw = _ask(client, id, deadline, progress, intermediate=intermediate)
            if job.finished:
                return job, raw
            trouble, pause = None, SHORTEST_ROUND_SECONDS - (time.monotonic() - began)
        except (Unreachable, Busy) as problem:
            trouble = trouble or Trouble(Deadline(PATIENCE_SECONDS))
            again = trouble.next_pause(problem)
            if again is None and not deadline.passed:
                raise
            pause = again or 0
        if deadline.passed:
            raise TimeIsUp(f"no result within {deadline.seconds:g} s")
        time.sleep(max(min(pause, deadline.left), 0))
        if progress.shown:
            progress.show(_history(client, id, deadline))


def _ask(
    client: NodeClient, id: str, deadline: Deadline, progress: Progress, *, intermediate: bool
) -> tuple[JobResult, Raw]:
    longest = PROGRESS_SECONDS if progress.shown else WAIT_SECONDS
    seconds = max(min(longest, deadline.left), 0.001)
    path = f"/api/jobs?id={quote(id)}&wait={seconds:.3f}{'&intermediate=true' if intermediate else ''}"
    reply = client.request("GET", path, wait_seconds=seconds, until=deadline.at)
    if len(jobs := jobs_of(reply)) != 1:
        raise Refused(404, "no such job")
    return jobs[0]


def _history(client: NodeClient, id: str, deadline: Deadline) -> History | None:
    try:
        return client.request("GET", f"/api/jobs/{quote(id)}", until=deadline.at).read_as(History)
    except CommandFailed:
        return None  # the line says less; whether anything is wrong is for the waiting to say
