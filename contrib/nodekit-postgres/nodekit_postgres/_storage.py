"""Records of plugins."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from nodekit import Record, VersionConflict, Write, check_key, check_place, check_writes
from nodekit_postgres._rows import octets, text

Ask = Callable[[str, Sequence[Any]], Awaitable[list[tuple[Any, ...]]]]


class Records:
    """The records of one namespace (`PluginStorage`)."""

    def __init__(self, namespace: str, read: Ask, write: Ask) -> None:
        self._namespace, self._read, self._write = octets(namespace), read, write

    async def get(self, key: str) -> Record | None:
        check_key(key)
        query = "SELECT value, version FROM nodekit.plugin_records WHERE namespace = %s AND key = %s"
        for value, version in await self._read(query, [self._namespace, octets(key)]):
            return Record(key, value, version)
        return None

    async def put(self, key: str, value: bytes, *, expect: int | None = None) -> int:
        [version] = await self._change([Write(key, value, expect)])
        return version

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        check_key(key)
        [existed] = await self._change([Write(key, None, expect)])
        return bool(existed)

    async def scan(self, prefix: str = "", *, after: str | None = None, limit: int = 1000) -> list[Record]:
        check_place(prefix, after, limit)
        first = octets(prefix)
        beyond = first[:-1] + bytes([first[-1] + 1]) if first else None  # UTF-8 has no byte 255
        query = """
            SELECT key, value, version FROM nodekit.plugin_records
            WHERE namespace = %s AND key >= %s AND key > %s AND (%s::bytea IS NULL OR key < %s)
            ORDER BY key LIMIT %s
        """
        rows = await self._read(query, [self._namespace, first, octets(after or ""), beyond, beyond, limit])
        return [Record(text(key), value, version) for key, value, version in rows]

    async def batch(self, writes: Sequence[Write]) -> list[int]:
        versions = await self._change(writes)
        return [0 if write.value is None else version for write, version in zip(writes, versions, strict=True)]

    async def _change(self, writes: Sequence[Write]) -> list[int]:
        check_writes(writes)
        if not writes:
            return []
        query = "SELECT nodekit.write_records(%s, %s::bytea[], %s::boolean[], %b::bytea[], %s::bigint[])"
        keys, deletes = [octets(write.key) for write in writes], [write.value is None for write in writes]
        values, expected = [write.value or b"" for write in writes], [write.expect for write in writes]
        [(versions,)] = await self._write(query, [self._namespace, keys, deletes, values, expected])
        if versions[0] < 0:
            write = writes[-int(versions[0]) - 1]
            raise VersionConflict(write.key, expected=write.expect or 0, found=versions[1])
        return list(versions)
