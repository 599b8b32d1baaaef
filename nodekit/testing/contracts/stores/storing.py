"""Promises of stores that keep records of plugins."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from nodekit import InvalidRecord, JobStore, PluginStorage, Record, VersionConflict, Write
from nodekit.testing.contracts.stores.base import StoreBase

_KEYS = (
    "a",
    "a b",
    "a/1",
    "a/1/x",
    "a/10",
    "a/2",
    "a%",
    "a_",
    "a\x00",
    "A",
    "b",
    "é",
    "e\u0301",
    "\U0001f600",
    "\uffff",
)
"""Keys that are alike as patterns, without case or up to a zero byte, and two that UTF-16 orders the other way."""
_MOST_BYTES = 1 << 20


def storage_of(store: JobStore, namespace: str = "plugin") -> PluginStorage:
    """Return the records of a namespace. Skip the test if the store keeps none."""
    if (storage := getattr(store, "storage", None)) is None:
        pytest.skip("this store keeps no records of plugins")
    records: PluginStorage = storage(namespace)
    return records


class Storing(StoreBase):
    """Tests of stores about the records of plugins."""

    async def test_a_record_is_what_was_put_last(self, store: JobStore) -> None:
        records = storage_of(store)
        assert await records.get("k") is None
        first = await records.put("k", b"one")
        assert await records.get("k") == Record("k", b"one", first)
        second = await records.put("k", b"")
        assert second > first > 0
        assert await records.get("k") == Record("k", b"", second)
        assert await records.delete("k") is True
        assert await records.delete("k") is False
        assert await records.get("k") is None
        assert await records.put("k", b"one") > second, "a version is never used again"

    async def test_a_change_with_a_condition_is_made_on_that_version_only(self, store: JobStore) -> None:
        records = storage_of(store)
        first = await records.put("k", b"one", expect=0)
        changes: Sequence[Callable[[], Awaitable[object]]] = (
            lambda: records.put("k", b"two", expect=0),
            lambda: records.put("k", b"two", expect=first + 1),
            lambda: records.delete("k", expect=0),
            lambda: records.delete("other", expect=first),
            lambda: records.put("other", b"", expect=first),
        )
        for change in changes:
            with pytest.raises(VersionConflict) as raised:
                await change()
            assert raised.value.found == (first if raised.value.key == "k" else 0)
        assert await records.scan() == [Record("k", b"one", first)]
        second = await records.put("k", b"two", expect=first)
        with pytest.raises(VersionConflict):
            await records.delete("k", expect=first)
        assert await records.delete("k", expect=second) is True
        assert await records.delete("k", expect=0) is False

    async def test_of_changes_on_one_version_at_the_same_time_one_is_made(self, store: JobStore) -> None:
        records = storage_of(store)
        await records.put("counter", b"0")
        conflicts = 0

        async def count() -> None:
            nonlocal conflicts
            while True:
                record = await records.get("counter")
                assert record is not None
                await anyio.lowlevel.checkpoint()
                try:
                    await records.put("counter", b"%d" % (int(record.value) + 1), expect=record.version)
                except VersionConflict:
                    conflicts += 1
                else:
                    return

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(count)
        record = await records.get("counter")
        assert record is not None
        assert record.value == b"20", f"changes were lost, with {conflicts} conflicts"

    async def test_a_scan_goes_through_the_keys_of_a_prefix_in_order(self, store: JobStore) -> None:
        records = storage_of(store)
        for key in _KEYS[::-1]:
            await records.put(key, key.encode())
        for prefix in ("", "a", "a/", "a/1", "A", "e", "é", "\U0001f600", "none", "a%", "a_"):
            expected = sorted(key for key in _KEYS if key.startswith(prefix))
            assert [record.key for record in await records.scan(prefix)] == expected, repr(prefix)
            assert [record.key for record in await records.scan(prefix, limit=2)] == expected[:2]
            pages, after = list[str](), None
            while page := await records.scan(prefix, after=after, limit=2):
                assert all(record.value == record.key.encode() for record in page)
                pages += [record.key for record in page]
                after = page[-1].key
                await records.delete(after)
                await records.put(after, after.encode())
                assert len(pages) <= len(expected)
            assert pages == expected, repr(prefix)
        assert [record.key for record in await records.scan("a/", after="a")] == ["a/1", "a/1/x", "a/10", "a/2"]
        assert await records.scan("a/", after="b") == []

    async def test_a_batch_is_made_as_a_whole_or_not_at_all(self, store: JobStore) -> None:
        records = storage_of(store)
        old = await records.put("old", b"1")
        assert await records.batch([]) == []
        zero, new, again = await records.batch([Write("old", None, old), Write("new", b"2", 0), Write("any", b"3")])
        assert (zero, await records.get("old")) == (0, None)
        expected = [Record("any", b"3", again), Record("new", b"2", new)]
        assert await records.scan() == expected
        for wrong in (Write("old", b"", 1), Write("new", None, 0), Write("any", b"", again + 1)):
            with pytest.raises(VersionConflict) as raised:
                await records.batch([Write("first", b"1"), wrong, Write("last", b"1")])
            assert raised.value.key == wrong.key
            assert await records.scan() == expected

    async def test_namespaces_share_nothing(self, store: JobStore) -> None:
        one, other = storage_of(store, "one"), storage_of(store, "other")
        version = await one.put("k", b"1")
        assert await other.scan() == []
        await other.put("k", b"2", expect=0)
        assert await other.delete("k") is True
        assert await one.get("k") == Record("k", b"1", version)
        assert await storage_of(store, "one").scan() == [Record("k", b"1", version)]

    async def test_what_no_store_keeps_is_refused(self, store: JobStore) -> None:
        records = storage_of(store)
        wrong: list[tuple[str, Any]] = [
            ("", b""),
            ("\ud800", b""),
            ("x" * 513, b""),
            ("é" * 257, b""),
            ("k", b"x" * (_MOST_BYTES + 1)),
            ("k", "a text"),
        ]
        for key, value in wrong:
            with pytest.raises(InvalidRecord):
                await records.put(key, value)
            with pytest.raises(InvalidRecord):
                await records.batch([Write("good", b""), Write(key, value)])
        for prefix, after in (("\ud800", None), ("x" * 513, None), ("", "\ud800")):
            with pytest.raises(InvalidRecord):
                await records.scan(prefix, after=after)
        for limit in (0, -1, 10_001):
            with pytest.raises(InvalidRecord):
                await records.scan(limit=limit)
        for batch in ([Write("k", b"1"), Write("k", b"2")], [Write(str(number), b"") for number in range(1001)]):
            with pytest.raises(InvalidRecord):
                await records.batch(batch)
        assert await records.scan() == []
        await records.put("x" * 512, b"x" * _MOST_BYTES)
        await records.batch([Write(str(number), b"") for number in range(1000)])
        assert len(await records.scan(limit=2000)) == 1001
