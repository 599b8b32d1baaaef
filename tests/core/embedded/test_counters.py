"""Counts of unfinished jobs, by origin and by client."""

from nodekit import Location, Unfinished
from nodekit.embedded.counters import Counts
from nodekit.testing import make_job, succeeded

OFFCHAIN = (Location.OFFCHAIN, Location.STREAM)


def test_jobs_are_counted_by_origin_and_client_until_they_are_finished() -> None:
    counts = Counts()
    jobs = [make_job(client=client, origin=origin) for client in "aab" for origin in (Location.ONCHAIN, *OFFCHAIN)]
    counts.jobs(jobs, +1)
    pending = counts.pending("abc")
    assert (pending.offchain, pending.onchain, pending.total) == (6, 3, 9)
    assert pending.groups == {"a": 6, "b": 3}
    for job in jobs[:6]:
        counts.one(Unfinished.of(job), -1)
    assert (counts.pending().offchain, counts.pending().onchain) == (2, 1)
    assert counts.pending(["a", "b"]).groups == {"b": 3}
    assert counts.pending("a").groups == {}
    counts.jobs(jobs[6:], -1)
    assert (counts.pending().total, counts.pending("ab").groups) == (0, {})


def test_finished_jobs_do_not_count() -> None:
    counts = Counts()
    counts.jobs([succeeded(make_job()), make_job(client="bob")], +1)
    assert counts.pending(["alice", "bob"]).groups == {"bob": 1}
