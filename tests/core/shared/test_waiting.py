"""Claims that wait for jobs: whose look comes first, and when other nodes are told."""

from collections.abc import Callable, Collection
from contextlib import suppress

import pytest
from msgspec.structs import replace

from nodekit import ContainerId, Job, WaitingClaim, WaitingClaims
from nodekit.testing import make_job

pytestmark = pytest.mark.anyio


class Timer:
    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self.seconds, self.call, self.cancelled = seconds, call, False

    def cancel(self) -> None:
        self.cancelled = True


class Waiting(WaitingClaims):
    """The claims of one node. `told` is what the others are told, and `timers` are what was to be called later."""

    def __init__(self) -> None:
        self.told = list[ContainerId]()
        self.timers = list[Timer]()
        super().__init__(self.tell, 5.0, self.call_later)

    def tell(self, containers: Collection[ContainerId]) -> None:
        self.told += containers

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        self.timers.append(timer := Timer(seconds, call))
        return timer

    @property
    def pending(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]


def woken(*claims: WaitingClaim) -> list[bool]:
    """Return for each claim if it was woken since its latest look began."""
    return [claim._woken.is_set() for claim in claims]


def idle(claim: WaitingClaim) -> None:
    """Look, and find nothing."""
    claim.begin_look()
    claim.end_look()


async def test_a_job_that_the_own_claim_takes_is_told_to_nobody() -> None:
    waiting, job = Waiting(), make_job("echo")
    with waiting.waiting(["echo"], 1) as claim:
        idle(claim)
        assert waiting.may_take([job])
        waiting.queued([job])
        assert woken(claim) == [True]
        await claim.wait(3600.0)
        claim.begin_look()
        assert woken(claim) == [False]
        claim.end_look([job.id])
    assert (waiting.told, waiting.pending) == ([], [])


async def test_a_job_that_the_own_claim_does_not_take_is_told_after_its_look() -> None:
    waiting, job = Waiting(), make_job("echo")
    with waiting.waiting(["echo"], 1) as claim, waiting.waiting(["echo", "other"], 1) as second:
        idle(claim)
        idle(second)
        waiting.queued([job])
        assert woken(claim, second) == [True, False]
        claim.begin_look()
        assert waiting.told == []
        claim.end_look([make_job("echo").id])  # one that was queued elsewhere
        assert woken(claim, second) == [False, True]
    assert (waiting.told, waiting.pending) == (["echo"], [])


@pytest.mark.parametrize(
    "job", [make_job("other"), replace(make_job("echo"), not_before=1.0, delay_seconds=1.0)], ids=["other", "not due"]
)
async def test_a_job_that_no_own_claim_may_take_is_told_at_once(job: Job) -> None:
    waiting = Waiting()
    with waiting.waiting(["echo"], 1) as claim, waiting.waiting(None, 1) as expired:
        idle(claim)
        idle(expired)
        assert not waiting.may_take([make_job("echo"), job])
        waiting.queued([job])
        assert woken(expired) == [False]
        assert waiting.told == [job.due]
    assert waiting.pending == []


async def test_without_a_claim_here_each_container_is_told_once() -> None:
    waiting = Waiting()
    waiting.queued([make_job("echo"), make_job("other"), make_job("echo")])
    assert waiting.told == ["echo", "other"]
    waiting.queued([])
    assert waiting.told == ["echo", "other"]


async def test_what_is_more_than_the_own_claims_take_is_told_at_once() -> None:
    waiting, jobs = Waiting(), [make_job("echo") for _ in range(6)]
    with waiting.waiting(["echo"], 2) as claim, waiting.waiting(["echo"], 3) as second:
        idle(claim)
        idle(second)
        assert waiting.may_take(jobs[:5])
        assert not waiting.may_take(jobs)
        waiting.queued(jobs[:3])
        assert waiting.told == []
        assert woken(claim, second) == [True, True]
        waiting.queued(jobs[3:])
        assert waiting.told == ["echo"]
        waiting.told.clear()
        for one, taken in ((claim, jobs[:2]), (second, jobs[2:5])):
            one.begin_look()
            one.end_look([job.id for job in taken])
    assert (waiting.told, waiting.pending) == ([], [])


