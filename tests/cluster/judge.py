"""The judge of a drill: pure rules over what clients, containers and nodes have seen."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from cluster.clients import Submitted
from cluster.containers import Call
from cluster.faults import Harm

CLOCK_SECONDS = 0.25
"""Ids of jobs that were accepted so far apart have the order of their acceptance."""


@dataclass
class Evidence:
    """All that a drill has seen.

    - `results`: JobResults by id, by name of the node that was asked in the end.
    - `listed`: Ids in the list of each node.
    - `pending`: Ids of unfinished jobs in the list of each node.
    - `told`: Ids of jobs whose end a node told its observers of, once for each time.
    - `queued`: Number of jobs in the queues in the end.
    - `notes`: What is wrong and was noticed by others.
    """

    jobs: Sequence[Submitted]
    calls: Sequence[Call]
    harms: Sequence[Harm]
    lease_seconds: float
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    listed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pending: Mapping[str, Sequence[str]] = field(default_factory=dict)
    told: Sequence[str] = ()
    queued: int = 0
    notes: Sequence[str] = ()

    @property
    def ids(self) -> list[str]:
        return [job.id for job in self.jobs if job.ids]

    @property
    def began_at(self) -> float:
        """Unix time of the first request; problems count from there."""
        return min((job.sent_at for job in self.jobs), default=0.0)

    def told_call(self, call: Call) -> str:
        ended = f"{call.ended_at - call.began_at:.2f} s" if call.ended_at else "no end"
        return f"{call.node} at {call.began_at - self.began_at:.2f} s ({ended})"

    def may_have_lost(self, node: str, since: float, until: float) -> bool:
        """Return True if a node may have lost its leases between these Unix times: it, or the engine, was harmed."""
        return any(
            harm.node in (None, node)
            and harm.began_at - self.lease_seconds <= until
            and harm.ended_at + self.lease_seconds >= since
            for harm in self.harms
        )


def problems(seen: Evidence) -> Iterator[str]:
    """Yield all that is wrong."""
    yield from seen.notes
    yield from keys(seen)
    yield from ends(seen)
    yield from counts(seen)
    yield from repeats(seen)
    yield from order(seen)


def keys(seen: Evidence) -> Iterator[str]:
    """Yield keys that are no job, or several."""
    for job in seen.jobs:
        ids = {id for _, id in job.ids}
        if len(ids) != 1:
            yield f"job {job.number} has {len(ids)} ids: {job.ids}"


def ends(seen: Evidence) -> Iterator[str]:
    """Yield jobs that some node does not have, that did not succeed, and that nodes know different results of."""
    for job in seen.jobs:
        if not job.ids:
            continue
        found = {node: results.get(job.id) for node, results in seen.results.items()}
        answers = [result for result in found.values() if result is not None]
        if missing := [node for node, result in found.items() if result is None]:
            yield f"job {job.id} is unknown to {', '.join(missing)}"
        if any(answer != answers[0] for answer in answers):
            yield f"job {job.id} has several results: {found}"
        elif answers and not _is_right(answers[0], job):
            yield f"job {job.id} ended as {answers[0]}, not with the path {list(job.path)}"


def _is_right(result: Any, job: Submitted) -> bool:
    return result["status"] == "success" and result["result"]["output"]["path"] == list(job.path)


def counts(seen: Evidence) -> Iterator[str]:
    """Yield differences between what was submitted and what nodes list, and what is left in the queues."""
    expected = sorted(set(seen.ids))
    for node, listed in seen.listed.items():
        if list(listed) != expected:
            extra, missing = set(listed) - set(expected), set(expected) - set(listed)
            yield f"{node} lists {len(listed)} jobs of {len(expected)}; more: {extra}, missing: {missing}"
    yield from (f"{node} lists unfinished jobs: {ids}" for node, ids in seen.pending.items() if ids)
    if seen.queued:
        yield f"{seen.queued} jobs are queued or pending in the end"
    yield from (f"the end of job {id} was told {n} times" for id, n in Counter(seen.told).items() if n > 1)
    yield from (f"the end of an unknown job {id} was told" for id in set(seen.told) - set(expected))


def repeats(seen: Evidence) -> Iterator[str]:
    """Yield calls of steps that were called before, or stored before, though no node can have lost its lease."""
    of_step: defaultdict[tuple[str, int], list[Call]] = defaultdict(list)
    for call in sorted(seen.calls, key=lambda call: call.began_at):
        of_step[call.key].append(call)
    for (job, step), calls in of_step.items():
        for first, again in pairwise(calls):
            if not any(seen.may_have_lost(call.node, first.began_at, again.began_at) for call in (first, again)):
                yield f"step {step} of job {job}: called by {seen.told_call(first)}, and again by " + (
                    f"{seen.told_call(again)} for no reason"
                )
        following = of_step.get((job, step + 1))
        for call in calls if following else ():
            stored_before = following[0].began_at  # only then was it called
            if call.began_at > stored_before and not seen.may_have_lost(call.node, stored_before, call.began_at):
                at = stored_before - seen.began_at
                yield f"step {step} of job {job}: called by {seen.told_call(call)}, and stored before {at:.1f} s"
    unknown: Collection[str] = {job for job, _ in of_step} - set(seen.ids)
    yield from (f"steps of a job that has no client were called: {id}" for id in sorted(unknown))
    yield from (f"job {id} was never called" for id in sorted(set(seen.ids) - {job for job, _ in of_step}))


def order(seen: Evidence) -> Iterator[str]:
    """Yield jobs whose id is smaller than that of a job which was accepted long before."""
    answered = sorted((job for job in seen.jobs if job.ids), key=lambda job: job.answered_at)
    earlier, greatest = iter(answered), ""
    following = next(earlier, None)
    for job in sorted(answered, key=lambda job: job.sent_at):
        while following is not None and following.answered_at < job.sent_at - CLOCK_SECONDS:
            greatest = max(greatest, following.id)
            following = next(earlier, None)
        if job.id < greatest:
            yield f"job {job.id} was submitted after {greatest} was accepted, and has a smaller id"
