"""The suite of shared stores can fail: each of these breaks one promise, and a test of the suite says which."""

import inspect
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from shared_engine import Engine, SharedClaim, Ticket
from shared_store import Cluster, SharedMemoryStore
from test_contracts_catch import names_of_tests

from nodekit import (
    Announcement,
    Claim,
    ClaimLost,
    ClientId,
    ContainerId,
    Job,
    JobId,
    JobStatus,
    Location,
    Outcome,
    Pending,
    Settlement,
    Unfinished,
)
from nodekit.testing import JobStoreContract, SharedStoreContract
from nodekit.testing.shared.fencing import DAY_SECONDS


class Suite(SharedStoreContract):
    quiet_seconds = 0.03
    timeout_seconds = 1.0
    lease_seconds = 0.3


def run(test: str, broken: type[Engine] | type[SharedMemoryStore] | None = None) -> None:
    """Run one test of the suite, as pytest would, on a cluster with a part that is broken."""
    suite = Suite()
    function = getattr(suite, test)
    wanted = inspect.signature(function).parameters
    engine = broken if broken and issubclass(broken, Engine) else Engine
    client = broken if broken and issubclass(broken, SharedMemoryStore) else SharedMemoryStore

    async def main(seconds: float) -> None:
        async with AsyncExitStack() as stack:
            given: dict[str, Any] = {"open_store": cluster.store, "seconds": seconds}
            if "store" in wanted:
                given["store"] = await stack.enter_async_context(cluster.store())
            if "stores" in wanted:
                given["stores"] = await stack.enter_async_context(suite.opened(cluster.store, 3))
            await function(**{name: given[name] for name in wanted})

    for seconds in (DAY_SECONDS, -DAY_SECONDS) if "seconds" in wanted else (0,):
        with Cluster(suite.lease_seconds, engine, client) as cluster:
            anyio.run(main, seconds)


# -- leases and fencing ----------------------------------------------------------------------------


class LosesTheFence(Engine):
    async def save(self, token: int, job: Job) -> None:
        if token in self.claims:
            await super().save(token, job)
        else:
            await self.store.table.save(job)


class ReleasesWithoutFence(Engine):
    async def release(self, token: int, job: Job, delay_seconds: float) -> None:
        with suppress(ClaimLost):
            await super().release(token, job, delay_seconds)


class CompletesTwice(Engine):
    """Whoever has a result may end the job."""

    async def save(self, token: int, job: Job) -> None:
        if not job.status.finished or token in self.claims:
            await super().save(token, job)


class RenewsNothing(SharedMemoryStore):
    async def _renew(self) -> None:
        await anyio.sleep_forever()


class NeverTakesOver(Engine):
    async def watch(self) -> None:
        await anyio.sleep_forever()


class TakesOverTooEarly(Engine):
    def __init__(self, lease_seconds: float) -> None:
        super().__init__(lease_seconds * 0.15)


class CountsNoTakeovers(Engine):
    async def take_back(self, claim: Claim, *, died: bool) -> None:
        await super().take_back(claim, died=False)


class CountsWhatWasGivenBack(Engine):
    async def release(self, token: int, job: Job, delay_seconds: float) -> None:
        self.takeovers[job.id] += 1
        await super().release(token, job, delay_seconds)


class ForgetsWhatWasSaved(Engine):
    async def take_back(self, claim: Claim, *, died: bool) -> None:
        begun = replace(claim.job, steps=(), due=claim.job.request.containers[0], status=JobStatus.ACCEPTED)
        self.takeovers[claim.job.id] += died
        await self.store.release(claim, begun)


class KeepsRunning(Engine):
    """A node whose claims were taken over is not told."""

    async def end(self, number: int, *, died: bool) -> None:
        self.sessions.pop(number, None)
        await super().end(number, died=died)


class LeavesRunning(Engine):
    """Nor is one whose job was settled elsewhere."""

    async def settle(self, id: JobId, outcome: Outcome, client: ClientId | None) -> Settlement | None:
        return await self.store.settle(id, outcome, client=client)


class RerunsStreams(Engine):
    async def take_back(self, claim: Claim, *, died: bool) -> None:
        request = replace(claim.job.request, destination=Location.OFFCHAIN)
        await self.store.release(claim, replace(claim.job, request=request))


class KeepsWhatWasLeft(Engine):
    """What a store had claimed that was left stays claimed."""

    async def end(self, number: int, *, died: bool) -> None:
        if died:
            await super().end(number, died=died)
        else:
            self.sessions.pop(number, None)


async def _now() -> float:
    return time.time()


class TrustsClocks(SharedMemoryStore):
    """A delay ends at a time of the node's clock."""

    async def release(self, claim: Any, job: Job, *, delay_seconds: float = 0) -> None:
        due_at = time.time() + delay_seconds
        await super().release(claim, job, delay_seconds=max(0.0, due_at - await self._ask(_now)))


class RenewsByItsClock(SharedMemoryStore):
    """A lease ends at a time of the node's clock."""

    async def _renew(self) -> None:
        while True:
            await anyio.sleep(self.engine.lease_seconds / 4)
            wrong_by = time.time() - await self._ask(_now)
            if session := self.engine.sessions.get(self._session):
                session.lapses_at = time.monotonic() + self.engine.lease_seconds + wrong_by