async def test_a_look_that_began_before_a_job_was_queued_is_followed_by_another() -> None:
    waiting, job = Waiting(), make_job("echo")
    with waiting.waiting(["echo"], 1) as claim:
        claim.begin_look()
        waiting.queued([job])
        claim.end_look()
        assert waiting.told == []
        await claim.wait(3600.0)  # it was woken
        claim.begin_look()
        claim.end_look()
        assert waiting.told == ["echo"]


async def test_a_look_that_began_before_a_job_was_queued_may_have_taken_it() -> None:
    waiting, job = Waiting(), make_job("echo")
    with waiting.waiting(["echo"], 1) as claim:
        claim.begin_look()
        waiting.queued([job])
        claim.end_look([job.id])
    assert (waiting.told, waiting.pending) == ([], [])


@pytest.mark.parametrize("looking", [False, True])
async def test_a_claim_that_ends_passes_on_what_it_owes(looking: bool) -> None:
    waiting, job = Waiting(), make_job("echo")
    with suppress(ZeroDivisionError), waiting.waiting(["echo"], 1) as claim:
        waiting.queued([job])
        if looking:
            claim.begin_look()
        raise ZeroDivisionError
    assert (waiting.told, waiting.pending) == (["echo"], [])
    assert not waiting.may_take([job])


async def test_a_store_that_is_left_passes_on_what_its_claims_owe() -> None:
    waiting = Waiting()
    with waiting.waiting(["echo"], 1), waiting.waiting(["other"], 1):
        waiting.queued([make_job("other"), make_job("echo")])
        waiting.leave()
        assert sorted(waiting.told) == ["echo", "other"]
        assert waiting.pending == []


async def test_others_are_told_if_the_own_look_takes_long() -> None:
    waiting, jobs = Waiting(), [make_job("echo"), make_job("echo")]
    with waiting.waiting(["echo"], 2) as claim:
        waiting.queued(jobs[:1])
        claim.begin_look()
        waiting.queued(jobs[1:])
        [timer] = waiting.pending
        assert timer.seconds == 1.0
        timer.call()
        assert waiting.told == ["echo"]
        claim.end_look()
        assert waiting.told == ["echo"]
        waiting.queued([make_job("echo")])
        assert len(waiting.pending) == 1


async def test_a_timer_runs_as_long_as_something_is_owed() -> None:
    waiting, jobs = Waiting(), [make_job("echo"), make_job("echo")]
    with waiting.waiting(["echo"], 2) as claim:
        waiting.queued(jobs[:1])
        claim.begin_look()
        waiting.queued(jobs[1:])
        claim.end_look([jobs[0].id])
        assert len(waiting.pending) == 1
        claim.begin_look()
        claim.end_look([jobs[1].id])
        assert waiting.pending == []


async def test_news_wake_the_claims_of_their_containers_and_of_times_that_are_over_soon() -> None:
    waiting = Waiting()
    with waiting.waiting(["a", "b"], 1) as claim, waiting.waiting(None, 1) as expired:
        for news, expected in (
            ((["c"], None), [False, False]),
            ((["c", "b"], 5.0), [True, False]),
            (([], 4.9), [False, True]),
            ((["a"], -1.0), [True, True]),
        ):
            idle(claim)
            idle(expired)
            waiting.wake(news[0], seconds_left=news[1])
            assert woken(claim, expired) == expected, news
        idle(claim)
        idle(expired)
        waiting.wake_all()
        assert woken(claim, expired) == [True, True]
        waiting.pass_on([make_job("a")])
        assert waiting.told == ["a"]


async def test_a_wait_that_nothing_wakes_ends() -> None:
    with Waiting().waiting(["echo"], 1) as claim:
        idle(claim)
        await claim.wait(0.0)
