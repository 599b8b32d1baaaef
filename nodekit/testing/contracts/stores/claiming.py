"""Claims of jobs, and their ends: `claim`, `add_claimed`, `save`, `release` and `settle`. The first finish wins."""

from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest

from nodekit import (
    Claim,
    ClaimLost,
    ContainerError,
    ContainerOutput,
    Job,
    JobId,
    JobQuery,
    JobStatus,
    JobStore,
    Location,
    Outcome,
    Settlement,
    encode_payload,
)
from nodekit.testing.builders.jobs import SEQUENCE, make_attempt, make_job, make_retry, succeeded, with_output
from nodekit.testing.contracts.bounds import turn, within
from nodekit.testing.contracts.stores.base import CANCELLED, StoreBase


class Claiming(StoreBase):
    """Tests of `JobStoreContract` about claims and claimed jobs."""

    # -- claim ------------------------------------------------------------------------------------

    async def test_claim_answers_the_job_as_it_is_kept(self, store: JobStore) -> None:
        job = make_job()
        await store.add([job])
        [claim] = await self.claims(store, 1)
        assert claim.job == job
        assert claim.takeovers == 0
        assert not claim.scope.cancel_called

    async def test_a_job_that_begins_with_steps_is_claimed_with_them(self, store: JobStore) -> None:
        job = make_retry()
        await store.add([job])
        assert await self.nothing_to_claim(store)
        [claim] = await self.claims(store, 1, containers=["reverse"])
        assert claim.job == job
        await store.save(claim, done := succeeded(job))
        assert await store.get([job.id]) == [claim.job]
        assert len(done.steps) == 2

    async def test_a_claimed_job_is_not_offered_again(self, store: JobStore) -> None:
        await store.add([make_job()])
        await self.claims(store, 1)
        assert await self.nothing_to_claim(store)

    async def test_claim_gives_no_more_than_asked(self, store: JobStore) -> None:
        jobs = [make_job() for _ in range(5)]
        await store.add(jobs)
        assert len(await store.claim(["echo"], SEQUENCE, 2)) <= 2
        assert len(await store.claim(["echo"], SEQUENCE, 1)) == 1

    async def test_claim_waits_until_a_job_is_added(self, store: JobStore) -> None:
        claimed: list[JobId] = []

        async def claim() -> None:
            claimed.extend(_ids(await store.claim(["echo"], SEQUENCE, 3)))

        with anyio.fail_after(self.timeout_seconds):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(claim)
                await anyio.sleep(self.quiet_seconds)
                assert claimed == []
                await store.add([job := make_job()])
        assert claimed == [job.id]

    async def test_claim_gives_only_jobs_that_are_due_in_the_containers_asked_for(self, store: JobStore) -> None:
        echo, reverse, later = make_job("echo"), make_job("reverse"), make_job("reverse", "echo")
        await store.add([later, reverse, echo])
        assert _ids(await self.claims(store, 1, containers=["echo", "other"])) == [echo.id]
        assert await self.nothing_to_claim(store, containers=["echo", "other"])
        assert await self.nothing_to_claim(store, containers=[])
        assert {*_ids(await self.claims(store, 2, containers=["reverse"]))} == {reverse.id, later.id}

    async def test_claim_gives_only_jobs_of_the_pipelines_asked_for(self, store: JobStore) -> None:
        plain, mine, later = make_job(), make_job(pipeline="mine"), make_job(pipeline="other")
        await store.add([mine, later, plain])
        assert _ids(await self.claims(store, 1)) == [plain.id]
        assert await self.nothing_to_claim(store)
        assert await self.nothing_to_claim(store, pipelines=[])
        assert _ids(await self.claims(store, 1, pipelines=["mine", "more"])) == [mine.id]
        assert _ids(await self.claims(store, 1, pipelines=None)) == [later.id]

    async def test_claim_gives_lower_priorities_first(self, store: JobStore) -> None:
        jobs = [make_job(priority=priority) for priority in (7, 3, 0, 5, 1, 3)]
        await store.add(jobs)
        claims = await self.claims(store, 6)
        assert [claim.job.request.priority for claim in claims] == [0, 1, 3, 3, 5, 7]

    async def test_claim_gives_the_oldest_first(self, store: JobStore) -> None:
        jobs = [make_job() for _ in range(20)]
        for job in jobs:
            await store.add([job])
        assert _ids(await self.claims(store, 20)) == [job.id for job in jobs]

    async def test_claim_goes_round_the_clients(self, store: JobStore) -> None:
        for client, count in (("alice", 6), ("bob", 3), ("carol", 1)):
            await store.add([make_job(client=client) for _ in range(count)])
        clients = [claim.job.client for claim in await self.claims(store, 10)]
        assert {*clients[:3]} == {"alice", "bob", "carol"}
        assert [{*clients[n : n + 2]} for n in (3, 5)] == [{"alice", "bob"}] * 2
        assert clients[7:] == ["alice"] * 3

    async def test_a_client_with_many_jobs_does_not_starve_another(self, store: JobStore) -> None:
        await store.add([make_job(client="alice") for _ in range(1000)])
        await store.add([make_job(client="bob")])
        clients = [claim.job.client for claim in await self.claims(store, 2)]
        assert "bob" in clients

    async def test_one_job_never_goes_to_two_claims(self, store: JobStore) -> None:
        jobs = [make_job(client=f"client {n % 3}") for n in range(60)]
        claimed: list[JobId] = []

        async def claim() -> None:
            while len(claimed) < len(jobs):
                await turn()
                claimed.extend(_ids(await store.claim(["echo"], SEQUENCE, 3)))
            tasks.cancel_scope.cancel()

        async def add(some: Sequence[Job]) -> None:
            await store.add(some)

        with within(self.timeout_seconds, f"`claim` gives {len(jobs)} jobs"):
            async with anyio.create_task_group() as tasks:
                for n in range(8):
                    tasks.start_soon(claim)
                    tasks.start_soon(add, jobs[n::8])
        assert sorted(claimed) == [job.id for job in jobs]

    async def test_cancelling_claim_loses_nothing(self, store: JobStore) -> None:
        jobs = [make_job() for _ in range(3)]
        await store.add(jobs)
        for patience in self.patiences():
            claims: list[Claim] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._claim_into, store, claims)
                await patience()
                tasks.cancel_scope.cancel()
            for claim in claims:
                await store.release(claim, claim.job)
        assert {*_ids(await self.claims(store, 3))} == {job.id for job in jobs}

    async def test_a_streaming_job_is_claimed_as_it_is_added(self, store: JobStore) -> None:
        job = make_job(destination=Location.STREAM)
        claim = await store.add_claimed(job)
        assert claim.job == job
        assert await store.get([job.id]) == [job]
        assert await self.nothing_to_claim(store)

    async def test_a_streaming_job_is_never_offered(self, store: JobStore) -> None:
        job = make_job(destination=Location.STREAM)
        claim = await store.add_claimed(job)
        await store.release(claim, job)
        assert await self.nothing_to_claim(store)
        [kept] = await store.get([job.id])
        assert kept.status is JobStatus.FAILED
        assert kept.result is not None
        assert getattr(kept.result, "kind", None) == "interrupted"
        assert (await store.pending()).total == 0

    # -- save -------------------------------------------------------------------------------------

    async def test_save_keeps_what_has_happened_and_the_claim_goes_on(self, store: JobStore) -> None:
        claim = await self.claimed(store)
        tried = claim.job.with_failure("echo", make_attempt(kind="timeout", failure="no reply"))
        for job in (tried, done := with_output(tried, {"a": 1}, due="reverse")):
            await store.save(claim, job)
            assert claim.job == job
            assert await store.get([job.id]) == [job]
        assert await self.nothing_to_claim(store, containers=["echo", "reverse"])
        await store.save(claim, succeeded(done))

    async def test_save_of_a_finished_job_ends_the_claim(self, store: JobStore) -> None:
        claim = await self.claimed(store)
        job = succeeded(claim.job)
        await store.save(claim, job)
        assert await store.get([job.id]) == [claim.job]
        assert await self.nothing_to_claim(store)
        with pytest.raises(ClaimLost):
            await store.save(claim, with_output(job))
        with pytest.raises(ClaimLost):
            await store.release(claim, with_output(job))
        assert await store.get([job.id]) == [claim.job]

    async def test_cancelling_save_leaves_a_job_that_is_still_claimed(self, store: JobStore) -> None:
        for patience in self.patiences():
            claim = await self.claimed(store)
            newer = with_output(claim.job, due="reverse")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.save, claim, newer)
                await patience()
                tasks.cancel_scope.cancel()
            assert await store.get([newer.id]) in ([newer], [await self._before(newer)])
            await store.save(claim, succeeded(newer))

    async def _before(self, job: Job) -> Job:
        return Job(id=job.id, request=job.request, accepted_at=job.accepted_at, due=job.request.containers[0])

    async def test_cancelling_add_leaves_no_job_behind_that_is_not_queued(self, store: JobStore) -> None:
        for patience in self.patiences():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.add, [make_job()])
                await patience()
                tasks.cancel_scope.cancel()
        with within(self.timeout_seconds, "`pending` counts what `find` answers"):  # a slow store may still be working
            while len(kept := await store.find(JobQuery(limit=100))) != (await store.pending()).total:  # noqa: ASYNC110
                await anyio.sleep(0.005)
        claimed = [claim.job.id for claim in await self.claims(store, len(kept))]
        assert sorted(claimed) == kept

    # -- release ----------------------------------------------------------------------------------

    async def test_a_released_job_is_offered_again_as_it_was_released(self, store: JobStore) -> None:
        claim = await self.claimed(store)
        job = claim.job.with_failure("echo", make_attempt(kind="connection", failure="refused"))
        await store.release(claim, job)
        [again] = await self.claims(store, 1)
        assert again.job == job
        assert again.job.attempt == 2

    async def test_a_job_released_unchanged_is_offered_again(self, store: JobStore) -> None:
        claim = await self.claimed(store)
        await store.release(claim, claim.job)
        [again] = await self.claims(store, 1)
        assert again.job == claim.job

    async def test_a_job_released_with_a_delay_is_offered_then_and_not_before(self, store: JobStore) -> None:
        claim = await self.claimed(store)
        await store.release(claim, claim.job, delay_seconds=4 * self.quiet_seconds)
        assert await self.nothing_to_claim(store)
        [again] = await self.claims(store, 1)
        assert again.job.id == claim.job.id

    async def test_a_delayed_job_does_not_hold_up_others(self, store: JobStore) -> None:
        claim = await self.claimed(store)
        await store.release(claim, claim.job, delay_seconds=1000)
        other = await self.claimed(store)
        assert other.job.id != claim.job.id

    async def test_a_job_can_be_released_for_another_container(self, store: JobStore) -> None:
        claim = await self.claimed(store)
        job = with_output(claim.job, due="reverse")
        await store.release(claim, job)
        assert await self.nothing_to_claim(store)
        [again] = await self.claims(store, 1, containers=["reverse"])
        assert again.job == job

    async def test_a_claim_ends_with_its_release(self, store: JobStore) -> None:
        old = await self.claimed(store)
        await store.release(old, old.job)
        await self.assert_worthless(store, old)
        [new] = await self.claims(store, 1)
        await self.assert_worthless(store, old)
        await store.save(new, succeeded(new.job))

    async def assert_worthless(self, store: JobStore, old: Claim) -> None:
        with pytest.raises(ClaimLost):
            await store.save(old, succeeded(old.job))
        with pytest.raises(ClaimLost):
            await store.release(old, with_output(old.job))
        assert await store.get([old.job.id]) == [old.job]

    # -- settle -----------------------------------------------------------------------------------

    async def test_settle_finishes_a_queued_job(self, store: JobStore) -> None:
        job = make_job()
        await store.add([job])
        answer = await store.settle(job.id, CANCELLED, client=None)
        assert answer is not None
        assert answer.now
        settled = answer.job
        assert (settled.id, settled.status, settled.due) == (job.id, JobStatus.CANCELLED, None)
        assert isinstance(settled.result, ContainerError)
        assert settled.finished_at is not None
        assert await store.get([job.id]) == [settled]
        assert await self.nothing_to_claim(store)

    async def test_settle_keeps_the_outcome_that_was_given(self, store: JobStore) -> None:
        result = ContainerOutput(container="echo", output=encode_payload({"from": "outside"}))
        claim = await self.claimed(store)
        await store.settle(claim.job.id, Outcome(JobStatus.SUCCESS, result), client="alice")
        [kept] = await store.get([claim.job.id])
        assert (kept.status, kept.result) == (JobStatus.SUCCESS, result)

    async def test_settle_of_a_delayed_job_takes_it_out_of_the_queue(self, store: JobStore) -> None:
        claim = await self.claimed(store)
        await store.release(claim, claim.job, delay_seconds=2 * self.quiet_seconds)
        await store.settle(claim.job.id, CANCELLED, client=None)
        await anyio.sleep(2 * self.quiet_seconds)
        assert await self.nothing_to_claim(store)

    async def test_settle_takes_the_claim_from_whoever_runs_the_job(self, store: JobStore) -> None:
        claim = await self.claimed(store)
        interrupted = False
        with anyio.fail_after(self.timeout_seconds):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._settle, store, claim.job)
                with claim.scope:
                    await anyio.sleep_forever()
                interrupted = True
        assert interrupted
        for write in (store.save, store.release):
            with pytest.raises(ClaimLost):
                await write(claim, succeeded(claim.job))
        [kept] = await store.get([claim.job.id])
        assert kept.status is JobStatus.CANCELLED
        assert await self.nothing_to_claim(store)

    async def test_settle_of_a_finished_job_changes_nothing(self, store: JobStore) -> None:
        claim = await self.claimed(store)
        finished = succeeded(claim.job)
        await store.save(claim, finished)
        assert await store.settle(finished.id, CANCELLED, client=None) == Settlement(claim.job, now=False)
        assert await store.get([finished.id]) == [claim.job]

    async def test_settle_of_an_unknown_job_answers_none(self, store: JobStore) -> None:
        assert await store.settle(make_job().id, CANCELLED, client=None) is None

    async def test_settle_does_not_touch_jobs_of_other_clients(self, store: JobStore) -> None:
        job = make_job(client="alice")
        await store.add([job])
        assert await store.settle(job.id, CANCELLED, client="bob") is None
        [claim] = await self.claims(store, 1)
        assert claim.job == job

    async def test_settle_ends_a_stream(self, store: JobStore) -> None:
        claim = await store.add_claimed(make_job(destination=Location.STREAM))
        await store.settle(claim.job.id, CANCELLED, client=None)
        with anyio.fail_after(self.timeout_seconds), claim.scope:
            await anyio.sleep_forever()
        with pytest.raises(ClaimLost):
            await store.save(claim, succeeded(claim.job))

    async def test_of_two_settlements_at_once_one_wins_and_both_learn_which(self, store: JobStore) -> None:
        for number in range(20):
            job = make_job()
            await store.add([job])
            answers: list[Settlement | None] = []

            async def settle(job: Job, status: JobStatus, answers: list[Settlement | None] = answers) -> None:
                answers.append(await store.settle(job.id, Outcome(status), client=None))

            async with anyio.create_task_group() as tasks:
                for status in [JobStatus.CANCELLED, JobStatus.FAILED][:: 1 if number % 2 else -1]:
                    tasks.start_soon(settle, job, status)
            [kept] = await store.get([job.id])
            assert sorted(answer.now for answer in answers if answer and answer.job == kept) == [False, True]

    async def test_of_a_settlement_and_a_last_save_at_once_one_wins(self, store: JobStore) -> None:
        for patience in self.patiences():
            claim = await self.claimed(store)
            lost: list[bool] = []

            async def save(claim: Claim = claim, lost: list[bool] = lost) -> None:
                try:
                    await store.save(claim, succeeded(claim.job))
                except ClaimLost:
                    lost.append(True)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(save)
                await patience()
                settled = await store.settle(claim.job.id, CANCELLED, client=None)
            [kept] = await store.get([claim.job.id])
            assert kept.status is (JobStatus.CANCELLED if lost else JobStatus.SUCCESS)
            assert settled == Settlement(kept, now=bool(lost))

    async def test_a_settlement_while_the_job_is_claimed_leaves_no_claim_that_is_worth_something(
        self, store: JobStore
    ) -> None:
        for patience in self.patiences():
            job = make_job()
            await store.add([job])
            claims: list[Claim] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._claim_into, store, claims)
                await patience()
                await store.settle(job.id, CANCELLED, client=None)
                await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            for claim in claims:
                with pytest.raises(ClaimLost):
                    await store.save(claim, succeeded(claim.job))
            [kept] = await store.get([job.id])
            assert kept.status is JobStatus.CANCELLED


def _ids(claims: Sequence[Claim]) -> list[JobId]:
    return [claim.job.id for claim in claims]
