"""Counts of unfinished jobs: those for chains, others, and those of each client."""

from nodekit import Location, Unfinished
from nodekit.embedded.counters import Counts
from nodekit.testing import make_job, succeeded

WAYS = ("OFFCHAIN", "OFFCHAIN"), ("OFFCHAIN", "STREAM"), ("ONCHAIN", "ONCHAIN"), ("OFFCHAIN", "ONCHAIN")


def test_jobs_for_chains_and_of_clients_are_counted_until_they_are_finished() -> None:
    counts = Counts()
    jobs = [
        make_job(client=client, origin=Location[origin], destination=Location[destination])
        for client in "aab"
        for origin, destination in WAYS
    ]
    counts.jobs(jobs, +1)
    pending = counts.pending("abc")
    assert (pending.offchain, pending.onchain, pending.total) == (6, 6, 12)
    assert pending.groups == {"a": 8, "b": 4}
    for job in jobs[:8]:
        counts.one(Unfinished.of(job), -1)
    assert (counts.pending().offchain, counts.pending().onchain) == (2, 2)
    assert counts.pending(["a", "b"]).groups == {"b": 4}
    assert counts.pending("a").groups == {}
    counts.jobs(jobs[8:], -1)
    assert (counts.pending().total, counts.pending("ab").groups) == (0, {})


def test_finished_jobs_do_not_count() -> None:
    counts = Counts()
    counts.jobs([succeeded(make_job()), make_job(client="bob")], +1)
    assert counts.pending(["alice", "bob"]).groups == {"bob": 1}
