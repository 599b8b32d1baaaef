"""Records of plugins in the file of the jobs."""

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile

from nodekit import Record, StoreFailed, VersionConflict, Write, check_key, check_place, check_writes
from nodekit_sqlite._beside import Beside
from nodekit_sqlite._damage import CURE
from nodekit_sqlite._readers import Readers
from nodekit_sqlite._sums import plugin_sum
from nodekit_sqlite._thread import Writer

NAMESPACES = "SELECT DISTINCT namespace FROM plugin_records ORDER BY namespace"
_GET = "SELECT key, value, version, sum FROM plugin_records WHERE namespace = ? AND key = ?"
_SCAN = """
    SELECT key, value, version, sum FROM plugin_records
    WHERE namespace = ? AND key >= ? AND key > ? ORDER BY key LIMIT ?
"""
_DELETE = "DELETE FROM plugin_records WHERE namespace = ? AND key = ?"
_PUT = "INSERT INTO plugin_records (namespace, key, value, sum) VALUES (?, ?, ?, ?)"


class SqliteStorage:
    """A `PluginStorage`. The version of a record is the number of its row, which is never used twice."""

    def __init__(
        self, namespace: str, writer: Writer, readers: Readers | Beside, begin: Callable[[], Awaitable[None]]
    ) -> None:
        """`begin` is called before each change."""
        self._namespace, self._begin = namespace, begin
        self._writer, self._readers = writer, readers

    async def get(self, key: str) -> Record | None:
        check_key(key)
        rows = await self._readers.call(lambda c: c.execute(_GET, (self._namespace, key)).fetchall())
        return self._record(*rows[0]) if rows else None

    async def put(self, key: str, value: bytes, *, expect: int | None = None) -> int:
        return (await self.batch([Write(key, value, expect)]))[0]

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        write = Write(key, None, expect)
        check_writes([write])
        return (await self._written([write]))[0][1]

    async def scan(self, prefix: str = "", *, after: str | None = None, limit: int = 1000) -> list[Record]:
        values = self._namespace, prefix, after or "", limit
        check_place(prefix, after, limit)

        def read(connection: sqlite3.Connection) -> list[Record]:
            rows = takewhile(lambda row: row[0].startswith(prefix), connection.execute(_SCAN, values))
            return [self._record(*row) for row in rows]

        return await self._readers.call(read)

    async def batch(self, writes: Sequence[Write]) -> list[int]:
        check_writes(writes)
        return [version for version, _ in await self._written(writes)]

    def _record(self, key: str, value: bytes, version: int, sum: int) -> Record:
        """Return a record. Raise `StoreFailed` if it is damaged: nobody knows what a plugin would make of it."""
        try:
            if plugin_sum(self._namespace, key, value) == sum:
                return Record(key, value, version)
        except TypeError:  # damage changes the types of columns, too
            pass
        raise StoreFailed(f"the record {key!r} of {self._namespace!r} is damaged in the store; {CURE}")

    async def _written(self, writes: Sequence[Write]) -> list[tuple[int, bool]]:
        """Return for each change the new version and whether there was a record before."""
        await self._begin()
        done = await self._writer.call(lambda c: self._write(c, writes))
        if isinstance(done, VersionConflict):
            raise done
        return done

    def _write(
        self, connection: sqlite3.Connection, writes: Sequence[Write]
    ) -> list[tuple[int, bool]] | VersionConflict:
        """Return a conflict instead of raising it: nothing was written, and other writers share the transaction."""
        for write in writes:
            if write.expect is not None:
                rows = connection.execute(_GET, (self._namespace, write.key)).fetchall()
                if (found := rows[0][2] if rows else 0) != write.expect:
                    return VersionConflict(write.key, expected=write.expect, found=found)
        done: list[tuple[int, bool]] = []
        for write in writes:
            existed = connection.execute(_DELETE, (self._namespace, write.key)).rowcount > 0
            version = 0
            if write.value is not None:
                sum = plugin_sum(self._namespace, write.key, write.value)
                version = connection.execute(_PUT, (self._namespace, write.key, write.value, sum)).lastrowid or 0
            done.append((version, existed))
        return done
