"""All that a table keeps, opened while no node works on it."""

from collections.abc import Sequence
from typing import Any

from nodekit.embedded.table_view import TableView
from nodekit.errors import StoreFailed
from nodekit.interfaces.store import JobTable
from nodekit.model.job import Job


class TableArchive(TableView):
    """A `JobArchive` of a table, which it owns as long as it is entered.

    Abilities beyond those of every `JobTable` are used if the table has them: `restore`, `storage`, `namespaces`,
    `last_finish_number` and `keep_finish_number`.
    """

    def __init__(self, table: JobTable) -> None:
        super().__init__(table)
        self._able: Any = table

    async def restore(self, jobs: Sequence[Job]) -> None:
        """Store jobs as they are. Raise `StoreFailed` if another one has the place of one of them."""
        kept = await getattr(self._table, "restore", self._table.add)(jobs)
        for asked, job in zip(jobs, kept, strict=True):
            if job != asked:
                text = f"job {asked.id} cannot be stored: a job with the id {job.id}"
                raise StoreFailed(f"{text} has its place, or its idempotency key")

    async def namespaces(self) -> Sequence[str] | None:
        if not hasattr(self._table, "storage"):
            return None
        if not hasattr(self._table, "namespaces"):
            raise StoreFailed("this kind of store cannot say which plugins keep records in it (it has no `namespaces`)")
        found: Sequence[str] = await self._able.namespaces()
        return found

    async def last_finish_number(self) -> int:
        if hasattr(self._table, "last_finish_number"):
            number: int = await self._able.last_finish_number()
            return number
        return await self._table.last_surplus(0) or 0

    async def keep_finish_number(self, number: int) -> None:
        if hasattr(self._table, "keep_finish_number"):
            await self._able.keep_finish_number(number)
