"""Places in which commands find and change keys: a file, or the store of a node file."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import anyio

from nodekit import PluginStorage, open_records
from nodekit_apikeys import _file, _last_use, _stored_keys
from nodekit_apikeys._key import Key

T = TypeVar("T")


class KeyChange(Protocol):
    """The keys by name, to be changed. `save` writes them, all or none."""

    keys: dict[str, Key]

    def save(self) -> None: ...


class KeyPlace(Protocol):
    """A set of keys. Methods raise `NodekitError`."""

    def read(self) -> Sequence[Key] | None:
        """Return the keys. Return None if nobody has made one yet."""
        ...

    def used(self) -> Mapping[str, float]:
        """Return the time of the last use by id, in Unix seconds."""
        ...

    def changing(self) -> AbstractContextManager[KeyChange]: ...


class FilePlace:
    """A file of keys."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Sequence[Key] | None:
        keys, signature = _file.read_keys(self._path)
        return None if signature is None else keys

    def used(self) -> Mapping[str, float]:
        return _last_use.read_used(self._path)

    def changing(self) -> AbstractContextManager[KeyChange]:
        return _file.changing(self._path)


class StorePlace:
    """The keys in the store of a node file. A change of a key fails if another command changes it meanwhile."""

    def __init__(self, node_file: str) -> None:
        self._node_file = node_file

    def read(self) -> Sequence[Key] | None:
        return self._run(_stored_keys.made_keys)

    def used(self) -> Mapping[str, float]:
        return self._run(_stored_keys.read_used)

    @contextmanager
    def changing(self) -> Iterator["StoreChange"]:
        yield StoreChange(self._run, self._run(_stored_keys.read_keys))

    def _run(self, call: Callable[[PluginStorage], Awaitable[T]]) -> T:
        async def run() -> T:
            async with open_records(self._node_file, _stored_keys.NAMESPACE) as records:
                return await call(records)

        return anyio.run(run)


class StoreChange:
    """The keys of a store by name. `save` may be called again."""

    def __init__(
        self,
        run: Callable[[Callable[[PluginStorage], Awaitable[None]]], None],
        before: Mapping[str, _stored_keys.KeptKey],
    ) -> None:
        self.keys = {name: kept.key for name, kept in before.items()}
        self._run, self._before = run, before

    def save(self) -> None:
        self._run(self._save)

    async def _save(self, records: PluginStorage) -> None:
        self._before = await _stored_keys.change_keys(records, self._before, self.keys)
