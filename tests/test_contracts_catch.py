"""The contract suites can fail: each of these stores breaks one promise, and a test of the suite says which."""

import inspect
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from parts import echo

from nodekit import (
    Claim,
    Container,
    ContainerError,
    ContainerFailed,
    EmbeddedStore,
    Job,
    JobId,
    JobStatus,
    JobStore,
    JobTable,
    Outcome,
    Pending,
    Settlement,
    Step,
    StoreInUse,
    Unfinished,
)
from nodekit.testing import DurableJobStoreContract, JobStoreContract, JobTableContract, StreamingRunnerContract
from nodekit_function import FunctionRunner
from nodekit_memory import MemoryTable


class Suite(DurableJobStoreContract):
    quiet_seconds = 0.02
    timeout_seconds = 0.5


class TableSuite(JobTableContract):
    timeout_seconds = 0.5


def run(suite: JobStoreContract | JobTableContract, test: str, part: Any) -> None:
    """Run one test of a suite, as pytest would, with a store, a table, or a function that opens one."""
    function = getattr(suite, test)
    if "nothing_left" in inspect.signature(function).parameters:
        function = partial(function, None)

    async def main() -> None:
        if callable(part):
            await function(part)
        else:
            async with part:
                await function(part)

    anyio.run(main)


def names_of_tests(suite: type) -> list[str]:
    return [name for name in dir(suite) if name.startswith("test_")]


# -- broken tables ---------------------------------------------------------------------------------


class LosesTheOther(MemoryTable):
    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        await super().add(jobs[:1])
        return list(jobs)


class AddsTwice(MemoryTable):
    def _known_id(self, job: Job) -> JobId:
        return job.id


class Overwrites(MemoryTable):
    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return [self._insert(job) for job in jobs]


class Unsorted(MemoryTable):
    async def get(self, ids: Sequence[JobId], *, client: str | None = None) -> list[Job]:
        return await super().get(sorted(ids), client=client)


class ShowsOtherClients(MemoryTable):
    async def get(self, ids: Sequence[JobId], *, client: str | None = None) -> list[Job]:
        return await super().get(ids)


class FindsOtherClients(MemoryTable):
    async def find(self, *, client: str | None = None, **conditions: Any) -> list[JobId]:
        return await super().find(**conditions)


class IgnoresStatus(MemoryTable):
    async def find(self, *, status: Any = None, **conditions: Any) -> list[JobId]:
        return await super().find(**conditions)


class NeedsTheCursor(MemoryTable):
    async def find(self, *, after: JobId | None = None, **conditions: Any) -> list[JobId]:
        return [] if after and after not in self._jobs else await super().find(after=after, **conditions)


class AddsNoSteps(MemoryTable):
    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return await super().add([replace(job, steps=()) for job in jobs])


class IgnoresErrors(MemoryTable):
    async def find(self, *, container: Any = None, error: Any = None, **conditions: Any) -> list[JobId]:
        return await super().find(**conditions)


class FindsErrorsOfSteps(MemoryTable):
    async def find(self, *, container: Any = None, error: Any = None, **conditions: Any) -> list[JobId]:
        found = await self.get(await super().find(**conditions))
        results = {job.id: [*job.results, *([job.error] if job.error else [])] for job in found}
        errors = {id: [one for one in some if isinstance(one, ContainerError)] for id, some in results.items()}
        return [
            id
            for id, some in errors.items()
            if (container is None and error is None)
            or any(container in (None, one.container) and (error or "") in one.error for one in some)
        ]


class FindsErrorsBy(MemoryTable):
    """Another way to compare: `matches` is asked with an error, and the container and the text that are looked for."""

    matches: Callable[[ContainerError, str, str], bool]

    async def find(self, *, container: Any = None, error: Any = None, **conditions: Any) -> list[JobId]:
        found = await self.get(await super().find(**conditions))
        if container is None and error is None:
            return [job.id for job in found]
        matches = type(self).matches
        return [
            job.id for job in found if job.error and matches(job.error, container or job.error.container, error or "")
        ]


class FindsWithoutCase(FindsErrorsBy):
    matches = staticmethod(lambda e, container, text: e.container == container and text.lower() in e.error.lower())


class FindsPatterns(FindsErrorsBy):
    matches = staticmethod(lambda e, container, text: e.container == container and fnmatchcase(e.error, f"*{text}*"))


class FindsContainersByTheirBeginning(FindsErrorsBy):
    matches = staticmethod(lambda e, container, text: e.container.startswith(container) and text in e.error)


