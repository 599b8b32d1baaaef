"""The keys in the store of a node: one set for all nodes on it.

Each is a record of JSON under its name. A further record changes with each of them, so that a node that follows them
reads one record to learn that nothing is new.
"""

import logging
from collections.abc import Mapping, Sequence

import msgspec

from nodekit import Node, NodekitError, PluginStorage, Record, StoreFailed, VersionConflict, Write, printable
from nodekit_apikeys._key import Key
from nodekit_apikeys._keyring import Keyring

logger = logging.getLogger("nodekit.apikeys")

NAMESPACE = "apikeys"
KEYS, USED, CHANGED = "key/", "used/", "changed"
"""Beginnings of the keys of records: a key by name, a last use by id, and the record that changes with each key."""
PAGE = 200
"""Records that are read and decoded in one go. Decoding holds the loop, and others have their turn in between."""
WRITES = 500
NO_KEYS = "there are no keys in the store; make one: nodekit keys create FILE --name NAME"

_key: msgspec.json.Decoder[Key] = msgspec.json.Decoder(Key)
_time: msgspec.json.Decoder[float] = msgspec.json.Decoder(float)


class KeyRecordProblem(NodekitError):
    """The keys in a store cannot be read or changed. The message holds the cure."""


class KeptKey(msgspec.Struct, frozen=True):
    """A key, and the version of its record."""

    key: Key
    version: int


async def revision(records: PluginStorage) -> int:
    """Return a number that rises with each change of a key; 0 if there has been none."""
    record = await records.get(CHANGED)
    return 0 if record is None else record.version


async def read_keys(records: PluginStorage) -> dict[str, KeptKey]:
    """Return all keys by name. Raise `KeyRecordProblem` for a record that is no key."""
    return {kept.key.name: kept for kept in [_kept(record) for record in await _all(records, KEYS)]}


async def made_keys(records: PluginStorage) -> Sequence[Key] | None:
    """Return all keys, or None if nobody has made one yet. Raise `KeyRecordProblem`."""
    return [kept.key for kept in (await read_keys(records)).values()] if await revision(records) else None


async def read_used(records: PluginStorage) -> dict[str, float]:
    """Return the time of the last use by id, in Unix seconds."""
    times: dict[str, float] = {}
    for record in await _all(records, USED):
        try:
            times[record.key.removeprefix(USED)] = _time.decode(record.value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # it harms nobody
    return times


async def change_keys(
    records: PluginStorage, before: Mapping[str, KeptKey], after: Mapping[str, Key]
) -> Mapping[str, KeptKey]:
    """Write the keys that differ, all or none; return them all. Raise `KeyRecordProblem` if one changed meanwhile."""
    writes, kept = list[Write](), dict(before)
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is not None and (new is None or new.id != old.key.id):
            writes.append(Write(USED + old.key.id, None))
        if new is None or old is None or new != old.key:
            value = None if new is None else msgspec.json.encode(new)
            writes.append(Write(KEYS + name, value, 0 if old is None else old.version))
    try:
        versions = await records.batch([*writes, Write(CHANGED, b"")])
    except VersionConflict as error:
        text = f"the key {error.key.removeprefix(KEYS)!r} is being changed by another command; try again"
        raise KeyRecordProblem(text) from error
    for write, version in zip(writes, versions, strict=False):
        if write.key.startswith(KEYS):
            name = write.key.removeprefix(KEYS)
            kept.pop(name, None)
            if write.value is not None:
                kept[name] = KeptKey(after[name], version)
    return kept


async def _all(records: PluginStorage, prefix: str) -> Sequence[Record]:
    found = page = await records.scan(prefix, limit=PAGE)
    while len(page) == PAGE:
        page = await records.scan(prefix, after=page[-1].key, limit=PAGE)
        found = [*found, *page]
    return found


def _kept(record: Record) -> KeptKey:
    name = printable(record.key.removeprefix(KEYS))
    try:
        key = _key.decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        text = f"the record of the key {name!r} in the store is no key: {printable(str(error))}"
        raise KeyRecordProblem(f"{text}; upgrade this node if a newer one wrote it") from error
    if KEYS + key.name != record.key:
        raise KeyRecordProblem(f"the record of the key {name!r} in the store is that of {key.name!r}; delete it")
    return KeptKey(key, record.version)


class StoredKeys:
    """The keys in the store of a node (`KeySource`). If they cannot be read, the last ones remain."""

    look_seconds = 0.5

    def __init__(self) -> None:
        self.keys = Keyring.of(())
        self._revision = 0
        self._failed = False

    @property
    def without_keys(self) -> str | None:
        return None if self._revision else NO_KEYS

    async def begin(self, node: Node) -> None:
        self._records = node.storage(NAMESPACE)
        await self._read(await revision(self._records))

    async def look(self) -> str | None:
        try:
            if (number := await revision(self._records)) != self._revision:
                await self._read(number)
        except NodekitError as error:
            return f"{error}; the keys are those from before"
        return None

    async def _read(self, number: int) -> None:
        """Read the keys. A change meanwhile has another number than this one, and is noticed by the next look."""
        kept = await read_keys(self._records)
        self.keys, self._revision = Keyring.of(one.key for one in kept.values()), number

    async def write_used(self, times: Mapping[str, float]) -> None:
        """Keep times. If several nodes do so for one key, that of the node that writes last is kept."""
        known = self.keys.by_id
        writes = [Write(USED + id, msgspec.json.encode(time)) for id, time in times.items() if id in known]
        try:
            for start in range(0, len(writes), WRITES):
                await self._records.batch(writes[start : start + WRITES])
            self._failed = False
        except StoreFailed as error:
            if not self._failed:
                logger.warning("the last use of keys is not kept: %s", error)
            self._failed = True

    def for_anybody(self, problem: str) -> str:
        return problem if problem == NO_KEYS else "the keys in the store cannot be read; they are those from before"
