"""The records of work in the node's store. A change names the version that it expects, so two nodes never both win."""

from collections.abc import AsyncIterator, Sequence

import msgspec

from nodekit import PluginStorage, Record, VersionConflict, Write
from nodekit_chain.work.records import Work

MOST_DATA_BYTES = 256 * 1024
"""Largest data of a delegated subscription. A record of a store has at most 1 MiB."""

_WORK, _OPEN = "work/", "open/"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Work).decode


class Entry(msgspec.Struct, frozen=True):
    """A stored record and its version."""

    work: Work
    version: int


async def scanned(storage: PluginStorage, prefix: str, limit: int = 1000) -> AsyncIterator[Record]:
    """Yield all records whose keys begin with `prefix`, in order, read in pages of `limit`."""
    place: str | None = None
    while True:
        page = await storage.scan(prefix, after=place, limit=limit)
        for record in page:
            yield record
        if len(page) < limit:
            return
        place = page[-1].key


class Ledger:
    """The records of work of one node or cluster: `storage` is the plugin's namespace in its store."""

    def __init__(self, storage: PluginStorage) -> None:
        self._storage = storage

    async def create(self, work: Work) -> Entry | None:
        """Keep a new record. Return None if there is a record under its key already."""
        changes = [Write(f"{_WORK}{work.key}", _encode(work), 0), Write(f"{_OPEN}{work.key}", b"")]
        try:
            versions = await self._storage.batch(changes)
        except VersionConflict:
            return None
        return Entry(work, versions[0])

    async def change(self, entry: Entry, work: Work, writes: Sequence[Write] = ()) -> Entry:
        """Keep the next state of a record, and `writes` with it, all or none.

        Raise `VersionConflict` if another node has changed the record, or a condition of `writes` does not hold.
        """
        changes = [Write(f"{_WORK}{work.key}", _encode(work), entry.version)]
        if work.final != entry.work.final:
            changes.append(Write(f"{_OPEN}{work.key}", None if work.final else b""))
        versions = await self._storage.batch([*changes, *writes])
        return Entry(work, versions[0])

    async def drop(self, entry: Entry) -> None:
        """Delete a record. Raise `VersionConflict` if another node has changed it."""
        key = entry.work.key
        await self._storage.batch([Write(f"{_WORK}{key}", None, entry.version), Write(f"{_OPEN}{key}", None)])

    async def get(self, key: str) -> Entry | None:
        """Return the record under a key."""
        record = await self._storage.get(f"{_WORK}{key}")
        return None if record is None else Entry(_decode(record.value), record.version)

    async def open_keys(self, prefix: str = "") -> list[str]:
        """Return the keys, beginning with `prefix`, of the records that are not final."""
        return [record.key.removeprefix(_OPEN) async for record in scanned(self._storage, f"{_OPEN}{prefix}")]

    async def all(self, prefix: str = "") -> AsyncIterator[Entry]:
        """Yield the records whose keys begin with `prefix`, in order."""
        async for record in scanned(self._storage, f"{_WORK}{prefix}", limit=100):
            yield Entry(_decode(record.value), record.version)

    async def forget(self, finished_before: float) -> int:
        """Delete final records that have not changed since a time, in Unix seconds. Return their number."""
        number = 0
        async for entry in self.all():
            if entry.work.final and entry.work.changed_at < finished_before:
                number += await self._storage.delete(f"{_WORK}{entry.work.key}", expect=entry.version)
        return number