class DeletesUnfinished(MemoryTable):
    async def delete(self, ids: Sequence[JobId]) -> int:
        for job in await self.get(ids):
            await self.save(replace(job, status=JobStatus.FAILED))
        return await super().delete(ids)


class DropsOpenSteps(MemoryTable):
    async def save(self, job: Job) -> None:
        await super().save(replace(job, steps=tuple(step for step in job.steps if step.result is not None)))


class SavesNothing(MemoryTable):
    async def save(self, job: Job) -> None:
        pass


class ForgetsWhatIsDue(MemoryTable):
    async def unfinished(self) -> list[Unfinished]:
        return [replace(entry, due="") for entry in await super().unfinished()]


class OffersFinished(MemoryTable):
    async def unfinished(self) -> list[Unfinished]:
        return [Unfinished.of(job) for job in self._jobs.values()]


@pytest.mark.parametrize(
    ("table", "test"),
    [
        (LosesTheOther, "test_add_answers_what_it_kept"),
        (AddsTwice, "test_add_of_a_known_idempotency_key_answers_the_job_that_is_there"),
        (AddsTwice, "test_an_idempotency_key_holds_within_one_add_too"),
        (Overwrites, "test_add_of_a_known_id_answers_the_job_that_is_there"),
        (Unsorted, "test_get_answers_in_the_order_asked_each_once"),
        (ShowsOtherClients, "test_get_leaves_out_unknown_jobs_and_those_of_other_clients"),
        (FindsOtherClients, "test_find_by_client_finds_that_clients_jobs_only"),
        (IgnoresStatus, "test_find_by_status_finds_jobs_as_they_are_now"),
        (NeedsTheCursor, "test_find_goes_on_behind_an_id_that_is_not_there"),
        (AddsNoSteps, "test_add_keeps_the_steps_that_a_job_begins_with"),
        (IgnoresErrors, "test_find_by_error_finds_jobs_that_ended_with_it"),
        (IgnoresErrors, "test_errors_are_looked_for_by_their_texts_as_they_are"),
        (FindsErrorsOfSteps, "test_find_by_error_looks_at_the_end_of_a_job_and_not_at_its_steps"),
        (FindsWithoutCase, "test_find_by_error_finds_jobs_that_ended_with_it"),
        (FindsPatterns, "test_errors_are_looked_for_by_their_texts_as_they_are"),
        (FindsContainersByTheirBeginning, "test_find_by_error_finds_jobs_that_ended_with_it"),
        (DeletesUnfinished, "test_delete_forgets_finished_jobs_only"),
        (DropsOpenSteps, "test_save_keeps_the_newest_snapshot"),
        (SavesNothing, "test_find_by_status_follows_what_was_saved"),
        (ForgetsWhatIsDue, "test_unfinished_answers_what_is_not_finished_oldest_first"),
        (OffersFinished, "test_unfinished_answers_what_is_not_finished_oldest_first"),
    ],
)
def test_the_suite_of_tables_catches(table: type[MemoryTable], test: str) -> None:
    run(TableSuite(), test, MemoryTable())
    with pytest.raises((AssertionError, TimeoutError)):
        run(TableSuite(), test, table())


# -- broken stores ---------------------------------------------------------------------------------


class Sound(EmbeddedStore):
    def __init__(self, table: JobTable | None = None) -> None:
        super().__init__(table or MemoryTable())


class ForgetsToAskForErrors(Sound):
    async def find(self, *, container: Any = None, error: Any = None, **conditions: Any) -> list[JobId]:
        return await super().find(**conditions)


class AddsWithoutSteps(Sound):
    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return await super().add([replace(job, steps=()) for job in jobs])


class CompletesTwice(Sound):
    """No fencing: who lost a claim may still write."""

    async def save(self, claim: Claim, job: Job) -> None:
        if self._claims.get(job.id) is claim:
            await super().save(claim, job)
        else:
            await self.table.save(job)


class ClaimsTwice(Sound):
    async def claim(self, containers: Collection[str], limit: int) -> list[Claim]:
        claims = await super().claim(containers, limit)
        self._queue.put(Unfinished.of(claims[-1].job))
        return claims


class Reorders(Sound):
    async def claim(self, containers: Collection[str], limit: int) -> list[Claim]:
        return (await super().claim(containers, limit))[::-1]


class QueuesWrongly(Sound):
    def __init__(self, table: JobTable | None = None) -> None:
        super().__init__(table)
        put = self._queue.put
        self._queue.put = lambda entry, **delay: put(**self.wrong(entry, **delay))  # type: ignore[method-assign]

    def wrong(self, entry: Unfinished, delay_seconds: float | None = None) -> dict[str, Any]:
        raise NotImplementedError


