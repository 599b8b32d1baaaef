"""Abilities that a store may have beside those of every `JobStore`. Each is a Protocol of its own."""

from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Protocol

import msgspec

from nodekit.interfaces.storage import PluginStorage
from nodekit.interfaces.store import JobStore
from nodekit.model.container import ClientId, GroupId, JobId
from nodekit.model.job import Job
from nodekit.model.queries import JobFields, JobQuery, Page


class JobView(Protocol):
    """The jobs of a store, opened beside the nodes that work on it: to read them, and to delete finished ones.

    Its methods are those of `JobStore`, with one difference: in the order ``finished``, a job that is being written may
    still come up before others. The view owns nothing, and its calls are short.
    """

    async def __aenter__(self) -> "JobView": ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]: ...

    async def find(self, query: JobQuery) -> list[JobId]: ...

    async def delete(self, ids: Sequence[JobId]) -> int: ...

    async def expire(self, *, finished_before: float | None, keep: int | None, limit: int) -> int: ...


class ViewedStore(JobStore, Protocol):
    """A store that commands such as `nodekit prune` can use while its node runs, and while none does."""

    def view(self) -> JobView:
        """Return a view of the jobs. The store itself need not be entered.

        Entering the view raises `StoreFailed` if there is nothing to open.
        """
        ...


class CompactingStore(JobStore, Protocol):
    """A store whose files keep the space of deleted jobs, until they are compacted."""

    async def compact(self) -> int:
        """Give that space back to the file system; return the number of bytes. The store must not be entered.

        Raise `StoreInUse` while a node works on it, and `StoreFailed`.
        """
        ...


class StoringStore(JobStore, Protocol):
    """A store that keeps records of plugins, too."""

    def storage(self, namespace: str) -> PluginStorage:
        """Return the records of a namespace, which can be used while the store is entered.

        It may be called at any time.
        """
        ...


class PagingStore(JobStore, Protocol):
    """A store that answers long searches page by page."""

    async def page(self, query: JobQuery) -> Page:
        """Return the ids of the first `query.limit` jobs that match the query, in its order, or of fewer of them.

        A page ends early rather than let others wait: the store looks at a limited number of jobs for each.
        """
        ...


class CheckedStore(JobStore, Protocol):
    """A store in which reads wait for each other, except one that only shows that it works."""

    async def check(self) -> None:
        """Read something small. Raise `StoreFailed` if that fails. It never waits behind other reads."""
        ...


class DiskStore(JobStore, Protocol):
    """A store on a disk. It knows how much it keeps for whom, and says when the disk is almost full."""

    async def stored_bytes(self, groups: Collection[GroupId]) -> Mapping[GroupId, int]:
        """Return the number of bytes that are kept for each of these groups, finished jobs included.

        Payloads that a retry shares with the old job count once. The numbers are kept, not computed: cheap enough for
        every request.
        """
        ...

    def full(self) -> str:
        """Return why the store should get no new jobs, such as too little space on its disk. Empty if it may get some.

        Jobs that it has may go on: that is why it says so early.
        """
        ...


class DiskSpace(msgspec.Struct, frozen=True):
    """The space of a store on its disk.

    - `used_bytes`: Bytes of the store's files. Space of deleted jobs, which it will use again, is among them.
    - `free_bytes`: Free bytes of the file system that has them.
    """

    used_bytes: int
    free_bytes: int


class SizedStore(JobStore, Protocol):
    """A store that knows the size of its files, and how much further ones may grow."""

    async def disk(self) -> DiskSpace:
        """Look at the disk. Raise `StoreFailed` if that fails."""
        ...


class EndingStore(JobStore, Protocol):
    """A store that ends jobs by itself, such as streams that an earlier run left unfinished, and reports them."""

    async def ended(self) -> Sequence[Job]:
        """Wait for at least one job that the store ended without a call of `save` or `settle`.

        Each such job is returned once. The node emits its end to its observers. Cancelling the call loses no job.
        """
        ...
