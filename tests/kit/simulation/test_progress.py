"""Progress of a simulated cluster: no slot idles while a job waits, and groups take turns."""

from math import inf
from typing import Any

import pytest
from kit.simulation.ledgers import Book, breaks, planned_job

from nodekit import Container
from nodekit.testing import make_job
from nodekit.testing.simulation.containers import Call
from nodekit.testing.simulation.progress import AT_ONCE_SECONDS, IDLE_SECONDS, Progress


class Watched(Book):
    """A ledger with the progress of one node, `node-1`, that has the containers `a` and `b`, and some slots."""

    def __init__(self, *, slots: int = 1) -> None:
        super().__init__()
        self.down: set[tuple[str, str]] = set()
        self.progress = Progress(self.ledger, lambda machine, id: (machine, id) not in self.down)
        self.progress.node_started("node-1", "node-1#1", {id: Container(id=id) for id in "ab"}, slots)
        self.whole_since = 0.0
        self.job = make_job("a")
        self.ledger.accepted("waits", self.job)

    def check(self, container: str = "a") -> None:
        self.progress.check_slots({self.job.id: container}, self.whole_since)

    def starts(self, client: str, *, after_seconds: float = 0.0, **more: Any) -> Call:
        """Begin a new job of a client, some time after it was accepted."""
        job = make_job("a")
        self.ledger.accepted(job.id, job)
        return self.begins(job.id, client, after_seconds=after_seconds, **more)

    def begins(
        self,
        id: str,
        client: str,
        *,
        after_seconds: float = 0.0,
        container: str = "a",
        then: str = "wait",
        priority: int = 3,
        at: float = 0.0,
    ) -> Call:
        self.now += after_seconds
        call = self.call(make_job("a", id=id), container=container)
        wanted = planned_job(client=client, then=then, priority=priority, at=at)
        self.progress.call_began(call, wanted, self.whole_since)
        return call

    def ends(self, call: Call) -> None:
        self.ended(call)
        self.progress.call_ended(call)


# -- slots ----------------------------------------------------------------------------------------


def test_a_job_may_wait_for_a_moment() -> None:
    watched = Watched()
    watched.now += IDLE_SECONDS - 0.1
    watched.check()


@pytest.mark.parametrize("container", ["a", "b"])
def test_a_slot_that_idles_while_a_job_waits_is_caught(container: str) -> None:
    watched = Watched()
    watched.now += IDLE_SECONDS
    with breaks("no slot idles while a job waits"):
        watched.check(container)


def test_a_job_waits_for_no_slot_of_a_node_that_cannot_run_it() -> None:
    watched = Watched()
    watched.down.add(("node-1", "a"))
    watched.now += 100
    watched.check("a")
    watched.check("c")
    watched.progress.node_ended("node-1#1")
    watched.check("b")


def test_a_job_may_wait_while_all_slots_are_taken() -> None:
    watched = Watched(slots=2)
    watched.starts("client-1")
    other = watched.starts("client-1")
    watched.now += 100
    watched.check()
    watched.ends(other)
    watched.check()
    watched.now += IDLE_SECONDS
    with breaks("no slot idles while a job waits"):
        watched.check()


def test_a_job_that_runs_waits_for_nothing() -> None:
    watched = Watched(slots=2)
    call = watched.begins(watched.job.id, "client-0")
    watched.now += 100
    watched.check()
    watched.ledger.dead.add(call.node)
    with breaks("no slot idles while a job waits"):
        watched.check()


def test_after_a_step_the_wait_begins_anew() -> None:
    watched = Watched(slots=2)
    call = watched.begins(watched.job.id, "client-0")
    watched.now += 100
    watched.ends(call)
    watched.check()
    watched.now += IDLE_SECONDS
    with breaks("no slot idles while a job waits"):
        watched.check()