class IgnoresPriority(QueuesWrongly):
    def wrong(self, entry: Unfinished, delay_seconds: float | None = None) -> dict[str, Any]:
        return {"entry": replace(entry, priority=3), "delay_seconds": delay_seconds}


class StarvesAClient(QueuesWrongly):
    def wrong(self, entry: Unfinished, delay_seconds: float | None = None) -> dict[str, Any]:
        return {"entry": replace(entry, client="everybody"), "delay_seconds": delay_seconds}


class IgnoresDelay(QueuesWrongly):
    def wrong(self, entry: Unfinished, delay_seconds: float | None = None) -> dict[str, Any]:
        return {"entry": entry, "delay_seconds": 0}


class IgnoresQueueTimeout(QueuesWrongly):
    def wrong(self, entry: Unfinished, delay_seconds: float | None = None) -> dict[str, Any]:
        return {"entry": replace(entry, queue_timeout_seconds=None), "delay_seconds": delay_seconds}


class IgnoresJobTimeout(QueuesWrongly):
    def wrong(self, entry: Unfinished, delay_seconds: float | None = None) -> dict[str, Any]:
        return {"entry": replace(entry, timeout_seconds=None), "delay_seconds": delay_seconds}


class CountsDelayAsWaiting(QueuesWrongly):
    def wrong(self, entry: Unfinished, delay_seconds: float | None = None) -> dict[str, Any]:
        limit = entry.queue_timeout_seconds
        shorter = None if limit is None else limit - (delay_seconds or 0)
        return {"entry": replace(entry, queue_timeout_seconds=shorter), "delay_seconds": delay_seconds}


class ExpiresWhatRuns(Sound):
    async def claim_expired(self, limit: int) -> list[Claim]:
        while True:
            for held in self._claims.values():
                if held.job.queue_timeout_seconds is not None:
                    return [held]
            await anyio.sleep(0.01)


class IgnoresContainers(Sound):
    async def claim(self, containers: Collection[str], limit: int) -> list[Claim]:
        return await super().claim({"echo", "reverse", *containers}, limit)


class LosesWhatIsCancelled(Sound):
    async def claim(self, containers: Collection[str], limit: int) -> list[Claim]:
        claims = await super().claim(containers, limit)
        await anyio.sleep(0.0005)
        return claims


class SettleOverwrites(Sound):
    async def settle(self, id: JobId, outcome: Outcome, *, client: str | None) -> Settlement | None:
        [job] = await self.table.get([id])
        finished = replace(job, status=JobStatus.RUNNING).finished(outcome, 1.0)
        await self.table.save(finished)
        return Settlement(finished, now=True)


class SettlesForAnybody(Sound):
    async def settle(self, id: JobId, outcome: Outcome, *, client: str | None) -> Settlement | None:
        return await super().settle(id, outcome, client=None)


class LeavesRunning(Sound):
    """The scope of a settled job is not cancelled."""

    async def _settle_now(self, id: JobId, outcome: Outcome) -> Job | None:
        if held := self._claims.get(id):
            held.scope = anyio.CancelScope()
        return await super()._settle_now(id, outcome)


class OffersStreams(Sound):
    async def add_claimed(self, job: Job) -> Claim:
        claim = await super().add_claimed(job)
        self._queue.put(Unfinished.of(job))
        return claim


class MiscountsClients(Sound):
    async def pending(self) -> Pending:
        return replace(await super().pending(), clients={})


class CountsForever(Sound):
    def _finish(self, id: JobId) -> None:
        entry = self._unfinished[id]
        super()._finish(id)
        self._counts.one(entry, +1)


class Silent(Sound):
    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[JobId | None]]:  # type: ignore[override]
        self._broadcast.publish = lambda id: None  # type: ignore[method-assign]
        async with super().changes() as changes:
            yield changes


class MissesQuietly(Sound):
    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[JobId | None]]:  # type: ignore[override]
        async def known(changes: AsyncIterator[JobId | None]) -> AsyncIterator[JobId]:
            async for id in changes:
                if id is not None:
                    yield id

        async with super().changes() as changes:
            yield (some := known(changes))
            await some.aclose()  # type: ignore[attr-defined]


class StopsAdding(Sound):
    """An add whose caller goes away is kept and not queued."""

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        kept = await self.table.add(jobs)
        await anyio.sleep(0.001)
        await self.table.delete(())
        for job in jobs:
            if self._is_new(job, job):
                self._track(entry := Unfinished.of(job))
                self._queue.put(entry)
        return kept


