"""Views of changing jobs: wait for several to finish, or follow one step by step. Both are woken and never poll."""

from collections.abc import AsyncGenerator, Collection, Sequence

from nodekit.interfaces.store import JobStore
from nodekit.model.container import ClientId, JobId
from nodekit.model.job import Job
from nodekit.model.queries import JobFields
from nodekit.node.waiters import Waiters


async def all_finished(store: JobStore, waiters: Waiters, ids: Sequence[JobId], client: ClientId | None) -> None:
    """Return once all jobs among `ids` are finished."""

    async def look(ids: Collection[JobId]) -> dict[JobId, None]:
        jobs = await store.get([*ids], client=client, fields=JobFields.STATE)
        return {job.id: None for job in jobs if not job.status.finished}  # in order, unlike a set

    async with waiters.on(ids, finished_only=True) as waiter:
        unfinished = await look(ids)
        while unfinished:
            with waiter.waiting():  # one scope for all changes: one for each would cost more than the wait
                while unfinished and waiter.listens:
                    change = await waiter.next()
                    if change is None:
                        unfinished = await look(unfinished)
                    elif change.finished:
                        unfinished.pop(change.id, None)
            if unfinished:
                waiters.check()
                await waiter.listen_again()
                unfinished = await look(unfinished)


async def following(
    store: JobStore, waiters: Waiters, id: JobId, client: ClientId | None, fields: JobFields
) -> AsyncGenerator[Job, None]:
    """Yield the job as it is, and again after each change. No job is held in memory here in between."""
    async with waiters.on([id]) as waiter:
        while found := await store.get([id], client=client, fields=fields):
            last = found[0].status.finished
            yield found.pop()
            if last:
                return
            await waiter.changed()
