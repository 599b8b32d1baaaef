"""Promises of a store that outlives the process, also when processes are killed and disks are full."""

import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from random import Random, SystemRandom
from typing import Any

import anyio
import msgspec
import pytest
from msgspec.structs import replace

from nodekit import (
    ContainerError,
    Job,
    JobQuery,
    JobStatus,
    JobStore,
    Location,
    Outcome,
    Record,
    Settlement,
    StoreInUse,
)
from nodekit.testing.builders.jobs import make_job, succeeded, unnumbered, with_output
from nodekit.testing.contracts.stores.filling import full_disk, is_refused, is_there, too_much
from nodekit.testing.contracts.stores.killing import Report, reported_until_killed
from nodekit.testing.contracts.stores.lives import Found, Life, Memory, look
from nodekit.testing.contracts.stores.store import JobStoreContract
from nodekit.testing.contracts.stores.storing import storage_of
from nodekit.testing.leaks.descriptors import descriptors
from nodekit.testing.leaks.detectors import no_leaks

KILL_SEED = "NODEKIT_KILL_SEED"
"""Environment variable that takes precedence over `kill_seed`."""


class DurableJobStoreContract(JobStoreContract):
    """Suite of a store that outlives the process. Define the fixture `open_store`.

    The fixture gives a function. The function returns a store that is not entered yet, always on the same data.
    """

    exclusive: bool = True
    """True if only one node at a time may hold the data."""
    kill_seconds: float = 60.0
    """Time limit for about fifty calls of a process that will be killed; stops a process that hangs."""
    kills: int = 6
    """Number of kills of a process that works on the same data, on each event loop. More kills find rarer errors."""
    kill_jobs: int = 500
    """Number of jobs that the store holds then. More jobs slow down a store that rewrites all of them at each
    change."""
    kill_seed: int | None = 1
    """Seed of the random moments, which differ between event loops. None: a new seed for each run. The environment
    variable ``NODEKIT_KILL_SEED`` takes precedence."""

    @pytest.fixture
    def open_store(self) -> Callable[[], JobStore]:
        raise NotImplementedError("define a fixture `open_store`: a function that gives a store on the same data")

    @pytest.fixture
    async def store(self, open_store: Callable[[], JobStore]) -> AsyncIterator[JobStore]:
        async with open_store() as store:
            yield store

    async def test_added_jobs_survive(self, open_store: Callable[[], JobStore]) -> None:
        jobs = [make_job(client="alice", idempotency_key="k"), make_job(client="bob", priority=0)]
        async with open_store() as store:
            await store.add(jobs)
        async with open_store() as store:
            assert await store.get([job.id for job in jobs]) == jobs
            assert await store.find(JobQuery(limit=10)) == [job.id for job in jobs]
            assert await store.add([make_job(idempotency_key="k")]) == [jobs[0]]
            assert await self.counts(store) == (2, 0, {"alice": 1, "bob": 1})
            assert [claim.job for claim in await self.claims(store, 2)] == jobs[::-1]
            assert await self.nothing_to_claim(store)

    async def test_jobs_that_were_being_run_are_offered_again_with_what_was_saved(
        self, open_store: Callable[[], JobStore]
    ) -> None:
        async with open_store() as store:
            untouched = await self.claimed(store)
            begun = await self.claimed(store)
            await store.save(begun, job := with_output(begun.job, {"a": 1}, due="reverse"))
        async with open_store() as store:
            [claim] = await self.claims(store, 1, containers=["reverse"])
            assert claim.job == job
            [claim] = await self.claims(store, 1)
            assert claim.job == untouched.job

    async def test_what_finishes_after_a_restart_comes_behind_what_finished_before(
        self, open_store: Callable[[], JobStore]
    ) -> None:
        query = JobQuery(order="finished", limit=10)
        async with open_store() as store:
            jobs = await store.add([make_job() for _ in range(4)])
            for job in (jobs[1], jobs[0]):
                await self.finish(store, job)
        async with open_store() as store:
            assert await store.find(query) == [jobs[1].id, jobs[0].id]
            [last] = await store.get([jobs[0].id])
            await self.finish(store, jobs[3])
            await self.finish(store, jobs[2])
            assert await store.find(replace(query, after=query.cursor(last))) == [jobs[3].id, jobs[2].id]

    async def test_records_of_plugins_survive_and_their_versions_rise(self, open_store: Callable[[], JobStore]) -> None:
        async with open_store() as store:
            records = storage_of(store)
            kept = await records.put("kept", b"1")
            last = await records.put("gone", b"2")
            await records.delete("gone")
        async with open_store() as store:
            records = storage_of(store)
            assert await records.scan() == [Record("kept", b"1", kept)]
            assert await records.put("gone", b"3") > last

    async def test_finished_jobs_survive_and_are_not_offered(self, open_store: Callable[[], JobStore]) -> None:
        async with open_store() as store:
            claim = await self.claimed(store)
            await store.save(claim, done := succeeded(claim.job))
            assert unnumbered(claim.job) == done
            await store.add([queued := make_job()])
            settlement = await store.settle(queued.id, Outcome(JobStatus.CANCELLED), client=None)
            assert settlement is not None
        async with open_store() as store:
            assert await store.get([done.id, queued.id]) == [claim.job, settlement.job]
            assert await self.nothing_to_claim(store)
            assert await self.counts(store) == (0, 0, {})
            again = await store.settle(done.id, Outcome(JobStatus.CANCELLED), client=None)
            assert again == Settlement(claim.job, now=False)

    async def test_released_jobs_survive(self, open_store: Callable[[], JobStore]) -> None:
        async with open_store() as store:
            claim = await self.claimed(store)
            await store.release(claim, released := with_output(claim.job, due="reverse"))
        async with open_store() as store:
            [claim] = await self.claims(store, 1, containers=["reverse"])
            assert claim.job == released

    async def test_a_delay_survives(self, open_store: Callable[[], JobStore]) -> None:
        async with open_store() as store:
            claim = await self.claimed(store)
            await store.release(claim, claim.job, delay_seconds=1000)
        async with open_store() as store:
            assert await self.nothing_to_claim(store)
            assert await self.counts(store) == (1, 0, {"alice": 1})

    async def test_time_limits_survive(self, open_store: Callable[[], JobStore]) -> None:
        waits, ages = self.hasty(), replace(make_job(), timeout_seconds=self.short)
        async with open_store() as store:
            await store.add([waits, make_job(), ages])
        async with open_store() as store:
            assert await self.nothing_expires(store)
            assert sorted(await self.expired(store, 2)) == [waits.id, ages.id]
            assert await self.nothing_expires(store)

    async def test_a_delay_that_survives_is_not_lengthened_by_a_clock_that_was_set_back(
        self, open_store: Callable[[], JobStore]
    ) -> None:
        async with open_store() as store:
            claim = await self.claimed(store)
            await store.release(claim, claim.job, delay_seconds=self.short)
        now = time.time
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda: now() - 86_400)
            async with open_store() as store:
                [again] = await self.claims(store, 1)
        assert again.job.id == claim.job.id

    async def test_deleted_jobs_stay_deleted(self, open_store: Callable[[], JobStore]) -> None:
        async with open_store() as store:
            claim = await self.claimed(store, make_job(idempotency_key="k"))
            await store.save(claim, succeeded(claim.job))
            await store.delete([claim.job.id])
        async with open_store() as store:
            assert await store.find(JobQuery(limit=10)) == []
            new = make_job(idempotency_key="k")
            assert await store.add([new]) == [new]

    async def test_a_stream_that_was_cut_off_has_failed(self, open_store: Callable[[], JobStore]) -> None:
        async with open_store() as store:
            claim = await store.add_claimed(make_job(destination=Location.STREAM))
        async with open_store() as store:
            [job] = await store.get([claim.job.id])
            assert job.status is JobStatus.FAILED
            assert isinstance(job.result, ContainerError)
            assert job.result.kind == "interrupted"
            assert await self.nothing_to_claim(store)
            assert await self.counts(store) == (0, 0, {})

    async def test_only_one_node_at_a_time_holds_the_data(self, open_store: Callable[[], JobStore]) -> None:
        if not self.exclusive:
            pytest.skip("this store is shared")
        async with open_store() as store:
            await store.add([job := make_job()])
            with pytest.raises(StoreInUse) as raised:
                async with open_store():
                    pass
            assert str(raised.value)
            assert await store.get([job.id]) == [job]
        async with open_store() as store:
            assert await store.get([job.id]) == [job]

    async def test_a_store_that_was_left_leaves_nothing_open(self, open_store: Callable[[], JobStore]) -> None:
        async with no_leaks():
            for _ in range(2):
                async with open_store() as store:
                    claim = await self.claimed(store)
                    await store.save(claim, succeeded(claim.job))

    # -- killed processes -------------------------------------------------------------------------

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
    @pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
    def test_what_a_call_has_kept_survives_a_kill(
        self,
        open_store: Callable[[], JobStore],
        anyio_backend_name: str,
        anyio_backend_options: dict[str, Any],
        busy: bool,
    ) -> None:
        """Another process uses the store until it is killed. The results of all calls that returned are kept
        unchanged."""
        run = partial(anyio.run, backend=anyio_backend_name, backend_options=anyio_backend_options)

        def live(report: Report) -> None:
            run(self._use_until_killed, open_store, report, busy)

        reported = reported_until_killed(live, lines=_SCRIPTED + 25 * busy, seconds=self.kill_seconds)
        expected = {job.id: job for job in (msgspec.json.decode(line, type=Job) for line in reported)}
        kept: Sequence[Job] = run(self._kept_after, open_store, list(expected))
        lost = [job for job in expected.values() if job not in kept]
        assert not lost, (
            f"{len(lost)} of {len(expected)} jobs are not there as they were kept before the process was killed; one "
            f"that was {lost[0].status} is {[job.status for job in kept if job.id == lost[0].id] or 'not there'}"
        )

    async def _use_until_killed(self, open_store: Callable[[], JobStore], report: Report, busy: bool) -> None:
        def report_job(job: Job) -> None:
            report(msgspec.json.encode(job))

        async with open_store() as store:
            for number in range(5):
                claim = await self.claimed(store, make_job("echo", "reverse", data={"number": number}))
                report_job(claim.job)
                await store.save(claim, going_on := with_output(claim.job, {"number": number}, due="reverse"))
                report_job(going_on)
                await store.save(claim, succeeded(going_on))
                report_job(claim.job)
            await store.add([queued := make_job()])
            settlement = await store.settle(queued.id, Outcome(JobStatus.CANCELLED), client=None)
            assert settlement is not None
            report_job(settlement.job)
            claim = await self.claimed(store)
            await store.release(claim, released := with_output(claim.job, due="reverse"))
            report_job(released)
            while busy:
                for job in await store.add([make_job(data={"text": "x" * 1000})]):
                    report_job(job)
            await anyio.sleep(self.kill_seconds)

    async def _kept_after(self, open_store: Callable[[], JobStore], ids: Sequence[str]) -> Sequence[Job]:
        with anyio.fail_after(self.kill_seconds):
            async with open_store() as store:
                return await store.get(ids)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
    def test_what_was_reported_survives_kills_at_any_moment(
        self,
        open_store: Callable[[], JobStore],
        anyio_backend_name: str,
        anyio_backend_options: dict[str, Any],
    ) -> None:
        """Processes use the store, leave it, open it again and are killed, one after the other. Nothing that a call has
        reported is lost, nothing is kept in part, and deleted jobs stay deleted."""
        run = partial(anyio.run, backend=anyio_backend_name, backend_options=anyio_backend_options)
        chosen = os.environ.get(KILL_SEED) or self.kill_seed
        seed = SystemRandom().getrandbits(32) if chosen is None else int(chosen)
        chance, memory = Random(f"{seed} {anyio_backend_name}"), Memory()

        def begin(report: Report) -> None:
            run(Life(open_store, report, chance).begin, self.kill_jobs)

        for line in reported_until_killed(begin, lines=2, seconds=self.kill_seconds):
            memory.hear(line)
        for kill in range(1, self.kills + 1):
            try:
                self._die_and_look(open_store, run, Random(chance.random()), memory, idle=kill % 2 == 1)
            except AssertionError as error:
                raise AssertionError(
                    f"after kill {kill} of {self.kills} ({KILL_SEED}={seed} makes the same choices): {error}"
                ) from error

    def _die_and_look(
        self,
        open_store: Callable[[], JobStore],
        run: Callable[..., Any],
        chance: Random,
        memory: Memory,
        *,
        idle: bool,
    ) -> None:
        """Kill a process, look at the store in a second process, kill that one as well, and compare.

        The first process is killed in the middle of its work. With `idle`, it does nothing more before the kill, so
        that no later call repairs what an earlier call has left undone.
        """

        def live(report: Report) -> None:
            run(Life(open_store, report, chance, stops_after=moment if idle else None).live)

        def look_again(report: Report) -> None:
            run(self._look, open_store, report, memory, leaves)

        leaves = chance.random() < 0.5
        moment = chance.randrange(1, 80)
        later = 0.0 if idle else 0.05 * chance.random() ** 2
        for line in reported_until_killed(live, lines=moment, seconds=self.kill_seconds, later_seconds=later):
            memory.hear(line)
        found = msgspec.json.decode(
            reported_until_killed(look_again, lines=1, seconds=self.kill_seconds)[0], type=Found
        )
        if misses := list(memory.misses(found)):
            raise AssertionError(f"of {len(memory.ids)} jobs {len(misses)} are wrong: {'; '.join(misses[:3])}")

    async def _look(self, open_store: Callable[[], JobStore], report: Report, memory: Memory, leaves: bool) -> None:
        async with open_store() as store:
            found = await look(store, memory.ids)
            if not leaves:
                report(msgspec.json.encode(found))
                await anyio.sleep(self.kill_seconds)
        report(msgspec.json.encode(found))
        await anyio.sleep(self.kill_seconds)

    # -- full disks -------------------------------------------------------------------------------

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
    def test_what_does_not_fit_on_the_disk_is_refused_as_a_whole(
        self,
        open_store: Callable[[], JobStore],
        anyio_backend_name: str,
        anyio_backend_options: dict[str, Any],
    ) -> None:
        """Run in another process whose files can no longer grow. `add` raises `StoreFailed` and leaves nothing behind.
        The store works again as soon as there is room."""
        run = partial(anyio.run, backend=anyio_backend_name, backend_options=anyio_backend_options)

        def live(report: Report) -> None:
            run(self._fill, open_store, report)

        if reported_until_killed(live, lines=1, seconds=self.kill_seconds)[0] != _REFUSED:
            pytest.skip("all was kept though no file could grow: this store writes no files, or has room in them")

    async def _fill(self, open_store: Callable[[], JobStore], report: Report) -> None:
        """Fill the disk. Kept jobs are due in another container than refused ones, so a claim would show a refused
        job."""
        kept, refused = [make_job("reverse")], too_much()
        before = descriptors()
        async with open_store() as store:
            await store.add(kept)
            with full_disk(descriptors() - before):
                if not await is_refused(store, refused):
                    report(_KEPT)
                    await anyio.sleep(self.kill_seconds)
                await is_there(store, kept, refused)
                assert await self.nothing_to_claim(store), "`claim` gives a job that was refused"
            kept.append(make_job("reverse"))
            await store.add(kept[1:])
            await is_there(store, kept, refused)
        async with open_store() as store:
            await is_there(store, kept, refused)
            assert await self.nothing_to_claim(store), "`claim` gives a job that was refused"
            assert await store.add(refused) == refused
        report(_REFUSED)
        await anyio.sleep(self.kill_seconds)


_KEPT, _REFUSED = b"kept", b"refused"
_SCRIPTED = 17
"""Number of lines that the process sends before it only adds jobs (busy) or does nothing (idle)."""