@pytest.mark.parametrize(
    ("store", "test"),
    [
        (ForgetsToAskForErrors, "test_find_by_error_finds_jobs_that_ended_with_it"),
        (AddsWithoutSteps, "test_add_keeps_the_steps_that_a_job_begins_with"),
        (AddsWithoutSteps, "test_a_job_that_begins_with_steps_is_claimed_with_them"),
        (CompletesTwice, "test_save_of_a_finished_job_ends_the_claim"),
        (CompletesTwice, "test_a_claim_ends_with_its_release"),
        (CompletesTwice, "test_settle_takes_the_claim_from_whoever_runs_the_job"),
        (ClaimsTwice, "test_a_claimed_job_is_not_offered_again"),
        (ClaimsTwice, "test_one_job_never_goes_to_two_claims"),
        (Reorders, "test_claim_gives_the_oldest_first"),
        (IgnoresPriority, "test_claim_gives_lower_priorities_first"),
        (StarvesAClient, "test_claim_goes_round_the_clients"),
        (StarvesAClient, "test_a_client_with_many_jobs_does_not_starve_another"),
        (IgnoresDelay, "test_a_job_released_with_a_delay_is_offered_then_and_not_before"),
        (IgnoresQueueTimeout, "test_a_job_that_waited_too_long_is_given_as_expired_then_and_not_before"),
        (IgnoresJobTimeout, "test_a_job_that_is_too_old_is_given_as_expired_even_while_it_is_delayed"),
        (CountsDelayAsWaiting, "test_a_delay_is_not_waiting_and_waiting_begins_anew_with_a_release"),
        (ExpiresWhatRuns, "test_a_claimed_job_does_not_expire"),
        (IgnoresContainers, "test_claim_gives_only_jobs_that_are_due_in_the_containers_asked_for"),
        (IgnoresContainers, "test_a_job_can_be_released_for_another_container"),
        (LosesWhatIsCancelled, "test_cancelling_claim_loses_nothing"),
        (SettleOverwrites, "test_settle_of_a_finished_job_changes_nothing"),
        (SettleOverwrites, "test_settle_takes_the_claim_from_whoever_runs_the_job"),
        (SettleOverwrites, "test_of_a_settlement_and_a_last_save_at_once_one_wins"),
        (SettlesForAnybody, "test_settle_does_not_touch_jobs_of_other_clients"),
        (LeavesRunning, "test_settle_takes_the_claim_from_whoever_runs_the_job"),
        (OffersStreams, "test_a_streaming_job_is_claimed_as_it_is_added"),
        (MiscountsClients, "test_pending_counts_by_origin_and_client"),
        (CountsForever, "test_pending_counts_a_job_from_its_acceptance_to_its_end"),
        (Silent, "test_changes_tells_of_every_change_from_now_on"),
        (Silent, "test_every_listener_hears_of_a_change"),
        (MissesQuietly, "test_a_slow_listener_sees_every_change_or_learns_that_it_missed_some"),
        (StopsAdding, "test_cancelling_add_leaves_no_job_behind_that_is_not_queued"),
    ],
)
def test_the_suite_of_stores_catches(store: type[Sound], test: str) -> None:
    with pytest.raises((AssertionError, TimeoutError, BaseExceptionGroup, pytest.fail.Exception)):
        run(Suite(), test, store())


@pytest.mark.parametrize("test", names_of_tests(JobStoreContract))
def test_the_suite_of_stores_passes_a_sound_one(test: str) -> None:
    run(Suite(), test, Sound())


# -- stores that do not survive --------------------------------------------------------------------

OF_PROCESSES = {
    "test_what_a_call_has_kept_survives_a_kill",
    "test_what_was_told_survives_kills_at_any_moment",
    "test_what_does_not_fit_on_the_disk_is_refused_as_a_whole",
}
"""Of which no table in memory comes back; tests/kit has stores with files."""


def reopened(table: Callable[[], JobTable]) -> Callable[[], JobStore]:
    return lambda: Sound(table())


class Locked(MemoryTable):
    """What a durable table does when it is opened twice."""

    async def __aenter__(self) -> "Locked":
        if getattr(self, "_open", False):
            raise StoreInUse("open already")
        self._open = True
        return self

    async def __aexit__(self, *error: object) -> None:
        self._open = False


class LosesSaves(Locked):
    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__()
        self._jobs = {id: replace(job, steps=()) for id, job in self._jobs.items()}


class LosesKeys(Locked):
    async def __aexit__(self, *error: object) -> None:
        await super().__aexit__()
        self._keys.clear()


class ForgetsStreams(Locked):
    async def unfinished(self) -> list[Unfinished]:
        return [replace(entry, streams=False) for entry in await super().unfinished()]