def test_a_job_may_wait_until_the_cluster_has_been_whole_for_a_while() -> None:
    watched = Watched()
    watched.whole_since = inf
    watched.now += 100
    watched.check()
    watched.whole_since = watched.now - 1
    watched.check()


def test_a_node_that_starts_again_begins_with_free_slots() -> None:
    watched = Watched()
    watched.starts("client-1")
    watched.progress.node_started("node-1", "node-1#2", {"a": Container(id="a")}, 1)
    watched.now += IDLE_SECONDS
    with breaks("no slot idles while a job waits"):
        watched.check()


# -- turns ----------------------------------------------------------------------------------------

SOON = 2 * AT_ONCE_SECONDS


def test_groups_that_take_turns_are_in_order() -> None:
    watched = Watched(slots=100)
    for _ in range(3):
        watched.starts("client-1", after_seconds=SOON)
        watched.starts("client-2", after_seconds=SOON)


def begin_two_before(watched: Watched, **more: Any) -> None:
    """Begin two jobs of another client before the one that waits."""
    for _ in range(2):
        watched.starts("client-1", after_seconds=SOON, **more)
    watched.begins(watched.job.id, "client-0", after_seconds=SOON)


def test_a_group_that_is_served_twice_while_another_waits_is_caught() -> None:
    with breaks("groups take turns"):
        begin_two_before(Watched(slots=100))


@pytest.mark.parametrize("more", [{"container": "b"}, {"priority": 1}, {"then": "stream"}], ids=str)
def test_what_is_in_another_queue_takes_nobodys_turn(more: dict[str, Any]) -> None:
    begin_two_before(Watched(slots=100), **more)


def test_a_group_whose_jobs_are_served_elsewhere_has_had_its_turn() -> None:
    watched = Watched(slots=100)
    watched.starts("client-1", after_seconds=SOON)
    watched.starts("client-0", after_seconds=SOON, container="b")
    watched.starts("client-1", after_seconds=SOON)
    watched.begins(watched.job.id, "client-0", after_seconds=SOON)


def test_what_happens_at_the_same_moment_has_no_order() -> None:
    watched = Watched(slots=100)
    for _ in range(2):
        watched.starts("client-1")
    watched.begins(watched.job.id, "client-0", after_seconds=AT_ONCE_SECONDS)


def test_turns_count_only_while_the_cluster_is_whole() -> None:
    watched = Watched(slots=100)
    watched.whole_since = watched.now + 1
    begin_two_before(watched)


def test_later_attempts_of_a_job_take_no_turn() -> None:
    watched = Watched(slots=100)
    call = watched.starts("client-1", after_seconds=SOON)
    for _ in range(3):
        watched.begins(call.job, "client-1", after_seconds=SOON)
    watched.begins(watched.job.id, "client-0", after_seconds=SOON)


# -- age ------------------------------------------------------------------------------------------


def begin_a_later_one_before(watched: Watched, *, later: float = SOON, client: str = "client-0", **more: Any) -> None:
    """Begin a job that was submitted later before the one that waits."""
    submitted_at = watched.now + later
    watched.starts(client, after_seconds=1.0, at=submitted_at, **more)
    watched.begins(watched.job.id, "client-0", after_seconds=SOON)


def test_a_later_job_that_begins_before_an_older_one_of_its_client_is_caught() -> None:
    with breaks("older jobs come first"):
        begin_a_later_one_before(Watched(slots=100))


@pytest.mark.parametrize(
    "more", [{"later": 0.0}, {"client": "client-1"}, {"container": "b"}, {"priority": 1}, {"then": "stream"}], ids=str
)
def test_a_job_that_is_as_old_or_waits_elsewhere_may_begin_first(more: dict[str, Any]) -> None:
    begin_a_later_one_before(Watched(slots=100), **more)


def test_age_counts_only_while_the_cluster_is_whole() -> None:
    watched = Watched(slots=100)
    watched.whole_since = watched.now + 1
    begin_a_later_one_before(watched)
