"""Submission of a job and the wait for its result, across dropped connections, busy nodes and restarts."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote

from msgspec import Raw

from nodekit_asgi.cli.client import NO_SUCH_JOB, NodeClient, Reply
from nodekit_asgi.cli.listing import IDS_AT_ONCE, jobs_path, takes_fewer
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
NOTICED_SECONDS = 1.0
"""Shortest pause that a terminal shows. Most troubles are over before anybody could read a line about them."""
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
    """A series of requests without a useful answer, until there is one or the patience ends.

    If nothing listens from the start, there is no patience: the user did not ask to wait for a node. `met` says that
    the node has answered before. With `backs_off`, a busy node is asked less and less often, and so for longer.
    """

    def __init__(self, patience: Deadline, *, met: bool = False, backs_off: bool = False) -> None:
        self._patience = patience
        self._met = met
        self._backs_off = backs_off
        # half a minute altogether, about the time that a node takes to restart
        self._pauses = iter([2.0 ** (number - 2) for number in range(TRIES - 1)])

    def next_pause(self, problem: Unreachable | Busy) -> float | None:
        """Return the seconds to wait before the next try. Return None if there is no next try."""
        self._met = self._met or isinstance(problem, Dropped | Busy)
        pause = next(self._pauses, None)
        if pause is not None and isinstance(problem, Busy):
            pause = max(problem.retry_after_seconds, pause if self._backs_off else 0)
        return pause if self._met and pause is not None and pause <= self._patience.left else None


def submit_job(
    client: NodeClient, asked: Submission, deadline: Deadline, *, met: bool = False, backs_off: bool = False
) -> Reply:
    """Submit a job. It is accepted once, however many requests this takes. Raise `CommandFailed`.

    `met` and `backs_off` are as for `Trouble`.
    """
    trouble = Trouble(Deadline(min(PATIENCE_SECONDS, deadline.left)), met=met, backs_off=backs_off)
    lost = False
    while True:
        try:
            return client.request("POST", asked.path, body=asked.body, headers=asked.headers, until=deadline.at)
        except (Unreachable, Busy) as problem:
            lost = lost or isinstance(
                problem, Dropped
            )  # a busy node may have the job, too: it has not looked for the key
            again = trouble.next_pause(problem)
            if again is None:
                if lost:
                    raise Dropped(str(problem)) from problem
                raise
            notice(f"{problem}; trying again in {again:g} s")
            time.sleep(again)


def wait_for(
    client: NodeClient, id: str, deadline: Deadline, progress: Progress, *, intermediate: bool
) -> tuple[JobResult, Raw]:
    """Return the finished job. Raise what `finished_jobs` raises, and `Refused` if there is no such job."""

    def look(settled: int) -> None:
        progress.show(_history_of(client, id, deadline))

    for job in finished_jobs(client, [id], deadline, look if progress.shown else None, intermediate=intermediate):
        return job
    raise Refused(404, NO_SUCH_JOB)


def finished_jobs(
    client: NodeClient,
    ids: Sequence[str],
    deadline: Deadline,
    look: Callable[[int], None] | None = None,
    *,
    intermediate: bool = False,
) -> Iterator[tuple[JobResult, Raw]]:
    """Yield the jobs in the order of `ids`, each once it and those before it are finished. Unknown ones are left out.

    Each result is asked for once, since it may be large. `look` is called about once a second with the number of jobs
    that are settled. Raise `TimeIsUp`, or any problem that lasts longer than a node takes to restart.
    """
    settled: dict[str, tuple[JobResult, Raw] | None] = {}
    window = IDS_AT_ONCE
    for at, id in enumerate(ids):
        while id not in settled:
            waiting, began = [one for one in ids[at : at + window] if one not in settled], time.monotonic()
            try:
                found = _poll(client, waiting, deadline, PROGRESS_SECONDS if look else WAIT_SECONDS)
            except Refused as refused:
                if not takes_fewer(refused, waiting):
                    raise
                window = max(len(waiting) // 2, 1)
                continue
            settled.update((one, None) for one in waiting if one not in found)
            settled.update((one, job) for one, job in found.items() if job[0].finished)
            if id not in settled:
                _pause(SHORTEST_ROUND_SECONDS - (time.monotonic() - began), deadline)
                if look:
                    look(len(settled))
        job, settled[id] = settled[id], None
        if job is not None and intermediate:  # only now: the results of the earlier steps may be large, too
            job = _poll(client, [id], deadline, WAIT_SECONDS, intermediate="true").get(id, job)
        if job is not None:
            yield job


def _poll(
    client: NodeClient, ids: Sequence[str], deadline: Deadline, longest: float, **more: str
) -> dict[str, tuple[JobResult, Raw]]:
    """Wait for jobs, and return those that the node knows, as they are then. Wait for a node that restarts, too."""
    trouble = lasting_trouble()
    while True:
        seconds = max(min(longest, deadline.left), 0.001)
        try:
            path = jobs_path(ids, wait=f"{seconds:.3f}", **more)
            reply = client.request("GET", path, wait_seconds=seconds, until=deadline.at)
            return {job.id: (job, raw) for job, raw in jobs_of(reply)}
        except (Unreachable, Busy) as problem:
            sleep_through(problem, trouble, deadline)
        except Refused as refused:
            if refused.status != 404:
                raise
            return {}


def lasting_trouble() -> Trouble:
    """Return the trouble of who stays with jobs: it may begin while the node is away for a restart."""
    return Trouble(Deadline(PATIENCE_SECONDS), met=True)


def sleep_through(problem: Unreachable | Busy, trouble: Trouble, deadline: Deadline) -> None:
    """Sleep before the next try. Raise the problem if there is none, and `TimeIsUp` if the deadline has passed."""
    again = trouble.next_pause(problem)
    if again is None and not deadline.passed:
        raise problem
    if again is not None and again >= NOTICED_SECONDS and sys.stderr is not None and sys.stderr.isatty():
        notice(f"{problem}; trying again in {again:g} s")
    _pause(again or 0, deadline)


def _pause(seconds: float, deadline: Deadline) -> None:
    """Sleep, but not beyond the deadline. Raise `TimeIsUp` if it has passed."""
    if deadline.passed:
        raise TimeIsUp(f"no result within {deadline.seconds:g} s")
    time.sleep(max(min(seconds, deadline.left), 0))


def _history_of(client: NodeClient, id: str, deadline: Deadline) -> History | None:
    """Return the history of a job for the progress line, which is not worth a problem."""
    try:
        return client.request("GET", f"/api/jobs/{quote(id)}", until=deadline.at).read_as(History)
    except CommandFailed:
        return None
