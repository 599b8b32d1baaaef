"""Tables that break a promise each. `tests/kit/test_caught.py` runs the suite on them."""

from collections.abc import AsyncIterator, Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import pytest
from msgspec.structs import replace

from nodekit import ContainerError, Job, JobFields, JobId, JobQuery, JobStatus, Page, Unfinished
from nodekit.testing import JobTableContract
from nodekit_memory import MemoryTable


class Sound(MemoryTable):
    """A table in memory."""


class LosesTheOther(Sound):
    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        await super().add(jobs[:1])
        return list(jobs)


class AddsTwice(Sound):
    def _known_id(self, job: Job) -> JobId:
        return job.id


class Overwrites(Sound):
    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return [self._insert(job) for job in jobs]


class Unsorted(Sound):
    async def get(self, ids: Sequence[JobId], **asked: Any) -> list[Job]:
        return await super().get(sorted(ids), **asked)


class ReadsNoLastStep(Sound):
    async def get(self, ids: Sequence[JobId], *, fields: JobFields = JobFields.ALL, **asked: Any) -> list[Job]:
        jobs = await super().get(ids, **asked)
        return [job if JobFields.STEPS in fields else replace(job, steps=()) for job in jobs]


class ShowsOtherClients(Sound):
    async def get(self, ids: Sequence[JobId], **asked: Any) -> list[Job]:
        return await super().get(ids, **asked | {"client": None})


class FindsOtherClients(Sound):
    async def find(self, query: JobQuery) -> list[JobId]:
        return await super().find(replace(query, client=None))


class HasOneOrder(Sound):
    async def find(self, query: JobQuery) -> list[JobId]:
        return await super().find(JobQuery(client=query.client, limit=query.limit))


class KeepsOneLess(Sound):
    async def last_surplus(self, keep: int) -> int | None:
        return await super().last_surplus(keep - 1)


class IgnoresStatus(Sound):
    async def find(self, query: JobQuery) -> list[JobId]:
        return await super().find(replace(query, status=None))


class NeedsTheCursor(Sound):
    async def find(self, query: JobQuery) -> list[JobId]:
        return [] if query.after and query.after not in self._jobs else await super().find(query)


class AddsNoSteps(Sound):
    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        return await super().add([replace(job, steps=()) for job in jobs])


class FindsErrorsOfSteps(Sound):
    async def find(self, query: JobQuery) -> list[JobId]:
        container, error = query.container, query.error
        found = await self.get(await super().find(replace(query, container=None, error=None)))
        results = {job.id: [*job.results, *([job.error] if job.error else [])] for job in found}
        errors = {id: [one for one in some if isinstance(one, ContainerError)] for id, some in results.items()}
        return [
            id
            for id, some in errors.items()
            if (container is None and error is None)
            or any(container in (None, one.container) and (error or "") in one.error for one in some)
        ]


class FindsErrorsBy(Sound):
    """Compares differently: `matches` gets an error, and the container and text that are searched."""

    matches: Callable[[ContainerError, str, str], bool]

    async def find(self, query: JobQuery) -> list[JobId]:
        container, error = query.container, query.error
        found = await self.get(await super().find(replace(query, container=None, error=None)))
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


class MeasuresDataOnly(Sound):
    async def sizes(self, ids: Sequence[JobId]) -> dict[JobId, int]:
        return {job.id: len(memoryview(job.request.data)) for job in await self.get(ids)}


class DeletesWhatIsShared(Sound):
    async def delete(self, ids: Sequence[JobId]) -> int:
        for job in self._jobs.values():
            if job.retry_of in ids:
                self._jobs[job.id] = replace(job, steps=())
        return await super().delete(ids)


class SharesUnseen(Sound):
    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        def shared(job: Job) -> Job:
            old = self._jobs.get(job.retry_of or "")
            return job if old is None else replace(job, request=replace(job.request, data=old.request.data))

        return await super().add([shared(job) for job in jobs])


class EndsWithAShortPage(Sound):
    async def page(self, query: JobQuery) -> Page:
        page = await super().page(query)
        return Page(page.ids[:1], None)


class DeletesUnfinished(Sound):
    async def delete(self, ids: Sequence[JobId]) -> int:
        for job in await self.get(ids):
            await self.save(replace(job, status=JobStatus.FAILED))
        return await super().delete(ids)


class DropsOpenSteps(Sound):
    async def save(self, job: Job) -> None:
        await super().save(replace(job, steps=tuple(step for step in job.steps if step.result is not None)))


class SavesNothing(Sound):
    async def save(self, job: Job) -> None:
        pass


class ForgetsWhatIsDue(Sound):
    async def unfinished(self) -> list[Unfinished]:
        return [replace(entry, due="") for entry in await super().unfinished()]


class OffersFinished(Sound):
    async def unfinished(self) -> list[Unfinished]:
        return [Unfinished.of(job) for job in self._jobs.values()]


class Suite(JobTableContract):
    subject: type[Sound]

    @pytest.fixture
    async def table(self) -> AsyncIterator[Sound]:
        async with self.subject() as table:
            yield table


HURRIED = {"timeout_seconds": 0.5}
