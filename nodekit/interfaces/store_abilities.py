"""Abilities that a store may have beside those of every `JobStore`. Each is a Protocol of its own."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
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

    async def sizes(self, ids: Sequence[JobId]) -> Mapping[JobId, int]: ...

    async def delete(self, ids: Sequence[JobId]) -> int: ...

    async def expire(self, *, finished_before: float | None, keep: int | None, limit: int) -> int: ...


class DamagedJobsView(JobView, Protocol):
    """A view that knows which of the jobs that it has returned are damaged: they seem to have failed."""

    @property
    def damaged(self) -> Collection[JobId]: ...


class StoringView(JobView, Protocol):
    """A view that has the records of plugins, too: to read and to change them."""

    def storage(self, namespace: str) -> PluginStorage:
        """Return the records of a namespace. Raise `StoreFailed` if the store keeps none."""
        ...


class JobArchive(JobView, Protocol):
    """All that a store keeps, opened while no node works on it: to copy it to another store."""

    async def __aenter__(self) -> "JobArchive": ...

    async def restore(self, jobs: Sequence[Job]) -> None:
        """Store jobs of another store as they are, all or none, with their ends and finish numbers.

        They are whole, and durable once the call returns. An earlier job comes before its retries. Raise `StoreFailed`
        if a job with the same id or the same idempotency key is there already.
        """
        ...

    async def namespaces(self) -> Sequence[str] | None:
        """Return the namespaces that have records of plugins. None: the store keeps no such records."""
        ...

    def storage(self, namespace: str) -> PluginStorage:
        """Return the records of a namespace. Raise `StoreFailed` if the store keeps none."""
        ...

    async def last_finish_number(self) -> int:
        """Return the highest finish number that a job ever had, as far as the store knows it."""
        ...

    async def keep_finish_number(self, number: int) -> None:
        """Give higher finish numbers than this one, also if that job was deleted. A store may rely on its clock."""
        ...


class ArchivedStore(JobStore, Protocol):
    """A store whose content can be copied to another store, while no node works on either."""

    def archive(self, *, create: bool = False) -> JobArchive:
        """Return all that the store keeps. The store itself must not be entered.

        Entering the archive raises `StoreInUse` while a node works on the store. Without `create`, `StoreFailed` is
        raised, here or there, if there is nothing yet.
        """
        ...


class StoreCheck(msgspec.Struct, frozen=True):
    """The result of reading all that a store keeps.

    - `jobs`: Number of jobs that were read, damaged ones included.
    - `problems`: Texts for operators, each of which names what is damaged. Not more than some thousand.
    - `more`: Number of further problems.
    - `cure`: What to do about them, in the imperative.
    """

    jobs: int
    problems: Sequence[str] = ()
    more: int = 0
    cure: str = ""


class VerifyingStore(JobStore, Protocol):
    """A store that can find out whether all that it keeps is as it was written."""

    async def verify(self) -> StoreCheck:
        """Read everything. It writes nothing, and a node may work on the store meanwhile. Do not enter the store.

        Raise `StoreFailed` if there is nothing to read.
        """
        ...


class BackupStore(JobStore, Protocol):
    """A store that can be copied into one file."""

    async def backup(self, target: Path, *, replace: bool = False, even_damaged: bool = False) -> int:
        """Write all that the store keeps into a new file, as it is at one moment; return the size of that file.

        A node may work on the store meanwhile, and is not held up. The copy has been checked, and is on the disk, when
        it gets its name. Raise `StoreFailed` otherwise: then there is no such file, or the one that was to be replaced
        is as it was.
        """
        ...


class DescribingStore(JobStore, Protocol):
    """A store that knows facts about its place, for operators."""

    async def facts(self) -> Mapping[str, str | int]:
        """Return facts by name, such as sizes in bytes (``…_bytes``). A node may work on the store meanwhile.

        The store need not be entered. `nodekit store stats` shows them and, for a shared store, `nodekit cluster`.
        """
        ...


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


class MigratingStore(JobStore, Protocol):
    """A store with tables that have versions. An operator may create or upgrade them before a node starts."""

    async def migrate(self) -> str:
        """Create or upgrade the tables, completely or not at all; return a line that says what was done.

        Nodes may work on the store meanwhile. Raise `StoreFailed` if it cannot be done.
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
