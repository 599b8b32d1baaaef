"""Operations on a store: chosen by bytes, executed, and reported to the model."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from nodekit import (
    Claim,
    ClaimLost,
    ContainerError,
    Job,
    JobOrder,
    JobQuery,
    JobStatus,
    Location,
    Outcome,
)
from nodekit.testing.builders.jobs import SEQUENCE, make_attempt, succeeded, unnumbered, with_output
from nodekit.testing.store_model.choices import (
    CLIENTS,
    CONDITIONS,
    CONTAINERS,
    DELAYS,
    LIMITS,
    NEXT,
    OPERATIONS,
    OUTCOMES,
    PASSED_SECONDS,
    Choices,
    id_of,
)
from nodekit.testing.store_model.expected import plain
from nodekit.testing.store_model.trial import Trial, cancelled, for_some_turns

T = TypeVar("T")


class Operations(Trial):
    """Operations of a trial, each a method with its name. Store and model are compared after each of them."""

    async def run(self, steps: Sequence[bytes], *, durable: bool, report: Callable[[str], None]) -> None:
        """Run the operations, compare after each of them, and finish all jobs at the end."""
        kinds = [kind for kind in OPERATIONS if durable or kind != "reopen"]
        for number, chosen in enumerate(steps):
            self._choices = Choices(chosen)
            self._words = [f"{number}."]
            kind = self._choose(*kinds)
            try:
                await getattr(self, f"_{kind}")()
                await self._compare()
            finally:
                report(" ".join(self._words))
        await self._end()

    async def _nothing(self) -> None:
        pass

    # -- new jobs ---------------------------------------------------------------------------------

    async def _add(self) -> None:
        jobs = [self._job() for _ in range(self._choose(1, 1, 2, 3, 5, 0))]
        kept = await self._soon(self._store.add(jobs))
        self._expected.added(jobs, kept)

    async def _add_stream(self) -> None:
        job = self._job(destination=Location.STREAM, idempotency_key=None)
        if job.id not in self._expected.entries:
            claim = await self._soon(self._store.add_claimed(job))
            self._expected.streams(job, claim)
            self._claims.append(claim)

    # -- claims -----------------------------------------------------------------------------------

    async def _claim(self) -> None:
        containers, limit = self._choose(*CONTAINERS), self._choose(*LIMITS)
        if not self._expected.due(containers):
            await self._look(containers)
        else:
            self._claimed(await self._soon(self._store.claim(containers, SEQUENCE, limit)), containers, limit)

    def _claimed(self, claims: Sequence[Claim], containers: Sequence[str], limit: int) -> None:
        self._expected.claimed(claims, containers, limit)
        self._claims += claims

    async def _claim_and_cancel(self) -> None:
        await self._look(self._choose(*CONTAINERS))

    async def _look(self, containers: Sequence[str]) -> None:
        """Claim, and give up after a few turns of the event loop. All jobs that come by then are claimed."""
        if claims := await for_some_turns(self._store.claim(containers, SEQUENCE, 50)):
            self._claimed(claims, containers, 50)
        self._expected.looked(containers)

    async def _claim_expired(self) -> None:
        limit = self._choose(*LIMITS)
        if self._expected.over():
            claims = await self._soon(self._store.claim_expired(limit))
        else:
            claims = await for_some_turns(self._store.claim_expired(limit))
            self._expected.looked(None)
        if claims:
            self._expected.claimed_expired(claims, limit)
            self._claims += claims

    # -- ends of claimed jobs ---------------------------------------------------------------------

    def _next(self, job: Job) -> Job:
        kind, due = self._choose(*NEXT), self._choose("x", "y")
        if kind == "attempt failed":
            return job.with_failure(job.due or "", make_attempt(kind="connection", failure="refused"))
        if kind == "output":
            return with_output(job, len(job.steps), due=due)
        if kind in ("error", "failed"):
            error = ContainerError(container=job.due or "", error="no reply", kind="timeout")
            job = replace(job.with_result(error, make_attempt(kind="timeout", failure="no reply")), due=due)
            return job if kind == "error" else job.finished(Outcome(JobStatus.FAILED), time.time())
        return succeeded(job) if kind == "finished" else job

    async def _save(self) -> None:
        if (claim := self._some_claim()) is None:
            return
        job = self._next(claim.job)
        if not self._expected.worth(claim):
            with pytest.raises(ClaimLost):
                await self._soon(self._store.save(claim, job))
            return
        await self._soon(self._store.save(claim, job))
        assert unnumbered(claim.job) == job
        self._expected.saved(claim, job)

    async def _release(self) -> None:
        if (claim := self._some_claim()) is None:
            return
        job, delay_seconds = self._next(claim.job), self._choose(*DELAYS)
        if not self._expected.worth(claim):
            with pytest.raises(ClaimLost):
                await self._soon(self._store.release(claim, job, delay_seconds=delay_seconds))
            return
        await self._soon(self._store.release(claim, job, delay_seconds=delay_seconds))
        [kept] = await self._soon(self._store.get([job.id]))
        if job.status.finished:
            self._expected.saved(claim, job)
        elif job.request.destination is Location.STREAM:
            self._expected.saved(claim, job)
            self._expected.interrupted(kept)
        else:
            self._expected.released(job, delay_seconds)
            if delay_seconds:
                assert kept.delay_seconds == delay_seconds
                assert kept.not_before == pytest.approx(time.time() + delay_seconds, abs=self._timeout_seconds)

    async def _settle(self) -> None:
        id = self._choose(*self._expected.entries, id_of(999))
        client, outcome = self._choose(None, *CLIENTS), self._choose(*OUTCOMES)
        held = self._expected.claim_of(id)
        answer = await self._soon(self._store.settle(id, outcome, client=client))
        self._expected.settled(id, outcome, client, answer)
        if held is not None and answer is not None:
            await self._soon(cancelled(held.scope))

    async def _delete(self) -> None:
        ids = self._some_ids()
        self._expected.deleted(ids, await self._soon(self._store.delete(ids)))

    # -- reading ----------------------------------------------------------------------------------

    async def _get(self) -> None:
        ids, client = self._some_ids(), self._choose(None, *CLIENTS)
        got = await self._soon(self._store.get(ids, client=client))
        assert [plain(job) for job in got] == self._expected.get(ids, client)

    async def _find(self) -> None:
        """Find by up to two conditions at once; more of them hardly ever find a job."""
        names = {self._choose(*CONDITIONS), self._choose(*CONDITIONS)}
        conditions: dict[str, Any] = {name: self._choose(*CONDITIONS[name]) for name in sorted(names)}
        order: JobOrder = self._choose("oldest", "newest", "finished")
        limit, after = self._choose(100, 3, 1), id_of(self._choose(0, 0, *range(self._serial + 2)))
        query = JobQuery(**conditions, order=order, after=None if order == "finished" else after, limit=limit)
        assert await self._soon(self._store.find(query)) == self._expected.find(query)

    # -- time -------------------------------------------------------------------------------------

    async def _advance(self) -> None:
        self._pass(self._choose(*PASSED_SECONDS))

    async def _jump(self) -> None:
        seconds = self._choose(0, 0, 0, -86_400, 86_400)
        self._expected.jumped += seconds
        self._clock.jump(seconds)

    async def _reopen(self) -> None:
        closed_seconds = self._choose(0, 0, 10, 100)
        await self._stack.aclose()
        if closed_seconds:
            self._pass(closed_seconds)
        await self._open()
        self._expected.reopened(closed_seconds)
        ended = await self._soon(self._store.get(self._expected.streaming()))
        for job in sorted(ended, key=lambda job: job.finish_number or 0):  # the contract leaves their order open
            self._expected.interrupted(job)
        self._expected.changed.clear()

    async def _end(self) -> None:
        """Assert that every job left can be claimed once all delays are over, and can be finished, and that no job
        remains."""
        while self._expected.due():
            self._claimed(await self._soon(self._store.claim("xyz", SEQUENCE, 50)), "xyz", 50)
        await self._look("xyz")
        if len(self._expected.due()) < sum(entry.queued for entry in self._expected.entries.values()):
            self._pass(100_000)
        while left := [entry for entry in self._expected.entries.values() if entry.queued]:
            if self._expected.over():
                claims = await self._soon(self._store.claim_expired(50))
                self._expected.claimed_expired(claims, 50)
                self._claims += claims
            else:
                assert self._expected.due(), f"no claim gets {left[0].job.id}"
                self._claimed(await self._soon(self._store.claim("xyz", SEQUENCE, 50)), "xyz", 50)
        await self._look("xyz")
        for claim in filter(self._expected.worth, self._claims):
            await self._soon(self._store.save(claim, done := succeeded(claim.job)))
            self._expected.saved(claim, done)
        await self._compare()
        ids = list(self._expected.entries)
        self._expected.deleted(ids, await self._soon(self._store.delete(ids)))
        await self._compare()
