"""Records of plugins, in memory."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile

from nodekit import Record, VersionConflict, Write, check_key, check_place, check_writes


class MemoryStorage:
    """A `PluginStorage`. `versions` are shared by all namespaces of a table."""

    def __init__(self, versions: Iterator[int]) -> None:
        self._versions = versions
        self._records: dict[str, Record] = {}
        self._keys: list[str] = []
        """Sorted keys of the records."""

    async def get(self, key: str) -> Record | None:
        check_key(key)
        return self._records.get(key)

    async def put(self, key: str, value: bytes, *, expect: int | None = None) -> int:
        return (await self.batch([Write(key, value, expect)]))[0]

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        existed = key in self._records
        await self.batch([Write(key, None, expect)])
        return existed

    async def scan(self, prefix: str = "", *, after: str | None = None, limit: int = 1000) -> list[Record]:
        check_place(prefix, after, limit)
        first = bisect_left(self._keys, prefix)
        if after is not None:
            first = max(first, bisect_right(self._keys, after))
        keys = takewhile(lambda key: key.startswith(prefix), islice(self._keys, first, None))
        return [self._records[key] for key in islice(keys, limit)]

    async def batch(self, writes: Sequence[Write]) -> list[int]:
        check_writes(writes)
        for write in writes:
            found = self._records[write.key].version if write.key in self._records else 0
            if write.expect not in (None, found):
                raise VersionConflict(write.key, expected=write.expect, found=found)
        return [self._change(write) for write in writes]

    def _change(self, write: Write) -> int:
        if write.value is None:
            if self._records.pop(write.key, None) is not None:
                del self._keys[bisect_left(self._keys, write.key)]
            return 0
        if write.key not in self._records:
            insort(self._keys, write.key)
        self._records[write.key] = Record(write.key, write.value, next(self._versions))
        return self._records[write.key].version
