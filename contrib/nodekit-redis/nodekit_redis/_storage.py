"""Records of plugins."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from nodekit import Record, VersionConflict, Write, check_key, check_place, check_writes
from nodekit_redis._rows import quoted

_AT_ONCE = 50
"""Number of records that are read by one script."""


class Records:
    """The records of one namespace (`PluginStorage`)."""

    def __init__(
        self,
        namespace: str,
        run: Callable[[str, Sequence[Any]], Awaitable[Any]],
        read: Callable[..., Awaitable[Any]],
        key: Callable[[str], str],
    ) -> None:
        self._namespace, self._run, self._read = quoted(namespace), run, read
        self._key = key(f"records:{self._namespace}")

    async def get(self, key: str) -> Record | None:
        check_key(key)
        value = await self._read("HGET", self._key, key)
        return None if value is None else _record(key.encode(), value)

    async def put(self, key: str, value: bytes, *, expect: int | None = None) -> int:
        [version] = await self._change([Write(key, value, expect)])
        return version

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        check_key(key)
        [existed] = await self._change([Write(key, None, expect)])
        return bool(existed)

    async def scan(self, prefix: str = "", *, after: str | None = None, limit: int = 1000) -> list[Record]:
        check_place(prefix, after, limit)
        raw = prefix.encode()
        first, last = (b"[" + raw, b"[" + raw + b"\xff") if raw else (b"-", b"+")
        if after and after.encode() >= raw:
            first = b"(" + after.encode()
        found: list[Record] = []
        while len(found) < limit:
            number = min(_AT_ONCE, limit - len(found))
            answer = await self._run("scan", [self._namespace, first, last, number])
            found += [_record(key, value) for key, value in zip(answer[::2], answer[1::2], strict=True)]
            if len(answer) < 2 * number:
                break
            first = b"(" + answer[-2]
        return found

    async def batch(self, writes: Sequence[Write]) -> list[int]:
        versions = await self._change(writes)
        return [0 if write.value is None else version for write, version in zip(writes, versions, strict=True)]

    async def _change(self, writes: Sequence[Write]) -> list[int]:
        check_writes(writes)
        if not writes:
            return []
        arguments: list[Any] = [self._namespace]
        for write in writes:
            expected = "" if write.expect is None else write.expect
            arguments += [write.key, "delete" if write.value is None else "put", write.value or b"", expected]
        done, *answer = await self._run("records", arguments)
        if not done:
            write = writes[int(answer[0])]
            raise VersionConflict(write.key, expected=write.expect or 0, found=int(answer[1]))
        return [int(version) for version in answer]


def _record(key: bytes, value: bytes) -> Record:
    version, _, content = value.partition(b" ")
    return Record(key.decode(), content, int(version))