# -- one queue -------------------------------------------------------------------------------------


class Prefetches(SharedMemoryStore):
    """It takes more than it is asked for, and keeps that for the next time."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._more: list[Claim] = []

    async def claim(self, containers: Collection[ContainerId], limit: int) -> list[Claim]:
        claims = self._more or await super().claim(containers, limit + 1)
        self._more = claims[limit:]
        return claims[:limit]


class StarvesAClient(Engine):
    def __init__(self, lease_seconds: float) -> None:
        super().__init__(lease_seconds)
        put = self.store._queue.put
        self.store._queue.put = lambda entry, **delay: put(  # type: ignore[method-assign]
            replace(entry, client="everybody"), **delay
        )


class IgnoresPriority(Engine):
    def __init__(self, lease_seconds: float) -> None:
        super().__init__(lease_seconds)
        put = self.store._queue.put
        self.store._queue.put = lambda entry, **delay: put(replace(entry, priority=3), **delay)  # type: ignore[method-assign]


class IgnoresDelay(Engine):
    async def release(self, token: int, job: Job, delay_seconds: float) -> None:
        await super().release(token, job, 0)


class ClaimsTwice(Engine):
    def grant(self, number: int, claim: Claim) -> SharedClaim:
        if self.takeovers[claim.job.id] == 0:
            self.store._queue.put(Unfinished.of(claim.job))
            self.takeovers[claim.job.id] = 1
        return super().grant(number, claim)


class LosesWhatIsCancelled(Engine):
    async def give_up(self, ticket: Ticket) -> None:
        if not ticket.claims:
            await super().give_up(ticket)


class LooksOnce(SharedMemoryStore):
    """A claim that finds nothing looks again much later."""

    async def claim(self, containers: Collection[ContainerId], limit: int) -> list[Claim]:
        with anyio.move_on_after(0.02):
            return await super().claim(containers, limit)
        await anyio.sleep(3600)
        return await super().claim(containers, limit)


class ExpiresItsOwnOnly(SharedMemoryStore):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.added: set[JobId] = set()

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        self.added |= {job.id for job in jobs}
        return await super().add(jobs)

    async def claim_expired(self, limit: int) -> list[Claim]:
        while True:
            claims = await super().claim_expired(limit)
            if own := [claim for claim in claims if claim.job.id in self.added]:
                return own
            await anyio.sleep(0.001)


# -- one set of jobs -------------------------------------------------------------------------------


class KeysOfItsOwn(SharedMemoryStore):
    """It knows the idempotency keys that it was given itself."""

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return await super().add([self._own(job) for job in jobs])

    def _own(self, job: Job) -> Job:
        key = job.request.idempotency_key
        return replace(job, request=replace(job.request, idempotency_key=key and f"{self._session} {key}"))


class CountsItsOwn(ExpiresItsOwnOnly):
    async def pending(self) -> Pending:
        return Pending(len(await self.find(status={JobStatus.ACCEPTED}, limit=100))) if self.added else Pending()


class HearsItself(ExpiresItsOwnOnly):
    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[JobId | None]]:
        async def own(changes: AsyncIterator[JobId | None]) -> AsyncIterator[JobId | None]:
            async for id in changes:
                if id in self.added:
                    yield id

        async with super().changes() as changes, aclosing(own(changes)) as heard:  # type: ignore[type-var]
            yield heard


# -- announcements ---------------------------------------------------------------------------------


class NeverForgetsNodes(Engine):
    async def end(self, number: int, *, died: bool) -> None:
        offers = dict(self.offers)
        await super().end(number, died=died)
        self.offers = offers if died else self.offers


class RemembersWhoLeft(Engine):
    async def end(self, number: int, *, died: bool) -> None:
        offers = dict(self.offers)
        await super().end(number, died=died)
        self.offers = self.offers if died else offers


class ForgetsByName(Engine):
    """With a session go the names that were announced in it, whoever has announced them since."""

    def __init__(self, lease_seconds: float) -> None:
        super().__init__(lease_seconds)
        self.names: dict[int, set[str]] = {}

    async def announce(self, number: int, name: str, offered: Announcement) -> None:
        self.names.setdefault(number, set()).add(name)
        await super().announce(number, name, offered)

    async def end(self, number: int, *, died: bool) -> None:
        for name in self.names.get(number, ()):
            self.offers.pop(name, None)
        await super().end(number, died=died)


class AddsToAnnouncements(Engine):
    async def announce(self, number: int, name: str, offered: Announcement) -> None:
        before = self.offers[name][1].containers if name in self.offers else {}
        await super().announce(number, name, replace(offered, containers={**before, **offered.containers}))


class TellsSecrets(Engine):
    async def announce(self, number: int, name: str, offered: Announcement) -> None:
        self.offers[name] = number, offered


BROKEN: Sequence[tuple[type[Engine] | type[SharedMemoryStore], str]] = [
    (LosesTheFence, "test_a_claim_that_was_taken_over_keeps_nothing"),
    (LosesTheFence, "test_a_settlement_while_a_node_is_paused_stays"),
    (ReleasesWithoutFence, "test_a_claim_that_was_taken_over_and_given_back_keeps_nothing"),
    (CompletesTwice, "test_at_the_end_of_a_lease_a_job_is_finished_by_one_claim"),
    (CompletesTwice, "test_of_a_last_save_and_settlements_elsewhere_at_once_one_wins"),
    (RenewsNothing, "test_a_claim_is_renewed_while_a_step_runs_long"),
    (RenewsNothing, "test_an_announcement_stays_as_long_as_its_node_lives"),
    (NeverTakesOver, "test_what_a_dead_node_had_claimed_goes_to_another_with_what_was_saved"),
    (NeverTakesOver, "test_a_job_that_a_dead_node_waited_for_goes_to_another"),
    (NeverTakesOver, "test_a_dead_nodes_job_that_is_too_old_is_given_as_expired"),
    (NeverTakesOver, "test_the_jobs_of_a_node_that_dies_in_the_middle_are_finished_by_the_others"),
    (TakesOverTooEarly, "test_a_node_that_is_held_up_for_less_than_its_lease_keeps_its_claims"),
    (CountsNoTakeovers, "test_takeovers_are_counted_until_the_job_is_finished"),
    (CountsWhatWasGivenBack, "test_a_released_job_goes_on_in_another_store_as_it_was_released"),
    (ForgetsWhatWasSaved, "test_what_a_dead_node_had_claimed_goes_to_another_with_what_was_saved"),
    (ForgetsWhatWasSaved, "test_the_jobs_of_a_node_that_dies_in_the_middle_are_finished_by_the_others"),
    (KeepsRunning, "test_a_node_that_was_paused_finds_its_steps_cancelled"),
    (LeavesRunning, "test_settle_through_another_store_takes_the_claim"),
    (LeavesRunning, "test_a_settlement_elsewhere_ends_a_stream"),
    (LeavesRunning, "test_a_job_that_is_cancelled_through_another_node_is_aborted_where_it_runs"),
    (RerunsStreams, "test_the_stream_of_a_dead_node_fails_and_is_never_offered"),
    (KeepsWhatWasLeft, "test_leaving_a_store_loses_nothing_of_what_it_had_claimed"),
    (TrustsClocks, "test_no_node_trusts_the_clock_of_another"),
    (RenewsByItsClock, "test_no_node_trusts_the_clock_of_another"),
    (Prefetches, "test_the_oldest_job_comes_first_through_whichever_store_it_was_added"),
    (Prefetches, "test_priorities_hold_across_stores"),
    (IgnoresPriority, "test_priorities_hold_across_stores"),
    (StarvesAClient, "test_clients_take_turns_across_stores"),
    (IgnoresDelay, "test_a_delay_holds_in_every_store"),
    (IgnoresDelay, "test_delays_and_time_limits_outlive_the_node_that_set_them"),
    (ClaimsTwice, "test_a_job_goes_to_one_of_many_claims_at_once"),
    (ClaimsTwice, "test_nodes_on_one_store_finish_all_jobs_and_run_each_step_once"),
    (LosesWhatIsCancelled, "test_cancelling_claims_of_several_stores_loses_nothing"),
    (LooksOnce, "test_a_waiting_claim_wakes_up_when_another_store_adds_a_job"),
    (LooksOnce, "test_a_waiting_claim_wakes_up_when_another_store_gives_a_job_back"),
    (ExpiresItsOwnOnly, "test_each_job_whose_time_is_over_goes_to_one_store"),
    (KeysOfItsOwn, "test_an_idempotency_key_holds_in_every_store"),
    (KeysOfItsOwn, "test_of_adds_with_one_key_through_several_stores_at_once_one_is_kept"),
    (CountsItsOwn, "test_pending_counts_the_jobs_of_all_stores"),
    (HearsItself, "test_changes_tells_what_other_stores_did"),
    (NeverForgetsNodes, "test_an_announcement_lapses_when_its_node_dies"),
    (RemembersWhoLeft, "test_an_announcement_is_gone_when_its_node_has_left"),
    (ForgetsByName, "test_a_node_that_comes_again_under_its_name_stays_known"),
    (AddsToAnnouncements, "test_what_a_node_announces_anew_replaces_what_it_had_announced"),
    (TellsSecrets, "test_of_a_container_its_own_fields_travel_and_no_secrets"),
]


@pytest.mark.parametrize(("broken", "test"), BROKEN)
def test_the_suite_of_shared_stores_catches(broken: type[Engine] | type[SharedMemoryStore], test: str) -> None:
    with pytest.raises((AssertionError, TimeoutError, BaseExceptionGroup, pytest.fail.Exception)):
        run(test, broken)


@pytest.mark.parametrize("test", sorted({*names_of_tests(SharedStoreContract)} - {*names_of_tests(JobStoreContract)}))
def test_the_suite_of_shared_stores_passes_a_sound_one(test: str) -> None:
    run(test)