class ForgetsDelays(Locked):
    async def unfinished(self) -> list[Unfinished]:
        return [replace(entry, not_before=None) for entry in await super().unfinished()]


class RunsFinishedAgain(Locked, OffersFinished):
    pass


@pytest.mark.parametrize(
    ("table", "test"),
    [
        (MemoryTable, "test_added_jobs_survive"),
        (MemoryTable, "test_finished_jobs_survive_and_are_not_offered"),
        (MemoryTable, "test_released_jobs_survive"),
        (LosesSaves(), "test_jobs_that_were_being_run_are_offered_again_with_what_was_saved"),
        (LosesKeys(), "test_added_jobs_survive"),
        (ForgetsStreams(), "test_a_stream_that_was_cut_off_has_failed"),
        (ForgetsDelays(), "test_a_delay_survives"),
        (RunsFinishedAgain(), "test_finished_jobs_survive_and_are_not_offered"),
        (MemoryTable(), "test_only_one_node_at_a_time_holds_the_data"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
def test_the_suite_of_durable_stores_catches(table: Any, test: str) -> None:
    with pytest.raises((AssertionError, TimeoutError, ValueError, pytest.fail.Exception)):
        run(Suite(), test, reopened(table if callable(table) else lambda: table))


@pytest.mark.parametrize(
    "test",
    sorted({*names_of_tests(DurableJobStoreContract)} - {*names_of_tests(JobStoreContract)} - OF_PROCESSES),
)
def test_the_suite_of_durable_stores_passes_one_that_survives(test: str) -> None:
    table = Locked()
    run(Suite(), test, reopened(lambda: table))


# -- broken runners --------------------------------------------------------------------------------


class RunnerSuite(StreamingRunnerContract):
    timeout_seconds = 0.5
    prompt_seconds = 0.5
    buffered_bytes = 1 << 20
    opaque = False


class SoundRunner(FunctionRunner):
    def __init__(self) -> None:
        super().__init__()

        async def endless(data: Any) -> AsyncIterator[bytes]:
            while True:
                await anyio.lowlevel.checkpoint()
                yield b"x" * 10_000

        async def broken(data: Any) -> AsyncIterator[bytes]:
            yield b"half"
            raise ValueError("no more")

        for id, function in {"echo": echo, "endless": endless, "broken": broken}.items():
            self.add(Container(id=id), function)  # type: ignore[arg-type]


class ReadsAhead(SoundRunner):
    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[Any]:  # type: ignore[override]
        async with super().stream(step) as pieces, anyio.create_task_group() as tasks:
            sender, receiver = anyio.create_memory_object_stream[bytes](10_000_000)

            async def read() -> None:
                async with sender:
                    async for piece in pieces:
                        await sender.send(bytes(bytearray(piece)))

            tasks.start_soon(read)
            async with receiver:
                yield receiver
            tasks.cancel_scope.cancel()


class EndsQuietly(SoundRunner):
    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[Any]:  # type: ignore[override]
        async def quiet(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            with suppress(ContainerFailed):
                async for piece in pieces:
                    yield piece

        async with super().stream(step) as pieces, aclosing(quiet(pieces)) as quietly:  # type: ignore[type-var]
            yield quietly


class WaitsForTheEnd(SoundRunner):
    @asynccontextmanager
    async def stream(self, step: Step) -> AsyncIterator[Any]:  # type: ignore[override]
        async def whole(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            yield b"".join([piece async for piece in pieces])

        async with super().stream(step) as pieces, aclosing(whole(pieces)) as at_once:  # type: ignore[type-var]
            yield at_once


RUNNER_TESTS = (
    "test_a_container_that_fails_in_mid_stream_is_no_end",
    "test_no_more_is_read_than_is_asked_for",
    "test_pieces_come_before_the_end_and_leaving_gives_up_the_call_at_once",
)


def run_with_runner(test: str, runner: FunctionRunner) -> None:
    anyio.run(getattr(RunnerSuite(), test), runner)


@pytest.mark.parametrize(
    ("runner", "test"), [*zip((EndsQuietly, ReadsAhead, WaitsForTheEnd), RUNNER_TESTS, strict=True)]
)
def test_the_suite_of_runners_that_stream_catches(runner: type[SoundRunner], test: str) -> None:
    with pytest.raises((AssertionError, TimeoutError, BaseExceptionGroup, pytest.fail.Exception)):
        run_with_runner(test, runner())


@pytest.mark.parametrize("test", RUNNER_TESTS)
def test_the_suite_of_runners_that_stream_passes_a_sound_one(test: str) -> None:
    run_with_runner(test, SoundRunner())
