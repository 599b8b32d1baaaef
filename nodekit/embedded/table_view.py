"""A view of a table beside the node that owns it."""

from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Self

from nodekit.embedded.retention import Expiry
from nodekit.errors import StoreFailed
from nodekit.interfaces.storage import PluginStorage
from nodekit.interfaces.store import JobTable
from nodekit.model.clock import SystemClock
from nodekit.model.container import ClientId, JobId
from nodekit.model.job import Job
from nodekit.model.queries import JobFields, JobQuery


class TableView:
    """A `JobView` of a table that owns nothing: another one, of a running node, may be open on the same data."""

    def __init__(self, table: JobTable) -> None:
        self._table, self._expiry = table, Expiry(table, SystemClock().time)

    async def __aenter__(self) -> Self:
        await self._table.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._table.__aexit__(kind, error, trace)

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        return await self._table.get(ids, client=client, fields=fields)

    async def find(self, query: JobQuery) -> list[JobId]:
        return await self._table.find(query)

    async def sizes(self, ids: Sequence[JobId]) -> Mapping[JobId, int]:
        return await self._table.sizes(ids)

    @property
    def damaged(self) -> Collection[JobId]:
        """The jobs that were returned as failed because they are damaged, if the table knows them."""
        damages: Collection[JobId] = getattr(self._table, "damaged", ())
        return damages

    async def delete(self, ids: Sequence[JobId]) -> int:
        self._expiry.forget()
        return await self._table.delete(ids)

    async def expire(self, *, finished_before: float | None, keep: int | None, limit: int) -> int:
        return await self._expiry.expire(finished_before=finished_before, keep=keep, limit=limit)

    def storage(self, namespace: str) -> PluginStorage:
        """Return the records of a plugin (`StoringView`). Raise `StoreFailed` if the table keeps none."""
        if (storage := getattr(self._table, "storage", None)) is None:
            raise StoreFailed("this kind of store keeps no records of plugins")
        records: PluginStorage = storage(namespace)
        return records
