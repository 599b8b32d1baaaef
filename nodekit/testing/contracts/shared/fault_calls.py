"""Calls that are made, or wait, while the engine cannot be reached, and what has come of them afterwards."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

import anyio
import pytest
from msgspec.structs import replace

from nodekit import (
    UNFINISHED,
    Announcement,
    Change,
    Claim,
    ClaimLost,
    Job,
    JobId,
    JobQuery,
    Location,
    SharedStore,
    StoreFailed,
)
from nodekit.interfaces.store_abilities import StoringStore
from nodekit.testing.builders.jobs import SEQUENCE, make_job, succeeded, unnumbered, with_output
from nodekit.testing.contracts.bounds import within
from nodekit.testing.contracts.shared.base import POLL_SECONDS
from nodekit.testing.contracts.shared.fault_base import FAULTS, OF_ENGINES, Breaking, FaultBase
from nodekit.testing.contracts.stores.base import CANCELLED, CLIENTS

Calls = Mapping[str, Callable[[], Awaitable[object]]]

MOST_JOBS = 5000
"""Largest number of jobs that a test adds."""


class FaultCalls(FaultBase):
    """Tests of `EngineFaultContract` about calls during a fault."""

    # -- every call -------------------------------------------------------------------------------

    async def calls(self, store: SharedStore) -> Calls:
        """Return all calls that read or write, by name. Claims and jobs that they need are made now."""
        saved, released = [await self.claimed(store) for _ in range(2)]
        await store.add([settled := make_job("reverse")])
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "save": lambda: store.save(saved, with_output(saved.job, due="reverse")),
            "release": lambda: store.release(released, released.job, delay_seconds=self.few_leases),
            "settle": lambda: store.settle(settled.id, CANCELLED, client=None),
            "add": lambda: store.add([make_job("other")]),
            "add_claimed": lambda: store.add_claimed(make_job(destination=Location.STREAM)),
            "get": lambda: store.get([settled.id]),
            "find": lambda: store.find(JobQuery(limit=1)),
            "delete": lambda: store.delete([saved.job.id]),
            "expire": lambda: store.expire(finished_before=1.0, keep=None, limit=1),
            "pending": store.pending,
            "now": store.now,
            "nodes": store.nodes,
            "held": lambda: store.held([saved.job.id]),
            "queues": store.queues,
            "announce": lambda: store.announce(Announcement(name="a", incarnation="a")),
        }
        if hasattr(store, "storage"):
            records = cast(StoringStore, store).storage("suite")
            calls |= {
                "storage.get": lambda: records.get("key"),
                "storage.put": lambda: records.put("key", b"value"),
                "storage.scan": records.scan,
            }
        return calls

    async def _end_of(self, name: str, call: Callable[[], Awaitable[object]], ends: dict[str, object]) -> None:
        try:
            await call()
        except Exception as error:
            ends[name] = error
        else:
            ends[name] = None

    async def ends(self, calls: Calls) -> Mapping[str, object]:
        """Make all calls at once; return what each raised, or None, or that it did not end."""
        ends: dict[str, object] = dict.fromkeys(calls, "it did not end within a few leases")
        with anyio.move_on_after(self.few_leases):
            async with anyio.create_task_group() as tasks:
                for name, call in calls.items():
                    tasks.start_soon(self._end_of, name, call, ends)
        return ends

    @pytest.mark.parametrize("fault", FAULTS)
    async def test_every_call_during_a_fault_answers_or_raises_store_failed(
        self, far: SharedStore, breaking: Breaking, fault: str
    ) -> None:
        calls = await self.calls(far)
        async with breaking(fault):
            for _ in range(2):
                ends = await self.ends(calls)
                wrong = {name: end for name, end in ends.items() if not _is_right(name, end)}
                assert wrong == {}
        await self.works(far)

    @pytest.mark.parametrize("fault", FAULTS)
    async def test_a_store_works_again_after_a_fault_without_being_reopened(
        self, far: SharedStore, breaking: Breaking, fault: str
    ) -> None:
        for _ in range(2):
            async with breaking(fault):
                await self.lasts(fault, leases=0.2)
            await self.works(far)

    # -- waiting ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("fault", FAULTS)
    async def test_claims_that_wait_during_a_fault_get_what_is_added_after_it(
        self, near: SharedStore, far: SharedStore, breaking: Breaking, fault: str
    ) -> None:
        job, hasty = make_job(), self.hasty("nowhere")
        claims: list[Claim] = []

        async def wait(call: Callable[[], Awaitable[Sequence[Claim]]]) -> None:
            claims.extend(await self.answered(call))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, lambda: far.claim(["echo"], SEQUENCE, 1))
            tasks.start_soon(wait, lambda: far.claim_expired(1))
            await anyio.sleep(self.quiet_seconds)
            async with breaking(fault):
                await self.lasts(fault, leases=1.3)
            assert claims == []
            await self.answered_soon("add", lambda: near.add([job, hasty]))
            await self.comes("waiting calls of `claim` and `claim_expired` get the jobs", lambda: len(claims) == 2)
        assert {claim.job.id for claim in claims} == {job.id, hasty.id}

    @pytest.mark.parametrize("fault", FAULTS)
    async def test_a_listener_hears_of_what_changed_during_a_fault_or_that_it_missed_it(
        self, near: SharedStore, far: SharedStore, breaking: Breaking, fault: str
    ) -> None:
        first, second = make_job("reverse"), make_job("reverse")
        await near.add([first, second])
        heard = {"changes()": _Listener(far, None), "changes(ids)": _Listener(far, [first.id, second.id])}
        async with anyio.create_task_group() as tasks:
            for listener in heard.values():
                await tasks.start(listener.run)
            async with breaking(fault):
                if fault not in OF_ENGINES:
                    await near.settle(first.id, CANCELLED, client=None)
                await self.lasts(fault, leases=0.5)
            await self.answered_soon("settle", lambda: near.settle(first.id, CANCELLED, client=None))
            await self._learnt(heard, first.id, "during the fault")
            await self.works(far)
            await near.settle(second.id, CANCELLED, client=None)
            await self._learnt(heard, second.id, "after the fault")
            tasks.cancel_scope.cancel()

    async def _learnt(self, heard: Mapping[str, "_Listener"], id: JobId, when: str) -> None:
        """Wait until each listener knows that the job has ended, and had reason to look."""
        for name, listener in heard.items():
            what = f"`{name}` yields None, or the end of a job {when}"
            await self.comes(what, partial(listener.ended.__contains__, id))

    # -- what has come of writes ------------------------------------------------------------------

    @pytest.mark.parametrize("fault", FAULTS)
    async def test_jobs_are_added_once_wholly_or_not_at_all(
        self, near: SharedStore, far: SharedStore, breaking: Breaking, fault: str
    ) -> None:
        added: list[Job] = []
        over = anyio.Event()

        async def add(client: str) -> None:
            while not over.is_set():
                batch = [make_job(client=client) for _ in range(3)]
                added.extend(batch)
                await self._added(near, far, batch)
                await anyio.sleep(POLL_SECONDS)

        with within(2 * self.few_leases, "`add` succeeds once the fault is over"):
            async with anyio.create_task_group() as tasks:
                for client in CLIENTS:
                    tasks.start_soon(add, client)
                for _ in range(_times(fault)):
                    await anyio.sleep(self.quiet_seconds)
                    async with breaking(fault):
                        await self.lasts(fault, leases=0.3)
                over.set()
        ids = sorted(job.id for job in added)
        assert await near.find(JobQuery(limit=MOST_JOBS)) == ids
        assert [claim.job.id for claim in await self.all_claimed(near, *added)] == ids
        assert await self.nothing_to_claim(near)

    async def _added(self, near: SharedStore, far: SharedStore, batch: Sequence[Job]) -> None:
        """Add jobs, again and again while that fails. Meanwhile they are there wholly or not at all."""
        while True:
            try:
                assert await far.add(batch) == batch
                break
            except StoreFailed:
                there = await self.answered(lambda: near.get([job.id for job in batch]))
                assert there in ([], batch), "a part of the jobs was added"
                await anyio.sleep(POLL_SECONDS)
        assert await self.answered(lambda: near.get([job.id for job in batch])) == batch

    @pytest.mark.parametrize("fault", FAULTS)
    async def test_a_save_is_kept_once_it_was_answered_and_each_job_ends_once(
        self, near: SharedStore, far: SharedStore, breaking: Breaking, fault: str
    ) -> None:
        claims = [await self.claimed(far) for _ in range(5)]
        ends, over = _Ends(), anyio.Event()
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._finish_taken_over, near, ends)
            beside.start_soon(self._watch_ends, near, [claim.job.id for claim in claims], ends)
            with within(2 * self.few_leases, "`save` is answered, or raises `ClaimLost`, once the fault is over"):
                async with anyio.create_task_group() as tasks:
                    for claim in claims:
                        tasks.start_soon(self._save_until, over, near, far, claim, ends)
                    for _ in range(_times(fault)):
                        await anyio.sleep(self.quiet_seconds)
                        async with breaking(fault):
                            await self.lasts(fault, leases=0.3)
                    over.set()
            await self.eventually(partial(near.find, JobQuery(status=UNFINISHED, limit=10)), [])
            await anyio.sleep(self.lease_seconds / 2)
            beside.cancel_scope.cancel()
        for claim in claims:
            ends.check(await self.stored(near, claim.job.id))

    async def _save_until(
        self, over: anyio.Event, near: SharedStore, far: SharedStore, claim: Claim, ends: "_Ends"
    ) -> None:
        """Save step after step, and at last the end. Once a call was answered, the other store has the step, too."""
        try:
            while not over.is_set():
                saved = with_output(claim.job, {"step": len(claim.job.steps)}, due="echo")
                await self.answered(partial(far.save, claim, saved))
                assert claim.job == saved
                [seen] = await self.answered(partial(near.get, [saved.id]))
                outline = replace(seen, steps=seen.steps[: len(saved.steps)]).without_earlier_outputs()
                assert outline.steps == saved.without_earlier_outputs().steps, "a step that was saved is lost"
                await anyio.sleep(self.quiet_seconds / 2)
            ends.tried[claim.job.id] = end = succeeded(claim.job)
            await self.answered(partial(far.save, claim, end))
            ends.answered.append(claim.job)
        except ClaimLost:
            pass  # the other store finishes the job

    async def _finish_taken_over(self, store: SharedStore, ends: "_Ends") -> None:
        """Finish the jobs that are taken over."""
        while True:
            for claim in await self.answered(lambda: store.claim(["echo"], SEQUENCE, 5)):
                with suppress(ClaimLost):
                    await self.answered(partial(store.save, claim, succeeded(claim.job)))
                    ends.answered.append(claim.job)

    async def _watch_ends(self, store: SharedStore, ids: Sequence[JobId], ends: "_Ends") -> None:
        while True:
            for job in await self.answered(lambda: store.get(ids)):
                if job.status.finished:
                    assert ends.seen.setdefault(job.id, job) == job, "the end of a job has changed"
            await anyio.sleep(POLL_SECONDS)


class _Ends:
    """The ends of jobs: those that a store has answered for, those that were tried, and those that were seen."""

    def __init__(self) -> None:
        self.answered: list[Job] = []
        self.tried: dict[JobId, Job] = {}
        self.seen: dict[JobId, Job] = {}

    def check(self, job: Job) -> None:
        """Assert that the job ended as it was saved, and once."""
        answered = [end.without_earlier_outputs() for end in self.answered if end.id == job.id]
        assert job.status.finished
        assert self.seen.get(job.id, job) == job, "the end of a job has changed"
        job = job.without_earlier_outputs()
        if answered:
            assert answered == [job], "a job has ended twice"
        else:
            tried = self.tried[job.id].without_earlier_outputs() if job.id in self.tried else None
            assert unnumbered(job) == tried, "a job has ended, and nobody has saved it so"


class _Listener:
    """A client that waits for ends of jobs: it looks at them only when a change, or None, tells it to."""

    def __init__(self, store: SharedStore, ids: Sequence[JobId] | None) -> None:
        self._store, self._ids = store, ids
        self.ended: set[JobId] = set()

    async def run(self, *, task_status: Any) -> None:
        """Listen until cancelled. Subscribe again, and look, if the subscription fails."""
        while True:
            try:
                async with self._store.changes(self._ids) as changes:
                    await self._look()
                    task_status.started()
                    task_status = anyio.TASK_STATUS_IGNORED
                    async for change in changes:
                        await self._take(change)
            except StoreFailed:
                pass
            await anyio.sleep(POLL_SECONDS)

    async def _take(self, change: Change | None) -> None:
        if change is None:
            await self._look()
        elif change.finished:
            self.ended.add(change.id)

    async def _look(self) -> None:
        jobs = await self._store.get(await self._store.find(JobQuery(limit=10)))
        self.ended |= {job.id for job in jobs if job.status.finished}


def _times(fault: str) -> int:
    """Return how often a test has a fault: more often if its effect depends on the moment."""
    return 3 if fault in ("dropped", "lost_answers") else 1


def _is_right(name: str, end: object) -> bool:
    return end is None or isinstance(end, StoreFailed) or (name in ("save", "release") and isinstance(end, ClaimLost))
