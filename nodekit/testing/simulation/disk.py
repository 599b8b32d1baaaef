"""A disk of the simulated world: a table of jobs whose calls take time, and whose writes may be refused."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio

from nodekit import ClientId, Job, JobFields, JobId, JobQuery, JobTable, StoreFailed, Unfinished

if TYPE_CHECKING:
    from nodekit.testing.simulation.world import Machine

LONGEST_WRITE_SECONDS = 0.01


class Disk:
    """A `JobTable` on the disk of a machine. `table` is what is on it, and survives every process.

    A write takes some time before and after the moment in which it happens: a process that is killed in between does
    not know which it was. While `machine.disk["read-only"]` is true, writes raise `StoreFailed`.
    """

    def __init__(self, table: JobTable, machine: "Machine") -> None:
        self._table, self._machine, self._draw = table, machine, machine.random.random

    async def __aenter__(self) -> "Disk":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def _pass(self) -> None:
        await anyio.sleep(self._draw() ** 2 * LONGEST_WRITE_SECONDS)

    async def _before_write(self) -> None:
        await self._pass()
        if self._machine.disk.get("read-only"):
            raise StoreFailed("the disk is read-only")

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        await self._before_write()
        kept = await self._table.add(jobs)
        await self._pass()
        return kept

    async def save(self, job: Job) -> None:
        await self._before_write()
        await self._table.save(job)
        await self._pass()

    async def delete(self, ids: Sequence[JobId]) -> int:
        await self._before_write()
        return await self._table.delete(ids)

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        await self._pass()
        return await self._table.get(ids, client=client, fields=fields)

    async def find(self, query: JobQuery) -> list[JobId]:
        await self._pass()
        return await self._table.find(query)

    async def sizes(self, ids: Sequence[JobId]) -> Mapping[JobId, int]:
        await self._pass()
        return await self._table.sizes(ids)

    async def last_surplus(self, keep: int) -> int | None:
        return await self._table.last_surplus(keep)

    async def unfinished(self) -> Sequence[Unfinished]:
        return await self._table.unfinished()

    def storage(self, namespace: str) -> Any:
        """Return the records of a plugin."""
        table: Any = self._table
        return table.storage(namespace)
