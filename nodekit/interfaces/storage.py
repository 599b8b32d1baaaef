"""Interface of the small durable records that plugins keep in the node's store."""

from collections.abc import Sequence
from typing import Protocol, cast

import msgspec

from nodekit.errors import InvalidRecord

MAX_VALUE_BYTES = 1 << 20
MAX_KEY_BYTES = 512
MAX_WRITES = 1000
MAX_SCAN = 10_000


class Record(msgspec.Struct, frozen=True):
    """A value that a plugin keeps under a key.

    - `version`: Number of this value. It rises from write to write, and no key has the same version twice.
    """

    key: str
    value: bytes
    version: int


class Write(msgspec.Struct, frozen=True):
    """One change of a batch.

    - `value`: New value of at most 1 MiB. None deletes the record.
    - `expect`: Version that the record must have; 0: there must be no record; None: no condition.
    """

    key: str
    value: bytes | None
    expect: int | None = None

    def check(self) -> None:
        """Raise `InvalidRecord` if a store cannot keep this."""
        check_key(self.key)
        value = cast(object, self.value)
        if value is not None and not isinstance(value, bytes):
            raise InvalidRecord(f"the value of {self.key!r} is no bytes; encode it")
        if self.value is not None and len(self.value) > MAX_VALUE_BYTES:
            text = f"the value of {self.key!r} has {len(self.value)} bytes, more than {MAX_VALUE_BYTES}"
            raise InvalidRecord(f"{text}; keep it elsewhere and its place here")


class PluginStorage(Protocol):
    """The records of one namespace. They are as durable as the jobs of the store.

    Methods raise `StoreFailed` if they could not write or read, and `InvalidRecord` for keys and values that no store
    keeps. Keys are texts of 1 to 512 bytes in UTF-8, sorted by code points.
    """

    async def get(self, key: str) -> Record | None:
        """Return the record under a key, or None."""
        ...

    async def put(self, key: str, value: bytes, *, expect: int | None = None) -> int:
        """Keep a value under a key; return its version. It is durable once the call returns.

        Raise `VersionConflict` if the record does not have the version `expect`; 0 means that there must be no record.
        """
        ...

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        """Delete a record; return False if there was none. Raise `VersionConflict` as `put` does."""
        ...

    async def scan(self, prefix: str = "", *, after: str | None = None, limit: int = 1000) -> list[Record]:
        """Return the first `limit` records whose keys begin with `prefix` and come behind the key `after`, in order.

        The key of the last record is the `after` of the next page. There need not be a record under it any more.
        """
        ...

    async def batch(self, writes: Sequence[Write]) -> list[int]:
        """Make up to 1,000 changes, all or none. Return the version of each new value, and 0 for each deletion.

        All conditions are checked before the first change is made. Raise `VersionConflict` for the first that does not
        hold, and `InvalidRecord` for more than one change of a key.
        """
        ...


class KeepsRecords(Protocol):
    """A plugin that keeps records in the store of its node: ``node.storage(self.storage_namespace)``.

    A node is not composed if its store keeps no records, or if two of its plugins have the same namespace. A namespace
    has at most 64 lower-case letters, digits and ``_.-``, and begins with a letter or digit.
    """

    @property
    def storage_namespace(self) -> str: ...


def check_key(key: str) -> None:
    """Raise `InvalidRecord` for a key that no store keeps."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidRecord(f"the key {key!r} is not valid Unicode") from error
    if not 1 <= size <= MAX_KEY_BYTES:
        raise InvalidRecord(f"the key {key[:50]!r} has {size} bytes; expected 1 to {MAX_KEY_BYTES}")


def check_place(prefix: str, after: str | None, limit: int) -> None:
    """Raise `InvalidRecord` for a prefix or a place of `PluginStorage.scan` that no key has, and for a wrong limit."""
    if not 1 <= limit <= MAX_SCAN:
        raise InvalidRecord(f"limit: expected a number from 1 to {MAX_SCAN}, got {limit}")
    for key in (prefix, after or ""):
        if key:
            check_key(key)


def check_writes(writes: Sequence[Write]) -> None:
    """Raise `InvalidRecord` for a batch that no store accepts."""
    if len(writes) > MAX_WRITES:
        raise InvalidRecord(f"{len(writes)} changes are more than the {MAX_WRITES} of one batch")
    for write in writes:
        write.check()
    if len({write.key for write in writes}) < len(writes):
        raise InvalidRecord("a batch changes a key twice; leave out the earlier change")
